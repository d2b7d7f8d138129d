"""Parquet files, read by pyarrow, an optional dependency."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.csv_tables import check_names, choose_columns, column_name, find_extra, ignored_columns
from distnet.datasets.dataset import Table, find_not_finite
from distnet.datasets.options import TableOptions
from distnet.datasets.targets import add_columns, as_column
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.logs import warn
from distnet.runtime.text import format_count, list_names

INDEX = re.compile(r"__index_level_\d+__")  # as pandas names an index


def read_parquet(path: Path, options: TableOptions) -> Table:
    """The rows of a Parquet file, all of them to train on unless a column divides them. Values are float64.

    Inputs are numbers and booleans; the other columns may be text. Raises InputError, which names the columns that
    can't be read, and OSError.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(path, "reading Parquet needs pyarrow", "pip install pyarrow") from None
    with path.open("rb") as file:
        try:
            stored = parquet.ParquetFile(file)
            names = [name for name in stored.schema_arrow.names if not INDEX.fullmatch(name)]
            if twice := [name for place, name in enumerate(names) if name in names[:place]]:
                raise InputError(path, f"has two columns {twice[0]}", "rename one")
            layout = choose_columns(path, names, options)._replace(header=True)
            read = {place: stored.read([names[place]]).column(0) for place in (*layout.inputs, *layout.labels)}
        except InputError:
            raise
        except (ArrowException, ValueError, IndexError) as error:
            raise InputError(path, f"is damaged or not a Parquet file ({first_line(error)})", "save it again") from None
    check_names(path, layout, True, options.learned)
    if layout.by_name and (extra := find_extra(layout, options)):
        warn(f"{path}: {ignored_columns(extra)}")
    problems, arrays = [], {}
    for place, column in read.items():
        name = column_name(place, names)
        if column.null_count:
            problems.append(f"{name} has {format_count(column.null_count, 'missing value')}")
        elif (array := as_array(column, can_be_text=place in layout.labels)) is None:
            problems.append(f"{name} is of type {column.type}")
        else:
            arrays[place] = array
    if problems:
        raise InputError(path, list_names(problems), "turn them into numbers, or leave columns out with --ignore")
    if not len(arrays[layout.inputs[0]]):
        raise InputError(path, "has no rows", "add some")
    for place, array in arrays.items():
        if array.dtype.kind == "f" and (wrong := find_not_finite(array)) is not None:
            subject = f"{path}: row {wrong[0]}, {column_name(place, names)}"
            raise InputError(subject, f"{array[wrong]} is not a finite number", "correct it, or remove the row")
    values = np.stack([arrays[place] for place in layout.inputs], axis=1).astype(np.float64, copy=False)
    columns = {place: as_column(column_name(place, names), arrays[place], "row {}".format) for place in layout.labels}
    table = Table(
        values,
        np.zeros(len(values), np.int64),
        [],
        np.arange(len(values)),
        np.arange(0),
        tuple(names[place] for place in layout.inputs),
        tuple(names[place] for place in layout.targets),
    )
    return add_columns(path, table, layout.targets, layout.weight, layout.split, columns, options.task)


def as_array(column: Any, can_be_text: bool) -> NDArray[Any] | None:
    """The values (rows,) of a column of pyarrow's without missing values; None if it is of another type."""
    from pyarrow import float64, types

    if types.is_dictionary(column.type):  # as pandas stores categories
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):
        column = column.cast(float64())
    if types.is_boolean(column.type):
        return np.array(column.to_pylist(), np.int64)
    if types.is_integer(column.type) or types.is_floating(column.type):
        array: NDArray[Any] = column.to_numpy()
        return array
    if can_be_text and (types.is_string(column.type) or types.is_large_string(column.type)):
        return np.array(column.to_pylist(), str)
    return None
