"""python -m distnet.doctor [mpirun -n N ...]: check whether distnet works here, and print what to type if not."""

from distnet.runtime import command, failure, launch

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
from distnet.datasets.options import DATA_FOLDER, HAS_FOLDER
from distnet.doctor import checks, mpi, trial
from distnet.doctor.findings import NOTE, Finding, Report
from distnet.doctor.machine import Facts, gather_facts
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn

STALL = 120.0  # seconds for a check, or for a step of training, on a machine with many more ranks than cores
HEADER = f"distnet {__version__}, doctor"
LAST_LINE = re.compile(r"^(no|\d+) problems?, (no|\d+) notes?$", re.MULTILINE)
TRIAL_BYTES = 32 << 20  # of /dev/shm


def main() -> int:
    """Run the command; returns 1 if there is a problem, else 0. Collective."""
    options = build_parser().parse_args()
    folder = options.data_dir or DATA_FOLDER
    is_named = options.data_dir is not None or HAS_FOLDER
    if not options.launcher:
        return examine(folder, is_named)
    if launch.launched() or launch.is_inside_rank():
        raise InputError(
            options.launcher[0], "a launcher started this already", "leave one of the two out", on_every_rank=True
        )
    data_dir = ["--data-dir", str(folder)] if options.data_dir else []
    command = [sys.executable, "-m", "distnet.doctor", *data_dir]
    warn(f"starting {shlex.join([*options.launcher, *command])}")
    exited = mpi.start(options.launcher, command)
    out, err = (exited.stdout, exited.stderr) if exited else ("", "")
    sys.stderr.write(err)
    reports, last = out.count(HEADER), LAST_LINE.search(out)
    is_complete = last is not None and exited is not None and (last[1] == "no") == (exited.returncode == 0)
    findings = mpi.judge(options.launcher, exited, reports, is_complete)
    if reports != 1:
        return examine(folder, is_named, findings)
    print("\n".join([out.rstrip("\n"), *map(str, findings)]))
    return int(bool(findings) or last is None or last[1] != "no")


def build_parser() -> Parser:
    """The parser of `python -m distnet.doctor`."""
    parser = Parser(
        prog="python -m distnet.doctor",
        usage="python -m distnet.doctor [options] [mpirun -n N ...]",
        description="Check this machine and its MPI, and print fixes. The exit status is 1 if there is a problem.",
        allow_abbrev=False,
    )
    launcher = parser.add_argument(
        "launcher",
        nargs=argparse.REMAINDER,
        metavar="mpirun -n N ...",
        help="launcher whose ranks are checked (default: none, one process)",
    )
    launcher.required = False
    parser.add_argument(
        "--data-dir", type=file_path, help="folder of MNIST (default: $DISTNET_DATA, else data)", metavar="DIR"
    )
    return parser


def examine(folder: Path, is_named: bool, findings: Sequence[Finding] = ()) -> int:
    """Run all checks, print them on rank 0, and return the status. Collective.

    is_named: whether the user named the data folder. findings: about the launcher, if it failed before.
    """
    with failure.Watchdog(STALL) as watchdog:
        trouble = ""
        try:
            world = launched_world()
        except InputError as error:
            if launch.launched_rank() > 0:
                return 0  # each rank is alone, and the first one reports it
            world, trouble = World(), str(error)
        report = Report(world.rank, watchdog)
        report.print(HEADER)
        report.start_section("MPI")
        report.add(*findings, *world.on_root(lambda: mpi.check_library(world, trouble)))
        mine = gather_facts()
        everyone: list[Facts] = world.comm.allgather(mine) if world.comm else [mine]
        report.add(checks.list_ranks(world, everyone))
        report.add(checks.check_shared_memory(world, everyone, trial.is_memory_shared(world)))
        report.start_section("machine")
        report.add(checks.list_systems(everyone))
        report.add(*checks.check_cores(world, everyone), checks.check_memory(world, everyone))
        report.start_section("software")
        report.add(*checks.compare_software(everyone), *checks.list_variables(everyone))
        report.start_section("data")
        report.add(world.on_root(lambda: checks.check_data(folder, is_named)))
        report.start_section("training")
        is_rounded = not any(each.deviation for each in everyone)
        room = min((each.shared_memory for each in everyone if each.shared_memory is not None), default=TRIAL_BYTES)
        if not is_rounded:
            report.add(
                Finding(NOTE, "bits", "not checked: portable arithmetic can't be used", "the remedy for rounding first")
            )
        elif room < TRIAL_BYTES and max(world.node_sizes) > 1:
            report.add(Finding(NOTE, "bits", "not checked: too little shared memory", "the remedy for windows first"))
        else:
            report.add(checks.compare_bits(world, *trial.train_both_ways(world)))
        report.print_summary()
        return world.on_root(lambda: int(report.problems > 0))


if __name__ == "__main__":
    command.run(main)
