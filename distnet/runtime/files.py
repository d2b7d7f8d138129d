"""Atomic writes, checks of output paths before training, and .npz files read without trust.

All files are written here. A file is replaced by a new one with the same mode and owner; a symbolic link stays a link.
A stream is written to directly: a device, a pipe, or a file to which this process's output goes.
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

from distnet.runtime.arrays import Array, native_endian
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
    """Raise InputError, with `option` in its subject, if no file can be written to `path`. For rank 0.

    It writes one, since permissions don't show a full disk. A pipe isn't opened, because its reader would end.
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
    """Make a folder; raise InputError, with `option` in its subject, if no file can be written to it. For rank 0."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".probe."):
            pass
    except FileExistsError:
        raise InputError(f"{option} {path}", "is a file", "name a folder") from None
    except OSError as error:
        raise InputError(f"{option} {path}", f"can't be written ({error.strerror})", "name another folder") from None


def is_stream(path: Path) -> bool:
    """Whether `path` is a stream. Raises OSError for a socket, a block device or a loop of links."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode) or _own_output(status) is not None:
        return True
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "neither a file, a pipe nor a character device")
    return False


def _own_output(status: os.stat_result) -> int | None:
    """The descriptor of this process's output that goes to this file, if any."""
    for descriptor in OWN_OUTPUT:
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.fstat(descriptor)):
                return descriptor
    return None


def _open_stream(path: Path) -> int:
    """A descriptor for writing to a stream. Raises OSError if nobody reads the pipe."""
    own = _own_output(path.stat())
    if own is not None:
        return os.dup(own)  # appends; opening the file again would overwrite
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    return descriptor


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths, which need not exist, are one file. A device or a pipe is not, since it has room for both."""
    try:
        return os.path.samefile(one, other) and one.is_file()
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace the file at `path` atomically by what `write` writes. Raises OSError. For rank 0."""
    if is_stream(path):
        content = BytesIO()  # complete before a reader gets any of it
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
                with contextlib.suppress(OSError):  # only root can change the owner
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, mode)
            write(file)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # for the new name
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_error(subject: object, error: OSError) -> InputError:
    """The error for a result that can't be written at the end, although `check_writable` was passed."""
    return InputError(subject, f"can't be written ({error.strerror})", "free some space, or choose another folder")


def write_content(path: Path, content: bytes, subject: object) -> None:
    """Replace the file at `path` atomically by `content`. Raises InputError with this subject."""
    try:
        write_whole(path, lambda file: file.write(content))
    except OSError as error:
        raise write_error(subject, error) from None


class GrowingFile:
    """A file that grows by whole pieces (on a stream, perhaps by parts). The first replaces its content. For rank 0."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length: int | None = None
        self._stream: BinaryIO | None = None  # stays open, since closing it would end a pipe's reader

    def append(self, content: bytes) -> None:
        """Write the next piece. After an OSError, nothing of it is in the file, and it can be tried again."""
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
                os.truncate(self.path, self._length or 0)
            raise
        self._length = (self._length or 0) + len(content)

    def close(self) -> None:
        """Close a stream."""
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
    """The strings and the vectors of floats in an .npz file, by name. For rank 0.

    Vectors are in the byte order of this machine, whatever the file has.
    Raises OSError if it can't be read, and almost any exception if it is damaged or contains anything else. Nothing in
    it is executed, and it takes little more memory than the file is long.
    """
    if path.is_fifo():
        raise ValueError("it is a pipe")  # reading it could wait forever
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
            match = NPY.match(content)
            if match is None:
                raise ValueError("it holds other arrays than ours")
            vector = np.frombuffer(content, match[1].decode(), offset=match.end())
            if match[2] is None and vector.dtype.kind == "U" and len(vector) == 1:
                texts[name] = str(vector[0])
            elif match[2] is not None and vector.dtype.kind == "f" and len(vector) == int(match[2]):
                arrays[name] = native_endian(vector)
            else:
                raise ValueError("it holds an array that isn't what it promises")
    return texts, arrays
