"""python -m distnet.train: load, train on all ranks, evaluate, report, save."""

from distnet import guard

if __name__ == "__main__":
    guard.watch()  # before any import that can fail

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from distnet import __version__
from distnet.checkpointing import Checkpointing, find_checkpoint, prepare
from distnet.config import WRITTEN, Config, parser, read_config, written_config
from distnet.datasets import Dataset, load
from distnet.errors import InputError
from distnet.files import check_writable, write_whole
from distnet.functional import Array
from distnet.network import NeuralNetwork
from distnet.optimizers import Hyperparameters
from distnet.trainer import Epoch, Trainer, check_shards
from distnet.world import World, launched_world


def main() -> int:
    """Train as the command line says; returns the status. Collective: yes, every rank runs it."""
    typed = read_config(sys.argv[1:])
    if typed is None:
        if guard.launched_rank() == 0:
            parser().print_help()
        return 0
    config, names = typed
    guard.watch_progress(config.stall_timeout)
    world = launched_world(config.ranks_per_node)
    world.check_agreement(config.described())
    check_shards(config.shards, world.size)
    world.on_root(lambda: check_outputs(config))
    found = find_checkpoint(world, config) if config.resume is not None else None
    data = load(
        world,
        config.dataset,
        config.data_dir,
        config.dtype,
        train_limit=config.train_limit,
        train_samples=config.train_samples,
        asked_for="dataset" in names,
        folder_given="data_dir" in names or bool(os.environ.get("DISTNET_DATA")),
        label=config.label,
        test_share=config.test_share,
        seed=config.seed,
        raw_inputs=config.raw_inputs,
    )
    sizes = (data.train.features, *config.hidden, data.train.targets.shape[1])
    network = NeuralNetwork(sizes, config.activation, config.learning_rate, config.seed, config.dtype)
    trainer = Trainer(
        world,
        sizes,
        config.activation,
        network.parameters,
        data.train,
        data.test,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        hyperparameters=Hyperparameters(
            config.optimizer,
            config.momentum,
            config.betas,
            config.epsilon,
            config.weight_decay,
            config.clip_norm,
        ),
        seed=config.seed,
        shards=found.header["shards"] if found else config.shards,
    )
    guard.Context.position = trainer.position
    report = Report(world, config)
    saver = Checkpointing(world, trainer, config, data.fingerprint, report.history) if config.checkpoint_dir else None
    report.start(data, network, trainer.shards)
    if saver:
        guard.Context.folder = str(config.checkpoint_dir)
        if found:
            report.resumed(saver.resume(found))
        saver.catch_signals()

    def on_epoch(epoch: Epoch) -> None:
        report.epoch(epoch)
        if saver:
            saver.after_epoch()

    finished = trainer.run(config.epochs, on_epoch, saver.after_step if saver else lambda: False, config.tutorial_loss)
    if saver and not finished:
        return saver.stopped()
    network.parameters[:] = trainer.close()
    # What it takes to get the same bits again: the shards of this run, and the digits that stood in for others.
    dataset = "synthetic" if data.source == "drawn" else config.dataset
    effective = replace(config, dataset=dataset, shards=trainer.shards)
    network.about = {
        "config": effective.described(),
        "mean": data.mean,
        "deviation": data.deviation,
        "classes": list(data.classes),
    }
    world.on_root(lambda: save(network, effective))
    report.end(network.parameters)
    return saver.completed(parameters_sha256(network.parameters)) if saver else 0


def check_outputs(config: Config) -> None:
    """Find out before the training whether its results can be written. Collective: no, for rank 0."""
    if config.model:
        check_writable(config.model, "--model")
        check_config_file(config, config.model.with_suffix(".toml"))
    if config.metrics:
        check_writable(config.metrics, "--metrics")
    if config.checkpoint_dir:
        prepare(config.checkpoint_dir, config.resume is not None)


def check_config_file(config: Config, path: Path) -> None:
    """Raise InputError where the configuration can't be written to `path`, or what is there isn't ours."""
    check_writable(path, "--model: its configuration")
    if path.exists() and not path.read_bytes().startswith(WRITTEN.encode()):
        raise InputError(
            f"--model {config.model}: its configuration would replace {path}, which distnet didn't write; "
            "name another model"
        )
    try:
        written_config(config).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"--model {config.model}: its configuration can't be written, for a path in it isn't text; name other files"
        ) from None


def save(network: NeuralNetwork, config: Config) -> None:
    """Write the network, and its configuration beside it, where that is wanted. Collective: no, for rank 0."""
    if config.model is None:
        return
    network.save(config.model)
    path = config.model.with_suffix(".toml")

    def write(file: BinaryIO) -> None:
        file.write(written_config(config).encode())

    try:
        write_whole(path, write)
    except OSError as error:
        raise InputError(f"--model: its configuration {path} can't be written ({error.strerror})") from None


class Report:
    """What rank 0 tells on standard output, and in the metrics file."""

    def __init__(self, world: World, config: Config) -> None:
        self.world, self.config = world, config
        self.speaks = world.rank == 0
        self.history: list[dict[str, Any]] = []

    def start(self, data: Dataset, network: NeuralNetwork, shards: int) -> None:
        """The header: on what, with what, and what is trained."""
        world, config = self.world, self.config
        if self.speaks and config.metrics:
            config.metrics.write_text("")

        if not self.speaks or config.quiet:
            return
        ranks = f"{counted(world.size, 'rank')} on {counted(world.nodes, 'node')}"
        print(
            f"distnet {__version__}: {ranks}, 1 BLAS thread a rank, {counted(shards, 'shard')} a mini-batch; "
            f"MPI: {world.library}"
        )
        print(
            f"data: {data.name} ({data.source}), {len(data.train.inputs):,} training and "
            f"{len(data.test.inputs):,} test samples"
        )
        print(
            f"network: {'-'.join(map(str, network.sizes))} {config.activation}, {config.dtype}, "
            f"{len(network.parameters):,} parameters"
        )
        print(
            f"training: {counted(config.epochs, 'epoch')}, mini-batches of {config.batch_size}, {config.optimizer}, "
            f"learning rate {config.learning_rate:g}, seed {config.seed}",
            flush=True,
        )

    def resumed(self, what: str) -> None:
        """Where the run goes on from; the metrics file begins with the epochs that are done."""
        if self.speaks:
            if not self.config.quiet:
                print(what, flush=True)
            for record in self.history:
                self._write(record)

    def epoch(self, epoch: Epoch) -> None:
        """A line an epoch, and a JSON object in the metrics file."""
        if not self.speaks or epoch.test is None:
            return
        speed = epoch.samples / epoch.seconds
        tutorial = epoch.test.tutorial_loss
        if not self.config.quiet:
            print(
                f"epoch {epoch.number:{len(str(self.config.epochs))}}/{self.config.epochs}  "
                f"loss {epoch.loss:.4f}  "
                + (f"tutorial loss (test) {tutorial:.4f}  " if tutorial is not None else "")
                + f"test accuracy {epoch.test.accuracy:.4f}  {speed:,.0f} samples/s  {epoch.seconds:.2f} s",
                flush=True,
            )
        record = {
            "epoch": epoch.number,
            "loss": epoch.loss,
            "test_loss": epoch.test.loss,
            "test_accuracy": epoch.test.accuracy,
            "samples_per_second": speed,
            "seconds": epoch.seconds,
        }
        if tutorial is not None:
            record["test_tutorial_loss"] = tutorial
        self.history.append(record)
        self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        """Append to the metrics file, where there is one."""
        if self.config.metrics:
            with self.config.metrics.open("a") as file:
                print(json.dumps(record), file=file)

    def end(self, parameters: Array) -> None:
        """The last two lines, whose form is fixed."""
        if self.speaks:
            print(f"test accuracy {self.history[-1]['test_accuracy']:.4f}")
            print(f"parameters sha256 {parameters_sha256(parameters)}", flush=True)


def counted(number: int, what: str) -> str:
    """'1 rank', '2 ranks'."""
    return f"{number} {what}{'s' * (number != 1)}"


def parameters_sha256(parameters: Array) -> str:
    """64 hex digits of the flat parameter vector, little-endian, C order."""
    return hashlib.sha256(parameters.astype(parameters.dtype.newbyteorder("<")).tobytes()).hexdigest()


if __name__ == "__main__":
    guard.run(main)
