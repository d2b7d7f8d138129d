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
from distnet.nn.model import ARITHMETICS
from distnet.nn.optimizers import DEFAULTS, LEARNING_RATES, Hyperparameters
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

AUTO_BATCH = 200  # rows, as in scikit-learn
ACTIVATIONS = {"logistic": "sigmoid"}  # scikit-learn's name: distnet's
CHOICES = {
    "activation": (*functional.ACTIVATIONS, *ACTIVATIONS),
    "solver": ("sgd", "adam", "adamw"),
    "learning_rate": ("constant", "cosine"),
    "nesterovs_momentum": (True, False),
    "early_stopping": (True, False),
}
# Parameters that have only scikit-learn's names; `TrainingConfig` checks the others.
CHECKS: dict[str, numbers.Number[Any]] = {
    "alpha": numbers.rate_or_zero,
    "max_iter": numbers.positive_count,
    "tol": numbers.rate_or_zero,
    "validation_fraction": numbers.part,
    "beta_1": numbers.fraction,
    "beta_2": numbers.fraction,
    "n_iter_no_change": numbers.positive_count,
}
DEFAULT_SHARDS = 4
FITTED = ("network_", "classes_", "loss_curve_", "n_iter_", "validation_scores_")


class Prepared(NamedTuple):
    """The checked input of a fit.

    hidden: sizes of the hidden layers. codes: (samples,), each sample's index in `classes`. config: its seed may differ
    between ranks; that of rank 0 is used. parameters: the estimator's, as text, without random_state.
    """

    hidden: tuple[int, ...]
    rows: Array
    classes: NDArray[Any]
    codes: NDArray[np.int64]
    config: TrainingConfig
    parameters: str


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron as a scikit-learn classifier. Parameters with the names of MLPClassifier's mean the same.

    activation: see `NeuralNetwork`; "logistic" is "sigmoid". solver: "sgd" (plain if momentum is 0), "adam" or "adamw".
    alpha: weight decay times the rows of a mini-batch. batch_size: rows per mini-batch on all ranks together; "auto" is
    200, or all rows if there are fewer. learning_rate: "constant", or "cosine" over max_iter epochs.
    learning_rate_init: None for the optimizer's default, see `LEARNING_RATES`. random_state: an integer is the seed.
    initialisation: see `initial_parameters`. dropout, label_smoothing: see `Regularisation`. arithmetic: see
    `NeuralNetwork`. shards: see `NeuralNetwork.train`; None for four, or the next power of two for more ranks.
    Training ends after n_iter_no_change epochs in which the loss did not fall by tol. With early_stopping, the accuracy
    on held-out rows must rise by tol instead, and the best epoch's parameters are kept. Rows are shuffled. The dtype is
    float32 if X is float32 and the arithmetic native, else float64.

    network_: the `NeuralNetwork`, with its weights and biases. classes_: class of each output. n_features_in_: inputs.
    loss_curve_: cross-entropy of each epoch, without the penalty. n_iter_: epochs done. validation_scores_: accuracy on
    the held-out rows after each epoch, with early_stopping.
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
        arithmetic: str = "native",
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
        self.arithmetic = arithmetic

    def fit(self, X: ArrayLike, y: ArrayLike) -> Classifier:
        """Train on X (samples, features) and classes y (samples,). Returns self.

        Under mpirun, all ranks call it with the same arguments, and get the same parameters.
        Raises InputError, a ValueError, for invalid parameters, for data that differ between ranks, and if the loss
        becomes NaN or infinite. With early_stopping, such a loss only ends training, and the best epoch is kept.
        Collective.
        """
        world = get_world()
        with together("Classifier.fit") if world.size > 1 else nullcontext():
            return self._fit(world, X, y)

    def _fit(self, world: World, X: ArrayLike, y: ArrayLike) -> Classifier:
        """`fit`, after all ranks have met. Collective."""
        # Ranks compare what they have before any raises: a search catches errors, and would start the next fit alone.
        try:
            data = self._prepare(world, X, y)
        except Exception as error:
            check_same(world, repr(error))
            raise
        rows, classes, codes = data.rows, data.classes, data.codes
        check_same(world, data.parameters, repr(classes.tolist()), rows, codes)
        for name in FITTED:  # by an earlier fit
            self.__dict__.pop(name, None)
        config = replace(data.config, seed=world.on_root(lambda: data.config.seed))
        network = NeuralNetwork(
            (rows.shape[1], *data.hidden, len(classes)),
            ACTIVATIONS.get(self.activation, self.activation),
            config.learning_rate,
            config.seed,
            rows.dtype,
            self.initialisation,
            self.arithmetic,
        )
        network.about = {"classes": classes.tolist()}
        targets = np.eye(len(classes), dtype=rows.dtype)[codes]
        losses, accuracies = self._train(world, network, config, rows, targets)
        if not np.isfinite(network.parameters).all():  # interrupted in an epoch that had diverged
            raise InputError(
                "learning_rate_init",
                f"the parameters grew without bound, with {network.learning_rate:g}",
                "use a smaller one",
                on_every_rank=True,
            )
        self.network_, self.classes_ = network, classes
        self.loss_curve_, self.n_iter_ = losses, len(losses)
        if self.early_stopping:
            self.validation_scores_ = accuracies
        return self

    def _prepare(self, world: World, X: ArrayLike, y: ArrayLike) -> Prepared:
        """Check parameters and data. Raises ValueError; an InputError is one."""
        dtype = np.float64 if self.arithmetic == "portable" else (np.float64, np.float32)
        rows, labels = validate_data(self, X, y, dtype=dtype)
        check_classification_targets(labels)
        hidden = self._check(world, len(rows))
        parameters = {name: value for name, value in self.get_params().items() if name != "random_state"}
        classes, codes = np.unique(labels, return_inverse=True)
        config = self._configure(len(rows), world.size)
        return Prepared(hidden, rows, classes, codes, config, repr(parameters))

    def _configure(self, samples: int, ranks: int) -> TrainingConfig:
        """The training configuration for so many samples on so many ranks. Raises InputError for invalid parameters."""
        rule, seed = self._rule(), self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        batch_size = AUTO_BATCH if isinstance(self.batch_size, str) else self.batch_size
        batch_size = min(batch_size, samples - self._count_held_out(samples))
        return TrainingConfig(
            LEARNING_RATES[rule] if self.learning_rate_init is None else self.learning_rate_init,
            batch_size,
            Hyperparameters(rule, self.momentum, (self.beta_1, self.beta_2), self.epsilon, self.alpha / batch_size),
            Schedule(self.learning_rate, self.max_iter),
            Regularisation(self.dropout, self.label_smoothing),
            int(seed),
            self.shards if self.arithmetic == "portable" else count_shards(self.shards, ranks),
        )

    def _train(
        self, world: World, network: NeuralNetwork, config: TrainingConfig, X: Array, Y: Array
    ) -> tuple[list[float], list[float]]:
        """Train the network; returns the loss of each epoch, and the accuracies on the held-out rows. Collective."""
        held_out = self._count_held_out(len(X))
        split = shared_split(world, X, Y, X.dtype)
        held, chosen = None, None
        if held_out:
            names = network.about["classes"]
            held, chosen = hold_out(world, split, held_out, config.seed, names, "early_stopping")
        trainer = Trainer(world, network.model, Splits(split, None, held, chosen), config)
        losses: list[float] = []
        accuracies: list[float] = []
        best, without = -np.inf, 0

        def on_epoch(epoch: Epoch) -> bool:
            nonlocal best, without
            losses.append(epoch.loss)
            merit = -epoch.loss
            if epoch.validation:
                merit = epoch.validation.score
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
            warnings.warn(f"training interrupted {trainer.position()}; the classifier is fitted", stacklevel=3)
        if accuracies:
            trainer.restore_best()
        network.input_exponent = trainer.model.input_exponent
        network.parameters[:] = trainer.close()
        if trainer.diverged:
            if not held or best == -np.inf:
                raise InputError(
                    "learning_rate_init",
                    f"{trainer.diverged}, with {network.learning_rate:g}",
                    "use a smaller one, or scale X",
                    on_every_rank=True,
                )
            warnings.warn(f"training stopped: {trainer.diverged}; the best epoch before it is kept", stacklevel=3)
        return losses, accuracies

    def _count_held_out(self, samples: int) -> int:
        """The number of samples to hold out."""
        return max(1, int(samples * self.validation_fraction)) if self.early_stopping else 0

    def _check(self, world: World, samples: int) -> tuple[int, ...]:
        """The sizes of the hidden layers. Raises InputError for the first invalid parameter."""
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
        numbers.check_choice("arithmetic", self.arithmetic, ARITHMETICS)
        check_shards(self.arithmetic, self.shards, world.size)
        if self._count_held_out(samples) >= samples:
            raise InputError(
                "early_stopping",
                f"none of the {samples} samples remains for training",
                "use more samples, or early_stopping=False",
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

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probabilities (samples, classes), with columns in the order of classes_."""
        check_is_fitted(self)
        return self.network_.forward(validate_data(self, X, dtype=(np.float64, np.float32), reset=False))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each sample, (samples,)."""
        guesses = self.predict_proba(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_[guesses]
        return classes


def count_shards(shards: int | None, ranks: int) -> int:
    """`shards`; for None, four, or the next power of two for more ranks."""
    return shards or max(DEFAULT_SHARDS, 1 << (ranks - 1).bit_length())


def get_world() -> World:
    """The ranks to train on. Collective.

    Raises InputError in a joblib worker under mpirun, since workers fit in another order on each rank.
    """
    worker = multiprocessing.parent_process() is not None
    if launched_size() > 1 and (worker or threading.current_thread() is not threading.main_thread()):
        raise InputError("n_jobs", "under mpirun, all ranks train one network at a time", "leave it at None")
    return World() if worker else launched_world()


def check_same(world: World, *data: str | NDArray[Any]) -> None:
    """Raise InputError, on every rank, if a rank's data differ from those of rank 0. Collective."""
    if world.size == 1:
        return
    digest = hashlib.sha256()
    for each in data:
        digest.update(each.encode() if isinstance(each, str) else np.ascontiguousarray(each).data)
    digests = np.zeros(world.size, np.int64)
    digests[world.rank] = int.from_bytes(digest.digest()[:8], "little", signed=True)
    if (world.total(digests) != digests[0]).any():
        raise InputError(
            "fit",
            "X, y or the parameters differ between ranks",
            "set a seed wherever they are drawn or shuffled",
            on_every_rank=True,
        )
