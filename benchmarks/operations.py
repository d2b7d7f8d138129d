"""Why some operations of a step are written as they are: python benchmarks/operations.py [--rounds 15].

Times each operation in two ways, in alternating rounds in one process, and the barriers of a node under the mpirun
beside this Python. Writes the medians into docs/performance.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
import results
from threadpoolctl import threadpool_limits

from distnet.nn.arithmetic import prepare
from distnet.nn.model import Model
from distnet.nn.parameters import initial_parameters, parameter_count
from distnet.portable import elementary
from distnet.portable.grids import Rounding
from distnet.runtime.arrays import aligned_zeros

TUTORIAL = (784, *[50] * 6, 10)
LEAST_SECONDS = 0.02  # per way and round
BARRIERS = 2_000  # per round
Call = Callable[[], object]


def sigmoids(rows: int) -> tuple[Call, Call]:
    """The portable sigmoid of a hidden layer of the tutorial's network, and that of NumPy's exponential."""
    z = np.random.default_rng(0).standard_normal((rows, 50))
    out, one = np.empty(z.shape), np.array(1.0)
    scratch = elementary.allocate(z)

    def native() -> None:
        np.negative(z, out)
        np.exp(out, out)
        np.add(out, one, out)
        np.reciprocal(out, out)

    return lambda: elementary.sigmoid(z, out, scratch), native


def roundings(rows: int) -> tuple[Call, Call]:
    """Rounding the deltas of such a layer row by row, and one element-wise operation on them."""
    deltas = np.random.default_rng(0).standard_normal((rows, 50))
    out = np.empty(deltas.shape)
    return Rounding(deltas, 1, 23, np.empty(deltas.size)), lambda: np.multiply(deltas, deltas, out)


def weights() -> tuple[Call, Call]:
    """Rounding all weights of the tutorial's network, and one element-wise operation on its parameters."""
    parameters = aligned_zeros((parameter_count(TUTORIAL),), np.float64)
    parameters[:] = initial_parameters(TUTORIAL, "sigmoid", 0, "float64")
    stages = prepare(Model(TUTORIAL, "sigmoid", parameters, arithmetic="portable", input_exponent=3)).stages
    out = np.empty(parameters.shape)
    return lambda: [stage() for stage in stages], lambda: np.multiply(parameters, parameters, out)


def constants() -> tuple[Call, Call]:
    """A constant as a Python number, and as a zero-dimensional array."""
    x, half = np.ones((10, 50)), np.array(0.5)
    return lambda: np.multiply(x, 0.5, x), lambda: np.multiply(x, half, x)


def paddings(shards: int, rows: int) -> tuple[Call, Call]:
    """An operation on 50 of 64 columns, and on all of them."""
    padded = np.ones((shards, rows, 64), np.float32)
    columns = padded[..., :50]
    return lambda: np.negative(columns, columns), lambda: np.negative(padded, padded)


def axes() -> tuple[Call, Call]:
    """Maxima over ten classes: the last axis, and the first of two."""
    by_row, by_class = np.ones((4, 256, 10), np.float32), np.ones((4, 10, 256), np.float32)
    last, first = np.empty((4, 256), np.float32), np.empty((4, 256), np.float32)
    return lambda: np.maximum.reduce(by_row, axis=2, out=last), lambda: np.maximum.reduce(by_class, axis=1, out=first)


def build_pairs() -> dict[tuple[str, str, str], tuple[Call, Call]]:
    """Operation, one way and another as text -> both ways."""
    return {
        ("sigmoid of 10 × 50", "portable", "NumPy's `exp`"): sigmoids(10),
        ("sigmoid of 256 × 50", "portable", "NumPy's `exp`"): sigmoids(256),
        ("rounding of 10 × 50 deltas", "by rows", "one multiplication"): roundings(10),
        ("rounding of 256 × 50 deltas", "by rows", "one multiplication"): roundings(256),
        ("rounding of all weights of the tutorial's network", "by neurons", "one multiplication"): weights(),
        ("multiplication of 10 × 50", "by a Python number", "by a zero-dimensional array"): constants(),
        ("negation of 4 × 3 × 50", "50 of 64 columns", "64 columns"): paddings(4, 3),
        ("negation of 1 × 256 × 50", "50 of 64 columns", "64 columns"): paddings(1, 256),
        ("maxima of 4 × 256 rows of 10 classes", "classes last", "classes before rows"): axes(),
    }


def time_call(call: Call, count: int) -> float:
    """µs per call."""
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count * 1e6


def measure_pair(pair: tuple[Call, Call], rounds: int) -> list[float]:
    """Median µs of both ways, which take turns."""
    times: list[list[float]] = [[], []]
    counts = [max(1, int(LEAST_SECONDS / (time_call(call, 100) / 1e6))) for call in pair]
    for _ in range(rounds):
        for call, count, each in zip(pair, counts, times, strict=True):
            each.append(time_call(call, count))
    return [statistics.median(each) for each in times]


def print_barriers(rounds: int) -> None:
    """Collective: rank 0 prints median µs of `World.node_barrier` and MPI_Barrier, as JSON."""
    from mpi4py import MPI

    from distnet.parallel.launched import launched_world

    world, comm = launched_world(), MPI.COMM_WORLD
    ways = ((comm.Barrier, BARRIERS // 20), (world.node_barrier, BARRIERS))  # MPICH's can take milliseconds
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for (call, count), each in zip(ways, times, strict=True):
            comm.Barrier()
            each.append(time_call(call, count))
    if world.rank == 0:
        print(json.dumps([statistics.median(each) for each in times]))


def measure_barriers(ranks: int, rounds: int) -> list[float]:
    """See `print_barriers`."""
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    command = [mpirun, "-n", str(ranks), sys.executable, __file__, "--barriers", "--rounds", str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    times: list[float] = json.loads(done.stdout)
    return times


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--barriers", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.barriers:
        print_barriers(options.rounds)
        return
    with threadpool_limits(1, user_api="blas"):
        measured = {names: measure_pair(pair, options.rounds) for names, pair in build_pairs().items()}
    for ranks in (2, 4):
        names = (f"barrier of {ranks} ranks on 2 cores", "MPICH's `MPI_Barrier`", "`World.node_barrier`")
        measured[names] = measure_barriers(ranks, options.rounds)
    text = "\n".join(
        ["| operation | one way | µs | another way | µs |", "| --- | --- | ---: | --- | ---: |"]
        + [
            f"| {operation} | {one} | {figure(first)} | {other} | {figure(second)} |"
            for (operation, one, other), (first, second) in measured.items()
        ]
    )
    print(text)
    results.fill(results.RESULTS.parent / "performance.md", {"operations": text}, "operations.py")


def figure(microseconds: float) -> str:
    """Two digits below 10, else whole."""
    return f"{microseconds:.2g}" if microseconds < 10 else f"{microseconds:,.0f}"


if __name__ == "__main__":
    main()
