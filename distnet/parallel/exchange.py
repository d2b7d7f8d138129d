"""From gradients to updated parameters: reduce-scatter, fixed tree, allgather.

The ranks of a node share one array of parameters, and one row of gradients per shard of the node. Each rank adds
rows over some of the columns and updates its own slice of the parameters; within a node nothing is copied. Between
nodes, ranks send the roots of their node's subtrees to the owners of the columns, and receive updated slices.

For comparison, `MPI_Allreduce` can take the place of the tree. Its order of additions depends on the number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnet.nn.parameters import BLOCK
from distnet.parallel.partition import Division, divide
from distnet.parallel.shards import adds_within, roots_within, share, tree
from distnet.parallel.world import World
from distnet.portable.grids import Rounding, product_bits
from distnet.runtime.arrays import CACHE_LINE, Array
from distnet.runtime.errors import InputError
from distnet.runtime.stopwatch import no_lap

if TYPE_CHECKING:
    from mpi4py import MPI

REDUCTIONS = ("tree", "allreduce")  # the first is the default
LARGEST_COUNT = 2**31 - 1  # numbers in one message, a C int
LINE = CACHE_LINE // 8  # integers


class Exchange:
    """The parameters, the gradients of all shards, and the two collectives between them.

    initial: (N,) initial parameters, the same on every rank. shards: S, at least the number of ranks.
    parameters: (N,), one array per node. columns: this rank's slice of them, in whole blocks except at the end of
    the vector. gradients: (own shards, at least N), the rows of this rank's shards `own`; fill them before
    `reduce_scatter`.
    request: returns a small integer, this rank's request. `requests` is the sum over all ranks at the last step, the
    same on every rank. It is transferred behind the parameters, so ranks agree to stop without another message.
    lap: called with the name of each phase of a step that ends here, see `Stopwatch`.
    reduction: how the gradients of all shards are added, one of REDUCTIONS.
    lane_comm: one rank per node, which transfer the columns of a lane; None on other ranks, and on a single node.
    Raises InputError, on every rank, if the network is too large for MPI's counts.
    Collective: the constructor and every method.
    """

    def __init__(
        self,
        world: World,
        initial: Array,
        shards: int,
        lap: Callable[[str], None] = no_lap,
        reduction: str = REDUCTIONS[0],
    ) -> None:
        self.world, self._lap, self._is_allreduce = world, lap, reduction == "allreduce"
        count, dtype = len(initial), initial.dtype
        total = count + 1  # the parameters, and the ranks' requests
        blocks = -(-total // BLOCK)
        division = divide(total, shards, world.node_sizes, world.node, world.node_rank)
        here, run = division.places[division.lane][world.node], division.runs[world.node]
        adds = tree(shards)
        roots = [roots_within(adds, each) for each in division.runs]
        far_roots = [root for node in range(world.nodes) if node != world.node for root in roots[node]]

        # Memory that the ranks of a node share.
        self._rows = world.shared((len(run), blocks * BLOCK), dtype)
        self._parameters = world.shared((blocks * BLOCK,), dtype)
        widths = [places[world.node].stop - places[world.node].start for places in division.places]
        self._received = [world.shared((len(far_roots), width), dtype) for width in widths]

        self.own = share(shards, world.rank, world.size)
        self.gradients = self._rows[self.own.start - run.start : self.own.stop - run.start]
        self.parameters = self._parameters[:count]
        self.columns = slice(min(division.own.start, count), min(division.own.stop, count))
        self.slice = self.parameters[self.columns]
        if world.node_rank == 0:
            np.add(initial, 0, out=self.parameters)  # no -0.0, whose sign would depend on the BLAS

        # The additions, as pairs of views. First each rank adds its own rows over all columns, since they are in its
        # core's cache. Then it does the node's remaining additions over its part of the lane, and the tree's remaining
        # additions over its own slice.
        by_rank = {
            add
            for rank in range(world.rank - world.node_rank, world.rank - world.node_rank + world.node_size)
            for add in adds_within(adds, share(shards, rank, world.size))
        }
        all_columns, rows = self._rows, self._rows[:, division.adds]
        self._own_tree = [
            (all_columns[add.left - run.start], all_columns[add.right - run.start])
            for add in adds_within(adds, self.own)
        ]
        self._node_tree = [
            (rows[add.left - run.start], rows[add.right - run.start])
            for add in adds_within(adds, run)
            if add not in by_rank
        ]
        received = self._received[division.lane][:, division.own.start - here.start : division.own.stop - here.start]
        views = dict(zip(far_roots, received, strict=True))
        views |= {root: self._rows[root - run.start, division.own] for root in roots[world.node]}
        done = {add for each in division.runs for add in adds_within(adds, each)}
        self._final_tree = [(views[add.left], views[add.right]) for add in adds if add not in done]
        own_sum = self.gradients[0, division.own] if self._is_allreduce else views[0]
        self._sum: Array = own_sum[: len(self.slice)]

        self.request: Callable[[], int] = int
        self._own_requests = self.gradients[:, count]
        self._total_requests = own_sum[len(self.slice) :][:1]  # on the one rank whose slice is the last
        self._all_requests = self._parameters[count : count + 1]
        self._own_squares: Array | None = None  # needed only to clip gradients
        self._exponents: NDArray[np.int64] | None = None  # needed only in portable arithmetic

        self.lane_comm: MPI.Intracomm | None = None
        self._uneven_nodes = division.uneven_nodes
        if world.nodes > 1:
            self._plan_messages(division, roots)
        world.node_barrier()

    def _plan_messages(self, division: Division, roots: list[list[int]]) -> None:
        """Prepare buffers, counts and displacements of a lane's two collectives. roots: subtree roots of each node."""
        from mpi4py import MPI

        world, places = self.world, division.places[division.lane]
        assert world.comm is not None
        self._in_place, self._max = MPI.IN_PLACE, MPI.MAX
        comm = world.comm.Split(division.lane if division.leads else MPI.UNDEFINED, key=world.node)
        if comm != MPI.COMM_NULL:
            self.lane_comm = comm  # type: ignore[assignment]
        widths = [place.stop - place.start for place in places]
        others = [int(node != world.node) for node in range(world.nodes)]
        rows = [self._rows[root - division.runs[world.node].start] for root in roots[world.node]]
        send_counts = [other * len(rows) * width for other, width in zip(others, widths, strict=True)]
        receive_counts = [other * len(each) * widths[world.node] for other, each in zip(others, roots, strict=True)]
        self._packing: list[tuple[Array, Array]] = []
        if len(rows) == 1:
            # A single root is sent from where it is.
            buffer, send_places = rows[0], [place.start for place in places]
        else:
            buffer, send_places = np.empty(sum(send_counts), self._rows.dtype), starts(send_counts)
            for start, size, place in zip(send_places, send_counts, places, strict=True):
                if size:
                    targets = buffer[start : start + size].reshape(len(rows), -1)
                    self._packing += [(target, row[place]) for target, row in zip(targets, rows, strict=True)]
        self._send = [buffer, (send_counts, send_places)]
        self._receive = [self._received[division.lane].reshape(-1), (receive_counts, starts(receive_counts))]
        whole = self._parameters[places[0].start : places[-1].stop]
        self._lane_parameters = [whole, (widths, starts(widths))]
        largest = max(sum(send_counts), sum(receive_counts), whole.size)
        if world.total(np.array([largest > LARGEST_COUNT], np.int64))[0]:
            raise InputError(
                "--hidden",
                f"{len(self.parameters):,} parameters make messages of more than {LARGEST_COUNT:,} numbers",
                "use more ranks per node, or a smaller network",
                on_every_rank=True,
            )

    def reduce_scatter(self) -> Array:
        """The sum of all shards' gradients, for this rank's slice of the parameters."""
        self._own_requests.fill(0)
        self._own_requests[:1] = self.request()  # a rank may have no shard
        if self._is_allreduce:
            self._add_by_allreduce()
        else:
            self._add_by_tree()
        self._lap("exchange")
        return self._sum

    def _add_by_allreduce(self) -> None:
        """Add the rows of this rank, then let MPI add the sums of all ranks; both over all columns."""
        own, *others = self.gradients
        for other in others:
            np.add(own, other, out=own)
        self.world.total(own)

    def _add_by_tree(self) -> None:
        """Add the rows of all shards in the order of the fixed tree, each rank over its own columns in the end."""
        for left, right in self._own_tree:
            np.add(left, right, out=left)
        self._lap("exchange")
        self.world.node_barrier()
        self._lap("waiting")
        for left, right in self._node_tree:
            np.add(left, right, out=left)
        if self.world.nodes > 1:
            if self._uneven_nodes:
                self.world.node_barrier()
            if self.lane_comm is not None:
                for place, root in self._packing:
                    np.copyto(place, root)
                self.world.wait(self.lane_comm.Ialltoallv(self._send, self._receive))
            if self._uneven_nodes:
                self.world.node_barrier()
            for left, right in self._final_tree:
                np.add(left, right, out=left)

    def maximum(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """The elementwise maximum of all ranks' small vectors of integers, of the same length at every call.

        Overwritten by the next call.
        """
        if self.world.size == 1 or not len(own):
            return own
        if self._exponents is None:
            lines = -(-len(own) // LINE)
            self._exponents = self.world.shared((1 + self.world.node_size, lines * LINE), np.int64)
            self._largest_exponents = np.empty_like(own)
        self._exponents[1 + self.world.node_rank, : len(own)] = own
        self._lap("exchange")
        self.world.node_barrier()
        self._lap("waiting")
        largest = np.maximum.reduce(self._exponents[1:, : len(own)], axis=0, out=self._largest_exponents)
        if self.world.nodes > 1:
            if self.lane_comm is not None:
                self.world.wait(self.lane_comm.Iallreduce(self._in_place, largest, self._max))
            if self._uneven_nodes:  # some ranks lead no lane; rank 0 of a node always does
                if self.world.node_rank == 0:
                    self._exponents[0, : len(own)] = largest
                self.world.node_barrier()
                largest[:] = self._exponents[0, : len(own)]
        self._lap("exchange")
        return largest

    def squared_norm(self, gradient_sum: Array) -> float:
        """The sum of squares, over all parameters, of the slices that `reduce_scatter` returned.

        The squares of each block are rounded to a grid of their own before they are added, and the blocks' sums are
        added with a single rounding, so no order of additions matters.
        """
        if self._own_squares is None:
            self._squares = np.zeros(-(-(len(self.parameters) + 1) // BLOCK))
            own = -(-len(gradient_sum) // BLOCK)
            self._own_squares = self._squares[self.columns.start // BLOCK :][:own]
            self._blocks = np.zeros((own, BLOCK))
            self._round_blocks = Rounding(self._blocks, 1, product_bits(BLOCK), np.empty_like(self._blocks))
        flat = self._blocks.reshape(-1)[: len(gradient_sum)]
        np.multiply(gradient_sum, gradient_sum, flat, dtype=np.float64)
        self._round_blocks()
        self._squares.fill(0)
        np.add.reduce(self._blocks, axis=1, out=self._own_squares)  # portable: on the grid of their block
        return math.fsum(self.world.total(self._squares))

    def allgather(self) -> None:
        """Make each rank's updated slice visible to all ranks."""
        if len(self._total_requests):
            self._all_requests[:] = self._total_requests
        if self.world.nodes > 1:
            if self._uneven_nodes:
                self.world.node_barrier()
            if self.lane_comm is not None:
                self.world.wait(self.lane_comm.Iallgatherv(self._in_place, self._lane_parameters))
            self._lap("exchange")
        self.world.node_barrier()
        self._lap("waiting")

    @property
    def requests(self) -> int:
        """The sum of all ranks' requests of the last step."""
        return int(self._all_requests[0])

    def gather(self, part: Array) -> Array | None:
        """The vector (N,) of which each rank passes its slice; None except on rank 0."""
        comm = self.world.comm
        if comm is None:
            return part.copy()
        whole = np.empty(len(self.parameters), part.dtype) if self.world.rank == 0 else None
        comm.Gatherv(part, self._in_slices(comm, whole))
        return whole

    def scatter(self, whole: Array | None, part: Array) -> None:
        """Fill each rank's slice `part` from a vector (N,) on rank 0. whole: None on other ranks."""
        comm = self.world.comm
        if comm is None:
            part[:] = whole
        else:
            comm.Scatterv(self._in_slices(comm, whole), part)

    def _in_slices(self, comm: MPI.Intracomm, whole: Array | None) -> list[Any] | None:
        """A message for MPI: the vector, and each rank's count and start in it; None except on rank 0."""
        runs = comm.allgather((len(self.slice), self.columns.start))
        return None if whole is None else [whole, tuple(zip(*runs, strict=True))]

    def close(self) -> Array:
        """A copy of the parameters in this rank's own memory. Frees the communicator."""
        parameters: Array = self.parameters.copy()
        if self.lane_comm is not None:
            self.lane_comm.Free()
        return parameters


def starts(counts: list[int]) -> list[int]:
    """The start of each of consecutive runs of these lengths."""
    return [0, *accumulate(counts)][:-1]
