"""Write what a run was for: the model and its configuration, the timeline, the page; then print the last lines."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from distnet.config.building import reproducible_config
from distnet.config.options import Config
from distnet.config.pages import describe_environment, write_page
from distnet.config.reading import to_toml
from distnet.datasets.dataset import Dataset
from distnet.network import NeuralNetwork
from distnet.nn.parameters import parameters_sha256
from distnet.reporting.console import Console
from distnet.reporting.profile import Profile, write_timeline
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_DIVERGED, EXIT_UNWRITTEN
from distnet.runtime.files import write_content
from distnet.runtime.logs import warn
from distnet.training.trainer import Trainer


class Results:
    """The results of one run, as its options want them.

    sha256: of the parameters, once `write` was called. Collective: every method.
    """

    def __init__(self, config: Config, console: Console, trainer: Trainer, profile: Profile) -> None:
        self.config, self.console, self.trainer, self.profile = config, console, trainer, profile
        self.sha256 = ""

    def write(self, data: Dataset, network: NeuralNetwork, header: list[str], arguments: Sequence[str]) -> int:
        """Give the trained parameters to the network, write all that is wanted, and print the last lines.

        Returns the exit status: 0, or EXIT_UNWRITTEN if something can't be written.
        """
        config, trainer, profile = self.config, self.trainer, self.profile
        if config.validation:
            trainer.restore_best()
        predictions = trainer.predictions() if config.report else None
        training = trainer.training_scores() if config.report else None
        network.parameters[:] = trainer.exchange.parameters
        self.sha256 = parameters_sha256(network.parameters)
        effective = reproducible_config(config, data, trainer)
        network.about = {
            "config": {k: v for k, v in effective.to_dict().items() if k != "data_dir"},  # which is this machine's
            "mean": data.mean,
            "deviation": data.deviation,
            "classes": list(data.classes),
            "columns": None if data.columns is None else list(data.columns),
            "label": data.label,
        }
        statuses = [0]
        if path := config.model:
            save = partial(save_model, network, path, effective)
            statuses.append(self._write(lambda: trainer.world.on_root(save), path, path.with_suffix(".toml")))
        statuses.append(self.write_timeline())
        if predictions and training and config.report:
            environment = describe_environment(trainer.world)
            page = partial(
                write_page, config.report, effective, data, network, predictions, training, trainer.history, header,
                arguments, profile.phases, environment,
            )  # fmt: skip
            statuses.append(self._write(lambda: trainer.world.on_root(page), config.report))
        accuracy = trainer.history.best()["test_accuracy"]
        self.console.write_result(accuracy, self.sha256, profile.phases if config.profile else [])
        return max(statuses)

    def write_timeline(self) -> int:
        """Write the timeline, if it is wanted. Returns the exit status."""
        watch, path = self.profile.watch, self.config.timeline
        if watch is None or path is None:
            return 0
        return self._write(partial(write_timeline, self.trainer.world, watch, path), path)

    def report_divergence(self, checkpoint: str | None) -> int:
        """Print why training has stopped, and what to try; returns EXIT_DIVERGED. checkpoint: the newest, if any."""
        kept = f" (the last good checkpoint is {checkpoint})" * (checkpoint is not None)
        remedy = f"start over with a lower --learning-rate than {self.config.learning_rate:g}, or with --clip-norm 1"
        self.trainer.world.on_root(lambda: warn(f"training stopped: {self.trainer.diverged}{kept}; {remedy}"))
        self.write_timeline()
        return EXIT_DIVERGED

    def _write(self, write: Callable[[], object], *paths: Path) -> int:
        """Write results to `paths`, and print that they are there. Returns 0, or EXIT_UNWRITTEN after one line."""
        try:
            write()
        except InputError as error:
            if self.console.is_root:
                warn(str(error))
            return EXIT_UNWRITTEN
        self.console.write(f"wrote {path}" for path in paths)
        return 0


def save_model(network: NeuralNetwork, path: Path, effective: Config) -> None:
    """Write the network, and its configuration beside it, for rank 0. Raises InputError."""
    network.save(path)
    beside = path.with_suffix(".toml")
    write_content(beside, to_toml(effective).encode(errors="replace"), f"--model: its configuration {beside}")
