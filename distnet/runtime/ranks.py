"""Run a command on some ranks to its end: under mpirun, under srun in a SLURM job, or as one process."""

import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import PIPE, CompletedProcess, Popen, TimeoutExpired

from distnet.runtime import slurm
from distnet.runtime.errors import InputError
from distnet.runtime.failure import in_main_thread
from distnet.runtime.launch import is_inside_rank, launched
from distnet.runtime.launcher import LOOK, mpirun_beside_python, start_session
from distnet.runtime.processes import Processes

LAST_WORDS = 5.0  # seconds for a launcher to end its ranks, also those on other hosts


def refuse_launcher(command: str) -> None:
    """Raise InputError (on every rank) if a launcher started this command, which starts one itself."""
    if launched() or is_inside_rank():
        problem = "mpirun started it, and it starts mpirun itself"
        raise InputError(command, problem, "start it without mpirun", on_every_rank=True)


def run_training(arguments: Sequence[str], ranks: int) -> tuple[int, str]:
    """Run `python -m distnet.train` with these arguments on so many ranks, and wait until it exits.

    Returns the exit status, and the standard output. Standard error is that of this process. No process is left.
    SIGINT and SIGTERM end the ranks, then take effect here. Raises InputError if there is no launcher.
    """
    exited = run_to_end([*build_launcher(ranks), sys.executable, "-m", "distnet.train", *arguments])
    return exited.returncode if exited.returncode >= 0 else 128 - exited.returncode, exited.stdout


def build_launcher(ranks: int) -> list[str]:
    """The words before a command that start it on so many ranks. Raises InputError if there is no launcher.

    They are srun's in a SLURM job; else none for one rank, so that one needs no MPI.
    """
    if slurm.is_allocated():
        return slurm.build_srun(ranks)
    if ranks == 1:
        return []
    mpirun = mpirun_beside_python()
    if shutil.which(mpirun) is None:
        problem = "there is no mpirun beside this Python or on the PATH"
        raise InputError(f"{ranks} ranks", problem, "pip install '.[mpich]' in the clone, or use one rank")
    return [mpirun, "-n", str(ranks)]


def run_to_end(
    command: Sequence[str], *, stderr: int | None = None, silence: float = float("inf")
) -> CompletedProcess[str]:
    """Run a launcher, or a single process, and wait until it exits. No process is left.

    stderr: PIPE to capture standard error as well as standard output. silence: seconds without output after which it is
    killed; its status is then None. SIGINT and SIGTERM end it, then take effect here.
    """
    with defer_signals() as received, Processes() as processes:
        started = start_session(command, processes, PIPE, stderr)
        try:
            length, deadline = 0, time.monotonic() + silence
            while started.poll() is None and time.monotonic() < deadline and not received:
                try:
                    started.communicate(timeout=LOOK)
                except TimeoutExpired as waiting:
                    processes.look()
                    output = len(waiting.output or b"") + len(waiting.stderr or b"")
                    if output > length:
                        length, deadline = output, time.monotonic() + silence
            status = started.poll()
            if received:
                terminate(started)
        finally:
            started.kill()
            processes.end()
            out, err = ((stream or b"").decode(errors="replace") for stream in started.communicate())
    return CompletedProcess(command, status, out, err)  # type: ignore[arg-type]


def terminate(launcher: Popen[bytes]) -> None:
    """Let a launcher end its ranks. If it is killed instead, srun's ranks go on."""
    launcher.terminate()
    with suppress(TimeoutExpired):
        launcher.communicate(timeout=LAST_WORDS)


@contextmanager
def defer_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM; at the end of the context, the first takes effect. In the main thread only."""
    received: list[int] = []
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) not in (signal.SIG_IGN, None)]
    handlers = {
        each: signal.signal(each, lambda number, frame: received.append(number))
        for each in (numbers if in_main_thread() else ())
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
