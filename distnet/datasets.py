"""Data sets to arrays that the ranks of a node share: find, read, broadcast, standardise, one-hot.

`python -m distnet.datasets mnist` downloads one.
"""

from distnet import guard

if __name__ == "__main__":
    guard.watch()  # before any import that can fail

import hashlib
import os
import re
import string
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.config import EMNIST, TABLES, Config, Parser, file_path
from distnet.errors import InputError, input_error_on_every_rank
from distnet.functional import Array
from distnet.guard import run, say
from distnet.idx import EMNIST_REMEDY, FILES, read_idx_pair, sha256_of
from distnet.keras import read_keras
from distnet.layers import padded
from distnet.shards import row_blocks, share
from distnet.split import draw_held_out, find_single
from distnet.synthetic import synthetic_digits
from distnet.tables import Table, TableOptions, column_moments, read_table
from distnet.text import join_names
from distnet.world import World, collective, launched_world

NAMES = ("fashion-mnist", "mnist")  # those that can be downloaded
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
KNOWN_SAMPLES = (60_000, 10_000)  # of MNIST and Fashion-MNIST, training and test
KERAS = "mnist.npz"
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # the folder, in which `raw` has the files
# Names of MNIST in any form, but not of Fashion-MNIST, EMNIST or KMNIST.
LIKE_MNIST = re.compile(r"(?!.*fashion)(.*(?<![a-z])mnist|(train|test|t10k)[-_.]?(images|labels))", re.IGNORECASE)
# Where Debian's package dataset-fashion-mnist puts its files.
INSTALLED = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
VALIDATION = (0, 2)  # with the seed, names the draw of the samples held out; tables' test rows have (0, 1)
SHOWN = 5  # files that are there instead of MNIST, in a message
FIRST_ANSWER = 5.0  # seconds that training waits for a mirror
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


def file_names(name: str) -> list[str]:
    """The four IDX files of a data set: training images, training labels, test images, test labels."""
    if name not in EMNIST:
        return list(FILES)
    return [f"{name}-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]


def home(name: str, directory: Path) -> Path:
    """The folder for the files of a data set: Fashion-MNIST's have the names of MNIST's, and one of their own."""
    return directory / name if name == "fashion-mnist" and directory.name != name else directory


def folders(name: str, directory: Path) -> list[Path]:
    """Where the files of a data set may lie for this --data-dir: there, or where torchvision or Debian put them."""
    found = [home(name, directory), directory]
    if below := TORCHVISION.get(name):
        found += [directory / below / "raw", *([directory / "raw"] if directory.name == below else [])]
    if name in INSTALLED:
        found.append(INSTALLED[name])
    return list(dict.fromkeys(found))


def find_files(name: str, directory: Path) -> list[Path] | None:
    """The four IDX files (train images, train labels, test images, test labels), or Keras's one .npz file.

    None if there is nothing of them. Raises InputError where some are there and some are missing.
    """
    trouble = ""
    for folder in folders(name, directory):
        found = [next(filter(os.path.isfile, spellings(folder / file)), None) for file in file_names(name)]
        if name == "fashion-mnist" and folder != home(name, directory) and found[3] and is_mnist(found[3]):
            continue
        there = [path for path in found if path]
        if len(there) == len(found):
            return there
        if name == "mnist" and os.path.isfile(folder / KERAS):
            return [folder / KERAS]
        if there and not trouble:
            missing = [file for file, path in zip(file_names(name), found, strict=True) if not path]
            trouble = (
                f"--data-dir {folder}: {join_names(missing)} {'is' if len(missing) == 1 else 'are'} missing beside "
                f"{join_names([path.name for path in there])}; {how_to_get(name, folder)}"
            )
    if trouble:
        raise InputError(trouble)
    return None


def spellings(path: Path) -> list[Path]:
    """An IDX file as LeCun names it, and as 7-Zip does, both with .gz behind it or not."""
    return [
        path.with_name(f"{name}{ending}")
        for name in (path.name, path.name.replace("-idx", ".idx"))
        for ending in ("", ".gz")
    ]


def is_mnist(test_labels: Path) -> bool:
    """Whether these test labels, which are few bytes, are those of MNIST. Collective: no."""
    from distnet import mirrors

    return mirrors.is_file_of("mnist", FILES[3], test_labels)


def traces(directory: Path) -> list[str]:
    """The files and folders in a folder whose names look like MNIST, whatever their form; no empty folders."""
    found = []
    with suppress(OSError):
        for entry in os.scandir(directory):
            if LIKE_MNIST.match(entry.name) and (not entry.is_dir() or os.listdir(entry)):
                found.append(entry.name)
    return sorted(found)


def how_to_get(name: str, folder: Path) -> str:
    """What to tell who hasn't the files."""
    if name in EMNIST:
        return EMNIST_REMEDY
    return f"fetch the files with: python -m distnet.datasets {name} --data-dir {folder}"


def locate(name: str, directory: Path, asked_for: bool, folder_given: bool) -> tuple[list[Path] | None, str]:
    """The files of data set `name`, or None for drawn digits, and what to tell the user.

    Where the folder is the default one, the mirrors are tried once. asked_for: whether the user named the
    data set or the folder, and so would not want another one. Nor does who has a file that looks like MNIST.
    Collective: no, for rank 0.
    """
    if name == "synthetic":
        return None, ""
    if files := find_files(name, directory):
        return files, ""
    if name in EMNIST:
        *most, last = file_names(name)
        raise InputError(f"--data-dir {directory}: put {', '.join(most)} and {last} there, with .gz behind them or not")
    if folder_given:
        raise InputError(missing_files(name, directory))
    from distnet import mirrors  # its imports take a while, and few runs need it

    try:
        mirrors.download(name, home(name, directory), first_answer=FIRST_ANSWER)
    except InputError:
        if asked_for:
            raise
        if traces(directory):
            raise InputError(missing_files(name, directory)) from None
        return None, (
            f"no {name} in {directory}/, and no mirror gave it within {FIRST_ANSWER:g} s; "
            f"going on with synthetic digits (python -m distnet.datasets {name} tries again)"
        )
    return find_files(name, directory), ""


def missing_files(name: str, directory: Path) -> str:
    """That a data set isn't in a folder, and what is there instead."""
    found = traces(directory) if name == "mnist" else []
    there = f", but {join_names(found[:SHOWN])}{' and others' * (len(found) > SHOWN)}" if found else ""
    npz = f", nor is {KERAS}" if name == "mnist" else ""
    return (
        f"--data-dir {directory}: {FILES[0]} and the other files of {name} aren't there{npz}{there}; "
        f"{how_to_get(name, directory)}"
    )


def load(
    world: World,
    name: str,
    directory: Path,
    dtype: DTypeLike,
    *,
    train_limit: int | None = None,
    train_samples: int = 60_000,
    asked_for: bool = True,
    folder_given: bool = True,
    table: TableOptions = TableOptions(),
    raw_inputs: bool = False,
) -> Dataset:
    """Training and test set, standardised by the mean and deviation of all pixels of the training set.

    name: as --dataset has it. table: how to read one. raw_inputs: don't standardise.
    Rank 0 alone reads files; every rank draws a part of synthetic digits. Raises InputError on every rank.
    Collective: yes.
    """
    kind, _, path = name.partition(":")
    if kind in TABLES:
        return load_table(world, kind, Path(path), dtype, train_limit, table, raw_inputs)
    files, remark = world.on_root(lambda: locate(name, directory, asked_for, folder_given))
    if remark and world.rank == 0:
        say(remark)
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
    Raises InputError on every rank. Collective: yes.
    """
    read: list[tuple[Table, Array, Array]] = []

    def read_all() -> tuple[int, int, int, Any]:
        table = read_table(kind, path, options)
        for remark in table.remarks:
            say(remark)
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
                raise InputError(f"{path}: some numbers are too large for {np.dtype(dtype)}; {remedy}")
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
def load_mnist(data_dir: str | Path = Config.data_dir, dtype: DTypeLike = np.float32) -> Arrays:
    """MNIST as X_train (60000, 784), Y_train (60000, 10), X_test (10000, 784), Y_test (10000, 10).

    Standardised and one-hot; the ranks of a node share one copy. `about` has the mean and the deviation. Raises
    InputError where MNIST isn't there. Collective: yes, under mpirun.
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
                f"{files[2 % len(files)]}: images of {test[0].size} pixels, and {train[0].size} in {files[0]}; "
                "take training and test set from the same place"
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

    Raises InputError. Collective: no.
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


def check_bytes(name: str, files: Sequence[Path], arrays: Sequence[NDArray[np.uint8]]) -> None:
    """Raise InputError where one of the four arrays has the known size, but not the known bytes. Collective: no.

    Another number of samples is somebody's own data in the same form.
    """
    from distnet import mirrors

    for number, (file, array) in enumerate(zip(FILES, arrays, strict=True)):
        path, known = files[number % len(files)], mirrors.DATASETS[name].sha256[file]
        if len(array) in KNOWN_SAMPLES and sha256_of(array) != known:
            raise InputError(
                f"{path}: its bytes aren't those of {name} "
                f"(sha256 {sha256_of(array)[:8]}..., not {known[:8]}...); "
                f"download it again: python -m distnet.datasets {name} --data-dir {path.parent}"
            )


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


def empty_split(world: World, samples: int, features: int, classes: int, dtype: DTypeLike) -> Split:
    """Zeroed shared memory for a data set. Collective."""
    inputs = world.shared((samples, padded(features + 1, dtype)), dtype)
    return Split(inputs, world.shared((samples, classes), dtype), features)


def shared_split(world: World, X: Array, Y: Array, dtype: DTypeLike) -> Split:
    """A person's own arrays as the ranks of a node share them.

    X: (samples, features). Y: (samples, classes), each row sums to 1. Both the same on every rank, each of
    which writes a share of the rows.
    Raises InputError, on every rank, where they can't be that on one. Collective: yes.
    """
    problem = ""
    try:
        X, Y = as_numbers("X", X, dtype), as_numbers("Y", Y, dtype)
    except InputError as error:
        problem = str(error)
    if world.comm is not None and world.size > 1:
        shapes: tuple[int, ...] | None = None
        for rank, (theirs, what) in enumerate(world.comm.allgather(((*X.shape, *Y.shape), problem))):
            shapes = shapes or theirs
            if what:
                problem = f"{what} (on rank {rank})"
            elif theirs != shapes:
                problem = f"X and Y: rank {rank} has others than rank 0; give all ranks the same arrays"
    if problem:
        raise input_error_on_every_rank(problem)
    split = empty_split(world, len(X), X.shape[1], Y.shape[1], dtype)
    mine = share(len(X), world.node_rank, world.node_size)
    rows = slice(mine.start, mine.stop)
    split.inputs[rows, : split.features] = X[rows]
    split.inputs[rows, split.features] = 1
    split.targets[rows] = Y[rows]
    world.node_barrier()
    return split


def as_numbers(name: str, values: Array, dtype: DTypeLike) -> Array:
    """`values` as they are where they are real numbers, else converted. Raises InputError. Collective: no."""
    if values.dtype.kind in "biuf":
        return values
    try:
        if values.dtype.kind == "c":
            raise ValueError("complex numbers")
        return values.astype(dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: not all of its values are numbers ({error}); convert or remove them") from None


def hold_out(
    world: World, split: Split, count: int, seed: int, classes: Sequence[object], option: str
) -> tuple[Split, NDArray[np.int64]]:
    """`count` samples of a training set, of each class its share, as a set of their own; and which samples are left.

    seed: draws them. classes: their names. option: what asked for them, for messages.
    Raises InputError where none would be left, and for a class of one sample. Collective.
    """
    samples = len(split.inputs)
    if count >= samples:
        raise input_error_on_every_rank(
            f"{option}: there are {samples} training samples, and some have to be learned; hold out fewer"
        )
    codes = split.targets.argmax(axis=1)
    if (single := find_single(codes)) is not None:
        raise input_error_on_every_rank(
            f"{option}: class {classes[single]!r} has one training sample, which can't be both learned and held out; "
            "add some, or leave the class out"
        )
    chosen, rest = draw_held_out(codes, count, [seed, *VALIDATION])
    held = empty_split(world, count, split.features, split.targets.shape[1], split.inputs.dtype)
    mine = share(count, world.node_rank, world.node_size)
    rows = slice(mine.start, mine.stop)
    held.inputs[rows] = split.inputs[chosen[rows]]
    held.targets[rows] = split.targets[chosen[rows]]
    world.node_barrier()
    return held, np.sort(rest)


def parser() -> Parser:
    """The parser of `python -m distnet.datasets`."""
    made = Parser(prog="python -m distnet.datasets", description="Download a data set and check every byte of it.")
    made.add_argument("dataset", choices=NAMES, help="which one")
    made.add_argument("--data-dir", type=file_path, default=Path("data"), help="where to put it (default: data)")
    made.add_argument(
        "--mirror", action="append", default=[], metavar="URL", help="a folder to try first; may be repeated"
    )
    return made


def main() -> None:
    """Download a data set."""
    from distnet import mirrors

    options = parser().parse_args()
    bases = [*options.mirror, *mirrors.DATASETS[options.dataset].mirrors]
    mirrors.download(options.dataset, home(options.dataset, options.data_dir), bases, sys.stdout)


if __name__ == "__main__":
    run(main)
