"""The exchange beside MPI_Allreduce: mpirun -n 2 python benchmarks/exchange.py [--rounds 9].

Measures in one run, medians of alternating rounds, for each number of float32 parameters:
(a) MPI_Allreduce of the gradients, then the same update on every rank; (b) reduce-scatter of the shards'
gradients, update of the own slice, allgather. Each rank has one shard, so that both add the same rows. The
update is plain SGD's on gradients that backprop has scaled: one subtraction.
Rank 0 prints a table and, with --json FILE, writes it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from mpi4py import MPI

from distnet.nn.optimizers import Hyperparameters, Optimizer
from distnet.parallel.exchange import Exchange
from distnet.parallel.launched import launched_world
from distnet.runtime.arrays import aligned_zeros

SIZES = (52_510, 1_000_000, 10_000_000)


def allreduce_and_update(comm: MPI.Intracomm, count: int) -> Callable[[], None]:
    """What a data-parallel trainer does that keeps a replica on every rank."""
    parameters, gradients = aligned_zeros((count,), np.float32), aligned_zeros((count,), np.float32)
    optimizer = Optimizer(parameters, [], Hyperparameters())

    def step() -> None:
        comm.Allreduce(MPI.IN_PLACE, gradients)
        optimizer.update(gradients, 1, 1)

    return step


def main() -> None:
    """Collective: every rank runs it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = launched_world()
    comm = MPI.COMM_WORLD
    rows = []
    for count in SIZES:
        exchange = Exchange(world, np.zeros(count, np.float32), world.size)
        optimizer = Optimizer(exchange.slice, [], Hyperparameters())

        def step(exchange: Exchange = exchange, optimizer: Optimizer = optimizer) -> None:
            optimizer.update(exchange.reduce_scatter(), 1, 1)
            exchange.allgather()

        steps = {"allreduce": allreduce_and_update(comm, count), "exchange": step}
        times: dict[str, list[float]] = {name: [] for name in steps}
        repeats = max(3, 40_000_000 // count)
        for number in range(options.rounds + 1):
            for name, each in steps.items():
                comm.Barrier()
                begin = time.perf_counter()
                for _ in range(repeats):
                    each()
                comm.Barrier()
                if number:
                    times[name].append((time.perf_counter() - begin) / repeats * 1e6)
        ratio = statistics.median(a / b for a, b in zip(times["allreduce"], times["exchange"], strict=True))
        rows.append({"parameters": count, "ratio": ratio} | {k: statistics.median(v) for k, v in times.items()})
        exchange.close()
    if world.rank == 0:
        print(f"{world.size} ranks on {world.nodes} nodes, {world.library}, {options.rounds} rounds, µs, medians")
        print(f"{'parameters':>12} {'Allreduce + update':>20} {'exchange':>10} {'ratio':>7}")
        for row in rows:
            print("{parameters:12,} {allreduce:20,.0f} {exchange:10,.0f} {ratio:7.2f}".format(**row))
        if options.json:
            options.json.write_text(json.dumps({"ranks": world.size, "node_sizes": world.node_sizes, "rows": rows}))


if __name__ == "__main__":
    main()
