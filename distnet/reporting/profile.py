"""Profiles of all ranks: a table of phases, the slowest rank, and a timeline for Perfetto."""

import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distnet.parallel.world import World
from distnet.runtime.files import write_content
from distnet.runtime.stopwatch import PHASES, Stopwatch, no_lap
from distnet.runtime.text import format_count, format_table, json_line
from distnet.training.callbacks import Callback
from distnet.training.trainer import Trainer

SLOWER = 0.02  # share of the time; a rank that is slower than the others by less is not named
KEPT_LAPS = 100_000  # per rank, for a timeline: some 11,000 steps, in a file that a browser can still open


class Profile(Callback):
    """Measures the time of every rank by phase, if wanted. For a timeline, it keeps each lap.

    watch: None if it is not wanted. phases: of all ranks, after training; empty if no step was taken.
    """

    def __init__(self, is_wanted: bool, with_timeline: bool) -> None:
        self.watch = Stopwatch(KEPT_LAPS if with_timeline else 0) if is_wanted else None
        self.lap = self.watch.lap if self.watch else no_lap
        self.phases: list[dict[str, Any]] = []
        self._first_step = 0

    def start(self, trainer: Trainer) -> None:
        """Start the clocks of all ranks at the same time."""
        self._first_step = trainer.global_step
        if self.watch:
            trainer.world.total(np.zeros(1))
            self.watch.start()

    def end(self, trainer: Trainer) -> None:
        """Gather the phases of all ranks."""
        steps = trainer.global_step - self._first_step
        if self.watch and steps:
            self.phases = gather_phases(trainer.world, self.watch, steps)


def gather_phases(world: World, watch: Stopwatch, steps: int) -> list[dict[str, Any]]:
    """Gather each rank's phases in seconds, by rank, on every rank. steps: number of timed steps. Collective."""
    own = {"rank": world.rank, "node": world.node, "host": socket.gethostname()}
    own |= {"steps": steps, "seconds": watch.seconds}
    return [own] if world.comm is None else world.comm.allgather(own)


def write_profile(path: Path, header: Sequence[str], profile: Profile) -> None:
    """Write the header of a run and the phases of all ranks as JSON. Raises InputError. For rank 0."""
    content = json_line({"run": header, "ranks": profile.phases}) + "\n"
    write_content(path, content.encode(), f"--profile {path}")


def step_seconds(phases: Sequence[Mapping[str, Any]]) -> float:
    """The seconds of a step, from rank 0: without evaluation, checkpoints and callbacks."""
    seconds: dict[str, float] = phases[0]["seconds"]
    return sum(seconds[phase] for phase in PHASES[: PHASES.index("update") + 1]) / int(phases[0]["steps"])


def format_profile(phases: list[dict[str, Any]]) -> Iterator[str]:
    """Format a table of the phases, the time per step, and the slowest rank. phases: see `gather_phases`, not empty."""
    steps = phases[0]["steps"]
    shown = [phase for phase in PHASES if any(each["seconds"][phase] >= 0.0005 for each in phases)]
    table = [["rank", "host", *shown, "sum"]]
    for each in phases:
        seconds = [each["seconds"][phase] for phase in shown]
        table.append([str(each["rank"]), each["host"], *(f"{s:.3f}" for s in [*seconds, sum(seconds)])])
    yield f"seconds per rank and phase, {format_count(steps, 'step')}"
    yield format_table(table)
    yield f"a step took {step_seconds(phases) * 1e6:,.0f} µs"
    if len(phases) > 1:
        yield describe_slowest_rank(phases)


def describe_slowest_rank(phases: Sequence[Mapping[str, Any]]) -> str:
    """Describe how long ranks waited, and why: the rank that waited least, and the phase in which it lost most time.

    No rank is named if the difference is below SLOWER of the time, which may be chance.
    """
    waits, waited = waiting_seconds(phases)
    place = waits.index(min(waits))
    slowest, others = phases[place], [each for each in phases if each is not phases[place]]
    whole = sum(slowest["seconds"].values())
    mean_wait = (sum(waits) - waits[place]) / len(others)
    if mean_wait - waits[place] < SLOWER * whole:
        share = sum(waits) / len(waits) / whole
        return (
            f"no rank was slower than the others; they {waited} {100 * share:.0f} % of the time, "
            "because the last rank differs from step to step"
        )
    means = {name: sum(each["seconds"][name] for each in others) / len(others) for name in slowest["seconds"]}
    work = [name for name in means if name not in ("waiting", "exchange")]
    phase = max(work, key=lambda name: slowest["seconds"][name] - means[name])
    return (
        f"rank {slowest['rank']} on {slowest['host']} was the slowest: it {waited} {waits[place]:.3f} s, "
        f"the others {mean_wait:.3f} s on average, {100 * mean_wait / whole:.0f} % of the time; "
        f"the phase that differs most is {phase}, {slowest['seconds'][phase]:.3f} s instead of {means[phase]:.3f} s"
    )


def waiting_seconds(phases: Sequence[Mapping[str, Any]]) -> tuple[list[float], str]:
    """The seconds that each rank waited, and the verb for it. Between nodes, the exchange includes part of the wait."""
    waits = [each["seconds"]["waiting"] for each in phases]
    if len({each["node"] for each in phases}) == 1:
        return waits, "waited"
    return [wait + each["seconds"]["exchange"] for wait, each in zip(waits, phases, strict=True)], "waited or exchanged"


def write_timeline(world: World, watch: Stopwatch, path: Path) -> None:
    """Write the laps of all ranks as a Chrome trace: a process per node, a thread per rank, in microseconds.

    All ranks must have started their stopwatches at the same time.
    Raises InputError if the file can't be written. Collective.
    Source: the Trace Event Format, "complete" and "metadata" events.
    """
    own = (world.node, socket.gethostname(), bytes(watch.codes), watch.ends.tobytes())
    ranks = [own] if world.comm is None else world.comm.gather(own)

    def write() -> None:
        assert ranks is not None
        lines = ",\n".join(map(json.dumps, events(ranks)))
        content = f'{{"displayTimeUnit": "ms", "traceEvents": [\n{lines}\n]}}\n'
        write_content(path, content.encode(), f"--timeline {path}")

    world.on_root(write)


def events(ranks: Iterable[tuple[int, str, bytes, bytes]]) -> Iterator[dict[str, Any]]:
    """The trace events of all ranks. ranks: for each its node, host, codes and ends."""
    for rank, (node, host, codes, raw_ends) in enumerate(ranks):
        ends = np.frombuffer(raw_ends)
        yield {"ph": "M", "name": "process_name", "pid": node, "args": {"name": f"node {node}, {host}"}}
        yield {"ph": "M", "name": "thread_name", "pid": node, "tid": rank, "args": {"name": f"rank {rank}"}}
        starts = np.concatenate([[0.0], ends])[:-1]
        for code, start, end in zip(codes, starts.tolist(), ends.tolist(), strict=True):
            event = {"ph": "X", "name": PHASES[code], "pid": node, "tid": rank}
            yield event | {"ts": round(start * 1e6, 3), "dur": round((end - start) * 1e6, 3)}
