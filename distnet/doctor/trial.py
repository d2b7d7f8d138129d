"""A short training and a short exchange: whether this machine keeps the bits, and how fast ranks exchange."""

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from distnet.config.options import Config
from distnet.datasets.dataset import shared_split
from distnet.datasets.loading import SYNTHETIC_TRAIN_SEED
from distnet.datasets.synthetic import synthetic_digits
from distnet.nn.model import Model
from distnet.nn.optimizers import Hyperparameters, Optimizer
from distnet.nn.parameters import initial_parameters, parameter_count
from distnet.parallel.exchange import Exchange
from distnet.parallel.shards import default_shards
from distnet.parallel.world import World
from distnet.runtime.arrays import aligned_zeros
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

# The same work everywhere, so that digests of two machines can be compared. A core of 2026 takes a second for it, and
# does it twice.
SAMPLES, EPOCHS = 600, 100  # the last mini-batch of an epoch is a short one
PIXELS, CLASSES = 784, 10
SIZES = (PIXELS, *Config.hidden, CLASSES)
PARAMETERS = parameter_count(SIZES)
ROUNDS, ROUND = 7, 0.05  # seconds of a round
ENOUGH = 2.0  # seconds after which no other round begins


class Bits(NamedTuple):
    """Digests of the parameters that one rank got together with all others, and as a single process."""

    together: str
    alone: str


class Speed(NamedTuple):
    """Seconds of a step of each kind, medians."""

    exchange: float
    allreduce: float


def bits(world: World) -> tuple[list[Bits], float, float]:
    """Each rank's digests, in their order, and rank 0's seconds of training together and alone. Collective.

    Every rank is a single process in its turn, since hosts can differ.
    """
    shards = default_shards(world.size)
    images, labels = synthetic_digits(SAMPLES, SYNTHETIC_TRAIN_SEED)
    X = (images.reshape(SAMPLES, -1) / np.float32(255)).astype(np.float32)
    Y = np.eye(CLASSES, dtype=np.float32)[labels]
    initial = initial_parameters(SIZES, Config.activation, Config.seed, X.dtype)
    model = Model(SIZES, Config.activation, initial)

    def trained(where: World) -> tuple[str, float]:
        split = shared_split(where, X, Y, X.dtype)
        config = TrainingConfig(Config().learning_rate, Config.batch_size, shards=shards)
        trainer = Trainer(where, model, Splits(split), config)
        begin = time.perf_counter()
        trainer.run(EPOCHS, lambda epoch: None)
        seconds = time.perf_counter() - begin
        digest = hashlib.sha256(trainer.close().data).hexdigest()
        return digest, seconds

    together, seconds = trained(world)
    alone, seconds_alone = trained(World())
    world.on_root(lambda: None)  # who waits here leaves the core to those that still train
    mine = Bits(together, alone)
    return world.comm.allgather(mine) if world.comm else [mine], seconds, seconds_alone


def speed(world: World) -> Speed:
    """The exchange of PARAMETERS float32, and MPI_Allreduce of as many, each with the update of plain SGD.

    Each rank has one shard, so that both add the same rows. There has to be an MPI. Collective.
    """
    comm = world.comm
    assert comm is not None
    gradients, total, replica = (aligned_zeros((PARAMETERS,), np.float32) for _ in range(3))
    exchange = Exchange(world, replica, world.size)
    on_slice, on_replica = (Optimizer(each, [], Hyperparameters()) for each in (exchange.slice, replica))

    def by_exchange() -> None:
        on_slice.update(exchange.reduce_scatter(), 1, 1)
        exchange.allgather()

    def by_allreduce() -> None:
        comm.Allreduce(gradients, total)
        on_replica.update(total, 1, 1)

    def measured(step: Callable[[], None], repeats: int) -> float:
        comm.Barrier()
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        comm.Barrier()
        return (time.perf_counter() - begin) / repeats

    steps = (by_exchange, by_allreduce)
    # Rank 0's clock decides for all of them.
    repeats = comm.bcast([max(1, int(ROUND / measured(step, 1))) for step in steps])
    times: list[list[float]] = [[], []]
    begin = time.perf_counter()
    for number in range(ROUNDS):
        if comm.bcast(number > 0 and time.perf_counter() - begin > ENOUGH):
            break
        for step, count, found in zip(steps, repeats, times, strict=True):
            found.append(measured(step, count))
    exchange.close()
    return Speed(statistics.median(times[0]), statistics.median(times[1]))


def shared_memory_works(world: World) -> bool:
    """Whether every rank sees what the others of its node write to memory that they share. Collective."""
    array = world.shared((world.node_size,), np.int64)
    array[world.node_rank] = world.node_rank + 1
    world.node_barrier()
    unseen = world.total(np.array([(array != np.arange(1, world.node_size + 1)).sum()], np.int64))
    world.node_barrier()
    return not unseen[0]
