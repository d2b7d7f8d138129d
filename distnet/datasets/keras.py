"""MNIST as Keras has it, one .npz file, to the arrays that four IDX files hold."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.idx import REMEDY, check_labels
from distnet.runtime.errors import InputError, first_line

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
LARGEST = 1 << 30  # bytes of all arrays; a small file may promise any number


def read_keras(path: Path, classes: int) -> list[NDArray[np.uint8]]:
    """Training images (n, rows, columns), training labels (n,), test images and test labels, n > 0.

    Raises InputError where the file can't be read or doesn't hold them. Nothing that it holds is run.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise ValueError(f"more than {LARGEST >> 20} MiB of arrays")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                found = [stored[name] for name in ARRAYS if name in stored.files]
                names = stored.files
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror or error})", REMEDY) from None
    except Exception as error:  # damaged and foreign bytes make zipfile raise almost anything
        raise InputError(path, f"it is damaged or not an .npz file ({first_line(error)})", REMEDY) from None
    if len(found) < len(ARRAYS):
        there = ", ".join(map(repr, names)) or "none"
        raise InputError(path, f"it needs the arrays {', '.join(ARRAYS)} and has {there}", REMEDY)
    for number, array in enumerate(found):
        images = array if number % 2 == 0 else found[number - 1]
        dimensions = 1 if number % 2 else 3
        if array.dtype != np.uint8 or array.ndim != dimensions or len(array) != len(images) or not array.size:
            raise InputError(
                path,
                f"{ARRAYS[number]} is of shape {array.shape} and {array.dtype}, not "
                f"{'one label per image' if number % 2 else '(images, rows, columns)'} and uint8",
                REMEDY,
            )
        if number % 2:
            check_labels(path, array, classes)
    return found
