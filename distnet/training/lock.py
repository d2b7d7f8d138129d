"""One run at a time in a checkpoint folder: a lock that the kernel releases when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.runtime.files import check_folder
from distnet.runtime.logs import warn

PATIENCE = 3.0  # seconds for a run that was just ended to exit
INTERVAL = 0.1  # seconds between two attempts
# The kernel's locks belong to a process: they do not separate two runs in one process.
_held: set[Path] = set()


class FolderLock:
    """The right to write into a folder, which one run has at a time.

    It is a POSIX record lock on a file there. No child inherits it. On NFS it holds on all hosts that mount the folder
    with locks; on a mount without ("nolock", "local_lock"), on one host only.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._key = self.path.resolve()
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Take the lock; returns False if another run has it.

        Raises OSError if the folder can't be written, or its file system has no locks.
        """
        if self._key in _held:  # opening and closing the file would release the lock
            return False
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), os.stat(self.path)):
                        break
            except OSError as error:
                os.close(handle)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                raise
            os.close(handle)  # the run that had the lock removed this file; by now there may be another
        self._handle = handle
        _held.add(self._key)
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return True

    def holder(self) -> str:
        """The process and host that have the lock, or "unknown"."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self.path.read_text()[:200].strip() or "unknown"
        return "unknown"

    def release(self) -> None:
        """Release the lock, if it was acquired."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._handle)
            self._handle = None
            _held.discard(self._key)


@contextlib.contextmanager
def lock_folder(world: World, folder: Path | None) -> Iterator[None]:
    """Keep other runs out of the checkpoint folder, if there is one. Collective.

    Raises InputError if the folder can't be created, or another run still has it after PATIENCE seconds.
    """
    lock = FolderLock(folder) if folder and world.rank == 0 else None

    def acquire() -> None:
        if lock is None:
            return
        assert folder is not None
        check_folder(folder, "--checkpoint-dir")
        deadline = time.monotonic() + PATIENCE
        try:
            while not lock.acquire():
                if time.monotonic() >= deadline:
                    problem = f"another run writes to it ({lock.holder()})"
                    raise InputError(f"--checkpoint-dir {folder}", problem, "wait for its end, or name another folder")
                time.sleep(INTERVAL)
        except OSError as error:
            warn(f"--checkpoint-dir {folder}: can't be locked ({error.strerror}); let no other run write to it")

    world.on_root(acquire)
    try:
        yield
    finally:
        if lock:
            lock.release()
