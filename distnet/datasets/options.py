"""Which data to read, and how: names of data sets, default folder, options of tables."""

import os
import string
from dataclasses import dataclass
from pathlib import Path

DIGITS = tuple(range(10))
LETTERS = string.ascii_uppercase
# EMNIST merges small letters that look like their capitals, except in byclass.
# Source: Cohen, Afshar, Tapson, van Schaik 2017, EMNIST: an extension of MNIST to handwritten letters.
MERGED = (*string.digits, *LETTERS, *"abdefghnqrt")
EMNIST_CLASSES: dict[str, tuple[str | int, ...]] = {
    "emnist-balanced": MERGED,
    "emnist-byclass": (*string.digits, *LETTERS, *string.ascii_lowercase),
    "emnist-bymerge": MERGED,
    "emnist-digits": DIGITS,
    "emnist-letters": tuple(LETTERS),
    "emnist-mnist": DIGITS,
}
DEFAULT = "mnist"  # if no data set is named
DATA_FOLDER = Path(os.path.expanduser(os.environ.get("DISTNET_DATA") or "data"))  # if no folder is named
HAS_FOLDER = bool(os.environ.get("DISTNET_DATA"))  # whether the environment names it
DATASETS = ("mnist", "fashion-mnist", "synthetic", *EMNIST_CLASSES)
TABLES = ("csv", "npz")  # the part before the colon of csv:FILE
OWN = " or ".join(f"{kind}:FILE" for kind in TABLES)
HEADERS = ("yes", "no")


@dataclass(frozen=True)
class Learned:
    """What a trained model stores about its table.

    columns: names of its inputs, in order; None if the table had no header. label: name of the column of classes.
    label_option: the value of --label in training. classes: their names.
    """

    columns: tuple[str, ...] | None
    label: str | None
    label_option: str | None
    classes: frozenset[str]


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Of CSV only: label, the column of classes, by its name or its number from 1 (None: the last); header, "yes" or "no"
    (None: detect it); ignore, the columns to leave out, named like the label.
    test_share: share of each class to hold out if the file has no test set; None to train on all rows.
    split_seed: seed of that draw. learned: the model to evaluate; None to train one. has_old_draw: whether that model
    is of distnet 0.1, which drew other rows.
    """

    label: str | None = None
    header: str | None = None
    ignore: tuple[str, ...] = ()
    test_share: float | None = 0.2
    split_seed: int = 0
    learned: Learned | None = None
    has_old_draw: bool = False


@dataclass(frozen=True)
class DataOptions:
    """Which data to read.

    name, directory: the values of --dataset and --data-dir; None if they are not given.
    train_limit: use the first training samples only. train_samples: how many synthetic digits to draw.
    raw_inputs: do not standardise.
    """

    name: str | None = None
    directory: Path | None = None
    train_limit: int | None = None
    train_samples: int = 60_000
    table: TableOptions = TableOptions()
    raw_inputs: bool = False
