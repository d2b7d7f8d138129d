"""What is called while training runs: console, metrics, checkpoints, and callbacks of a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distnet.training.history import Epoch

if TYPE_CHECKING:
    from distnet.training.trainer import Trainer


class Callback:
    """Something that is called on every rank, and owns nothing of the training. Override what it needs."""

    phase = "callbacks"  # of the step, to which its time counts

    def start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def wants_steps(self) -> bool:
        """Whether to call `after_step`. It is decided once, after `start`."""
        return False

    def after_step(self, trainer: Trainer) -> bool:
        """After every step. Training stops there if it returns True, on every rank."""
        return False

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """After every epoch. Training ends there if it returns True, on every rank."""
        return False

    def end(self, trainer: Trainer) -> None:
        """After the last step of this process."""


@dataclass(frozen=True)
class ProgramCallbacks(Callback):
    """Functions of a program that trains; see `distnet.train.train`."""

    on_step: Callable[[Trainer], object] | None = None
    on_epoch: Callable[[Epoch], object] | None = None
    on_checkpoint: Callable[[Path], object] | None = None

    def wants_steps(self) -> bool:
        """Whether there is an on_step."""
        return self.on_step is not None

    def after_step(self, trainer: Trainer) -> bool:
        """Call on_step."""
        assert self.on_step is not None
        self.on_step(trainer)
        return False

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Call on_epoch."""
        return self.on_epoch is not None and self.on_epoch(epoch) is True


def train_with(
    trainer: Trainer,
    epochs: int,
    callbacks: Sequence[Callback],
    tutorial_loss: bool = False,
    has_sha256: bool = False,
) -> bool:
    """Train until `epochs` epochs are done, and call all callbacks in their order.

    tutorial_loss, has_sha256: what the epochs have beside their scores, see `Trainer.run`.
    Returns False if training was stopped after a step. Collective.
    """
    for each in callbacks:
        each.start(trainer)
    of_steps = [each for each in callbacks if each.wants_steps()]

    def after_step() -> bool:
        stop = False
        for each in of_steps:
            stop = each.after_step(trainer) or stop
            trainer.lap(each.phase)
        return stop

    def after_epoch(epoch: Epoch) -> bool:
        stop = False
        for each in callbacks:
            stop = each.after_epoch(trainer, epoch) or stop
            trainer.lap(each.phase)
        return stop

    is_complete = trainer.run(epochs, after_epoch, after_step if of_steps else None, tutorial_loss, has_sha256)
    for each in callbacks:
        each.end(trainer)
    return is_complete
