"""python -m distnet.train: load, train on all ranks, evaluate, report, save."""

from distnet.runtime import command, failure, streams, watchdog
from distnet.training.stop_requests import stop_requests

if __name__ == "__main__":
    failure.watch()  # before any import that can fail
    stop_requests.hold()

import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distnet.config.options import Config
from distnet.config.reading import WRITTEN, read_config, written_config
from distnet.datasets.augmentation import STRENGTHS, Augmentation, Strengths
from distnet.datasets.dataset import Dataset, hold_out
from distnet.datasets.folders import find_files
from distnet.datasets.loading import load
from distnet.datasets.names import TABLES
from distnet.datasets.tables import TableOptions
from distnet.network import NeuralNetwork
from distnet.nn.hyperparameters import Hyperparameters
from distnet.nn.schedules import Schedule
from distnet.parallel.launched import launched_world, together
from distnet.parallel.world import World
from distnet.reporting.console import Report, parameters_sha256
from distnet.reporting.profile import KEPT_LAPS, gathered, write_timeline
from distnet.reporting.tensorboard import Board
from distnet.runtime.errors import InputError, input_error_on_every_rank
from distnet.runtime.files import check_folder, check_writable, is_same_file, write_content
from distnet.runtime.logs import log, log_path, start_logs, stop_logs
from distnet.runtime.stopwatch import Stopwatch, no_lap
from distnet.training.checkpoint import OURS
from distnet.training.checkpointer import Checkpointing, check_directory, find_checkpoint, locked, versions
from distnet.training.evaluation import Answers, findings
from distnet.training.trainer import Epoch, Regularisation, Trainer, check_shards


class Callbacks(NamedTuple):
    """A person's own functions, each None where there is none; see `train`."""

    on_step: Callable[[Trainer], object] | None = None
    on_epoch: Callable[[Epoch], object] | None = None
    on_checkpoint: Callable[[Path], object] | None = None


class Outcome(NamedTuple):
    """How a run ended. status: of the process. network: as it was trained; None where the run isn't complete."""

    status: int
    network: NeuralNetwork | None


def main() -> int:
    """Train as the command line says; returns the status. Collective: yes, every rank runs it."""
    config, names = read_config(sys.argv[1:])
    if config.checkpoint_dir is None:
        stop_requests.release()
    watchdog.watch_progress(config.stall_timeout)
    return run(config, names, Callbacks()).status


def train(
    arguments: Sequence[str],
    *,
    on_step: Callable[[Trainer], object] | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
    on_checkpoint: Callable[[Path], object] | None = None,
) -> Outcome:
    """Train as the command with these arguments does, from a program that has other things to do, too.

    on_step: called on every rank after every update; it must not change the trainer. on_epoch:
    called on every rank after every epoch, with the same values; where it returns True, on every rank, training
    ends there. on_checkpoint: called on rank 0, in a thread beside the training, with each checkpoint that is on
    the disk; at the end it is waited for, up to --stall-timeout.
    Raises InputError where the command would say what is wrong.
    Collective: yes, every rank calls it with the same arguments.
    """
    streams.open_streams()
    config, names = read_config(arguments)
    end_watch = watchdog.watch_progress(config.stall_timeout)  # also of MPI's start, in which ranks wait for each other
    try:
        with (
            together("distnet.train.train"),
            stop_requests.lent() if config.checkpoint_dir else nullcontext(),
        ):
            return run(config, names, Callbacks(on_step, on_epoch, on_checkpoint))
    finally:
        end_watch()
        stop_logs()


def run(config: Config, names: frozenset[str], callbacks: Callbacks) -> Outcome:
    """From the options to the network. names: of the options that were given. Collective: yes."""
    world = launched_world(config.ranks_per_node)
    world.check_agreement(config.described())
    check_shards(config.shards, world.size)
    with locked(world, config.checkpoint_dir):
        return run_locked(world, config, names, callbacks)


def run_locked(world: World, config: Config, names: frozenset[str], callbacks: Callbacks) -> Outcome:
    """The same, for the one run that may write into the checkpoint directory. Collective: yes."""
    world.on_root(lambda: check_outputs(config, world.size))
    if config.verbose or config.log_dir:
        start_logs(world.rank, world.size, config.verbose, config.log_dir)
    log(f"node {world.node + 1} of {world.nodes}, MPI {world.library}")
    found = find_checkpoint(world, config) if config.resume is not None else None
    data = loaded(world, config, names)
    log(f"{data.name} is there, sha256 {data.fingerprint}")
    watch = None
    if config.profile or config.timeline or config.report:
        watch = Stopwatch(KEPT_LAPS if config.timeline else 0)
    shards = found.header["shards"] if found else config.shards
    network, trainer = made(world, config, data, shards, watch.lap if watch else no_lap)
    own, columns = trainer.exchange.own, trainer.exchange.columns
    log(f"owns shards {own.start} to {own.stop - 1}, and updates parameters {columns.start:,} to {columns.stop - 1:,}")
    failure.Context.position = trainer.position
    report = Report(world, config)
    saver = None
    if config.checkpoint_dir:
        told = callbacks.on_checkpoint
        saver = Checkpointing(world, trainer, config, data.fingerprint, report.history, told)
    report.start(data, network, trainer)
    if saver:
        failure.Context.folder = str(config.checkpoint_dir)
        if found:
            resumed = saver.resume(found)
            complete = trainer.epochs_done >= config.epochs or report.enough()
            report.resumed(f"{resumed}, {'which is complete' if complete else trainer.position()}")
        saver.start()
        stop_requests.listen()
    finished, phases = loop(config, trainer, report, saver, watch, callbacks)
    if trainer.diverged:
        report.diverged(trainer.diverged, saver.diverged() if saver else None)
        if watch and config.timeline:
            tried(report, partial(write_timeline, world, watch, config.timeline), config.timeline)
        trainer.close()
        return Outcome(failure.DIVERGED, None)
    if saver and not finished:
        status = saver.stopped()
        if watch and config.timeline:
            tried(report, partial(write_timeline, world, watch, config.timeline), config.timeline)
        trainer.close()
        return Outcome(status, None)
    if config.validation:
        trainer.recall()
    answers = trainer.answers() if config.report else None
    network.parameters[:] = trainer.exchange.parameters
    effective = again(config, data, trainer)
    network.about = {
        "config": {k: v for k, v in effective.described().items() if k != "data_dir"},  # which is this machine's
        "mean": data.mean,
        "deviation": data.deviation,
        "classes": list(data.classes),
        "columns": None if data.columns is None else list(data.columns),
        "label": data.label,
    }
    statuses = [0]
    if path := config.model:
        write = partial(save, network, path, effective)
        statuses.append(tried(report, lambda: world.on_root(write), path, path.with_suffix(".toml")))
    if watch and config.timeline:
        statuses.append(tried(report, partial(write_timeline, world, watch, config.timeline), config.timeline))
    if answers is not None and config.report:
        page = partial(write_page, world, effective, data, network, report, answers, phases)
        statuses.append(tried(report, lambda: world.on_root(page), config.report))
    report.end(network.parameters, phases if config.profile else [])
    statuses.append(saver.completed(parameters_sha256(network.parameters)) if saver else 0)
    trainer.close()
    return Outcome(max(statuses), network)


def tried(report: Report, write: Callable[[], object], *paths: Path) -> int:
    """Write results of the run to `paths`, and print that they are there.

    Returns 0, or, where that can't be, says why and returns UNWRITTEN. Collective.
    """
    try:
        write()
    except InputError as error:
        if report.speaks:
            streams.say(str(error))
        return failure.UNWRITTEN
    report.wrote(paths)
    return 0


def loaded(world: World, config: Config, names: frozenset[str]) -> Dataset:
    """The data that the options name, on every node. Collective."""
    return load(
        world,
        config.dataset,
        config.data_dir,
        config.dtype,
        train_limit=config.train_limit,
        train_samples=config.train_samples,
        asked_for="dataset" in names or config.dataset != Config.dataset,
        folder_given="data_dir" in names or bool(os.environ.get("DISTNET_DATA")),
        table=TableOptions(config.label, config.header, config.ignore, config.test_share, config.split_seed),
        raw_inputs=config.raw_inputs,
    )


def loop(
    config: Config,
    trainer: Trainer,
    report: Report,
    saver: Checkpointing | None,
    watch: Stopwatch | None,
    callbacks: Callbacks,
) -> tuple[bool, list[dict[str, Any]]]:
    """Train to the end, or until `saver` stops it, and tell everybody of steps and epochs.

    Returns whether it is the end, and where the time of all ranks went, if `watch` looked. Collective.
    """
    on_step, on_epoch, _ = callbacks
    told_of_steps = [tell for tell in (on_step, report.begin(trainer)) if tell]
    lap = watch.lap if watch else no_lap

    def after_step() -> bool:
        for tell in told_of_steps:
            tell(trainer)
        lap("callbacks")
        stop = saver is not None and saver.after_step()
        lap("checkpoint")
        return stop

    def after_epoch(epoch: Epoch) -> bool:
        enough = on_epoch is not None and on_epoch(epoch) is True
        report.epoch(epoch)
        lap("callbacks")
        if config.validation and report.best() == epoch.number:
            trainer.keep()
        if saver:
            saver.after_epoch()
        lap("checkpoint")
        return enough or report.enough()

    before = trainer.global_step
    if watch:
        trainer.world.total(np.zeros(1))  # all ranks are here: their clocks start together
        watch.start()
    busy = told_of_steps or saver or watch
    finished = report.enough() or trainer.run(
        config.epochs, after_epoch, after_step if busy else lambda: False, config.tutorial_loss
    )
    report.ended()
    steps = trainer.global_step - before
    return finished, gathered(trainer.world, watch, steps) if watch and steps else []


def again(config: Config, data: Dataset, trainer: Trainer) -> Config:
    """What it takes to get the same bits again: the shards of this run, and the digits that stood in for others.

    Where this run wrote isn't part of that, or the next one would write over it; nor is a folder of data by its
    absolute path, which is another one on another machine.
    """
    outputs: dict[str, Any] = {
        each.name: each.default for each in fields(Config) if each.metadata["group"] in ("output", "recovery")
    }
    kept = {"tutorial_loss": config.tutorial_loss, "stall_timeout": config.stall_timeout}
    dataset = "synthetic" if data.source == "drawn" else config.dataset
    folder = Config.data_dir if config.data_dir.is_absolute() else config.data_dir
    return replace(config, **outputs | kept | {"dataset": dataset, "data_dir": folder, "shards": trainer.shards})


def made(
    world: World, config: Config, data: Dataset, shards: int | None, lap: Callable[[str], None]
) -> tuple[NeuralNetwork, Trainer]:
    """The network as it is at the start, and its trainer. Collective."""
    sizes = (data.train.features, *config.hidden, data.train.targets.shape[1])
    validation, chosen = None, None
    if config.validation:
        validation, chosen = hold_out(
            world,
            data.train,
            config.validation,
            config.split_seed,
            data.classes,
            f"--validation {config.validation}",
        )
    rows = min(config.batch_size, len(data.train.inputs if chosen is None else chosen))
    rate = config.learning_rate * (rows / (config.scale_learning_rate or rows))
    network = NeuralNetwork(sizes, config.activation, rate, config.seed, config.dtype, config.initialisation)
    trainer = Trainer(
        world,
        sizes,
        config.activation,
        network.parameters,
        data.train,
        data.test,
        learning_rate=rate,
        batch_size=config.batch_size,
        hyperparameters=Hyperparameters(
            config.optimizer,
            config.momentum,
            config.betas,
            config.epsilon,
            config.weight_decay,
            config.clip_norm,
        ),
        schedule=Schedule(config.schedule, config.epochs, config.decay, config.decay_epochs, config.warmup_epochs),
        regularisation=Regularisation(config.dropout, config.label_smoothing, augmentation(config, data)),
        validation=validation,
        chosen=chosen,
        seed=config.seed,
        shards=shards,
        stack=config.stack,
        lap=lap,
    )
    return network, trainer


def augmentation(config: Config, data: Dataset) -> Augmentation | None:
    """What changes training images, where that is wanted. Raises InputError where they are none. Collective: no."""
    if not config.augment:
        return None
    if data.shape is None:
        raise input_error_on_every_rank(
            f"--augment {' '.join(config.augment)}: rows of {data.source} are numbers and not images; leave it out"
        )
    strengths = {name: float(value) for name, value in (word.split("=") for word in config.augment)}
    background = (0 - np.asarray(data.mean, config.dtype)) / np.asarray(data.deviation, config.dtype)
    chosen = Strengths(**({"sigma": STRENGTHS["sigma"]} | strengths))
    return Augmentation(data.shape, chosen, float(background), config.dtype)


def check_outputs(config: Config, ranks: int) -> None:
    """Find out before the training whether its results can be written, and over what. Collective: no, for rank 0."""
    check_distinct(config, ranks)
    for name, path in config.outputs.items():
        check_writable(path, name)
    if config.model:
        check_config_file(config, config.model.with_suffix(".toml"))
    if config.log_dir:
        check_folder(config.log_dir, "--log-dir")
    if config.tensorboard:
        Board(config.tensorboard)
    if config.checkpoint_dir:
        check_directory(config.checkpoint_dir, config.resume is not None)


def check_distinct(config: Config, ranks: int) -> None:
    """Raise InputError where two outputs are one file, or an output is a file that the run reads or keeps.

    Collective: no, for rank 0.
    """
    taken = {f"the file of {name}": path for name, path in inputs(config).items()}
    if config.log_dir:
        taken |= {f"a log of --log-dir (rank {rank})": log_path(config.log_dir, rank, ranks) for rank in range(ranks)}
    for name, path in config.outputs.items():
        for what, other in taken.items():
            if is_same_file(path, other):
                raise InputError(f"{name} {path}: that is {what}; name another file")
        folder = config.checkpoint_dir
        if folder and OURS.fullmatch(path.name) and path.parent.resolve() == folder.resolve():
            raise InputError(f"{name} {path}: such files in --checkpoint-dir are the run's own; name another file")
        taken[f"the file of {name}"] = path


def inputs(config: Config) -> dict[str, Path]:
    """The files that a run reads, by what names them; --config's is known to `read_config`. Collective: no."""
    kind, _, table = config.dataset.partition(":")
    found: dict[str, Path] = {"--resume": Path(config.resume)} if config.resume else {}
    if kind in TABLES:
        return found | {"--dataset": Path(table)}
    with suppress(InputError):  # that files are missing is told when they are read
        files = find_files(config.dataset, config.data_dir) if config.dataset != "synthetic" else None
        found |= {f"--dataset ({path.name})": path for path in files or []}
    return found


def check_config_file(config: Config, path: Path) -> None:
    """Raise InputError where the configuration can't be written to `path`, or what is there isn't ours."""
    if path.is_file() and not path.read_bytes().startswith(WRITTEN.encode()):
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


def save(network: NeuralNetwork, path: Path, effective: Config) -> None:
    """Write the network, and its configuration beside it. Collective: no, for rank 0."""
    network.save(path)
    beside = path.with_suffix(".toml")
    write_content(beside, written_config(effective).encode(errors="replace"), f"--model: its configuration {beside}")


def write_page(
    world: World,
    effective: Config,
    data: Dataset,
    network: NeuralNetwork,
    report: Report,
    answers: Answers,
    phases: list[dict[str, Any]],
) -> None:
    """Write the page about the run. answers: to the test set. phases: by `gathered`.

    Collective: no, for rank 0.
    """
    from distnet.reporting.pages.run import MISTAKES, Run, pixels, run_page  # few runs need it

    found = findings(answers, data.classes, MISTAKES)
    path = report.config.report
    assert path is not None
    images, weights, name = None, None, Path(data.source).name
    if data.shape is not None and not isinstance(data.mean, list) and not isinstance(data.deviation, list):
        rows = data.test.inputs[[each["index"] for each in found["mistakes"]], : data.test.features]
        name = data.name
        images = [pixels(row, data.mean, data.deviation, data.shape) for row in rows]
        weights = network.weights[0].T.reshape(-1, *data.shape)
    run = Run(
        title=f"{name}, {'-'.join(map(str, network.sizes))} {network.activation}",
        header=report.header,
        history=report.history,
        kept=report.best(),
        found=found,
        images=images,
        weights=weights,
        configuration=written_config(effective),
        environment=versions() | whereabouts(world),
        sha256=parameters_sha256(network.parameters),
        phases=phases,
    )
    write_content(path, run_page(run).encode(errors="replace"), f"--report {path}")


def whereabouts(world: World) -> dict[str, str]:
    """Where a run was, and when it ended: what its result doesn't depend on. Collective: no."""
    return {
        "python": platform.python_version(),
        "mpi": world.library,
        "ranks": str(world.size),
        "nodes": str(world.nodes),
        "host of rank 0": socket.gethostname(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


if __name__ == "__main__":
    command.run(main)
