"""From `mpirun` to the first step, beside the import of torch: python benchmarks/startup.py [ranks] [rounds].

Runs the main job as `mpirun -n RANKS python -m distnet.train` does, and stops every rank where its first
step would begin. DISTNET_DATA has to name real MNIST.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import blas_kernel  # noqa: F401 - for the processes that this starts


def first_step(started: float) -> None:
    """The main job up to its first step; rank 0 prints how long after `started` that is."""
    from distnet.runtime import command, failure

    failure.install_hooks()
    from distnet import train
    from distnet.training.trainer import Trainer

    def arrived(self: Trainer, *ignored: object) -> Trainer:
        self.world.node_barrier()
        if self.world.rank == 0:
            print(time.time() - started, flush=True)
        self.world.node_barrier()
        sys.stdout.flush()
        os._exit(0)

    Trainer.run = arrived  # type: ignore[assignment]
    sys.argv = ["train", "--quiet"]
    command.run(train.main)


def measure(ranks: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds from mpirun to the first step, and of the import of torch, by turns."""
    ours, torch = [], []
    for _ in range(rounds):
        mpirun = str(Path(sys.executable).with_name("mpirun"))
        command = [mpirun, "-n", str(ranks), sys.executable, __file__, "--first-step", str(time.time())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        ours.append(float(done.stdout.split()[0]))
        begin = time.perf_counter()
        if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0:
            torch.append(time.perf_counter() - begin)
    return ours, torch


def main() -> None:
    """Print medians."""
    ranks, rounds = int(sys.argv[1] if len(sys.argv) > 1 else 4), int(sys.argv[2] if len(sys.argv) > 2 else 7)
    ours, torch = measure(ranks, rounds)
    for name, seconds in ((f"mpirun to first step, {ranks} ranks", ours), ("import torch alone", torch)):
        if seconds:
            print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    if "--first-step" in sys.argv:
        first_step(float(sys.argv[2]))
    else:
        main()
