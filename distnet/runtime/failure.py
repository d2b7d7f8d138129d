"""A rank that fails ends all ranks, so that nobody is left hanging in a collective.

A command calls `watch` before its first import that can fail, and `run` for the rest. This file imports
the standard library, `errors` and `text` alone.
"""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from distnet.runtime.launch import launched, launched_rank, launched_size
from distnet.runtime.logs import error_descriptor, open_streams, warn

EXIT_BAD_INPUT = 2
EXIT_RESUMABLE = 75  # stopped, and can be resumed; EX_TEMPFAIL of sysexits.h
EXIT_DIVERGED = 70  # the loss is NaN or infinite, and would be so again; EX_SOFTWARE
EXIT_UNWRITTEN = 74  # the last checkpoint could not be written; EX_IOERR
EXIT_INTERRUPTED = 128 + signal.SIGINT
REQUIRED = ("mnist", "numpy", "threadpoolctl")  # what distnet doesn't work without
FORWARDING = 0.2  # seconds for the launcher to pass on what was printed, which an abort would overtake
INIT_PATIENCE = 5.0  # seconds for the others to come to MPI_Init, too; what they do before it may take long
RANK_0_HEAD_START = 0.3  # seconds; Open MPI's mpirun ends the other ranks as soon as one has ended with a status


def in_main_thread() -> bool:
    """Whether this thread may install signal handlers."""
    return threading.current_thread() is threading.main_thread()


def end_soon() -> None:
    """End this process by a signal in INIT_PATIENCE seconds, also within MPI_Init, where it waits for all ranks."""
    if in_main_thread():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, INIT_PATIENCE)


def abort(status: int) -> NoReturn:
    """End all ranks with this non-zero status, from whatever state this one is in. Doesn't return."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if launched() and launched_size() > 1:
        time.sleep(FORWARDING)
        try:
            end_soon()
            is_late = "mpi4py.MPI" not in sys.modules
            from mpi4py import MPI

            if not MPI.Is_initialized():
                is_late = True
                MPI.Init()  # the others may wait there, and have their own word to say
            if is_late:
                time.sleep(RANK_0_HEAD_START)
            MPI.COMM_WORLD.Abort(status)
        except BaseException:
            # No MPI to abort with. Launchers end a job one of whose processes dies by a signal.
            os.kill(os.getpid(), signal.SIGKILL)
    os._exit(status)


def fail(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str = ""
) -> NoReturn:
    """Print the traceback under this rank's number and end all ranks with status 1.

    Ctrl-C is another matter, see `interrupted`.
    """
    if issubclass(kind, KeyboardInterrupt):
        interrupted()
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED:
        not_installed(error.name)
    report(f"failed{where}", "".join(traceback.format_exception(kind, error, trace)))
    abort(1)


def not_installed(module: str) -> NoReturn:
    """One line from rank 0 about this Python, which isn't the one that distnet is installed for; status 2."""
    script = Path(__file__).parents[1] / ".venv" / "bin" / "activate"
    remedy = f": source {script}" if script.exists() else " that distnet is installed in"
    if launched_rank() == 0:
        warn(f"{sys.executable}: {module} isn't installed for this Python; activate the environment{remedy}")
    else:
        time.sleep(RANK_0_HEAD_START)
    abort(EXIT_BAD_INPUT)


def not_training() -> str:
    """Where a rank stands that isn't training yet."""
    return "before the first step"


class Context:
    """What a report of a failure tells beside the traceback: where the rank stands, once it is training."""

    position: Callable[[], str] = staticmethod(not_training)
    missing: Callable[[], str] = staticmethod(str)  # the ranks that it waits for, "" where it doesn't
    command = False  # whether this process is one of distnet's commands, and no program of somebody else's
    timeout: float | None = None  # seconds without a step after which it ends all
    folder: str | None = None  # where reports are kept, since an aborting MPI can lose standard error


def report(what: str, lines: str) -> None:
    """One block about this rank on standard error, and the same in a file where a folder is known."""
    rank, host = launched_rank(), socket.gethostname()
    block = f"distnet: rank {rank} {what} on {host}, {Context.position()}\n{lines}"
    sys.stderr.write(block)
    if Context.folder is not None:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(Context.folder, f"failure-{host}-{rank}-{os.getpid()}.txt"), "w") as file,
        ):
            file.write(block)


class Exit(SystemExit):
    """What sys.exit raises once `note_exit` was called: it notes a status that nobody caught."""

    status: int | None = None

    def __del__(self) -> None:
        # Who catches it drops it in a Python frame. Where the interpreter ends, there is none any more.
        if sys._getframe().f_back is None and in_main_thread():
            Exit.status = self.code if isinstance(self.code, int) else int(self.code is not None)


def note_exit() -> None:
    """From here on Exit.status is what sys.exit ends this process with, for functions that run at the exit."""

    def leave(status: Any = None, /) -> NoReturn:
        raise Exit(status)

    sys.exit = leave


def interrupted(*ignored: object) -> NoReturn:
    """Ctrl-C, which all ranks get: one line from rank 0, and all end with status 130."""
    if in_main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if launched_rank() == 0:
        warn("interrupted")
    else:
        time.sleep(RANK_0_HEAD_START)
    abort(EXIT_INTERRUPTED)


def install_hooks() -> None:
    """From here on, an exception that nobody catches ends all ranks: in any thread, and while importing."""
    open_streams()
    if in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Imports may turn a KeyboardInterrupt into any other error.
        signal.signal(signal.SIGINT, interrupted)
    faulthandler.enable(error_descriptor())  # a stack on standard error for a rank that ends by a signal of its own
    sys.excepthook = fail
    threading.excepthook = lambda args: fail(
        args.exc_type, args.exc_value, args.exc_traceback, f" in thread {args.thread and args.thread.name}"
    )
