"""Data sets to arrays that the ranks of a node share: find, read, broadcast, standardise, one-hot.

`python -m distnet.datasets mnist` downloads one.
"""

import hashlib
import string
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.datasets.dataset import ROWS_AT_ONCE, Dataset, Split, empty_split
from distnet.datasets.folders import check_bytes, locate
from distnet.datasets.idx import read_idx_pair
from distnet.datasets.keras import read_keras
from distnet.datasets.names import DATA_FOLDER, DEFAULT, EMNIST, HAS_FOLDER, TABLES
from distnet.datasets.synthetic import synthetic_digits
from distnet.datasets.tables import Table, TableOptions, column_moments, read_table
from distnet.parallel.launched import collective, launched_world
from distnet.parallel.shards import row_blocks, share
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn

DIGITS = tuple(range(10))
LETTERS = string.ascii_uppercase
# EMNIST's parts merge small letters that look like large ones; byclass has them all.
# Source: Cohen, Afshar, Tapson, van Schaik 2017, EMNIST: an extension of MNIST to handwritten letters.
MERGED = (*string.digits, *LETTERS, *"abdefghnqrt")
EMNIST_CLASSES: dict[str, tuple[str | int, ...]] = {
    "emnist-balanced": MERGED,
    "emnist-byclass": (*string.digits, *LETTERS, *string.ascii_lowercase),
    "emnist-bymerge": MERGED,
    "emnist-digits": DIGITS,
    "emnist-letters": tuple(LETTERS),
    "emnist-mnist": DIGITS,
}
FIRST_LABEL = {"emnist-letters": 1}  # 0 of all others
SYNTHETIC_TEST_SAMPLES = 10_000
SYNTHETIC_TRAIN_SEED, SYNTHETIC_TEST_SEED = 0, 1


def load(
    world: World,
    name: str | None,
    directory: Path | None,
    dtype: DTypeLike,
    *,
    train_limit: int | None = None,
    train_samples: int = 60_000,
    table: TableOptions = TableOptions(),
    raw_inputs: bool = False,
) -> Dataset:
    """Training and test set, standardised by the mean and deviation of all pixels of the training set.

    name, directory: as --dataset and --data-dir have them, None where the user names none.
    table: how to read one. raw_inputs: don't standardise.
    Rank 0 alone reads files; every rank draws a part of synthetic digits. Raises InputError on every rank.
    Collective.
    """
    is_named, has_folder = name is not None, directory is not None or HAS_FOLDER
    name, directory = name or DEFAULT, directory or DATA_FOLDER
    kind, _, path = name.partition(":")
    if kind in TABLES:
        return load_table(world, kind, Path(path), dtype, train_limit, table, raw_inputs)
    files, remark = world.on_root(partial(locate, name, directory, is_named, has_folder))
    if remark and world.rank == 0:
        warn(remark)
    if files is None:
        name, source = "synthetic", "drawn"
        train = min(train_samples, train_limit or train_samples)
        raw, shape = draw(world, train, SYNTHETIC_TEST_SAMPLES), (28, 28)
    else:
        source = str(files[0].parent if len(files) > 1 else files[0])
        train, raw, shape = broadcast_files(world, name, files, train_limit)
    classes = EMNIST_CLASSES.get(name, DIGITS)
    mean, deviation = (0.0, 1.0) if raw_inputs else moments(world, raw[:train, :-1])
    whole = standardised(world, raw, mean, deviation, len(classes), dtype)
    fingerprint = world.on_root(lambda: hashlib.sha256(raw.data).hexdigest())
    train_set, test_set = whole.rows(slice(train)), whole.rows(slice(train, None))
    return Dataset(name, source, train_set, test_set, mean, deviation, fingerprint, classes, shape)


def load_table(
    world: World,
    kind: str,
    path: Path,
    dtype: DTypeLike,
    train_limit: int | None,
    options: TableOptions,
    raw_inputs: bool,
) -> Dataset:
    """A person's own table, standardised by the mean and deviation of each column over the training rows.

    Rank 0 alone reads and standardises, and holds all values once more while it does.
    Raises InputError on every rank. Collective.
    """
    read: list[tuple[Table, Array, Array]] = []

    def read_all() -> tuple[int, int, int, Any]:
        table = read_table(kind, path, options)
        for remark in table.remarks:
            warn(remark)
        table = table._replace(train=table.train[:train_limit])
        mean, deviation = np.zeros(table.values.shape[1]), np.ones(table.values.shape[1])
        if not raw_inputs:
            mean, deviation = column_moments(path, table)
        read.append((table, mean, deviation))
        rows = len(table.train), len(table.test)
        names = tuple(table.classes), table.columns, table.label
        return *rows, len(mean), (mean.tolist(), deviation.tolist(), table.fingerprint(), *names)

    def fill() -> None:
        table, mean, deviation = read[0]
        order = np.concatenate([table.train, table.test])
        for rows in row_blocks(len(order), features):
            with np.errstate(over="ignore"):
                whole.inputs[rows, :features] = (table.values[order[rows]] - mean) / deviation
            if not np.isfinite(whole.inputs[rows]).all():
                remedy = "use --dtype float64" if np.dtype(dtype) == np.float32 else "scale them"
                raise InputError(path, f"some numbers are too large for {np.dtype(dtype)}", remedy)
        whole.inputs[:, features] = 1
        whole.targets[np.arange(len(order)), table.codes[order]] = 1

    train, test, features, (mean, deviation, fingerprint, *names) = world.on_root(read_all)
    classes, columns, label = names
    whole = empty_split(world, train + test, features, len(classes), dtype)
    world.on_root(fill)
    world.send_to_nodes(whole.inputs)
    world.send_to_nodes(whole.targets)
    train_set, test_set = whole.rows(slice(train)), whole.rows(slice(train, None))
    moments = mean, deviation
    return Dataset(
        kind, str(path), train_set, test_set, *moments, fingerprint, classes, None, columns=columns, label=label
    )


class Arrays(tuple[Array, Array, Array, Array]):
    """X_train, Y_train, X_test, Y_test. about: what `NeuralNetwork.about` needs to predict and evaluate raw images."""

    about: dict[str, Any]


@collective
def load_mnist(data_dir: str | Path = DATA_FOLDER, dtype: DTypeLike = np.float32) -> Arrays:
    """MNIST as X_train (60000, 784), Y_train (60000, 10), X_test (10000, 784), Y_test (10000, 10).

    Standardised and one-hot; the ranks of a node share one copy. `about` has the mean and the deviation. Raises
    InputError where MNIST isn't there. Collective: under mpirun.
    """
    data = load(launched_world(), "mnist", Path(data_dir), dtype)
    arrays = Arrays(
        array for split in (data.train, data.test) for array in (split.inputs[:, : split.features], split.targets)
    )
    arrays.about = {
        "config": {"dataset": data.name},
        "mean": data.mean,
        "deviation": data.deviation,
        "classes": list(data.classes),
    }
    return arrays


# Raw samples are one shared array of bytes: a row a sample, its pixels and then its label, the training set
# and then the test set.
Raw = NDArray[np.uint8]


def draw(world: World, train: int, test: int) -> Raw:
    """Synthetic digits, (train + test, 785); each rank of a node draws its share. Collective."""
    raw = world.shared((train + test, 28 * 28 + 1), np.uint8)
    for part, seed in ((raw[:train], SYNTHETIC_TRAIN_SEED), (raw[train:], SYNTHETIC_TEST_SEED)):
        rows = share(len(part), world.node_rank, world.node_size)
        if rows:
            images, labels = synthetic_digits(len(rows), seed, rows.start)
            part[rows.start : rows.stop, :-1] = images.reshape(len(rows), -1)
            part[rows.start : rows.stop, -1] = labels
    world.node_barrier()
    return raw


def broadcast_files(
    world: World, name: str, files: Sequence[Path], limit: int | None
) -> tuple[int, Raw, tuple[int, int]]:
    """The number of training samples, all samples, and the shape of an image.

    Read on rank 0, broadcast once a node. Collective.
    """
    read: list[NDArray[np.uint8]] = []

    def read_all() -> tuple[int, int, tuple[int, int]]:
        read.extend(read_files(name, files))
        if name not in EMNIST:
            check_bytes(name, files, read)
        train, _, test, _ = read
        if train[0].size != test[0].size:
            raise InputError(
                files[2 % len(files)],
                f"its images have {test[0].size} pixels, those of {files[0]} {train[0].size}",
                "take training and test set from the same place",
            )
        return min(limit or len(train), len(train)), len(test), (test.shape[1], test.shape[2])

    train, test, shape = world.on_root(read_all)
    raw = world.shared((train + test, shape[0] * shape[1] + 1), np.uint8)
    if world.rank == 0:
        for part, images, labels in ((raw[:train], *read[:2]), (raw[train:], *read[2:])):
            part[:, :-1] = images[: len(part)].reshape(len(part), -1)
            part[:, -1] = labels[: len(part)]
    world.send_to_nodes(raw)
    return train, raw, shape


def read_files(name: str, files: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Training images (n, rows, columns), labels (n,) from 0, test images and labels. files: as of `find_files`.

    Raises InputError.
    """
    classes, first = EMNIST_CLASSES.get(name, DIGITS), FIRST_LABEL.get(name, 0)
    if len(files) == 1:
        return read_keras(files[0], len(classes))
    found = []
    for pair in (files[:2], files[2:]):
        images, labels = read_idx_pair(pair[0], pair[1], len(classes), first)
        if name in EMNIST:
            images, labels = images.transpose(0, 2, 1), labels - np.uint8(first)  # they lie on their side there
        found += [images, labels]
    return found


def moments(world: World, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, from an exact count of each value. Collective."""
    counts = np.zeros(256, np.int64)
    mine = share(len(images), world.rank, world.size)
    for start in range(mine.start, mine.stop, ROWS_AT_ONCE):
        counts += np.bincount(images[start : min(start + ROWS_AT_ONCE, mine.stop)].reshape(-1), minlength=256)
    world.total(counts)
    total, squares = (int((counts * np.arange(256) ** power).sum()) for power in (1, 2))
    mean = total / images.size
    variance = squares / images.size - mean * mean
    return mean, variance**0.5 if variance > 0 else 1.0


def standardised(world: World, raw: Raw, mean: float, deviation: float, classes: int, dtype: DTypeLike) -> Split:
    """(pixel - mean) / deviation and one-hot targets, written by all ranks of the node. Collective."""
    features = raw.shape[1] - 1
    split = empty_split(world, len(raw), features, classes, dtype)
    mine = share(len(raw), world.node_rank, world.node_size)
    for start in range(mine.start, mine.stop, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, mine.stop))
        block = split.inputs[rows, :features]
        np.subtract(raw[rows, :-1], np.asarray(mean, dtype), out=block)
        np.divide(block, np.asarray(deviation, dtype), out=block)
        split.inputs[rows, features] = 1
        split.targets[rows][np.arange(rows.stop - rows.start), raw[rows, -1]] = 1
    world.node_barrier()
    return split
