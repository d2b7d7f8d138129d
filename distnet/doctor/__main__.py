"""Whether distnet can work here, and what to type where it can't: python -m distnet.doctor [mpirun -n N ...]."""

from distnet.runtime import command, failure, launch, logs

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from distnet import __version__
from distnet.config.parser import Parser
from distnet.config.values import file_path
from distnet.datasets.names import DATA_FOLDER, HAS_FOLDER
from distnet.doctor import checks, mpi, trial
from distnet.doctor.findings import NOTE, OK, PROBLEM, Finding, coloured, shown, summary
from distnet.doctor.machine import Facts, facts
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.runtime.launcher import mpirun_beside_python

STALL = 120.0  # seconds for a check, on a machine with many more ranks than cores; a step of training is one, too
HEADER = f"distnet {__version__}, doctor"
END = re.compile(r"^(no|\d+) problems?, (no|\d+) notes?$", re.MULTILINE)  # what the last line is
ROOM = 32 << 20  # bytes of /dev/shm for a trial


def main() -> int:
    """Examine as the command line says; returns 1 where there is a problem, else 0. Collective."""
    options = build_parser().parse_args()
    directory = options.data_dir or DATA_FOLDER
    named = options.data_dir is not None or HAS_FOLDER
    if not options.launcher:
        return examine(directory, named)
    if launch.launched() or launch.is_inside_rank():
        raise InputError(
            options.launcher[0], "a launcher started this already", "leave one of the two out", on_every_rank=True
        )
    given = ["--data-dir", str(directory)] if options.data_dir else []
    command = [sys.executable, "-m", "distnet.doctor", *given]
    logs.warn(f"starting {shlex.join([*options.launcher, *command])}")
    ended = mpi.start(options.launcher, command)
    out, err = (ended.out, ended.err) if ended else ("", "")
    sys.stderr.write(err)
    reports, last = out.count(HEADER), END.search(out)
    whole = last is not None and ended is not None and (last[1] == "no") == (ended.status == 0)
    found = mpi.judged(options.launcher, ended, reports, whole)
    if reports != 1:
        return examine(directory, named, found)
    print(coloured("\n".join([out.rstrip("\n"), *map(shown, found)])))
    return int(bool(found) or last is None or last[1] != "no")


def build_parser() -> Parser:
    """The parser of `python -m distnet.doctor`."""
    made = Parser(
        prog="python -m distnet.doctor",
        usage="python -m distnet.doctor [options] [mpirun -n N ...]",
        description="Whether distnet can work here, and what to type where it can't. Status 1 if there is a problem.",
        allow_abbrev=False,
    )
    launcher = made.add_argument(
        "launcher",
        nargs=argparse.REMAINDER,
        metavar="mpirun -n N ...",
        help="start this, and look at its ranks (default: this one process)",
    )
    launcher.required = False
    made.add_argument(
        "--data-dir", type=file_path, help="where the IDX files are (default: $DISTNET_DATA, else data)", metavar="DIR"
    )
    return made


class Report:
    """The findings, as they come. Every rank has one and gives it the same; rank 0 prints."""

    def __init__(self, speaks: bool, watchdog: failure.Watchdog) -> None:
        self.speaks, self.problems, self.notes, self.at = speaks, 0, 0, "its surroundings"
        watchdog.position = lambda: f"while looking at {self.at}"
        self.line(HEADER)

    def section(self, title: str) -> None:
        """Findings about something else follow."""
        self.at = title
        self.line(f"\n{title}")

    def tell(self, *found: Finding) -> None:
        """Findings of this section."""
        for each in found:
            self.problems += each.mark == PROBLEM
            self.notes += each.mark == NOTE
            self.line(shown(each))

    def end(self) -> None:
        """How many are not right."""
        self.line("\n" + summary(self.problems, self.notes))

    def line(self, text: str) -> None:
        """Print, so that it is seen even if the next check never ends."""
        if self.speaks:
            # Open MPI's ranks have a terminal of their own, whoever reads it.
            print(text if launch.launched() else coloured(text), flush=True)


def examine(directory: Path, named: bool, started: Sequence[Finding] = ()) -> int:
    """Look at everything, print it on rank 0, and return the status. Collective.

    started: what was found of a launcher before, by the one process that is left.
    """
    with failure.Watchdog(STALL) as watchdog:
        return examine_watched(directory, named, started, watchdog)


def examine_watched(directory: Path, named: bool, started: Sequence[Finding], watchdog: failure.Watchdog) -> int:
    """The same under a watchdog."""
    trouble = ""
    try:
        world = launched_world()
    except InputError as error:
        if launch.launched_rank() > 0:
            return 0  # each is alone, and the first one tells
        world, trouble = World(), str(error)
    report = Report(world.rank == 0, watchdog)
    report.section("MPI")
    report.tell(*started, *world.on_root(lambda: mpi.loaded(world, trouble)))
    mine = facts()
    everyone: list[Facts] = world.comm.allgather(mine) if world.comm else [mine]
    report.tell(checks.ranks(world, everyone), checks.windows(world, everyone, trial.shared_memory_works(world)))
    report.section("machine")
    report.tell(Finding(OK, "system", f"{mine.system}; {mine.cpu}"))
    report.tell(*checks.cores(world, everyone), checks.memory(world, everyone))
    report.section("software")
    report.tell(*checks.software(everyone), *checks.variables(everyone))
    report.section("data")
    report.tell(world.on_root(lambda: checks.data(directory, named)))
    report.section("training")
    least = min((each.shared_memory for each in everyone if each.shared_memory is not None), default=ROOM)
    if least < ROOM and max(world.node_sizes) > 1:
        told = "not tried, for there is too little shared memory"
        report.tell(Finding(NOTE, "bits", told, "first what stands beside windows"))
    else:
        digests, *seconds = trial.bits(world)
        report.tell(checks.same_bits(world, digests, seconds))
        if world.size > 1:
            report.tell(checks.exchange(trial.speed(world)))
        else:
            ranks = f"for ranks: {sys.executable} -m distnet.doctor {mpirun_beside_python()} -n 2"
            report.tell(Finding(OK, "exchange", f"one process has nobody to exchange with; {ranks}"))
    report.end()
    return world.on_root(lambda: int(report.problems > 0))


if __name__ == "__main__":
    command.run(main)
