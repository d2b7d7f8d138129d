"""The loop: for every mini-batch forward, backprop, reduce-scatter, update, allgather."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.augmentation import Augmentation
from distnet.datasets.dataset import Split
from distnet.nn.hyperparameters import OPTIMIZERS, Hyperparameters
from distnet.nn.optimizers import Optimizer, clipping
from distnet.nn.parameters import weight_runs
from distnet.nn.schedules import SCHEDULES, Schedule
from distnet.parallel.exchange import Exchange
from distnet.parallel.shards import default_shards
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.blas import single_blas_thread
from distnet.runtime.errors import InputError, input_error_on_every_rank
from distnet.runtime.failure import Context, fail
from distnet.runtime.numbers import check_choice, fraction, positive_rate, rate_or_zero, shard_count
from distnet.runtime.stopwatch import no_lap
from distnet.training.batches import Batch, Group
from distnet.training.evaluation import Answers, Evaluation
from distnet.training.history import EarlyStopping, Epoch, History
from distnet.training.interrupts import Interrupts


class Regularisation(NamedTuple):
    """What keeps a network from learning its training set by heart, and happens to training samples alone.

    dropout: probability with which a hidden neuron is left out. label_smoothing: ε; targets are (1 - ε) y + ε / K
    for K classes (Szegedy et al. 2016, section 7). augmentation: changes inputs, which have to be images.
    """

    dropout: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None


class Trainer:
    """A network in training on the ranks of a world.

    sizes: neurons a layer. initial: (N,) parameters to start from, the same on every rank. train, test,
    validation: shared by the ranks of each node. chosen: which samples of `train` to learn; all where it isn't given.
    hyperparameters: the rule that updates. schedule: what the learning rate is multiplied by at a step. shards: S,
    at least as many as ranks; None for the default. stack: how many shards a rank works through at once; None for
    as many as its cache holds. early_stopping: see `EarlyStopping`; needs a validation set. lap: called after each
    phase, see `Stopwatch`.
    history: of all epochs that are done.
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
        schedule: Schedule = Schedule(),
        regularisation: Regularisation = Regularisation(),
        validation: Split | None = None,
        chosen: NDArray[np.int64] | None = None,
        seed: int = 0,
        shards: int | None = None,
        stack: int | None = None,
        early_stopping: EarlyStopping | None = None,
        lap: Callable[[str], None] = no_lap,
    ) -> None:
        self.world, self.train_set, self.lap = world, train, lap
        self.learning_rate, self.schedule, self.seed = learning_rate, schedule, int(seed)
        self.regularisation = regularisation
        self.chosen = np.arange(len(train.inputs)) if chosen is None else chosen
        self.shards = check_shards(shards, world.size)
        samples = len(self.chosen)
        self.batch_size = min(batch_size, samples)
        self.exchange = Exchange(world, initial, self.shards, lap)
        parameters = self.exchange.parameters
        start = self.exchange.columns.start
        runs = [slice(run.start - start, run.stop - start) for run in weight_runs(sizes)]
        self.optimizer = Optimizer(self.exchange.slice, runs, hyperparameters)
        self.clip_norm = hyperparameters.clip_norm
        self.batches = {
            size: Batch(
                sizes,
                activation,
                parameters,
                self.exchange.own,
                self.shards,
                size,
                stack,
                self.exchange.gradients,
                regularisation.dropout,
            )
            for size in {self.batch_size, samples % self.batch_size} - {0}
        }
        self.interrupts = Interrupts()
        self.losses = np.zeros(samples)
        self.steps_per_epoch = -(-samples // self.batch_size)
        self.epochs_done = self.steps_done = 0
        self.history, self.early_stopping = History(), early_stopping
        self.diverged = ""  # why training can't go on, such as "the loss is NaN in epoch 3"; the same on every rank
        self.evaluation = Evaluation(world, sizes, activation, parameters, test) if test else None
        self.validation = Evaluation(world, sizes, activation, parameters, validation) if validation else None
        # This rank's slice of the parameters of the epoch that was the best so far on the validation set.
        self.best = self.exchange.slice.copy() if validation else None

    def step(self, samples: NDArray[np.int64], first: int) -> None:
        """One update from one mini-batch.

        samples: its rows in the training set. first: its place in the epoch.
        """
        batch = self.batches[len(samples)]
        rate = self.learning_rate * self.schedule.factor(self.global_step, self.steps_per_epoch)
        scale = 1 / batch.size
        linear, lap = self.optimizer.linear, self.lap
        for group in batch.groups:
            propagation = group.propagation
            own = samples[group.rows]
            self.train_set.inputs.take(own, axis=0, out=group.inputs, mode="clip")
            self.train_set.targets.take(own, axis=0, out=group.targets, mode="clip")
            masks = self.regularise(group, own)
            lap("data")
            propagation.forward(masks=masks)
            lap("forward")
            # To scale the few deltas spares a pass over all parameters.
            propagation.backprop(group.gradients, rate * scale if linear else 1.0)
            place = first + group.rows.start
            self.losses[place : place + len(own)] = propagation.losses()[: len(own)]
            lap("backward")
        gradient_sum = self.exchange.reduce_scatter()
        if linear:
            self.optimizer.update(gradient_sum, 1, 1)
        else:
            if self.clip_norm is not None:
                scale = clipping(self.exchange.squared_norm(gradient_sum), scale, self.clip_norm)
            self.optimizer.update(gradient_sum, scale, rate)
        lap("update")
        self.exchange.allgather()

    def regularise(self, group: Group, own: NDArray[np.int64]) -> list[Array]:
        """Change the group's inputs and targets, which are those of samples `own`; returns the masks of dropout.

        Collective: no.
        """
        regularisation, epoch = self.regularisation, self.epochs_done + 1
        if regularisation.augmentation is not None:
            images = group.inputs[:, : self.train_set.features]
            regularisation.augmentation.apply(images, self.seed, epoch, own, out=images)
        if epsilon := regularisation.label_smoothing:
            np.multiply(group.targets, 1 - epsilon, group.targets)
            np.add(group.targets, epsilon / group.targets.shape[1], group.targets)
        if group.dropout is None:
            return []
        group.dropout.draw(self.seed, epoch, own)
        return group.dropout.masks

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
        order = self.chosen[np.random.default_rng([self.seed, number]).permutation(count)]
        if not before:
            self.losses.fill(0)
        with np.errstate(
            over="ignore", divide="ignore", invalid="ignore"
        ):  # limits are exact, and nan shows in the loss
            for first in range(before * self.batch_size, count, self.batch_size):
                with self.interrupts:
                    self.step(order[first : first + self.batch_size], first)
                    self.steps_done += 1
                if on_step():
                    if not self.is_finite():
                        self.diverged = f"the parameters are not finite {self.position()}"
                    return None
        seconds = time.perf_counter() - start
        finite = self.is_finite()  # before the next collective: then no rank can be changing them
        loss = float(self.world.total(self.losses).sum() / count)
        test = self.evaluation.scores(tutorial_loss) if self.evaluation else None
        validation = self.validation.scores() if self.validation else None
        self.lap("evaluation")
        rate = self.learning_rate * self.schedule.factor(self.global_step - 1, self.steps_per_epoch)
        self.epochs_done, self.steps_done = number, 0
        if not math.isfinite(loss):
            self.diverged = f"the loss is {'NaN' if math.isnan(loss) else 'infinite'} in epoch {number}"
        elif not finite:
            self.diverged = f"the parameters are not finite after epoch {number}"
        return Epoch(number, loss, rate, max(count - before * self.batch_size, 0), seconds, test, validation)

    def run(
        self,
        epochs: int,
        on_epoch: Callable[[Epoch], object],
        on_step: Callable[[], bool] = lambda: False,
        tutorial_loss: bool = False,
    ) -> bool:
        """Train until `epochs` epochs are done; returns whether that, or what `on_epoch` says, is the end.

        on_epoch: called after each epoch; training ends where it returns True. on_step: called after each step;
        training stops where it returns True. Both have to do so on every rank at the same step. Training also ends
        with an epoch after which `diverged` says why it can't go on.
        On one rank, an exception and Ctrl-C leave the parameters of the last complete step. On several they abort all.
        """
        alone = self.world.size == 1
        if not alone:
            Context.position, Context.missing = self.position, self.world.missing
        # More threads than one round otherwise, and the ranks are there for the other cores.
        with single_blas_thread, self.interrupts.between_steps() if alone else nullcontext():
            try:
                while not self.is_complete(epochs):
                    epoch = self.epoch(on_step, tutorial_loss)
                    if epoch is None:
                        return False
                    self.history.append(epoch)
                    if self.early_stopping and self.history.best_epoch() == epoch.number:
                        self.keep()
                    if on_epoch(epoch) is True or self.diverged:
                        break
            except BaseException as error:
                if not alone and not (isinstance(error, InputError) and error.on_every_rank):
                    # A program that catches it would leave the others waiting in a step, and no hook sees sys.exit.
                    by_exit = " by sys.exit before the end" * isinstance(error, SystemExit)
                    fail(type(error), error, error.__traceback__, by_exit)
                raise
        return True

    def is_complete(self, epochs: int) -> bool:
        """Whether `epochs` epochs are done, or early stopping is due."""
        return self.epochs_done >= epochs or bool(self.early_stopping and self.early_stopping.is_due(self.history))

    def is_finite(self) -> bool:
        """Whether no parameter is NaN or infinite; the same on every rank between two steps. Collective: no."""
        parameters = self.exchange.parameters
        return bool(np.isfinite(parameters.min()) and np.isfinite(parameters.max()))

    def keep(self) -> None:
        """Note the parameters of this moment as the best so far. There has to be a validation set."""
        assert self.best is not None
        self.best[:] = self.exchange.slice

    def recall(self) -> None:
        """Go back to the parameters that were kept last."""
        self.exchange.slice[:] = self.best
        self.exchange.allgather()

    def answers(self) -> Answers:
        """What the network makes of each sample of the test set, which there has to be, as it is now."""
        assert self.evaluation is not None
        with single_blas_thread:
            return self.evaluation.answers()

    def state(self) -> dict[str, Array]:
        """On rank 0 all that the training goes on from, beside numbers: name -> vector; elsewhere nothing."""
        arrays = {name: self.exchange.gather(part) for name, part in self.parts().items()}
        if self.steps_done:
            arrays["losses"] = self.world.total(self.losses.copy())
        if self.world.rank == 0:
            arrays["parameters"] = self.exchange.parameters.copy()
        self.world.node_barrier()  # nobody writes to the parameters before they are copied
        return {name: array for name, array in arrays.items() if array is not None} if self.world.rank == 0 else {}

    def restore(self, epochs_done: int, steps_done: int, optimizer_steps: int, arrays: dict[str, Array]) -> None:
        """Go on from what `state` gave. arrays: needed on rank 0 alone."""
        self.epochs_done, self.steps_done, self.optimizer.steps = epochs_done, steps_done, optimizer_steps
        if self.world.rank == 0:
            self.exchange.parameters[:] = arrays["parameters"]
            if steps_done:
                self.losses[:] = arrays["losses"]
        self.world.send_to_nodes(self.exchange.parameters)
        for name, part in self.parts().items():
            self.exchange.scatter(arrays.get(name), part)

    def parts(self) -> dict[str, Array]:
        """Vectors of which each rank has its slice: name -> slice. Collective: no."""
        return self.optimizer.state | ({"best_parameters": self.best} if self.best is not None else {})

    def close(self) -> Array:
        """The parameters, (N,); the trainer is of no use afterwards. Collective."""
        return self.exchange.close()


def check_training(hyperparameters: Hyperparameters, schedule: Schedule, regularisation: Regularisation) -> None:
    """Raise InputError (on every rank) for the first of their values that can't be. Collective: no."""
    check_choice("optimizer", hyperparameters.optimizer, OPTIMIZERS)
    check_choice("schedule", schedule.kind, SCHEDULES)
    for beta in hyperparameters.betas:
        fraction.check("betas", beta)
    if hyperparameters.clip_norm is not None:
        positive_rate.check("clip_norm", hyperparameters.clip_norm)
    fraction.check("momentum", hyperparameters.momentum)
    positive_rate.check("epsilon", hyperparameters.epsilon)
    rate_or_zero.check("weight_decay", hyperparameters.weight_decay)
    fraction.check("decay", schedule.decay)
    positive_rate.check("decay_epochs", schedule.decay_epochs)
    rate_or_zero.check("warmup_epochs", schedule.warmup_epochs)
    fraction.check("dropout", regularisation.dropout)
    fraction.check("label_smoothing", regularisation.label_smoothing)


def check_shards(shards: int | None, ranks: int) -> int:
    """The number of shards to use. Raises InputError where there are fewer than ranks."""
    if shards is None:
        return default_shards(ranks)
    shard_count.check("shards", shards)
    if shards < ranks:
        raise input_error_on_every_rank(
            f"--shards {shards}: {ranks} ranks need a shard each; "
            f"use {ranks} shards or more, or {shards} ranks or fewer"
        )
    return shards
