"""The loop: for every mini-batch forward, backprop, reduce-scatter, update, allgather."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distnet.datasets import Split
from distnet.errors import input_error_on_every_rank
from distnet.evaluation import Evaluation, Scores
from distnet.exchange import Exchange
from distnet.functional import Array
from distnet.layers import layer_views, weight_runs
from distnet.optimizers import Hyperparameters, Optimizer, clipping
from distnet.propagation import Propagation
from distnet.shards import default_shards, real_rows, shard_rows
from distnet.world import World


class Epoch(NamedTuple):
    """What an epoch came to. number: from 1 up. loss: mean over its samples, each at its own step.

    seconds: of training alone, without the evaluation.
    """

    number: int
    loss: float
    samples: int
    seconds: float
    test: Scores | None


class Batch:
    """The memory and the place of this rank in mini-batches of `size` rows.

    own: the rank's shards. Its rows are a contiguous run of the mini-batch, since its shards are.
    """

    def __init__(
        self, sizes: Sequence[int], activation: str, parameters: Array, own: range, shards: int, size: int
    ) -> None:
        rows = shard_rows(size, shards)
        self.size = size
        self.rows = slice(min(own.start * rows, size), min(own.stop * rows, size))
        self.propagation = Propagation(
            sizes, activation, parameters, len(own), rows, [real_rows(size, rows, shard) for shard in own]
        )
        count = self.rows.stop - self.rows.start
        self.inputs = self.propagation.inputs[:count]
        self.targets = self.propagation.targets[:count]
        self.count = count


class Trainer:
    """A network in training on the ranks of a world.

    sizes: neurons a layer. initial: (N,) parameters to start from, the same on every rank. train, test:
    shared by the ranks of each node. hyperparameters: the rule that updates. shards: S, at least as many as
    ranks; None for the default.
    Collective: yes, the constructor and every method.
    """

    def __init__(
        self,
        world: World,
        sizes: Sequence[int],
        activation: str,
        initial: Array,
        train: Split,
        test: Split | None = None,
        *,
        learning_rate: float,
        batch_size: int,
        hyperparameters: Hyperparameters = Hyperparameters(),
        seed: int = 0,
        shards: int | None = None,
    ) -> None:
        self.world, self.train_set = world, train
        self.learning_rate, self.seed = learning_rate, seed
        self.shards = check_shards(shards, world.size)
        self.batch_size = min(batch_size, len(train.inputs))
        self.exchange = Exchange(world, initial, self.shards)
        parameters = self.exchange.parameters
        start = self.exchange.columns.start
        runs = [slice(run.start - start, run.stop - start) for run in weight_runs(sizes)]
        self.optimizer = Optimizer(self.exchange.slice, runs, hyperparameters)
        self.clip_norm = hyperparameters.clip_norm
        self.gradients = layer_views(self.exchange.gradients, sizes)
        samples = len(train.inputs)
        self.batches = {
            size: Batch(sizes, activation, parameters, self.exchange.own, self.shards, size)
            for size in {self.batch_size, samples % self.batch_size} - {0}
        }
        self.losses = np.zeros(samples)
        self.evaluation = Evaluation(world, sizes, activation, parameters, test) if test else None

    def step(self, samples: NDArray[np.int64], first: int) -> None:
        """One update from one mini-batch.

        samples: its rows in the training set. first: its place in the epoch.
        """
        batch = self.batches[len(samples)]
        propagation = batch.propagation
        own = samples[batch.rows]
        self.train_set.inputs.take(own, axis=0, out=batch.inputs, mode="clip")
        self.train_set.targets.take(own, axis=0, out=batch.targets, mode="clip")
        propagation.forward()
        propagation.backprop(self.gradients)
        gradient_sum = self.exchange.reduce_scatter()
        scale = 1 / batch.size
        if self.clip_norm is not None:
            scale = clipping(self.exchange.squared_norm(gradient_sum), scale, self.clip_norm)
        self.optimizer.update(gradient_sum, scale, self.learning_rate)
        self.exchange.allgather()
        place = first + batch.rows.start
        self.losses[place : place + batch.count] = propagation.losses()[: batch.count]

    def epoch(self, number: int, tutorial_loss: bool = False) -> Epoch:
        """Train for one pass over the samples, in the order that (seed, number) gives; then evaluate.

        number: from 1 up.
        """
        count = len(self.losses)
        start = time.perf_counter()
        order = np.random.default_rng([self.seed, number]).permutation(count)
        self.losses.fill(0)
        with np.errstate(over="ignore", divide="ignore"):  # saturated activations are exact limits
            for first in range(0, count, self.batch_size):
                self.step(order[first : first + self.batch_size], first)
        seconds = time.perf_counter() - start
        loss = float(self.world.total(self.losses).sum() / count)
        test = self.evaluation.scores(tutorial_loss) if self.evaluation else None
        return Epoch(number, loss, count, seconds, test)

    def run(self, epochs: int, on_epoch: Callable[[Epoch], None], tutorial_loss: bool = False) -> Array:
        """Train for `epochs` epochs, tell `on_epoch` of each, and return the parameters, (N,)."""
        # More threads than one round otherwise, and the ranks are there for the other cores.
        with threadpool_limits(1, user_api="blas"):
            for number in range(1, epochs + 1):
                on_epoch(self.epoch(number, tutorial_loss))
        return self.exchange.close()


def check_shards(shards: int | None, ranks: int) -> int:
    """The number of shards to use. Raises InputError where there are fewer than ranks."""
    if shards is None:
        return default_shards(ranks)
    if shards < ranks:
        raise input_error_on_every_rank(
            f"--shards {shards}: {ranks} ranks need a shard each; "
            f"use {ranks} shards or more, or {shards} ranks or fewer"
        )
    return shards
