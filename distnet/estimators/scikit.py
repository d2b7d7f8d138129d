"""What the estimators use of scikit-learn, and the message where it is missing."""

import sys
import warnings

try:
    from scipy.sparse import issparse as issparse
    from sklearn.base import BaseEstimator as BaseEstimator
    from sklearn.base import ClassifierMixin as ClassifierMixin
    from sklearn.base import RegressorMixin as RegressorMixin
    from sklearn.exceptions import ConvergenceWarning as ConvergenceWarning
    from sklearn.utils import check_random_state as check_random_state
    from sklearn.utils import column_or_1d as column_or_1d
    from sklearn.utils.class_weight import compute_sample_weight as compute_sample_weight
    from sklearn.utils.metaestimators import available_if as available_if
    from sklearn.utils.multiclass import check_classification_targets as check_classification_targets
    from sklearn.utils.multiclass import type_of_target as type_of_target
    from sklearn.utils.multiclass import unique_labels as unique_labels
    from sklearn.utils.validation import check_is_fitted as check_is_fitted
    from sklearn.utils.validation import validate_data as validate_data
except ImportError as error:
    raise ImportError(
        f"distnet's estimators need scikit-learn 1.6 or newer ({error}): pip install scikit-learn"
    ) from None

MODULE = "sklearn.neural_network._multilayer_perceptron"


def warn_not_converged(text: str, depth: int) -> None:
    """Warn as scikit-learn's networks do, at the line that is so many calls up.

    To filters it is a warning of their module, since programs ignore it by module="sklearn".
    """
    frame = sys._getframe(depth)
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, ConvergenceWarning, frame.f_code.co_filename, frame.f_lineno, MODULE, registry)
