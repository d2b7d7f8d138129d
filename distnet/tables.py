"""A person's own table, CSV or NPZ: rows of numbers, each with a class, read and refused in one line."""

import csv
import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from distnet.errors import InputError
from distnet.text import counted

DELIMITERS = ",;\t"  # the first of them that is in the first line
VALUES_AT_ONCE = 1 << 20  # what a pass over a table copies
HELD_OUT = (0, 1)  # with the seed, names the draw of the rows held out: no epoch has the number 0

Class = str | int | float


class Table(NamedTuple):
    """values: (rows, columns), finite. codes: (rows,), each row's place in `classes`, which are sorted.

    train, test: which rows are for what, in the order in which they are used.
    """

    values: NDArray[Any]
    codes: NDArray[np.int64]
    classes: list[Class]
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    def fingerprint(self) -> str:
        """sha256 of all values and classes, and of what is for testing. Collective: no."""
        digest = hashlib.sha256(repr((self.values.shape, self.values.dtype.str, self.classes)).encode())
        digest.update(self.values.data)
        digest.update(self.codes.data)
        digest.update(self.test.data)
        return digest.hexdigest()


def read_table(kind: str, path: Path, label: str | None, test_share: float, seed: int) -> Table:
    """The table in a file of this kind, "csv" or "npz".

    label: see `read_csv`. test_share: of the rows, drawn from the seed, where the file has no test part.
    Raises InputError where the file can't be read, or has a row without its numbers and its class.
    Collective: no, for rank 0.
    """
    try:
        values, codes, classes, tests = read_csv(path, label) if kind == "csv" else read_npz(path)
    except OSError as error:
        raise InputError(
            f"--dataset {kind}:{path}: can't be read ({error.strerror or error}); name a file of rows of numbers"
        ) from None
    if len(classes) < 2:
        raise InputError(f"{path}: all rows are of class {classes[0]!r}; there have to be two classes or more")
    if len(classes) == len(codes) > 2:
        raise InputError(f"{path}: every row is of a class of its own; labels have to be classes, not measurements")
    if tests:
        order, tests_first = np.arange(len(codes)), len(codes) - tests
        return Table(values, codes, classes, order[:tests_first], order[tests_first:])
    order = np.random.default_rng([seed, *HELD_OUT]).permutation(len(codes))
    tests = min(max(round(test_share * len(codes)), 1), len(codes) - 1)
    return Table(values, codes, classes, order[tests:], order[:tests])


def read_csv(path: Path, label: str | None) -> tuple[NDArray[Any], NDArray[np.int64], list[Class], int]:
    """Values (rows, columns) float64, codes (rows,), sorted classes, and 0 test rows.

    A first line without any number is a header. label: the column of the classes, by its name there or by its
    number from 1; the last one where it isn't given. Classes are numbers where all of them are.
    Raises InputError with the line, and OSError. Collective: no.
    """
    values, codes, lines, texts = array("d"), array("q"), array("q"), dict[str, int]()
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            start = file.readline()
            delimiter = next((each for each in DELIMITERS if each in start), ",")
            rows = csv.reader(chain([start], file), delimiter=delimiter, strict=True)
            first = next(filter(None, rows), None)
            if first is None:
                raise InputError(f"{path}: it is empty; it needs a line a row, as in 5.1,3.5,setosa")
            width = len(first)
            place, has_header = _label_place(path, [name.strip() for name in first], label)
            numbers = [number for number in range(1, width + 1) if number != place + 1]
            features = [f"column {k}" + f" ({first[k - 1].strip()})" * has_header for k in numbers]
            for row in filter(None, rows if has_header else chain([first], rows)):
                if len(row) != width:
                    raise InputError(
                        f"{path}: line {rows.line_num} has {counted(len(row), 'value')}, and the first one {width}; "
                        "give all the same"
                    )
                text = row.pop(place).strip()
                if not text:
                    raise InputError(f"{path}: line {rows.line_num} has no label; give it one, or leave it out")
                codes.append(texts.setdefault(text, len(texts)))
                lines.append(rows.line_num)
                try:
                    values.extend(map(float, row))
                except ValueError:
                    wrong = next(k for k, text in enumerate(row) if not _is_number(text))
                    _no_number(path, rows.line_num, features[wrong], repr(row[wrong]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise no_csv(path, error) from None
    if not codes:
        raise InputError(f"{path}: there is no row below its header; give it some")
    matrix = np.frombuffer(values).reshape(len(codes), -1)
    for rows_here in row_blocks(*matrix.shape):
        if not np.isfinite(matrix[rows_here]).all():
            row, column = np.argwhere(~np.isfinite(matrix[rows_here]))[0]
            row += rows_here.start
            _no_number(path, lines[row], features[column], repr(str(matrix[row, column])))
    classes = _as_numbers(list(texts))
    ordered = sorted(set(classes))
    places = {name: number for number, name in enumerate(ordered)}
    return matrix, np.array([places[name] for name in classes])[np.frombuffer(codes, np.int64)], ordered, 0


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.int64], list[Class], int]:
    """The arrays X (rows, ...) and y (rows,) of an .npz file, and behind them X_test and y_test.

    Returns values (rows, columns) of X's dtype, codes (rows,), sorted classes, and how many of the last rows are
    for testing, 0 where the file has no such arrays. Raises InputError, and OSError. Nothing that the file
    holds is run. Collective: no.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise ValueError("it is no zip file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                found = {name: stored[name] for name in ("X", "y", "X_test", "y_test") if name in stored.files}
    except OSError:
        raise
    except Exception as error:
        # Damaged and foreign bytes make zipfile raise almost anything.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: is damaged or no file of numpy.savez ({reason}); save X and y with it") from None
    parts = [("X", "y"), *[("X_test", "y_test")][: len({"X_test", "y_test"} & found.keys())]]
    if missing := [name for pair in parts for name in pair if name not in found]:
        there = ", ".join(found) or "none of its arrays"
        raise InputError(f"{path}: {missing[0]} is missing; it has {there}, and needs X and y, X_test with y_test")
    for x_name, y_name in parts:
        _check_pair(path, x_name, found[x_name], y_name, found[y_name])
    shapes = {name: found[name].shape[1:] for name, _ in parts}
    if len(set(shapes.values())) > 1:
        raise InputError(f"{path}: rows of X are {shapes['X']}, and of X_test {shapes['X_test']}; give both the same")
    if len({found[y].dtype.kind == "U" for _, y in parts}) > 1:
        raise InputError(f"{path}: one of y and y_test is text, and the other isn't; give both the same classes")
    X, y = (_joined([found[pair[which]] for pair in parts]) for which in (0, 1))
    classes, codes = np.unique(y, return_inverse=True)
    values = np.ascontiguousarray(X.reshape(len(X), -1))
    return values, codes.astype(np.int64), classes.tolist(), len(found["X_test"]) if parts[1:] else 0


def column_moments(path: Path, table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (columns,) over the training rows; 1 for the deviation where nothing varies.

    Raises InputError for a column whose numbers are too large for that. Collective: no.
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
            f"{path}: feature {column + 1} runs from {low[column]:g} to {high[column]:g}, which can't be "
            "standardised; scale it"
        )
    return mean, deviation


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """All rows in runs of so many that a pass needs little memory; the same for the same shape."""
    step = max(VALUES_AT_ONCE // max(columns, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _label_place(path: Path, first: list[str], label: str | None) -> tuple[int, bool]:
    """Which column has the classes, and whether the first line is a header: none of its other values is a number."""
    if len(first) < 2:
        raise InputError(f"{path}: its first line has one value; a row needs numbers and a label")
    places = {str(number): number - 1 for number in range(1, len(first) + 1)}
    place = len(first) - 1 if label is None else places.get(label, first.index(label) if label in first else -1)
    has_header = not any(map(_is_number, first[:place] + first[place + 1 :]))
    if place < 0 or (not has_header and label not in (None, *places)):
        shown = ", ".join(first[:10]) + ", ..." * (len(first) > 10)
        named = f"one of {shown}, or 1 to {len(first)}" if has_header else f"1 to {len(first)}, for it has no header"
        raise InputError(f"--label {label}: {path} has no such column; name {named}")
    return place, has_header


def _check_pair(path: Path, x_name: str, X: NDArray[Any], y_name: str, y: NDArray[Any]) -> None:
    """Raise InputError unless X is rows of finite numbers and y a class for each."""
    for name, numbers, kinds in ((x_name, X, "biuf"), (y_name, y, "biufU")):
        if numbers.dtype.kind not in kinds or (numbers.dtype.kind != "U" and numbers.dtype.itemsize > 8):
            right = "numbers or text" if "U" in kinds else "numbers"
            raise InputError(f"{path}: {name} is of {numbers.dtype}; it has to be of {right}")
    if X.ndim < 2 or X.size == 0 or y.shape != X.shape[:1]:
        raise InputError(
            f"{path}: {x_name} is of shape {X.shape} and {y_name} of {y.shape}; they need (rows, columns) and (rows,)"
        )
    for name, numbers in ((x_name, X), (y_name, y)):
        if numbers.dtype.kind == "f":
            for rows in row_blocks(len(numbers), math.prod(numbers.shape[1:])):
                wrong = np.argwhere(~np.isfinite(numbers[rows]))
                if wrong.size:
                    index = wrong[0] + [rows.start, *[0] * (numbers.ndim - 1)]
                    raise InputError(
                        f"{path}: {name}[{', '.join(map(str, index))}] is {numbers[tuple(index)]}; "
                        "it has to be a finite number"
                    )


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array of all rows, and the very one where it is alone."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_numbers(texts: list[str]) -> list[Class]:
    """All of them as whole numbers, else as finite numbers, else as they are."""
    for kind in (int, float):
        try:
            found: list[Class] = list(map(kind, texts))
        except ValueError:
            continue
        if kind is int or np.isfinite(found).all():
            return found
    return list(texts)


def no_csv(path: str | Path, error: UnicodeDecodeError | csv.Error) -> InputError:
    """What tells of a file that `csv.reader` can't read. Collective: no."""
    what = "isn't UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"is no CSV ({error})"
    return InputError(f"{path}: it {what}; save it as CSV in UTF-8")


def as_number(text: str) -> float | None:
    """The number that a word is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def _is_number(text: str) -> bool:
    return as_number(text) is not None


def _no_number(path: Path, line: int, column: str, value: str) -> NoReturn:
    raise InputError(
        f"{path}: line {line}, {column}: {value} is no finite number; correct it (5.1, not 5,1), or leave the line out"
    )
