"""Train a model again, or drawn epochs of a training, and compare the bits: python -m distnet.verify model.npz."""

from distnet.runtime import command, failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from distnet.config.building import build_trainer, computed_options, load_dataset, reproducible_config
from distnet.config.conflicts import find_ineffective
from distnet.config.options import Config
from distnet.config.parser import Parser
from distnet.config.resuming import check_same_run
from distnet.config.stored import read_stored
from distnet.config.values import dataset_name, file_path
from distnet.datasets.dataset import Dataset
from distnet.datasets.options import DEFAULT
from distnet.models.model_file import describe
from distnet.models.trained import Trained, load_trained
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.reporting.console import Console
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_DIFFERENT
from distnet.runtime.numbers import positive_count, positive_rate, seed_number
from distnet.runtime.ranks import build_launcher, refuse_launcher
from distnet.runtime.stopwatch import no_lap
from distnet.runtime.text import format_count, join_names, to_printable
from distnet.training.audit import Audit, draw_epochs
from distnet.training.callbacks import train_with
from distnet.training.checkpoint import checkpoints, read_checkpoint
from distnet.training.history import History, Record
from distnet.training.provenance import (
    Session,
    Sessions,
    build_provenance,
    compare_provenance,
    describe_environment,
    provenance_path,
    read_provenance,
)
from distnet.training.trainer import Trainer

AUDIT = ("epochs", "sample", "audit_seed")  # options that choose the epochs to audit
PLACES = ("--data-dir", "--dataset", "--validation-data")  # of data, whose sha256 is compared


def main() -> int:
    """Run the command; returns the exit status. Collective."""
    options = build_parser().parse_args()
    check_options(options)
    if options.ranks is not None:
        start_ranks(options.ranks)
    with failure.Watchdog(options.stall_timeout) as watchdog:
        world = launched_world()
        world.check_agreement({name: str(value) for name, value in vars(options).items()})
        trained = None if options.model is None else load_trained(world, options.model)
        if options.checkpoint_dir is not None:
            return audit(world, trained, options, watchdog)
        assert trained is not None
        return verify(world, trained, options, watchdog)


def build_parser() -> Parser:
    """The parser of `python -m distnet.verify`."""
    parser = Parser(
        prog="python -m distnet.verify",
        usage="[mpirun -n N] python -m distnet.verify MODEL [options]\n"
        "       [mpirun -n N] python -m distnet.verify [MODEL] --checkpoint-dir DIR --epochs EPOCH ... [options]",
        description="Train a model again, or single epochs of a training, and compare the bits.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", type=file_path, nargs="?", metavar="MODEL", help="model file that training wrote")
    add("--checkpoint-dir", type=file_path, metavar="DIR", help="audit: folder of a training with --keep all")
    add("--epochs", type=positive_count, nargs="+", metavar="EPOCH", help="audit: epochs to train again")
    add("--sample", type=positive_count, metavar="K", help="audit: number of epochs to draw, and to train again")
    add("--audit-seed", type=seed_number, metavar="N", help="audit: random seed of --sample")
    add("--ranks", type=positive_count, metavar="N", help="ranks to start, by mpirun (default: one, or as launched)")
    add("--data-dir", type=file_path, metavar="DIR", help="folder of the data (default: $DISTNET_DATA, else data)")
    add("--dataset", type=dataset_name, metavar="NAME", help="data set, if a table has moved (default: as in training)")
    add(
        "--validation-data",
        type=file_path,
        metavar="FILE",
        help="file of the validation set, if it has moved (default: as in training)",
    )
    add(
        "--stall-timeout",
        type=positive_rate,
        default=Config.stall_timeout,
        metavar="SECONDS",
        help=f"seconds without a step before all ranks are aborted (default: {Config.stall_timeout:g})",
    )
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError, on every rank, for options that do not name one thing to verify."""

    def refuse(subject: str, problem: str, remedy: str) -> None:
        raise InputError(subject, problem, remedy, on_every_rank=True)

    given = [f"--{name.replace('_', '-')}" for name in AUDIT if getattr(options, name) is not None]
    if options.checkpoint_dir is None:
        if given:
            refuse(given[0], "chooses epochs to audit, which need checkpoints", "add --checkpoint-dir DIR")
        if options.model is None:
            refuse("MODEL", "is missing", "name a model, or the checkpoints of a training with --checkpoint-dir")
    elif given not in (["--epochs"], ["--sample", "--audit-seed"]):
        problem = f"got {' and '.join(given)}" if given else "no epochs to audit are named"
        refuse(f"--checkpoint-dir {options.checkpoint_dir}", problem, "add --epochs, or --sample and --audit-seed")


def start_ranks(ranks: int) -> None:
    """Become mpirun, which starts this command on so many ranks; return if it should be one process."""
    refuse_launcher("distnet.verify --ranks")
    words = list(sys.argv[1:])
    place = next(place for place, word in enumerate(words) if word.partition("=")[0] == "--ranks")
    del words[place : place + 1 + ("=" not in words[place])]
    if launcher := build_launcher(ranks):
        sys.stdout.flush()
        os.execvp(launcher[0], [*launcher, sys.executable, "-m", "distnet.verify", *words])


def choose_data(config: Config, options: argparse.Namespace) -> Config:
    """The configuration with the data that the options name."""
    names = ("dataset", "data_dir", "validation_data")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(config, **given)


# A whole model.


def verify(world: World, trained: Trained, options: argparse.Namespace, watchdog: failure.Watchdog) -> int:
    """Train a model again and print whether the bits agree; returns the exit status. Collective."""
    config = world.on_root(lambda: read_stored(trained.config, f"model {trained.path}"))
    config = choose_data(config, options)
    data = load_dataset(world, config)
    _, trainer = build_trainer(world, config, data, config.shards, no_lap)
    watchdog.position = trainer.position
    beside = provenance_path(trained.path)
    then = world.on_root(lambda: read_provenance(beside) if beside.exists() else None)
    name, sha256 = to_printable(trained.path), parameters_sha256(trained.model.parameters)
    found = []
    if then and then["parameters_sha256"] != sha256:
        found.append(f"its parameters have sha256 {sha256}, and {then['parameters_sha256']} in {beside.name}")
    if then and then["data"].get("sha256") != data.fingerprint:
        found.append("other data, so it was not trained again")
    else:
        is_quiet = not sys.stdout.isatty()
        train_with(trainer, config.epochs, [Console(world, config.epochs, is_quiet)])
        if trainer.validation and not trainer.diverged:
            trainer.restore_best()
        found += world.on_root(lambda: compare_models(trained, trainer, data))
    if not found:
        print_on_root(world, f"{name}: the bits agree, parameters sha256 {sha256}")
        return 0
    print_on_root(world, f"{name}: the bits differ: {', '.join(found)}")
    if then is None:
        print_on_root(world, f"there is no {to_printable(beside)} to compare the environment with")
    else:
        computed = computed_options(reproducible_config(config, data, trainer))
        sessions = Sessions(world).until(trainer.global_step)
        changes = compare_provenance(then, build_provenance("", computed, data, sessions, sha256, 0))
        # A table may have moved: its sha256 is compared.
        print_changes(world, {name: pair for name, pair in changes.items() if name not in PLACES})
    return EXIT_DIFFERENT


def compare_models(trained: Trained, trainer: Trainer, data: Dataset) -> list[str]:
    """In what a model differs from its training again, in words. For rank 0."""
    if trainer.diverged:
        return [f"{trainer.diverged}, when it is trained again"]
    again = describe(replace(trainer.model, about=data.about()))
    stored = describe(trained.model)
    notes, about = again.pop("about"), stored.pop("about")
    found = [name for name, value in again.items() if stored[name] != value]
    found += [name for name, value in notes.items() if about.get(name) != value]
    sha256, other = (parameters_sha256(each) for each in (trained.model.parameters, trainer.exchange.parameters))
    if sha256 != other:
        found.append(f"its parameters have sha256 {sha256}, and {other} when it is trained again")
    return [name.replace("_", " ") for name in found]


# Epochs of a training.


class Training(NamedTuple):
    """A training as its newest checkpoint describes it.

    config: as typed. records: of all completed epochs. kept_sha256: of the parameters that training keeps.
    """

    path: Path
    config: Config
    fingerprint: str
    shards: int
    records: list[Record]
    kept_sha256: str
    sessions: list[Session]


def audit(world: World, trained: Trained | None, options: argparse.Namespace, watchdog: failure.Watchdog) -> int:
    """Train epochs again, and print whether each agrees; returns the exit status. Collective."""
    folder = options.checkpoint_dir
    training = world.on_root(lambda: read_training(folder))
    numbers = choose_epochs(options, len(training.records))
    if options.sample is not None:
        drawn = join_names([str(number) for number in numbers])
        print_on_root(world, f"--audit-seed {options.audit_seed} draws of {len(training.records)} epochs: {drawn}")
    typed = choose_data(training.config, options)
    data = load_dataset(world, replace(typed, dataset=None if typed.dataset == DEFAULT else typed.dataset))
    if data.fingerprint != training.fingerprint:
        was = f"{training.path} was made with data of sha256 {training.fingerprint}"
        print_on_root(world, f"{to_printable(folder)}: {was}, and {data.source} has {data.fingerprint}")
        return EXIT_DIFFERENT
    config = replace(typed, task=data.task, patience=None)
    config = replace(config, **{name: getattr(Config, name) for name in find_ineffective(config)})
    shards = training.shards if config.arithmetic == "native" else None
    _, trainer = build_trainer(world, config, data, shards, no_lap)
    watchdog.position = trainer.position

    def describe_other(path: Path, header: dict[str, Any]) -> str:
        try:
            check_same_run(path, header, training.config, world.size)
        except InputError as error:
            return f"{error.subject} {error.problem}"
        return "" if header["fingerprint"] == training.fingerprint else f"the data of {path.name}"

    different = 0
    of_training = Audit(trainer, folder, training.records, describe_other)
    for number in numbers:
        sha256, found = of_training.train_again(number)
        different += bool(found)
        verdict = f"the bits differ: {', '.join(found)}" if found else f"the bits agree, parameters sha256 {sha256}"
        note = "; its record has no sha256" * ("parameters_sha256" not in training.records[number - 1])
        print_on_root(world, f"epoch {number}: {verdict}{note}")
    trainer.close()
    is_other = False
    if trained is not None:
        sha256 = parameters_sha256(trained.model.parameters)
        is_other = training.kept_sha256 != sha256
        which = f"the parameters after epoch {History(training.records).best_epoch()}, which the training keeps"
        print_on_root(world, f"{to_printable(trained.path)}: {'not ' * is_other}{which}")
    audited = f"{len(numbers)} of {format_count(len(training.records), 'epoch')} trained again"
    print_on_root(world, f"{audited}: {f'{different} differ' if different else 'all agree'}")
    if different and training.sessions:
        now = describe_environment(Sessions(world).until(trainer.global_step))
        then = describe_environment(training.sessions)
        both = {name: (then[name], now.get(name, "unknown")) for name in then}
        print_changes(world, {name: pair for name, pair in both.items() if pair[0] != pair[1]})
    return EXIT_DIFFERENT if different or is_other else 0


def read_training(folder: Path) -> Training:
    """Read the newest checkpoint. Raises InputError if there is none, or it is damaged. For rank 0."""
    found = checkpoints(folder)
    if not found:
        raise InputError(f"--checkpoint-dir {folder}", "there is no checkpoint", "name the folder of a training")
    header, arrays = read_checkpoint(found[0])
    config = read_stored(header["config"], f"checkpoint {found[0]}")
    records = header["history"]
    if not records:
        raise InputError(f"--checkpoint-dir {folder}", "no epoch is complete", "wait for one")
    kept = parameters_sha256(arrays.get("best_parameters", arrays["parameters"]))
    kept = History(records).best().get("parameters_sha256", kept)
    return Training(
        found[0], config, header["fingerprint"], header["shards"], records, kept, header.get("sessions", [])
    )


def choose_epochs(options: argparse.Namespace, epochs: int) -> list[int]:
    """The epochs to audit, of so many, in ascending order. Raises InputError on every rank."""
    if options.epochs is not None:
        chosen = sorted(set(options.epochs))
        if chosen[-1] > epochs:
            problem = f"got {chosen[-1]}, and there are {format_count(epochs, 'epoch')}"
            raise InputError("--epochs", problem, f"use 1 to {epochs}", on_every_rank=True)
        return chosen
    if options.sample > epochs:
        problem = f"got {options.sample}, and there are {format_count(epochs, 'epoch')}"
        raise InputError("--sample", problem, f"use {epochs} or less", on_every_rank=True)
    return draw_epochs(epochs, options.sample, options.audit_seed)


def print_changes(world: World, changes: dict[str, tuple[str, str]]) -> None:
    """Print in what a training and this one differ, name -> (then, now), on rank 0."""
    for name, (then, now) in changes.items():
        print_on_root(world, to_printable(f"{name}: {then} then, {now} now"))
    if not changes:
        print_on_root(world, "the environment is the same")


def print_on_root(world: World, line: str) -> None:
    """Print a line on rank 0."""
    if world.rank == 0:
        print(line, flush=True)


if __name__ == "__main__":
    command.run(main)
