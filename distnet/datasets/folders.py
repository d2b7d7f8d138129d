"""Find the files of a data set, or fetch them."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.idx import EMNIST_REMEDY, FILES, sha256_of
from distnet.datasets.names import EMNIST
from distnet.runtime.errors import InputError
from distnet.runtime.text import join_names

NAMES = ("fashion-mnist", "mnist")  # those that can be downloaded
KNOWN_SAMPLES = (60_000, 10_000)  # of MNIST and Fashion-MNIST, training and test
KERAS = "mnist.npz"
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # the folder, in which `raw` has the files
# Names of MNIST in any form, but not of Fashion-MNIST, EMNIST or KMNIST.
LIKE_MNIST = re.compile(r"(?!.*fashion)(.*(?<![a-z])mnist|(train|test|t10k)[-_.]?(images|labels))", re.IGNORECASE)
# Where Debian's package dataset-fashion-mnist puts its files.
INSTALLED = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
SHOWN = 5  # files that are there instead of MNIST, in a message
FIRST_ANSWER = 5.0  # seconds that training waits for a mirror


def file_names(name: str) -> list[str]:
    """The four IDX files of a data set: training images, training labels, test images, test labels."""
    if name not in EMNIST:
        return list(FILES)
    return [f"{name}-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]


def home(name: str, directory: Path) -> Path:
    """The folder for the files of a data set: Fashion-MNIST's have the names of MNIST's, and one of their own."""
    return directory / name if name == "fashion-mnist" and directory.name != name else directory


def folders(name: str, directory: Path) -> list[Path]:
    """Where the files of a data set may lie for this --data-dir: there, or where torchvision or Debian put them."""
    found = [home(name, directory), directory]
    if below := TORCHVISION.get(name):
        found += [directory / below / "raw", *([directory / "raw"] if directory.name == below else [])]
    if name in INSTALLED:
        found.append(INSTALLED[name])
    return list(dict.fromkeys(found))


def find_files(name: str, directory: Path) -> list[Path] | None:
    """The four IDX files (train images, train labels, test images, test labels), or Keras's one .npz file.

    None if there is nothing of them. Raises InputError where some are there and some are missing.
    """
    problem: InputError | None = None
    for folder in folders(name, directory):
        found = [next(filter(os.path.isfile, spellings(folder / file)), None) for file in file_names(name)]
        if name == "fashion-mnist" and folder != home(name, directory) and found[3] and is_mnist(found[3]):
            continue
        there = [path for path in found if path]
        if len(there) == len(found):
            return there
        if name == "mnist" and os.path.isfile(folder / KERAS):
            return [folder / KERAS]
        if there and not problem:
            missing = [file for file, path in zip(file_names(name), found, strict=True) if not path]
            problem = InputError(
                f"--data-dir {folder}",
                f"{join_names(missing)} {'is' if len(missing) == 1 else 'are'} missing beside "
                f"{join_names([path.name for path in there])}",
                how_to_get(name, folder),
            )
    if problem:
        raise problem
    return None


def spellings(path: Path) -> list[Path]:
    """An IDX file as LeCun names it, and as 7-Zip does, both with .gz behind it or not."""
    return [
        path.with_name(f"{name}{ending}")
        for name in (path.name, path.name.replace("-idx", ".idx"))
        for ending in ("", ".gz")
    ]


def is_mnist(test_labels: Path) -> bool:
    """Whether these test labels, which are few bytes, are those of MNIST."""
    from distnet.datasets import mirrors

    return mirrors.is_file_of("mnist", FILES[3], test_labels)


def traces(directory: Path) -> list[str]:
    """The files and folders in a folder whose names look like MNIST, whatever their form; no empty folders."""
    found = []
    with suppress(OSError):
        for entry in os.scandir(directory):
            if LIKE_MNIST.match(entry.name) and (not entry.is_dir() or os.listdir(entry)):
                found.append(entry.name)
    return sorted(found)


def how_to_get(name: str, folder: Path) -> str:
    """What to tell who hasn't the files."""
    if name in EMNIST:
        return EMNIST_REMEDY
    return f"fetch the files with python -m distnet.datasets {name} --data-dir {folder}"


def locate(name: str, directory: Path, asked_for: bool, folder_given: bool) -> tuple[list[Path] | None, str]:
    """The files of data set `name`, or None for drawn digits, and what to tell the user.

    Where the folder is the default one, the mirrors are tried once. asked_for: whether the user named the
    data set or the folder, and so would not want another one. Nor does who has a file that looks like MNIST.
    For rank 0.
    """
    if name == "synthetic":
        return None, ""
    if files := find_files(name, directory):
        return files, ""
    if name in EMNIST:
        *most, last = file_names(name)
        raise InputError(
            f"--data-dir {directory}",
            f"there is no {name}",
            f"put {', '.join(most)} and {last} there, with or without .gz",
        )
    if folder_given:
        raise missing_files(name, directory)
    from distnet.datasets import mirrors  # its imports take a while, and few runs need it

    try:
        mirrors.download(name, home(name, directory), first_answer=FIRST_ANSWER)
    except InputError:
        if asked_for:
            raise
        if traces(directory):
            raise missing_files(name, directory) from None
        return None, (
            f"no {name} in {directory}/, and no mirror gave it within {FIRST_ANSWER:g} s; "
            f"going on with synthetic digits (python -m distnet.datasets {name} tries again)"
        )
    return find_files(name, directory), ""


def missing_files(name: str, directory: Path) -> InputError:
    """That a data set isn't in a folder, and what is there instead."""
    found = traces(directory) if name == "mnist" else []
    there = f", but {join_names(found[:SHOWN])}{' and others' * (len(found) > SHOWN)}" if found else ""
    npz = f", nor is {KERAS}" if name == "mnist" else ""
    return InputError(
        f"--data-dir {directory}",
        f"{FILES[0]} and the other files of {name} aren't there{npz}{there}",
        how_to_get(name, directory),
    )


def check_bytes(name: str, files: Sequence[Path], arrays: Sequence[NDArray[np.uint8]]) -> None:
    """Raise InputError where one of the four arrays has the known size, but not the known bytes.

    Another number of samples is somebody's own data in the same form.
    """
    from distnet.datasets import mirrors

    for number, (file, array) in enumerate(zip(FILES, arrays, strict=True)):
        path, known = files[number % len(files)], mirrors.DATASETS[name].sha256[file]
        if len(array) in KNOWN_SAMPLES and sha256_of(array) != known:
            raise InputError(
                path,
                f"its bytes aren't those of {name} (sha256 {sha256_of(array)[:8]}..., not {known[:8]}...)",
                f"download it again with python -m distnet.datasets {name} --data-dir {path.parent}",
            )
