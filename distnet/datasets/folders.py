"""Find the files of a data set, or download them."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.idx import EMNIST_REMEDY, FILES, sha256_of
from distnet.datasets.options import DATA_FOLDER, DEFAULT, EMNIST_CLASSES, HAS_FOLDER
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn
from distnet.runtime.text import join_names, list_names

KNOWN_SAMPLES = (60_000, 10_000)  # of MNIST and Fashion-MNIST, training and test
KERAS = "mnist.npz"
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # the folder whose `raw` has the files
# Names of MNIST in any form, but not of Fashion-MNIST, EMNIST or KMNIST.
LIKE_MNIST = re.compile(r"(?!.*fashion)(.*(?<![a-z])mnist|(train|test|t10k)[-_.]?(images|labels))", re.IGNORECASE)
# Where Debian's package dataset-fashion-mnist puts its files.
INSTALLED = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
FIRST_ANSWER = 5.0  # seconds that training waits for a mirror


def file_names(name: str) -> list[str]:
    """The four IDX files of a data set: training images, training labels, test images, test labels."""
    if name not in EMNIST_CLASSES:
        return list(FILES)
    return [f"{name}-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]


def home(name: str, directory: Path) -> Path:
    """Where to put the files of a data set: Fashion-MNIST has its own folder, since its file names are MNIST's."""
    return directory / name if name == "fashion-mnist" and directory.name != name else directory


def folders(name: str, directory: Path) -> list[Path]:
    """Where the files of a data set may be for this --data-dir: there, or where torchvision or Debian put them."""
    found = [home(name, directory), directory]
    if below := TORCHVISION.get(name):
        found += [directory / below / "raw", *([directory / "raw"] if directory.name == below else [])]
    if name in INSTALLED:
        found.append(INSTALLED[name])
    return list(dict.fromkeys(found))


def find_files(name: str, directory: Path) -> list[Path] | None:
    """The four IDX files (train images, train labels, test images, test labels), or Keras's one .npz file.

    None if there are none. Raises InputError if only some are there.
    """
    names, problem = file_names(name), None
    for folder in folders(name, directory):
        found = [next(filter(os.path.isfile, spellings(folder / file)), None) for file in names]
        if name == "fashion-mnist" and folder != home(name, directory) and found[3] and is_mnist(found[3]):
            continue
        there = [path for path in found if path]
        if len(there) == len(found):
            return there
        if name == "mnist" and os.path.isfile(folder / KERAS):
            return [folder / KERAS]
        if there and not problem:
            missing = [file for file, path in zip(names, found, strict=True) if not path]
            problem = InputError(
                f"--data-dir {folder}",
                f"{join_names(missing)} {'is' if len(missing) == 1 else 'are'} missing beside "
                f"{join_names([path.name for path in there])}",
                EMNIST_REMEDY if name in EMNIST_CLASSES else download_command(name, folder),
            )
    if problem:
        raise problem
    return None


def is_mnist(test_labels: Path) -> bool:
    """Whether these test labels, a small file, are MNIST's."""
    from distnet.datasets import mirrors  # slow to import, and rarely needed

    return mirrors.is_file_of("mnist", FILES[3], test_labels)


def spellings(path: Path) -> list[Path]:
    """The names of an IDX file: LeCun's, and 7-Zip's, each with and without .gz."""
    return [
        path.with_name(f"{name}{ending}")
        for name in (path.name, path.name.replace("-idx", ".idx"))
        for ending in ("", ".gz")
    ]


def traces(directory: Path) -> list[str]:
    """Names in a folder that look like MNIST in any form; empty folders don't count."""
    found = []
    with suppress(OSError):
        for entry in os.scandir(directory):
            if LIKE_MNIST.match(entry.name) and (not entry.is_dir() or os.listdir(entry)):
                found.append(entry.name)
    return sorted(found)


def download_command(name: str, folder: Path) -> str:
    """The remedy for missing files."""
    return f"download the files with python -m distnet.datasets {name} --data-dir {folder}"


def locate(name: str | None, directory: Path | None) -> list[Path] | None:
    """The files of a data set; None for synthetic digits.

    name, directory: the values of --dataset and --data-dir; None if they are not given.
    If no folder is named, missing files are downloaded. If that fails, no data set is named, and the folder has
    nothing that looks like MNIST, prints a note and returns None. Otherwise raises InputError. For rank 0.
    """
    is_named, has_folder = name is not None, directory is not None or HAS_FOLDER
    name, directory = name or DEFAULT, directory or DATA_FOLDER
    if name == "synthetic":
        return None
    if files := find_files(name, directory):
        return files
    if name in EMNIST_CLASSES:
        remedy = f"put {join_names(file_names(name))} there, with or without .gz"
        raise InputError(f"--data-dir {directory}", f"{name} is missing", remedy)
    if has_folder:
        raise missing_files(name, directory)
    from distnet.datasets import mirrors

    try:
        mirrors.download(name, home(name, directory), first_answer=FIRST_ANSWER)
    except InputError:
        if is_named:
            raise
        if traces(directory):
            raise missing_files(name, directory) from None
        warn(
            f"{name} is not in {directory}/, and could not be downloaded; using synthetic digits "
            f"(python -m distnet.datasets {name} tries again, and prints why)"
        )
        return None
    return find_files(name, directory)


def missing_files(name: str, directory: Path) -> InputError:
    """The error for a data set that isn't in a folder; it names files that look like MNIST."""
    found = traces(directory) if name == "mnist" else []
    there = f", but {list_names(found)}" if found else ""
    npz = f", nor is {KERAS}" if name == "mnist" else ""
    problem = f"{FILES[0]} and the other files of {name} aren't there{npz}{there}"
    return InputError(f"--data-dir {directory}", problem, download_command(name, directory))


def check_bytes(name: str, files: Sequence[Path], arrays: Sequence[NDArray[np.uint8]]) -> None:
    """Raise InputError if one of the four arrays has the size of the published one, but other bytes.

    An array of another size is taken for your own data in the same format.
    """
    from distnet.datasets import mirrors

    for number, (file, array) in enumerate(zip(FILES, arrays, strict=True)):
        path, published = files[number % len(files)], mirrors.DATASETS[name].sha256[file]
        if len(array) in KNOWN_SAMPLES and sha256_of(array) != published:
            raise InputError(
                path,
                f"its bytes aren't those of {name} (sha256 {sha256_of(array)[:8]}..., not {published[:8]}...)",
                download_command(name, path.parent),
            )
