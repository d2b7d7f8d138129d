"""Predict images and rows of numbers with a trained network: python -m distnet.predict model.pkl seven.png."""

from distnet.runtime import command, failure, logs

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.config.parser import Parser
from distnet.config.values import file_path
from distnet.datasets.csv_tables import (
    DELIMITERS,
    as_number,
    counts_up,
    csv_error,
    csv_reader,
    header_remark,
    ignored_columns,
    is_filled,
    is_number,
    is_text,
    match_columns,
    missing_columns,
    open_text,
)
from distnet.datasets.idx import read_idx
from distnet.datasets.options import DEFAULT, HEADERS
from distnet.datasets.pictures import read_picture
from distnet.models.trained import Trained, load_trained
from distnet.nn.arithmetic import Propagation, prepare
from distnet.nn.functional import HALF, class_probabilities
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.files import check_writable, is_same_file, is_stream, write_error, write_whole
from distnet.runtime.text import format_count, format_table, json_line, to_printable
from distnet.training.evaluation import BLOCK_ROWS

STANDARD_INPUT = "-"
CSV_ENDINGS = (".csv", ".csv.gz")
IDX_STARTS = (b"\x00\x00\x08", b"\x1f\x8b")  # of bytes, plain and gzipped


class Source(NamedTuple):
    """Input rows. names: one per row. values: (rows, inputs), as training read them."""

    names: list[str]
    values: NDArray[Any]


class Bad:
    """Counts invalid files and rows, and prints one line for each on standard error."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, what: object) -> None:
        """Print the error of an invalid file or row."""
        self.count += 1
        logs.warn(str(what))


def main() -> int:
    """Run the command; returns the exit status. Collective."""
    typed = build_parser().parse_args()
    bad = launched_world().on_root(lambda: predict(typed.model, typed.files, typed.json, typed.header, typed.output))
    return failure.EXIT_BAD_INPUT if bad else 0


def build_parser() -> Parser:
    """The parser of `python -m distnet.predict`."""
    parser = Parser(
        prog="python -m distnet.predict",
        usage="python -m distnet.predict MODEL FILE [FILE ...] [options]",
        description="Predict classes, labels or numbers for images and rows of numbers.",
        allow_abbrev=False,
    )
    parser.add_argument("model", type=file_path, metavar="MODEL", help="model file that training wrote")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="image, prepared like the images of the training; IDX file; CSV file without targets; or - for rows of "
        "numbers on standard input",
    )
    parser.add_argument("--header", choices=HEADERS, help="whether the first row is a header (default: inferred)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object per row, with all probabilities")
    how.add_argument(
        "--output", type=file_path, metavar="FILE", help="CSV file to write instead, with all probabilities or numbers"
    )
    return parser


def predict(
    path: Path, files: Sequence[str], as_json: bool = False, header: str | None = None, output: Path | None = None
) -> int:
    """Print or write the model's prediction for each row in the files; returns the number of invalid rows and files.

    Raises InputError for an invalid model, and if `output` can't be written or is one of the files.
    """
    trained = load_trained(World(), path)
    if trained.mean is None:
        raise InputError(
            f"model {path}",
            "has no mean and deviation of its inputs",
            'set network.about["mean"] and ["deviation"] before saving it',
        )
    if output is not None:
        check_output(output, [path, *(file_path(name) for name in files if name != STANDARD_INPUT)])
    bad = Bad()
    predictions = predict_rows(trained, read_all(trained, files, header, bad), bad)
    form = FORMS[trained.model.task](trained)
    if output is not None:
        write_csv(output, form, predictions)
        return bad.count
    table = [["file", *form.head]]
    for name, row in predictions:
        if as_json:
            print(json_line({"file": name} | form.describe(row)))
        else:
            table.append([name, *form.words(row)])
    if table[1:]:
        print(format_table(table))
    return bad.count


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Raise InputError if `output` can't be written, or is one of the inputs."""
    check_writable(output, "--output")
    for each in inputs:
        if is_same_file(output, each):
            raise InputError(f"--output {output}", "is a file to read", "name another file")


class Form:
    """How predictions are shown: those of a regression as numbers in the targets' own units.

    head, columns: names of the columns of the printed table and of the CSV file, after the first with the row's name.
    A row is (outputs,), as `predict_rows` gives it.
    """

    def __init__(self, trained: Trained) -> None:
        self.names = trained.names
        self.head = self.columns = [str(name) for name in self.names]

    def words(self, row: Array) -> list[str]:
        """The row's cells in the printed table."""
        return [f"{value:.6g}" for value in row]

    def cells(self, row: Array) -> list[str]:
        """The row's cells in the CSV file, with all digits."""
        return [str(value) for value in row]

    def describe(self, row: Array) -> dict[str, Any]:
        """The row as JSON."""
        return {"predicted": self.by_name(row)}

    def by_name(self, row: Array) -> dict[str, float]:
        """The values of the row by the names of the outputs."""
        return {str(name): float(value) for name, value in zip(self.names, row, strict=True)}


class LabelForm(Form):
    """Labels that are predicted, each with its probability; all probabilities in CSV and JSON."""

    def __init__(self, trained: Trained) -> None:
        super().__init__(trained)
        self.head = ["labels"]

    def words(self, row: Array) -> list[str]:
        """See `Form`."""
        return [", ".join(f"{self.names[place]} {row[place]:.4f}" for place in np.flatnonzero(row >= HALF)) or "-"]

    def describe(self, row: Array) -> dict[str, Any]:
        """See `Form`."""
        return {
            "labels": [self.names[place] for place in np.flatnonzero(row >= HALF)],
            "probabilities": self.by_name(row),
        }


class ClassForm(Form):
    """The class, its probability and the runner-up; all probabilities in CSV and JSON."""

    def __init__(self, trained: Trained) -> None:
        super().__init__(trained)
        self.has_one_output = trained.model.sizes[-1] == 1
        self.head, self.columns = ["class", "probability", "runner-up", "probability"], ["class", *self.columns]

    def words(self, row: Array) -> list[str]:
        """See `Form`."""
        found = [word for place in self.first_two(row) for word in (str(self.names[place]), f"{row[place]:.4f}")]
        return [*found, *["-"] * (len(self.head) - len(found))]

    def cells(self, row: Array) -> list[str]:
        """See `Form`."""
        return [str(self.names[self.first_two(row)[0]]), *super().cells(row)]

    def describe(self, row: Array) -> dict[str, Any]:
        """See `Form`."""
        best, *others = self.first_two(row)
        return {
            "class": self.names[best],
            "probability": float(row[best]),
            "runner_up": self.names[others[0]] if others else None,
            "probabilities": self.by_name(row),
        }

    def first_two(self, row: Array) -> list[int]:
        """The indices of the most probable class and of the runner-up, if there is one."""
        if self.has_one_output:  # for which a half counts as the second class
            best = int(row[1] >= HALF)
            return [best, 1 - best]
        return [int(place) for place in np.argsort(-row, kind="stable")[:2]]


FORMS = {"classification": ClassForm, "multilabel": LabelForm, "regression": Form}


def write_csv(path: Path, form: Form, predictions: Iterable[tuple[str, Array]]) -> None:
    """Write a row per prediction, with a header; the file appears when it is complete. Raises InputError."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", *form.columns])
        writer.writerows([name, *form.cells(row)] for name, row in predictions)
        text.detach()  # flushes it, and leaves the file open

    has_name = not is_stream(path)
    try:
        write_whole(path, write)
    except OSError as error:
        raise write_error(f"--output {path}", error) from None
    if has_name:
        print(f"wrote {to_printable(path)}")


def read_all(trained: Trained, files: Sequence[str], header: str | None, bad: Bad) -> Iterator[Source]:
    """The rows of each file that can be read. header: see `read_rows`."""
    for name in files:
        try:
            yield read(name, trained, header, bad)
        except InputError as error:
            bad.add(error)


def predict_rows(trained: Trained, sources: Iterable[Source], bad: Bad) -> Iterator[tuple[str, Array]]:
    """The name and the prediction of each row, (classes,), (labels,) or (targets,). The next row may overwrite it.

    Predictions are probabilities, or numbers in the targets' own units. Blocks contain rows of one file only, so that
    other files don't change the bits. Rows with numbers too large for the network's arithmetic are invalid.
    """
    model, arithmetic = trained.model, prepare(trained.model)

    @lru_cache(2)  # whole blocks, and a shorter last one
    def workspace(rows: int) -> Propagation:
        return arithmetic.workspace(rows, (rows,), rows, has_masks=False)

    for source in sources:
        for start in range(0, len(source.names), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            work = workspace(len(source.names[block]))
            inputs = work.inputs[:, : model.sizes[0]]
            trained.standardise(source.values[block], inputs)
            fits = np.all(np.abs(inputs) < model.input_limit, axis=1)
            inputs[~fits] = 0
            work.inputs[:, model.sizes[0]] = 1
            outputs = trained.in_own_units(work.infer())
            if model.task == "classification":
                outputs = class_probabilities(outputs)
            for name, row, has_fit in zip(source.names[block], outputs, fits, strict=True):
                if has_fit:
                    yield name, row
                else:
                    bad.add(f"{name}: some numbers are too large for this network of {inputs.dtype}; give smaller ones")


def read(name: str, trained: Trained, header: str | None, bad: Bad) -> Source:
    """The rows of a file. Its name and first bytes determine its kind.

    Images are prepared like those of the data set that the network was trained on.
    Raises InputError for a file that can't be read or doesn't fit the network.
    """
    inputs = trained.model.sizes[0]
    if name == STANDARD_INPUT:
        lines = io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig")
        return read_rows("standard input", lines, inputs, trained.columns, header, bad)
    path = file_path(name)
    try:
        if path.name.lower().endswith(CSV_ENDINGS):
            with open_text(path) as file:
                return read_rows(name, file, inputs, trained.columns, header, bad)
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(path, f"can't be read ({reason})", "name an image or a file of rows") from None
    if start.startswith(IDX_STARTS):
        images = read_idx(path, dimensions=3)
        if path.name.startswith("emnist-"):
            images = images.transpose(0, 2, 1)  # EMNIST stores its images transposed
        rows = images.reshape(len(images), -1)
        check_inputs(path, f"its images have {rows.shape[1]} pixels", rows.shape[1], inputs)
        return Source([f"{path}:{number}" for number in range(len(rows))], rows)
    dataset = str(trained.config.get("dataset", DEFAULT)).partition(":")[0]
    return Source([name], read_picture(path, inputs, dataset)[None])


def read_rows(
    name: str, lines: Iterable[str], inputs: int, columns: Sequence[str] | None, header: str | None, bad: Bad
) -> Source:
    """Rows of `inputs` numbers, separated by commas, semicolons, tabs or blanks.

    columns: names of the inputs, if the model stores them. A header must contain them, in any order; other columns are
    ignored. header: "yes" or "no"; None to infer it. Invalid rows are added to `bad`.
    Raises InputError if no row is valid.
    """
    try:
        reader = csv_reader(lines, DELIMITERS + " ")
        rows = [row for row in reader if is_filled(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise csv_error(name, error) from None
    if reader.dialect.delimiter == " ":
        rows = [[cell for cell in row if cell] for row in rows]
    first = [cell.strip() for cell in rows[0]] if rows else []
    has_header = header == "yes" if header else is_header(name, first, rows[1:], columns)
    places: list[int] | None = None
    if has_header and columns is not None:
        places = match_columns(name, first, columns)
        if extra := [first[place] for place in range(len(first)) if place not in places]:
            logs.warn(f"{name}: {ignored_columns(extra)}")
    names: list[str] = []
    values: list[list[float]] = []
    wrong: list[InputError] = []
    for number, row in enumerate(rows[has_header:], 1):
        try:
            if places is not None and len(row) == len(first):
                row = [row[place] for place in places]
            values.append(to_numbers(f"{name}: row {number}", row, inputs))
            names.append(f"{name}:{number}")
        except InputError as fault:
            wrong.append(fault)
    if not values:
        raise wrong[0] if wrong else InputError(name, "has no row", f"give it a line of {inputs} numbers")
    for each in wrong:
        bad.add(each)
    return Source(names, np.array(values))


def is_header(name: str, first: list[str], rows: list[list[str]], columns: Sequence[str] | None) -> bool:
    """Whether the first row is a header: the model's names, text only, text above numbers, or 0, 1, 2 ..."""
    if columns is not None and not missing_columns(first, columns):
        return True
    if first and not any(map(is_number, first)):
        return any(map(is_text, first))
    over_numbers = any(
        is_text(cell) and rows and all(len(row) > place and is_number(row[place]) for row in rows)
        for place, cell in enumerate(first)
    )
    sign = "text stands over numbers" if over_numbers else "its cells count from 0" if counts_up(first) else ""
    if sign:
        logs.warn(header_remark(name, sign))
    return bool(sign)


def to_numbers(line: str, row: Sequence[str], inputs: int) -> list[float]:
    """The numbers of a row. Raises InputError, which names the line, for an invalid row."""
    check_inputs(line, f"has {format_count(len(row), 'number')}", len(row), inputs)
    numbers = []
    for column, cell in enumerate(row, 1):
        number = as_number(cell)
        if number is None or not math.isfinite(number):
            raise InputError(f"{line}, column {column}", f"{cell!r} is not a finite number", "correct it")
        numbers.append(number)
    return numbers


def check_inputs(subject: object, what: str, given: int, inputs: int) -> None:
    """Raise InputError if rows don't have as many numbers as the network has inputs."""
    if given != inputs:
        raise InputError(
            subject,
            f"{what}, but this network has {inputs} inputs",
            "give it rows like those it was trained on, without their targets",
        )


if __name__ == "__main__":
    command.run(main)
