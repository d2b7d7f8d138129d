"""CSV files: their delimiter, header and columns, and the numbers and targets of each row."""

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

from distnet.datasets.dataset import Table, find_not_finite
from distnet.datasets.idx import unpacked
from distnet.datasets.options import Learned, TableOptions
from distnet.datasets.targets import MOST_CLASSES, WITH_COMMA, Column, add_columns
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
COUNTING_ROWS = 10  # from this many rows, a column that counts them is not chance


@dataclass
class Fault:
    """Cells of a column that are not numbers. first: line and text of the first one."""

    count: int = 0
    first: tuple[int, str] = (sys.maxsize, "")


@dataclass
class Labels:
    """The cells of a column that is not an input. codes: of each row, the number of its cell in `names`."""

    codes: array[int] = field(default_factory=lambda: array("q"))
    names: dict[str, int] = field(default_factory=dict)

    def below(self) -> list[str]:
        """The distinct cells below the first line."""
        is_again = (np.frombuffer(self.codes, np.int64)[1:] == 0).any()  # the first line's has number 0
        return list(self.names)[0 if is_again else 1 :]


@dataclass
class Cells:
    """The cells of a table while it is read. Row 0 is the first line, header or not.

    labels: by column, of `Layout.labels`. bad: by column, and by whether the cells are missing or text; not those of
    the first line.
    """

    labels: dict[int, Labels]
    values: array[float] = field(default_factory=lambda: array("d"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    bad: dict[tuple[int, bool], Fault] = field(default_factory=dict)

    def add_numbers(self, cells: list[str], columns: int) -> None:
        """Append the cells of whole rows to `values`, NaN for what is not a number. Needs the lines of these rows."""
        before = len(self.values)
        if (numbers := plain_numbers(cells)) is not None:
            self.values.extend(numbers)
            return
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

    first: cells of the first line. targets: indices of the target columns. inputs: indices of the columns to read, in
    order. by_name: whether a model's names select them. header: whether the first line is one; None to detect it.
    named: each option that names a column, and that name or number. weight, split: indices of these columns, if any.
    """

    first: list[str]
    targets: list[int]
    inputs: list[int]
    by_name: bool
    header: bool | None
    named: list[tuple[str, str]]
    weight: int | None = None
    split: int | None = None

    @property
    def labels(self) -> list[int]:
        """Indices of the columns that are read and are not inputs, the targets first."""
        return [*self.targets, *(place for place in (self.weight, self.split) if place is not None)]


def read_csv(path: Path, options: TableOptions) -> Table:
    """The rows of a CSV file, plain or gzipped, all of them to train on unless a column divides them.

    Values are float64. Classes are integers if every label is written as one, else text. A model to evaluate selects
    columns by name.
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
    return build_table(path, cells, layout, options)


def choose_columns(path: Path, first: list[str], options: TableOptions) -> Layout:
    """Which columns to read of a file with this first line. Raises InputError."""
    if len(first) < 2:
        raise InputError(path, "its first line has one value", "write numbers and a target in each row")
    header = None if options.header is None else options.header == "yes"
    learned = options.learned
    columns = learned.columns if learned else None
    by_name = columns is not None and bool(header or (header is None and not missing_columns(first, columns)))
    target = options.target
    if learned and not target:
        target = learned.target_option
        if by_name and learned.targets is not None:
            target = learned.targets
            if missing := [name for name in target if name not in first]:
                raise InputError(path, f"its target column, {missing[0]}, is missing", "name it with --target")
    named = [("--target", each) for each in target]
    targets = [find_column(path, "--target", each, first, header) for each in target] or [len(first) - 1]
    taken = dict.fromkeys(targets, "is the target")
    if len(taken) < len(targets):
        raise InputError(f"--target {' '.join(target)}", "names a column twice", "name each column once")
    weight = split = None
    for option, column, use in (
        ("--weight", options.weight, "holds the weights"),
        ("--split-column", options.split_column, "names the sets"),
    ):
        if column is None:
            continue
        place = find_column(path, option, column, first, header)
        if place in taken:
            raise InputError(f"{option} {column}", f"column {place + 1} {taken[place]}", "name another column")
        named.append((option, column))
        taken[place] = use
        weight, split = (place, split) if option == "--weight" else (weight, place)
    if columns and by_name:
        inputs = match_columns(path, first, columns)
        if both := [place for place in inputs if place in targets]:
            problem = "is an input of the model"
            raise InputError(f"--target {first[both[0]]}", problem, "name the column of the targets")
        return Layout(first, targets, inputs, True, True, named, weight, split)
    left_out = {find_column(path, "--ignore", each, first, header) for each in options.ignore}
    inputs = [number for number in range(len(first)) if number not in taken and number not in left_out]
    for place in sorted(left_out & taken.keys()):
        raise InputError(f"--ignore {' '.join(options.ignore)}", f"column {place + 1} {taken[place]}", "name others")
    if not inputs:
        raise InputError(path, "no column is left to learn from", "ignore fewer columns")
    named += [("--ignore", each) for each in options.ignore]
    return Layout(first, targets, inputs, False, header, named, weight, split)


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
    """All rows from the first line on. Raises InputError for a line without a target or with another width."""
    cells, width = Cells({place: Labels() for place in layout.labels}), len(first)
    place, *others = layout.labels
    codes, names, lines = cells.labels[place].codes, cells.labels[place].names, cells.lines
    more = [(other, cells.labels[other].codes, cells.labels[other].names) for other in others]
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
            raise empty_cell(path, reader.line_num, column_name(place, None))
        block += pick(row)
        codes.append(names.setdefault(label, len(names)))
        for other, other_codes, other_names in more:
            cell = row[other].strip()
            other_codes.append(other_names.setdefault(cell, len(other_names)))
        lines.append(reader.line_num)
        if len(block) >= CELLS_AT_ONCE:
            cells.add_numbers(block, len(inputs))
            block.clear()
    cells.add_numbers(block, len(inputs))
    return cells


def build_table(path: Path, cells: Cells, layout: Layout, options: TableOptions) -> Table:
    """The table of all cells. Raises InputError if some are not numbers."""
    values, lines = np.frombuffer(cells.values).reshape(len(cells.lines), -1), cells.lines
    inputs, first, has_header, learned = layout.inputs, layout.first, layout.header, options.learned
    bad_first = {column: first[place] for column, place in enumerate(inputs) if not is_number(first[place])}
    signs: list[str] = []
    if has_header is None:
        signs = header_signs(cells, layout, bad_first, options)
        has_header = bool(signs) or (len(lines) == 1 and len(bad_first) == len(inputs))
    check_names(path, layout, has_header, learned)
    if len(signs) == 1:
        warn(header_remark(path, signs[0]))
    names = first if has_header else None
    if has_header:
        values, lines = values[1:], lines[1:]
    else:
        for column, cell in bad_first.items():
            cells.add_bad(column, lines[0], cell)
    if not len(lines):
        raise InputError(path, "has no row below its header", "add some")
    columns = {place: read_labels(path, cells.labels[place], place, names, lines) for place in layout.labels}
    check_cells(path, cells, layout, names, len(lines))
    if (wrong := find_not_finite(values)) is not None:
        row, column = wrong
        raise not_a_number(path, lines[row], column_name(inputs[column], names), str(values[row, column]))
    if layout.by_name and (extra := find_extra(layout, options)):
        warn(f"{path}: {ignored_columns(extra)}")
    if learned is None:
        kept = drop_index(path, values, inputs, names)
        if len(kept) < len(inputs):
            values, inputs = np.ascontiguousarray(values[:, kept]), [inputs[column] for column in kept]
    table = Table(values, np.zeros(len(lines), np.int64), [], np.arange(len(lines)), np.arange(0))
    table = add_columns(path, table, layout.targets, layout.weight, layout.split, columns, options.task)
    if names is None:
        return table
    return table._replace(
        columns=tuple(names[place] for place in inputs), targets=tuple(names[place] for place in layout.targets)
    )


def read_labels(path: Path, labels: Labels, place: int, names: list[str] | None, lines: Sequence[int]) -> Column:
    """A column that is not an input. lines: of the rows. Raises InputError for a blank cell.

    Values are integers if all are written as such, so that 01 is not 1; else text.
    """
    codes, cells = np.frombuffer(labels.codes, np.int64), list(labels.names)
    if names is not None:
        codes = codes[1:]
        if not (codes == 0).any():
            codes, cells = codes - 1, cells[1:]
    if "" in cells:
        line = lines[int(np.argmax(codes == cells.index("")))]
        raise empty_cell(path, line, column_name(place, names))
    plain = plain_numbers(cells)
    each = map(as_number, cells) if plain is None else plain
    numbers = np.array([math.nan if number is None else number for number in each])
    missing = np.isnan(numbers)
    missing[missing] = [is_missing(cells[at]) for at in np.flatnonzero(missing)]
    values = list(map(int, cells)) if all(map(INTEGER.fullmatch, cells)) else cells
    return Column(column_name(place, names), codes, values, numbers, missing, lambda row: f"line {lines[row]}")


def header_signs(cells: Cells, layout: Layout, bad_first: dict[int, str], options: TableOptions) -> list[str]:
    """The reasons why the first line must be a header; empty if there are none.

    bad_first: by column, the cells of the first line that are not numbers.
    """
    signs = []
    rows = len(cells.lines) - 1
    over_inputs = over_targets = is_new = False
    for column, cell in bad_first.items():
        text, missing = (cells.bad.get((column, kind), Fault()).count for kind in (False, True))
        over_inputs |= is_text(cell) and max(text, 1) <= rows - text - missing
    for place in layout.targets:
        label, labels = layout.first[place], cells.labels[place].below()
        over_targets |= bool(labels) and is_text(label) and all(map(is_number, labels))
        is_learned = options.learned is not None and label in options.learned.classes
        # Measurements differ from row to row.
        is_measured = is_number(label) and (options.task == "regression" or INTEGER.fullmatch(label) is None)
        is_few = len(labels) <= MOST_CLASSES and len(labels) < rows
        is_new |= bool(label) and label not in labels and not is_learned and not is_measured and is_few
    signs += ["text stands over numbers"] * (over_inputs + over_targets)
    if counts_up(layout.first, layout.labels):
        signs.append("its cells count from 0")
    if is_new:
        named = next(layout.first[place] for place in layout.targets if layout.first[place])
        signs.append(f"no row has its label {named!r}")
    return signs


def header_remark(path: str | Path, sign: str) -> str:
    """The note on a first line that only one sign makes a header."""
    return f"{path}: its first line is read as a header, because {sign}; --header no reads it as a row"


def counts_up(cells: Sequence[str], labels: Sequence[int] = ()) -> bool:
    """Whether a first line counts 0, 1, 2, ..., as pandas names columns, with or without labels' and an index's."""
    inputs = [cell for place, cell in enumerate(cells) if place not in labels and cell]
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
        hint = ", with a decimal comma" if WITH_COMMA.fullmatch(cell.strip()) else ""
        problems.append(f"there is text in {columns}, such as {cell!r} in line {line}{hint}")
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

    A comma in quotes, or in a number, is not a delimiter. Of two that suit the lines alike, as in 1,5;a, it is the
    later one.
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
            ranks.append((len(widths) == 1, numbers, min(widths), len(ranks), delimiter))
    return max(ranks)[-1] if ranks else delimiters[0]


def is_filled(row: Iterable[str]) -> bool:
    """Whether any cell of a row is not blank."""
    return any(map(str.strip, row))


def plain_numbers(cells: Sequence[str]) -> list[float] | None:
    """The numbers in cells, much faster than by `as_number`; None if some cell is not a number, or may not be."""
    joined = "".join(cells)
    # float() also accepts underscores, other scripts' digits, nan and infinity.
    if not joined.isascii() or "_" in joined or "n" in joined or "N" in joined:
        return None
    try:
        return list(map(float, cells))
    except ValueError:
        return None


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


def find_extra(layout: Layout, options: TableOptions) -> list[str]:
    """The names of the columns that are not read, without those that an --ignore names."""
    read = (*layout.inputs, *layout.labels)
    left_out = {*options.ignore, *(options.learned.ignored if options.learned else ())}
    return [
        name for place, name in enumerate(layout.first) if place not in read and not left_out & {name, str(place + 1)}
    ]


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


def empty_cell(path: Path, line: int, column: str) -> InputError:
    """The error for a blank cell in a column that is not an input."""
    return InputError(f"{path}: line {line}, {column}", "the cell is empty", "fill it, or remove the line")


def not_a_number(path: Path, line: int, column: str, cell: str) -> InputError:
    """The error for a cell that is not a number."""
    remedy = "correct it (5.1, not 5,1), or remove the line"
    return InputError(f"{path}: line {line}, {column}", f"{cell!r} is not a finite number", remedy)
