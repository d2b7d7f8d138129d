"""A person's own table, CSV or NPZ: rows of numbers, each with a class, and which of them are to test on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.csv_tables import MOST_CLASSES, Class, Learned, as_number, is_missing, read_csv
from distnet.datasets.npz_tables import read_npz
from distnet.datasets.split import draw_held_out, find_single
from distnet.parallel.shards import row_blocks
from distnet.runtime.errors import InputError

HELD_OUT = (0, 1)  # with the seed, names the draw of the rows held out: no epoch has the number 0


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    label, header, ignore: of CSV, see `read_csv`. test_share: of each class, the rows to hold out where the file has no
    test part; None for no split: all rows are for training. split_seed: draws them. learned: of the model to evaluate,
    None to train one.
    """

    label: str | None = None
    header: str | None = None
    ignore: tuple[str, ...] = ()
    test_share: float | None = 0.2
    split_seed: int = 0
    learned: Learned | None = None


class Table(NamedTuple):
    """values: (rows, columns), finite. codes: (rows,), each row's place in `classes`, which are sorted.

    train, test: which rows are for what, in the order in which they are used.
    columns: names of the columns of `values`, None where the file has none; label: that of the classes.
    remarks: what to print, a line each.
    """

    values: NDArray[Any]
    codes: NDArray[np.int64]
    classes: list[Class]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    columns: tuple[str, ...] | None
    label: str | None
    remarks: list[str]

    def fingerprint(self) -> str:
        """sha256 of all values and classes, and of what is for testing."""
        digest = hashlib.sha256(repr((self.values.shape, self.values.dtype.str, self.classes)).encode())
        digest.update(self.values.data)
        digest.update(self.codes.data)
        digest.update(self.test.data)
        return digest.hexdigest()


def read_table(kind: str, path: Path, options: TableOptions) -> Table:
    """The table in a file of this kind, "csv" or "npz".

    Raises InputError where the file can't be read, or has a row without its numbers and its class.
    For rank 0.
    """
    columns: tuple[str, ...] | None = None
    label, remarks, tests = None, list[str](), 0
    try:
        if kind == "csv":
            values, codes, classes, columns, label, remarks = read_csv(
                path, options.label, options.header, options.ignore, options.learned
            )
        else:
            values, codes, classes, tests = read_npz(path)
    except OSError as error:
        raise InputError(
            f"--dataset {kind}:{path}", f"can't be read ({error.strerror or error})", "name a file of rows of numbers"
        ) from None
    if options.learned is None:
        check_classes(path, codes, classes)
    train, test = split_rows(path, codes, classes, tests, options)
    return Table(values, codes, classes, train, test, columns, label, remarks)


def check_classes(path: Path, codes: NDArray[np.int64], classes: list[Class]) -> None:
    """Raise InputError where labels aren't classes to learn."""
    if len(classes) < 2:
        raise InputError(path, f"all rows are of class {classes[0]!r}", "give it two classes or more")
    if len(classes) == len(codes) > 2:
        raise InputError(
            path, "every row is of a class of its own", "give it labels that are classes, not measurements"
        )
    if len(classes) > MOST_CLASSES and is_measured(classes):
        raise InputError(
            path,
            f"its label has {len(classes):,} different values, which aren't whole numbers, such as {classes[0]}",
            "give it labels that are classes, not measurements",
        )


def is_measured(classes: list[Class]) -> bool:
    """Whether classes are numbers, not all of them whole."""
    numbers = [as_number(str(name)) for name in classes if not is_missing(str(name))]
    return None not in numbers and any(number is not None and not number.is_integer() for number in numbers)


def split_rows(
    path: Path, codes: NDArray[np.int64], classes: list[Class], tests: int, options: TableOptions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows are for training and which for testing; the last `tests` are, where there are some.

    Raises InputError for a class that can't be on both sides.
    """
    order, first_test = np.arange(len(codes)), len(codes) - tests
    if tests or options.test_share is None:
        return order[:first_test], order[first_test:]
    seed = [options.split_seed, *HELD_OUT]
    count = min(max(round(options.test_share * len(codes)), 1), len(codes) - 1)
    single = find_single(codes)
    if single is not None:
        remedy = "evaluate --part all" if options.learned else "add rows of it, or leave it out"
        raise InputError(
            path, f"class {classes[single]!r} has one row, which can't be both learned and tested on", remedy
        )
    held, rest = draw_held_out(codes, count, seed)
    return rest, held


def column_moments(path: Path, table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (columns,) over the training rows; 1 for the deviation where nothing varies.

    Raises InputError for a column whose numbers are too large for that.
    """
    columns = table.values.shape[1]
    total, squares = np.zeros((2, columns))
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    blocks = [table.train[rows] for rows in row_blocks(len(table.train), columns)]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for rows in blocks:
            block = table.values[rows].astype(np.float64)
            total += block.sum(axis=0)
            np.minimum(low, block.min(axis=0), out=low)
            np.maximum(high, block.max(axis=0), out=high)
        mean = total / len(table.train)
        for rows in blocks:
            squares += np.square(table.values[rows] - mean).sum(axis=0)
        deviation = np.sqrt(squares / len(table.train))
    constant = low == high  # which rounding in the mean must not hide
    mean[constant], deviation[constant] = low[constant], 1
    wrong = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(deviation) & (deviation > 0)))
    if wrong.size:
        column = wrong[0]
        raise InputError(
            path,
            f"feature {column + 1} runs from {low[column]:g} to {high[column]:g}, which can't be standardised",
            "scale it",
        )
    return mean, deviation
