"""What a finished network says of images and rows of numbers: python -m distnet.predict model.pkl seven.png."""

from distnet import guard

if __name__ == "__main__":
    guard.watch()  # before any import that can fail

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.blas import single_blas_thread
from distnet.config import Config, Parser
from distnet.errors import InputError
from distnet.evaluation import BLOCK_ROWS
from distnet.functional import Array
from distnet.idx import read_idx_images
from distnet.pictures import read_picture
from distnet.propagation import Propagation
from distnet.tables import DELIMITERS, as_number, no_csv
from distnet.text import aligned, json_line
from distnet.trained import Trained, load_trained
from distnet.world import World, launched_world

STANDARD_INPUT = "-"
IDX_STARTS = (b"\x00\x00\x08", b"\x1f\x8b")  # of bytes, plain and gzipped


class Source(NamedTuple):
    """Rows that a person gave. names: of each. values: (rows, inputs), as training read them."""

    names: list[str]
    values: NDArray[Any]


def main() -> int:
    """Predict as the command line says; returns the status. Collective: yes, and rank 0 does all of it."""
    options = parser().parse_args()
    with single_blas_thread:  # as in training, for the same bits
        launched_world().on_root(lambda: predict(options.model, options.files, options.json))
    return 0


def parser() -> Parser:
    """The parser of `python -m distnet.predict`."""
    made = Parser(
        prog="python -m distnet.predict",
        usage="python -m distnet.predict MODEL FILE [FILE ...] [--json]",
        description="What a network says of images (cut out, scaled and centred as those that it learned, MNIST's or "
        "Fashion-MNIST's), of IDX files of images as they are, and of rows of numbers, without a class, in CSV "
        "files; - is standard input, a row of numbers a line.",
        allow_abbrev=False,
    )
    made.add_argument("model", type=Path, metavar="MODEL", help="as training wrote it")
    made.add_argument("files", nargs="+", metavar="FILE", help="an image, an IDX file, a .csv file or -")
    made.add_argument("--json", action="store_true", help="print a JSON object a row, with all probabilities")
    return made


def predict(path: Path, files: Sequence[str], as_json: bool) -> None:
    """Print what the model in `path` says of each row in the files. Raises InputError. Collective: no."""
    trained = load_trained(World(), path)
    if trained.mean is None:
        raise InputError(
            f"model {path}: it doesn't know how its inputs were standardised; before saving it, note that in "
            'network.about["mean"] and ["deviation"]'
        )
    classes = trained.classes or list(range(trained.model.sizes[-1]))
    dataset = str(trained.config.get("dataset", Config.dataset)).partition(":")[0]
    sources = [read(name, trained.model.sizes[0], dataset) for name in files]
    table = [["file", "class", "probability", "runner-up", "probability"]]
    for name, row in probabilities(trained, sources):
        best, *others = np.argsort(-row, kind="stable")[:2]
        record = {
            "file": name,
            "class": classes[best],
            "probability": float(row[best]),
            "runner_up": classes[others[0]] if others else None,
            "probabilities": {str(each): float(p) for each, p in zip(classes, row, strict=True)},
        }
        if as_json:
            print(json_line(record))
        else:
            found = [word for place in (best, *others) for word in (str(classes[place]), f"{row[place]:.4f}")]
            table.append([name, *found, *["-", "-"] * (not others)])
    if not as_json:
        print(aligned(table))


def probabilities(trained: Trained, sources: Sequence[Source]) -> Iterator[tuple[str, Array]]:
    """Each row's name and probabilities (classes,), which the rows behind it overwrite. Collective: no.

    A row is computed with the rows of its own file alone, so that others change no bit of it. Raises InputError for
    numbers that are too large for the network's precision.
    """
    model = trained.model

    @lru_cache(2)  # of whole blocks, and of the shorter last one, such as a picture
    def workspace(rows: int) -> Propagation:
        return Propagation(model.sizes, model.activation, model.parameters, 1, rows)

    for source in sources:
        for start in range(0, len(source.names), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            work = workspace(len(source.names[block]))
            inputs = work.inputs[:, : model.sizes[0]]
            trained.standardise(source.values[block], inputs)
            if not np.isfinite(inputs).all():
                raise InputError(f"some numbers are too large for this network of {inputs.dtype}; give smaller ones")
            work.inputs[:, model.sizes[0]] = 1
            with np.errstate(over="ignore", divide="ignore"):  # saturated activations are exact limits
                found = work.forward()[0].T
            yield from zip(source.names[block], found, strict=True)


def read(name: str, inputs: int, dataset: str) -> Source:
    """The rows of a file for a network of so many inputs; which kind it is, its name and content tell.

    dataset: the kind that the network learned, which pictures are made to look like.
    Raises InputError where it can't be read or doesn't fit. Collective: no.
    """
    path = Path(name)
    if name == STANDARD_INPUT:
        return read_rows("standard input", io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig"), inputs)
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return read_rows(name, file, inputs)
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); name an image or a file of rows") from None
    if start.startswith(IDX_STARTS):
        images = read_idx_images(path)
        if path.name.startswith("emnist-"):
            images = images.transpose(0, 2, 1)  # they lie on their side there
        rows = images.reshape(len(images), -1)
        check_inputs(f"{path}: its images have {rows.shape[1]} pixels", rows.shape[1], inputs)
        return Source([f"{path}:{number}" for number in range(len(rows))], rows)
    return Source([name], read_picture(path, inputs, dataset)[None])


def read_rows(name: str, file: Iterable[str], inputs: int) -> Source:
    """Rows of numbers, `inputs` each, with commas, semicolons, tabs or blanks between them.

    A first line without any number is a header. Raises InputError with the line. Collective: no.
    """
    names: list[str] = []
    values: list[NDArray[np.float64]] = []
    try:
        lines = iter(file)
        start = next((line for line in lines if line.strip()), "")
        delimiter = next((each for each in DELIMITERS if each in start), " ")
        rows = csv.reader(chain([start], lines), delimiter=delimiter, skipinitialspace=True, strict=True)
        for place, row in enumerate(filter(None, rows)):
            words = [word for word in row if word] if delimiter == " " else row
            numbers = [as_number(word) for word in words]
            if place == 0 and not any(number is not None for number in numbers):
                continue
            line = f"{name}: row {len(names) + 1}"
            check_inputs(f"{line} has {len(words)} number{'s' * (len(words) != 1)}", len(words), inputs)
            for column, number in enumerate(numbers):
                if number is None or not math.isfinite(number):
                    raise InputError(f"{line}, column {column + 1}: {words[column]!r} is no finite number; correct it")
            names.append(f"{name}:{len(names) + 1}")
            values.append(np.array(numbers, np.float64))
    except (UnicodeDecodeError, csv.Error) as error:
        raise no_csv(name, error) from None
    if not values:
        raise InputError(f"{name}: there is no row in it; give it a line of {inputs} numbers")
    return Source(names, np.array(values))


def check_inputs(what: str, given: int, inputs: int) -> None:
    """Raise InputError where rows aren't as long as the network needs them."""
    if given != inputs:
        raise InputError(
            f"{what}, and this network has {inputs} inputs; give it rows like those it learned, without their class"
        )


if __name__ == "__main__":
    guard.run(main)
