"""Memory that the processes of a host share: a file without a name in /dev/shm, whose pages are reserved at once.

MPI's own shared windows reserve nothing: where /dev/shm is full, the kernel kills the rank that touches a page.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from distnet.parallel.shards import share

if TYPE_CHECKING:
    from mpi4py import MPI

SHARED_MEMORY = Path("/dev/shm")
MARGIN = 1 << 20  # bytes per rank that are left to MPI, which takes the pages of its own segments when it needs them


def map_shared(comm: MPI.Intracomm, size: int) -> tuple[mmap.mmap | None, str]:
    """The same `size` zeroed bytes for all ranks of `comm`, which are on one host; and why this rank has none.

    The kernel frees them when the last rank has dropped its last view, or has died, however it did.
    Every rank reserves a share of the pages, which puts them near its core.
    Collective: every rank calls it, and looks at what became of it on the others.
    """
    path, room, problem, memory = "", None, "", None
    comm.Barrier()  # there is no file, whose name would stay, as long as one has to be waited for that may never come
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
            if path:  # before it takes any room, so that a rank that is killed leaves none taken
                os.unlink(path)
        if not problem:
            try:
                pages = share(-(-size // mmap.PAGESIZE), comm.rank, comm.size)
                if pages:
                    os.posix_fallocate(descriptor, pages.start * mmap.PAGESIZE, len(pages) * mmap.PAGESIZE)
                memory = mmap.mmap(descriptor, size)
            except OSError as error:
                problem = _describe(error, room)
    return memory, problem


def shared_memory_left() -> int | None:
    """Bytes that files in SHARED_MEMORY can still take; None if there is no such folder."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _describe(error: OSError, room: int | None) -> str:
    if error.errno == errno.ENOSPC and room is not None:
        return f"{SHARED_MEMORY} has {room / 2**20:,.0f} MiB left"
    return f"{error.filename or SHARED_MEMORY}: {error.strerror}"
