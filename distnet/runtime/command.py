"""Run a command on every rank to its end, with one exit status."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable

from distnet.runtime.errors import HelpWanted, InputError
from distnet.runtime.failure import EXIT_BAD_INPUT, RANK_0_HEAD_START, Context, abort, fail, install_hooks, interrupted
from distnet.runtime.launch import launched, launched_rank, launched_size
from distnet.runtime.text import printable

ALL_COME = 1.0  # seconds; ranks that start together fail together


def all_came() -> bool:
    """Whether all ranks call this within a second or so; one alone may have been given a bad option.

    Where no MPI can tell, they are believed to.
    """
    if not launched() or launched_size() == 1 or "mpi4py.MPI" in sys.modules:
        return True  # what is wrong after that is wrong on every rank
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return True
    arrived = MPI.COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + ALL_COME + (launched_rank() > 0) * RANK_0_HEAD_START
    while not arrived.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run(main: Callable[[], int | None]) -> None:
    """Run a command to its end on this rank; what `main` returns is the status, the same on every rank.

    Bad input is one line from rank 0 and status 2, --help its text from rank 0 and status 0. Anything else that
    ends `main` early ends all ranks. Collective: as `main` is.
    """
    install_hooks()
    Context.command = True
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no µ and no class's name is worth a failure
    if signal.getsignal(signal.SIGINT) is interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            status = main()
        except HelpWanted as text:
            status = 0
            if launched_rank() == 0:
                sys.stdout.write(str(text))
        sys.stdout.flush()
        if not all_came():
            sys.stderr.write(
                f"distnet: rank {launched_rank()} is done at once, and not all are; give all ranks the same options\n"
            )
            abort(EXIT_BAD_INPUT)
    except InputError as error:
        everywhere = error.on_every_rank and all_came()
        alone = f"rank {launched_rank()}: " if error.on_every_rank and not everywhere else ""
        if launched_rank() == 0 or not everywhere:
            sys.stderr.write("distnet: " + alone + printable(str(error).replace("\n", " ")) + "\n")
        else:
            time.sleep(RANK_0_HEAD_START)
        if not everywhere:
            abort(EXIT_BAD_INPUT)
        sys.exit(EXIT_BAD_INPUT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it any more
        abort(1)
    except SystemExit as error:
        if error.code not in (None, 0):
            abort(error.code if isinstance(error.code, int) else 1)
        fail(type(error), error, error.__traceback__, " by sys.exit before the end")
    except BaseException:
        fail(*sys.exc_info())
    sys.exit(status)
