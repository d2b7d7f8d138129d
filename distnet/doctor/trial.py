"""A short training, together and as single processes, and a look at the memory that ranks share."""

import hashlib
import time
from typing import NamedTuple

import numpy as np

from distnet.config.options import Config
from distnet.datasets.dataset import shared_split
from distnet.datasets.loading import SYNTHETIC_TRAIN_SEED
from distnet.datasets.synthetic import synthetic_digits
from distnet.nn.model import Model
from distnet.nn.parameters import initial_parameters, parameter_count
from distnet.parallel.shards import default_shards
from distnet.parallel.world import World
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

# Constant, so that digests of two machines can be compared. A core of 2026 takes a second for each of two trainings.
SAMPLES, EPOCHS = 600, 100  # the last mini-batch of an epoch is a short one
PIXELS, CLASSES = 784, 10
SIZES = (PIXELS, *Config.hidden, CLASSES)
PARAMETERS = parameter_count(SIZES)


class Digests(NamedTuple):
    """sha256 of one rank's parameters after training with all others, and as a single process."""

    together: str
    alone: str


def train_both_ways(world: World) -> tuple[list[Digests], float, float]:
    """The digests of each rank, in their order; seconds of training together, and alone, on rank 0. Collective.

    Every rank also trains as a single process, since hosts can differ.
    """
    images, labels = synthetic_digits(SAMPLES, SYNTHETIC_TRAIN_SEED)
    X = (images.reshape(SAMPLES, -1) / np.float32(255)).astype(np.float32)
    Y = np.eye(CLASSES, dtype=np.float32)[labels]
    model = Model(SIZES, Config.activation, initial_parameters(SIZES, Config.activation, Config.seed, X.dtype))
    config = TrainingConfig(Config().learning_rate, Config.batch_size, shards=default_shards(world.size))

    def train(where: World) -> tuple[str, float]:
        trainer = Trainer(where, model, Splits(shared_split(where, X, Y, X.dtype)), config)
        begin = time.perf_counter()
        trainer.run(EPOCHS, lambda epoch: None)
        seconds = time.perf_counter() - begin
        return hashlib.sha256(trainer.close().data).hexdigest(), seconds

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
