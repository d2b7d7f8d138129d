"""`Classifier`: a network as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray

from distnet.datasets.dataset import as_weights
from distnet.estimators.base import Perceptron, Targets
from distnet.estimators.scikit import (
    ClassifierMixin,
    available_if,
    check_classification_targets,
    compute_sample_weight,
    type_of_target,
    unique_labels,
)
from distnet.nn.functional import HALF, class_probabilities, classify
from distnet.nn.optimizers import DEFAULTS
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.training.callbacks import Callback
from distnet.training.history import Epoch

MULTILABEL = "multilabel-indicator"


class Classifier(ClassifierMixin, Perceptron):  # type: ignore[misc]
    """A multilayer perceptron as a scikit-learn classifier: of two classes, of several, or of several labels per row.

    Parameters with the names of MLPClassifier's mean the same and have the same defaults; max_fun has no effect.

    activation: see `NeuralNetwork`; "logistic" is "sigmoid". solver: "sgd" (plain if momentum is 0), "adam" or "adamw".
    learning_rate: "constant"; "cosine" over max_iter epochs; or for "sgd" "invscaling" and "adaptive". random_state: an
    integer is the seed. initialisation: see `initial_parameters`. dropout, label_smoothing: see `Regularisation`;
    smoothing needs classes. class_weight: dict from class to weight, or "balanced" for weights in inverse proportion
    to the classes' frequencies. callbacks: functions that are called with the `Epoch` after each epoch and end training
    by returning True, or instances of `Callback`. arithmetic: see `NeuralNetwork`. shards: see `NeuralNetwork.train`;
    None for four, or the next power of two for more ranks.
    The dtype is float32 if X is float32 and the arithmetic native, else float64.

    network_: the `NeuralNetwork`. coefs_, intercepts_: its weights and biases, lists of views; items may be replaced.
    classes_: class of each output, or of both sides of a single one. The other attributes are those of MLPClassifier.
    The losses contain the penalty of alpha, with the weights after the epoch.
    """

    counterpart = "MLPClassifier"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = DEFAULTS.momentum,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = DEFAULTS.betas[0],
        beta_2: float = DEFAULTS.betas[1],
        epsilon: float = DEFAULTS.epsilon,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        class_weight: dict[Any, float] | str | None = None,
        initialisation: str | None = None,
        callbacks: Sequence[Callback | Callable[[Epoch], object]] | None = None,
        shards: int | None = None,
        arithmetic: str = "native",
    ) -> None:
        self._store(locals())

    label_smoothing: float
    class_weight: dict[Any, float] | str | None

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        validation_data: tuple[Any, Any] | None = None,
    ) -> Classifier:
        """Train on X (samples, features), dense or sparse, and y: classes (samples,), or labels (samples, labels).

        sample_weight: (samples,), by which each sample's loss is multiplied. validation_data: X and y to stop early by,
        in place of rows that are held out. Returns self.
        Under mpirun, all ranks call it with the same arguments, and get the same parameters.
        Raises InputError, a ValueError, for invalid parameters, for data that differ between ranks, and if the loss
        becomes NaN or infinite. With early stopping, such a loss only ends training, and the best epoch is kept.
        Collective.
        """
        self._fit(X, y, sample_weight, validation_data)
        return self

    @available_if(Perceptron._can_continue)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, classes: ArrayLike | None = None
    ) -> Classifier:
        """Train for one epoch on these samples, and keep the state of the optimizer for the next call.

        classes: all that will ever occur; needed in the first call. The rest is as in `fit`. Collective.
        """
        self._fit(X, y, sample_weight, classes=classes, one_pass=True)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each sample, (samples,); or its labels, (samples, labels)."""
        outputs = self._outputs(X)
        if self._network.task == "multilabel":
            return (outputs >= HALF).astype(np.int64)
        classes: NDArray[Any] = self.classes_
        return classes[np.minimum(classify(outputs), len(classes) - 1)]

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (samples, classes), with columns in the order of classes_; or those of labels."""
        outputs = self._outputs(X)
        if self._network.task == "multilabel":
            return outputs
        return np.ones_like(outputs) if len(self.classes_) == 1 else class_probabilities(outputs)

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):  # of 0
            return np.log(self.predict_proba(X))

    def _read_targets(self, y: Any, classes: ArrayLike | None, is_first: bool, one_pass: bool) -> Targets:
        check_classification_targets(y)
        if y.ndim == 2 and type_of_target(y) != MULTILABEL:
            raise ValueError("y has several columns that are not labels: expected 0 and 1, or one column of classes")
        task = "multilabel" if y.ndim == 2 else "classification"
        if task == "multilabel" and self.label_smoothing:
            problem = "it is for classes that exclude each other, and y has several labels per row"
            raise InputError("label_smoothing", problem, "set it to 0", on_every_rank=True)
        known = getattr(self, "classes_", None)
        if one_pass:
            given = known if classes is None else unique_labels(classes)
            if given is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            if task == "multilabel":
                given = np.arange(y.shape[1])
            elif known is not None and not np.array_equal(known, given):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}"
                )
            return self._encode(y, task, given)
        if known is None or is_first:
            return self._encode(y, task, None)
        present = unique_labels(y)
        if set(present) != set(known):
            raise InputError(
                "y",
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {known}, `y` has {present}",
                on_every_rank=True,
            )
        return self._encode(y, task, known)

    def _encode(self, y: Any, task: str, classes: NDArray[Any] | None) -> Targets:
        if task == "multilabel":
            if not (is_label := np.isin(y, (0, 1))).all():
                raise InputError("y", f"expected labels 0 and 1, got {y[~is_label][0]}", on_every_rank=True)
            return Targets(task, np.asarray(y) != 0, np.arange(y.shape[1]))
        if classes is None:
            classes, codes = np.unique(y, return_inverse=True)
        else:
            if len(unknown := np.setdiff1d(y, classes)):
                raise ValueError(f"`y` has classes not in `self.classes_`: {unknown}; it has {classes}")
            codes = np.searchsorted(classes, y)
        if len(classes) < 3:
            return Targets(task, codes.reshape(-1, 1), classes)
        return Targets(task, codes[:, None] == np.arange(len(classes)), classes)

    def _weigh(
        self, y: Any, classes: NDArray[Any] | None, sample_weight: ArrayLike | None, one_pass: bool
    ) -> Array | None:
        weights = super()._weigh(y, classes, sample_weight, one_pass)
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, str) and self.class_weight != "balanced":
            problem = f"expected a dict or 'balanced', got {self.class_weight!r}"
            raise InputError("class_weight", problem, on_every_rank=True)
        if one_pass and self.class_weight == "balanced":
            problem = '"balanced" needs all samples at once, and partial_fit has some'
            raise InputError("class_weight", problem, "give a dict", on_every_rank=True)
        if one_pass and y.ndim == 1 and classes is not None:  # classes that y lacks are no mistakes in the dict
            by_class: Array = compute_sample_weight(self.class_weight, np.concatenate([classes, y]))[len(classes) :]
        else:
            by_class = compute_sample_weight(self.class_weight, y)
        by_class = as_weights(by_class, len(y), "class_weight")
        return by_class if weights is None else by_class * weights

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
