"""Names of data sets, of kinds of tables, and of the default folder."""

import os
from pathlib import Path

# Where the files of a data set are, unless another folder is named.
DEFAULT = "mnist"  # where no data set is named
DATA_FOLDER = Path(os.path.expanduser(os.environ.get("DISTNET_DATA") or "data"))  # where no folder is named
HAS_FOLDER = bool(os.environ.get("DISTNET_DATA"))  # whether the environment names it
EMNIST = tuple(f"emnist-{part}" for part in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))
DATASETS = ("mnist", "fashion-mnist", "synthetic", *EMNIST)
TABLES = ("csv", "npz")  # what stands before the colon of a person's own file
OWN = " or ".join(f"{kind}:FILE" for kind in TABLES)
HEADERS = ("yes", "no")
