"""Files that are there whole or not at all, and a look beforehand whether they can be."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from distnet.errors import InputError


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


def _umask() -> int:
    """The process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
