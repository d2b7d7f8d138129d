"""The speed of one training at several numbers of ranks: what was measured, and tables of it."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from distnet.reporting.profile import step_seconds
from distnet.runtime.stopwatch import PHASES
from distnet.runtime.text import format_count

SHOWN = 0.005  # the least share of the time with a column


class Measurement(NamedTuple):
    """A whole training on some ranks.

    header: the first lines that it printed. seconds, samples: of all epochs, without evaluation. command_seconds: of
    the whole command. phases: see `profile.gather_phases`, not empty. sha256: of the parameters.
    """

    ranks: int
    header: Sequence[str]
    seconds: float
    samples: float
    command_seconds: float
    phases: Sequence[dict[str, Any]]
    sha256: str

    @property
    def speed(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds

    def shares(self) -> dict[str, float]:
        """The share of each phase in the time of all ranks."""
        seconds = {phase: sum(each["seconds"][phase] for each in self.phases) for phase in PHASES}
        return {phase: part / sum(seconds.values()) for phase, part in seconds.items()}

    def to_dict(self, first: "Measurement") -> dict[str, Any]:
        """The measurement as JSON represents it. first: with the fewest ranks."""
        return {
            "ranks": self.ranks,
            "nodes": len({each["node"] for each in self.phases}),
            "seconds": self.seconds,
            "samples_per_second": self.speed,
            "speed_up": speed_up(self, first),
            "efficiency": efficiency(self, first),
            "command_seconds": self.command_seconds,
            "step_seconds": step_seconds(self.phases),
            "shares": self.shares(),
            "parameters_sha256": self.sha256,
        }


def speed_up(each: Measurement, first: Measurement) -> float:
    """How many times as fast as the first."""
    return each.speed / first.speed


def efficiency(each: Measurement, first: Measurement) -> float:
    """The speed-up over the ratio of the ranks."""
    return speed_up(each, first) * first.ranks / each.ranks


def read_measurement(ranks: int, output: str, command_seconds: float) -> Measurement:
    """The measurement in the output of a training with --quiet, and with --metrics and --profile on standard output."""
    lines = output.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    epochs = [each for each in records if "epoch" in each]
    (profile,) = (each for each in records if "ranks" in each)
    return Measurement(
        ranks,
        profile["run"],
        sum(each["seconds"] for each in epochs),
        sum(each["seconds"] * each["samples_per_second"] for each in epochs),
        command_seconds,
        profile["ranks"],
        lines[-1].split()[-1],
    )


def tabulate_speed(each: Measurement, first: Measurement) -> dict[str, str]:
    """The columns of a measurement in the table of speeds."""
    over = "speed-up" if first.ranks == 1 else f"speed-up over {first.ranks}"
    return {
        "ranks": f"{each.ranks:,}",
        "seconds": f"{each.seconds:,.2f}",
        "samples/s": f"{each.speed:,.0f}",
        over: f"{speed_up(each, first):.2f}",
        "efficiency": f"{efficiency(each, first):.0%}",
        "whole command": f"{each.command_seconds:,.2f}",
    }


def tabulate_shares(runs: Sequence[Measurement]) -> list[list[str]]:
    """The table of the phases' shares: a header, and one row per measurement."""
    shares = [each.shares() for each in runs]
    shown = [phase for phase in PHASES if any(each[phase] >= SHOWN for each in shares)]
    rows = [["ranks", "step µs", *shown]]
    for run, share in zip(runs, shares, strict=True):
        step = f"{step_seconds(run.phases) * 1e6:,.0f}"
        rows.append([f"{run.ranks:,}", step, *(f"{share[phase]:.0%}" for phase in shown)])
    return rows


def compare_bits(runs: Sequence[Measurement]) -> str:
    """Whether all trainings have the same parameters."""
    if len({each.sha256 for each in runs}) == 1:
        agree = "the bits agree; " * (len(runs) > 1)
        return f"{agree}parameters sha256 {runs[0].sha256}"
    found = [f"{each.sha256[:8]}... on {format_count(each.ranks, 'rank')}" for each in runs]
    return f"the bits differ; parameters sha256 {', '.join(found)}"
