"""Memory that the processes of a host share: an unnamed file in /dev/shm, whose pages are reserved at once.

macOS has no such folder: there, the file is in the one for temporary files.

MPI's own shared windows reserve nothing: if /dev/shm is full, the kernel kills the rank that touches a page.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from distnet.parallel.shards import share

if TYPE_CHECKING:
    from mpi4py import MPI

SHARED_MEMORY = Path("/dev/shm" if sys.platform == "linux" else tempfile.gettempdir())
MARGIN = 1 << 20  # bytes per rank left for MPI, which takes the pages of its own segments on first use


def map_shared(comm: MPI.Intracomm, size: int) -> tuple[mmap.mmap | None, str]:
    """The same `size` zeroed bytes for all ranks of `comm`, on one host; or None, and the problem of this rank.

    The kernel frees them when no rank has a view any more, also if ranks die. Each rank reserves a share of the pages,
    which puts them near its core. The caller must compare the problems of all ranks. Collective.
    """
    path, room, problem, memory = "", None, "", None
    comm.Barrier()  # create no named file before all ranks are here: it would remain if one never came
    with ExitStack() as stack:
        if comm.rank == 0:
            try:
                room = shared_memory_left()
                if room is not None and size + MARGIN * comm.size > room:
                    raise OSError(errno.ENOSPC, "full")
                descriptor, path = tempfile.mkstemp(prefix="distnet-", dir=SHARED_MEMORY)
                stack.callback(os.close, descriptor)
                os.ftruncate(descriptor, size)
            except OSError as error:
                problem = _describe(error, room)
        try:
            name, room, problem = comm.bcast((path, room, problem))
            if not problem and comm.rank > 0:
                try:
                    descriptor = os.open(name, os.O_RDWR)
                    stack.callback(os.close, descriptor)
                except OSError as error:
                    problem = _describe(error, room)
            comm.Barrier()
        finally:
            if path:  # before pages are reserved, so that they are freed even if ranks are killed
                os.unlink(path)
        if not problem:
            try:
                pages = share(-(-size // mmap.PAGESIZE), comm.rank, comm.size)
                if pages:
                    reserve(descriptor, pages.start * mmap.PAGESIZE, len(pages) * mmap.PAGESIZE)
                memory = mmap.mmap(descriptor, size)
            except OSError as error:
                problem = _describe(error, room)
    return memory, problem


def reserve(descriptor: int, start: int, size: int) -> None:
    """Reserve `size` bytes of a new file from `start`. Raises OSError if there is no room."""
    if sys.platform != "darwin":
        os.posix_fallocate(descriptor, start, size)
        return
    zeros = memoryview(bytes(1 << 20))
    for place in range(start, start + size, len(zeros)):
        os.pwrite(descriptor, zeros[: start + size - place], place)


def shared_memory_left() -> int | None:
    """Free bytes in SHARED_MEMORY; None if the folder doesn't exist."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _describe(error: OSError, room: int | None) -> str:
    if error.errno == errno.ENOSPC and room is not None:
        return f"{SHARED_MEMORY} has {room / 2**20:,.0f} MiB left"
    return f"{error.filename or SHARED_MEMORY}: {error.strerror}"
