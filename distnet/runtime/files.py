"""Files that are there whole or not at all, a look beforehand whether they can be, and arrays read warily.

Everything that the project writes goes through here. A file is replaced by a new one; its mode and owner stay, and a
symbolic link stays a link. A device, a pipe or this process's own output is written to as it is.
"""

import contextlib
import errno
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.proc import available_memory

# An .npy file of version 1.0 that holds a vector of floats or one string, as NumPy writes it.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '([<>](?:f4|f8|U\d{1,12}))', 'fortran_order': False, 'shape': \((?:(\d{1,15}),)?\), \} *\n",
    re.DOTALL,
)
OWN_OUTPUT = (1, 2)  # descriptors


def check_writable(path: Path, option: str) -> None:
    """Raise InputError where a file couldn't be written to `path`, naming `option`.

    It tries: permissions alone say little to root, and nothing of a full disk. A pipe isn't opened, since that
    would end its reader.
    For rank 0.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}", "is a folder", "name a file")
    target = Path(os.path.realpath(path))
    folder = target.parent if path.is_symlink() else path.parent
    try:
        if is_stream(path):
            if not path.is_fifo():
                os.close(_open_stream(path))
            elif not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{target.name}."):
            pass
        if target.exists():
            with target.open("r+b"):
                pass
    except OSError as error:
        if not folder.exists():
            raise InputError(f"{option} {path}", f"there is no folder {folder}", "make it first") from None
        raise InputError(f"{option} {path}", f"can't be written ({error.strerror})", "name a file elsewhere") from None


def check_folder(path: Path, option: str) -> None:
    """Make a folder, and raise InputError where nothing could be written into it, naming `option`.

    For rank 0.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".probe."):
            pass
    except FileExistsError:
        raise InputError(f"{option} {path}", "is a file", "name a folder") from None
    except OSError as error:
        raise InputError(f"{option} {path}", f"can't be written ({error.strerror})", "name another folder") from None


def is_stream(path: Path) -> bool:
    """Whether `path` is written to as it is: a device, a pipe, or a file that this process's output goes to.

    Raises OSError for a socket, a block device or a loop of links.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode) or _own_output(found) is not None:
        return True
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "neither a file, a pipe nor a character device")
    return False


def _own_output(found: os.stat_result) -> int | None:
    """The descriptor that this process's output goes to the same file by, None where it goes elsewhere."""
    for descriptor in OWN_OUTPUT:
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


def _open_stream(path: Path) -> int:
    """A descriptor to write to a device or a pipe by. Raises OSError where nobody reads the pipe."""
    own = _own_output(path.stat())
    if own is not None:
        return os.dup(own)  # which writes behind what was written; to open it would write over that
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    return descriptor


def is_same_file(one: Path, other: Path) -> bool:
    """Whether what is written to one path is read at the other, there or not. A device or a pipe has room for many."""
    try:
        return os.path.samefile(one, other) and one.is_file()
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Replace the file at `path` by what `write` writes; whatever happens, either file is there whole.

    Raises OSError where the disk refuses. For rank 0.
    """
    if is_stream(path):
        content = BytesIO()  # it is whole before a reader gets any of it
        write(content)
        with os.fdopen(_open_stream(path), "wb") as stream:
            stream.write(content.getbuffer())
        return
    target = Path(os.path.realpath(path))
    before = target.stat() if target.exists() else None
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            if before is not None:
                with contextlib.suppress(OSError):  # nobody but root can give files away
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, mode)
            write(file)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk, too
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_content(path: Path, content: bytes, subject: object) -> None:
    """The same for bytes that are there. Raises InputError with this subject."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    try:
        write_whole(path, write)
    except OSError as error:
        raise InputError(subject, f"can't be written ({error.strerror})") from None


class GrowingFile:
    """A file that grows, by pieces that are there whole or not at all (a pipe or device has no such promise).

    What was there before is gone with the first. For rank 0.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length: int | None = None
        self._stream: BinaryIO | None = None  # stays open, or a pipe's reader would be at its end

    def append(self, content: bytes) -> None:
        """Write what is to come next. Raises OSError where the disk refuses; the next try may be at the same."""
        if self._stream is None and self._length is None and is_stream(self.path):
            self._stream = os.fdopen(_open_stream(self.path), "wb", buffering=0)
        if self._stream is not None:
            left = memoryview(content)
            while left:
                left = left[self._stream.write(left) :]
            return
        try:
            with self.path.open("wb" if self._length is None else "ab") as file:
                file.write(content)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._length or 0)  # no half line
            raise
        self._length = (self._length or 0) + len(content)

    def close(self) -> None:
        """Nothing more is to come."""
        if self._stream is not None:
            self._stream.close()


def check_unpacked_size(members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise ValueError if members of a .zip file unpack to more than the free memory; nothing is unpacked.

    A member that unpacks to more than its header says is never read to its end.
    """
    size, room = sum(each.file_size for each in members), available_memory()
    if room is not None and size > room:
        raise ValueError(f"it unpacks to {size >> 20:,} MiB, and {room >> 20:,} MiB of memory are left")


def read_arrays(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """The strings and the vectors of floats in an .npz file, by name; any other content is refused.

    Raises OSError where it can't be read, and almost anything else where it is damaged or foreign. Nothing
    that it holds is run, and little more memory is taken than the file is long.
    For rank 0.
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
