"""The results of a run: checks before training, files and the last lines after it."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from distnet.config.building import computed_options, reproducible_config
from distnet.config.options import Config
from distnet.config.reading import WRITTEN, to_toml
from distnet.datasets.dataset import Dataset
from distnet.datasets.folders import find_files
from distnet.datasets.options import DATA_FOLDER, DEFAULT, TABLES
from distnet.models.trained import read_notes
from distnet.network import NeuralNetwork
from distnet.nn.parameters import parameters_sha256
from distnet.reporting.console import Console
from distnet.reporting.profile import Profile, write_profile, write_timeline
from distnet.reporting.tensorboard import Board
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_DIFFERENT, EXIT_DIVERGED, EXIT_UNWRITTEN
from distnet.runtime.files import check_folder, check_writable, is_same_file, write_content
from distnet.runtime.logs import log_path, warn
from distnet.training.checkpoint import OURS
from distnet.training.checkpointer import check_directory
from distnet.training.evaluation import Outputs, Scores
from distnet.training.provenance import (
    BEGINNING,
    Sessions,
    build_provenance,
    describe_difference,
    describe_environment,
    provenance_path,
    write_provenance,
)
from distnet.training.summary import summarise
from distnet.training.trainer import Trainer


def check_outputs(config: Config, ranks: int) -> None:
    """Raise InputError if a result can't be written, or would overwrite a file that the run needs. For rank 0."""
    check_distinct(config, ranks)
    for name, path in config.outputs.items():
        check_writable(path, name)
    if config.model:
        check_files_beside(config, config.model)
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


def check_files_beside(config: Config, model: Path) -> None:
    """Raise InputError if a file beside the model would replace another, or the configuration can't be written."""
    for what, path, beginning in (
        ("configuration", model.with_suffix(".toml"), WRITTEN),
        ("provenance", provenance_path(model), BEGINNING),
    ):
        if path.is_file() and not path.read_bytes().startswith(beginning.encode()):
            problem = f"its {what} would replace {path}, which distnet didn't write"
            raise InputError(f"--model {model}", problem, "name another model")
    try:
        to_toml(config).encode()
    except UnicodeEncodeError:
        problem = "its configuration can't be written, for a path in it isn't text"
        raise InputError(f"--model {model}", problem, "name other files") from None


# Options that a model doesn't store: they are of this machine only, or say nothing about what is computed.
NOT_STORED = ("data_dir", "expect_sha256")
REMEDY = "compare the options, data and versions of both runs"


@dataclass
class Results:
    """What a run was given and came to. Writes the results that the options request.

    arguments: as typed. header: the first lines of the output. Collective: every method without underscore. Call
    `finish` after `write`.
    """

    config: Config
    arguments: Sequence[str]
    data: Dataset
    network: NeuralNetwork
    trainer: Trainer
    profile: Profile
    console: Console
    header: list[str]
    sessions: Sessions
    _is_saved: bool = field(default=False, init=False)  # the model

    @cached_property
    def sha256(self) -> str:
        """sha256 of the network's parameters."""
        return parameters_sha256(self.network.parameters)

    @cached_property
    def _effective(self) -> Config:
        return reproducible_config(self.config, self.data, self.trainer)

    @property
    def _command(self) -> str:
        return shlex.join(["python", "-m", "distnet.train", *self.arguments])

    def write(self) -> int:
        """Copy the trained parameters into the network, and write all results but the provenance.

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
            "config": {k: v for k, v in self._effective.to_dict().items() if k not in NOT_STORED},
            **data.about(),
        }
        statuses = []
        if path := config.model:
            statuses.append(self._write(lambda: on_root(lambda: network.save(path)), path))
            self._is_saved = not statuses[-1]
            beside = path.with_suffix(".toml")
            statuses.append(self._write(lambda: on_root(lambda: self._write_configuration(beside)), beside))
        statuses.append(self.write_timeline())
        if config.profile:
            file = Path(config.profile)
            statuses.append(self._write(lambda: on_root(lambda: write_profile(file, self.header, self.profile)), file))
        if (page := config.report) and found and training:
            statuses.append(self._write(lambda: on_root(lambda: self._write_page(page, found, training)), page))
        return max(statuses)

    def finish(self, status: int) -> int:
        """Compare the parameters with --expect-sha256, write the provenance of the model, and print the last lines.

        status: of all before. Returns the exit status.
        """
        config, trainer = self.config, self.trainer
        on_root = trainer.world.on_root
        if config.expect_sha256 not in (None, self.sha256):
            on_root(lambda: warn(describe_difference(config.expect_sha256, self.sha256, REMEDY)))
            status = max(status, EXIT_DIFFERENT)
        if config.model and self._is_saved:
            path = provenance_path(config.model)
            provenance = build_provenance(
                self._command,
                computed_options(self._effective),
                self.data,
                self.sessions.until(trainer.global_step),
                self.sha256,
                status,
            )
            written = self._write(
                lambda: on_root(lambda: write_provenance(path, provenance, f"--model: its provenance {path}")), path
            )
            status = max(status, written)
        phases = self.profile.phases if config.profile is not None and not config.quiet else []
        self.console.write_result(trainer.history.best(), self.sha256, phases)
        return status

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

    def _write_configuration(self, path: Path) -> None:
        """Write the configuration. For rank 0. Raises InputError."""
        write_content(path, to_toml(self._effective).encode(errors="replace"), f"--model: its configuration {path}")

    def _write_page(self, path: Path, found: Outputs, training: Scores) -> None:
        """Write the HTML report. found: on the test set. For rank 0. Raises InputError."""
        from distnet.reporting.pages.run import MISTAKES, Run, render_run, restore_pixels  # few runs need it

        data, network, history = self.data, self.network, self.trainer.history
        trained = read_notes(path, network.model)
        findings = summarise(trained, found, MISTAKES)
        images, weights, name = None, None, Path(data.source).name
        sessions = self.sessions.until(self.trainer.global_step)
        if data.shape is not None and not isinstance(data.mean, list) and not isinstance(data.deviation, list):
            rows = data.test.inputs[[each["index"] for each in findings.get("mistakes", [])], : data.test.features]
            name = data.name
            images = [restore_pixels(row, data.mean, data.deviation, data.shape) for row in rows]
            weights = network.weights[0].T.reshape(-1, *data.shape)
        run = Run(
            title=f"{name}, {'-'.join(map(str, network.sizes))} {network.activation}",
            header=self.header,
            command=self._command,
            history=history,
            label_smoothing=self.config.label_smoothing,
            training=training,
            findings=findings,
            images=images,
            weights=weights,
            true=trained.in_own_units(found.targets),
            predicted=trained.in_own_units(found.outputs),
            configuration=to_toml(self._effective),
            environment={"data_sha256": data.fingerprint} | describe_environment(sessions),
            sessions=sessions,
            sha256=self.sha256,
            phases=self.profile.phases,
        )
        write_content(path, render_run(run).encode(errors="replace"), f"--report {path}")
