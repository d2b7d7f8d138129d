"""Data sets as arrays that the ranks of a node share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.datasets.split import draw_held_out, find_single
from distnet.parallel.shards import share
from distnet.parallel.world import World
from distnet.runtime.arrays import Array, padded
from distnet.runtime.errors import InputError

VALIDATION = (0, 2)  # with the seed, names the draw of the samples held out; tables' test rows have (0, 1)
ROWS_AT_ONCE = 500  # of the standardisation, to stay in the cache


class Split(NamedTuple):
    """Training or test set, one copy a node.

    inputs: (samples, padded(features + 1)): the features, a one for the bias, and zeros up to a whole
    number of cache lines. targets: (samples, classes), one-hot.
    """

    inputs: Array
    targets: Array
    features: int

    def rows(self, some: slice) -> "Split":
        """A view of some of the samples."""
        return Split(self.inputs[some], self.targets[some], self.features)


class Dataset(NamedTuple):
    """name: what it is. source: where it came from. fingerprint: sha256 of all inputs and labels.

    mean, deviation: what inputs were standardised by, for all at once, or a list with one a column.
    classes: their names, in the order of the targets. shape: rows and columns of images; None for tables.
    columns: names of a table's inputs, label: that of its classes; None where it has none.
    """

    name: str
    source: str
    train: Split
    test: Split
    mean: float | list[float]
    deviation: float | list[float]
    fingerprint: str
    classes: tuple[str | int | float, ...]
    shape: tuple[int, int] | None
    columns: tuple[str, ...] | None = None
    label: str | None = None


def empty_split(world: World, samples: int, features: int, classes: int, dtype: DTypeLike) -> Split:
    """Zeroed shared memory for a data set. Collective."""
    inputs = world.shared((samples, padded(features + 1, dtype)), dtype)
    return Split(inputs, world.shared((samples, classes), dtype), features)


def shared_split(world: World, X: Array, Y: Array, dtype: DTypeLike) -> Split:
    """A person's own arrays as the ranks of a node share them.

    X: (samples, features). Y: (samples, classes), each row sums to 1. Both the same on every rank, each of
    which writes a share of the rows.
    Raises InputError, on every rank, where they can't be that on one. Collective.
    """
    problem: InputError | None = None
    try:
        X, Y = as_numbers("X", X, dtype), as_numbers("Y", Y, dtype)
    except InputError as error:
        problem = error
    if world.comm is not None and world.size > 1:
        shapes: tuple[int, ...] | None = None
        for rank, (theirs, what) in enumerate(world.comm.allgather(((*X.shape, *Y.shape), problem))):
            shapes = shapes or theirs
            if what:
                problem = InputError(what.subject, f"{what.problem} (on rank {rank})", what.remedy)
            elif theirs != shapes:
                problem = InputError("X and Y", f"rank {rank} has others than rank 0", "give all ranks the same arrays")
    if problem:
        problem.on_every_rank = True
        raise problem
    split = empty_split(world, len(X), X.shape[1], Y.shape[1], dtype)
    mine = share(len(X), world.node_rank, world.node_size)
    rows = slice(mine.start, mine.stop)
    split.inputs[rows, : split.features] = X[rows]
    split.inputs[rows, split.features] = 1
    split.targets[rows] = Y[rows]
    world.node_barrier()
    return split


def as_numbers(name: str, values: Array, dtype: DTypeLike) -> Array:
    """`values` as they are where they are real numbers, else converted.

    Raises InputError for anything else: text, complex numbers, NaN, and what `dtype` can't hold.
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
) -> tuple[Split, NDArray[np.int64]]:
    """`count` samples of a training set, of each class its share, as a set of their own; and which samples are left.

    seed: draws them. classes: their names. option: what asked for them, for messages.
    Raises InputError where none would be left, and for a class of one sample. Collective.
    """
    samples = len(split.inputs)
    if count >= samples:
        raise InputError(
            option,
            f"holding out {count} of {samples} training samples leaves none to learn from",
            "hold out fewer",
            on_every_rank=True,
        )
    codes = split.targets.argmax(axis=1)
    if (single := find_single(codes)) is not None:
        raise InputError(
            option,
            f"class {classes[single]!r} has one training sample, which can't be both learned and held out",
            "add some, or leave the class out",
            on_every_rank=True,
        )
    chosen, rest = draw_held_out(codes, count, [seed, *VALIDATION])
    held = empty_split(world, count, split.features, split.targets.shape[1], split.inputs.dtype)
    mine = share(count, world.node_rank, world.node_size)
    rows = slice(mine.start, mine.stop)
    held.inputs[rows] = split.inputs[chosen[rows]]
    held.targets[rows] = split.targets[chosen[rows]]
    world.node_barrier()
    return held, np.sort(rest)
