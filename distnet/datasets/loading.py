"""From files to arrays that the ranks of a node share: find, read, broadcast, standardise, one-hot."""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.datasets.dataset import Dataset, Split, Table, empty_split, own_blocks
from distnet.datasets.folders import check_bytes, locate
from distnet.datasets.idx import read_idx_pair
from distnet.datasets.npz import read_keras
from distnet.datasets.options import DATA_FOLDER, DEFAULT, DIGITS, EMNIST_CLASSES, TABLES, DataOptions
from distnet.datasets.synthetic import synthetic_digits
from distnet.datasets.tables import add_validation, column_moments, read_table
from distnet.parallel.launched import collective, launched_world
from distnet.parallel.shards import row_blocks, share
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError

FIRST_LABEL = {"emnist-letters": 1}  # 0 in all others
SYNTHETIC_TEST_SAMPLES = 10_000
SYNTHETIC_TRAIN_SEED, SYNTHETIC_TEST_SEED = 0, 1


def load(world: World, options: DataOptions, dtype: DTypeLike) -> Dataset:
    """Training and test set. Images are standardised by the mean and deviation of all pixels of the training set.

    Only rank 0 reads files; every rank draws a part of synthetic digits. Raises InputError on every rank. Collective.
    """
    name = options.name or DEFAULT
    kind, _, path = name.partition(":")
    if kind in TABLES:
        return load_table(world, kind, Path(path), options, dtype)
    files = world.on_root(partial(locate, options.name, options.directory))
    if files is None:
        name, source = "synthetic", "drawn"
        train = min(options.train_samples, options.train_limit or options.train_samples)
        raw, shape = draw(world, train, SYNTHETIC_TEST_SAMPLES), (28, 28)
    else:
        source = str(files[0].parent if len(files) > 1 else files[0])
        train, raw, shape = broadcast_files(world, name, files, options.train_limit)
    classes = EMNIST_CLASSES.get(name, DIGITS)
    mean, deviation = (0.0, 1.0) if options.raw_inputs else pixel_moments(world, raw[:train, :-1])
    whole = standardise(world, raw, mean, deviation, len(classes), dtype)
    fingerprint = world.on_root(lambda: hashlib.sha256(raw.data).hexdigest())
    return Dataset(name, source, *whole.divide(train), mean, deviation, fingerprint, classes, shape)


def load_table(world: World, kind: str, path: Path, options: DataOptions, dtype: DTypeLike) -> Dataset:
    """Your own table. Columns, and targets of regression, are standardised by their moments over the training rows.

    Only rank 0 reads and standardises; meanwhile, it holds all values once more.
    Raises InputError on every rank. Collective.
    """

    def read() -> tuple[tuple[list[int], int, int, bool, dict[str, Any]], Table]:
        table = read_table(kind, path, options.table)
        table = table._replace(train=table.train[: options.train_limit])
        if options.validation is not None:
            table = add_validation(kind, options.validation, table, options.table)
        features = table.values.shape[1]
        mean, deviation = np.zeros(features), np.ones(features)
        if not options.raw_inputs:
            mean, deviation = column_moments(path, table.values, table.train, "feature")
        notes = {
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
            "fingerprint": table.fingerprint(),
            "classes": tuple(table.classes),
            "columns": table.columns,
            "targets": table.targets,
            "task": table.task,
        }
        if table.task == "regression" and table.numbers is not None and not options.raw_targets:
            moments = column_moments(path, table.numbers, table.train, "target")
            notes |= {"target_mean": moments[0].tolist(), "target_deviation": moments[1].tolist()}
        counts = [len(rows) for rows in (table.train, table.test, table.validation) if rows is not None]
        outputs = len(table.classes) if table.numbers is None else table.numbers.shape[1]
        return (counts, features, outputs, table.weights is not None, notes), table

    def fill(table: Table) -> None:
        order = np.concatenate([rows for rows in (table.train, table.test, table.validation) if rows is not None])
        if table.weights is not None and whole.weights is not None:
            whole.weights[:] = table.weights[order]
        for rows in row_blocks(len(order), features + outputs):
            with np.errstate(over="ignore"):
                whole.inputs[rows, :features] = (table.values[order[rows]] - notes["mean"]) / notes["deviation"]
                if table.numbers is not None:
                    targets = table.numbers[order[rows]]
                    if "target_mean" in notes:
                        targets = (targets - notes["target_mean"]) / notes["target_deviation"]
                    whole.targets[rows] = targets
            if not (np.isfinite(whole.inputs[rows]).all() and np.isfinite(whole.targets[rows]).all()):
                remedy = "use --dtype float64" if np.dtype(dtype) == np.float32 else "scale them"
                raise InputError(path, f"some numbers are too large for {np.dtype(dtype)}", remedy)
        whole.inputs[:, features] = 1
        if table.numbers is None:
            whole.targets[np.arange(len(order)), table.codes[order]] = 1

    (counts, features, outputs, has_weights, notes), table = world.keep_on_root(read)
    whole = empty_split(world, sum(counts), features, outputs, dtype, has_weights)
    world.on_root(lambda: fill(table) if table else None)
    for array in (whole.inputs, whole.targets, whole.weights):
        if array is not None:
            world.send_to_nodes(array)
    train, rest = whole.divide(counts[0])
    test, validation = rest.divide(counts[1])
    return Dataset(kind, str(path), train, test, validation=validation if counts[2:] else None, **notes)


class Arrays(tuple[Array, Array, Array, Array]):
    """X_train, Y_train, X_test, Y_test. about: what `NeuralNetwork.about` needs to evaluate and predict raw images."""

    about: dict[str, Any]


@collective
def load_mnist(data_dir: str | Path = DATA_FOLDER, dtype: DTypeLike = np.float64) -> Arrays:
    """MNIST as X_train (60000, 784), Y_train (60000, 10), X_test (10000, 784), Y_test (10000, 10).

    Standardised and one-hot; one copy per node. `about` has the mean and the deviation.
    Raises InputError if MNIST is missing. Collective: under mpirun.
    """
    data = load(launched_world(), DataOptions("mnist", Path(data_dir)), dtype)
    arrays = Arrays(
        array for split in (data.train, data.test) for array in (split.inputs[:, : split.features], split.targets)
    )
    arrays.about = {"config": {"dataset": data.name}} | data.about()
    return arrays


# Raw samples are one shared array of bytes with one row per sample: its pixels, then its label. The training set is
# before the test set.
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

    Read on rank 0, broadcast once per node. Raises InputError on every rank. Collective.
    """

    def read() -> tuple[tuple[int, int, tuple[int, int]], list[NDArray[np.uint8]]]:
        arrays = read_files(name, files)
        if name not in EMNIST_CLASSES:
            check_bytes(name, files, arrays)
        train, _, test, _ = arrays
        if train[0].size != test[0].size:
            raise InputError(
                files[2 % len(files)],
                f"its images have {test[0].size} pixels, those of {files[0]} {train[0].size}",
                "take training and test set from the same place",
            )
        return (min(limit or len(train), len(train)), len(test), (test.shape[1], test.shape[2])), arrays

    (train, test, shape), arrays = world.keep_on_root(read)
    raw = world.shared((train + test, shape[0] * shape[1] + 1), np.uint8)
    if arrays:
        for part, images, labels in ((raw[:train], *arrays[:2]), (raw[train:], *arrays[2:])):
            part[:, :-1] = images[: len(part)].reshape(len(part), -1)
            part[:, -1] = labels[: len(part)]
    world.send_to_nodes(raw)
    return train, raw, shape


def read_files(name: str, files: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Training images (n, rows, columns), labels (n,) from 0, test images and labels. files: of `find_files`.

    Raises InputError.
    """
    classes, first = EMNIST_CLASSES.get(name, DIGITS), FIRST_LABEL.get(name, 0)
    if len(files) == 1:
        return read_keras(files[0], len(classes))
    arrays = []
    for pair in (files[:2], files[2:]):
        images, labels = read_idx_pair(pair[0], pair[1], len(classes), first)
        if name in EMNIST_CLASSES:
            images, labels = images.transpose(0, 2, 1), labels - np.uint8(first)  # EMNIST's images are transposed
        arrays += [images, labels]
    return arrays


def pixel_moments(world: World, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, from an exact count of each value. Collective."""
    counts = np.zeros(256, np.int64)
    for rows in own_blocks(len(images), world.rank, world.size):
        counts += np.bincount(images[rows].reshape(-1), minlength=256)
    world.total(counts)
    total, squares = (int((counts * np.arange(256) ** power).sum()) for power in (1, 2))
    mean = total / images.size
    variance = squares / images.size - mean * mean
    return mean, math.sqrt(variance) if variance > 0 else 1.0


def standardise(world: World, raw: Raw, mean: float, deviation: float, classes: int, dtype: DTypeLike) -> Split:
    """(pixel - mean) / deviation and one-hot targets; each rank of a node writes its share. Collective."""
    features = raw.shape[1] - 1
    split = empty_split(world, len(raw), features, classes, dtype)
    for rows in own_blocks(len(raw), world.node_rank, world.node_size):
        block = split.inputs[rows, :features]
        np.subtract(raw[rows, :-1], np.asarray(mean, dtype), out=block)
        np.divide(block, np.asarray(deviation, dtype), out=block)
        split.inputs[rows, features] = 1
        split.targets[rows][np.arange(rows.stop - rows.start), raw[rows, -1]] = 1
    world.node_barrier()
    return split
