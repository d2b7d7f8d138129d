"""A finished network as a file: .pkl or .npz, written whole, and read without running anything in it."""

import json
import pickle
import pickletools
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distnet.nn.functional import ACTIVATIONS
from distnet.nn.model import Model
from distnet.nn.parameters import parameter_count
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.files import read_arrays, write_whole

MODEL_ENDINGS = (".pkl", ".npz")

FORMAT = "distnet model"
VERSION = 1
STORED_DTYPES = ("<f4", "<f8")
LARGEST_LAYER = 2**31 - 1
# The opcodes of our pickles. Others ask for any amount of memory, change objects, or write the same again.
TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
GETS = {"BINGET", "LONG_BINGET"}
OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "STACK_GLOBAL", "REDUCE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", *TEXTS, *GETS),
}
ROOM = 1 << 16  # characters that texts which a pickle repeats may have beyond its own length


def save_model(path: Path, model: Model) -> None:
    """Write the model in the form that the ending of `path` names. Collective: no, for rank 0.

    A .pkl is a pickled dictionary, an .npz the same dictionary as arrays and JSON.
    Raises InputError for another ending or a disk that refuses.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "sizes": list(model.sizes),
        "activation": model.activation,
        "about": json.loads(json.dumps(model.about)),  # which repeats no container
    }

    def write(file: BinaryIO) -> None:
        if path.suffix == ".npz":
            np.savez(file, header=np.array(json.dumps(header)), parameters=model.parameters)
        else:
            pickler = pickle.Pickler(file, protocol=4)
            pickler.dispatch_table = {np.ndarray: _as_bytes}
            pickler.dump(header | {"parameters": model.parameters})

    if path.suffix not in MODEL_ENDINGS:
        raise InputError(f"model {path}", f"the name does not end in {' or '.join(MODEL_ENDINGS)}")
    try:
        write_whole(path, write)
    except OSError as error:
        raise InputError(f"model {path}", f"can't be written ({error.strerror})") from None


def _as_bytes(array: Array) -> tuple[Any, ...]:
    """How a pickle gets an array: a function and its arguments. Any unpickler makes an array of them."""
    return np.frombuffer, (array.tobytes(), array.dtype.str)


def _from_bytes(data: object, dtype: object) -> Array:
    """The array that `_as_bytes` took apart, and nothing else."""
    if type(data) is not bytes or type(dtype) is not str or dtype not in STORED_DTYPES:
        raise pickle.UnpicklingError(f"an array of {dtype!r}")
    return np.frombuffer(data, dtype)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for which `_as_bytes`'s arrays are the only things beside numbers, text and containers.

    NumPy's own way to pickle arrays isn't among them: with it a crafted file reaches any place in memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "frombuffer"):
            return _from_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _check_pickle(content: bytes) -> None:
    """Raise UnpicklingError where a pickle holds something else than ours do, or unpacks to more than its length.

    Ours repeat nothing but texts. Lists of lists that repeat each other would need memory, or time to compare, that
    doubles with every few bytes.
    """
    memo: list[int | None] = []  # the length of what is repeatable, None for what isn't
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


def _unpickled(path: Path) -> dict[str, Any]:
    """What a .pkl holds, plain values but for its parameters. Raises almost anything for foreign bytes."""
    packed = path.read_bytes()
    _check_pickle(packed)
    content = _ArraysOnly(BytesIO(packed)).load()
    header = {name: value for name, value in content.items() if name != "parameters"}
    plain: dict[str, Any] = json.loads(json.dumps(header))
    return plain | {"parameters": content.get("parameters")}


def load_model(path: Path) -> Model:
    """Read a model that `save_model` wrote. Collective: no.

    Raises InputError for a file that is missing, damaged, of another version or somebody else's. Nothing
    that a file holds is ever run.
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
            content = _unpickled(path)
    except OSError as error:
        raise InputError(
            f"model {path}", f"can't be read ({error.strerror or error})", "name a model of distnet's"
        ) from None
    except Exception as error:
        # Damaged and foreign bytes make pickle and zipfile raise almost anything.
        raise InputError(f"model {path}", f"is damaged or not a model of distnet's ({first_line(error)})") from None
    return checked(path, content)


def checked(path: Path, content: Any) -> Model:
    """The model in `content`, or an InputError that says what it is instead."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"model {path}", "is not a model of distnet's")
    if content.get("version") != VERSION:
        raise InputError(
            f"model {path}", f"is of version {content.get('version')!r}, and this distnet reads version {VERSION}"
        )
    sizes, activation = content.get("sizes"), content.get("activation")
    parameters, about = content.get("parameters"), content.get("about")
    if (
        not isinstance(sizes, list)
        or len(sizes) < 2
        or not all(type(size) is int and 1 <= size <= LARGEST_LAYER for size in sizes)
        or not isinstance(activation, str)
        or activation not in ACTIVATIONS
        or not isinstance(about, dict)
    ):
        raise InputError(f"model {path}", f"its description is damaged (sizes {sizes!r}, activation {activation!r})")
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
        )
    return Model(tuple(sizes), activation, parameters, about)
