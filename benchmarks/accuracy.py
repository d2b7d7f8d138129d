"""Seconds of training until 98 % of real MNIST's test set are right: python benchmarks/accuracy.py [--seeds 3].

The mnist preset's network and mini-batch, plain SGD at a constant rate of 0.1: distnet on two ranks, PyTorch DDP
over gloo on two, both with PyTorch's initial weights, and scikit-learn with its own. Each has seeds of its own.
Evaluation isn't counted. DISTNET_DATA has to name real MNIST.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from threadpoolctl import threadpool_limits

from distnet.config.options import Config
from distnet.datasets.loading import load_mnist

WANTED, MOST_EPOCHS = 0.98, 40
LEARNING_RATE = Config().learning_rate


def seconds_of_distnet(arithmetic: str, seed: int) -> float:
    """By the command, on two ranks."""
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "metrics.jsonl")
        options = {
            "--dataset": "mnist",
            "--arithmetic": arithmetic,
            "--learning-rate": LEARNING_RATE,
            "--initialisation": "torch",
            "--schedule": "constant",
            "--weight-decay": 0,
            "--label-smoothing": 0,
            "--epochs": MOST_EPOCHS,
            "--seed": seed,
            "--metrics": metrics,
        }
        words = [str(word) for option in options.items() for word in option]
        command = [mpirun, "-n", "2", sys.executable, "-m", "distnet.train", "--quiet", *words]
        subprocess.run(command, check=True, capture_output=True)
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return until_wanted([(each["seconds"], each["test_accuracy"]) for each in records])


def until_wanted(epochs: list[tuple[float, float]]) -> float:
    """The sum of seconds up to the first epoch that is good enough; infinite where none is."""
    total = 0.0
    for seconds, accuracy in epochs:
        total += seconds
        if accuracy >= WANTED:
            return total
    return float("inf")


def seconds_of_scikit_learn(seed: int) -> float:
    """MLPClassifier, an epoch a call of partial_fit over the mini-batches that fit would make."""
    from sklearn.neural_network import MLPClassifier

    config = Config()
    X, Y, X_test, Y_test = load_mnist(dtype=np.float32)
    y, y_test = Y.argmax(axis=1), Y_test.argmax(axis=1)
    model = MLPClassifier(
        config.hidden,
        solver="sgd",
        alpha=0,
        batch_size=config.batch_size,
        learning_rate_init=LEARNING_RATE,
        momentum=0,
        nesterovs_momentum=False,
        max_iter=1,
        warm_start=True,
        random_state=seed,
    )
    epochs: list[tuple[float, float]] = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(epochs) < MOST_EPOCHS and not (epochs and epochs[-1][1] >= WANTED):
            begin = time.perf_counter()
            model.fit(X, y)
            took = time.perf_counter() - begin
            epochs.append((took, float(np.mean(model.predict(X_test) == y_test))))
    return until_wanted(epochs)


def ddp(seed: int) -> None:
    """On each of DDP's ranks; rank 0 prints the seconds."""
    import peers
    import torch
    import torch.distributed as dist

    config = Config()
    X, Y, X_test, Y_test = (torch.from_numpy(each) for each in load_mnist(dtype=np.float32))
    y, y_test = Y.argmax(1), Y_test.argmax(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    network = peers.torch_network(peers.Case((784, *config.hidden, 10), "relu", config.batch_size), seed)
    model = torch.nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_function = torch.nn.CrossEntropyLoss()
    epochs: list[tuple[float, float]] = []
    for number in range(MOST_EPOCHS):
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(1000 * seed + number))
        begin = time.perf_counter()
        for first in range(0, len(X), config.batch_size):
            rows = order[first + rank : first + config.batch_size : size]
            optimizer.zero_grad()
            loss_function(model(X[rows]), y[rows]).backward()
            optimizer.step()
        took = time.perf_counter() - begin
        with torch.no_grad():
            epochs.append((took, float((network(X_test).argmax(1) == y_test).float().mean())))
        if epochs[-1][1] >= WANTED:
            break
    if rank == 0:
        print(until_wanted(epochs))


def seconds_of_ddp(seed: int) -> float:
    """By torch.distributed.run, on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    done = subprocess.run([*command, "--ddp", str(seed)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(seeds: int) -> dict[str, list[float]]:
    """Seconds of each, seed by seed in turn."""
    functions: dict[str, Callable[[int], float]] = {
        "portable, 2 ranks": partial(seconds_of_distnet, "portable"),
        "native, 2 ranks": partial(seconds_of_distnet, "native"),
        "PyTorch DDP, 2 ranks": seconds_of_ddp,
        "scikit-learn": seconds_of_scikit_learn,
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for seed in range(seeds):
        for name, function in functions.items():
            times[name].append(function(seed))
    return times


def main() -> None:
    """Print the seconds of every seed and the median."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ddp", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ddp is not None:
        ddp(options.ddp)
        return
    for name, times in measure(options.seeds).items():
        each = ", ".join(f"{seconds:.1f}" for seconds in times)
        print(f"{name}: {statistics.median(times):.1f} s to {WANTED:.0%} ({each})")


if __name__ == "__main__":
    main()
