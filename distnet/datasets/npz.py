"""Arrays that numpy.savez wrote: a table's X and y under any of their usual names, or Keras's mnist.npz.

Nothing in the file is executed.
"""

import io
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from distnet.datasets.dataset import Table, as_weights, find_not_finite
from distnet.datasets.idx import REMEDY, check_labels
from distnet.datasets.options import TableOptions
from distnet.datasets.targets import add_targets, as_column
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.files import check_unpacked_size
from distnet.runtime.text import list_names

# The names that the arrays may have, in lower case.
Names = Mapping[str, Sequence[str]]
NAMES: Names = {"X": ("x", "x_train"), "y": ("y", "y_train"), "X_test": ("x_test",), "y_test": ("y_test",)}
WEIGHTS: Names = {"sample_weight": ("sample_weight",), "sample_weight_test": ("sample_weight_test",)}
ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


def read_npz(path: Path, options: TableOptions) -> Table:
    """The table in an .npz file, in X's dtype; X_test and y_test, if they are there, are its test rows.

    sample_weight and sample_weight_test are their weights. Raises InputError, and OSError.
    """
    found, named = read_arrays(path, {**NAMES, **WEIGHTS})
    parts = [("X", "y"), ("X_test", "y_test")][: 2 if "X_test" in found else 1]
    for x_name, y_name in parts:
        check_pair(path, named[x_name], found[x_name], named[y_name], found[y_name])
    for names in (("X", "X_test"), ("y", "y_test")):
        shapes = [found[name].shape[1:] for name in names if name in found]
        if len(set(shapes)) > 1:
            first, second = (named[name] for name in names)
            problem = f"rows of {first} are {shapes[0]}, and of {second} {shapes[1]}"
            raise InputError(path, problem, "give both the same number")
    if len({found[y].dtype.kind == "U" for _, y in parts}) > 1:
        problem = f"one of {named['y']} and {named['y_test']} is text, and the other isn't"
        raise InputError(path, problem, "give both the same classes")
    X, y = (
        arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # which copies even a single array
        for arrays in zip(*([found[x], found[y]] for x, y in parts), strict=True)
    )
    values, counts = np.ascontiguousarray(X.reshape(len(X), -1)), [len(found[x]) for x, _ in parts]
    train, test = np.split(np.arange(len(y)), counts[:1])
    columns = [
        as_column("y" if y.ndim == 1 else f"y[:, {place}]", each, "row {}".format)
        for place, each in enumerate(y.reshape(len(y), -1).T)
    ]
    table = Table(values, np.zeros(len(y), np.int64), [], train, test)
    return add_targets(path, table, columns, options.task)._replace(weights=join_weights(path, found, counts))


def join_weights(path: Path, found: dict[str, NDArray[Any]], counts: Sequence[int]) -> NDArray[np.float64] | None:
    """The weights of all rows, None if there are none. counts: rows of X and, if it is there, X_test."""
    if not found.keys() & WEIGHTS.keys():
        return None
    weights = []
    for name, count in zip(WEIGHTS, counts, strict=False):
        if name not in found:
            raise InputError(path, f"{name} is missing", "give all rows a weight, or none")
        try:
            weights.append(as_weights(found[name], count, name))
        except InputError as error:
            raise InputError(path, f"{name}: {error.problem}", error.remedy) from None
    return np.concatenate(weights)


def read_keras(path: Path, classes: int) -> list[NDArray[np.uint8]]:
    """Training images (n, rows, columns), training labels (n,), test images and test labels, n > 0.

    Raises InputError if the file can't be read or has other arrays.
    """
    try:
        found, named = read_arrays(path, NAMES)
    except (OSError, InputError) as error:
        problem = error.problem if isinstance(error, InputError) else f"can't be read ({error.strerror or error})"
        raise InputError(path, problem, REMEDY) from None
    if "X_test" not in found:
        raise InputError(path, "x_test and y_test are missing", REMEDY)
    for x, y in (("X", "y"), ("X_test", "y_test")):
        images, labels = found[x], found[y]
        for name, array, right in (
            (named[x], images, images.ndim == 3 and images.size),
            (named[y], labels, labels.shape == images.shape[:1]),
        ):
            if array.dtype != np.uint8 or not right:
                wanted = "(images, rows, columns)" if array is images else "one label per image"
                problem = f"{name} is of shape {array.shape} and {array.dtype}, not {wanted} and uint8"
                raise InputError(path, problem, REMEDY)
        check_labels(path, labels, classes)
    return [found[part] for part in NAMES]


def read_arrays(path: Path, wanted: Names) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays by their keys in `wanted`, in that order, and the name of each in the file.

    Raises InputError if one of NAMES is missing, or one is there twice, and OSError.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise ValueError("it is not a zip file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                named = find_names(path, stored.files, wanted)
                check_unpacked_size(stored.zip.getinfo(member_of(stored, name)) for name in named.values())
                found = {part: read_member(path, stored, name) for part, name in named.items()}
    except (OSError, InputError):
        raise
    except Exception as error:
        # Damaged and foreign bytes make zipfile raise almost anything.
        problem = f"is damaged or not a file of numpy.savez ({first_line(error)})"
        raise InputError(path, problem, "save X and y with it") from None
    return found, named


def find_names(path: Path, names: Sequence[str], wanted: Names) -> dict[str, str]:
    """The file's name for each array of a table. Raises InputError if one is missing or there twice."""
    named = {}
    for part, usual in wanted.items():
        there = [name for name in names if name.lower() in usual]
        if len(there) > 1:
            raise InputError(path, f"{list_names(there)} are both there, and either may be {part}", "remove one")
        if there:
            named[part] = there[0]
    needed = NAMES if {"X_test", "y_test"} & named.keys() else ("X", "y")
    if missing := [part for part in needed if part not in named]:
        raise InputError(
            path,
            f"{missing[0]} is missing, it has {list_names(names) or 'no arrays'}",
            "save X and y (or x_train and y_train), and X_test with y_test",
        )
    return named


def member_of(stored: Any, name: str) -> str:
    """The name of an array's member in the zip file."""
    return name if name in stored.zip.namelist() else f"{name}.npy"


def read_member(path: Path, stored: Any, name: str) -> NDArray[Any]:
    """One array of an .npz file. An array of objects, as pandas saves text, must be all text or all numbers."""
    with stored.zip.open(member_of(stored, name)) as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if not dtype.hasobject:
            array: NDArray[Any] = stored[name]
            return array
        objects = read_objects(file.read())
    if len(objects) != math.prod(shape):
        raise ValueError(f"{name} holds {len(objects)} objects, and promises {shape}")
    is_text = str in map(type, objects)
    wanted = (str,) if is_text else (bool, int, float)
    for place, each in enumerate(objects):
        if type(each) not in wanted:
            index = ", ".join(map(str, np.unravel_index(place, shape)))
            problem = f"{name}[{index}] is {each!r}, which is not {'text' if is_text else 'a number'}"
            raise InputError(path, problem, "save it as numbers or as text only")
    return np.array(objects, str if is_text else None).reshape(shape)


class _Stub:
    """Stands for an array or a dtype while objects are read; an array's last state is its objects."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ObjectsOnly(pickle.Unpickler):
    """Unpickles NumPy's arrays of objects without calling anything outside this file."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return None
        if (module, name) == ("numpy", "dtype") or (module in ARRAY_MODULES and name == "_reconstruct"):
            return lambda *ignored: _Stub()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_objects(content: bytes) -> list[Any]:
    """The objects of a pickled array of text, numbers and None, in C order. Raises almost anything."""
    read = _ObjectsOnly(io.BytesIO(content)).load()
    objects = read.state[-1] if isinstance(read, _Stub) else None
    if not isinstance(objects, list) or any(type(each) not in (str, bool, int, float, type(None)) for each in objects):
        raise pickle.UnpicklingError("its objects are neither text nor numbers")
    return objects


def check_pair(path: Path, x_name: str, X: NDArray[Any], y_name: str, y: NDArray[Any]) -> None:
    """Raise InputError unless X is rows of finite numbers and y one target per row, or several numbers."""
    for name, numbers, kinds in ((x_name, X, "biuf"), (y_name, y, "biufU")):
        if numbers.dtype.kind not in kinds or (numbers.dtype.kind != "U" and numbers.dtype.itemsize > 8):
            right = "numbers or text" if "U" in kinds else "numbers"
            raise InputError(path, f"{name} is of {numbers.dtype}", f"save it as {right}")
    if X.ndim < 2 or X.size == 0 or y.shape[:1] != X.shape[:1] or y.ndim > 2 or not y.size:
        problem = f"{x_name} is of shape {X.shape} and {y_name} of {y.shape}"
        raise InputError(path, problem, "save (rows, columns) and (rows,) or (rows, targets)")
    for name, numbers in ((x_name, X), (y_name, y)):
        if numbers.dtype.kind == "f" and (index := find_not_finite(numbers)) is not None:
            problem = f"{name}[{', '.join(map(str, index))}] is {numbers[index]}"
            raise InputError(path, problem, "save finite numbers")
