"""The metrics file: a JSON object per epoch, one per line."""

from pathlib import Path

from distnet.runtime.files import GrowingFile
from distnet.runtime.logs import warn
from distnet.runtime.text import json_line
from distnet.training.callbacks import Callback
from distnet.training.history import Epoch
from distnet.training.trainer import Trainer


class MetricsFile(Callback):
    """Writes the history of a run to `path`, for rank 0."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._epochs_written = 0

    def start(self, trainer: Trainer) -> None:
        """Start a new file with the epochs that are already done."""
        self._write(trainer)

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Append the epoch."""
        self._write(trainer)
        return False

    def end(self, trainer: Trainer) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, trainer: Trainer) -> None:
        """Append the epochs that the file lacks. What can't be written is written with the next epoch."""
        records = trainer.history.records
        content = "".join(json_line(record) + "\n" for record in records[self._epochs_written :]).encode()
        try:
            self._file.append(content)
        except OSError as error:
            path = self._file.path
            warn(f"--metrics {path}: can't be written ({error.strerror}); training goes on, the next epoch tries again")
        else:
            self._epochs_written = len(records)
