"""CSV files: their delimiter, header and columns, and the numbers and class of each row."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.dataset import Class, Table, find_not_finite
from distnet.datasets.idx import unpacked
from distnet.datasets.options import Learned, TableOptions
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn
from distnet.runtime.text import format_count, list_names

DELIMITERS = ",;\t"
SAMPLE = 20  # lines that determine the delimiter
CELLS_AT_ONCE = 500  # converted to numbers together
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DECIMAL = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+([eE][+-]?[0-9]+)?")  # also with a decimal comma
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,3999}")
# Missing values as pandas reads them and R and Weka write them.
MISSING = frozenset(["", "na", "n/a", "nan", "-nan", "#n/a", "#na", "<na>", "null", "none", "?", "-", "."])
UNNAMED = re.compile(r"|Unnamed: [0-9]+")  # as pandas writes an index, and names one that it reads
MOST_CLASSES = 20  # of a column whose first cell may be its name
COUNTING_ROWS = 10  # from this many rows, a column that counts them is not chance


@dataclass
class Fault:
    """Cells of a column that are not numbers. first: line and text of the first one."""

    count: int = 0
    first: tuple[int, str] = (sys.maxsize, "")


@dataclass
class Cells:
    """The cells of a table while it is read. Row 0 is the first line, header or not.

    bad: by column, and by whether the cells are missing or text; not those of the first line.
    """

    values: array[float] = field(default_factory=lambda: array("d"))
    codes: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    labels: dict[str, int] = field(default_factory=dict)
    bad: dict[tuple[int, bool], Fault] = field(default_factory=dict)

    def add_numbers(self, cells: list[str], columns: int) -> None:
        """Append the cells of whole rows to `values`, NaN for what is not a number. Needs the lines of these rows."""
        before = len(self.values)
        joined = "".join(cells)
        # float() also accepts underscores, other scripts' digits, nan and infinity.
        if joined.isascii() and "_" not in joined and "n" not in joined and "N" not in joined:
            try:
                self.values.extend(map(float, cells))
                return
            except ValueError:
                del self.values[before:]
        for place, cell in enumerate(cells, before):
            number = as_number(cell)
            self.values.append(math.nan if number is None else number)
            if number is None and place >= columns:
                self.add_bad(place % columns, self.lines[place // columns], cell.strip())

    def add_bad(self, column: int, line: int, cell: str) -> None:
        """Count a cell that is not a number."""
        fault = self.bad.setdefault((column, is_missing(cell)), Fault())
        fault.count += 1
        fault.first = min(fault.first, (line, cell))


class Layout(NamedTuple):
    """Which columns of a file hold what.

    first: cells of the first line. label: index of the column of classes. inputs: indices of the columns to read, in
    order. by_name: whether a model's names select them. header: whether the first line is one; None to detect it.
    named: each option that names a column, and that name or number.
    """

    first: list[str]
    label: int
    inputs: list[int]
    by_name: bool
    header: bool | None
    named: list[tuple[str, str]]


def read_csv(path: Path, options: TableOptions) -> Table:
    """The rows of a CSV file, plain or gzipped, all of them to train on. Values are float64.

    Classes are integers if every label is written as one, else text. A model to evaluate selects columns by name.
    Raises InputError, which names the line, and OSError.
    """
    with open_text(path) as file:
        try:
            reader = csv_reader(file, DELIMITERS)
            first = next(filter(is_filled, reader), None)
            if first is None:
                raise InputError(path, "is empty", "write one line per row, as in 5.1,3.5,setosa")
            layout = choose_columns(path, [cell.strip() for cell in first], options)
            cells = read_cells(path, reader, first, layout)
        except (UnicodeDecodeError, csv.Error) as error:
            raise csv_error(path, error) from None
    return build_table(path, cells, layout, options.learned)


def choose_columns(path: Path, first: list[str], options: TableOptions) -> Layout:
    """Which columns to read of a file with this first line. Raises InputError."""
    if len(first) < 2:
        raise InputError(path, "its first line has one value", "write numbers and a label in each row")
    label, ignore = options.label, options.ignore
    header = None if options.header is None else options.header == "yes"
    columns = options.learned.columns if options.learned else None
    by_name = columns is not None and bool(header or (header is None and not missing_columns(first, columns)))
    if options.learned and label is None:
        label = options.learned.label_option
        if by_name and options.learned.label is not None:
            label = options.learned.label
            if label not in first:
                raise InputError(path, f"its column of classes, {label}, is missing", "name it with --label")
    place = len(first) - 1 if label is None else find_column(path, "--label", label, first, header)
    named = [] if label is None else [("--label", label)]
    if columns and by_name:
        inputs = match_columns(path, first, columns)
        if place in inputs:
            problem = "is an input of the model"
            raise InputError(f"--label {label or first[place]}", problem, "name the column of the classes")
        return Layout(first, place, inputs, True, True, named)
    left_out = {find_column(path, "--ignore", each, first, header) for each in ignore}
    inputs = [number for number in range(len(first)) if number != place and number not in left_out]
    if place in left_out:
        raise InputError(f"--ignore {' '.join(ignore)}", f"column {place + 1} holds the classes", "name others")
    if not inputs:
        raise InputError(f"--ignore {' '.join(ignore)}", "no column is left to learn from", "leave out fewer")
    return Layout(first, place, inputs, False, header, named + [("--ignore", each) for each in ignore])


def find_column(path: Path, option: str, column: str, first: list[str], header: bool | None) -> int:
    """The index of a column that is given by its number from 1, or by its name in the first line.

    header: whether that is a header; None if it is not known yet. Raises InputError.
    """
    if INTEGER.fullmatch(column) and 1 <= int(column) <= len(first):
        return int(column) - 1
    if column in first and header is not False:
        return first.index(column)
    numbers = f"1 to {len(first)}"
    if header or (header is None and not any(map(is_number, first))):
        problem, remedy = "no such column", f"name one of {list_names(first)}, or {numbers}"
    else:
        problem, remedy = "no header and no such column", f"name {numbers}"
    raise InputError(f"{option} {column}", f"{path} has {problem}", remedy)


def find_names(names: Sequence[str], columns: Sequence[str]) -> list[int | None]:
    """The index of each of a model's columns in a header, None if it is missing. Names may occur more than once."""
    places: dict[str, list[int]] = {}
    for place in reversed(range(len(names))):
        places.setdefault(names[place], []).append(place)
    return [places[name].pop() if places.get(name) else None for name in columns]


def missing_columns(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The names of a model's columns that a header lacks."""
    return [name for name, place in zip(columns, find_names(names, columns), strict=True) if place is None]


def match_columns(path: str | Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """The index of each of a model's columns in a header. Raises InputError if any is missing."""
    if missing := missing_columns(names, columns):
        raise InputError(
            path,
            f"{format_count(len(missing), 'column')} of the model {'is' if len(missing) == 1 else 'are'} missing "
            f"({list_names(missing)}), and its header has {list_names(names)}",
            "add what is missing",
        )
    return [place for place in find_names(names, columns) if place is not None]


def read_cells(path: Path, reader: Any, first: list[str], layout: Layout) -> Cells:
    """All rows from the first line on. Raises InputError for a line without a label or with another width."""
    cells, width, place = Cells(), len(first), layout.label
    codes, lines, labels = cells.codes, cells.lines, cells.labels
    # A slice if possible: it is faster, and a single column has to give a list, too.
    inputs = layout.inputs
    run = inputs == list(range(inputs[0], inputs[-1] + 1))
    pick = itemgetter(slice(inputs[0], inputs[-1] + 1)) if run else itemgetter(*inputs)
    block: list[str] = []
    for row in chain([first], reader):
        label = row[place].strip() if len(row) == width else ""
        if not label and codes and not is_filled(row):
            continue
        if len(row) != width:
            problem = f"line {reader.line_num} has {format_count(len(row), 'value')}, the first line {width}"
            raise InputError(path, problem, "give all lines the same number")
        if not label and codes:
            raise InputError(path, f"line {reader.line_num} has no label", "add one, or remove the line")
        block += pick(row)
        codes.append(labels.setdefault(label, len(labels)))
        lines.append(reader.line_num)
        if len(block) >= CELLS_AT_ONCE:
            cells.add_numbers(block, len(inputs))
            block.clear()
    cells.add_numbers(block, len(inputs))
    return cells


def build_table(path: Path, cells: Cells, layout: Layout, learned: Learned | None) -> Table:
    """The table of all cells. Raises InputError if some are not numbers."""
    values = np.frombuffer(cells.values).reshape(len(cells.codes), -1)
    codes, lines, labels = np.frombuffer(cells.codes, np.int64), cells.lines, list(cells.labels)
    inputs, first, has_header = layout.inputs, layout.first, layout.header
    bad_first = {column: first[place] for column, place in enumerate(inputs) if not is_number(first[place])}
    signs: list[str] = []
    if has_header is None:
        signs = header_signs(cells, layout, bad_first, learned)
        has_header = bool(signs) or (len(codes) == 1 and len(bad_first) == len(inputs))
    check_names(path, layout, has_header, learned)
    if len(signs) == 1:
        warn(header_remark(path, signs[0]))
    names = first if has_header else None
    if has_header:
        values, codes, lines = values[1:], codes[1:], lines[1:]
        if not (codes == 0).any():
            codes, labels = codes - 1, labels[1:]
    else:
        for column, cell in bad_first.items():
            cells.add_bad(column, lines[0], cell)
        if "" in labels:
            raise InputError(path, f"line {lines[0]} has no label", "add one, or remove the line")
    if not len(codes):
        raise InputError(path, "has no row below its header", "add some")
    check_cells(path, cells, layout, names, len(codes))
    if (wrong := find_not_finite(values)) is not None:
        row, column = wrong
        raise not_a_number(path, lines[row], column_name(inputs[column], names), str(values[row, column]))
    if layout.by_name and (extra := [name for at, name in enumerate(first) if at not in (*inputs, layout.label)]):
        warn(f"{path}: {ignored_columns(extra)}")
    if learned is None:
        kept = drop_index(path, values, inputs, names)
        if len(kept) < len(inputs):
            values, inputs = np.ascontiguousarray(values[:, kept]), [inputs[column] for column in kept]
    # Integers if all are written as such, so that 01 is not 1.
    classes: list[Class] = list(map(int, labels)) if all(map(INTEGER.fullmatch, labels)) else list(labels)
    ordered = sorted(set(classes))
    places = {name: number for number, name in enumerate(ordered)}
    codes = np.array([places[name] for name in classes], np.int64)[codes]
    train, test = np.arange(len(codes)), np.arange(0)
    if names is None:
        return Table(values, codes, ordered, train, test)
    columns = tuple(names[place] for place in inputs)
    return Table(values, codes, ordered, train, test, columns, names[layout.label])


def header_signs(cells: Cells, layout: Layout, bad_first: dict[int, str], learned: Learned | None) -> list[str]:
    """The reasons why the first line must be a header; empty if there are none.

    bad_first: by column, the cells of the first line that are not numbers.
    """
    signs = []
    label, codes = layout.first[layout.label], np.frombuffer(cells.codes, np.int64)[1:]
    labels = [text for text, code in cells.labels.items() if code or (codes == 0).any()]
    over_numbers = False
    for column, cell in bad_first.items():
        text, missing = (cells.bad.get((column, kind), Fault()).count for kind in (False, True))
        over_numbers |= is_text(cell) and max(text, 1) <= len(codes) - text - missing
    if over_numbers or (labels and is_text(label) and all(map(is_number, labels))):
        signs.append("text stands over numbers")
    if counts_up(layout.first, layout.label):
        signs.append("its cells count from 0")
    is_learned = learned is not None and label in learned.classes
    if label and label not in labels and not is_learned and len(labels) <= MOST_CLASSES and len(labels) < len(codes):
        signs.append(f"no row has its label {label!r}")
    return signs


def header_remark(path: str | Path, sign: str) -> str:
    """The note on a first line that only one sign makes a header."""
    return f"{path}: its first line is read as a header, because {sign}; --header no reads it as a row"


def counts_up(cells: Sequence[str], label: int | None) -> bool:
    """Whether a first line counts 0, 1, 2, ..., as pandas names columns, with or without a label's and an index's."""
    inputs = [cell for place, cell in enumerate(cells) if place != label and cell]
    return any(len(some) > 1 and list(some) == [str(k) for k in range(len(some))] for some in (inputs, cells))


def check_names(path: Path, layout: Layout, has_header: bool, learned: Learned | None) -> None:
    """Raise InputError if an option or the model names a missing column; log how unclear names are read."""
    columns = learned.columns if learned else None
    if columns and has_header:
        match_columns(path, layout.first, columns)
    for option, column in layout.named:
        place = find_column(path, option, column, layout.first, has_header)
        if has_header and column in layout.first and layout.first[place] != column:
            chosen = column_name(place, layout.first)
            warn(f"{option} {column}: taken as a number: {chosen}, not the one of that name")
    if columns and not has_header:
        warn(f"{path}: it has no header, so its columns are taken in the order of the model's")


def check_cells(path: Path, cells: Cells, layout: Layout, names: list[str] | None, rows: int) -> None:
    """Raise one InputError for all cells that are not numbers."""
    bad = [(column_name(layout.inputs[key[0]], names), key[1], each) for key, each in sorted(cells.bad.items())]
    text, missing = ([(name, each) for name, kind, each in bad if kind == wanted] for wanted in (False, True))
    if not bad:
        return
    if sum(each.count for *_, each in bad) == 1:
        raise not_a_number(path, bad[0][2].first[0], bad[0][0], bad[0][2].first[1])
    problems = []
    if text:
        line, cell = min((each.first for _, each in text), key=itemgetter(0))
        columns = list_names(f"{name} in {each.count:,} of {rows:,} rows" for name, each in text)
        problems.append(f"there is text in {columns}, such as {cell!r} in line {line}")
    if missing:
        name, fault = min(missing, key=lambda each: each[1].first[0])
        count = sum(each.count for _, each in missing)
        verb = "is" if count == 1 else "are"
        problems.append(f"{format_count(count, 'cell')} {verb} empty, from line {fault.first[0]}, {name} on")
    raise InputError(path, "; ".join(problems), "turn them into numbers, or leave columns out with --ignore")


def drop_index(path: Path, values: NDArray[np.float64], inputs: list[int], names: list[str] | None) -> list[int]:
    """The columns of `values` without pandas' index: an unnamed one that numbers the rows. Logs what it finds."""
    kept, index = [], []
    for column, place in enumerate(inputs):
        name, numbers = column_name(place, names), values[:, column]
        is_unnamed = names is not None and UNNAMED.fullmatch(names[place]) is not None
        if is_unnamed and numbers_rows(numbers):
            index.append(column)
            continue
        kept.append(column)
        if len(numbers) >= COUNTING_ROWS and counts_rows(numbers):
            option = names[place] if names and not is_unnamed else place + 1
            warn(f"{path}: {name} counts the rows; --ignore {option} leaves it out")
    if not kept:
        return index
    for column in index:
        problem = f"column {inputs[column] + 1} has no name and numbers the rows, so it is left out"
        warn(f"{path}: {problem}; give it a name to learn from it")
    return kept


def counts_rows(column: NDArray[np.float64]) -> bool:
    """Whether each number is one more than the number above it."""
    return bool(column[1] - column[0] == 1 and (np.diff(column) == 1).all())


def numbers_rows(column: NDArray[np.float64]) -> bool:
    """Whether each row has its own integer from 0 up, in any order, possibly with gaps."""
    whole = (column >= 0).all() and (column == np.floor(column)).all()
    return bool(whole and len(np.unique(column)) == len(column) > 1)


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """The text of a file, plain or gzipped. Raises OSError, and InputError for a damaged gzip file."""
    with unpacked(path, "compress it again") as file:
        yield io.TextIOWrapper(file, "utf-8-sig", newline="")


def csv_reader(lines: Iterable[str], delimiters: str) -> Any:
    """A `csv.reader` of the lines, with the delimiter that suits the first lines best."""
    lines = iter(lines)
    sample = list(islice(lines, SAMPLE))
    delimiter = find_delimiter(sample, delimiters)
    return csv.reader(chain(sample, lines), delimiter=delimiter, skipinitialspace=delimiter == " ", strict=True)


def find_delimiter(sample: Sequence[str], delimiters: str) -> str:
    """The delimiter that divides all lines into equally many cells, most of them numbers; the first one if none does.

    A comma in quotes, or in a number, is not a delimiter.
    """
    ranks: list[tuple[bool, int, int, int, str]] = []
    for delimiter in delimiters:
        widths, numbers = set[int](), 0
        try:
            for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=delimiter == " ", strict=True):
                cells = [cell.strip() for cell in row if delimiter != " " or cell]
                if any(cells):
                    widths.add(len(cells))
                    numbers += sum(1 for cell in cells if DECIMAL.fullmatch(cell))
        except csv.Error as error:
            if "end of data" not in str(error):  # a quoted cell may continue after the sample
                continue
        if widths and max(widths) > 1:
            ranks.append((len(widths) == 1, numbers, min(widths), -len(ranks), delimiter))
    return max(ranks)[-1] if ranks else delimiters[0]


def is_filled(row: Iterable[str]) -> bool:
    """Whether any cell of a row is not blank."""
    return any(map(str.strip, row))


def as_number(cell: str) -> float | None:
    """The number in a cell, infinite if it is too large; None if the cell is not a number."""
    cell = cell.strip()
    return float(cell) if NUMBER.fullmatch(cell) else None


def is_number(cell: str) -> bool:
    """Whether a cell is a number."""
    return as_number(cell) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell marks a missing value."""
    return cell.strip().casefold() in MISSING


def is_text(cell: str) -> bool:
    """Whether a cell is neither a number nor missing."""
    return not is_number(cell) and not is_missing(cell)


def ignored_columns(names: Sequence[str]) -> str:
    """The note on columns that are not a model's."""
    return f"ignored {format_count(len(names), 'column')} that the model does not use: " + list_names(
        name or "(unnamed)" for name in names
    )


def column_name(place: int, names: Sequence[str] | None) -> str:
    """A column in a message: "column 2 (width)"."""
    return f"column {place + 1}" + (f" ({names[place]})" if names and names[place] else "")


def csv_error(path: str | Path, error: UnicodeDecodeError | csv.Error) -> InputError:
    """The error for a file that `csv.reader` can't read."""
    problem = "isn't UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"is not CSV ({error})"
    return InputError(path, problem, "save it as CSV in UTF-8")


def not_a_number(path: Path, line: int, column: str, cell: str) -> InputError:
    """The error for a cell that is not a number."""
    remedy = "correct it (5.1, not 5,1), or remove the line"
    return InputError(f"{path}: line {line}, {column}", f"{cell!r} is not a finite number", remedy)
