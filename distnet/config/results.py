"""The results of a run: checks before training, files and the last lines after it."""

import platform
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distnet.config.building import reproducible_config
from distnet.config.options import Config
from distnet.config.reading import WRITTEN, to_toml
from distnet.datasets.dataset import Dataset
from distnet.datasets.folders import find_files
from distnet.datasets.options import DATA_FOLDER, DEFAULT, TABLES
from distnet.models.trained import read_notes
from distnet.network import NeuralNetwork
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.world import World
from distnet.reporting.console import Console
from distnet.reporting.profile import Profile, write_profile, write_timeline
from distnet.reporting.tensorboard import Board
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_DIVERGED, EXIT_UNWRITTEN
from distnet.runtime.files import check_folder, check_writable, is_same_file, write_content
from distnet.runtime.logs import log_path, warn
from distnet.runtime.proc import cpu_model
from distnet.training.checkpoint import OURS
from distnet.training.checkpointer import check_directory, versions
from distnet.training.evaluation import Outputs, Scores
from distnet.training.summary import summarise
from distnet.training.trainer import Trainer


def check_outputs(config: Config, ranks: int) -> None:
    """Raise InputError if a result can't be written, or would overwrite a file that the run needs. For rank 0."""
    check_distinct(config, ranks)
    for name, path in config.outputs.items():
        check_writable(path, name)
    if config.model:
        check_config_file(config, config.model)
    if config.log_dir:
        check_folder(config.log_dir, "--log-dir")
    if config.tensorboard:
        Board(config.tensorboard)
    if config.checkpoint_dir:
        check_directory(config.checkpoint_dir, config.resume is not None)


def check_distinct(config: Config, ranks: int) -> None:
    """Raise InputError if two outputs are one file, or an output is a file that the run reads or keeps. For rank 0."""
    taken = {f"the file of {name}": path for name, path in find_inputs(config).items()}
    folder = config.checkpoint_dir
    if config.log_dir:
        taken |= {f"a log of --log-dir (rank {rank})": log_path(config.log_dir, rank, ranks) for rank in range(ranks)}
    for name, path in config.outputs.items():
        for what, other in taken.items():
            if is_same_file(path, other):
                raise InputError(f"{name} {path}", f"is {what}", "name another file")
        if folder and OURS.fullmatch(path.name) and path.parent.resolve() == folder.resolve():
            raise InputError(f"{name} {path}", "has the name of a checkpoint in --checkpoint-dir", "name another file")
        taken[f"the file of {name}"] = path


def find_inputs(config: Config) -> dict[str, Path]:
    """The files that a run reads, except that of --config, by their options."""
    dataset = config.dataset or DEFAULT
    kind, _, table = dataset.partition(":")
    inputs = {"--resume": Path(config.resume)} if config.resume else {}
    if config.validation_data is not None:
        inputs["--validation-data"] = config.validation_data
    if kind in TABLES:
        return inputs | {"--dataset": Path(table)}
    with suppress(InputError):  # raised again when the files are read
        files = find_files(dataset, config.data_dir or DATA_FOLDER) if dataset != "synthetic" else None
        inputs |= {f"--dataset ({path.name})": path for path in files or []}
    return inputs


def check_config_file(config: Config, model: Path) -> None:
    """Raise InputError if the configuration beside the model can't be written, or would replace another file."""
    path = model.with_suffix(".toml")
    if path.is_file() and not path.read_bytes().startswith(WRITTEN.encode()):
        problem = f"its configuration would replace {path}, which distnet didn't write"
        raise InputError(f"--model {model}", problem, "name another model")
    try:
        to_toml(config).encode()
    except UnicodeEncodeError:
        problem = "its configuration can't be written, for a path in it isn't text"
        raise InputError(f"--model {model}", problem, "name other files") from None


@dataclass
class Results:
    """What a run was given and came to. Writes the results that the options request.

    arguments: as typed. header: the first lines of the output. Collective: every method without underscore.
    """

    config: Config
    arguments: Sequence[str]
    data: Dataset
    network: NeuralNetwork
    trainer: Trainer
    profile: Profile
    console: Console
    header: list[str]

    @cached_property
    def sha256(self) -> str:
        """sha256 of the network's parameters."""
        return parameters_sha256(self.network.parameters)

    @cached_property
    def _effective(self) -> Config:
        return reproducible_config(self.config, self.data, self.trainer)

    def write(self) -> int:
        """Copy the trained parameters into the network, write all results, and print the last lines.

        Returns the exit status: 0, or EXIT_UNWRITTEN if a result can't be written.
        """
        config, trainer, network, data = self.config, self.trainer, self.network, self.data
        on_root = trainer.world.on_root
        if trainer.validation:
            trainer.restore_best()
        found = trainer.evaluation.outputs() if trainer.evaluation and config.report else None
        training = trainer.training_scores() if config.report else None
        network.parameters[:] = trainer.exchange.parameters
        network.input_exponent = trainer.model.input_exponent
        network.about = {
            "config": {k: v for k, v in self._effective.to_dict().items() if k != "data_dir"},  # of this machine only
            **data.about(),
        }
        statuses = []
        if path := config.model:
            statuses.append(
                self._write(lambda: on_root(lambda: self._save_model(path)), path, path.with_suffix(".toml"))
            )
        statuses.append(self.write_timeline())
        if config.profile:
            file = Path(config.profile)
            statuses.append(self._write(lambda: on_root(lambda: write_profile(file, self.header, self.profile)), file))
        if (page := config.report) and found and training:
            statuses.append(self._write(lambda: on_root(lambda: self._write_page(page, found, training)), page))
        phases = self.profile.phases if config.profile is not None and not config.quiet else []
        self.console.write_result(trainer.history.best(), self.sha256, phases)
        return max(statuses)

    def write_timeline(self) -> int:
        """Write the timeline if it was requested. Returns the exit status."""
        watch, path = self.profile.watch, self.config.timeline
        if watch is None or path is None:
            return 0
        return self._write(lambda: write_timeline(self.trainer.world, watch, path), path)

    def report_divergence(self, checkpoint: str | None) -> int:
        """Print why training has stopped, and a remedy; returns EXIT_DIVERGED. checkpoint: the newest; None if none."""
        kept = f" (the last good checkpoint is {checkpoint})" * (checkpoint is not None)
        remedy = f"start over with a lower --learning-rate than {self.config.learning_rate:g}, or with --clip-norm 1"
        self.trainer.world.on_root(lambda: warn(f"training stopped: {self.trainer.diverged}{kept}; {remedy}"))
        self.write_timeline()
        return EXIT_DIVERGED

    def _write(self, write: Callable[[], object], *paths: Path) -> int:
        """Write results and print their paths. Returns 0, or EXIT_UNWRITTEN after printing the error."""
        try:
            write()
        except InputError as error:
            if self.console.is_root:
                warn(str(error))
            return EXIT_UNWRITTEN
        self.console.write(f"wrote {path}" for path in paths)
        return 0

    def _save_model(self, path: Path) -> None:
        """Write the network, and its configuration beside it. For rank 0. Raises InputError."""
        self.network.save(path)
        beside = path.with_suffix(".toml")
        content = to_toml(self._effective).encode(errors="replace")
        write_content(beside, content, f"--model: its configuration {beside}")

    def _write_page(self, path: Path, found: Outputs, training: Scores) -> None:
        """Write the HTML report. found: on the test set. For rank 0. Raises InputError."""
        from distnet.reporting.pages.run import MISTAKES, Run, render_run, restore_pixels  # few runs need it

        data, network, history = self.data, self.network, self.trainer.history
        trained = read_notes(path, network.model)
        findings = summarise(trained, found, MISTAKES)
        images, weights, name = None, None, Path(data.source).name
        if data.shape is not None and not isinstance(data.mean, list) and not isinstance(data.deviation, list):
            rows = data.test.inputs[[each["index"] for each in findings.get("mistakes", [])], : data.test.features]
            name = data.name
            images = [restore_pixels(row, data.mean, data.deviation, data.shape) for row in rows]
            weights = network.weights[0].T.reshape(-1, *data.shape)
        run = Run(
            title=f"{name}, {'-'.join(map(str, network.sizes))} {network.activation}",
            header=self.header,
            arguments=self.arguments,
            history=history,
            label_smoothing=self.config.label_smoothing,
            training=training,
            findings=findings,
            images=images,
            weights=weights,
            true=trained.in_own_units(found.targets),
            predicted=trained.in_own_units(found.outputs),
            configuration=to_toml(self._effective),
            environment=versions() | describe_environment(self.trainer.world),
            sha256=self.sha256,
            phases=self.profile.phases,
        )
        write_content(path, render_run(run).encode(errors="replace"), f"--report {path}")


def describe_environment(world: World) -> dict[str, str]:
    """Where and when a run ended. Its result does not depend on that."""
    return ({"cpu": model} if (model := cpu_model()) else {}) | {
        "python": platform.python_version(),
        "mpi": world.library,
        "ranks": str(world.size),
        "nodes": str(world.nodes),
        "host of rank 0": socket.gethostname(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
