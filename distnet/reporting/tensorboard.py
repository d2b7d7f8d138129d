"""The metrics of each epoch for TensorBoard."""

from pathlib import Path
from typing import Any

from distnet.runtime.errors import InputError
from distnet.runtime.files import check_folder
from distnet.training.callbacks import Callback
from distnet.training.history import Epoch
from distnet.training.trainer import Trainer


class Board(Callback):
    """Writes event files to a folder, from the first epoch of this process on. For rank 0.

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
        self._writer: Any = None

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Write the epoch's metrics, one curve per metric. TensorBoard hides later epochs of an earlier run."""
        number = epoch.number
        if self._writer is None:
            self._writer = self._writer_class(
                str(self.folder), purge_step=number, flush_secs=5, filename_suffix=f".{number}"
            )
        for name, value in trainer.history.records[-1].items():
            part, _, rest = name.partition("_")
            if part in ("test", "validation"):
                self._writer.add_scalar(f"{part}/{rest}", value, number)
            elif name != "epoch":
                self._writer.add_scalar(f"training/{name}", value, number)
        return False

    def end(self, trainer: Trainer) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
