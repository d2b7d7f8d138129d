"""Time a step beside eager PyTorch: python benchmarks/step.py [--guard] [--rounds 9].

One thread a process, the same networks, data, precision (float32) and plain SGD, alternating rounds in one
process, medians. Then, in processes of their own, the step on two ranks beside one. With --guard it ends with
status 1 where distnet has lost its place by more than noise explains. Needs torch (extra peers) and mpirun.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from distnet.datasets import Split, shared_split
from distnet.layers import initial_parameters
from distnet.trainer import Trainer
from distnet.world import World, launched_world

SAMPLES = 20_480
TUTORIAL, MNIST = (784, *[50] * 6, 10), (784, 256, 128, 10)
# name, sizes, activation, batch size, the share of PyTorch's time that may be used, and the one the guard allows
CASES = [
    ("tutorial, batch 10", TUTORIAL, "sigmoid", 10, 0.5, 0.6),
    ("tutorial, batch 256", TUTORIAL, "sigmoid", 256, None, 1.0),
    ("mnist preset, batch 128", MNIST, "relu", 128, 1.0, 1.3),
]
RANKS_CASE = ("mnist preset, batch 1024", MNIST, "relu", 1024)


def data(world: World) -> Split:
    """Random numbers in the shape of MNIST, shared. Collective."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((SAMPLES, 784), np.float32)
    return shared_split(world, X, np.eye(10, dtype=np.float32)[generator.integers(0, 10, SAMPLES)], np.float32)


def ours(
    world: World, split: Split, sizes: tuple[int, ...], activation: str, batch_size: int, shards: int
) -> Callable[[int], float]:
    """A function that takes so many steps and returns µs a step. Collective, as what it returns."""
    initial = initial_parameters(sizes, activation, 0, np.float32)
    trainer = Trainer(
        world, sizes, activation, initial, split, learning_rate=0.002, batch_size=batch_size, shards=shards
    )
    order = np.random.default_rng(1).permutation(SAMPLES)
    places = range(0, SAMPLES - batch_size + 1, batch_size)

    def steps(count: int) -> float:
        with np.errstate(over="ignore", divide="ignore"), threadpool_limits(1, user_api="blas"):
            world.node_barrier()
            begin = time.perf_counter()
            for number in range(count):
                first = places[number % len(places)]
                trainer.step(order[first : first + batch_size], first)
            return (time.perf_counter() - begin) / count * 1e6

    return steps


def eager_torch(sizes: tuple[int, ...], activation: str, batch_size: int) -> Callable[[int], float]:
    """The same for eager PyTorch, written as its tutorials write it."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}[activation]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [torch.nn.Linear(inputs, outputs), hidden()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    loss_function = torch.nn.CrossEntropyLoss()
    X, y = torch.randn(SAMPLES, 784), torch.randint(0, 10, (SAMPLES,))
    order = torch.randperm(SAMPLES)
    places = range(0, SAMPLES - batch_size + 1, batch_size)

    def steps(count: int) -> float:
        begin = time.perf_counter()
        for number in range(count):
            first = places[number % len(places)]
            rows = order[first : first + batch_size]
            optimizer.zero_grad()
            loss_function(model(X[rows]), y[rows]).backward()
            optimizer.step()
        return (time.perf_counter() - begin) / count * 1e6

    return steps


def alternate(functions: dict[str, Callable[[int], float]], count: int, rounds: int) -> dict[str, list[float]]:
    """µs a step of each, round by round in turn, after one round that isn't counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, steps in functions.items():
            taken = steps(count)
            if number:
                times[name].append(taken)
    return times


def told(times: list[float]) -> str:
    """The median and the spread, in µs."""
    return f"{statistics.median(times):7,.0f} ({min(times):,.0f} to {max(times):,.0f})"


def ranks_main(rounds: int) -> None:
    """On every rank of an mpirun: all ranks together beside rank 0 alone, in turn. Rank 0 prints JSON."""
    world = launched_world()
    _, sizes, activation, batch_size = RANKS_CASE
    together = ours(world, data(world), sizes, activation, batch_size, 4)
    alone = ours(World(), data(World()), sizes, activation, batch_size, 4) if world.rank == 0 else None
    times: dict[str, list[float]] = {"alone": [], "together": []}
    for number in range(rounds + 1):
        taken = world.on_root(lambda: alone(20) if alone else 0.0), together(20)
        if number:
            for key, value in zip(times, taken, strict=True):
                times[key].append(value)
    if world.rank == 0:
        print(json.dumps(times))


def main() -> int:
    """Print a table of medians; status 1 where the guard is crossed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--on-ranks", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.on_ranks:
        ranks_main(options.rounds)
        return 0
    status = 0
    world = World()
    split = data(world)
    print("µs a step, medians (spread)")
    for name, sizes, activation, batch_size, wanted, allowed in CASES:
        times = alternate(
            {
                "4 shards": ours(world, split, sizes, activation, batch_size, 4),
                "1 shard": ours(world, split, sizes, activation, batch_size, 1),
                "torch": eager_torch(sizes, activation, batch_size),
            },
            max(20, 3000 // batch_size),
            options.rounds,
        )
        ratio = statistics.median(a / b for a, b in zip(times["4 shards"], times["torch"], strict=True))
        print(f"{name}: " + ", ".join(f"{key} {told(value)}" for key, value in times.items()))
        print(f"  4 shards / torch {ratio:.2f}" + (f", wanted {wanted:g}" if wanted else ""), flush=True)
        if options.guard and ratio > allowed:
            print(f"  lost: more than {allowed:g}")
            status = 1
    mpirun = Path(sys.executable).with_name("mpirun")
    command = [
        str(mpirun),
        "-n",
        "2",
        sys.executable,
        __file__,
        "--on-ranks",
        "--rounds",
        str(options.rounds),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    times = json.loads(done.stdout)
    ratio = statistics.median(b / a for a, b in zip(times["alone"], times["together"], strict=True))
    print(f"{RANKS_CASE[0]}: 1 rank {told(times['alone'])}, 2 ranks {told(times['together'])}")
    print(f"  2 ranks / 1 rank {ratio:.2f}, wanted 0.6")
    return status


if __name__ == "__main__":
    sys.exit(main())
