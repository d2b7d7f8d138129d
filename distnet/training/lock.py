"""One run at a time in a checkpoint folder: a lock that the kernel releases when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path

LOOK = 0.1  # seconds between two attempts
# The kernel's locks are a process's: they say nothing between two runs in one process.
_held: set[Path] = set()


class FolderLock:
    """The right to write into a folder, which one run has at a time.

    It is a POSIX record lock on a file in it: no child inherits it, and NFS knows it on all hosts that mount the folder
    with locks. On a mount without ("nolock", "local_lock") it counts on one host alone.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._key = self.path.resolve()
        self._handle: int | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """Take the lock; returns False where another run still has it after `patience` seconds.

        Raises OSError where the folder can't be written, or its file system has no locks.
        """
        deadline = time.monotonic() + patience
        while not self._acquire_now():
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK)
        _held.add(self._key)
        with contextlib.suppress(OSError):
            assert self._handle is not None
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return True

    def _acquire_now(self) -> bool:
        if self._key in _held:  # to open the file and close it would release the lock
            return False
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), os.stat(self.path)):
                        self._handle = handle
                        return True
            except OSError as error:
                os.close(handle)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                raise
            os.close(handle)  # whoever had it before removed this file; there is another by now

    def holder(self) -> str:
        """Which run has the lock, as it wrote itself."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self.path.read_text()[:200].strip() or "unknown"
        return "unknown"

    def release(self) -> None:
        """Give the lock back, if it was acquired."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._handle)
            self._handle = None
            _held.discard(self._key)
