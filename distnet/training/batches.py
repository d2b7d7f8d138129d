"""A rank's shards of a mini-batch, in groups that fit its cache."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.nn.arithmetic import Arithmetic, Propagation
from distnet.nn.dropout import Dropout
from distnet.nn.model import Model
from distnet.nn.parameters import layer_stacks
from distnet.parallel.shards import real_rows, shard_rows
from distnet.runtime.arrays import Array
from distnet.training.configuration import TrainingConfig

CACHE = 32 << 20  # bytes; a larger workspace is divided into groups of shards


class Group(NamedTuple):
    """Shards that a rank computes at once, and their memory.

    rows: of the mini-batch. gradients: (shards, layers, inputs + 1, outputs) per run of equal layers, views of the
    exchange's gradients. weights: (rows of the workspace,), of the samples' losses; None for 1 each.
    """

    rows: slice
    propagation: Propagation
    inputs: Array
    targets: Array
    weights: Array | None
    gradients: list[Array]
    dropout: Dropout | None


class Batch:
    """A rank's shards `own` of mini-batches of `size` rows, in groups of `config.stack` shards.

    shards: of the mini-batch, on all ranks. gradients: (own shards, N), to be filled. has_weights: whether the samples
    have weights. Groups of the same shape share a workspace.
    """

    def __init__(
        self,
        model: Model,
        arithmetic: Arithmetic,
        config: TrainingConfig,
        shards: int,
        own: range,
        size: int,
        gradients: Array,
        has_weights: bool = False,
    ) -> None:
        sizes, rows = model.sizes, shard_rows(size, shards)
        self.size = size
        workspaces: dict[tuple[int, ...], tuple[Propagation, Dropout | None]] = {}
        self.groups = []
        probability = config.regularisation.dropout if len(sizes) > 2 else 0.0
        fitting = CACHE // (rows * (sizes[0] + 4 * sum(sizes[1:])) * model.parameters.itemsize)
        step = config.stack or max(1, fitting)  # portable: integers
        for start in range(own.start, own.stop, step):
            some = range(start, min(start + step, own.stop))
            real = tuple(real_rows(size, rows, shard) for shard in some)
            if real not in workspaces:
                propagation = arithmetic.workspace(rows, real, size, bool(probability))
                count, dtype = len(propagation.inputs), propagation.inputs.dtype
                dropout = Dropout(probability, propagation.columns, sizes[1:-1], count, dtype) if probability else None
                workspaces[real] = propagation, dropout
            propagation, dropout = workspaces[real]
            place = slice(min(some.start * rows, size), min(some.stop * rows, size))
            count = place.stop - place.start
            weights = np.zeros(len(propagation.targets), model.parameters.dtype) if has_weights else None
            stacks = layer_stacks(gradients[some.start - own.start : some.stop - own.start], sizes)
            inputs, targets = propagation.inputs[:count], propagation.targets[:count]
            self.groups.append(Group(place, propagation, inputs, targets, weights, stacks, dropout))

    @property
    def exponents(self) -> NDArray[np.int64]:
        """What `Exchange.maximum` takes from this rank; in portable arithmetic it has a single group."""
        return self.groups[0].propagation.exponents
