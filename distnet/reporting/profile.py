"""Profiles of all ranks: a table of phases, the slowest rank, and a timeline for Perfetto."""

import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.runtime.files import write_whole
from distnet.runtime.stopwatch import PHASES, Stopwatch, no_lap
from distnet.runtime.text import aligned, counted
from distnet.training.callbacks import Callback
from distnet.training.trainer import Trainer

SLOWER = 0.02  # part of the time by which a rank has to be slower than the others to be named
KEPT_LAPS = 100_000  # of each rank, for a timeline: some 11,000 steps, and files that a browser still opens


class Profile(Callback):
    """Where the time of all ranks goes, if that is wanted; with a timeline, each lap is kept.

    watch: None if it is not wanted. phases: of all ranks, once training has ended; empty if no step was taken.
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


def format_profile(phases: list[dict[str, Any]]) -> Iterator[str]:
    """Format a table of the phases and what they show. phases: see `gather_phases`, of one step or more."""
    steps = phases[0]["steps"]
    shown = [phase for phase in PHASES if any(each["seconds"][phase] >= 0.0005 for each in phases)]
    table = [["rank", "host", *shown, "sum"]]
    for each in phases:
        seconds = [each["seconds"][phase] for phase in shown]
        table.append([str(each["rank"]), each["host"], *(f"{s:.3f}" for s in [*seconds, sum(seconds)])])
    yield f"seconds per rank and phase, {counted(steps, 'step')}"
    yield aligned(table)
    in_steps = sum(phases[0]["seconds"][phase] for phase in PHASES[: PHASES.index("update") + 1])
    yield f"a step took {in_steps / steps * 1e6:,.0f} µs"
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
            "since the last one differs from step to step"
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
    """How long each rank waited for others, and the verb for it. Between nodes, part of the wait is in the exchange."""
    waits = [each["seconds"]["waiting"] for each in phases]
    if len({each["node"] for each in phases}) == 1:
        return waits, "waited"
    return [wait + each["seconds"]["exchange"] for wait, each in zip(waits, phases, strict=True)], "waited or exchanged"


def write_timeline(world: World, watch: Stopwatch, path: Path) -> None:
    """Write the laps of all ranks as a Chrome trace: a process per node, a thread per rank, in microseconds.

    The stopwatches of all ranks must have been started at the same time.
    Raises InputError if the file can't be written. Collective.
    Source: the Trace Event Format, "complete" and "metadata" events.
    """
    own = (world.node, socket.gethostname(), bytes(watch.codes), watch.ends.tobytes())
    ranks = [own] if world.comm is None else world.comm.gather(own)

    def write() -> None:
        assert ranks is not None

        def content(file: BinaryIO) -> None:
            before = '{"displayTimeUnit": "ms", "traceEvents": [\n'
            for event in events(ranks):
                file.write((before + json.dumps(event)).encode())
                before = ",\n"
            file.write(b"\n]}\n")

        try:
            write_whole(path, content)
        except OSError as error:
            raise InputError(f"--timeline {path}", f"can't be written ({error.strerror})") from None

    world.on_root(write)


def events(ranks: Iterable[tuple[int, str, bytes, bytes]]) -> Iterator[dict[str, Any]]:
    """The trace events of all ranks. ranks: (node, host, codes, ends) of each."""
    for rank, (node, host, codes, raw_ends) in enumerate(ranks):
        ends = np.frombuffer(raw_ends)
        yield {"ph": "M", "name": "process_name", "pid": node, "args": {"name": f"node {node}, {host}"}}
        yield {"ph": "M", "name": "thread_name", "pid": node, "tid": rank, "args": {"name": f"rank {rank}"}}
        starts = np.concatenate([[0.0], ends])[:-1]
        for code, start, end in zip(codes, starts.tolist(), ends.tolist(), strict=True):
            duration = round((end - start) * 1e6, 3)
            yield {
                "ph": "X",
                "name": PHASES[code],
                "pid": node,
                "tid": rank,
                "ts": round(start * 1e6, 3),
                "dur": duration,
            }
