"""Run a command on every rank to its end, with one exit status."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable

from distnet.runtime.errors import HelpWanted, InputError
from distnet.runtime.failure import (
    EXIT_BAD_INPUT,
    RANK_0_HEAD_START,
    Watchdog,
    abort,
    install_hooks,
    interrupt,
    stall_timeout,
)
from distnet.runtime.launch import launched, launched_rank, launched_size
from distnet.runtime.logs import warn

ARRIVAL = 1.0  # seconds within which ranks that started together end together
commands: list[Callable[[], int | None]] = []  # what this process runs: nothing if it is another program


def all_arrive() -> bool:
    """Whether all ranks call this within ARRIVAL seconds. One alone may have got an invalid option.

    True without MPI, and after MPI was started: every rank then has the same input.
    """
    if not launched() or launched_size() == 1 or "mpi4py.MPI" in sys.modules:
        return True
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return True
    arrived = MPI.COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + ARRIVAL + (launched_rank() > 0) * RANK_0_HEAD_START
    while not arrived.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def finish(status: int | None) -> None:
    """End MPI, if it was started, and this process. Collective."""
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        with Watchdog(stall_timeout(), lambda: "in MPI_Finalize"):
            if MPI.Is_initialized() and not MPI.Is_finalized():
                MPI.Finalize()
    sys.exit(status)


def run(main: Callable[[], int | None]) -> None:
    """Run a command to its end on this rank. `main` returns the exit status, the same on every rank.

    Invalid input is one line from rank 0 and status 2; --help is printed by rank 0, with status 0. Any other exception
    aborts all ranks. Collective: if `main` is.
    """
    install_hooks()
    commands.append(main)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # print what the terminal's encoding lacks, such as µ
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status: int | None = 0
    try:
        with Watchdog():
            try:
                status = main()
            except HelpWanted as text:
                if launched_rank() == 0:
                    sys.stdout.write(str(text))
            sys.stdout.flush()
            if not all_arrive():
                warn(f"rank {launched_rank()} exited before the other ranks; give all ranks the same options")
                abort(EXIT_BAD_INPUT)
    except InputError as error:
        is_shared = error.on_every_rank and all_arrive()
        if launched_rank() == 0 or not is_shared:
            warn(f"rank {launched_rank()}: " * (error.on_every_rank and not is_shared) + str(error))
        else:
            time.sleep(RANK_0_HEAD_START)
        if not is_shared:
            abort(EXIT_BAD_INPUT)
        status = EXIT_BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it any more
        abort(1)
    finish(status)
