"""Data in memory: tables as read, sets that the ranks of a node share, samples to hold out."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from distnet.datasets.sparse import Rows, SparseRows
from distnet.nn.functional import classify
from distnet.parallel.shards import row_blocks, share
from distnet.parallel.world import World
from distnet.portable.draws import draw_order
from distnet.runtime.arrays import Array, aligned_zeros, little_endian, pad_count
from distnet.runtime.errors import InputError

Class = str | int | float

VALIDATION = (0, 2)  # with the seed, selects the draw of a validation set; epochs count from 1
ROWS_AT_ONCE = 500  # in standardisation, to stay in the cache


class Split(NamedTuple):
    """Training, test or validation set, one copy per node.

    inputs: (samples, pad_count(features + 1)): the features, a one for the bias, and zeros up to a whole
    number of cache lines. targets: (samples, outputs), one-hot for classes. weights: (samples,), float64, of the
    samples' losses; None for 1 each. sparse: the features, if they are mostly zeros; `inputs` has no columns then.
    """

    inputs: Array
    targets: Array
    features: int
    weights: Array | None = None
    sparse: SparseRows | None = None

    def divide(self, count: int) -> "tuple[Split, Split]":
        """Views of the first `count` samples, and of the others."""
        first, others = slice(count), slice(count, None)
        return self.rows(first), self.rows(others)

    def rows(self, rows: slice) -> "Split":
        """Views of some samples, which must not be sparse."""
        assert self.sparse is None
        weights = None if self.weights is None else self.weights[rows]
        return Split(self.inputs[rows], self.targets[rows], self.features, weights)

    def take(self, rows: Rows, inputs: Array, targets: Array) -> None:
        """Copy the inputs and targets of these samples. inputs: with as many columns as `inputs` of a dense set."""
        if self.sparse is None:
            self.inputs.take(rows, axis=0, out=inputs, mode="clip")
        else:
            self.sparse.fill(rows, inputs)
            inputs[:, self.features] = 1
        self.targets.take(rows, axis=0, out=targets, mode="clip")

    def dense_inputs(self, rows: slice | Rows) -> Array:
        """The inputs of some samples; views where possible."""
        if self.sparse is None:
            return self.inputs[rows]
        chosen = np.arange(len(self.inputs))[rows]
        inputs = aligned_zeros((len(chosen), pad_count(self.features + 1, self.inputs.dtype)), self.inputs.dtype)
        self.sparse.fill(chosen, inputs)
        inputs[:, self.features] = 1
        return inputs

    def stored_features(self, owner: int, owners: int) -> Iterator[Array]:
        """The features that are stored, an owner's share of them in blocks: views, which may be changed."""
        stored = self.inputs[:, : self.features] if self.sparse is None else self.sparse.values[:, None]
        return (stored[rows] for rows in own_blocks(len(stored), owner, owners))


class Dataset(NamedTuple):
    """A training, a test and perhaps a validation set, and what a model has to store about them.

    name: the value of --dataset, without a file. source: folder or file. fingerprint: sha256 of all inputs and labels.
    mean, deviation: of the standardisation, one number for all inputs or a list with one per column.
    classes: names, in the order of the targets; empty for regression and multilabel. shape: rows and columns of images;
    None for tables.
    columns, targets: names of a table's inputs and of its target columns; None without a header.
    task: see `Model.output`. target_mean, target_deviation: of the standardised targets of regression, one number per
    target. validation: a table's own validation set.
    """

    name: str
    source: str
    train: Split
    test: Split
    mean: float | list[float]
    deviation: float | list[float]
    fingerprint: str
    classes: tuple[Class, ...]
    shape: tuple[int, int] | None = None
    columns: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    task: str = "classification"
    target_mean: list[float] | None = None
    target_deviation: list[float] | None = None
    validation: Split | None = None

    def about(self) -> dict[str, Any]:
        """What `NeuralNetwork.about` needs to evaluate and predict raw inputs."""
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "classes": list(self.classes),
            "columns": None if self.columns is None else list(self.columns),
            "targets": None if self.targets is None else list(self.targets),
            "target_mean": self.target_mean,
            "target_deviation": self.target_deviation,
        }


class Table(NamedTuple):
    """A table as read from a file.

    values: (rows, columns), finite. task: see `Model`. codes: (rows,), the index of each row's class in `classes`,
    which are sorted; of classification, else zeros. numbers: (rows, targets), the finite targets of the other tasks.
    train, test, validation: indices of rows, in the order in which they are used. weights: (rows,), None for 1 each.
    columns, targets: names of the columns of `values` and of the target columns; None if the file has none.
    """

    values: NDArray[Any]
    codes: Rows
    classes: list[Class]
    train: Rows
    test: Rows
    columns: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    task: str = "classification"
    numbers: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    validation: Rows | None = None

    def fingerprint(self) -> str:
        """sha256 of all values, targets and weights, and of the indices of the test and validation rows."""
        values = little_endian(self.values)
        digest = hashlib.sha256(repr((values.shape, values.dtype.str, self.classes)).encode())
        for array in (values, self.codes, self.test):
            digest.update(little_endian(array).data)
        for name in ("numbers", "weights", "validation"):
            array = getattr(self, name)
            if array is not None:
                digest.update(f"{name} {array.shape}".encode())
                digest.update(little_endian(array).data)
        return digest.hexdigest()


def find_not_finite(values: NDArray[Any]) -> tuple[int, ...] | None:
    """The index of the first value that is NaN or infinite. Needs little memory."""
    for rows in row_blocks(len(values), math.prod(values.shape[1:])):
        wrong = np.argwhere(~np.isfinite(values[rows]))
        if wrong.size:
            return (rows.start + int(wrong[0][0]), *map(int, wrong[0][1:]))
    return None


def empty_split(
    world: World,
    samples: int,
    features: int,
    outputs: int,
    dtype: DTypeLike,
    has_weights: bool = False,
    sparse: SparseRows | None = None,
) -> Split:
    """Zeroed shared memory for a set. sparse: its features, taken as they are. Collective."""
    inputs = world.shared((samples, pad_count(features + 1, dtype) if sparse is None else 0), dtype)
    weights = world.shared((samples,), np.float64) if has_weights else None
    return Split(inputs, world.shared((samples, outputs), dtype), features, weights, sparse)


def own_blocks(count: int, owner: int, owners: int) -> Iterator[slice]:
    """The share of `count` rows that is `owner`'s, in blocks that fit into the cache."""
    mine = share(count, owner, owners)
    return (slice(start, min(start + ROWS_AT_ONCE, mine.stop)) for start in range(mine.start, mine.stop, ROWS_AT_ONCE))


def shared_split(
    world: World, X: Array | SparseRows, Y: Array, dtype: DTypeLike, sample_weight: ArrayLike | None = None
) -> Split:
    """Copies of arrays in memory that the ranks of a node share.

    X: (samples, features); of sparse rows, only the values are copied. Y: (samples, outputs). sample_weight:
    (samples,); None for 1 each. All are the same on every rank, and each rank of a node writes a share of the rows.
    Raises InputError on every rank if they are invalid on one. Collective.
    """
    problem: InputError | None = None
    try:
        stored = as_numbers("X", X.values[:, None] if isinstance(X, SparseRows) else X, dtype)
        Y = as_numbers("Y", Y, dtype)
        weights = None if sample_weight is None else as_weights(sample_weight, X.shape[0])
    except InputError as error:
        problem = error
    if world.comm is not None and world.size > 1:
        shapes: tuple[int, ...] | None = None
        for rank, (theirs, what) in enumerate(
            world.comm.allgather(((*X.shape, *Y.shape, sample_weight is None), problem))
        ):
            shapes = shapes or theirs
            if what:
                problem = InputError(what.subject, f"{what.problem} (on rank {rank})", what.remedy)
            elif theirs != shapes:
                problem = InputError("X and Y", f"rank {rank} has others than rank 0", "give all ranks the same arrays")
    if problem:
        problem.on_every_rank = True
        raise problem
    sparse = X._replace(values=world.shared((len(stored),), dtype)) if isinstance(X, SparseRows) else None
    samples, features = X.shape
    split = empty_split(world, samples, features, Y.shape[1], dtype, weights is not None, sparse)
    if sparse is not None:
        for rows in own_blocks(len(stored), world.node_rank, world.node_size):
            sparse.values[rows] = stored[rows, 0]
    for rows in own_blocks(samples, world.node_rank, world.node_size):
        if sparse is None:
            split.inputs[rows, : split.features] = stored[rows]
            split.inputs[rows, split.features] = 1
        split.targets[rows] = Y[rows]
        if weights is not None and split.weights is not None:
            split.weights[rows] = weights[rows]
    world.node_barrier()
    return split


def as_weights(values: ArrayLike, samples: int, name: str = "sample_weight") -> NDArray[np.float64]:
    """The samples' weights, (samples,), float64. Raises InputError for negative and infinite ones, and if all are 0."""
    try:
        weights = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(name, f"not all of its values are numbers ({error})", "give one number per sample") from None
    if weights.shape != (samples,):
        raise InputError(name, f"expected shape ({samples},), got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        raise InputError(name, f"expected finite numbers of 0 or more, got {wrong:g}")
    if not weights.any():
        raise InputError(name, "all weights are zero", "give some sample a weight")
    return weights


def as_numbers(name: str, values: Array, dtype: DTypeLike) -> Array:
    """`values` themselves if they are real numbers, else converted to `dtype`.

    Raises InputError for text, complex numbers, NaN, and numbers too large for `dtype`.
    """
    if values.dtype.kind not in "biuf":
        try:
            if values.dtype.kind == "c":
                raise ValueError("complex numbers")
            values = values.astype(dtype)
        except (TypeError, ValueError) as error:
            raise InputError(
                name, f"not all of its values are numbers ({error})", "convert or remove the others"
            ) from None
    limit = np.finfo(dtype).max
    if values.size and not (-limit <= values.min() and values.max() <= limit):  # no temporary; NaN compares false
        row, column = np.argwhere(~(np.abs(values) <= limit))[0]
        raise InputError(f"{name}[{row}, {column}]", f"expected a finite number of {dtype}, got {values[row, column]}")
    return values


def hold_out(
    world: World, split: Split, count: int, seed: int, classes: Sequence[object], option: str
) -> tuple[Split, Rows]:
    """A validation set of `count` samples of a training set, each class in proportion, and the indices of the others.

    seed: of the draw. classes: their names, empty if the targets are not classes; then any samples are drawn. option:
    the option that requests it, for messages.
    Raises InputError if no sample is left, or a class has only one. Collective.
    """
    samples = len(split.inputs)
    if count >= samples:
        raise InputError(
            option,
            f"holding out {count} of {samples} training samples leaves none to learn from",
            "hold out fewer",
            on_every_rank=True,
        )
    codes = np.zeros(samples, np.int64)
    if classes:
        codes = classify(split.targets)
        check_no_single(codes, classes, option, "add some, or leave the class out")
    chosen, rest = draw_held_out(codes, count, [seed, *VALIDATION])
    has_weights = split.weights is not None
    sparse = None if split.sparse is None else split.sparse.select(chosen)
    held = empty_split(world, count, split.features, split.targets.shape[1], split.inputs.dtype, has_weights, sparse)
    for rows in own_blocks(count, world.node_rank, world.node_size):
        held.inputs[rows] = split.inputs[chosen[rows]]
        held.targets[rows] = split.targets[chosen[rows]]
        if split.weights is not None and held.weights is not None:
            held.weights[rows] = split.weights[chosen[rows]]
    world.node_barrier()
    return held, np.sort(rest)


def check_no_single(codes: Rows, classes: Sequence[object], subject: object, remedy: str) -> None:
    """Raise InputError, as on every rank, for a class of one sample, which can't be on both sides of a split."""
    single = np.flatnonzero(np.bincount(codes) == 1)
    if single.size:
        problem = f"class {classes[single[0]]!r} has one sample, which can't be both learned and held out"
        raise InputError(subject, problem, remedy, on_every_rank=True)


def draw_held_out(codes: Rows, count: int, seed: Sequence[int]) -> tuple[Rows, Rows]:
    """Indices of `count` rows to hold out, and of the other rows, both in random order.

    codes: (rows,), the class of each row. Each class gets its share of `count`. If there is room, every class of two
    rows or more has a row on either side.
    """
    order = draw_order(len(codes), *seed, 0)
    sizes = np.bincount(codes)
    quota = held_out_per_class(sizes, count, draw_order(len(sizes), *seed, 1))
    # The rank of each row among the rows of its class, in the order drawn.
    grouped = np.argsort(codes[order], kind="stable")
    places = np.empty_like(order)
    places[grouped] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = places < quota[codes[order]]
    return order[held], order[~held]


def held_out_per_class(sizes: Rows, count: int, order: Rows) -> Rows:
    """How many rows of each class to hold out, `count` in all, for classes of these sizes.

    order: of the classes, a permutation, which decides between equal claims.
    """
    present = np.count_nonzero(sizes)
    exact = sizes * (count / sizes.sum())
    low = np.minimum(sizes - 1, 1).clip(0) if count >= present else np.zeros_like(sizes)
    high = (sizes - 1).clip(low) if sizes.sum() - count >= present else sizes
    quota = np.floor(exact).astype(np.int64).clip(low, high)
    chance = order / (2 * len(sizes))
    while missing := count - int(quota.sum()):
        step = 1 if missing > 0 else -1
        room = quota < high if step > 0 else quota > low
        if not room.any():  # classes of one row supply the rest
            low, high = np.zeros_like(sizes), sizes
            continue
        want = np.where(room, step * (exact - quota) + chance * 1e-6, -np.inf)
        quota[want.argmax()] += step
    return np.asarray(quota, np.int64)
