"""Files that are there whole or not at all, a look beforehand whether they can be, and arrays read warily."""

import contextlib
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distnet.errors import InputError
from distnet.functional import Array

# An .npy file of version 1.0 that holds a vector of floats or one string, as NumPy writes it.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '([<>](?:f4|f8|U\d{1,12}))', 'fortran_order': False, 'shape': \((?:(\d{1,15}),)?\), \} *\n",
    re.DOTALL,
)


def check_writable(path: Path, option: str) -> None:
    """Raise InputError where a file couldn't be written to `path`, naming `option`.

    It tries: permissions alone say little to root, and nothing of a full disk.
    Collective: no, for rank 0.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}: this is a folder; name a file")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
        if path.exists():
            with path.open("r+b"):
                pass
    except OSError as error:
        if not path.parent.exists():
            raise InputError(f"{option} {path}: there is no folder {path.parent}; make it first") from None
        raise InputError(f"{option} {path}: can't be written ({error.strerror}); name a file elsewhere") from None


def check_folder(path: Path, option: str) -> None:
    """Make a folder, and raise InputError where nothing could be written into it, naming `option`.

    Collective: no, for rank 0.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise InputError(f"{option} {path}: this is a file; name a folder") from None
    except OSError as error:
        raise InputError(f"{option} {path}: can't be written ({error.strerror}); name another folder") from None


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Replace the file at `path` by what `write` writes; whatever happens, either file is there whole.

    Raises OSError where the disk refuses. Collective: no, for rank 0.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk, too
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_content(path: Path, content: bytes, what: str) -> None:
    """The same for bytes that are there. Raises InputError about `what`. Collective: no, for rank 0."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    try:
        write_whole(path, write)
    except OSError as error:
        raise InputError(f"{what} can't be written ({error.strerror})") from None


def read_arrays(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """The strings and the vectors of floats in an .npz file, by name; any other content is refused.

    Raises OSError where it can't be read, and almost anything else where it is damaged or foreign. Nothing
    that it holds is run, and little more memory is taken than the file is long.
    Collective: no, for rank 0.
    """
    if path.is_fifo():
        raise ValueError("it is a pipe")  # and would keep its reader waiting
    texts: dict[str, str] = {}
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(each.compress_type or each.compress_size != each.file_size for each in members):
            raise ValueError("it is compressed, which ours never are")
        if sum(each.file_size for each in members) > path.stat().st_size:
            raise ValueError("it promises more than it holds")
        for each in members:
            name, content = each.filename.removesuffix(".npy"), archive.read(each)
            if name in texts or name in arrays:
                raise ValueError(f"it holds {name} twice")
            found = NPY.match(content)
            if found is None:
                raise ValueError("it holds other arrays than ours")
            vector = np.frombuffer(content, found[1].decode(), offset=found.end())
            if found[2] is None and vector.dtype.kind == "U" and len(vector) == 1:
                texts[name] = str(vector[0])
            elif found[2] is not None and vector.dtype.kind == "f" and len(vector) == int(found[2]):
                arrays[name] = vector
            else:
                raise ValueError("it holds an array that isn't what it promises")
    return texts, arrays


def _umask() -> int:
    """The process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
