"""The parameters of the estimators: what is valid, and what they mean for the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, ClassVar

from numpy.random import RandomState

from distnet.estimators.scikit import BaseEstimator
from distnet.nn import functional
from distnet.nn.model import ARITHMETICS
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.parameters import INITIALISATIONS
from distnet.nn.schedules import Schedule
from distnet.runtime import numbers
from distnet.runtime.errors import InputError
from distnet.training.callbacks import Callback
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.history import Epoch
from distnet.training.trainer import check_shards

AUTO_BATCH = 200  # rows, as in scikit-learn
ACTIVATIONS = {"logistic": "sigmoid"}  # scikit-learn's name: distnet's
SOLVERS = ("sgd", "adam", "adamw")
CHOICES = {
    "activation": (*functional.ACTIVATIONS, *ACTIVATIONS),
    "solver": SOLVERS,
    "learning_rate": ("constant", "invscaling", "adaptive", "cosine"),
    "arithmetic": ARITHMETICS,
    "shuffle": (True, False),
    "warm_start": (True, False),
    "nesterovs_momentum": (True, False),
    "early_stopping": (True, False),
}
# Parameters that have only scikit-learn's names; `TrainingConfig` checks the others.
CHECKS: dict[str, numbers.Number[Any]] = {
    "alpha": numbers.rate_or_zero,
    "learning_rate_init": numbers.positive_rate,
    "power_t": numbers.rate_or_zero,
    "max_iter": numbers.positive_count,
    "tol": numbers.rate_or_zero,
    "validation_fraction": numbers.part,
    "beta_1": numbers.fraction,
    "beta_2": numbers.fraction,
    "max_fun": numbers.positive_count,
}
DEFAULT_SHARDS = 4


class Parameters(BaseEstimator):  # type: ignore[misc]
    """The parameters that both estimators have; see `Classifier`. counterpart: the class in sklearn.neural_network."""

    counterpart: ClassVar[str]

    hidden_layer_sizes: int | Sequence[int]
    activation: str
    solver: str
    alpha: float
    batch_size: int | str
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: int | RandomState | None
    tol: float
    verbose: bool | int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    dropout: float
    initialisation: str | None
    shards: int | None
    arithmetic: str
    callbacks: Sequence[Callback | Callable[[Epoch], object]] | None

    def _store(self, parameters: dict[str, Any]) -> None:
        """Store the arguments of the constructor, which checks nothing, as scikit-learn demands."""
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)


def check_parameters(estimator: Parameters, ranks: int) -> tuple[int, ...]:
    """The sizes of the hidden layers. Raises InputError for the first invalid parameter of an estimator."""
    theirs = f"sklearn.neural_network.{estimator.counterpart}"
    for name, value in {"solver": "lbfgs", "loss": "poisson"}.items():
        if isinstance(chosen := getattr(estimator, name, None), str) and chosen == value:
            problem = f"distnet has no {value!r}"
            raise InputError(name, problem, f'use {theirs}({name}="{value}")', on_every_rank=True)
    if hasattr(estimator, "loss"):
        numbers.check_choice("loss", estimator.loss, ("squared_error",))
    for name, choices in CHOICES.items():
        numbers.check_choice(name, getattr(estimator, name), choices)
    if estimator.initialisation is not None:
        numbers.check_choice("initialisation", estimator.initialisation, INITIALISATIONS)
    for name, number in CHECKS.items():
        number.check(name, getattr(estimator, name))
    if estimator.n_iter_no_change != math.inf:
        numbers.positive_count.check("n_iter_no_change", estimator.n_iter_no_change)
    if estimator.batch_size != "auto":
        numbers.positive_count.check("batch_size", estimator.batch_size)
    if isinstance(estimator.random_state, Integral):
        numbers.seed_number.check("random_state", estimator.random_state)
    callbacks = () if estimator.callbacks is None else estimator.callbacks
    if not isinstance(callbacks, Iterable) or not all(
        isinstance(each, Callback) or callable(each) for each in callbacks
    ):
        raise InputError("callbacks", f"expected a list of functions, got {callbacks!r}", on_every_rank=True)
    hidden = estimator.hidden_layer_sizes
    layers = tuple(hidden) if isinstance(hidden, Iterable) else (hidden,)
    for size in layers:
        numbers.positive_count.check("hidden_layer_sizes", size)
    check_shards(estimator.arithmetic, estimator.shards, ranks)
    return tuple(int(size) for size in layers)


def configure(estimator: Parameters, samples: int, ranks: int, seed: int, learning_rate: float) -> TrainingConfig:
    """The training configuration for so many samples on so many ranks. Raises InputError for invalid parameters."""
    size = AUTO_BATCH if isinstance(estimator.batch_size, str) else estimator.batch_size
    return TrainingConfig(
        learning_rate,
        min(size, samples),
        Hyperparameters(
            choose_rule(estimator),
            estimator.momentum,
            (estimator.beta_1, estimator.beta_2),
            estimator.epsilon,
            penalty=estimator.alpha,
        ),
        Schedule("cosine" if estimator.learning_rate == "cosine" else "constant", estimator.max_iter),
        Regularisation(estimator.dropout, getattr(estimator, "label_smoothing", 0.0)),
        seed,
        estimator.shards if estimator.arithmetic == "portable" else count_shards(estimator.shards, ranks),
        shuffle=estimator.shuffle,
    )


def choose_rule(estimator: Parameters) -> str:
    """The solver's name in distnet: scikit-learn's "sgd" is one of three."""
    if estimator.solver != "sgd":
        return estimator.solver
    if not estimator.momentum:
        return "sgd"
    return "nesterov" if estimator.nesterovs_momentum else "momentum"


def count_shards(shards: int | None, ranks: int) -> int:
    """`shards`; for None, four, or the next power of two for more ranks."""
    return shards or max(DEFAULT_SHARDS, 1 << (ranks - 1).bit_length())
