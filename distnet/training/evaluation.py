"""Accuracy, loss and predictions on a data set, the same bits on any number of ranks."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.dataset import Split
from distnet.models.trained import Class
from distnet.nn.functional import tutorial_cross_entropy
from distnet.nn.model import Model
from distnet.nn.propagation import Propagation
from distnet.parallel.shards import share
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.blas import single_blas_thread

BLOCK_ROWS = 250


class Scores(NamedTuple):
    """accuracy: share of rows whose most probable class is correct. loss: mean cross-entropy, in nats.

    tutorial_loss: the loss as the tutorial defines it, if requested.
    """

    accuracy: float
    loss: float
    tutorial_loss: float | None


class Predictions(NamedTuple):
    """For each row: the true class, the most probable class, its probability, and the cross-entropy in nats."""

    truths: NDArray[np.int64]
    guesses: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]


class Evaluation:
    """A data set in fixed blocks of rows. Each rank evaluates a run of blocks.

    model: its parameters are read at every call. chosen: indices of the rows to evaluate; None for all.
    """

    def __init__(self, world: World, model: Model, split: Split, chosen: NDArray[np.int64] | None = None) -> None:
        self.world, self.split, self._chosen = world, split, chosen
        self._truths = split.targets[self._rows(slice(None))].argmax(axis=1)
        count = len(self._truths)
        blocks = share(-(-count // BLOCK_ROWS), world.rank, world.size)
        self._blocks = [slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, count)) for block in blocks]
        self._at = 0
        self._workspaces = {
            rows: Propagation(model, 1, rows) for rows in {block.stop - block.start for block in self._blocks}
        }

    def scores(self, tutorial_loss: bool = False) -> Scores:
        """Accuracy and loss with the current parameters. Collective."""
        truths, guesses, _, losses = self.predictions()
        count, tutorial = len(truths), None
        if tutorial_loss:
            sums = np.zeros(count)
            for block, probabilities, workspace in self._passes():
                sums[block.start] = tutorial_cross_entropy(probabilities, workspace.targets) * len(workspace.targets)
            tutorial = float(self.world.total(sums).sum() / count)
        return Scores(float(np.mean(truths == guesses)), float(losses.sum() / count), tutorial)

    def predictions(self) -> Predictions:
        """The prediction for each row with the current parameters. Collective."""
        guesses, numbers = np.zeros(len(self._truths), np.int64), np.zeros((2, len(self._truths)))
        with single_blas_thread:
            for block, probabilities, workspace in self._passes():
                guesses[block] = probabilities.argmax(axis=1)
                numbers[0, block] = probabilities.max(axis=1)
                numbers[1, block] = workspace.losses()
        return Predictions(self._truths, self.world.total(guesses), *self.world.total(numbers))

    def position(self) -> str:
        """The block reached, as text."""
        return f"at block {self._at} of its {len(self._blocks)}"

    def _passes(self) -> Iterator[tuple[slice, Array, Propagation]]:
        """The blocks of this rank, each with its probabilities and its workspace after the forward pass."""
        for place, block in enumerate(self._blocks, 1):
            self._at = place
            workspace = self._workspaces[block.stop - block.start]
            rows = self._rows(block)
            workspace.targets[:] = self.split.targets[rows]
            yield block, workspace.infer(self.split.inputs[rows][None, :, : self.split.features + 1]), workspace

    def _rows(self, block: slice) -> slice | NDArray[np.int64]:
        """The index of a block's rows in the split."""
        return block if self._chosen is None else self._chosen[block]


def summarise(predictions: Predictions, classes: Sequence[Class], mistakes: int) -> dict[str, Any]:
    """Summarise as JSON: accuracy, loss, errors by class, confusion matrix, and `mistakes` errors of highest loss."""
    truths, guesses, probabilities, losses = predictions
    count = len(classes)
    confusion = np.bincount(truths * count + guesses, minlength=count * count).reshape(count, count)
    wrong = np.flatnonzero(truths != guesses)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:mistakes]
    by_class = []
    for place, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        samples, missed = int(row.sum()), int(row.sum() - row[place])
        by_class.append(
            {"class": name, "samples": samples, "wrong": missed, "error": missed / samples if samples else None}
        )
    return {
        "samples": len(truths),
        "accuracy": (len(truths) - len(wrong)) / len(truths),
        "loss": float(losses.sum() / len(losses)),
        "classes": by_class,
        "confusion": confusion.tolist(),
        "mistakes": [
            {
                "index": int(row),
                "class": classes[truths[row]],
                "predicted": classes[guesses[row]],
                "probability": float(probabilities[row]),
                "loss": float(losses[row]),
            }
            for row in worst
        ],
    }
