"""CSV files as people have them: their delimiter, header and columns, and each row's numbers and class."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.parallel.shards import row_blocks
from distnet.runtime.errors import InputError
from distnet.runtime.text import counted, listed

DELIMITERS = ",;\t"
SAMPLE = 20  # lines that the delimiter is found by
CELLS_AT_ONCE = 500  # of a file that become numbers together
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DECIMAL = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+([eE][+-]?[0-9]+)?")  # with a comma, too
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,3999}")
# What stands for a value that isn't there, as pandas reads and R and Weka write it.
MISSING = frozenset(["", "na", "n/a", "nan", "-nan", "#n/a", "#na", "<na>", "null", "none", "?", "-", "."])
UNNAMED = re.compile(r"|Unnamed: [0-9]+")  # as pandas writes an index, and names one that it reads
MOST_CLASSES = 20  # of a column whose first cell may be its name
COUNTING_ROWS = 10  # from which on a column that counts them isn't chance

Class = str | int | float


class Learned(NamedTuple):
    """What a model that is to be evaluated remembers of its table.

    columns: names of its inputs, in order; None where the table had no header. label: name of the column of the
    classes. label_option: what training was given as --label. classes: their names.
    """

    columns: tuple[str, ...] | None
    label: str | None
    label_option: str | None
    classes: frozenset[str]


class CsvTable(NamedTuple):
    """values: (rows, columns) float64. codes: (rows,), the place of each row's class in `classes`, which are sorted.

    columns: names of the columns of `values`, None without a header; label: that of the classes.
    remarks: what to print.
    """

    values: NDArray[np.float64]
    codes: NDArray[np.int64]
    classes: list[Class]
    columns: tuple[str, ...] | None
    label: str | None
    remarks: list[str]


@dataclass
class BadCells:
    """The cells of a column that aren't numbers: how many have text and how many miss, and the first of either.

    first_text, first_missing: the cell's line and the cell.
    """

    text: int = 0
    missing: int = 0
    first_text: tuple[int, str] = (0, "")
    first_missing: tuple[int, str] = (0, "")

    def add(self, line: int, cell: str) -> None:
        """Count one; the first line may come last."""
        if is_missing(cell):
            self.first_missing = min(self.first_missing, (line, cell)) if self.missing else (line, cell)
            self.missing += 1
        else:
            self.first_text = min(self.first_text, (line, cell)) if self.text else (line, cell)
            self.text += 1


@dataclass
class Cells:
    """The cells of a table while it is read. The first line is row 0, be it a header or not."""

    values: array[float] = field(default_factory=lambda: array("d"))
    codes: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    labels: dict[str, int] = field(default_factory=dict)
    bad: dict[int, BadCells] = field(default_factory=dict)  # by column, below the first line
    bad_first: dict[int, str] = field(default_factory=dict)  # in the first line

    def add_numbers(self, cells: list[str], columns: int) -> None:
        """Take whole rows of cells for the values of as many rows whose lines are known."""
        before = len(self.values)
        joined = "".join(cells)
        # float() takes some words beside numbers: with an underscore, other scripts' digits, nan and infinity.
        if joined.isascii() and "_" not in joined and "n" not in joined and "N" not in joined:
            try:
                self.values.extend(map(float, cells))
                return
            except ValueError:
                del self.values[before:]
        for place, cell in enumerate(cells, before):
            number = as_number(cell)
            self.values.append(math.nan if number is None else number)
            if number is None:
                row, column = divmod(place, columns)
                if row == 0:
                    self.bad_first[column] = cell.strip()
                else:
                    self.bad.setdefault(column, BadCells()).add(self.lines[row], cell.strip())


def read_csv(
    path: Path,
    label: str | None = None,
    header: str | None = None,
    ignore: Sequence[str] = (),
    learned: Learned | None = None,
) -> CsvTable:
    """The rows of a CSV file, plain or gzipped.

    label: the column of the classes, by its name or by its number from 1; the last one where it isn't given.
    header: "yes" or "no"; found out where it isn't given. ignore: columns to leave out, named likewise.
    learned: of the model that is to be evaluated, which then chooses columns by name.
    Classes are whole numbers where all labels are, in plain form, else text.
    Raises InputError with the line, and OSError.
    """
    with open_text(path) as file:
        try:
            reader = csv_reader(file, DELIMITERS)
            first = next(filter(is_filled, reader), None)
            if first is None:
                raise InputError(path, "is empty", "write one line per row, as in 5.1,3.5,setosa")
            layout = choose_columns(path, [cell.strip() for cell in first], label, header, ignore, learned)
            cells = read_cells(path, reader, first, layout)
        except (UnicodeDecodeError, csv.Error) as error:
            raise no_csv(path, error) from None
    return finish(path, cells, layout, learned)


class Layout(NamedTuple):
    """Which columns of a file are what.

    cells: of the first line. label: the place of the classes. label_option: how they were named, None where they
    weren't. inputs: places of the columns to read, in the order wanted. by_name: whether a model's names chose them.
    header: whether the first line is one; None where that is to be found out. ignore: as it was given.
    """

    cells: list[str]
    label: int
    label_option: str | None
    inputs: list[int]
    by_name: bool
    header: bool | None
    ignore: Sequence[str]


def choose_columns(
    path: Path,
    cells: list[str],
    label: str | None,
    header: str | None,
    ignore: Sequence[str],
    learned: Learned | None,
) -> Layout:
    """Which columns of a file with this first line to read. Raises InputError."""
    if len(cells) < 2:
        raise InputError(path, "its first line has one value", "write numbers and a label in each row")
    has_header = None if header is None else header == "yes"
    by_name = False
    if learned and learned.columns and has_header is not False:
        by_name = has_header is True or not missing_columns(cells, learned.columns)
    if learned and label is None:
        label = learned.label if by_name and learned.label is not None else learned.label_option
        if by_name and label == learned.label and label not in cells:
            raise InputError(path, f"its column of classes, {label}, is missing", "name it with --label")
    place = len(cells) - 1 if label is None else find_column(path, "--label", label, cells, has_header)
    if by_name and learned and learned.columns:
        check_columns(path, cells, learned.columns)
        inputs = match_columns(cells, learned.columns)
        if place in inputs:
            raise InputError(
                f"--label {label or cells[place]}", "is an input of the model", "name the column of the classes"
            )
        return Layout(cells, place, label, inputs, True, True, ())
    left_out = {find_column(path, "--ignore", each, cells, has_header) for each in ignore}
    if place in left_out:
        raise InputError(f"--ignore {' '.join(ignore)}", f"column {place + 1} holds the classes", "name others")
    inputs = [number for number in range(len(cells)) if number != place and number not in left_out]
    if not inputs:
        raise InputError(f"--ignore {' '.join(ignore)}", "no column is left to learn from", "leave out fewer")
    return Layout(cells, place, label, inputs, False, has_header, ignore)


def find_column(path: Path, option: str, column: str, cells: list[str], header: bool | None) -> int:
    """The place of a column that is given by its number from 1, or by its name in the first line.

    header: whether that is a header; None where it isn't known yet. Raises InputError.
    """
    if INTEGER.fullmatch(column) and 1 <= int(column) <= len(cells):
        return int(column) - 1
    if column in cells and header is not False:
        return cells.index(column)
    numbers = f"1 to {len(cells)}"
    if header or (header is None and not any(map(is_number, cells))):
        raise InputError(
            f"{option} {column}", f"{path} has no such column", f"name one of {listed(cells)}, or {numbers}"
        )
    raise InputError(f"{option} {column}", f"{path} has no header and no such column", f"name {numbers}")


def numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with how many like it stand before it: names may be there twice."""
    seen = Counter[str]()
    found = []
    for name in names:
        found.append((name, seen[name]))
        seen[name] += 1
    return found


def missing_columns(cells: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Which of a model's columns a header doesn't have."""
    there = set(numbered(cells))
    return [each[0] for each in numbered(columns) if each not in there]


def match_columns(cells: Sequence[str], columns: Sequence[str]) -> list[int]:
    """The place of each of a model's columns in a header that has them all."""
    places = {each: place for place, each in enumerate(numbered(cells))}
    return [places[each] for each in numbered(columns)]


def check_columns(path: str | Path, cells: Sequence[str], columns: Sequence[str]) -> None:
    """Raise InputError where a header hasn't all of a model's columns."""
    if missing := missing_columns(cells, columns):
        raise InputError(
            path,
            f"{counted(len(missing), 'column')} of the model {'is' if len(missing) == 1 else 'are'} missing "
            f"({listed(missing)}), and its header has {listed(cells)}",
            "add what is missing",
        )


def read_cells(path: Path, reader: Any, first: list[str], layout: Layout) -> Cells:
    """All rows from the first line on. What is no number is noted, and NaN in its place."""
    cells, width, place = Cells(), len(first), layout.label
    codes, lines, labels = cells.codes, cells.lines, cells.labels
    # A slice where one does, for a single column has to be a list, too.
    inputs = layout.inputs
    run = inputs == list(range(inputs[0], inputs[-1] + 1))
    pick = itemgetter(slice(inputs[0], inputs[-1] + 1)) if run else itemgetter(*inputs)
    block: list[str] = []
    for row in chain([first], reader):
        if len(row) != width:
            if not is_filled(row):
                continue
            raise InputError(
                path,
                f"line {reader.line_num} has {counted(len(row), 'value')}, the first line {width}",
                "give all lines the same number",
            )
        label = row[place].strip()
        if not label and codes:
            if not is_filled(row):
                continue
            raise InputError(path, f"line {reader.line_num} has no label", "add one, or remove the line")
        block += pick(row)
        codes.append(labels.setdefault(label, len(labels)))
        lines.append(reader.line_num)
        if len(block) >= CELLS_AT_ONCE:
            cells.add_numbers(block, len(inputs))
            block.clear()
    cells.add_numbers(block, len(inputs))
    return cells


def finish(path: Path, cells: Cells, layout: Layout, learned: Learned | None) -> CsvTable:
    """The table of all cells that were read. Raises InputError where some are no numbers."""
    remarks: list[str] = []
    values = np.frombuffer(cells.values).reshape(len(cells.codes), -1)
    codes, lines, labels = np.frombuffer(cells.codes, np.int64), cells.lines, list(cells.labels)
    has_header = layout.header
    if has_header is None:
        signs = header_signs(cells, layout, learned)
        has_header = bool(signs) or (len(codes) == 1 and len(cells.bad_first) == len(layout.inputs))
        if len(signs) == 1:
            remarks.append(
                f"{path}: its first line is read as a header, because {signs[0]}; --header no reads it as a row"
            )
    names = layout.cells if has_header else None
    remarks += check_names(path, layout, has_header, learned)
    if has_header:
        values, codes, lines = values[1:], codes[1:], lines[1:]
        if not (codes == 0).any():
            codes, labels = codes - 1, labels[1:]
    else:
        for column, cell in cells.bad_first.items():
            cells.bad.setdefault(column, BadCells()).add(lines[0], cell)
        if "" in cells.labels:
            raise InputError(path, f"line {lines[0]} has no label", "add one, or remove the line")
    if not len(codes):
        raise InputError(path, "has no row below its header", "add some")
    check_cells(path, cells, layout, names, len(codes))
    for rows_here in row_blocks(*values.shape):
        if not np.isfinite(values[rows_here]).all():
            row, column = np.argwhere(~np.isfinite(values[rows_here]))[0]
            row += rows_here.start
            raise no_number(path, lines[row], called(layout.inputs[column], names), str(values[row, column]))
    inputs = layout.inputs
    if layout.by_name and (
        extra := [place for place in range(len(layout.cells)) if place not in (*inputs, layout.label)]
    ):
        remarks.append(f"{path}: {ignored_columns([layout.cells[place] for place in extra])}")
    if learned is None:
        values, inputs = without_index(path, values, inputs, names, remarks)
    classes = to_classes(labels)
    ordered = sorted(set(classes))
    places = {name: number for number, name in enumerate(ordered)}
    columns = None if names is None else tuple(names[place] for place in inputs)
    return CsvTable(
        values,
        np.array([places[name] for name in classes], np.int64)[codes],
        ordered,
        columns,
        None if names is None else names[layout.label],
        remarks,
    )


def header_signs(cells: Cells, layout: Layout, learned: Learned | None) -> list[str]:
    """Why the first line has to be a header, in words; empty where nothing says so."""
    signs = []
    first, label = layout.cells, layout.cells[layout.label]
    codes = np.frombuffer(cells.codes, np.int64)[1:]
    labels = [text for text, code in cells.labels.items() if code or (codes == 0).any()]
    over_numbers = False
    for column, cell in cells.bad_first.items():
        below = cells.bad.get(column, BadCells())
        numbers = len(codes) - below.text - below.missing
        over_numbers |= is_text(cell) and numbers > 0 and numbers >= below.text
    if over_numbers or (labels and is_text(label) and all(map(is_number, labels))):
        signs.append("text stands over numbers")
    if counts_up(first, layout.label):
        signs.append("its cells count from 0")
    known = learned is not None and label in learned.classes
    if label and label not in labels and not known and len(labels) <= MOST_CLASSES and len(labels) < len(codes):
        signs.append(f"no row has its label {label!r}")
    return signs


def counts_up(cells: Sequence[str], label: int | None) -> bool:
    """Whether a first line counts 0, 1, 2, ..., as pandas names columns, with or without a label's and an index's."""
    inputs = [cell for place, cell in enumerate(cells) if place != label and cell]
    return any(len(some) > 1 and list(some) == [str(k) for k in range(len(some))] for some in (inputs, cells))


def check_names(path: Path, layout: Layout, has_header: bool, learned: Learned | None) -> list[str]:
    """What to print of how columns were named, now that the first line is a header or none.

    Raises InputError for names that aren't there.
    """
    named = [("--label", layout.label_option)] * (layout.label_option is not None)
    named += [("--ignore", each) for each in layout.ignore]
    if not has_header:
        for option, column in named:
            find_column(path, option, str(column), layout.cells, False)
        if learned and learned.columns:
            return [f"{path}: it has no header, so its columns are taken in the order of the model's"]
        return []
    if learned and learned.columns:
        check_columns(path, layout.cells, learned.columns)
    remarks = []
    for option, column in named:
        place = find_column(path, option, str(column), layout.cells, True)
        if column in layout.cells and layout.cells[place] != column:
            remarks.append(
                f"{option} {column}: taken as a number: {called(place, layout.cells)}, not the one of that name"
            )
    return remarks


def check_cells(path: Path, cells: Cells, layout: Layout, names: list[str] | None, rows: int) -> None:
    """Raise one InputError for all cells that aren't numbers."""
    bad = [(layout.inputs[column], each) for column, each in sorted(cells.bad.items())]
    text, missing = sum(each.text for _, each in bad), sum(each.missing for _, each in bad)
    if not bad:
        return
    if text + missing == 1:
        [(place, only)] = bad
        line, cell = only.first_text if text else only.first_missing
        raise no_number(path, line, called(place, names), cell)
    told = []
    if text:
        line, cell = min((each.first_text for _, each in bad if each.text), key=itemgetter(0))
        columns = listed(
            f"{called(place, names)} in {each.text:,} of {rows:,} rows" for place, each in bad if each.text
        )
        told.append(f"there is text in {columns}, such as {cell!r} in line {line}")
    if missing:
        (line, _), place = min((each.first_missing, place) for place, each in bad if each.missing)
        verb = "is" if missing == 1 else "are"
        told.append(f"{counted(missing, 'cell')} {verb} empty, from line {line}, {called(place, names)} on")
    raise InputError(path, "; ".join(told), "turn them into numbers, or leave columns out with --ignore")


def without_index(
    path: Path, values: NDArray[np.float64], inputs: list[int], names: list[str] | None, remarks: list[str]
) -> tuple[NDArray[np.float64], list[int]]:
    """The table without columns that a header leaves unnamed and that number the rows, as pandas writes its index."""
    index = []
    for column, place in enumerate(inputs):
        unnamed = names is not None and UNNAMED.fullmatch(names[place]) is not None
        if unnamed and numbers_rows(values[:, column]):
            index.append(column)
        elif len(values) >= COUNTING_ROWS and counts_rows(values[:, column]):
            name = names[place] if names and not unnamed else str(place + 1)
            remarks.append(f"{path}: {called(place, names)} counts the rows; --ignore {name} leaves it out")
    if not index or len(index) == len(inputs):
        return values, inputs
    for column in index:
        remarks.append(
            f"{path}: {called(inputs[column], None)} has no name and numbers the rows, so it is left out; "
            "give it a name to learn from it"
        )
    kept = [column for column in range(len(inputs)) if column not in index]
    return np.ascontiguousarray(values[:, kept]), [inputs[column] for column in kept]


def counts_rows(column: NDArray[np.float64]) -> bool:
    """Whether each number is one more than that above it."""
    ends = column[-1] - column[0] == len(column) - 1 and column[1] - column[0] == 1  # which few others pass
    return bool(ends and (np.diff(column) == 1).all())


def numbers_rows(column: NDArray[np.float64]) -> bool:
    """Whether it has another whole number, from 0 up, for each row: in order, shuffled, or of some rows of more."""
    whole = (column >= 0).all() and (column == np.floor(column)).all()
    return bool(whole and len(np.unique(column)) == len(column) > 1)


def to_classes(labels: list[str]) -> list[Class]:
    """The labels as whole numbers where all are written as such, so that 01 isn't 1, else as they are."""
    return list(map(int, labels)) if all(map(INTEGER.fullmatch, labels)) else list(labels)


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """The text of a file, plain or gzipped. Raises OSError, and InputError for a damaged gzip file."""
    with path.open("rb") as file:
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        binary: Any = gzip.GzipFile(fileobj=file) if zipped else file
        try:
            yield io.TextIOWrapper(binary, "utf-8-sig", newline="")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(path, f"its gzip wrapper is damaged ({error})", "compress it again") from None


def csv_reader(lines: Iterable[str], delimiters: str) -> Any:
    """A `csv.reader` of the lines, with the delimiter that suits the first of them best."""
    lines = iter(lines)
    sample: list[str] = []
    filled = 0
    for line in lines:
        sample.append(line)
        filled += bool(line.strip())
        if filled == SAMPLE:
            break
    delimiter = find_delimiter(sample, delimiters)
    spaces = delimiter == " "
    return csv.reader(chain(sample, lines), delimiter=delimiter, skipinitialspace=spaces, strict=True)


def find_delimiter(sample: Sequence[str], delimiters: str) -> str:
    """The delimiter that cuts all lines into as many cells, most of them numbers; the first one where none does.

    A comma in quotes, or in a number, is no delimiter.
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
            if "end of data" not in str(error):  # a cell in quotes may go on behind the sample
                continue
        if widths and max(widths) > 1:
            ranks.append((len(widths) == 1, numbers, min(widths), -len(ranks), delimiter))
    return max(ranks)[-1] if ranks else delimiters[0]


def is_filled(row: Iterable[str]) -> bool:
    """Whether any cell of a row has something in it."""
    return any(map(str.strip, row))


def as_number(cell: str) -> float | None:
    """The number that a cell is, infinite where it is too large; None where it is no number."""
    cell = cell.strip()
    return float(cell) if NUMBER.fullmatch(cell) else None


def is_number(cell: str) -> bool:
    """Whether a cell is a number."""
    return NUMBER.fullmatch(cell.strip()) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a value that isn't there."""
    return cell.strip().casefold() in MISSING


def is_text(cell: str) -> bool:
    """Whether a cell is neither a number nor missing."""
    return not is_number(cell) and not is_missing(cell)


def ignored_columns(names: Sequence[str]) -> str:
    """What to print of columns that a model doesn't know."""
    shown = listed(name or "(unnamed)" for name in names)
    verb = "is" if len(names) == 1 else "are"
    return f"{counted(len(names), 'column')} that the model doesn't know {verb} ignored: {shown}"


def called(place: int, names: Sequence[str] | None) -> str:
    """A column as a message names it."""
    return f"column {place + 1}" + (f" ({names[place]})" if names and names[place] else "")


def no_csv(path: str | Path, error: UnicodeDecodeError | csv.Error) -> InputError:
    """What tells of a file that `csv.reader` can't read."""
    what = "isn't UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"is not CSV ({error})"
    return InputError(path, what, "save it as CSV in UTF-8")


def no_number(path: str | Path, line: int, column: str, cell: str) -> InputError:
    """What tells of a cell that is no number."""
    return InputError(
        f"{path}: line {line}, {column}",
        f"{cell!r} is not a finite number",
        "correct it (5.1, not 5,1), or remove the line",
    )
