"""Model files, .pkl or .npz: written atomically, and read without executing anything in them."""

import json
import pickle
import pickletools
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distnet.nn.functional import ACTIVATIONS
from distnet.nn.model import ARITHMETICS, TASKS, Model
from distnet.nn.parameters import parameter_count
from distnet.portable.grids import LEAST, MOST
from distnet.runtime.arrays import Array, little_endian, native_endian
from distnet.runtime.errors import RESTORE, InputError, first_line
from distnet.runtime.files import read_arrays, write_error, write_whole

MODEL_ENDINGS = (".pkl", ".npz")

FORMAT = "distnet model"
VERSION, READABLE = 2, (1, 2)  # of version 1, which knew native arithmetic alone
STORED_DTYPES = ("<f4", "<f8")
LARGEST_LAYER = 2**31 - 1
# The opcodes of distnet's pickles. Others can allocate any amount of memory, or change objects.
TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
GETS = {"BINGET", "LONG_BINGET"}
OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "STACK_GLOBAL", "REDUCE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", *TEXTS, *GETS),
}
ROOM = 1 << 16  # characters that a pickle's repeated texts may have beyond its own length


def describe(model: Model) -> dict[str, Any]:
    """All of a model's file but its parameters, as JSON represents it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "sizes": list(model.sizes),
        "activation": model.activation,
        "arithmetic": model.arithmetic,
        "input_exponent": model.input_exponent,
        "task": model.task,
        "about": json.loads(json.dumps(model.about)),  # as copies, so that no container occurs twice
    }


def save_model(path: Path, model: Model) -> None:
    """Write a model in the format of the ending of `path`. For rank 0 only.

    A .pkl is a pickled dictionary, an .npz the same dictionary as arrays and JSON.
    Raises InputError for another ending, and if the file can't be written.
    """
    header = describe(model)

    def write(file: BinaryIO) -> None:
        if path.suffix == ".npz":
            text = little_endian(np.array(json.dumps(header)))
            np.savez(file, header=text, parameters=little_endian(model.parameters))
        else:
            pickler = pickle.Pickler(file, protocol=4)
            pickler.dispatch_table = {np.ndarray: _as_bytes}
            pickler.dump(header | {"parameters": little_endian(model.parameters)})

    if path.suffix not in MODEL_ENDINGS:
        raise InputError(f"model {path}", f"expected a name that ends in {' or '.join(MODEL_ENDINGS)}")
    try:
        write_whole(path, write)
    except OSError as error:
        raise write_error(f"model {path}", error) from None


def _as_bytes(array: Array) -> tuple[Any, ...]:
    """An array's form in a pickle: a function and its arguments, which any unpickler can call."""
    return np.frombuffer, (array.tobytes(), array.dtype.str)


def _from_bytes(data: object, dtype: object) -> Array:
    """The inverse of `_as_bytes`; refuses anything else."""
    if type(data) is not bytes or type(dtype) is not str or dtype not in STORED_DTYPES:
        raise pickle.UnpicklingError(f"it contains an array of {dtype!r}")
    return native_endian(np.frombuffer(data, dtype))


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of numbers, text, containers, and arrays in the form of `_as_bytes` only.

    It refuses NumPy's own pickled arrays, by which a crafted file can access any memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "frombuffer"):
            return _from_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _check_pickle(content: bytes) -> None:
    """Raise UnpicklingError if a pickle contains what distnet's never do, or unpacks to far more than its length.

    distnet's pickles repeat only text. With repeated containers, memory and time could double with every few bytes.
    """
    memo: list[int | None] = []  # lengths of memoized texts, None for anything else
    room, length = len(content) + ROOM, None
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f"it uses {opcode.name}")
        if opcode.name == "MEMOIZE":
            memo.append(length)
        elif opcode.name in GETS:
            assert isinstance(argument, int)
            repeated = memo[argument]
            if repeated is None:
                raise pickle.UnpicklingError("it repeats a container")
            room -= repeated
        length = len(argument) if opcode.name in TEXTS and isinstance(argument, str) else None
    if room < 0:
        raise pickle.UnpicklingError("it unpacks to more than it holds")


def _unpickle(path: Path) -> dict[str, Any]:
    """The content of a .pkl. Raises almost any exception for foreign bytes."""
    packed = path.read_bytes()
    _check_pickle(packed)
    content = _ArraysOnly(BytesIO(packed)).load()
    header = {name: value for name, value in content.items() if name != "parameters"}
    plain: dict[str, Any] = json.loads(json.dumps(header))
    return plain | {"parameters": content.get("parameters")}


def load_model(path: Path) -> Model:
    """Read a file of `save_model`. Nothing in it is executed.

    Raises InputError if the file is missing, damaged, or of another version or program.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError("it is a device or a pipe")  # and might never end
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:
            texts, arrays = read_arrays(path)
            content = json.loads(texts["header"]) | {"parameters": arrays["parameters"]}
        else:
            content = _unpickle(path)
    except OSError as error:
        raise InputError(
            f"model {path}", f"can't be read ({error.strerror or error})", "name a model of distnet's"
        ) from None
    except Exception as error:
        # For damaged and foreign bytes, pickle and zipfile raise almost any exception.
        problem = f"is damaged or not a model of distnet's ({first_line(error)})"
        raise InputError(f"model {path}", problem, RESTORE) from None
    return build_model(path, content)


def build_model(path: Path, content: Any) -> Model:
    """The model in the content of a file. Raises InputError if it is anything else."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"model {path}", "is not a model of distnet's", "name one that distnet wrote")
    if content.get("version") not in READABLE:
        raise InputError(
            f"model {path}",
            f"is of version {content.get('version')!r}, and this distnet reads versions {READABLE[0]} to {VERSION}",
            "use the distnet that wrote it",
        )
    sizes, activation = content.get("sizes"), content.get("activation")
    arithmetic, exponent = content.get("arithmetic", "native"), content.get("input_exponent")
    task = content.get("task", "classification")
    parameters, about = content.get("parameters"), content.get("about")
    if (
        not isinstance(sizes, list)
        or len(sizes) < 2
        or not all(type(size) is int and 1 <= size <= LARGEST_LAYER for size in sizes)
        or not isinstance(activation, str)
        or activation not in ACTIVATIONS
        or not isinstance(about, dict)
        or arithmetic not in ARITHMETICS
        or task not in TASKS
        or not (exponent is None or (type(exponent) is int and LEAST <= exponent <= MOST))
    ):
        raise InputError(
            f"model {path}",
            f"its description is damaged (sizes {sizes!r}, activation {activation!r}, arithmetic {arithmetic!r}, "
            f"input exponent {exponent!r}, task {task!r})",
            RESTORE,
        )
    if (
        not isinstance(parameters, np.ndarray)
        or parameters.dtype not in (np.float32, np.float64)
        or parameters.shape != (parameter_count(sizes),)
    ):
        shape = getattr(parameters, "shape", "none")
        raise InputError(
            f"model {path}",
            f"a network of {'-'.join(map(str, sizes))} has {parameter_count(sizes):,} parameters, "
            f"and the file holds {shape}",
            RESTORE,
        )
    if arithmetic == "portable" and parameters.dtype != np.float64:
        problem = f"parameters of portable arithmetic are float64, and the file holds {parameters.dtype.name}"
        raise InputError(f"model {path}", problem, RESTORE)
    return Model(tuple(sizes), activation, parameters, about, arithmetic, exponent, task)
