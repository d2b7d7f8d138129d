"""Arrays: their type, and memory that starts on a cache line."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[np.floating]

DTYPES = ("float32", "float64")
CACHE_LINE = 64  # bytes


def pad_count(count: int, dtype: DTypeLike) -> int:
    """The least number of elements, at least `count`, that fills whole cache lines."""
    line = CACHE_LINE // np.dtype(dtype).itemsize
    return -(-count // line) * line


def aligned_zeros(shape: Sequence[int], dtype: DTypeLike) -> NDArray[np.floating]:
    """A zeroed array that starts on a cache line.

    Vector code treats the elements before the first whole vector differently, so all ranks need the same alignment.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(tuple(shape))


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The array in the byte order of files and hashes, contiguous; itself where it is so already."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)  # it makes 0-d arrays 1-d


def native_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The array in this machine's byte order; itself where it is so already."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class Sharing(NamedTuple):
    """How the ranks of a node share memory: this rank, how many there are, what allocates zeroed memory, and what waits
    until all of them arrive.
    """

    rank: int = 0
    ranks: int = 1
    allocate: Callable[[Sequence[int], DTypeLike], NDArray[Any]] = aligned_zeros
    meet: Callable[[], None] = lambda: None
