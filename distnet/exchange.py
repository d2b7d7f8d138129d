"""Gradients in, updated parameters out: reduce-scatter, fixed tree, allgather.

The ranks of a node share one array of parameters and one row of gradients for each of the node's shards.
Each rank adds rows over some of the columns and updates its own slice of the parameters; within a node
nothing is copied. Between nodes, ranks send the roots of their node's subtrees to the owners of the columns,
and updated slices back.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from distnet.errors import input_error_on_every_rank
from distnet.functional import Array
from distnet.layers import BLOCK
from distnet.shards import adds_within, roots_within, share, slice_order, tree
from distnet.world import World

if TYPE_CHECKING:
    from mpi4py import MPI

LARGEST_COUNT = 2**31 - 1  # numbers in one message, a C int


class Exchange:
    """The parameters, the gradients of all shards, and the two collectives between them.

    initial: (N,) the parameters to start from, the same on every rank. shards: S, at least as many as ranks.
    parameters: (N,), one array a node. columns: this rank's slice of them, whole blocks but for the end of
    the vector. gradients: (own shards, at least N), the rows for this rank's shards `own`, to be filled
    before `reduce_scatter`.
    ask: a small whole number of this rank's; every step adds those of all ranks up, and `asked` is the sum,
    the same on every rank. It rides along behind the parameters, so that ranks can agree to stop at the
    same step without a message more.
    lane_comm: one rank of every node, which transfer the columns of one lane between them; None on the
    others, and where there is one node.
    Raises InputError, on every rank, for a network too large for MPI's counts.
    Collective: yes, the constructor and every method.
    """

    def __init__(self, world: World, initial: Array, shards: int) -> None:
        self.world = world
        self._count = count = len(initial)
        dtype = initial.dtype
        total = count + 1  # the parameters, and what ranks ask
        blocks = -(-total // BLOCK)
        self.ask = 0.0
        order = slice_order(world.node_sizes)

        def columns_of(lane: int, node: int | None = None, node_rank: int | None = None) -> slice:
            """The run of columns of a lane, of a node in it, or of one rank of that node."""
            own = [i for i, each in enumerate(order) if each.lane == lane and node in (None, each.node)]
            own = [i for i in own if node_rank in (None, order[i].node_rank)]
            runs = [share(blocks, i, len(order)) for i in own]
            return slice(min(runs[0].start * BLOCK, total), min(runs[-1].stop * BLOCK, total))

        lane, _, _ = next(each for each in order if each[1:] == (world.node, world.node_rank))
        here = columns_of(lane, world.node)
        whole = columns_of(lane, world.node, world.node_rank)
        self.columns = slice(min(whole.start, count), min(whole.stop, count))
        nodes = range(world.nodes)
        first_ranks = list(accumulate(world.node_sizes, initial=0))
        runs = [
            range(
                share(shards, first_ranks[node], world.size).start,
                share(shards, first_ranks[node + 1] - 1, world.size).stop,
            )
            for node in nodes
        ]
        adds, run = tree(shards), runs[world.node]
        roots = [roots_within(adds, each) for each in runs]

        # Memory that the ranks of a node share.
        self.own = share(shards, world.rank, world.size)
        self._rows = world.shared((len(run), blocks * BLOCK), dtype)
        self._parameters = world.shared((blocks * BLOCK,), dtype)
        others = [(node, root) for node in nodes if node != world.node for root in roots[node]]
        lanes = sorted({each.lane for each in order})
        widths = [columns_of(each, world.node) for each in lanes]
        self._received = [world.shared((len(others), w.stop - w.start), dtype) for w in widths]
        self.gradients = self._rows[self.own.start - run.start : self.own.stop - run.start]
        self.parameters = self._parameters[:count]
        self.slice = self.parameters[self.columns]
        self._asks = self.gradients[:, count]
        if world.node_rank == 0:
            self.parameters[:] = initial

        # Additions within the node, over this rank's part of its lane.
        members = [each.node_rank for each in order if each.lane == lane and each.node == world.node]
        whole_lane = columns_of(lane)
        lane_blocks = -(-(whole_lane.stop - whole_lane.start) // BLOCK)
        part = share(lane_blocks, members.index(world.node_rank), len(members))
        mine = slice(
            whole_lane.start + part.start * BLOCK,
            min(whole_lane.start + part.stop * BLOCK, whole_lane.stop),
        )
        self._node_tree = [
            (self._rows[add.left - run.start, mine], self._rows[add.right - run.start, mine])
            for add in adds_within(adds, run)
        ]

        # Additions between nodes, over this rank's slice.
        received = self._received[lane][:, whole.start - here.start : whole.stop - here.start]
        views = {root: received[i] for i, (_, root) in enumerate(others)}
        views |= {root: self._rows[root - run.start, whole] for root in roots[world.node]}
        done = {add for each in runs for add in adds_within(adds, each)}
        self._final_tree = [(views[add.left], views[add.right]) for add in adds if add not in done]
        self._sum: Array = views[0][: len(self.slice)]
        self._total_asked = views[0][len(self.slice) :][:1]  # on the one rank whose slice is the last
        self._asked = self._parameters[count : count + 1]

        self._squares = np.zeros(blocks)
        self._own_squares = self._squares[self.columns.start // BLOCK : -(-self.columns.stop // BLOCK)]

        self.lane_comm: MPI.Intracomm | None = None
        self._crowded = len(set(world.node_sizes)) > 1  # some rank transfers what others of its node own
        if world.nodes > 1:
            self._plan_messages(lane, members[0], [columns_of(lane, node) for node in nodes], roots, run)
        world.node_barrier()

    def _plan_messages(self, lane: int, leader: int, places: list[slice], roots: list[list[int]], run: range) -> None:
        """Buffers, counts and displacements of the two collectives of a lane. Collective.

        places: each node's columns in the lane.
        """
        from mpi4py import MPI

        world, dtype = self.world, self._rows.dtype
        assert world.comm is not None
        self._in_place = MPI.IN_PLACE
        comm = world.comm.Split(lane if world.node_rank == leader else MPI.UNDEFINED, key=world.node)
        if comm != MPI.COMM_NULL:
            self.lane_comm = comm  # type: ignore[assignment]
        widths = [place.stop - place.start for place in places]
        mine = widths[world.node]
        own_roots = roots[world.node]
        there = [0 if node == world.node else len(each) for node, each in enumerate(roots)]
        receive_counts = [number * mine for number in there]
        if len(own_roots) == 1:
            # The one root is sent from where it is.
            send_counts = [0 if node == world.node else width for node, width in enumerate(widths)]
            send_places = [place.start for place in places]
            buffer = self._rows[own_roots[0] - run.start]
            self._packing: list[tuple[Array, Array]] = []
        else:
            send_counts = [0 if node == world.node else len(own_roots) * width for node, width in enumerate(widths)]
            send_places = [0, *accumulate(send_counts)][:-1]
            buffer = np.empty(sum(send_counts), dtype)
            self._packing = [
                (
                    buffer[start : start + size].reshape(len(own_roots), -1)[i],
                    self._rows[root - run.start, place],
                )
                for start, size, place in zip(send_places, send_counts, places, strict=True)
                if size
                for i, root in enumerate(own_roots)
            ]
        self._send = [buffer, (send_counts, send_places)]
        self._receive = [
            self._received[lane].reshape(-1),
            (receive_counts, [0, *accumulate(receive_counts)][:-1]),
        ]
        whole = self._parameters[places[0].start : places[-1].stop]
        self._lane_parameters = [whole, (widths, [place.start - places[0].start for place in places])]
        largest = max(sum(send_counts), sum(receive_counts), whole.size)
        if world.total(np.array([largest > LARGEST_COUNT], np.int64))[0]:
            raise input_error_on_every_rank(
                f"--hidden: {len(self.parameters):,} parameters make messages of more than {LARGEST_COUNT:,} "
                "numbers; use more ranks a node, or a smaller network"
            )

    def reduce_scatter(self) -> Array:
        """The gradients of all shards, added in the fixed tree, for this rank's slice of the parameters."""
        self._asks.fill(0)
        self._asks[0] = self.ask
        self.world.node_barrier()
        for left, right in self._node_tree:
            np.add(left, right, out=left)
        if self.world.nodes > 1:
            if self._crowded:
                self.world.node_barrier()
            if self.lane_comm is not None:
                for place, root in self._packing:
                    np.copyto(place, root)
                self.world.wait(self.lane_comm.Ialltoallv(self._send, self._receive))
            if self._crowded:
                self.world.node_barrier()
            for left, right in self._final_tree:
                np.add(left, right, out=left)
        return self._sum

    def squared_norm(self, gradient_sum: Array) -> float:
        """The sum of squares over all parameters of what `reduce_scatter` gave each rank.

        Blocks are summed by themselves and then in order, so that no bit depends on who owns which.
        """
        self._squares.fill(0)
        whole = len(gradient_sum) // BLOCK
        blocks = gradient_sum[: whole * BLOCK].reshape(whole, BLOCK)
        self._own_squares[:whole] = np.vecdot(blocks, blocks)
        if rest := gradient_sum[whole * BLOCK :].size:
            self._own_squares[whole] = np.dot(gradient_sum[-rest:], gradient_sum[-rest:])
        return float(self.world.total(self._squares).sum())

    def allgather(self) -> None:
        """Every rank has updated its slice; afterwards all of them see all of the parameters."""
        if len(self._total_asked):
            self._asked[:] = self._total_asked
        if self.world.nodes > 1:
            if self._crowded:
                self.world.node_barrier()
            if self.lane_comm is not None:
                self.world.wait(self.lane_comm.Iallgatherv(self._in_place, self._lane_parameters))
        self.world.node_barrier()

    @property
    def asked(self) -> int:
        """The sum of what all ranks asked at the last step."""
        return int(self._asked[0])

    def gather(self, part: Array) -> Array | None:
        """A vector (N,) on rank 0 of which each rank has its slice; None on the others. Collective."""
        comm = self.world.comm
        if comm is None:
            return part.copy()
        whole = np.empty(self._count, part.dtype) if self.world.rank == 0 else None
        runs = comm.allgather((self.columns.stop - self.columns.start, self.columns.start))
        target = [whole, ([size for size, _ in runs], [start for _, start in runs])] if whole is not None else None
        comm.Gatherv(part, target)
        return whole

    def scatter(self, whole: Array | None, part: Array) -> None:
        """Fill each rank's slice of a vector (N,) that rank 0 has. Collective."""
        comm = self.world.comm
        if comm is None:
            part[:] = whole
            return
        runs = comm.allgather((self.columns.stop - self.columns.start, self.columns.start))
        source = [whole, ([size for size, _ in runs], [start for _, start in runs])] if whole is not None else None
        comm.Scatterv(source, part)

    def close(self) -> Array:
        """A copy of the parameters, of this rank's own, and the shared memory given back."""
        parameters: Array = self.parameters.copy()
        self.world.free(self._rows, self._parameters, *self._received)
        if self.lane_comm is not None:
            self.lane_comm.Free()
        return parameters
