"""What checkpoints cost: mpirun -n 2 python benchmarks/checkpoint.py [--rounds 7] [--epochs 3].

Trains the mnist preset on real MNIST (DISTNET_DATA has to name it), in one run and by turns without
checkpoints and with one an epoch, the default; from before the first step until the last checkpoint is on
the disk. Then what every step costs to be watched for stalls, and to agree on signals. Rank 0 prints.
"""

import argparse
import faulthandler
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np

from distnet.config.options import Config
from distnet.datasets.dataset import Dataset
from distnet.datasets.loading import load
from distnet.datasets.options import DataOptions
from distnet.nn.model import Model
from distnet.nn.parameters import initial_parameters
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.training.callbacks import train_with
from distnet.training.checkpoint import Checkpoint, write_checkpoint
from distnet.training.checkpointer import Checkpointer, CheckpointPlan
from distnet.training.configuration import TrainingConfig
from distnet.training.provenance import Sessions
from distnet.training.trainer import Splits, Trainer

STEPS = 469  # an epoch of 60,000 samples in mini-batches of 128


def prepared(world: World, config: Config, data: Dataset) -> Trainer:
    """A trainer before its first step."""
    sizes = (data.train.features, *config.hidden, data.train.targets.shape[1])
    initial = initial_parameters(sizes, config.activation, config.seed, config.dtype, config.initialisation)
    model = Model(sizes, config.activation, initial, arithmetic=config.arithmetic)
    training = TrainingConfig(config.learning_rate, config.batch_size, seed=config.seed)
    return Trainer(world, model, Splits(data.train, data.test), training)


def seconds(world: World, config: Config, data: Dataset) -> float:
    """How long a run takes, with checkpoints where the configuration names a folder. Collective."""
    trainer = prepared(world, config, data)
    saver = None
    if config.checkpoint_dir:
        plan = CheckpointPlan(config.checkpoint_dir, config.checkpoint_every, config.keep)
        saver = Checkpointer(world, plan, config.to_dict(), data.fingerprint, Sessions(world))
    world.on_root(lambda: None)
    begin = time.perf_counter()
    train_with(trainer, config.epochs, [saver] if saver else [])
    if saver:
        saver.finish_complete(trainer, "")
    world.on_root(lambda: None)
    took = time.perf_counter() - begin
    trainer.close()
    return took


def nanoseconds(call: Callable[[], object], repeats: int = 20_000) -> float:
    """The fastest of nine rounds, a call."""
    rounds = []
    for _ in range(9):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        rounds.append((time.perf_counter() - begin) / repeats * 1e9)
    return min(rounds)


def tell_parts(world: World, data: Dataset, folder: Path, step_seconds: float) -> None:
    """Print what a checkpoint takes, and what is done for every step beside training. Collective."""
    trainer = prepared(world, Config(), data)
    plan = CheckpointPlan(folder, Config.checkpoint_every, Config.keep)
    requests = np.zeros((2, 9), np.float32)[:, 8]

    def request() -> None:
        requests.fill(0)
        requests[0] = trainer.exchange.request()

    def look() -> None:
        faulthandler.dump_traceback_later(min(310.0, threading.TIMEOUT_MAX), exit=True)
        trainer.global_step  # noqa: B018 - what the watch reads

    in_the_loop, in_the_thread = [], []
    for trainer.epochs_done in range(1, 16):
        saver = Checkpointer(world, plan, Config().to_dict(), data.fingerprint, Sessions(world))
        saver.start(trainer)
        begin = time.perf_counter()
        saver.save(trainer)
        in_the_loop.append(time.perf_counter() - begin)
        saver.finish_complete(trainer, "")  # waits for the disk
        state = Checkpoint({}, trainer.state())
        begin = time.process_time()
        world.on_root(lambda: write_checkpoint(folder / "checkpoint-0000000000.npz", state, 3))  # noqa: B023
        in_the_thread.append(time.process_time() - begin)
    trainer.epochs_done = 0
    nothing = nanoseconds(lambda: None)
    agreement = nanoseconds(lambda: saver.after_step(trainer)) + nanoseconds(request) - 2 * nothing
    a_look = nanoseconds(look, 500) - nothing
    faulthandler.cancel_dump_traceback_later()
    if world.rank == 0:
        print(
            f"a checkpoint: {min(in_the_loop) * 1000:.2f} ms in the loop and {min(in_the_thread) * 1000:.2f} ms of "
            f"the processor in rank 0's thread, after {STEPS * step_seconds * 1000:.0f} ms of training"
        )
        print(f"agreement on signals: {agreement:.0f} ns a step, {agreement / step_seconds / 1e7:.3f} % of it")
        print(
            f"stall watch: {a_look / 1000:.0f} µs a look, one a second: "
            f"{a_look * step_seconds:.1f} ns a step of {step_seconds * 1e6:.0f} µs"
        )
    trainer.close()


def main() -> None:
    """Collective: every rank runs it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    world = launched_world()
    with tempfile.TemporaryDirectory(dir=".") as name:  # on a disk; /tmp may be memory
        folder = Path(name)
        plain = Config(epochs=options.epochs)
        saving = Config(epochs=options.epochs, checkpoint_dir=folder)
        data = load(world, DataOptions("mnist", plain.data_dir), plain.dtype)
        times: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(options.rounds + 1):
            turns = [("without", plain), ("with", saving)]
            for kind, config in turns if number % 2 else reversed(turns):
                took = seconds(world, config, data)
                if number:
                    times[kind].append(took)
        median = {kind: statistics.median(each) for kind, each in times.items()}
        ratio = statistics.median(b / a for a, b in zip(times["without"], times["with"], strict=True))
        if world.rank == 0:
            print(f"{world.size} ranks, {options.epochs} epochs of the mnist preset, {options.rounds} rounds, medians")
            print(f"without checkpoints {median['without']:.3f} s, with {median['with']:.3f} s, ratio {ratio:.4f}")
            print(f"  {[f'{b / a:.3f}' for a, b in zip(times['without'], times['with'], strict=True)]}")
        tell_parts(world, data, folder, median["without"] / (options.epochs * STEPS))


if __name__ == "__main__":
    main()
