"""distnet: data-parallel training of dense networks, to the same bits at every rank count."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distnet.datasets.loading import load_mnist as load_mnist
    from distnet.estimators.classifier import Classifier as Classifier
    from distnet.estimators.regressor import Regressor as Regressor
    from distnet.network import NeuralNetwork as NeuralNetwork
    from distnet.parallel.launched import launched_world as launched_world

__version__ = "0.2.0"
__all__ = ["NeuralNetwork", "launched_world", "load_mnist"]  # not the estimators: `import *` would need scikit-learn

# Imported on first access: a command installs its hooks before any import that can fail.
_HOMES = {
    "Classifier": "distnet.estimators.classifier",
    "NeuralNetwork": "distnet.network",
    "Regressor": "distnet.estimators.regressor",
    "launched_world": "distnet.parallel.launched",
    "load_mnist": "distnet.datasets.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distnet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
