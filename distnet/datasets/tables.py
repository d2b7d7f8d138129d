"""Your own table, CSV or NPZ: checked, split into training and test rows, with the moments of its columns."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.csv_tables import MOST_CLASSES, as_number, is_missing, read_csv
from distnet.datasets.dataset import Class, Rows, Table, check_no_single, draw_held_out
from distnet.datasets.npz import read_npz
from distnet.datasets.options import TableOptions
from distnet.parallel.shards import row_blocks
from distnet.portable.grids import exact_sum
from distnet.runtime.errors import InputError

HELD_OUT = (0, 1)  # with the seed, selects the draw of the test rows; epochs count from 1


def read_table(kind: str, path: Path, options: TableOptions) -> Table:
    """The table in a file of this kind, "csv" or "npz".

    Raises InputError if it can't be read, a value or class is missing or invalid, or it can't be split. For rank 0.
    """
    try:
        table = read_csv(path, options) if kind == "csv" else read_npz(path)
    except OSError as error:
        problem = f"can't be read ({error.strerror or error})"
        raise InputError(f"--dataset {kind}:{path}", problem, "name a file of rows of numbers") from None
    if options.learned is None:
        check_classes(path, table.codes, table.classes)
    if len(table.test) or options.test_share is None:
        return table
    rows = len(table.codes)
    count = min(max(round(options.test_share * rows), 1), rows - 1)
    remedy = "evaluate --part all" if options.learned else "add rows of it, or leave it out"
    check_no_single(table.codes, table.classes, path, remedy)
    if options.has_old_draw:
        problem = "the model is of distnet 0.1, which held out other rows"
        raise InputError(path, problem, "evaluate --part all, or train it again")
    test, train = draw_held_out(table.codes, count, [options.split_seed, *HELD_OUT])
    return table._replace(train=train, test=test)


def check_classes(path: Path, codes: Rows, classes: list[Class]) -> None:
    """Raise InputError if labels can't be classes to learn."""
    if len(classes) < 2:
        raise InputError(path, f"all rows are of class {classes[0]!r}", "give it two classes or more")
    if len(classes) == len(codes) > 2:
        problem = "every row is of a class of its own"
    elif len(classes) > MOST_CLASSES and is_measured(classes):
        problem = f"its label has {len(classes):,} different values, which aren't integers, such as {classes[0]}"
    else:
        return
    raise InputError(path, problem, "give it labels that are classes, not measurements")


def is_measured(classes: list[Class]) -> bool:
    """Whether classes are numbers, and some of them not integers."""
    numbers = [as_number(str(name)) for name in classes if not is_missing(str(name))]
    return None not in numbers and any(number is not None and not number.is_integer() for number in numbers)


def column_moments(path: Path, table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (columns,) over the training rows; the deviation of a constant column is 1.

    Raises InputError if the numbers of a column are too large or too close for that.
    """
    columns = table.values.shape[1]
    total, squares = np.zeros((2, columns))
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    blocks = [table.train[rows] for rows in row_blocks(len(table.train), columns)]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for rows in blocks:
            block = table.values[rows].astype(np.float64)
            total += exact_sum(block)
            np.minimum(low, block.min(axis=0), out=low)
            np.maximum(high, block.max(axis=0), out=high)
        mean = total / len(table.train)
        for rows in blocks:
            squares += exact_sum(np.square(table.values[rows] - mean))
        deviation = np.sqrt(squares / len(table.train))
    constant = low == high  # which a rounded mean must not hide
    mean[constant], deviation[constant] = low[constant], 1
    wrong = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(deviation) & (deviation > 0)))
    if wrong.size:
        column = wrong[0]
        span = f"feature {column + 1} ranges from {low[column]:g} to {high[column]:g}"
        raise InputError(path, f"{span}, which can't be standardised", "scale it")
    return mean, deviation
