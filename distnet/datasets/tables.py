"""Your own table, CSV, NPZ or Parquet: checked, split into training and test rows, with the moments of its columns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.csv_tables import read_csv
from distnet.datasets.dataset import Table, check_no_single, draw_held_out
from distnet.datasets.npz import read_npz
from distnet.datasets.options import Learned, TableOptions
from distnet.datasets.parquet import read_parquet
from distnet.datasets.sparse import Rows
from distnet.parallel.shards import row_blocks
from distnet.portable.grids import exact_sum
from distnet.runtime.errors import InputError

HELD_OUT = (0, 1)  # with the seed, selects the draw of the test rows; epochs count from 1
READERS = {"csv": read_csv, "npz": read_npz, "parquet": read_parquet}


def read_table(kind: str, path: Path, options: TableOptions) -> Table:
    """The table in a file of this kind, "csv", "npz" or "parquet".

    Raises InputError if it can't be read, a value or target is missing or invalid, or it can't be split. For rank 0.
    """
    table = read_file(kind, path, options, "--dataset")
    if options.learned is None:
        check_classes(path, table)
    if len(table.test) or options.test_share is None:
        return table
    rows = len(table.codes)
    if rows < 2:
        remedy = "evaluate --part all" if options.learned else "add some"
        raise InputError(path, "has one row, which can't be both learned and held out", remedy)
    count = min(max(round(options.test_share * rows), 1), rows - 1)
    remedy = "evaluate --part all" if options.learned else "add rows of it, or leave it out"
    if table.classes:
        check_no_single(table.codes, table.classes, path, remedy)
    if options.has_old_draw:
        problem = "the model is of distnet 0.1, which held out other rows"
        raise InputError(path, problem, "evaluate --part all, or train it again")
    test, train = draw_held_out(table.codes, count, [options.split_seed, *HELD_OUT])
    return table._replace(train=train, test=test)


def read_file(kind: str, path: Path, options: TableOptions, option: str) -> Table:
    """The table in a file of this kind, not split. option: names the file in messages. Raises InputError."""
    try:
        return READERS[kind](path, options)
    except OSError as error:
        problem = f"can't be read ({error.strerror or error})"
        raise InputError(f"{option} {kind}:{path}", problem, "name a file of rows of numbers") from None


def add_validation(kind: str, path: Path, table: Table, options: TableOptions) -> Table:
    """The table with the rows of a file of the same kind and columns as its validation set.

    Raises InputError if the file can't be read, or has other columns or classes.
    """
    names = frozenset(map(str, table.classes))
    learned = Learned(table.columns, table.targets, options.target, names)
    options = replace(options, target=(), learned=learned, task=table.task)
    others = read_file(kind, path, options, "--validation-data")
    for what, theirs, ours in (
        ("inputs", others.values.shape[1], table.values.shape[1]),
        ("targets", count_targets(others), count_targets(table)),
    ):
        if theirs != ours:
            raise InputError(path, f"has {theirs} {what}, and the data set {ours}", "give it the same columns")
    if (others.weights is None) != (table.weights is None):
        has, lacks = ("it", "the data set") if table.weights is None else ("the data set", "it")
        raise InputError(path, f"{has} has weights of its rows, and {lacks} has none", "give both weights, or none")
    # Class 1 of an integer column is "1" where the column also has text.
    places = {str(name): place for place, name in enumerate(table.classes)}
    if unknown := [name for name in others.classes if str(name) not in places]:
        raise InputError(path, f"no training row is of its class {unknown[0]!r}", "correct it, or leave it out")
    codes = np.array([places[str(name)] for name in others.classes] or [0], np.int64)[others.codes]
    rows = len(table.codes)
    parts = [(table.values, others.values), (table.numbers, others.numbers), (table.weights, others.weights)]
    values, numbers, weights = (
        None if one is None or other is None else np.concatenate([one, other]) for one, other in parts
    )
    assert values is not None
    return table._replace(
        values=values,
        codes=np.concatenate([table.codes, codes]),
        numbers=numbers,
        weights=weights,
        validation=rows + np.arange(len(codes)),
    )


def count_targets(table: Table) -> int:
    """The number of target columns."""
    return 1 if table.numbers is None else table.numbers.shape[1]


def check_classes(path: Path, table: Table) -> None:
    """Raise InputError if labels can't be classes to learn."""
    if table.task != "classification":
        return
    if len(table.classes) < 2:
        raise InputError(path, f"all rows are of class {table.classes[0]!r}", "give it two classes or more")
    if len(table.classes) == len(table.codes) > 2:
        problem = "every row is of a class of its own"
        raise InputError(path, problem, "name another column with --target, or choose another --task")


def column_moments(
    path: Path, values: NDArray[Any], train: Rows, what: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (columns,) over the training rows; the deviation of a constant column is 1.

    values: (rows, columns). what: a column in messages. Raises InputError if the numbers of a column are too large or
    too close for that.
    """
    columns = values.shape[1]
    total, squares = np.zeros((2, columns))
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    blocks = [train[rows] for rows in row_blocks(len(train), columns)]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for rows in blocks:
            block = values[rows].astype(np.float64)
            total += exact_sum(block)
            np.minimum(low, block.min(axis=0), out=low)
            np.maximum(high, block.max(axis=0), out=high)
        mean = total / len(train)
        for rows in blocks:
            squares += exact_sum(np.square(values[rows] - mean))
        deviation = np.sqrt(squares / len(train))
    constant = low == high  # which a rounded mean must not hide
    mean[constant], deviation[constant] = low[constant], 1
    wrong = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(deviation) & (deviation > 0)))
    if wrong.size:
        column = wrong[0]
        span = f"{what} {column + 1} ranges from {low[column]:g} to {high[column]:g}"
        raise InputError(path, f"{span}, which can't be standardised", "scale it")
    return mean, deviation
