"""Gradients in, updated parameters out: reduce-scatter, fixed tree, allgather.

The ranks of a node share one array of parameters and one row of gradients for every shard. Each rank adds
the rows over its own slice of the columns and updates that slice; nothing is copied.
"""

import numpy as np

from distnet.functional import Array
from distnet.layers import CACHE_LINE, padded
from distnet.shards import share, tree_levels
from distnet.world import World


class Exchange:
    """The parameters, the gradients of all shards, and the two collectives between them.

    initial: (N,) the parameters to start from, the same on every rank. shards: S.
    parameters: (N,), one array a node. gradients: (own shards, at least N), the rows for this rank's shards
    `own`, to be filled before `reduce_scatter`.
    Collective: yes, the constructor and every method.
    """

    def __init__(self, world: World, initial: Array, shards: int) -> None:
        self.world = world
        count, dtype = len(initial), initial.dtype
        self.own = share(shards, world.rank, world.size)
        self._rows = world.shared((shards, padded(count, dtype)), dtype)
        self.gradients = self._rows[self.own.start : self.own.stop]
        self.parameters = world.shared((count,), dtype)
        line = CACHE_LINE // dtype.itemsize  # no two ranks write to one cache line
        lines = share(padded(count, dtype) // line, world.node_rank, world.node_size)
        columns = slice(lines.start * line, min(lines.stop * line, count))
        self.slice = self.parameters[columns]
        self.slice[:] = initial[columns]
        mine = self._rows[:, columns]
        self._sum: Array = mine[0]
        self._tree = [(mine[left], mine[right]) for left, right in tree_levels(shards)]
        world.node_barrier()

    def reduce_scatter(self) -> Array:
        """The gradients of all shards, added in the fixed tree, for this rank's slice of the parameters."""
        self.world.node_barrier()
        for left, right in self._tree:
            np.add(left, right, out=left)
        return self._sum

    def allgather(self) -> None:
        """Every rank has updated its slice; afterwards all of them see all of the parameters."""
        self.world.node_barrier()

    def close(self) -> Array:
        """A copy of the parameters, of this rank's own, and the shared memory given back."""
        parameters: Array = self.parameters.copy()
        self.world.free(self._rows, self.parameters)
        return parameters
