"""python -m distnet.supervise: run mpirun, and restart it after failures, until the training is complete."""

from distnet.runtime import failure
from distnet.training.signals import stop_requests

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail
    stop_requests.hold()

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from distnet.config import reading
from distnet.config.parser import Parser
from distnet.runtime.command import run
from distnet.runtime.errors import InputError
from distnet.runtime.failure import (
    EXIT_BAD_INPUT,
    EXIT_DIFFERENT,
    EXIT_DIVERGED,
    EXIT_INTERRUPTED,
    EXIT_RESUMABLE,
    EXIT_UNWRITTEN,
)
from distnet.runtime.launcher import LOOK, Host, Launcher, mpirun_beside_python, read_hosts
from distnet.runtime.logs import warn
from distnet.runtime.numbers import Number, positive_count
from distnet.runtime.processes import Processes
from distnet.runtime.ranks import refuse_launcher
from distnet.runtime.text import format_count
from distnet.training.checkpoint import checkpoints, step_of, sweep

# Statuses that are returned even if the run was to stop.
FINAL = (0, EXIT_BAD_INPUT, EXIT_DIFFERENT, EXIT_DIVERGED, EXIT_UNWRITTEN, EXIT_INTERRUPTED)
STARTING = 10.0  # seconds in which MPI makes its segments, so that `Processes.look` is called more often
COUNT = 1.0  # seconds between counts of the ranks, and of their failure reports
LAST_WORDS = 5.0  # seconds for mpirun to exit after a rank
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a restart without progress; doubled each time
REPEAT = 1.0  # seconds between requests to stop: mpirun and MPI_Init lose signals while they start
SHOWN = 10  # attempts and failures in the last report


class Attempt(NamedTuple):
    """How one run of mpirun ended. step: of the newest checkpoint afterwards, -1 if there is none."""

    ranks: int
    seconds: float
    status: int
    reason: str
    step: int

    def __str__(self) -> str:
        where = f"the newest checkpoint is of step {self.step}" if self.step >= 0 else "there is no checkpoint"
        return f"{format_count(self.ranks, 'rank')}, {self.seconds:.1f} s, {self.reason}; {where}"


class Supervisor:
    """Runs the training command until it is complete, or until a restart cannot help.

    arguments: of the command. when_fresh: further arguments while there is no checkpoint. directory: of the
    checkpoints. ranks: the usual number. min_ranks: the least, if hosts don't answer. max_restarts: how many in a row
    may bring no newer checkpoint. Handles SIGTERM, SIGINT and SIGUSR1.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        when_fresh: Sequence[str],
        directory: Path,
        launcher: Launcher,
        ranks: int,
        min_ranks: int,
        max_restarts: int,
    ) -> None:
        self.command = [sys.executable, "-m", "distnet.train", *arguments]
        self.when_fresh, self.directory, self.launcher = list(when_fresh), directory, launcher
        self.ranks, self.min_ranks, self.max_restarts = ranks, min_ranks, max_restarts
        self.attempts: list[Attempt] = []
        self.is_stopping = False
        self.next_request = self.interrupts = 0.0
        stop_requests.listen(self.stop)
        self.is_stopping |= stop_requests.pending

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: ranks stop after a step, and are not restarted. A second SIGINT kills them."""
        self.interrupts += number == signal.SIGINT
        self.is_stopping = True
        self.next_request = 0.0

    def run(self) -> int:
        """Run one attempt after another; returns the status of the last."""
        at_first, best, useless = checkpoints(self.directory), self.step(), 0
        while True:
            attempt = self.attempt(resume=checkpoints(self.directory) != at_first)
            self.attempts.append(attempt)
            # Training may be complete although a result could not be written.
            is_complete = attempt.status == EXIT_UNWRITTEN and self.record() is not None
            if is_complete or attempt.status in (0, EXIT_BAD_INPUT, EXIT_DIFFERENT, EXIT_DIVERGED):
                return attempt.status
            if self.is_stopping:
                if attempt.status not in (*FINAL, EXIT_RESUMABLE):  # the signal was too early for a rank, or it failed
                    warn(f"asked to stop: {attempt}; run it again with --checkpoint-dir {self.directory} --resume")
                return attempt.status if attempt.status in FINAL else EXIT_RESUMABLE
            has_progress, best = attempt.step > best, max(best, attempt.step)
            useless = 0 if has_progress else useless + (len(self.attempts) > 1)
            if useless >= self.max_restarts:
                self.report()
                return attempt.status
            wait = 0.0 if has_progress else min(FIRST_WAIT * 2**useless, LONGEST_WAIT)
            warn(f"attempt {len(self.attempts)}: {attempt}; once more" + f" in {wait:g} s" * (wait > 0))
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline and not self.is_stopping:
                time.sleep(LOOK)
            if self.is_stopping:
                return EXIT_RESUMABLE

    def attempt(self, resume: bool) -> Attempt:
        """Run mpirun once, on the hosts that answer, and kill what it leaves.

        resume: whether there is a newer checkpoint than the arguments imply.
        """
        begin = time.monotonic()
        ranks, hosts = self.ranks, self.launcher.hosts
        with Processes() as processes:
            if hosts:
                hosts = self.launcher.find_hosts(processes, lambda: self.is_stopping)
                ranks = min(ranks, sum(host.ranks for host in hosts))
            if self.is_stopping:
                status, reason = EXIT_RESUMABLE, "stopped before it began"
            elif ranks < self.min_ranks:
                status, reason = 1, f"not started, since --min-ranks is {self.min_ranks}"
            else:
                more = ["--resume"] if resume else [] if checkpoints(self.directory) else self.when_fresh
                status, reason = self.watch(hosts, ranks, more, processes)
        with contextlib.suppress(OSError):
            sweep(self.directory)  # no process is left that writes there
        return Attempt(ranks, time.monotonic() - begin, status, reason, self.step())

    def watch(self, hosts: list[Host], ranks: int, more: list[str], processes: Processes) -> tuple[int, str]:
        """Run mpirun until it exits. Returns the job's status, and the reason.

        If a host is cut off, mpirun waits for it forever. It is killed if a rank of this host disappears, or if any
        rank writes a failure report, and mpirun does not exit.
        """
        failures, record = self.failures(), self.record()
        ranks_here: set[int] = set()
        current, next_count, end = ranks_here, 0.0, float("inf")
        mpirun = self.launcher.start(hosts, ranks, self.command + more, processes)
        begin = now = time.monotonic()
        try:
            while mpirun.poll() is None:
                is_starting = now < begin + STARTING
                time.sleep(LOOK / 10 if is_starting else LOOK)
                now = time.monotonic()
                if self.is_stopping and now > self.next_request:
                    self.next_request = now + REPEAT
                    # Whatever the signal was: after another one, Open MPI's mpirun would kill the ranks within 0.25 s.
                    mpirun.send_signal(signal.SIGUSR1)
                if is_starting or now > next_count:
                    processes.look()
                if now > next_count:
                    next_count = now + COUNT
                    previous, current = current, set(processes.alive("distnet.train"))
                    ranks_here |= previous & current  # one that is counted once may be about to exec something else
                    if ranks_here - current or self.failures() != failures:
                        end = min(end, now + LAST_WORDS)
                if self.interrupts > 1:
                    return EXIT_INTERRUPTED, "interrupted"
                if now > end:
                    return 1, "a rank ended, and mpirun didn't"
        finally:
            mpirun.kill()
            mpirun.wait()
            processes.end()
        status = mpirun.returncode if mpirun.returncode >= 0 else 128 - mpirun.returncode
        if status == 0 and self.record() in (None, record):
            return 1, "status 0 without a completion record"
        return status, f"status {status}"

    def step(self) -> int:
        """The step of the newest checkpoint; -1 if there is none."""
        return max(map(step_of, checkpoints(self.directory)), default=-1)

    def failures(self) -> list[Path]:
        """The failure reports of ranks."""
        return sorted(self.directory.glob("failure-*.txt"))

    def record(self) -> tuple[int, int] | None:
        """What identifies the completion record; None if there is none."""
        with contextlib.suppress(OSError):
            status = os.stat(self.directory / "completed.json")
            return status.st_ino, status.st_mtime_ns
        return None

    def report(self) -> None:
        """Print what happened in all attempts."""
        warn(f"gave up after {len(self.attempts)} attempts, the last without progress")
        for number, attempt in list(enumerate(self.attempts, 1))[-SHOWN:]:
            warn(f"attempt {number}: {attempt}")
        for path in checkpoints(self.directory)[:1]:
            warn(f"checkpoint {path}")
        for path in sorted(self.failures(), key=os.path.getmtime)[-SHOWN:]:
            warn(f"failure {path}")


def build_parser() -> Parser:
    """The parser of the options before `--`."""
    parser = Parser(
        prog="python -m distnet.supervise",
        usage="python -m distnet.supervise -n RANKS [options] -- [options of distnet.train]",
        description="Train under mpirun, and resume from the newest checkpoint after a failure.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=positive_count, required=True, metavar="RANKS", help="ranks to train on")
    parser.add_argument("--max-restarts", type=Number(int, lambda value: value >= 0, "a non-negative integer"),
                      default=3, metavar="K", help="restarts without a newer checkpoint (default: 3)")  # fmt: skip
    parser.add_argument("--min-ranks", type=positive_count, default=1, metavar="K",
                      help="fewest ranks, if hosts don't answer (default: 1)")  # fmt: skip
    parser.add_argument("--hosts", type=read_hosts, default=[], metavar="NAME:RANKS,...",
                      help="hosts; those that don't answer are left out (default: mpirun's choice)")  # fmt: skip
    parser.add_argument("--mpirun", type=shlex.split, metavar="COMMAND",
                      help="mpirun and its options (default: that beside this Python, or on the PATH)")  # fmt: skip
    return parser


def main() -> int:
    """Run the command; returns the exit status."""
    refuse_launcher("distnet.supervise")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    typed, unknown = build_parser().parse_known_args(words[:split])
    if unknown:
        option = unknown[0].partition("=")[0]
        if option in {name for action in reading.build_parser()._actions for name in action.option_strings}:
            raise InputError(option, "is an option of distnet.train", "put it after `--`")
        build_parser().error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments = words[split + 1 :]
    options = reading.read_config(arguments)
    if options.checkpoint_dir is None:
        raise InputError(
            "--checkpoint-dir", "is missing, so there would be nothing to resume from", "put it after `--`"
        )
    possible = min(typed.n, sum(host.ranks for host in typed.hosts)) if typed.hosts else typed.n
    if typed.min_ranks > possible:
        raise InputError(
            f"--min-ranks {typed.min_ranks}", f"there are {possible} ranks at most", f"use {possible} or fewer"
        )
    # In native arithmetic, the default depends on the ranks, and the bits on it: it has to stay if there are fewer.
    is_set = options.arithmetic == "portable" or options.shards is not None or options.resume
    shards = [] if is_set else ["--shards", str(typed.n)]
    launcher = Launcher(typed.mpirun or [mpirun_beside_python()], typed.hosts)
    return Supervisor(
        arguments, shards, options.checkpoint_dir, launcher, typed.n, typed.min_ranks, typed.max_restarts
    ).run()


if __name__ == "__main__":
    run(main)
