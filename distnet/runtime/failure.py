"""A rank that fails or stalls ends all ranks, so that none is left waiting in a collective call.

A command calls `install_hooks` before its first import that can fail, and `command.run` for the rest. This module
imports only the standard library, and modules of runtime/ that do the same.
"""

from __future__ import annotations

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
from typing import Any, ClassVar, NoReturn, Self

from distnet.runtime.errors import InputError
from distnet.runtime.launch import launched, launched_rank, launched_size
from distnet.runtime.logs import error_descriptor, open_streams, warn

EXIT_BAD_INPUT = 2
EXIT_DIFFERENT = 65  # the bits are not those that were expected; EX_DATAERR
EXIT_RESUMABLE = 75  # stopped by request, with a checkpoint; EX_TEMPFAIL of sysexits.h
EXIT_DIVERGED = 70  # the loss is NaN or infinite, and would be again; EX_SOFTWARE
EXIT_UNWRITTEN = 74  # a result or the last checkpoint could not be written; EX_IOERR
EXIT_INTERRUPTED = 128 + signal.SIGINT
REQUIRED = ("mnist", "numpy", "threadpoolctl")  # packages that every command imports
FORWARDING = 0.2  # seconds for the launcher to forward output, which an abort would overtake
INIT_PATIENCE = 5.0  # seconds for the other ranks to reach MPI_Init
RANK_0_HEAD_START = 0.3  # seconds; Open MPI's mpirun ends the other ranks as soon as one exits with a status
WARN_AFTER = 60.0  # seconds that a rank waits for others without a message
STALL_TIMEOUT = 300.0  # seconds; default of --stall-timeout, and of programs that don't set DISTNET_STALL_TIMEOUT


def in_main_thread() -> bool:
    """Whether this thread may install signal handlers."""
    return threading.current_thread() is threading.main_thread()


def end_soon() -> None:
    """End this process by a signal in INIT_PATIENCE seconds, even inside MPI_Init, which waits for all ranks."""
    if in_main_thread():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, INIT_PATIENCE)


def abort(status: int) -> NoReturn:
    """End all ranks with this non-zero status, in whatever state this one is."""
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
                MPI.Init()  # the others may wait there
            if is_late:
                time.sleep(RANK_0_HEAD_START)  # they may have a message of their own to print
            MPI.COMM_WORLD.Abort(status)
        except BaseException:
            # Without MPI: launchers end a job if one of its processes dies by a signal.
            os.kill(os.getpid(), signal.SIGKILL)
    os._exit(status)


def is_unexpected(error: BaseException) -> bool:
    """Whether a command aborts on this exception; `command.run` handles the others."""
    return not isinstance(error, InputError | BrokenPipeError)


class Watchdog:
    """A context for collective work, which aborts all ranks if this one fails or stalls in it.

    It fails if an exception leaves the context for which `is_failure` is true. It stalls if `position` returns the same
    text for `timeout` seconds. Each rank first prints its traceback, or the stacks of its threads.

    timeout: in seconds; None for no limit. position: returns where this rank is. missing: returns which ranks it waits
    for, "" if for none; after WARN_AFTER seconds, a warning names them. folder: directory for failure reports, since an
    aborting MPI can lose standard error; None for none.
    Contexts may be nested. The innermost is in force; it inherits what it isn't given.
    """

    entered: ClassVar[list[Watchdog]] = []  # of this process, for its hooks; the innermost last

    def __init__(
        self,
        timeout: float | None = None,
        position: Callable[[], str] | None = None,
        missing: Callable[[], str] | None = None,
        is_failure: Callable[[BaseException], bool] = is_unexpected,
    ) -> None:
        outer = Watchdog.entered[-1] if Watchdog.entered else None
        self.timeout: float | None = timeout or (outer.timeout if outer else None)
        self.position: Callable[[], str] = position or (outer.position if outer else lambda: "before the first step")
        self.missing: Callable[[], str] = missing or (outer.missing if outer else str)
        self.folder: str | None = outer.folder if outer else None
        self._is_failure = is_failure
        self._ended = threading.Event()
        # One thread watches for all nested contexts. It looks now and then, so that a step costs nothing.
        needs_thread = self.timeout is not None and (outer is None or outer.timeout is None)
        self._thread = threading.Thread(target=self._watch, name="stall watch", daemon=True) if needs_thread else None

    def __enter__(self) -> Self:
        Watchdog.entered.append(self)
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._is_failure(error):
            fail(error)
        if self._thread:
            self._ended.set()
            self._thread.join()
        Watchdog.entered.remove(self)

    def _watch(self) -> None:
        """Abort when the innermost context stalls, until this one ends."""
        seen, since = "", time.monotonic()
        waiting, has_warned = since, False
        while not self._ended.is_set():
            inner = Watchdog.entered[-1]
            timeout = inner.timeout or STALL_TIMEOUT
            pause = min(timeout / 10, WARN_AFTER / 10, 1.0)
            # For a rank whose threads cannot run.
            faulthandler.dump_traceback_later(
                min(timeout + 10, threading.TIMEOUT_MAX), exit=True, file=error_descriptor()
            )
            now, position, missing = time.monotonic(), inner.position(), inner.missing()
            if position != seen:
                seen, since = position, now
                waiting, has_warned = now, False
            elif not missing:
                waiting = now
            elif now - waiting > WARN_AFTER and not has_warned:
                has_warned = True
                warn(f"rank {launched_rank()} has waited {WARN_AFTER:g} s for {missing}, {position}")
            if now - since > timeout:
                stacks = [
                    "".join(traceback.format_stack(frame))
                    for thread, frame in sys._current_frames().items()
                    if thread != threading.get_ident()
                ]
                report(f"made no step for {timeout:g} s and waits", "\n".join(stacks))
                time.sleep(2 * pause + 0.5)  # the other ranks look within this time, and report, too
                abort(1)
            self._ended.wait(pause)
        faulthandler.cancel_dump_traceback_later()


Watchdog.entered.append(Watchdog())  # in force outside of any other


def stall_timeout() -> float:
    """The timeout in force, in seconds; that of programs where there is none."""
    if (timeout := Watchdog.entered[-1].timeout) is not None:
        return timeout
    try:
        return max(float(os.environ["DISTNET_STALL_TIMEOUT"]), 1.0)
    except (KeyError, ValueError):
        return STALL_TIMEOUT


def report(what: str, lines: str) -> None:
    """Print a block about this rank on standard error, and write it to the watchdog's folder if there is one."""
    rank, host, watchdog = launched_rank(), socket.gethostname(), Watchdog.entered[-1]
    block = f"distnet: rank {rank} {what} on {host}, {watchdog.position()}\n{lines}"
    sys.stderr.write(block)
    if watchdog.folder is not None:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(watchdog.folder, f"failure-{host}-{rank}-{os.getpid()}.txt"), "w") as file,
        ):
            file.write(block)


def fail(error: BaseException, where: str = "") -> NoReturn:
    """Print the traceback under this rank's number and end all ranks with status 1; for Ctrl-C, see `interrupt`."""
    if isinstance(error, KeyboardInterrupt):
        interrupt()
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED:
        script = Path(__file__).parents[2] / ".venv" / "bin" / "activate"
        remedy = f": source {script}" if script.exists() else " that distnet is installed in"
        problem = f"{error.name} isn't installed for this Python; activate the environment{remedy}"
        warn_once_and_abort(f"{sys.executable}: {problem}", EXIT_BAD_INPUT)
    if isinstance(error, SystemExit):
        where += " by sys.exit before the end"
    report(f"failed{where}", "".join(traceback.format_exception(error)))
    abort(1)


def interrupt(*ignored: object) -> NoReturn:
    """End all ranks, each of which gets Ctrl-C, with one line from rank 0 and status 130. A signal handler."""
    if in_main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    warn_once_and_abort("interrupted", EXIT_INTERRUPTED)


def warn_once_and_abort(text: str, status: int) -> NoReturn:
    """Print what happened to all ranks on rank 0, and end them."""
    if launched_rank() == 0:
        warn(text)
    else:
        time.sleep(RANK_0_HEAD_START)
    abort(status)


class Exit(SystemExit):
    """What sys.exit raises after `note_exit`. It notes the status of one that nobody catches."""

    status: int | None = None

    def __del__(self) -> None:
        # Whoever catches it drops it in a Python frame. When the interpreter ends, there is none.
        if sys._getframe().f_back is None and in_main_thread():
            Exit.status = self.code if isinstance(self.code, int) else int(self.code is not None)


def note_exit() -> None:
    """Note in Exit.status with which status sys.exit ends this process, for functions that run at exit."""

    def leave(status: Any = None, /) -> NoReturn:
        raise Exit(status)

    sys.exit = leave


def install_hooks() -> None:
    """Make an uncaught exception end all ranks: in any thread, and during imports."""
    open_streams()
    if in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)  # during imports, a KeyboardInterrupt may become any other error
    faulthandler.enable(error_descriptor())  # prints the stack of a rank that dies by a signal of its own
    sys.excepthook = lambda kind, error, trace: fail(error)
    threading.excepthook = lambda args: fail(
        args.exc_value or args.exc_type(), f" in thread {args.thread and args.thread.name}"
    )
