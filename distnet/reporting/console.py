"""What a run tells: its header, a line or a bar an epoch, the last two lines, and the metrics file."""

import hashlib
import math
import os
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distnet import __version__
from distnet.config.options import Config
from distnet.datasets.dataset import Dataset
from distnet.network import NeuralNetwork
from distnet.parallel.shards import DEFAULT_SHARDS
from distnet.parallel.world import World
from distnet.reporting.profile import told
from distnet.reporting.progress import Progress
from distnet.reporting.tensorboard import Board
from distnet.runtime.arrays import Array
from distnet.runtime.files import GrowingFile
from distnet.runtime.launch import launched_size
from distnet.runtime.logs import log
from distnet.runtime.streams import say
from distnet.runtime.text import counted, json_line, printable
from distnet.training.trainer import Epoch, Trainer


def notes(world: World, shards: int, chosen: int | None) -> list[str]:
    """Lines about ranks that outnumber the default shards, or the cores that they may use. Collective.

    shards: of a mini-batch. chosen: what --shards says, if it does.
    """
    lines = []
    if chosen is None and shards > DEFAULT_SHARDS:
        lines.append(
            f"note: {shards} shards for {world.size} ranks; the bits are those of any run with --shards {shards}, "
            "not those of 1 to 4 ranks without it"
        )
    on_linux = hasattr(os, "sched_getaffinity")
    mine = socket.gethostname(), frozenset(os.sched_getaffinity(0) if on_linux else range(os.cpu_count() or 1))
    hosts: dict[str, list[frozenset[int]]] = {}
    for host, cores in world.comm.allgather(mine) if world.comm else [mine]:
        hosts.setdefault(host, []).append(cores)
    crowded = [
        f"{len(each)} ranks on {counted(len(cores), 'core')} of {host}"
        for host, each in hosts.items()
        if len(each) > len(cores := frozenset[int]().union(*each))
    ]
    if crowded:
        more = f" and on {counted(len(crowded) - 1, 'other host')}" if len(crowded) > 1 else ""
        lines.append(f"note: more ranks than cores, which is slower: {crowded[0]}{more}")
    return lines


class Report:
    """What rank 0 tells on standard output, in the metrics file and to TensorBoard.

    history: the metrics of every epoch that is done, on every rank. header: the lines that the run began with.
    Collective: `start` alone, but every rank calls every method.
    """

    def __init__(self, world: World, config: Config) -> None:
        self.world, self.config = world, config
        self.speaks = world.rank == 0
        self.history: list[dict[str, Any]] = []
        self.board = Board(config.tensorboard) if self.speaks and config.tensorboard else None
        self._bar: Progress | None = None
        self.header: list[str] = []
        self._metrics = GrowingFile(config.metrics) if self.speaks and config.metrics else None
        self._epochs_written = 0

    def start(self, data: Dataset, network: NeuralNetwork, trainer: Trainer) -> None:
        """The header: on what, with what, and what is trained. Collective."""
        world, config = self.world, self.config
        ranks = f"{counted(world.size, 'rank')} on {counted(world.nodes, 'node')}"
        self.header = [
            f"distnet {__version__}: {ranks}, 1 BLAS thread a rank, {counted(trainer.shards, 'shard')} a mini-batch; "
            f"MPI: {world.library}",
            f"data: {data.name} ({data.source}), {len(trainer.losses):,} training"
            + f", {config.validation:,} validation" * (config.validation > 0)
            + f" and {len(data.test.inputs):,} test samples",
            f"network: {'-'.join(map(str, network.sizes))} {config.activation}, {config.dtype}, "
            f"{len(network.parameters):,} parameters",
            f"training: {counted(config.epochs, 'epoch')}, mini-batches of {trainer.batch_size:,}, {config.optimizer}, "
            f"learning rate {trainer.learning_rate:g}"
            + f" {config.schedule}" * (config.schedule != "constant")
            + f", seed {config.seed}",
            *notes(world, trainer.shards, config.shards),
        ]
        if self.speaks and not config.quiet:
            print("\n".join(map(printable, self.header)), flush=True)

    def resumed(self, what: str) -> None:
        """Where the run goes on from."""
        if self.speaks and not self.config.quiet:
            print(printable(what), flush=True)

    def begin(self, trainer: Trainer) -> Callable[[Trainer], None] | None:
        """The metrics file begins, with the epochs that are done, and a bar, if standard error is a terminal.

        Returns what is to be told of every step.
        """
        if self.speaks:
            self._write()
        if self.speaks and not self.config.quiet and sys.stderr.isatty() and launched_size() == 1:
            with suppress(ImportError):  # without tqdm, the lines of the epochs have to do
                self._bar = Progress(trainer, self.config.epochs)
        return self._bar.step if self._bar else None

    def epoch(self, epoch: Epoch) -> None:
        """A line an epoch, and a JSON object in the metrics file."""
        speed = epoch.samples / epoch.seconds
        record = {"epoch": epoch.number, "loss": epoch.loss, "learning_rate": epoch.learning_rate}
        words = [f"epoch {epoch.number:{len(str(self.config.epochs))}}/{self.config.epochs}", f"loss {epoch.loss:.4f}"]
        if epoch.validation is not None:
            record |= {"validation_loss": epoch.validation.loss, "validation_accuracy": epoch.validation.accuracy}
            words.append(f"validation loss {epoch.validation.loss:.4f} accuracy {epoch.validation.accuracy:.4f}")
        if epoch.test is not None:
            record |= {"test_loss": epoch.test.loss, "test_accuracy": epoch.test.accuracy}
            if epoch.test.tutorial_loss is not None:
                record["test_tutorial_loss"] = epoch.test.tutorial_loss
                words.append(f"tutorial loss (test) {epoch.test.tutorial_loss:.4f}")
            words.append(f"test accuracy {epoch.test.accuracy:.4f}")
        record |= {"samples_per_second": speed, "seconds": epoch.seconds}
        words += [f"{speed:,.0f} samples/s", f"{epoch.seconds:.2f} s"]
        self.history.append(record)
        log(", ".join(words))
        if self.speaks:
            if self._bar:
                self._bar.epoch(epoch, "  ".join(words))
            elif not self.config.quiet:
                print("  ".join(words), flush=True)
            self._write()
        if self.board:
            self.board.write(record)

    def best(self) -> int:
        """The epoch with the lowest loss on the samples held out; the last one where there are none."""
        if not self.config.validation:
            return len(self.history)
        losses = [record["validation_loss"] for record in self.history]
        losses = [float("inf") if math.isnan(loss) else loss for loss in losses]
        return losses.index(min(losses)) + 1 if losses else 0

    def enough(self) -> bool:
        """Whether the last epochs, as many as there is patience for, were no better than one before them."""
        return self.config.patience is not None and len(self.history) - self.best() >= self.config.patience

    def _write(self) -> None:
        """Bring the metrics file, where there is one, up to the history; what the disk refuses comes with the next."""
        if self._metrics is None:
            return
        content = "".join(json_line(record) + "\n" for record in self.history[self._epochs_written :]).encode()
        try:
            self._metrics.append(content)
        except OSError as error:
            path = self._metrics.path
            say(f"--metrics {path}: can't be written ({error.strerror}); training goes on, the next epoch tries again")
        else:
            self._epochs_written = len(self.history)

    def ended(self) -> None:
        """No epoch is to come in this process."""
        if self._bar:
            self._bar.close()
        if self._metrics:
            self._metrics.close()
        if self.board:
            self.board.close()

    def diverged(self, why: str, checkpoint: str | None) -> None:
        """Why training has stopped, and what to try. checkpoint: the newest one, if there is one. Collective: yes."""
        rate = self.config.learning_rate
        kept = f" (the last good checkpoint is {checkpoint})" * (checkpoint is not None)
        remedy = f"start over with a lower --learning-rate than {rate:g}, or with --clip-norm 1"
        self.world.on_root(lambda: say(f"training stopped: {why}{kept}; {remedy}"))

    def wrote(self, paths: Iterable[Path]) -> None:
        """Which files are there now."""
        if self.speaks and not self.config.quiet:
            for path in paths:
                print(f"wrote {printable(path)}")

    def end(self, parameters: Array, phases: list[dict[str, Any]]) -> None:
        """Where the time went, if that was measured; then the last two lines, whose form is fixed."""
        if self.speaks:
            for line in told(phases) if phases else ():
                print(line)
            print(f"test accuracy {self.history[self.best() - 1]['test_accuracy']:.4f}")
            print(f"parameters sha256 {parameters_sha256(parameters)}", flush=True)


def parameters_sha256(parameters: Array) -> str:
    """64 hex digits of the flat parameter vector, little-endian, C order."""
    return hashlib.sha256(parameters.astype(parameters.dtype.newbyteorder("<")).tobytes()).hexdigest()
