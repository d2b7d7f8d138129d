"""The training loop: for each mini-batch forward, backprop, reduce-scatter, update, allgather."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.dataset import Split
from distnet.nn.model import Model
from distnet.nn.optimizers import Optimizer, clip_scale
from distnet.nn.parameters import parameters_sha256, weight_runs
from distnet.parallel.exchange import Exchange
from distnet.parallel.world import World
from distnet.portable.draws import draw_order
from distnet.portable.grids import MOST, exponent_above
from distnet.runtime.arrays import Array
from distnet.runtime.blas import single_blas_thread
from distnet.runtime.errors import InputError
from distnet.runtime.failure import Watchdog
from distnet.runtime.numbers import shard_count
from distnet.runtime.stopwatch import no_lap
from distnet.training.batches import Batch, Group
from distnet.training.configuration import TrainingConfig
from distnet.training.evaluation import Evaluation, Scores, losses_from, mean, prepare_on_node
from distnet.training.history import Epoch, History
from distnet.training.signals import Interrupts

ORDER = 3  # the purpose of the random numbers that order the samples


class Splits(NamedTuple):
    """The data sets, each shared by the ranks of a node.

    validation: for early stopping and the best epoch. chosen: indices of the samples of `train` to train on; None for
    all.
    """

    train: Split
    test: Split | None = None
    validation: Split | None = None
    chosen: NDArray[np.int64] | None = None


class Trainer:
    """A network in training on the ranks of a world.

    model: the initial model, the same on every rank; its parameters are copied. splits: in portable arithmetic, the
    inputs of the training set are rounded in place. lap: called with the name of each phase that ends, see `Stopwatch`.
    learning_rate: before the schedule; may be changed between epochs, on all ranks alike.
    history: all completed epochs. diverged: why training can't continue, such as "the loss is NaN in epoch 3", or "";
    the same on every rank.
    Raises InputError for fewer shards than ranks, and for inputs too large for portable arithmetic. Collective.
    """

    def __init__(
        self,
        world: World,
        model: Model,
        splits: Splits,
        config: TrainingConfig,
        lap: Callable[[str], None] = no_lap,
    ) -> None:
        self.world, self.config, self.lap = world, config, lap
        self.train_set, self.learning_rate = splits.train, config.learning_rate
        self.chosen = np.arange(len(splits.train.inputs)) if splits.chosen is None else splits.chosen
        self.shards = check_shards(model.arithmetic, config.shards, world.size)
        samples = len(self.chosen)
        self.batch_size = min(config.batch_size, samples)
        if model.arithmetic == "portable":
            augmentation = config.regularisation.augmentation
            background = augmentation.background if augmentation else 0.0
            exponent = find_exponent(world, splits.train, background)
            if exponent > MOST:
                raise InputError(
                    "inputs",
                    f"some are {model.input_limit:.1e} or more, too large for portable arithmetic",
                    "scale them, or use native arithmetic",
                    on_every_rank=True,
                )
            model = replace(model, input_exponent=exponent)
        self.exchange = Exchange(world, model.parameters, self.shards, lap, config.reduction)
        self.model = model = replace(model, parameters=self.exchange.parameters)
        self.arithmetic = prepare_on_node(world, model)
        for features in splits.train.stored_features(world.node_rank, world.node_size):
            self.arithmetic.round_inputs(features)
        world.node_barrier()
        start = self.exchange.columns.start
        runs = [slice(run.start - start, run.stop - start) for run in weight_runs(model.sizes)]
        self.optimizer = Optimizer(self.exchange.slice, runs, config.hyperparameters)
        self.batches = {
            size: Batch(
                model,
                self.arithmetic,
                config,
                self.shards,
                self.exchange.own,
                size,
                self.exchange.gradients,
                splits.train.weights is not None,
            )
            for size in {self.batch_size, samples % self.batch_size} - {0}
        }
        self.interrupts = Interrupts()
        self.loss_parts = np.zeros((2, samples))  # of each sample, in the epoch's order; see `Propagation.losses`
        self.steps_per_epoch = -(-samples // self.batch_size)
        self.epochs_done = self.steps_done = 0
        self.factors: tuple[int, Array] | None = None  # an epoch, counted from 0, and its schedule
        self.history = History()
        self.diverged = ""
        self.evaluation = Evaluation(world, self.arithmetic, splits.test) if splits.test else None
        self.validation = Evaluation(world, self.arithmetic, splits.validation) if splits.validation else None
        # This rank's slice of the parameters of the epoch that was the best so far on the validation set.
        self.best = self.exchange.slice.copy() if splits.validation else None

    def step(self, samples: NDArray[np.int64], first: int) -> None:
        """Update the parameters from one mini-batch.

        samples: indices into the training set. first: the position of the first in the epoch. Collective.
        """
        batch, weights = self.batches[len(samples)], self.train_set.weights
        rate = self.rate(self.global_step)
        total = batch.size if weights is None else math.fsum(weights[samples])  # exact, in any order
        scale = 1 / total if total else 0.0
        linear, lap = self.optimizer.linear, self.lap
        for group in batch.groups:
            propagation = group.propagation
            own = samples[group.rows]
            self.train_set.take(own, group.inputs, group.targets)
            if weights is not None and group.weights is not None:
                group.weights[: len(own)] = weights[own]
            masks = self.regularise(group, own)
            lap("data")
            propagation.forward(masks=masks)
            lap("forward")
            # Scaling the few deltas saves a pass over all parameters.
            propagation.backprop(group.gradients, rate * scale if linear else 1.0, group.weights)
            place = first + group.rows.start
            self.loss_parts[:, place : place + len(own)] = propagation.losses()[:, : len(own)]
            lap("backward")
        exponents = self.exchange.maximum(batch.exponents)
        for group in batch.groups:
            group.propagation.finish(group.gradients, exponents)
        lap("backward")
        gradient_sum = self.exchange.reduce_scatter()
        if linear and total:
            self.optimizer.update(gradient_sum, 1, 1)
        elif total:  # a mini-batch without weight changes nothing
            if (clip_norm := self.config.hyperparameters.clip_norm) is not None:
                scale = clip_scale(self.exchange.squared_norm(gradient_sum), scale, clip_norm)
            self.optimizer.update(gradient_sum, scale, rate)
        lap("update")
        self.share_parameters()

    def share_parameters(self) -> None:
        """Let all ranks see this rank's slice of the parameters. Collective."""
        self.exchange.allgather()
        self.refresh(self.lap)

    def refresh(self, lap: Callable[[str], None] = no_lap) -> None:
        """Prepare the weights again, after the parameters changed. lap: of a step, see `Stopwatch`. Collective."""
        for stage in self.arithmetic.stages:
            stage()
            lap("update")
            self.world.node_barrier()
            lap("waiting")

    def regularise(self, group: Group, own: NDArray[np.int64]) -> list[Array]:
        """Regularise the inputs and targets of a group, in place. own: its samples. Returns the dropout masks."""
        regularisation, seed, epoch = self.config.regularisation, self.config.seed, self.epochs_done + 1
        if regularisation.augmentation is not None:
            images = group.inputs[:, : self.train_set.features]
            regularisation.augmentation.apply(images, seed, epoch, own, out=images)
            self.arithmetic.round_inputs(images)
        if epsilon := regularisation.label_smoothing:
            np.multiply(group.targets, 1 - epsilon, group.targets)
            np.add(group.targets, epsilon / max(group.targets.shape[1], 2), group.targets)  # one output: two classes
        if group.dropout is None:
            return []
        group.dropout.draw(seed, epoch, own)
        return group.dropout.masks

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.factors is None or self.factors[0] != epoch:
            steps = epoch * self.steps_per_epoch + np.arange(self.steps_per_epoch)
            self.factors = epoch, self.config.schedule.factors(steps, self.steps_per_epoch)
        return self.learning_rate * float(self.factors[1][place])

    @property
    def global_step(self) -> int:
        """The number of steps so far, over all epochs."""
        return self.epochs_done * self.steps_per_epoch + self.steps_done

    def position(self) -> str:
        """The epoch and step reached, as text."""
        return f"in epoch {self.epochs_done + 1}, after step {self.steps_done} of {self.steps_per_epoch}"

    def epoch(
        self, on_step: Callable[[], bool] | None, tutorial_loss: bool = False, has_sha256: bool = False
    ) -> Epoch | None:
        """Train to the end of the epoch, in an order drawn from (seed, epoch) unless not shuffled, then evaluate.

        has_sha256: whether the result has the sha256 of the parameters. Returns None if `on_step` stopped it.
        Collective.
        """
        number, count = self.epochs_done + 1, len(self.chosen)
        start = time.perf_counter()
        before = self.steps_done
        order = self.chosen
        if self.config.shuffle:
            order = order[draw_order(count, self.config.seed, ORDER, number)]
        if not before:
            self.loss_parts.fill(0)
        with np.errstate(
            over="ignore", divide="ignore", invalid="ignore"
        ):  # limits are exact, and nan shows in the loss
            for first in range(before * self.batch_size, count, self.batch_size):
                with self.interrupts:
                    self.step(order[first : first + self.batch_size], first)
                    self.steps_done += 1
                if on_step is not None and on_step():
                    if not self.is_finite():
                        self.diverged = f"the parameters are not finite {self.position()}"
                    return None
        seconds = time.perf_counter() - start
        # Before the next collective: then no rank can be changing them.
        finite, sha256 = self.is_finite(), parameters_sha256(self.exchange.parameters) if has_sha256 else None
        weights = self.train_set.weights
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # training may have diverged
            loss = mean(losses_from(self.world.total(self.loss_parts)), None if weights is None else weights[order])
            test = self.evaluation.scores(tutorial_loss) if self.evaluation else None
            validation = self.validation.scores() if self.validation else None
        self.lap("evaluation")
        rate = self.rate(self.global_step - 1)
        self.epochs_done, self.steps_done = number, 0
        if not math.isfinite(loss):
            self.diverged = f"the loss is {'NaN' if math.isnan(loss) else 'infinite'} in epoch {number}"
        elif not finite:
            self.diverged = f"the parameters are not finite after epoch {number}"
        samples = max(count - before * self.batch_size, 0)
        return Epoch(number, loss, rate, samples, seconds, test, validation, sha256)

    def run(
        self,
        epochs: int,
        on_epoch: Callable[[Epoch], object],
        on_step: Callable[[], bool] | None = None,
        tutorial_loss: bool = False,
        has_sha256: bool = False,
    ) -> bool:
        """Train until `epochs` epochs are done. Returns False if `on_step` stopped training.

        on_epoch: called after each epoch; training ends if it returns True. on_step: called after each step; training
        stops if it returns True. Both must return the same on every rank. tutorial_loss, has_sha256: what the epochs
        have beside their scores. Training also ends when it has diverged.
        On one rank, an exception or Ctrl-C leaves the parameters of the last complete step. On several, it aborts all
        ranks. Collective.
        """
        alone = self.world.size == 1

        def is_failure(error: BaseException) -> bool:
            """If the program caught it on some ranks, the others would wait in a step forever."""
            return not alone and not (isinstance(error, InputError) and error.on_every_rank)

        with (
            single_blas_thread,  # more threads round differently, and other ranks use the other cores
            Watchdog(position=self.position, missing=self.world.missing, is_failure=is_failure),
            self.interrupts.deferred() if alone else nullcontext(),
        ):
            while not self.is_complete(epochs):
                epoch = self.epoch(on_step, tutorial_loss, has_sha256)
                if epoch is None:
                    return False
                self.history.append(epoch)
                if self.config.early_stopping and self.history.best_epoch() == epoch.number:
                    self.snapshot_best()
                if on_epoch(epoch) is True or self.diverged:
                    break
        return True

    def is_complete(self, epochs: int) -> bool:
        """Whether `epochs` epochs are done, or early stopping is due."""
        early_stopping = self.config.early_stopping
        return self.epochs_done >= epochs or bool(early_stopping and early_stopping.is_due(self.history))

    def is_finite(self) -> bool:
        """Whether all parameters are finite. Between steps, it is the same on every rank."""
        parameters = self.exchange.parameters
        return math.isfinite(np.minimum.reduce(parameters)) and math.isfinite(np.maximum.reduce(parameters))

    def snapshot_best(self) -> None:
        """Copy the current parameters as the best so far. It needs a validation set."""
        assert self.best is not None
        self.best[:] = self.exchange.slice

    def restore_best(self) -> None:
        """Restore the last snapshot. Collective."""
        self.exchange.slice[:] = self.best
        self.share_parameters()

    def training_scores(self) -> Scores:
        """Accuracy and loss on the training samples, measured as on the test set. Collective."""
        chosen = self.chosen if len(self.chosen) < len(self.train_set.inputs) else None
        return Evaluation(self.world, self.arithmetic, self.train_set, chosen).scores()

    def state(self) -> dict[str, Array]:
        """The vectors that a resumed run needs, name -> vector, on rank 0; empty on other ranks. Collective."""
        arrays = {name: self.exchange.gather(part) for name, part in self.parts().items()}
        if self.steps_done:
            arrays["losses"] = self.world.total(self.loss_parts.copy()).reshape(-1)
        if self.world.rank == 0:
            arrays["parameters"] = self.exchange.parameters.copy()
        self.world.node_barrier()  # no rank changes the parameters before they are copied
        return {name: array for name, array in arrays.items() if array is not None} if self.world.rank == 0 else {}

    def restore(self, epochs_done: int, steps_done: int, optimizer_steps: int, arrays: dict[str, Array]) -> None:
        """Continue from what `state` returned. arrays: needed on rank 0 only. Collective."""
        self.epochs_done, self.steps_done = epochs_done, steps_done
        self.optimizer.restore_steps(optimizer_steps)
        if self.world.rank == 0:
            self.exchange.parameters[:] = arrays["parameters"]
            if steps_done:
                self.loss_parts[:] = arrays["losses"].reshape(2, -1)
        self.world.send_to_nodes(self.exchange.parameters)
        for name, part in self.parts().items():
            self.exchange.scatter(arrays.get(name), part)
        self.refresh()

    def parts(self) -> dict[str, Array]:
        """The vectors to save, name -> this rank's slice."""
        return self.optimizer.state | ({"best_parameters": self.best} if self.best is not None else {})

    def close(self) -> Array:
        """Free shared memory. Returns the parameters, (N,). The trainer can't be used afterwards. Collective."""
        return self.exchange.close()


def find_exponent(world: World, split: Split, background: float) -> int:
    """The smallest e with |x| < 2^e for all inputs of a split, and for what augmentation moves in. Collective.

    NOT_FINITE where an input is NaN or too large for a grid.
    """
    exponent = exponent_above(abs(background))
    for features in split.stored_features(world.rank, world.size):
        exponent = max(exponent, exponent_above(float(np.max(np.abs(features), initial=0))))
    return exponent if world.comm is None else max(world.comm.allgather(exponent))  # portable: integers


def check_shards(arithmetic: str, shards: int | None, ranks: int) -> int:
    """The number of shards to use, one per rank for None.

    Raises InputError if there are fewer than ranks, and for any in portable arithmetic, which does without.
    """
    if shards is None:
        return ranks
    shard_count.check("shards", shards)
    if arithmetic == "portable":
        raise InputError(
            "shards",
            "portable arithmetic has the same bits without them",
            "leave it out, or use native arithmetic",
            on_every_rank=True,
        )
    if shards < ranks:
        raise InputError(
            "--shards",
            f"{ranks} ranks need one shard each, got {shards}",
            f"use {ranks} shards or more, or {shards} ranks or fewer",
            on_every_rank=True,
        )
    return shards
