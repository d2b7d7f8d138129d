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
TABLES = ("csv", "npz", "parquet")  # the part before the colon of csv:FILE
NAMED_TABLES = ("csv", "parquet")  # with columns that options can name
OWN = "csv:FILE, npz:FILE or parquet:FILE"
HEADERS = ("yes", "no")
CLASS_WEIGHTS = ("balanced",)


def is_table(name: str | None) -> bool:
    """Whether a value of --dataset names a table, as in csv:FILE."""
    return name is not None and name.partition(":")[0] in TABLES


@dataclass(frozen=True)
class Learned:
    """What a trained model stores about its table, or a data set about the table that it is validated on.

    columns: names of its inputs, in order; None if the table had no header. targets: names of the target columns.
    target_option, ignored: the values of --target and --ignore in training. classes: their names.
    """

    columns: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    target_option: tuple[str, ...]
    classes: frozenset[str]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    task: see `Model`; None to infer it from the targets.
    Of tables with named columns only: target, the target columns, by their names or their numbers from 1 (none: the
    last column); ignore, the columns to leave out; weight, the column of the rows' weights; split_column, the column
    that divides the rows into training, validation and test set. Of CSV only: header, "yes" or "no" (None: detect it).
    test_share: share of the rows, of each class, to hold out if the file has no test set; None to train on all rows.
    split_seed: seed of that draw. learned: the model to evaluate; None to train one. has_old_draw: whether that model
    is of distnet 0.1, which drew other rows.
    """

    target: tuple[str, ...] = ()
    header: str | None = None
    ignore: tuple[str, ...] = ()
    test_share: float | None = 0.2
    split_seed: int = 0
    learned: Learned | None = None
    has_old_draw: bool = False
    task: str | None = None
    weight: str | None = None
    split_column: str | None = None


@dataclass(frozen=True)
class DataOptions:
    """Which data to read.

    name, directory: the values of --dataset and --data-dir; None if they are not given.
    train_limit: use the first training samples only. train_samples: how many synthetic digits to draw.
    raw_inputs, raw_targets: do not standardise them. validation: file of a table's validation set.
    """

    name: str | None = None
    directory: Path | None = None
    train_limit: int | None = None
    train_samples: int = 60_000
    table: TableOptions = TableOptions()
    raw_inputs: bool = False
    raw_targets: bool = False
    validation: Path | None = None
