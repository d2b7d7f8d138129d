"""Metrics for TensorBoard."""

from pathlib import Path
from typing import Any

from distnet.runtime.errors import InputError
from distnet.runtime.files import check_folder
from distnet.training.callbacks import Callback
from distnet.training.history import Epoch
from distnet.training.trainer import Trainer


class Board(Callback):
    """Writes the metrics of each epoch to event files in a folder. For rank 0.

    Raises InputError if tensorboardX is missing or the folder can't be created.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                f"--tensorboard {folder}", f"it needs tensorboardX ({error})", "pip install tensorboardX"
            ) from None
        check_folder(folder, "--tensorboard")
        self.folder, self._writer_class = folder, SummaryWriter

    def start(self, trainer: Trainer) -> None:
        """Create a file. TensorBoard hides later epochs of an earlier run."""
        first = trainer.epochs_done + 1
        self._writer: Any = self._writer_class(
            str(self.folder), purge_step=first, flush_secs=5, filename_suffix=f".{first}"
        )

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Add a point to the curve of each metric."""
        for name, value in trainer.history.records[-1].items():
            part, _, rest = name.partition("_")
            if part in ("test", "validation"):
                self._writer.add_scalar(f"{part}/{rest}", value, epoch.number)
            elif name not in ("epoch", "parameters_sha256"):
                self._writer.add_scalar(f"training/{name}", value, epoch.number)
        return False

    def end(self, trainer: Trainer) -> None:
        """Close the file."""
        self._writer.close()
