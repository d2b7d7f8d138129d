"""A short training, together and as single processes, and a look at the memory that ranks share."""

import time
from typing import NamedTuple

import numpy as np

from distnet.datasets.dataset import shared_split
from distnet.datasets.loading import SYNTHETIC_TRAIN_SEED
from distnet.datasets.synthetic import synthetic_digits
from distnet.nn.model import Model
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.parameters import initial_parameters, parameters_sha256
from distnet.parallel.world import World
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

# A core of 2026 takes half a second for each of two trainings. The last mini-batch of an epoch is a short one.
SAMPLES, BATCH_SIZE, EPOCHS = 600, 128, 50
PIXELS, CLASSES = 784, 10
SIZES = (PIXELS, 64, 32, CLASSES)
# Of the trained parameters, on every machine. `python tests/golden.py --write` updates it.
SHA256 = "427934e741615fcf98e4c036fd1dc62f06c8815236bc03c9569d945eb56fc5ec"


class Digests(NamedTuple):
    """sha256 of one rank's parameters after training with all others, and as a single process."""

    together: str
    alone: str


def train_both_ways(world: World) -> tuple[list[Digests], float, float]:
    """The digests of each rank, in their order; seconds of training together, and alone, on rank 0. Collective.

    Every rank also trains as a single process, since hosts can differ. Raises InputError if `find_deviation` does not
    return "" on every rank.
    """
    images, labels = synthetic_digits(SAMPLES, SYNTHETIC_TRAIN_SEED)
    X, Y = images.reshape(SAMPLES, -1) / 256.0, np.eye(CLASSES)[labels]
    model = Model(SIZES, "gelu", initial_parameters(SIZES, "gelu", 0, X.dtype), arithmetic="portable")
    config = TrainingConfig(0.002, BATCH_SIZE, Hyperparameters("adam"))

    def train(where: World) -> tuple[str, float]:
        trainer = Trainer(where, model, Splits(shared_split(where, X, Y, X.dtype)), config)
        begin = time.perf_counter()
        trainer.run(EPOCHS, lambda epoch: None)
        seconds = time.perf_counter() - begin
        return parameters_sha256(trainer.close()), seconds

    together, seconds = train(world)
    alone, seconds_alone = train(World())
    world.on_root(lambda: None)  # a rank that waits here leaves its core to those that still train
    digests = Digests(together, alone)
    return world.comm.allgather(digests) if world.comm else [digests], seconds, seconds_alone


def is_memory_shared(world: World) -> bool:
    """Whether every rank reads what the others of its node write to shared memory. Collective."""
    array = world.shared((world.node_size,), np.int64)
    array[world.node_rank] = world.node_rank + 1
    world.node_barrier()
    differences = world.total(np.array([(array != np.arange(1, world.node_size + 1)).sum()], np.int64))
    world.node_barrier()
    return not differences[0]
