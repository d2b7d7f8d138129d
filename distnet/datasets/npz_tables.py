"""Arrays that numpy.savez wrote as a table: X and y, under any of their usual names; nothing in the file is run."""

import io
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from distnet.parallel.shards import row_blocks
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.files import check_unpacked_size
from distnet.runtime.text import listed

# What the arrays of a part may be called, in small letters.
NAMES = {
    "X": ("x", "x_train"),
    "y": ("y", "y_train"),
    "X_test": ("x_test",),
    "y_test": ("y_test",),
}
ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.int64], list[Any], int]:
    """The arrays X (rows, ...) and y (rows,) of an .npz file, and behind them X_test and y_test.

    X and y may be called x_train and y_train, as Keras does, in large or small letters.
    Returns values (rows, columns) of X's dtype, codes (rows,), sorted classes, and how many of the last rows are
    for testing, 0 where the file has no such arrays. Raises InputError, and OSError. Nothing that the file
    holds is run.
    """
    found, named = read_arrays(path)
    parts = [("X", "y"), *[("X_test", "y_test")][: len({"X_test", "y_test"} & found.keys())]]
    for x_name, y_name in parts:
        check_pair(path, named[x_name], found[x_name], named[y_name], found[y_name])
    shapes = {name: found[name].shape[1:] for name, _ in parts}
    if len(set(shapes.values())) > 1:
        raise InputError(
            path,
            f"rows of {named['X']} are {shapes['X']}, and of {named['X_test']} {shapes['X_test']}",
            "give both the same number",
        )
    if len({found[y].dtype.kind == "U" for _, y in parts}) > 1:
        raise InputError(
            path,
            f"one of {named['y']} and {named['y_test']} is text, and the other isn't",
            "give both the same classes",
        )
    X, y = (join([found[pair[which]] for pair in parts]) for which in (0, 1))
    classes, codes = np.unique(y, return_inverse=True)
    values = np.ascontiguousarray(X.reshape(len(X), -1))
    return values, codes.astype(np.int64), classes.tolist(), len(found["X_test"]) if parts[1:] else 0


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a table by what they are, see NAMES, and what each is called in the file.

    Raises InputError where some are missing or there twice, and OSError.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise ValueError("it is not a zip file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                named = find_names(path, stored.files)
                check_unpacked_size(stored.zip.getinfo(member_of(stored, name)) for name in named.values())
                found = {part: read_member(path, stored, name) for part, name in named.items()}
    except (OSError, InputError):
        raise
    except Exception as error:
        # Damaged and foreign bytes make zipfile raise almost anything.
        raise InputError(
            path, f"is damaged or not a file of numpy.savez ({first_line(error)})", "save X and y with it"
        ) from None
    return found, named


def find_names(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Which of a file's arrays is which part of a table. Raises InputError where that can't be said."""
    named = {}
    for part, usual in NAMES.items():
        there = [name for name in names if name.lower() in usual]
        if len(there) > 1:
            raise InputError(path, f"{listed(there)} are both there, and either may be {part}", "remove one")
        if there:
            named[part] = there[0]
    wanted = ["X", "y", *["X_test", "y_test"] * bool({"X_test", "y_test"} & named.keys())]
    if missing := [part for part in wanted if part not in named]:
        raise InputError(
            path,
            f"{missing[0]} is missing, it has {listed(names) or 'no arrays'}",
            "save X and y (or x_train and y_train), and X_test with y_test",
        )
    return named


def member_of(stored: Any, name: str) -> str:
    """What an array of an .npz file is called in the zip file."""
    return name if name in stored.zip.namelist() else f"{name}.npy"


def read_member(path: Path, stored: Any, name: str) -> NDArray[Any]:
    """One array of an .npz file; of objects, as pandas saves text, where all are text or all are numbers."""
    with stored.zip.open(member_of(stored, name)) as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if not dtype.hasobject:
            array: NDArray[Any] = stored[name]
            return array
        objects = read_objects(file.read())
    if len(objects) != math.prod(shape):
        raise ValueError(f"{name} holds {len(objects)} objects, and promises {shape}")
    kinds = set(map(type, objects))
    if kinds <= {str} or kinds <= {bool, int, float}:
        return np.array(objects, str if str in kinds else None).reshape(shape)
    wrong = next(place for place, each in enumerate(objects) if type(each) is not str)
    index = ", ".join(map(str, np.unravel_index(wrong, shape)))
    raise InputError(
        path, f"{name}[{index}] is {objects[wrong]!r}, and others are text", "save it as numbers or as text alone"
    )


class _Array:
    """What stands for an array while objects are read."""

    objects: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.objects = state[-1]


class _Dtype:
    """What stands for a dtype while objects are read."""

    def __setstate__(self, state: object) -> None:
        """Take whatever comes, and nothing of it."""


class _ObjectsOnly(pickle.Unpickler):
    """An unpickler of NumPy's arrays of objects to which nothing of NumPy's is given: no code runs but this file's."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ARRAY_MODULES and name == "_reconstruct":
            return lambda *ignored: _Array()
        if (module, name) == ("numpy", "dtype"):
            return lambda *ignored: _Dtype()
        if (module, name) == ("numpy", "ndarray"):
            return None
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_objects(content: bytes) -> list[Any]:
    """The objects of a pickled array of them, in C order: text, numbers and None. Raises almost anything."""
    read = _ObjectsOnly(io.BytesIO(content)).load()
    objects = read.objects if isinstance(read, _Array) else None
    if not isinstance(objects, list) or any(type(each) not in (str, bool, int, float, type(None)) for each in objects):
        raise pickle.UnpicklingError("its objects are neither text nor numbers")
    return objects


def check_pair(path: Path, x_name: str, X: NDArray[Any], y_name: str, y: NDArray[Any]) -> None:
    """Raise InputError unless X is rows of finite numbers and y a class for each."""
    for name, numbers, kinds in ((x_name, X, "biuf"), (y_name, y, "biufU")):
        if numbers.dtype.kind not in kinds or (numbers.dtype.kind != "U" and numbers.dtype.itemsize > 8):
            right = "numbers or text" if "U" in kinds else "numbers"
            raise InputError(path, f"{name} is of {numbers.dtype}", f"save it as {right}")
    if X.ndim < 2 or X.size == 0 or y.shape != X.shape[:1]:
        raise InputError(
            path, f"{x_name} is of shape {X.shape} and {y_name} of {y.shape}", "save (rows, columns) and (rows,)"
        )
    for name, numbers in ((x_name, X), (y_name, y)):
        if numbers.dtype.kind == "f":
            for rows in row_blocks(len(numbers), math.prod(numbers.shape[1:])):
                wrong = np.argwhere(~np.isfinite(numbers[rows]))
                if wrong.size:
                    index = wrong[0] + [rows.start, *[0] * (numbers.ndim - 1)]
                    raise InputError(
                        path,
                        f"{name}[{', '.join(map(str, index))}] is {numbers[tuple(index)]}",
                        "save finite numbers",
                    )


def join(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array of all rows, and the very one where it is alone."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
