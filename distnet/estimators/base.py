"""What both estimators share: a network behind scikit-learn's interface."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import threading
import warnings
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distnet.datasets.dataset import Split, check_no_single, hold_out, shared_split
from distnet.datasets.sparse import SparseRows
from distnet.estimators.parameters import (
    ACTIVATIONS,
    Parameters,
    check_parameters,
    choose_rule,
    configure,
)
from distnet.estimators.progress import Progress
from distnet.estimators.scikit import (
    check_is_fitted,
    check_random_state,
    column_or_1d,
    issparse,
    validate_data,
    warn_not_converged,
)
from distnet.network import NeuralNetwork
from distnet.nn.functional import classify
from distnet.parallel.launched import launched_world, together
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.launch import launched_size
from distnet.training.callbacks import Callback, ProgramCallbacks, train_with
from distnet.training.trainer import Splits, Trainer

SPARSE = ("csr", "csc")
FLOATS = np.dtype(np.float64), np.dtype(np.float32)
BLOCK_VALUES = 1 << 20  # numbers of sparse rows that are made dense at once, to predict
OUT_ACTIVATIONS = {
    "softmax": "softmax",
    "sigmoid": "logistic",
    "identity": "identity",
}  # distnet's name: scikit-learn's
# scikit-learn's own words, which its tests look for.
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
TOO_FEW = "The least populated classes in y have only 1 member. Classes with too few members are:"
FITTED = ("_network", "_optimizer", "coefs_", "intercepts_", "classes_", "loss_", "loss_curve_", "n_iter_", "t_")


class Targets(NamedTuple):
    """What to learn. task: see `Model.output`. values: (samples, outputs). classes: None for regression."""

    task: str
    values: NDArray[Any]
    classes: NDArray[Any] | None = None


class Prepared(NamedTuple):
    """The checked input of a fit.

    hidden: sizes of the hidden layers. weights: (samples,), None for 1 each. validation: rows and targets of the
    caller's validation set. is_first: whether the network begins anew. seed: may differ between ranks; that of rank 0
    is used. parameters: the estimator's, as text.
    """

    hidden: tuple[int, ...]
    rows: Array | SparseRows
    targets: Targets
    weights: Array | None
    validation: tuple[Array | SparseRows, Targets] | None
    is_first: bool
    seed: int
    parameters: str


@dataclass
class OptimizerState:
    """What the next `partial_fit` continues with.

    rule: the optimizer. epochs: done so far. steps, beta_powers, arrays: see `Optimizer`; the arrays are (N,), and
    only on rank 0.
    """

    rule: str
    learning_rate: float
    epochs: int = 0
    steps: int = 0
    beta_powers: list[float] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)


class Perceptron(Parameters):
    """A multilayer perceptron behind scikit-learn's interface; see `Classifier` and `Regressor`."""

    _network: NeuralNetwork

    def _can_continue(self) -> bool:
        """Whether there is a `partial_fit`."""
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is not there for solver 'lbfgs'")
        return True

    @property
    def network_(self) -> NeuralNetwork:
        """The network, with the numbers that `coefs_` and `intercepts_` hold now."""
        if "_network" not in vars(self):
            raise AttributeError("this estimator is not fitted")
        network: NeuralNetwork = self._network
        for view, held in zip(network.weights + network.biases, self._held(), strict=True):
            if held is not view:
                fill(view, held)
        return network

    def _held(self) -> list[Any]:
        """The arrays of `coefs_` and `intercepts_`."""
        return [*self.coefs_, *self.intercepts_]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_network" in state:  # which the lists are views of
            state["_network"] = self.network_
            del state["coefs_"], state["intercepts_"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_network" in state:
            self.coefs_, self.intercepts_ = list(self._network.weights), list(self._network.biases)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _read_targets(self, y: Any, classes: ArrayLike | None, is_first: bool, one_pass: bool) -> Targets:
        """The targets of y, as `validate_data` returned it. classes: of `partial_fit`. Raises ValueError."""
        raise NotImplementedError

    def _weigh(
        self, y: Any, classes: NDArray[Any] | None, sample_weight: ArrayLike | None, one_pass: bool
    ) -> Array | None:
        """The weights of the samples, before they are checked. classes: all that may occur in y."""
        return None if sample_weight is None else np.asarray(sample_weight)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        validation_data: tuple[Any, Any] | None = None,
        classes: ArrayLike | None = None,
        one_pass: bool = False,
    ) -> None:
        """`fit`, or `partial_fit` for a single pass. Collective."""
        world = get_world()
        call = f"{type(self).__name__}.{'partial_fit' if one_pass else 'fit'}"
        with together(call) if world.size > 1 else nullcontext():
            # Ranks compare what they have before any raises: a search catches errors, and would start the next fit
            # alone.
            try:
                data = self._prepare(world, X, y, sample_weight, validation_data, classes, one_pass)
            except Exception as error:
                check_same(world, repr(error))
                raise
            check_same(world, data.parameters, *digestible(data), *([] if data.is_first else self._held()))
            self._train(world, data, world.on_root(lambda: data.seed), one_pass)

    def _prepare(
        self,
        world: World,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        validation_data: tuple[Any, Any] | None,
        classes: ArrayLike | None,
        one_pass: bool,
    ) -> Prepared:
        """Check parameters and data. Raises ValueError; an InputError is one."""
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or one_pass)
        rows, labels = self._read(X, y, is_first)
        hidden = check_parameters(self, world.size)
        if one_pass and self.early_stopping:
            raise InputError(
                "early_stopping",
                "partial_fit does not support early_stopping=True",
                "set it to False",
                on_every_rank=True,
            )
        targets = self._read_targets(labels, classes, is_first, one_pass)
        earlier = None if is_first else vars(self).get("_network")
        if earlier is not None and earlier.task != targets.task:
            problem = f"it is of {targets.task}, and the fitted network of {earlier.task}"
            raise InputError("y", problem, "fit a new estimator", on_every_rank=True)
        weights = self._weigh(labels, targets.classes, sample_weight, one_pass)
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                problem = f"expected a pair (X, y), got {type(validation_data).__name__}"
                raise InputError("validation_data", problem, on_every_rank=True)
            validation_rows, validation_labels = self._read(*validation_data, False)
            if validation_labels.shape[1:] != labels.shape[1:]:
                problem = f"its y has shape {validation_labels.shape}, and that of training {labels.shape}"
                raise InputError("validation_data", problem, "give both the same columns", on_every_rank=True)
            known = np.asarray(targets.classes) if targets.classes is not None else None
            validation = validation_rows, self._encode(validation_labels, targets.task, known)
        seed = self.random_state
        if one_pass and "_network" in vars(self):
            seed = self._network.seed
        elif not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        skipped = ("random_state", "callbacks")
        parameters = repr({name: value for name, value in self.get_params().items() if name not in skipped})
        return Prepared(hidden, rows, targets, weights, validation, is_first, int(seed), parameters)

    def _encode(self, y: Any, task: str, classes: NDArray[Any] | None) -> Targets:
        """The targets of y for a task and classes that are known. Raises ValueError for other classes."""
        raise NotImplementedError

    def _read(self, X: Any, y: Any, is_first: bool) -> tuple[Array | SparseRows, Any]:
        """X and y, checked; a column of y as a vector. Raises ValueError."""
        dtype = np.float64 if self.arithmetic == "portable" else (np.float64, np.float32)
        options = {"dtype": dtype, "accept_sparse": SPARSE, "multi_output": True, "y_numeric": self._is_numeric}
        is_new = is_first or not hasattr(self, "n_features_in_")
        rows, labels = validate_data(self, X, y, reset=is_new, **options)
        if issparse(labels):
            labels = labels.toarray()
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = column_or_1d(labels, warn=True)
        return (compress(rows) if issparse(rows) else rows), labels

    _is_numeric: ClassVar[bool] = False  # y

    def _train(self, world: World, data: Prepared, seed: int, one_pass: bool) -> None:
        """Train, and set the fitted attributes. Collective."""
        stored = data.rows.values if isinstance(data.rows, SparseRows) else data.rows
        sizes = (data.rows.shape[1], *data.hidden, data.targets.values.shape[1])
        dtype = stored.dtype
        if not data.is_first and self.arithmetic == "native":
            dtype = self._network.parameters.dtype if "_network" in vars(self) else np.asarray(self.coefs_[0]).dtype
        network = NeuralNetwork(
            sizes,
            ACTIVATIONS.get(self.activation, self.activation),
            self.learning_rate_init,
            seed,
            dtype,
            self.initialisation,
            self.arithmetic,
            data.targets.task,
        )
        state = OptimizerState(choose_rule(self), self.learning_rate_init)
        earlier: dict[str, Any] = {}
        if data.is_first:
            for name in FITTED:
                self.__dict__.pop(name, None)
        else:
            earlier = dict(vars(self))
            held = self._held()
            if len(held) != 2 * (len(sizes) - 1):
                problem = f"the fitted network has {len(self.coefs_)} layers of weights, not {len(sizes) - 1}"
                raise InputError("hidden_layer_sizes", problem, "fit without warm_start", on_every_rank=True)
            for view, each in zip(network.weights + network.biases, held, strict=True):
                fill(view, each)
            if one_pass and "_optimizer" in earlier and earlier["_optimizer"].rule == state.rule:
                state = earlier["_optimizer"]
        if (classes := data.targets.classes) is not None and (len(classes) == max(sizes[-1], 2)):
            network.about = {"classes": classes.tolist()} if data.targets.task == "classification" else {}
        progress = Progress(
            self,
            earlier.get("_no_improvement_count", 0) if one_pass else 0,
            -earlier.get("best_loss_", math.inf) if one_pass and earlier.get("best_loss_") is not None else -math.inf,
            earlier.get("t_", 0),
        )
        with_scores = self.early_stopping or data.validation is not None
        state = self._run(world, network, data, progress, state, one_pass)
        self._network, self._optimizer, self._no_improvement_count = network, state, progress.without
        self.coefs_, self.intercepts_ = list(network.weights), list(network.biases)
        if classes is not None:
            self.classes_ = classes
        self.n_layers_, self.n_outputs_ = len(sizes), sizes[-1]
        self.out_activation_ = OUT_ACTIVATIONS[network.model.output]
        self.n_iter_, self.t_ = len(progress.losses), progress.seen
        self.loss_curve_ = [*earlier.get("loss_curve_", []), *progress.losses]
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else math.inf
        self.best_loss_ = None if with_scores else -progress.best
        self.validation_scores_ = (
            [*(earlier.get("validation_scores_") or []), *progress.scores] if with_scores else None
        )
        self.best_validation_score_ = progress.best if with_scores else None

    def _run(
        self,
        world: World,
        network: NeuralNetwork,
        data: Prepared,
        progress: Progress,
        state: OptimizerState,
        one_pass: bool,
    ) -> OptimizerState:
        """Train the network; returns the state of the optimizer. Collective."""
        splits = self._split(world, network, data)
        samples = len(splits.train.inputs if splits.chosen is None else splits.chosen)
        if not isinstance(self.batch_size, str) and self.batch_size > samples:
            warnings.warn("Got `batch_size` larger than sample size. It is going to be clipped", stacklevel=5)
        config = configure(self, samples, world.size, network.seed, state.learning_rate)
        trainer = Trainer(world, network.model, splits, config)
        if state.epochs:
            trainer.restore(state.epochs, 0, 0, {"parameters": network.parameters, **state.arrays})
            trainer.optimizer.steps, trainer.optimizer.beta_powers = state.steps, list(state.beta_powers)
        callbacks = [
            each if isinstance(each, Callback) else ProgramCallbacks(on_epoch=each) for each in self.callbacks or ()
        ]
        last = state.epochs + (1 if one_pass else self.max_iter)
        try:
            train_with(trainer, last, [progress, *callbacks])
        except KeyboardInterrupt:
            warnings.warn(f"training interrupted {trainer.position()}; the estimator is fitted", stacklevel=5)
        else:
            if trainer.epochs_done == last and not (one_pass or progress.is_converged or trainer.diverged):
                warn_not_converged(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    depth=5,
                )
        if progress.scores:
            trainer.restore_best()
        network.input_exponent = trainer.model.input_exponent
        optimizer = trainer.optimizer
        arrays = {name: trainer.exchange.gather(part) for name, part in optimizer.state.items()}
        after = OptimizerState(
            config.hyperparameters.optimizer,
            trainer.learning_rate,
            trainer.epochs_done,
            optimizer.steps,
            list(optimizer.beta_powers),
            {name: array for name, array in arrays.items() if array is not None},
        )
        network.parameters[:] = trainer.close()
        self._check_finite(trainer, network, progress)
        return after

    def _check_finite(self, trainer: Trainer, network: NeuralNetwork, progress: Progress) -> None:
        """Raise InputError, or warn if there is a best epoch, where training has diverged."""
        if trainer.diverged and progress.scores and progress.best > -math.inf:
            text = f"training stopped: {trainer.diverged}; the best epoch before it is kept"
            warn_not_converged(text, depth=6)
        elif trainer.diverged or not np.isfinite(network.parameters).all():  # interrupted in such an epoch
            problem = trainer.diverged or "the parameters grew without bound"
            raise InputError(
                "learning_rate_init",
                f"{problem}, with {self.learning_rate_init:g}",
                f"use a smaller one, or scale X. {NOT_FINITE}",
                on_every_rank=True,
            )

    def _split(self, world: World, network: NeuralNetwork, data: Prepared) -> Splits:
        """The training set, and the rows to stop by: the caller's, or some that are held out. Collective."""
        dtype, targets = network.parameters.dtype, data.targets
        train = shared_split(world, data.rows, targets.values.astype(dtype), dtype, data.weights)
        if data.validation is not None:
            rows, theirs = data.validation
            return Splits(train, None, shared_split(world, rows, theirs.values.astype(dtype), dtype))
        if not self.early_stopping:
            return Splits(train)
        held, chosen = self._hold_out(world, train, targets, network.seed)
        if train.weights is not None and not train.weights[chosen].any():
            problem = "all rows with a weight are held out, which leaves none to learn from"
            raise InputError("early_stopping", problem, "lower validation_fraction", on_every_rank=True)
        return Splits(train, None, held, chosen)

    def _hold_out(self, world: World, train: Split, targets: Targets, seed: int) -> tuple[Split, NDArray[np.int64]]:
        """The rows that are held out, and the indices of the others. Collective."""
        samples, names = len(train.inputs), []
        if targets.task == "classification" and targets.classes is not None:
            names = targets.classes.tolist()
            codes = classify(targets.values)
            single = np.flatnonzero(np.bincount(codes) == 1)
            few = [str(bool(code) if len(names) == 2 else names[code]) for code in single]
            check_no_single(codes, names, "early_stopping", f"add some, or leave the class out. {TOO_FEW} {few}")
        count = math.ceil(samples * self.validation_fraction)
        if count < 2:
            raise InputError(
                "early_stopping",
                "The validation set is too small",
                "Increase 'validation_fraction' or the size of your dataset.",
                on_every_rank=True,
            )
        return hold_out(world, train, count, seed, names, "early_stopping")

    def _outputs(self, X: Any) -> Array:
        """The network's outputs (rows, outputs)."""
        if "_network" not in vars(self):
            check_is_fitted(self)
        network = self.network_
        if self._is_plain(X):
            with suppress(InputError):  # `validate_data` describes it as scikit-learn does
                return network.forward(X)
        rows = validate_data(self, X, accept_sparse=SPARSE, dtype=(np.float64, np.float32), reset=False)
        if not issparse(rows):
            return network.forward(rows)
        rows = rows.tocsr()
        step = max(1, BLOCK_VALUES // rows.shape[1])
        blocks = [network.forward(rows[start : start + step].toarray()) for start in range(0, rows.shape[0], step)]
        return np.concatenate(blocks)

    def _is_plain(self, X: Any) -> bool:
        """Whether `validate_data` would return X itself, if its numbers are finite; far faster than calling it."""
        return (
            type(X) is np.ndarray
            and X.dtype in FLOATS
            and X.ndim == 2
            and len(X) > 0
            and X.shape[1] == self.n_features_in_
            and "feature_names_in_" not in vars(self)
        )


def fill(view: Array, numbers: Any) -> None:
    """Copy numbers, of `coefs_` or `intercepts_`, into the network's array. Raises InputError for another shape."""
    if np.shape(numbers) != view.shape:
        what = "coefs_" if view.ndim == 2 else "intercepts_"
        raise InputError(what, f"expected shape {view.shape}, got {np.shape(numbers)}", on_every_rank=True)
    view[:] = numbers


def compress(rows: Any) -> SparseRows:
    """Rows of scipy's as `SparseRows`."""
    rows = rows.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return SparseRows(rows.data, rows.indices, rows.indptr, rows.shape[1])


def digestible(data: Prepared) -> list[str | NDArray[Any]]:
    """Everything that the ranks must have the same of, as text and arrays."""
    parts: list[str | NDArray[Any]] = []
    sets = [(data.rows, data.targets), *([] if data.validation is None else [data.validation])]
    for rows, targets in sets:
        parts += list(rows[:3]) if isinstance(rows, SparseRows) else [rows]
        parts += [targets.values, repr(None if targets.classes is None else targets.classes.tolist())]
    return parts if data.weights is None else [*parts, data.weights]


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
