"""The columns of a table that are not inputs: its targets and their task, weights, and the set of each row."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.dataset import Class, Table
from distnet.datasets.sparse import Rows
from distnet.runtime.errors import InputError
from distnet.runtime.text import list_names

MOST_CLASSES = 20  # of a column of integers whose task is not given
WITH_COMMA = re.compile(r"[+-]?[0-9.]*,[0-9]+")
PARTS = ("train", "validation", "test")  # the values of --split-column


class Column(NamedTuple):
    """A column that is not an input, by its distinct values.

    name: for messages, such as "column 3 (price)". codes: (rows,), the index of each row's value in `values`.
    numbers: of `values`, NaN for text and for missing ones. missing: of `values`, whether they are missing.
    place: names a row in messages, such as "line 3".
    """

    name: str
    codes: Rows
    values: Sequence[Class]
    numbers: NDArray[np.float64]
    missing: NDArray[np.bool_]
    place: Callable[[int], str]

    @property
    def is_text(self) -> bool:
        """Whether some value is neither a number nor missing."""
        return bool((np.isnan(self.numbers) & ~self.missing).any())

    def find_rows(self, where: NDArray[np.bool_]) -> Rows:
        """The rows whose value is one of those that `where` selects."""
        return np.flatnonzero(where[self.codes])

    def refuse(self, path: Path, wrong: NDArray[np.bool_], problem: str, remedy: str) -> None:
        """Raise InputError, which names the first row with a wrong value, if there is one. problem: about {}."""
        if wrong.any():
            row = int(self.find_rows(wrong)[0])
            value = self.values[self.codes[row]]
            raise InputError(f"{path}: {self.place(row)}, {self.name}", problem.format(repr(value)), remedy)


def add_columns(
    path: Path,
    table: Table,
    targets: Sequence[int],
    weight: int | None,
    split: int | None,
    columns: Mapping[int, Column],
    task: str | None,
) -> Table:
    """The table with what these columns hold, by their indices. Raises InputError as the functions below."""
    table = add_targets(path, table, [columns[place] for place in targets], task)
    if weight is not None:
        table = add_weights(path, table, columns[weight])
    return table if split is None else add_split(path, table, columns[split])


def add_targets(path: Path, table: Table, columns: Sequence[Column], task: str | None) -> Table:
    """The table with what its target columns hold. task: None to infer it.

    Raises InputError if they don't suit the task, or suit several.
    """
    task = task or find_task(path, columns)
    if task == "classification":
        if len(columns) > 1:
            problem = f"classes stand in one column, and the targets are {list_names(each.name for each in columns)}"
            raise InputError(path, problem, "name one --target, or choose --task multilabel")
        return add_classes(table, columns[0])
    for each in columns:
        remedy = "correct it (5.1, not 5,1), or remove the row"
        each.refuse(path, ~np.isfinite(each.numbers), "{} is not a finite number", remedy)
        if task == "multilabel":
            wrong = (each.numbers != 0) & (each.numbers != 1)
            each.refuse(path, wrong, "{} is neither 0 nor 1", "correct it, or choose another --task")
    numbers = np.stack([each.numbers[each.codes] for each in columns], axis=1)
    return table._replace(task=task, codes=np.zeros(len(numbers), np.int64), classes=[], numbers=numbers)


def find_task(path: Path, columns: Sequence[Column]) -> str:
    """What targets such as these usually mean. Raises InputError if they may mean several tasks.

    One column of text or of at most 20 different integers: classification. Some numbers that are not integers:
    regression. Several columns of 0 and 1: multilabel.
    """
    numbers = np.concatenate([each.numbers[~each.missing] for each in columns])
    if texts := [each for each in columns if each.is_text]:
        for each in texts:
            are_text = np.isnan(each.numbers) & ~each.missing
            with_comma = np.array([WITH_COMMA.fullmatch(str(value)) is not None for value in each.values])
            if with_comma[are_text].all():
                each.refuse(path, are_text, "{} has a decimal comma", "write 5.1, not 5,1, or choose another --task")
        if len(columns) == 1:
            return "classification"
        problem = f"{texts[0].name} holds text, and there are {len(columns)} target columns"
        raise InputError(path, problem, "name one --target, or columns of numbers")
    if (numbers != np.floor(numbers)).any():
        return "regression"
    if len(columns) > 1:
        if np.isin(numbers, (0, 1)).all():
            return "multilabel"
        names = list_names(each.name for each in columns)
        raise InputError(path, f"the targets {names} are integers, not all 0 or 1", "choose --task regression")
    if len(columns[0].values) <= MOST_CLASSES:
        return "classification"
    problem = f"{columns[0].name} has {len(columns[0].values):,} different integers"
    raise InputError(path, problem, "choose --task classification or --task regression")


def add_classes(table: Table, column: Column) -> Table:
    """The table with the classes in a column."""
    classes = sorted(set(column.values))
    places = {name: number for number, name in enumerate(classes)}
    codes = np.array([places[name] for name in column.values], np.int64)[column.codes]
    return table._replace(task="classification", codes=codes, classes=classes)


def add_weights(path: Path, table: Table, column: Column) -> Table:
    """The table with the weights in a column. Raises InputError if some are not numbers of 0 or more."""
    wrong = ~(np.isfinite(column.numbers) & (column.numbers >= 0))
    column.refuse(path, wrong, "{} is not a finite number of 0 or more", "correct this weight, or remove the row")
    return table._replace(weights=column.numbers[column.codes])


def add_split(path: Path, table: Table, column: Column) -> Table:
    """The table, divided as a column says. Raises InputError for another word, and if a set has no rows."""
    names = np.array([str(each) for each in column.values])
    column.refuse(path, ~np.isin(names, PARTS), f"{{}} is none of {', '.join(PARTS)}", "name the set of the row")
    train, validation, test = (column.find_rows(names == part) for part in PARTS)
    for part, rows in (("train", train), ("test", test)):
        if not len(rows):
            raise InputError(path, f"{column.name} has no {part} row", "mark some rows with it")
    return table._replace(train=train, test=test, validation=validation if len(validation) else None)


def as_column(name: str, values: NDArray[Any], place: Callable[[int], str]) -> Column:
    """A column of an array (rows,) of numbers or text."""
    distinct, codes = np.unique(values, return_inverse=True)
    is_text = distinct.dtype.kind == "U"
    numbers = np.full(len(distinct), np.nan) if is_text else distinct.astype(np.float64)
    missing = np.zeros(len(distinct), np.bool_)
    return Column(name, codes.reshape(-1).astype(np.int64), distinct.tolist(), numbers, missing, place)
