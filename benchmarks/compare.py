"""distnet beside its peers, a step of training: python benchmarks/compare.py [--rounds 7] [--guard].

Every way of training runs in processes of its own, with one thread each; those of one process all on the same
core. Rounds alternate between the ways, and what is compared is compared within a round. Prints a table,
and writes docs/performance.json, docs/performance.svg and the tables of docs/performance.md. Needs the extra bench,
and MPICH's mpirun beside this Python.

With --case or --way, only these, and nothing is written. With --guard: a few cases against eager PyTorch alone,
nothing is written, and the status is 1 where distnet has lost its place by more than noise explains.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import accuracy
import blas_kernel  # noqa: F401 - so that no worker has another
import compare_docs
import memory
import peers
import startup
from compare_docs import Row
from peers import Case, Peer

ROUND = 0.25  # seconds that a way trains before it is another's turn
TUTORIAL = (784, *[50] * 6, 10)
MNIST, WIDE = (784, 256, 128, 10), (784, 800, 800, 10)
CASES = {
    "tutorial, 10": Case(TUTORIAL, "sigmoid", 10),
    "tutorial, 64": Case(TUTORIAL, "sigmoid", 64),
    "tutorial, 256": Case(TUTORIAL, "sigmoid", 256),
    "tutorial, 1,024": Case(TUTORIAL, "sigmoid", 1024),
    "784-256-128-10, 128": Case(MNIST, "relu", 128),
    "784-256-128-10, 1,024": Case(MNIST, "relu", 1024),
    "784-800-800-10, 128": Case(WIDE, "relu", 128),
}


class Way(NamedTuple):
    """peer: made in every process. ranks: how many; started by `launcher`, "" for one process without any."""

    peer: Callable[[Case], Peer]
    ranks: int = 1
    launcher: str = ""


def native(case: Case) -> Peer:
    """In float32, one shard per rank."""
    return peers.distnet(case, "native", "float32")


def portable(case: Case) -> Peer:
    """In portable arithmetic."""
    return peers.distnet(case, "portable", "float64")


WAYS = {
    "portable, 1 rank": Way(portable),
    "native float64": Way(lambda case: peers.distnet(case, "native", "float64")),
    "native": Way(native),
    "native, 4 shards": Way(lambda case: peers.distnet(case, "native", "float32", 4)),
    "eager PyTorch": Way(peers.eager_torch),
    "JAX scan": Way(peers.jax_scan),
    "scikit-learn": Way(peers.scikit_learn),
    "scikit-learn float64": Way(lambda case: peers.scikit_learn(case, "float64")),
    "tutorial's way": Way(peers.tutorial),
    "limit": Way(peers.limit),
    "portable, 2 ranks": Way(portable, 2, "mpirun"),
    "native, 2 ranks": Way(native, 2, "mpirun"),
    "native, 4 ranks": Way(native, 4, "mpirun"),
    "PyTorch DDP, 2 ranks": Way(peers.torch_ddp, 2, "torch.distributed.run"),
}
PORTABLE, PORTABLE_TWO, NATIVE64 = "portable, 1 rank", "portable, 2 ranks", "native float64"
ONE, FOUR_SHARDS, TWO, FOUR = "native", "native, 4 shards", "native, 2 ranks", "native, 4 ranks"
TORCH, JAX, DDP = "eager PyTorch", "JAX scan", "PyTorch DDP, 2 ranks"


class Target(NamedTuple):
    """Time of `way` / time of `base` in the same round: at least `wanted`, or at most."""

    case: str
    way: str
    base: str
    wanted: float
    at_most: bool = False


LARGE = [case for case, trained in CASES.items() if trained.batch_size >= 1024]
TARGETS = [
    *(
        Target(case, PORTABLE, NATIVE64, 1.25, at_most=True)
        for case, trained in CASES.items()
        if trained.batch_size >= 128
    ),
    Target("tutorial, 10", PORTABLE, NATIVE64, 2, at_most=True),
    Target("tutorial, 10", PORTABLE, TORCH, 0.7, at_most=True),
    Target("784-256-128-10, 128", PORTABLE, "scikit-learn float64", 1.0, at_most=True),
    *(Target(case, PORTABLE_TWO, PORTABLE, 0.56, at_most=True) for case in LARGE),
    Target("tutorial, 10", TORCH, ONE, 4),
    Target("tutorial, 10", "scikit-learn", ONE, 3.5),
    Target("tutorial, 10", "tutorial's way", ONE, 2.2),
    Target("tutorial, 10", JAX, ONE, 0.8),
    *(Target(case, JAX, ONE, 1.1) for case in ("tutorial, 256", "tutorial, 1,024")),
    Target("784-800-800-10, 128", TORCH, ONE, 1.0),
    Target("tutorial, 10", DDP, TWO, 12),
    Target("tutorial, 256", DDP, TWO, 5),
    *(Target(case, DDP, TWO, 2) for case in CASES if case not in ("tutorial, 10", "tutorial, 256")),
    Target("tutorial, 10", FOUR_SHARDS, ONE, 1.35, at_most=True),
    *(
        Target(case, FOUR_SHARDS, ONE, 1.1, at_most=True)
        for case in ("tutorial, 256", "tutorial, 1,024", "784-256-128-10, 128", "784-800-800-10, 128")
    ),
    *(Target(case, ONE, TWO, 1.8) for case in ("tutorial, 256", "tutorial, 1,024", "784-256-128-10, 1,024")),
    *(Target(case, FOUR, TWO, 1.15, at_most=True) for case in CASES),
    Target("tutorial, 10", "limit", ONE, 0.3),
    *(Target(case, "limit", ONE, 0.5) for case in ("tutorial, 256", "tutorial, 1,024", "784-256-128-10, 1,024")),
]
# What the guard allows: less than what is wanted, since machines differ and are noisy.
GUARDED = [
    Target("tutorial, 10", TORCH, FOUR_SHARDS, 1.7),
    Target("tutorial, 10", TORCH, PORTABLE, 0.8),
    Target("tutorial, 256", TORCH, FOUR_SHARDS, 1.0),
    Target("tutorial, 256", PORTABLE, NATIVE64, 2, at_most=True),
]


class Worker:
    """The processes of one way, which train when they are asked to."""

    def __init__(self, way: str, case: str) -> None:
        ranks, launcher = WAYS[way][1:]
        command = [sys.executable, __file__, "--worker", way, case]
        if launcher == "mpirun":
            command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), *command]
        elif launcher:
            command = [sys.executable, "-m", launcher, "--standalone", f"--nproc-per-node={ranks}", *command[1:]]
        env = os.environ | {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        env |= {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore", "DISTNET_PINNED": "" if launcher else "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        took = self.steps(3)
        self.count = max(3, round(ROUND * 1e6 / self.steps(max(3, round(0.05e6 / took)))))

    def steps(self, count: int) -> float:
        """µs a step of so many."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(count, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End them."""
        self.process.communicate("0\n", timeout=60)


def work(way: str, case: str) -> None:
    """What a worker's process does, on every rank: rank 0 reads counts and prints times."""
    if os.environ.get("DISTNET_PINNED") and sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    peer = WAYS[way].peer(CASES[case])

    def read() -> int:
        return int(sys.stdin.readline() or 0)

    first = int(os.environ.get("PMI_RANK") or os.environ.get("RANK") or 0) == 0
    while count := peer.agree(read):
        took = peer.steps(count)
        if first:
            print(took, flush=True)


def measure(case: str, ways: list[str], rounds: int) -> dict[str, list[float]]:
    """µs a step of each way, round by round in turn."""
    workers = {way: Worker(way, case) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, worker in workers.items():
            times[way].append(worker.steps(worker.count))
    for worker in workers.values():
        worker.close()
    return times


def compared(target: Target, times: dict[str, list[float]]) -> Row:
    """What is wanted, and what was reached of it: the median over rounds."""
    reached = statistics.median(a / b for a, b in zip(times[target.way], times[target.base], strict=True))
    return Row(target.case, f"{target.way} / {target.base}", target.wanted, reached, target.at_most)


def whole_runs(seeds: int) -> list[Row]:
    """Ratios of whole runs: to a given accuracy from so many seeds, to the first step, and of memory."""
    seconds = accuracy.measure(seeds)
    first_step, torch = startup.measure(4, 5)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    preset = "mnist preset"
    return [
        *(
            Row(preset, f"seconds to 98 %, {name} / {ours}", wanted, median[name] / median[ours])
            for ours in ("portable, 2 ranks", "native, 2 ranks")
            for name, wanted in (("PyTorch DDP, 2 ranks", 2), ("scikit-learn", 1.5))
        ),
        Row(
            preset,
            "import of torch / mpirun to first step, 4 ranks",
            1,
            statistics.median(torch) / statistics.median(first_step),
        ),
        Row(preset, "memory, PyTorch DDP / distnet, 4 ranks", 3, memory.of_ddp(4) / memory.of_distnet(4)),
    ]


def guard(rounds: int) -> int:
    """Status 1 where a guarded ratio isn't reached."""
    status = 0
    for case in dict.fromkeys(target.case for target in GUARDED):
        guarded = [target for target in GUARDED if target.case == case]
        times = measure(case, list({way for target in guarded for way in (target.way, target.base)}), rounds)
        for row in (compared(target, times) for target in guarded):
            print(row, flush=True)
            status |= not row.is_met
    return status


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5, help="of the runs to 98 %%")
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return 0
    if options.guard:
        return guard(options.rounds)
    found: dict[str, Any] = {}
    for case in options.case or CASES:
        found[case] = measure(case, options.way or list(WAYS), options.rounds)
        print(f"{case}:")
        for way, times in found[case].items():
            print(
                f"  {way:22} {statistics.median(times):9,.0f} µs ({min(times):,.0f} to {max(times):,.0f})", flush=True
            )
    rows = [
        compared(target, found[target.case])
        for target in TARGETS
        if found.get(target.case, {}).keys() >= {target.way, target.base}
    ]
    is_complete = not (options.case or options.way)
    if is_complete:
        rows += whole_runs(options.seeds)
    for row in rows:
        print(row)
    if is_complete:
        compare_docs.write({"about": compare_docs.about(options.rounds), "steps": found, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
