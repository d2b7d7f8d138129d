"""`Classifier`: a network as a scikit-learn estimator, for pipelines, searches and cross-validation."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray

from distnet.datasets.dataset import hold_out, shared_split
from distnet.network import NeuralNetwork
from distnet.nn import functional
from distnet.nn.hyperparameters import DEFAULTS, LEARNING_RATES, Hyperparameters
from distnet.nn.parameters import INITIALISATIONS
from distnet.nn.schedules import Schedule
from distnet.parallel.launched import launched_world, together
from distnet.parallel.world import World
from distnet.runtime import numbers
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.launch import launched_size
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.history import Epoch
from distnet.training.trainer import Splits, Trainer, check_shards

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"distnet.Classifier needs scikit-learn 1.6 or newer ({error}): pip install scikit-learn"
    ) from None

AUTO_BATCH = 200  # rows, as scikit-learn has it
ACTIVATIONS = {"logistic": "sigmoid"}  # scikit-learn's name to ours
CHOICES = {
    "activation": (*functional.ACTIVATIONS, *ACTIVATIONS),
    "solver": ("sgd", "adam", "adamw"),
    "learning_rate": ("constant", "cosine"),
    "nesterovs_momentum": (True, False),
    "early_stopping": (True, False),
}
# Those with scikit-learn's names alone; `TrainingConfig` checks the others.
CHECKS: dict[str, numbers.Number[Any]] = {
    "alpha": numbers.rate_or_zero,
    "max_iter": numbers.positive_count,
    "tol": numbers.rate_or_zero,
    "validation_fraction": numbers.part,
    "beta_1": numbers.fraction,
    "beta_2": numbers.fraction,
    "n_iter_no_change": numbers.positive_count,
}
FITTED = ("network_", "classes_", "loss_curve_", "n_iter_", "validation_scores_")


class Prepared(NamedTuple):
    """The input of a fit. codes: (samples,), each sample's index in `classes`.

    parameters: of the estimator, but for its random_state. config: the seed of rank 0 counts.
    """

    parameters: str
    hidden: tuple[int, ...]
    rows: Array
    classes: NDArray[Any]
    codes: NDArray[np.int64]
    config: TrainingConfig

    def contents(self) -> list[bytes | NDArray[Any]]:
        """All that has to be the same on every rank."""
        return [self.parameters.encode(), repr(self.classes.tolist()).encode(), self.rows, self.codes]


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron as a scikit-learn classifier. Parameters of MLPClassifier mean the same here.

    activation: see `NeuralNetwork`; "logistic" is "sigmoid". solver: "sgd" (plain if momentum is 0), "adam" or "adamw".
    alpha: divided by the rows of a mini-batch, it is the weight decay. batch_size: rows on all ranks together; "auto"
    is 200, or all rows if there are fewer. learning_rate: "constant", or "cosine" over max_iter epochs.
    learning_rate_init: None for the optimizer's default, see `LEARNING_RATES`. random_state: an integer is the seed.
    initialisation: see `initial_parameters`. dropout, label_smoothing: see `Regularisation`. shards: see
    `NeuralNetwork.train`; give it for the same bits on more than four ranks.
    Training ends after n_iter_no_change epochs in which the loss did not fall by tol. With early_stopping, the accuracy
    on held-out rows has to rise by tol instead, and the parameters of the best epoch are kept. Rows are shuffled. The
    dtype is float32 if X has it, else float64.

    network_: the `NeuralNetwork`. classes_, n_features_in_. coefs_[l], intercepts_[l]: views of its weights and
    biases. loss_curve_: cross-entropy of each epoch, without the penalty. n_iter_: epochs.
    validation_scores_: with early_stopping, accuracy after each epoch.
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float | None = None,
        max_iter: int = 200,
        random_state: int | RandomState | None = None,
        tol: float = 1e-4,
        momentum: float = DEFAULTS.momentum,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = DEFAULTS.betas[0],
        beta_2: float = DEFAULTS.betas[1],
        epsilon: float = DEFAULTS.epsilon,
        n_iter_no_change: int = 10,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        initialisation: str | None = None,
        shards: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.random_state = random_state
        self.tol = tol
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.initialisation = initialisation
        self.shards = shards

    def fit(self, X: ArrayLike, y: ArrayLike) -> Classifier:
        """Train on X (samples, features) and their classes y (samples,); returns itself.

        Under mpirun, all ranks train together, each with the same arguments, to the same parameters.
        If the loss becomes NaN or infinite, training ends. With early_stopping, the best epoch is kept; else it raises
        InputError, a ValueError. So do invalid parameters, and ranks with different data.
        Collective.
        """
        world = get_world()
        with together("Classifier.fit") if world.size > 1 else nullcontext():
            return self._fit(world, X, y)

    def _fit(self, world: World, X: ArrayLike, y: ArrayLike) -> Classifier:
        """`fit` without the meeting of all ranks. Collective."""
        fault: Exception | None = None
        try:
            data = self._prepare(world, X, y)
        except Exception as error:
            fault = error
        # Before any rank raises: searches catch errors, and that rank would stay one fit ahead of the others.
        check_same(world, *([repr(fault).encode()] if fault else data.contents()))
        if fault:
            raise fault
        for name in FITTED:  # of an earlier fit
            self.__dict__.pop(name, None)
        rows, classes, codes = data.rows, data.classes, data.codes
        config = replace(data.config, seed=world.on_root(lambda: data.config.seed))
        network = NeuralNetwork(
            (rows.shape[1], *data.hidden, len(classes)),
            ACTIVATIONS.get(self.activation, self.activation),
            config.learning_rate,
            config.seed,
            rows.dtype,
            self.initialisation,
        )
        network.about = {"classes": classes.tolist()}
        targets = np.eye(len(classes), dtype=rows.dtype)[codes]
        losses, accuracies = self._train(world, network, config, rows, targets)
        if not np.isfinite(network.parameters).all():  # interrupted within an epoch that had diverged
            raise InputError(
                f"learning_rate_init {network.learning_rate!r}",
                "the parameters grew without bound",
                "use a smaller one",
                on_every_rank=True,
            )
        self.network_, self.classes_ = network, classes
        self.loss_curve_, self.n_iter_ = losses, len(losses)
        if self.early_stopping:
            self.validation_scores_ = accuracies
        return self

    def _prepare(self, world: World, X: ArrayLike, y: ArrayLike) -> Prepared:
        """Check parameters and data. Raises ValueError, of which InputError is one."""
        rows, labels = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(labels)
        hidden = self._check(world, len(rows))
        parameters = {name: value for name, value in self.get_params().items() if name != "random_state"}
        classes, codes = np.unique(labels, return_inverse=True)
        return Prepared(repr(parameters), hidden, rows, classes, codes, self._configure(len(rows)))

    def _configure(self, samples: int) -> TrainingConfig:
        """The configuration of a training on so many samples. Raises InputError for invalid parameters."""
        batch_size = AUTO_BATCH if isinstance(self.batch_size, str) else self.batch_size
        batch_size = min(batch_size, samples - self._count_held_out(samples))
        return TrainingConfig(
            self._learning_rate(),
            batch_size,
            Hyperparameters(
                self._rule(), self.momentum, (self.beta_1, self.beta_2), self.epsilon, self.alpha / batch_size
            ),
            Schedule(self.learning_rate, self.max_iter),
            Regularisation(self.dropout, self.label_smoothing),
            self._seed(),
            self.shards,
        )

    def _train(
        self, world: World, network: NeuralNetwork, config: TrainingConfig, X: Array, Y: Array
    ) -> tuple[list[float], list[float]]:
        """Train the network; returns the loss of each epoch, and its accuracy on the rows held out. Collective."""
        held_out = self._count_held_out(len(X))
        split = shared_split(world, X, Y, X.dtype)
        held, chosen = None, None
        if held_out:
            names = network.about["classes"]
            held, chosen = hold_out(world, split, held_out, config.seed, names, "early_stopping True")
        trainer = Trainer(world, network.model, Splits(split, None, held, chosen), config)
        losses: list[float] = []
        accuracies: list[float] = []
        best, without = -np.inf, 0

        def on_epoch(epoch: Epoch) -> bool:
            nonlocal best, without
            losses.append(epoch.loss)
            merit = -epoch.loss
            if epoch.validation:
                merit = epoch.validation.accuracy
                accuracies.append(merit)
            without = without + 1 if merit < best + self.tol else 0
            if merit > best and not trainer.diverged:
                best = merit
                if held:
                    trainer.snapshot_best()
            return without > self.n_iter_no_change

        try:
            trainer.run(self.max_iter, on_epoch)
        except KeyboardInterrupt:
            warnings.warn(f"training interrupted {trainer.position()}; the classifier is fitted so far", stacklevel=3)
        if accuracies:
            trainer.restore_best()
        network.parameters[:] = trainer.close()
        if trainer.diverged:
            if not held or best == -np.inf:
                raise InputError(
                    f"learning_rate_init {network.learning_rate:g}",
                    trainer.diverged,
                    "use a smaller one, or scale X",
                    on_every_rank=True,
                )
            warnings.warn(f"training stopped: {trainer.diverged}; the best epoch before it is kept", stacklevel=3)
        return losses, accuracies

    def _count_held_out(self, samples: int) -> int:
        """How many samples to hold out."""
        return max(1, int(samples * self.validation_fraction)) if self.early_stopping else 0

    def _check(self, world: World, samples: int) -> tuple[int, ...]:
        """The hidden layers. Raises InputError for the first invalid parameter."""
        for name, choices in CHOICES.items():
            numbers.check_choice(name, getattr(self, name), choices)
        if self.initialisation is not None:
            numbers.check_choice("initialisation", self.initialisation, INITIALISATIONS)
        for name, number in CHECKS.items():
            number.check(name, getattr(self, name))
        if self.learning_rate_init is not None:
            numbers.positive_rate.check("learning_rate_init", self.learning_rate_init)
        if self.batch_size != "auto":
            numbers.positive_count.check("batch_size", self.batch_size)
        if isinstance(self.random_state, Integral):
            numbers.seed_number.check("random_state", self.random_state)
        hidden = self.hidden_layer_sizes
        layers = tuple(hidden) if isinstance(hidden, Iterable) else (hidden,)
        for size in layers:
            numbers.positive_count.check("hidden_layer_sizes", size)
        check_shards(self.shards, world.size)
        if self._count_held_out(samples) >= samples:
            raise InputError(
                "early_stopping True",
                f"no training sample is left of {samples}",
                "give more, or turn it off",
                on_every_rank=True,
            )
        return tuple(int(size) for size in layers)

    def _rule(self) -> str:
        """The solver's name in distnet: scikit-learn's "sgd" is one of three."""
        if self.solver != "sgd":
            return self.solver
        if not self.momentum:
            return "sgd"
        return "nesterov" if self.nesterovs_momentum else "momentum"

    def _learning_rate(self) -> float:
        """The given rate, else the optimizer's default."""
        return float(self.learning_rate_init or LEARNING_RATES[self._rule()])

    def _seed(self) -> int:
        """The seed of this fit, drawn unless random_state is an integer."""
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    @property
    def coefs_(self) -> list[Array]:
        """Weights (inputs, outputs), one per layer."""
        return self.network_.weights

    @property
    def intercepts_(self) -> list[Array]:
        """Biases (outputs,), one per layer."""
        return self.network_.biases

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probabilities (samples, classes), in the order of classes_."""
        check_is_fitted(self)
        return self.network_.forward(validate_data(self, X, dtype=(np.float64, np.float32), reset=False))

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Their logarithms; -inf for a probability that is zero."""
        with np.errstate(divide="ignore"):
            logarithms: Array = np.log(self.predict_proba(X))
        return logarithms

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each sample, (samples,)."""
        guesses = self.predict_proba(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_[guesses]
        return classes


def get_world() -> World:
    """The ranks to train on. Collective.

    Raises InputError in a worker of joblib's under mpirun: there, the order of fits differs between ranks.
    """
    worker = multiprocessing.parent_process() is not None
    if launched_size() > 1 and (worker or threading.current_thread() is not threading.main_thread()):
        raise InputError("n_jobs", "under mpirun, all ranks train one network at a time", "leave it at None")
    return World() if worker else launched_world()


def check_same(world: World, *data: bytes | NDArray[Any]) -> None:
    """Raise InputError, on every rank, if a rank has other data than rank 0. Collective."""
    if world.size == 1:
        return
    digest = hashlib.sha256()
    for each in data:
        digest.update(each if isinstance(each, bytes) else np.ascontiguousarray(each).data)
    digests = np.zeros(world.size, np.int64)
    digests[world.rank] = int.from_bytes(digest.digest()[:8], "little", signed=True)
    if (world.total(digests) != digests[0]).any():
        raise InputError(
            "fit",
            "X, y or the parameters aren't the same on every rank",
            "give whatever draws or shuffles them a seed",
            on_every_rank=True,
        )
