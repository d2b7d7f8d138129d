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
        self.steps_per_epoch = -(-samples // self.batch_size)
        self.epochs_done = self.steps_done = 0
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
        scale, rate = 1 / batch.size, self.learning_rate
        if self.optimizer.linear:
            # To scale the few deltas spares a pass over all parameters.
            propagation.backprop(self.gradients, rate * scale)
            scale = rate = 1
        else:
            propagation.backprop(self.gradients)
        gradient_sum = self.exchange.reduce_scatter()
        if self.clip_norm is not None:
            scale = clipping(self.exchange.squared_norm(gradient_sum), scale, self.clip_norm)
        self.optimizer.update(gradient_sum, scale, rate)
        self.exchange.allgather()
        place = first + batch.rows.start
        self.losses[place : place + batch.count] = propagation.losses()[: batch.count]

    @property
    def global_step(self) -> int:
        """Steps taken since the run began, in all epochs."""
        return self.epochs_done * self.steps_per_epoch + self.steps_done

    def position(self) -> str:
        """Where the training stands, for people."""
        return f"in epoch {self.epochs_done + 1}, after step {self.steps_done} of {self.steps_per_epoch}"

    def epoch(self, on_step: Callable[[], bool], tutorial_loss: bool = False) -> Epoch | None:
        """Train to the end of a pass over the samples, in the order that (seed, epoch) gives; then evaluate.

        Returns None where `on_step` stopped it.
        """
        number, count = self.epochs_done + 1, len(self.losses)
        start = time.perf_counter()
        before = self.steps_done
        order = np.random.default_rng([self.seed, number]).permutation(count)
        if not before:
            self.losses.fill(0)
        with np.errstate(over="ignore", divide="ignore"):  # saturated activations are exact limits
            for first in range(before * self.batch_size, count, self.batch_size):
                self.step(order[first : first + self.batch_size], first)
                self.steps_done += 1
                if on_step():
                    return None
        seconds = time.perf_counter() - start
        loss = float(self.world.total(self.losses).sum() / count)
        test = self.evaluation.scores(tutorial_loss) if self.evaluation else None
        self.epochs_done, self.steps_done = number, 0
        return Epoch(number, loss, count - before * self.batch_size, seconds, test)

    def run(
        self,
        epochs: int,
        on_epoch: Callable[[Epoch], None],
        on_step: Callable[[], bool] = lambda: False,
        tutorial_loss: bool = False,
    ) -> bool:
        """Train until `epochs` epochs are done; returns whether they are.

        on_epoch: told of each epoch. on_step: called after each step; training stops where it returns True,
        which it has to do on every rank at the same step.
        """
        # More threads than one round otherwise, and the ranks are there for the other cores.
        with threadpool_limits(1, user_api="blas"):
            while self.epochs_done < epochs:
                epoch = self.epoch(on_step, tutorial_loss)
                if epoch is None:
                    return False
                on_epoch(epoch)
        return True

    def state(self) -> dict[str, Array]:
        """On rank 0 all that the training goes on from, beside numbers: name -> vector; elsewhere nothing."""
        arrays = {name: self.exchange.gather(part) for name, part in self.optimizer.state.items()}
        if self.steps_done:
            arrays["losses"] = self.world.total(self.losses.copy())
        if self.world.rank:
            return {}
        return {"parameters": self.exchange.parameters.copy()} | {
            name: array for name, array in arrays.items() if array is not None
        }

    def restore(self, epochs_done: int, steps_done: int, optimizer_steps: int, arrays: dict[str, Array]) -> None:
        """Go on from what `state` gave. arrays: needed on rank 0 alone."""
        self.epochs_done, self.steps_done, self.optimizer.steps = epochs_done, steps_done, optimizer_steps
        if self.world.rank == 0:
            self.exchange.parameters[:] = arrays["parameters"]
            if steps_done:
                self.losses[:] = arrays["losses"]
        self.world.send_to_nodes(self.exchange.parameters)
        for name, part in self.optimizer.state.items():
            self.exchange.scatter(arrays.get(name), part)

    def close(self) -> Array:
        """The parameters, (N,); the shared memory is given back, and the trainer of no use afterwards."""
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
