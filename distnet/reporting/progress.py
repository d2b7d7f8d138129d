"""A progress bar on the terminal, with loss, accuracy, speed and remaining time."""

import sys
import time

from distnet.training.history import Epoch
from distnet.training.trainer import Trainer

INTERVAL = 0.2  # seconds between updates
RECENT_STEPS = 50  # over which the loss is averaged


class Progress:
    """The bar of a run of `epochs` epochs, for rank 0. It starts where the trainer is.

    Raises ImportError without tqdm.
    """

    def __init__(self, trainer: Trainer, epochs: int) -> None:
        from tqdm import tqdm

        self.epochs, self.accuracy = epochs, ""
        self._samples = samples = len(trainer.losses)
        done = trainer.epochs_done * samples + trainer.steps_done * trainer.batch_size
        self._next = 0.0
        self._bar = tqdm(total=epochs * samples, initial=done, unit=" samples", unit_scale=True, dynamic_ncols=True)

    def show_step(self, trainer: Trainer) -> None:
        """Show a step that is done. The loss is the mean over this rank's rows in the last steps."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        done = min(trainer.steps_done * trainer.batch_size, self._samples)
        recent = trainer.losses[max(done - RECENT_STEPS * trainer.batch_size, 0) : done]
        loss = recent.sum() / max((recent != 0).sum(), 1)
        self._bar.set_description(f"epoch {trainer.epochs_done + 1}/{self.epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {loss:.4f}{self.accuracy}", refresh=False)
        self._bar.n = trainer.epochs_done * self._samples + done
        self._bar.refresh()

    def show_epoch(self, epoch: Epoch, line: str) -> None:
        """Show an epoch that is done. line: printed on standard output, above the bar."""
        scores = epoch.validation or epoch.test
        self.accuracy = f", accuracy {scores.accuracy:.4f}" if scores else ""
        self._bar.n = epoch.number * self._samples
        self._bar.set_description(f"epoch {epoch.number}/{self.epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {epoch.loss:.4f}{self.accuracy}", refresh=False)
        self._bar.write(line, file=sys.stdout)

    def close(self) -> None:
        """Remove the bar; the lines of the epochs stay."""
        self._bar.leave = False
        self._bar.close()
