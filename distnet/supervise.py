"""python -m distnet.supervise: run mpirun, and run it again after failures, until the training is complete."""

from distnet.runtime import failure
from distnet.training.signals import stop_requests

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail
    stop_requests.hold()

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from distnet.config import reading
from distnet.config.parser import Parser
from distnet.parallel.shards import default_shards
from distnet.runtime.command import run
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_RESUMABLE, EXIT_UNWRITTEN
from distnet.runtime.launch import is_inside_rank, launched
from distnet.runtime.launcher import LOOK, Host, Launcher, mpirun_beside_python, read_hosts
from distnet.runtime.logs import warn
from distnet.runtime.numbers import Number, positive_count
from distnet.runtime.processes import Processes
from distnet.training.checkpoint import checkpoints, step_of, sweep

# Statuses that a stop request leaves as they are.
FINAL = (0, EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_UNWRITTEN, EXIT_INTERRUPTED)
STARTING = 10.0  # seconds in which MPI makes its files; before we have seen them, nobody can tell whose they are
COUNT = 1.0  # seconds between counts of the ranks, and of their failures
LAST_WORDS = 5.0  # seconds for mpirun to end after a rank has
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a restart after no progress; doubled each time
REPEAT = 1.0  # seconds until ranks are told again to stop: mpirun and MPI_Init lose signals while they start
SHOWN = 10  # lines of a kind in the report


class Attempt(NamedTuple):
    """How one run of mpirun ended. step: the newest checkpoint's afterwards, -1 where there is none."""

    ranks: int
    seconds: float
    status: int
    ended: str
    step: int

    def __str__(self) -> str:
        where = f"the newest checkpoint is of step {self.step}" if self.step >= 0 else "there is no checkpoint"
        return f"{self.ranks} rank{'s' * (self.ranks != 1)}, {self.seconds:.1f} s, {self.ended}; {where}"


class Supervisor:
    """Runs the training command with these arguments until it is complete, or nothing is to be had by going on.

    when_fresh: arguments to add as long as there is no checkpoint. directory: where they say that checkpoints
    are. ranks: as many as there should be. min_ranks: as few as will do. max_restarts: how many in a row may
    bring no newer checkpoint. Takes over SIGTERM, SIGINT and SIGUSR1.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        when_fresh: Sequence[str],
        directory: Path,
        launcher: Launcher,
        ranks: int,
        min_ranks: int = 1,
        max_restarts: int = 3,
    ) -> None:
        self.command = [sys.executable, "-m", "distnet.train", *arguments]
        self.when_fresh, self.directory, self.launcher = list(when_fresh), directory, launcher
        self.ranks, self.min_ranks, self.max_restarts = ranks, min_ranks, max_restarts
        self.attempts: list[Attempt] = []
        self.asked = False
        self.told = float("-inf")
        self.interrupts = 0
        stop_requests.listen(self.stop)
        self.asked |= stop_requests.pending

    def stop(self, caught: int, frame: FrameType | None) -> None:
        """Handle a signal: the ranks stop after a step, and aren't restarted. A second SIGINT ends all at once.

        `watch` tells them, and again until they have stopped.
        """
        self.interrupts += caught == signal.SIGINT
        self.asked = True
        self.told = float("-inf")

    def tell(self, mpirun: subprocess.Popen[bytes], now: float) -> None:
        """Tell the ranks to stop, where that was asked for and they weren't told within REPEAT seconds.

        By SIGUSR1, whatever came: Open MPI's mpirun would kill them 0.25 s after one of the others.
        """
        if self.asked and now > self.told + REPEAT:
            self.told = now
            mpirun.send_signal(signal.SIGUSR1)

    def run(self) -> int:
        """Attempt after attempt; returns the status of the last."""
        at_first, best, useless = checkpoints(self.directory), self.step(), 0
        while True:
            attempt = self.attempt(resume=checkpoints(self.directory) != at_first)
            self.attempts.append(attempt)
            complete = (
                attempt.status == EXIT_UNWRITTEN and self.record() is not None
            )  # all but what couldn't be written
            if attempt.status in (0, EXIT_BAD_INPUT, EXIT_DIVERGED) or complete:
                return attempt.status
            if self.asked:
                if attempt.status not in (*FINAL, EXIT_RESUMABLE):
                    # A signal that came too early for a rank, or a failure just then. To go on is what helps with both.
                    warn(f"asked to stop: {attempt}; run it again with --checkpoint-dir {self.directory} --resume")
                return attempt.status if attempt.status in FINAL else EXIT_RESUMABLE
            progress, best = attempt.step > best, max(best, attempt.step)
            useless = 0 if progress else useless + (len(self.attempts) > 1)
            if useless >= self.max_restarts:
                warn(self.report())
                return attempt.status
            wait = 0.0 if progress else min(FIRST_WAIT * 2**useless, LONGEST_WAIT)
            warn(f"attempt {len(self.attempts)}: {attempt}; once more" + f" in {wait:g} s" * (wait > 0))
            until = time.monotonic() + wait
            while time.monotonic() < until and not self.asked:
                time.sleep(LOOK)
            if self.asked:
                return EXIT_RESUMABLE

    def attempt(self, resume: bool) -> Attempt:
        """One run of mpirun on what hosts there are, from its start until nothing is left of it.

        resume: whether there is something newer to go on from than what the arguments say.
        """
        begin = time.monotonic()
        ranks, hosts = self.ranks, self.launcher.hosts
        with Processes() as processes:
            if hosts:
                hosts = self.answering(processes)
                ranks = min(ranks, sum(host.ranks for host in hosts))
            if self.asked:
                status, ended = EXIT_RESUMABLE, "stopped before it began"
            elif ranks < self.min_ranks:
                status, ended = 1, f"not started, since --min-ranks is {self.min_ranks}"
            else:
                more = ["--resume"] if resume else [] if checkpoints(self.directory) else self.when_fresh
                status, ended = self.watch(hosts, ranks, more, processes)
        with contextlib.suppress(OSError):
            sweep(self.directory)  # whoever was writing is dead
        return Attempt(ranks, time.monotonic() - begin, status, ended, self.step())

    def watch(self, hosts: list[Host], ranks: int, more: list[str], processes: Processes) -> tuple[int, str]:
        """Run mpirun to its end, or until it won't end by itself. Returns the job's status and how it ended.

        It won't where it waits for a host that was cut off: a rank has reported its failure, or one of this host
        is gone, and mpirun stays.
        """
        failures, record = self.failures(), self.record()
        ranks_here: set[int] = set()
        counted, next_count, ending = ranks_here, 0.0, float("inf")
        mpirun = self.launcher.start(hosts, ranks, self.command + more, processes)
        begin = now = time.monotonic()
        try:
            while mpirun.poll() is None:
                starting = now < begin + STARTING
                time.sleep(LOOK / 10 if starting else LOOK)
                now = time.monotonic()
                self.tell(mpirun, now)
                if starting or now > next_count:
                    processes.look()
                if now > next_count:
                    next_count = now + COUNT
                    before, counted = counted, set(processes.alive("distnet.train"))
                    ranks_here |= before & counted  # what is there but once may be about to become something else
                    if ranks_here - counted or self.failures() != failures:
                        ending = min(ending, now)
                if self.interrupts > 1:
                    return EXIT_INTERRUPTED, "interrupted"
                if now > ending + LAST_WORDS:
                    return 1, "a rank ended, and mpirun didn't"
        finally:
            mpirun.kill()
            mpirun.wait()
            processes.end()
        status = mpirun.returncode if mpirun.returncode >= 0 else 128 - mpirun.returncode
        if status == 0 and self.record() in (None, record):
            return 1, "status 0 without a completion record"
        return status, f"status {status}"

    def answering(self, processes: Processes) -> list[Host]:
        """The hosts that can be had, telling of the others."""
        good = self.launcher.answering(processes, lambda: self.asked)
        for host in () if self.asked else self.launcher.hosts:
            if host not in good:
                warn(f"host {host.name} doesn't answer")
        return good

    def step(self) -> int:
        """The newest checkpoint's step, -1 where there is none."""
        return max(map(step_of, checkpoints(self.directory)), default=-1)

    def failures(self) -> list[Path]:
        """What ranks reported of their ends."""
        return sorted(self.directory.glob("failure-*.txt"))

    def record(self) -> tuple[int, int] | None:
        """Tells one completion record from another; None where there is none."""
        with contextlib.suppress(OSError):
            found = os.stat(self.directory / "completed.json")
            return found.st_ino, found.st_mtime_ns
        return None

    def report(self) -> str:
        """What happened, after it is of no use to go on."""
        lines = [f"gave up after {len(self.attempts)} attempts, the last without progress"]
        lines += [f"  attempt {number}: {each}" for number, each in enumerate(self.attempts, 1)][-SHOWN:]
        lines += [f"  checkpoint {path}" for path in checkpoints(self.directory)[:1]]
        lines += [f"  failure {path}" for path in sorted(self.failures(), key=os.path.getmtime)[-SHOWN:]]
        return "\n".join(lines)


def build_parser() -> Parser:
    """The parser of what stands before the two dashes."""
    made = Parser(
        prog="python -m distnet.supervise",
        usage="python -m distnet.supervise -n RANKS [options] -- [options of distnet.train]",
        description="Train under mpirun, and go on from the newest checkpoint after a failure.",
        allow_abbrev=False,
    )
    made.add_argument("-n", type=positive_count, required=True, metavar="RANKS", help="ranks to train on")
    made.add_argument("--max-restarts", type=Number(int, lambda value: value >= 0, "a non-negative integer"),
                      default=3, metavar="K", help="how many may bring no newer checkpoint (default: 3)")  # fmt: skip
    made.add_argument("--min-ranks", type=positive_count, default=1, metavar="K",
                      help="go on with as few, where hosts don't answer (default: 1)")  # fmt: skip
    made.add_argument("--hosts", type=read_hosts, default=[], metavar="NAME:RANKS,...",
                      help="where; those that don't answer are left out (default: mpirun's own choice)")  # fmt: skip
    made.add_argument("--mpirun", type=shlex.split, metavar="COMMAND",
                      help="with options of its own (default: the one beside this Python)")  # fmt: skip
    return made


def main() -> int:
    """Supervise as the command line says."""
    if launched() or is_inside_rank():
        raise InputError(
            "distnet.supervise",
            "mpirun started it, and it starts mpirun itself",
            "start it without mpirun",
            on_every_rank=True,
        )
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
    # The default depends on the ranks, and what is computed on it: it has to stay if there are fewer ranks.
    shards = [] if options.shards is not None or options.resume else ["--shards", str(default_shards(typed.n))]
    launcher = Launcher(typed.mpirun or [mpirun_beside_python()], typed.hosts)
    return Supervisor(
        arguments, shards, options.checkpoint_dir, launcher, typed.n, typed.min_ranks, typed.max_restarts
    ).run()


if __name__ == "__main__":
    run(main)
