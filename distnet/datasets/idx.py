"""IDX files, raw or gzipped, to arrays: read through python-mnist, and refused wherever it would be silent.

python-mnist unpacks pixel by pixel into lists, and lets truncated images, trailing bytes and unequal numbers
pass. `Reader` is its `MNIST` class with that one parser replaced by `numpy.frombuffer` and checks.
"""

import gzip
import hashlib
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnet.runtime.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # compiling python-mnist 0.7 warns, for it compares with `is 'numpy'`
    from mnist import MNIST

# The four files of a data set in this form, each with or without .gz behind it.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CHUNK = 1 << 20  # bytes unpacked at a time
REMEDY = "download it again with python -m distnet.datasets mnist (or fashion-mnist)"
EMNIST_REMEDY = "take it again from gzip.zip of www.nist.gov/itl/products-and-services/emnist-dataset"


def read_idx_pair(
    images_path: Path, labels_path: Path, classes: int, first: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The images and labels of one set.

    images_path, labels_path: `NAME` or `NAME.gz`; whether a file is gzipped is told by its content.
    classes: how many; labels run from `first` to first + classes - 1.
    Returns images (n, rows, columns) uint8 and labels (n,) uint8, n > 0, the sizes as the headers say.
    Raises InputError when a file can't be read, isn't what its header says, or doesn't fit the other one.
    Changed pixels are not seen by the format, but by `datasets.check_bytes`.
    Source: LeCun, Cortes, Burges, The MNIST database, "File formats".
    """
    reader = Reader(path="")
    reader.train_img_fname, reader.train_lbl_fname = str(images_path), str(labels_path)
    images, labels = reader.load_training()
    check_labels(labels_path, labels, classes, first)
    return images, labels


def check_labels(path: Path, labels: NDArray[np.uint8], classes: int, first: int = 0) -> None:
    """Raise InputError where one isn't from `first` to first + classes - 1."""
    last = first + classes - 1
    wrong = np.flatnonzero((labels < first) | (labels > last))
    if wrong.size:
        index = wrong[0]
        raise _bad(path, f"label {labels[index]} at index {index} is not one of {first} to {last}")


def read_idx_images(path: Path) -> NDArray[np.uint8]:
    """The images of one file, (n, rows, columns) uint8, n > 0. Raises InputError as above."""
    return _read(path, dimensions=3)


def sha256_of(array: NDArray[np.uint8]) -> str:
    """64 hex digits of the IDX file that would hold this array."""
    digest = hashlib.sha256(struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Reader(MNIST):  # type: ignore[misc]
    """python-mnist's reader, with arrays instead of lists and nothing let through in silence."""

    def load(self, path_img: str, path_lbl: str, batch: None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Overrides the list parser; `load_training` calls it and hands its arrays on untouched."""
        images, labels = _read(Path(path_img), dimensions=3), _read(Path(path_lbl), dimensions=1)
        if len(images) != len(labels):
            raise _bad(Path(path_img), f"has {len(images)} images, but {path_lbl} has {len(labels)} labels")
        return images, labels


@contextmanager
def unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file, without its gzip wrapper if it has one.

    Raises InputError when it can't be opened, and within the block when it can't be read or the wrapper is
    damaged (its checksum is compared once the end has been read).
    """
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream
            else:
                yield file
    except FileNotFoundError as error:
        raise _bad(path, "there is no such file") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _bad(path, f"its gzip wrapper is damaged ({error})") from error
    except OSError as error:
        raise _bad(path, f"it cannot be read ({error.strerror})") from error


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes: 3 dimensions for images, 1 for labels."""
    magic = struct.pack(">I", 0x0800 + dimensions)  # 08: unsigned bytes
    with unpacked(path) as stream:
        header = stream.read(4 * (1 + dimensions))
        if not header:
            raise _bad(path, "it is empty")
        if len(header) >= 4 and header[:4] != magic:
            kind = "images" if dimensions == 3 else "labels"
            raise _bad(path, f"it starts with {header[:4].hex()}, IDX {kind} start with {magic.hex()}")
        if len(header) < 4 * (1 + dimensions):
            raise _bad(path, f"it ends within its header, after {len(header)} bytes")
        shape = struct.unpack(f">{dimensions}I", header[4:])
        size, told = math.prod(shape), " x ".join(map(str, shape))
        if size == 0:
            raise _bad(path, f"its header promises nothing ({told})")
        # The header may lie: memory grows with what really comes, and one byte too many is enough to know.
        data = bytearray()
        while chunk := stream.read(min(CHUNK, size + 1 - len(data))):
            data += chunk
    if len(data) != size:
        comes = f"ends after {len(data):,} of" if len(data) < size else "goes on after"
        raise _bad(path, f"it {comes} the {size:,} bytes that its header promises ({told})")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _bad(path: Path, what: str) -> InputError:
    return InputError(path, what, EMNIST_REMEDY if path.name.startswith("emnist-") else REMEDY)
