"""IDX files, raw or gzipped, to arrays. They are read through python-mnist, with strict checks.

python-mnist reads pixel by pixel into lists, and accepts truncated images, trailing bytes and unequal numbers.
`Reader` is its `MNIST` class with that parser replaced by `numpy.frombuffer` and checks.
"""

import gzip
import hashlib
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from distnet.runtime.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # python-mnist 0.7 compares with `is 'numpy'`, and compiling that warns
    from mnist import MNIST

# The four files of a data set, each with or without .gz.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CHUNK = 1 << 20  # bytes unpacked at a time
REMEDY = "download it again with python -m distnet.datasets mnist (or fashion-mnist)"
EMNIST_REMEDY = "unpack it again from gzip.zip of www.nist.gov/itl/products-and-services/emnist-dataset"


def read_idx_pair(
    images_path: Path, labels_path: Path, classes: int, first: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, rows, columns) uint8 and labels (n,) uint8 of one set, n > 0.

    Each file may be gzipped, whatever its name. Labels run from `first` to first + classes - 1.
    Raises InputError if a file can't be read, contradicts its header, or doesn't fit the other one.
    The format can't detect changed pixels; `folders.check_bytes` does.
    Source: LeCun, Cortes, Burges, The MNIST database, "File formats".
    """
    reader = Reader(path="")
    reader.train_img_fname, reader.train_lbl_fname = str(images_path), str(labels_path)
    images, labels = reader.load_training()
    check_labels(labels_path, labels, classes, first)
    return images, labels


def check_labels(path: Path, labels: NDArray[np.uint8], classes: int, first: int = 0) -> None:
    """Raise InputError if a label isn't from `first` to first + classes - 1."""
    last = first + classes - 1
    wrong = np.flatnonzero((labels < first) | (labels > last))
    if wrong.size:
        index = wrong[0]
        raise _bad(path, f"label {labels[index]} at index {index} is not one of {first} to {last}")


def sha256_of(array: NDArray[np.uint8]) -> str:
    """The sha256 of an IDX file of this array, in hex."""
    digest = hashlib.sha256(struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Reader(MNIST):  # type: ignore[misc]
    """python-mnist's reader with arrays instead of lists, and with checks."""

    def load(self, path_img: str, path_lbl: str, batch: None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Replaces the list parser; `load_training` returns its arrays unchanged."""
        images, labels = read_idx(Path(path_img), dimensions=3), read_idx(Path(path_lbl), dimensions=1)
        if len(images) != len(labels):
            raise _bad(Path(path_img), f"has {len(images)} images, but {path_lbl} has {len(labels)} labels")
        return images, labels


@contextmanager
def unpacked(path: Path, remedy: str) -> Iterator[IO[bytes]]:
    """Open a file; decompress it if it is gzipped.

    Raises OSError, and InputError within the block if the gzip file is damaged. Its checksum is compared at the end.
    """
    with path.open("rb") as file:
        stream: Any = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
        try:
            yield stream
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(path, f"its gzip wrapper is damaged ({error})", remedy) from error


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes: 3 dimensions for images, 1 for labels. Raises InputError."""
    magic = struct.pack(">I", 0x0800 + dimensions)  # 08: unsigned bytes
    data = bytearray()
    try:
        with unpacked(path, _remedy(path)) as stream:
            header = stream.read(4 * (1 + dimensions))
            if not header:
                raise _bad(path, "is empty")
            if len(header) >= 4 and header[:4] != magic:
                kind = "images" if dimensions == 3 else "labels"
                raise _bad(path, f"starts with {header[:4].hex()}, IDX {kind} start with {magic.hex()}")
            if len(header) < 4 * (1 + dimensions):
                raise _bad(path, f"ends within its header, after {len(header)} bytes")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size, product = math.prod(shape), " x ".join(map(str, shape))
            if size == 0:
                raise _bad(path, f"its header promises nothing ({product})")
            # The header may be wrong: allocate only for bytes that arrive, and stop after one too many.
            while chunk := stream.read(min(CHUNK, size + 1 - len(data))):
                data += chunk
    except OSError as error:
        raise _bad(path, f"can't be read ({error.strerror or error})") from error
    if len(data) != size:
        end = f"ends after {len(data):,} of" if len(data) < size else "goes on after"
        raise _bad(path, f"{end} the {size:,} bytes that its header promises ({product})")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _bad(path: Path, problem: str) -> InputError:
    return InputError(path, problem, _remedy(path))


def _remedy(path: Path) -> str:
    return EMNIST_REMEDY if path.name.startswith("emnist-") else REMEDY
