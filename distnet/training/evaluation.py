"""Accuracy, loss and predictions on a data set, the same bits on any number of ranks."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.dataset import Split
from distnet.nn.arithmetic import Arithmetic, Propagation, prepare
from distnet.nn.functional import HALF, classify, tutorial_losses
from distnet.nn.model import Model
from distnet.parallel.shards import share
from distnet.parallel.world import World
from distnet.portable.elementary import log
from distnet.portable.environment import check_environment, find_deviation
from distnet.portable.grids import Floats, exact_sum
from distnet.runtime.arrays import Array, Sharing
from distnet.runtime.blas import single_blas_thread

BLOCK_ROWS = 250
# The score of each task. Accuracy: share of rows whose most probable class is correct. R2: 1 - Σ (ŷ - y)² / Σ (y - ȳ)²,
# the mean over the targets. Subset accuracy: share of rows whose labels are all correct.
METRICS = {"classification": "accuracy", "regression": "r2", "multilabel": "subset_accuracy"}


class Scores(NamedTuple):
    """score: the value of `metric`, see `METRICS`. loss: mean of the rows, weighted if they have weights.

    tutorial_loss: the loss as the tutorial defines it, if requested.
    """

    score: float
    loss: float
    tutorial_loss: float | None = None
    metric: str = METRICS["classification"]


class Outputs(NamedTuple):
    """For each row: targets and outputs, (rows, outputs), loss and weight, (rows,). weights: None for 1 each.

    Targets of regression are as the network sees them, standardised if the data set is.
    """

    targets: Array
    outputs: NDArray[np.float64]
    losses: NDArray[np.float64]
    weights: Array | None = None


def prepare_on_node(world: World, model: Model) -> Arithmetic:
    """`prepare` the model, whose parameters the ranks of a node share. Raises InputError on every rank. Collective."""
    if model.arithmetic == "portable" and world.comm is not None:
        check_environment("; ".join(filter(None, world.comm.allgather(find_deviation()))))
    return prepare(model, Sharing(world.node_rank, world.node_size, world.shared, world.node_barrier))


class Evaluation:
    """A data set in fixed blocks of rows. Each rank evaluates a run of blocks.

    arithmetic: of the model, up to date with its parameters at every call. chosen: which rows of the split to evaluate;
    None for all.
    """

    def __init__(
        self, world: World, arithmetic: Arithmetic, split: Split, chosen: NDArray[np.int64] | None = None
    ) -> None:
        self.world, self.split, self._chosen, self.task = world, split, chosen, arithmetic.model.task
        self._targets: Array = split.targets[self._rows(slice(None))]
        self._weights = None if split.weights is None else split.weights[self._rows(slice(None))]
        count = len(self._targets)
        blocks = share(-(-count // BLOCK_ROWS), world.rank, world.size)
        self._blocks = [slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, count)) for block in blocks]
        self._at = 0
        self._workspaces = {
            rows: arithmetic.workspace(rows, (rows,), rows, has_masks=False)
            for rows in {block.stop - block.start for block in self._blocks}
        }

    def scores(self, tutorial_loss: bool = False) -> Scores:
        """Score and loss with the current parameters. Collective."""
        tutorial = None
        if self.task == "regression":
            targets, outputs, losses, _ = self.outputs()
            score = r2(targets, outputs)
        else:
            is_right, losses = self._find_right()
            score = float(np.count_nonzero(is_right) / len(is_right))
        if tutorial_loss:
            each = np.zeros(len(self._targets))
            for block, probabilities, workspace in self._passes():
                each[block] = tutorial_losses(probabilities, workspace.targets)
            tutorial = mean(self.world.total(each))
        return Scores(score, mean(losses, self._weights), tutorial, METRICS[self.task])

    def _find_right(self) -> Array:
        """For each row, 1 if its prediction is correct, else 0; and its loss, (2, rows). Collective."""
        numbers = np.zeros((2, len(self._targets)))
        with single_blas_thread:
            for block, outputs, workspace in self._passes():
                numbers[0, block] = find_right(self.task, workspace.targets, outputs)
                numbers[1, block] = losses_from(workspace.losses())
        return self.world.total(numbers)

    def outputs(self) -> Outputs:
        """The outputs for each row with the current parameters. Collective."""
        outputs, losses = np.zeros(self._targets.shape), np.zeros(len(self._targets))
        with single_blas_thread:
            for block, values, workspace in self._passes():
                outputs[block] = values
                losses[block] = losses_from(workspace.losses())
        return Outputs(self._targets, self.world.total(outputs), self.world.total(losses), self._weights)

    def position(self) -> str:
        """The block reached, as text."""
        return f"at block {self._at} of its {len(self._blocks)}"

    def _passes(self) -> Iterator[tuple[slice, Array, Propagation]]:
        """The blocks of this rank, each with its outputs and its workspace after the forward pass."""
        for place, block in enumerate(self._blocks, 1):
            self._at = place
            workspace = self._workspaces[block.stop - block.start]
            rows = self._rows(block)
            workspace.targets[:] = self.split.targets[rows]
            yield block, workspace.infer(self.split.dense_inputs(rows)[None, :, : self.split.features + 1]), workspace

    def _rows(self, block: slice) -> slice | NDArray[np.int64]:
        """The index of a block's rows in the split."""
        return block if self._chosen is None else self._chosen[block]


def losses_from(parts: Array) -> Floats:
    """The loss of each row, (rows,), from its parts (2, rows); see `Propagation.losses`."""
    losses: Floats = np.subtract(log(parts[0]), parts[1])
    return losses


def mean(losses: Floats, weights: Floats | None = None) -> float:
    """The mean of losses (rows,), the same bits on every machine; infinite or NaN if one is. weights: of the rows."""
    if not np.isfinite(losses).all():
        return float(losses.max())
    if weights is None:
        return float(exact_sum(losses) / len(losses))
    return float(exact_sum(losses * weights) / exact_sum(weights))


def r2(targets: Floats, outputs: Floats) -> float:
    """The coefficient of determination, see `METRICS`: the mean of `r2_of_targets`."""
    each = r2_of_targets(targets, outputs)
    return math.fsum(each) / len(each)


def r2_of_targets(targets: Floats, outputs: Floats) -> Floats:
    """The coefficient of determination of each target; 1 for a constant target that is met exactly, else 0."""
    targets, outputs = targets.astype(np.float64), outputs.astype(np.float64)
    misses, distances = targets - outputs, targets - exact_sum(targets) / len(targets)
    errors, spread = exact_sum(misses * misses), exact_sum(distances * distances)
    return np.where(spread > 0, 1 - errors / np.where(spread > 0, spread, 1), np.equal(errors, 0))


def find_right(task: str, targets: Array, outputs: Array) -> NDArray[np.bool_]:
    """Whether the class, or each label, that is predicted for a row is correct, (rows,)."""
    if task == "classification":
        return np.asarray(classify(targets) == classify(outputs))
    wrong: NDArray[np.bool_] = ((outputs >= HALF) != (targets >= HALF)).max(axis=1)
    return ~wrong


def compute_score(task: str, targets: Array, outputs: Array) -> float:
    """The score of the task, see `METRICS`. targets, outputs: (rows, outputs)."""
    if task == "regression":
        return r2(targets, outputs)
    return float(np.count_nonzero(find_right(task, targets, outputs)) / len(targets))
