"""Accuracy, loss and predictions on a data set, the same bits on any number of ranks."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.dataset import Split
from distnet.models.trained import Class
from distnet.nn.arithmetic import Arithmetic, Propagation, prepare
from distnet.nn.functional import tutorial_losses
from distnet.nn.model import Model
from distnet.parallel.shards import share
from distnet.parallel.world import World
from distnet.portable.elementary import log
from distnet.portable.environment import check_environment, find_deviation
from distnet.portable.grids import Floats, exact_sum
from distnet.runtime.arrays import Array, Sharing
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


def prepare_on_node(world: World, model: Model) -> Arithmetic:
    """`prepare` the model, whose parameters the ranks of a node share. Raises InputError on every rank. Collective."""
    if model.arithmetic == "portable" and world.comm is not None:
        check_environment("; ".join(filter(None, world.comm.allgather(find_deviation()))))
    arithmetic = prepare(model, Sharing(world.node_rank, world.node_size, world.shared, world.node_barrier))
    return arithmetic


class Evaluation:
    """A data set in fixed blocks of rows. Each rank evaluates a run of blocks.

    arithmetic: of the model, up to date with its parameters at every call. chosen: which rows of the split to evaluate;
    None for all.
    """

    def __init__(
        self, world: World, arithmetic: Arithmetic, split: Split, chosen: NDArray[np.int64] | None = None
    ) -> None:
        self.world, self.split, self._chosen = world, split, chosen
        self._truths = split.targets[self._rows(slice(None))].argmax(axis=1)
        count = len(self._truths)
        blocks = share(-(-count // BLOCK_ROWS), world.rank, world.size)
        self._blocks = [slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, count)) for block in blocks]
        self._at = 0
        self._workspaces = {
            rows: arithmetic.workspace(rows, (rows,), rows, has_masks=False)
            for rows in {block.stop - block.start for block in self._blocks}
        }

    def scores(self, tutorial_loss: bool = False) -> Scores:
        """Accuracy and loss with the current parameters. Collective."""
        truths, guesses, _, losses = self.predictions()
        count, tutorial = len(truths), None
        if tutorial_loss:
            each = np.zeros(count)
            for block, probabilities, workspace in self._passes():
                each[block] = tutorial_losses(probabilities, workspace.targets)
            tutorial = mean(self.world.total(each))
        return Scores(float(np.count_nonzero(truths == guesses) / count), mean(losses), tutorial)

    def predictions(self) -> Predictions:
        """The prediction for each row with the current parameters. Collective."""
        guesses, numbers = np.zeros(len(self._truths), np.int64), np.zeros((2, len(self._truths)))
        with single_blas_thread:
            for block, probabilities, workspace in self._passes():
                guesses[block] = probabilities.argmax(axis=1)
                numbers[0, block] = probabilities.max(axis=1)
                numbers[1, block] = losses_from(workspace.losses())
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


def losses_from(parts: Array) -> Floats:
    """The cross-entropy of each row, (rows,), from its parts (2, rows); see `Propagation.losses`."""
    losses: Floats = np.subtract(log(parts[0]), parts[1])
    return losses


def mean(losses: Floats) -> float:
    """The mean of losses (rows,), the same bits on every machine; infinite or NaN if one is."""
    return float((exact_sum(losses) if np.isfinite(losses).all() else losses.max()) / len(losses))


def summarise(predictions: Predictions, classes: Sequence[Class], mistakes: int) -> dict[str, Any]:
    """Summarise as JSON: accuracy, loss, errors by class, confusion matrix, and `mistakes` errors of highest loss."""
    truths, guesses, probabilities, losses = predictions
    count = len(classes)
    confusion = np.bincount(truths * count + guesses, minlength=count * count).reshape(count, count)
    wrong = np.flatnonzero(truths != guesses)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:mistakes]
    by_class = []
    for place, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        samples, missed = int(row.sum()), int(row.sum() - row[place])  # portable: integers
        by_class.append(
            {"class": name, "samples": samples, "wrong": missed, "error": missed / samples if samples else None}
        )
    return {
        "samples": len(truths),
        "accuracy": (len(truths) - len(wrong)) / len(truths),
        "loss": mean(losses),
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
