"""A rank that fails ends all ranks, so that nobody is left hanging in a collective.

A command calls `watch` before its first import that can fail, and `run` for the rest. This file imports
the standard library, `errors` and `text` alone.
"""

import contextlib
import faulthandler
import io
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from distnet.errors import HelpWanted, InputError
from distnet.text import printable

BAD_INPUT = 2
COME_AGAIN = 75  # stopped, and can be resumed; EX_TEMPFAIL of sysexits.h
DIVERGED = 70  # the loss is NaN or infinite, and would be so again; EX_SOFTWARE
UNWRITTEN = 74  # the last checkpoint could not be written; EX_IOERR
INTERRUPTED = 128 + signal.SIGINT

WARN_AFTER = 60.0  # seconds that a rank waits for others in silence
STALL_TIMEOUT = 300.0  # seconds, where no option says otherwise; DISTNET_STALL_TIMEOUT does for programs

REQUIRED = ("mnist", "numpy", "threadpoolctl")  # what distnet doesn't work without

ALL_COME = 1.0  # seconds; ranks that start together fail together
PASSED_ON = 0.2  # seconds for the launcher to pass on what was printed, which an abort would overtake
INIT_PATIENCE = 5.0  # seconds for the others to come to MPI_Init, too; what they do before it may take long
RANK_0_SPEAKS = 0.3  # seconds; Open MPI's mpirun ends the other ranks as soon as one has ended with a status

# How launchers tell a process, before MPI starts, which rank it is to be and of how many: MPICH's and
# Intel's mpirun and srun with PMI, Open MPI's mpirun, PMIx alone, SLURM's srun.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
INSIDE = "DISTNET_INSIDE_RANK"  # process and place of the rank that sets it, for those that it starts
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def say(text: str) -> None:
    """Lines for the person who watches, on standard error."""
    if sys.stderr is not None:
        sys.stderr.write(f"distnet: {printable(text.replace(chr(10), ' '))}\n")
        sys.stderr.flush()


def open_streams() -> None:
    """Let what is written to a stream that was closed before the start (`>&-`) go nowhere, instead of raising."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def error_descriptor() -> int:
    """Where faulthandler writes: standard error, also where a program has put an object without a descriptor there."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


def in_main_thread() -> bool:
    """Whether this thread may install signal handlers."""
    return threading.current_thread() is threading.main_thread()


def launched_rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    found = [os.environ[name] for name in RANK_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(found[0]) if found and launched() else 0


def launched_size() -> int:
    """How many processes the launcher started; 1 without a launcher, or where it doesn't say."""
    found = [os.environ[name] for name in SIZE_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(found[0]) if found else 1


def launched() -> bool:
    """Whether a launcher started this process, be it for one rank alone.

    SLURM's one task is no launch: it may be an interactive shell, whatever the variables that srun gave it.
    """
    if is_inside_rank():
        return False
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1" and launched_size() == 1:
        return "OMPI_COMM_WORLD_SIZE" in os.environ
    names = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")
    return any(name in os.environ for name in names)


def launched_place() -> str:
    """What the launcher gave this rank and no other process: its connection, or its name in the job."""
    if number := os.environ.get("PMI_FD"):
        try:
            found = os.fstat(int(number))
        except (OSError, ValueError):
            return "closed"
        return f"{found.st_dev}-{found.st_ino}"
    return "-".join(os.environ.get(name, "") for name in ("PMIX_NAMESPACE", "PMIX_RANK", "PMI_PORT", "PMI_RANK"))


def mark_rank() -> None:
    """Let the processes that this rank starts know that they are none, though they inherit its environment."""
    os.environ[INSIDE] = f"{os.getpid()} {launched_place()}"


@cache
def is_inside_rank() -> bool:
    """Whether a rank started this process, by subprocess for example: MPI_Init would end it there."""
    place = launched_place()
    if place == "closed":
        return True
    process, _, theirs = os.environ.get(INSIDE, "").partition(" ")
    return bool(process) and process != str(os.getpid()) and theirs == place


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
        time.sleep(PASSED_ON)
        try:
            end_soon()
            is_late = "mpi4py.MPI" not in sys.modules
            from mpi4py import MPI

            if not MPI.Is_initialized():
                is_late = True
                MPI.Init()  # the others may wait there, and have their own word to say
            if is_late:
                time.sleep(RANK_0_SPEAKS)
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
        say(f"{sys.executable}: {module} isn't installed for this Python; activate the environment{remedy}")
    else:
        time.sleep(RANK_0_SPEAKS)
    abort(BAD_INPUT)


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


def watch_progress(seconds: float) -> Callable[[], None]:
    """End all ranks when Context.position stays for so many seconds; every rank first tells where it waits.

    Loading counts as one step. A thread looks now and then, so that a step costs nothing. faulthandler's own
    timer stands behind it, for a rank that doesn't even let its threads run. Who waits for other ranks is told of
    earlier, after WARN_AFTER seconds.
    Returns what ends the watch, for a program that has other things to do afterwards.
    """
    ended = threading.Event()
    before = Context.position, Context.missing, Context.timeout, Context.folder
    Context.timeout = seconds

    def look() -> None:
        pause = min(seconds / 10, WARN_AFTER / 10, 1.0)
        seen, since = Context.position(), time.monotonic()
        waiting, warned = since, False
        while not ended.is_set():
            faulthandler.dump_traceback_later(
                min(seconds + 10, threading.TIMEOUT_MAX), exit=True, file=error_descriptor()
            )
            ended.wait(pause)
            now, missing = time.monotonic(), Context.missing()
            if Context.position() != seen:
                seen, since = Context.position(), now
                waiting, warned = now, False
            elif not missing:
                waiting = now
            elif now - waiting > WARN_AFTER and not warned:
                warned = True
                say(f"rank {launched_rank()} has waited {WARN_AFTER:g} s for {missing}, {Context.position()}")
            if now - since > seconds:
                stacks = [
                    "".join(traceback.format_stack(frame))
                    for thread, frame in sys._current_frames().items()
                    if thread != threading.get_ident()
                ]
                report(f"made no step for {seconds:g} s and waits", "\n".join(stacks))
                time.sleep(2 * pause + 0.5)  # the others look within this time and have their say
                abort(1)
        faulthandler.cancel_dump_traceback_later()

    thread = threading.Thread(target=look, name="stall watch", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()
        Context.position, Context.missing, Context.timeout, Context.folder = before

    return end


def stall_timeout() -> float:
    """Seconds without a step after which all ranks are ended: of the watch that is on, or of programs."""
    if Context.timeout is not None:
        return Context.timeout
    try:
        return max(float(os.environ["DISTNET_STALL_TIMEOUT"]), 1.0)
    except (KeyError, ValueError):
        return STALL_TIMEOUT


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
        say("interrupted")
    else:
        time.sleep(RANK_0_SPEAKS)
    abort(INTERRUPTED)


def watch() -> None:
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
    deadline = time.monotonic() + ALL_COME + (launched_rank() > 0) * RANK_0_SPEAKS
    while not arrived.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run(main: Callable[[], int | None]) -> None:
    """Run a command to its end on this rank; what `main` returns is the status, the same on every rank.

    Bad input is one line from rank 0 and status 2, --help its text from rank 0 and status 0. Anything else that
    ends `main` early ends all ranks. Collective: yes, as `main` is.
    """
    watch()
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
            abort(BAD_INPUT)
    except InputError as error:
        everywhere = error.on_every_rank and all_came()
        alone = f"rank {launched_rank()}: " if error.on_every_rank and not everywhere else ""
        if launched_rank() == 0 or not everywhere:
            sys.stderr.write("distnet: " + alone + printable(str(error).replace("\n", " ")) + "\n")
        else:
            time.sleep(RANK_0_SPEAKS)
        if not everywhere:
            abort(BAD_INPUT)
        sys.exit(BAD_INPUT)
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
