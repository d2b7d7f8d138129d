"""Console output of a run: a header, a line per epoch, a progress bar, and the last two lines."""

import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from distnet import __version__
from distnet.datasets.dataset import Dataset
from distnet.parallel.exchange import REDUCTIONS
from distnet.parallel.world import World
from distnet.reporting.profile import format_profile
from distnet.runtime.launch import launched_size
from distnet.runtime.logs import logger
from distnet.runtime.proc import usable_cores
from distnet.runtime.text import format_count, to_printable
from distnet.training.callbacks import Callback
from distnet.training.evaluation import losses_from
from distnet.training.history import METRIC_NAMES, Epoch, Record, find_score
from distnet.training.trainer import Trainer

INTERVAL = 0.2  # seconds between updates of the bar
RECENT_STEPS = 50  # over which the bar's loss is averaged


def describe_run(trainer: Trainer, data: Dataset, network: str, epochs: int, chosen: int | None) -> list[str]:
    """The header of a run: ranks, data, network and training. Collective.

    network: its sizes and activation, such as "784-10 relu". chosen: the value of --shards; None if it was not given.
    """
    world, parameters = trainer.world, trainer.exchange.parameters
    ranks = f"{format_count(world.size, 'rank')} on {format_count(world.nodes, 'node')}"
    held_out = f", {len(trainer.validation.split.inputs):,} validation" if trainer.validation else ""
    weighted = ", weighted" * (trainer.train_set.weights is not None)
    task = "" if data.task == "classification" else f"{data.task}, "
    is_portable = trainer.model.arithmetic == "portable"
    shards = "" if is_portable else f", {format_count(trainer.shards, 'shard')} per mini-batch"
    reduction = f", reduction {trainer.config.reduction}" * (trainer.config.reduction != REDUCTIONS[0])
    return [
        f"distnet {__version__}: {ranks}, 1 BLAS thread per rank{shards}{reduction}; MPI: {world.library}",
        f"data: {data.name} ({data.source}), {len(trainer.chosen):,} training{held_out} "
        f"and {len(data.test.inputs):,} test samples{weighted}",
        f"network: {network}, {trainer.model.arithmetic} {parameters.dtype}, {len(parameters):,} parameters",
        f"training: {task}{format_count(epochs, 'epoch')}, mini-batches of {trainer.batch_size:,}, "
        f"{trainer.optimizer.choice.optimizer}, learning rate {trainer.config.learning_rate:g}"
        + f" {trainer.config.schedule.kind}" * (trainer.config.schedule.kind != "constant")
        + f", seed {trainer.config.seed}",
        *find_dependence(trainer, chosen),
        *find_overload(world),
    ]


def find_dependence(trainer: Trainer, chosen: int | None) -> list[str]:
    """A note if the bits depend on the number of ranks, and what prevents that. chosen: see `describe_run`."""
    is_tree = trainer.config.reduction == "tree"
    missing = ["--reduction tree"] * (not is_tree) + ["--shards S"] * (chosen is None)
    if trainer.model.arithmetic == "portable" or not missing:
        return []
    ranks = trainer.shards if is_tree else trainer.world.size  # a resumed run keeps the shards of its start
    return [
        f"note: the bits depend on the number of ranks, {ranks} here; with {' and '.join(missing)}, "
        f"they are the same on up to {chosen or 'S'} ranks"
    ]


def find_overload(world: World) -> list[str]:
    """A note if there are more ranks than cores. Collective."""
    mine = socket.gethostname(), usable_cores()
    hosts: dict[str, list[frozenset[int]]] = {}
    for host, cores in world.comm.allgather(mine) if world.comm else [mine]:
        hosts.setdefault(host, []).append(cores)
    overloaded = [
        f"{len(each)} ranks on {format_count(len(cores), 'core')} of {host}"
        for host, each in hosts.items()
        if len(each) > len(cores := frozenset[int]().union(*each))
    ]
    if not overloaded:
        return []
    more = f" and on {format_count(len(overloaded) - 1, 'other host')}" if len(overloaded) > 1 else ""
    return [f"note: more ranks than cores, which is slower: {overloaded[0]}{more}"]


def format_epoch(record: Record, epochs: int) -> list[str]:
    """The parts of the line about an epoch."""
    words = [f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}", f"loss {record['loss']:.4f}"]
    if validation := find_score(record, "validation"):
        words.append(f"validation loss {record['validation_loss']:.4f} {validation[0]} {validation[1]:.4f}")
    if "test_tutorial_loss" in record:
        words.append(f"tutorial loss (test) {record['test_tutorial_loss']:.4f}")
    if test := find_score(record, "test"):
        words.append(f"test {test[0]} {test[1]:.4f}")
    return [*words, f"{record['samples_per_second']:,.0f} samples/s", f"{record['seconds']:.2f} s"]


class Console(Callback):
    """Prints the results of each epoch on rank 0, and logs them on every rank.

    On a terminal, one process also shows a progress bar, if tqdm is installed. is_quiet: print the last two lines only.
    """

    def __init__(self, world: World, epochs: int, is_quiet: bool) -> None:
        self.epochs, self.is_root = epochs, world.rank == 0
        self.is_verbose = self.is_root and not is_quiet
        self._bar: Any = None
        self._next_update, self._score = 0.0, ""

    def write(self, lines: Iterable[object]) -> None:
        """Print lines, unless the run is quiet."""
        if self.is_verbose:
            for line in lines:
                print(to_printable(line), flush=True)

    def start(self, trainer: Trainer) -> None:
        """Show the bar, where the trainer is."""
        if self.is_verbose and sys.stderr.isatty() and launched_size() == 1:
            with suppress(ImportError):
                from tqdm import tqdm

                total = self.epochs * len(trainer.chosen)
                done = count_samples(trainer)
                self._bar = tqdm(total=total, initial=done, unit=" samples", unit_scale=True, dynamic_ncols=True)

    def wants_steps(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def after_step(self, trainer: Trainer) -> bool:
        """Move the bar. Its loss is the mean of the last steps."""
        if time.monotonic() >= self._next_update:
            self._next_update = time.monotonic() + INTERVAL
            first = max(trainer.steps_done - RECENT_STEPS, 0) * trainer.batch_size
            recent = trainer.loss_parts[:, first : trainer.steps_done * trainer.batch_size]
            own = recent[:, recent[0] > 0]  # rows of other ranks are zero here
            self._move_bar(trainer.epochs_done + 1, losses_from(own).mean(), count_samples(trainer))
            self._bar.refresh()
        return False

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Print a line, above the bar if there is one."""
        words = format_epoch(trainer.history.records[-1], self.epochs)
        logger.info(", ".join(words))
        if self._bar is None:
            self.write(["  ".join(words)])
        else:
            scores = epoch.validation or epoch.test
            self._score = f", {METRIC_NAMES[scores.metric]} {scores.score:.4f}" if scores else ""
            self._move_bar(epoch.number, epoch.loss, count_samples(trainer))
            self._bar.write("  ".join(words), file=sys.stdout)
        return False

    def end(self, trainer: Trainer) -> None:
        """Remove the bar; the lines of the epochs stay."""
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()

    def _move_bar(self, epoch: int, loss: float, samples: int) -> None:
        self._bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {loss:.4f}{self._score}", refresh=False)
        self._bar.n = samples

    def write_result(self, record: Record, parameters_sha256: str, phases: Sequence[dict[str, Any]]) -> None:
        """Print the profile, if there is one, then the last two lines, whose format is fixed.

        record: of the epoch whose parameters are kept.
        """
        if self.is_root:
            for line in format_profile(list(phases)) if phases else ():
                print(line)
            for name, score in filter(None, [find_score(record, "test")]):
                print(f"test {name} {score:.4f}")
            print(f"parameters sha256 {parameters_sha256}", flush=True)


def count_samples(trainer: Trainer) -> int:
    """The number of samples that training has passed, in all epochs."""
    samples = len(trainer.chosen)
    return trainer.epochs_done * samples + min(trainer.steps_done * trainer.batch_size, samples)
