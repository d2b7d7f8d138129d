"""`Regressor`: a network as a scikit-learn regressor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray

from distnet.estimators.base import Perceptron, Targets
from distnet.estimators.scikit import RegressorMixin, available_if
from distnet.nn.optimizers import DEFAULTS
from distnet.runtime.arrays import Array
from distnet.training.callbacks import Callback
from distnet.training.history import Epoch


class Regressor(RegressorMixin, Perceptron):  # type: ignore[misc]
    """A multilayer perceptron as a scikit-learn regressor of one target or several.

    Parameters with the names of MLPRegressor's mean the same and have the same defaults. The others, and the fitted
    attributes, are described in `Classifier`. loss: "squared_error", half of it. The targets are learned as they are;
    docs/estimators.md shows how to standardise them.
    """

    counterpart = "MLPRegressor"
    _is_numeric = True

    def __init__(
        self,
        loss: str = "squared_error",
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
        initialisation: str | None = None,
        callbacks: Sequence[Callback | Callable[[Epoch], object]] | None = None,
        shards: int | None = None,
        arithmetic: str = "native",
    ) -> None:
        self._store(locals())

    loss: str

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        validation_data: tuple[Any, Any] | None = None,
    ) -> Regressor:
        """Train on X (samples, features), dense or sparse, and y (samples,) or (samples, targets). Returns self.

        sample_weight, validation_data, and what it raises: as in `Classifier.fit`. Collective.
        """
        self._fit(X, y, sample_weight, validation_data)
        return self

    @available_if(Perceptron._can_continue)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Regressor:
        """Train for one epoch on these samples, and keep the state of the optimizer for the next call. Collective."""
        self._fit(X, y, sample_weight, one_pass=True)
        return self

    def predict(self, X: Any) -> Array:
        """The predicted targets, (samples,), or (samples, targets) for several."""
        outputs = self._outputs(X)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _read_targets(self, y: Any, classes: ArrayLike | None, is_first: bool, one_pass: bool) -> Targets:
        return self._encode(y, "regression", None)

    def _encode(self, y: Any, task: str, classes: NDArray[Any] | None) -> Targets:
        return Targets(task, np.asarray(y).reshape(len(y), -1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
