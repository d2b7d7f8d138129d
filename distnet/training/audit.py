"""Audit a training: train single epochs again, each from the checkpoint before it, and compare the state after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distnet.nn.parameters import parameters_sha256
from distnet.portable.draws import draw_order
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.training.checkpoint import ALL, Checkpoint, checkpoint_path, read_checkpoint
from distnet.training.checkpointer import Found, check_arrays
from distnet.training.history import Record
from distnet.training.trainer import Trainer

PURPOSE = 6  # of the random numbers that draw epochs
# What a record of an epoch may differ in: times, and what an option of output adds.
INCIDENTAL = ("seconds", "samples_per_second", "test_tutorial_loss")


def draw_epochs(epochs: int, count: int, seed: int) -> list[int]:
    """`count` of the epochs 1 to `epochs`, in ascending order, the same on every machine.

    A smaller count draws some of the same epochs.
    """
    return sorted(int(epoch) + 1 for epoch in draw_order(epochs, seed, PURPOSE)[:count])


@dataclass(frozen=True)
class Audit:
    """A training to audit, and a new trainer of the same configuration, without patience.

    directory: of the checkpoints. records: of all epochs, as in the newest checkpoint. describe_other: in what the
    header of a checkpoint belongs to another run, in words; "" if it doesn't.
    """

    trainer: Trainer
    directory: Path
    records: Sequence[Record]
    describe_other: Callable[[Path, dict[str, Any]], str]

    def train_again(self, number: int) -> tuple[str, list[str]]:
        """Train an epoch again. Returns the sha256 of the parameters after it, and what differs, in words.

        number: in ascending order from call to call, since the first epoch starts from the new trainer.
        Raises InputError, on every rank, if a checkpoint is missing or damaged. Collective.
        """
        trainer = self.trainer

        def read() -> tuple[tuple[dict[str, Any] | None, list[str]], tuple[dict[str, Array], Checkpoint]]:
            before = self._read(number - 1) if number > 1 else None
            after = self._read(number)
            found = [each for one in (before, after) if one for each in self._compare_with_records(one)]
            arrays = before.arrays if before else {}
            return (before.header if before else None, list(dict.fromkeys(found))), (arrays, after)

        (start, found), kept = trainer.world.keep_on_root(read)
        arrays, after = kept or ({}, None)
        if start is not None:
            trainer.restore(number - 1, 0, start["optimizer_steps"], arrays)
            trainer.history.records[:] = start["history"]
        trainer.diverged = ""
        trainer.run(number, lambda epoch: None, has_sha256=True)
        state = trainer.state()
        found += trainer.world.on_root(lambda: compare_states(trainer, state, after) if after else [])
        return trainer.history.records[-1]["parameters_sha256"], found

    def _path(self, number: int) -> Path:
        return checkpoint_path(self.directory, number * self.trainer.steps_per_epoch)

    def _read(self, number: int) -> Checkpoint:
        """Read the checkpoint after an epoch. Raises InputError if it is missing, damaged, or of another network."""
        path = self._path(number)
        remedy = f"audit a run with --keep {ALL} and a checkpoint per epoch"
        if not path.exists():
            raise InputError(f"checkpoint {path}", f"is missing, which epoch {number} ended with", remedy)
        checkpoint = read_checkpoint(path)
        if (checkpoint.header["epochs_done"], checkpoint.header["steps_done"]) != (number, 0):
            raise InputError(f"checkpoint {path}", f"is not of the end of epoch {number}", remedy)
        check_arrays(Found(path, *checkpoint), self.trainer)
        return checkpoint

    def _compare_with_records(self, checkpoint: Checkpoint) -> list[str]:
        """In what a checkpoint after an epoch differs from the run and its records."""
        header, arrays = checkpoint
        number, sha256 = header["epochs_done"], parameters_sha256(arrays["parameters"])
        path = self._path(number)
        found = [other] if (other := self.describe_other(path, header)) else []
        if header["history"] != list(self.records[:number]):
            found.append(f"the records in {path.name} and in the newest checkpoint")
        if self.records[number - 1].get("parameters_sha256", sha256) != sha256:
            found.append(f"the parameters in {path.name} and the sha256 of their record")
        return found


def compare_states(trainer: Trainer, state: dict[str, Array], after: Checkpoint) -> list[str]:
    """In what an epoch that was trained again differs from the checkpoint after it, in words. For rank 0."""
    if trainer.diverged:
        return [trainer.diverged]
    # As numbers: the sign of a zero may depend on the BLAS, and has no effect.
    found = [name.replace("_", " ") for name in state if not np.array_equal(state[name], after.arrays[name])]
    if trainer.optimizer.steps != after.header["optimizer_steps"]:
        found.append("the number of steps")
    recorded: dict[str, Any] = after.header["history"][-1]
    again: dict[str, Any] = {**trainer.history.records[-1]}
    names = [name for name in dict.fromkeys([*again, *recorded]) if name not in INCIDENTAL]
    if "parameters_sha256" not in recorded:  # of an earlier version
        names.remove("parameters_sha256")
    different = [name.replace("_", " ") for name in names if recorded.get(name) != again.get(name)]
    return found + [f"{name} in the record" for name in different]
