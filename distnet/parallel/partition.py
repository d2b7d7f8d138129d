"""Which rank owns which columns of the flat vector, and which rank transfers them: pure arithmetic.

Every rank owns one slice. Slices are ordered by lane, and by node within a lane, so a lane is a run of columns, and so
is a node's place in it. There are as many lanes as the smallest node has ranks. In each lane, one rank of every node,
the leader, transfers its node's place. If all nodes have equally many ranks, every rank leads a lane and transfers only
its own slice.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from distnet.nn.parameters import BLOCK
from distnet.parallel.shards import share


class Owner(NamedTuple):
    """The owner of a slice."""

    lane: int
    node: int
    node_rank: int


def slice_order(node_sizes: Sequence[int]) -> list[Owner]:
    """The owners of all slices in order: by lane, then by node. node_sizes: the number of ranks of each node."""
    lanes = min(node_sizes)
    return sorted(
        Owner(node_rank * lanes // size, node, node_rank)
        for node, size in enumerate(node_sizes)
        for node_rank in range(size)
    )


class Division(NamedTuple):
    """One rank's part of the exchange.

    own: its slice. lane: the lane of this slice. leads: whether this rank transfers for its node in the lane.
    adds: the columns over which it adds the gradient rows of its node. places: [lane][node], the columns that a node
    owns in a lane. runs: [node], the shards whose gradients a node holds. uneven_nodes: whether
    nodes differ in their numbers of ranks: some ranks then transfer what others of their node own, and wait for them.
    """

    own: slice
    lane: int
    leads: bool
    adds: slice
    places: list[list[slice]]
    runs: list[range]
    uneven_nodes: bool


def divide(columns: int, shards: int, node_sizes: Sequence[int], node: int, node_rank: int) -> Division:
    """The part of rank `node_rank` of `node` in an exchange of `columns` columns and `shards` rows of gradients.

    Slices are whole blocks, except the last one.
    """
    order = slice_order(node_sizes)
    blocks = -(-columns // BLOCK)

    def in_blocks(run: range) -> slice:
        return slice(min(run.start * BLOCK, columns), min(run.stop * BLOCK, columns))

    owned = {owner: in_blocks(share(blocks, i, len(order))) for i, owner in enumerate(order)}
    lanes, nodes = range(min(node_sizes)), range(len(node_sizes))

    def place(lane: int, of_node: int) -> slice:
        there = [run for owner, run in owned.items() if owner[:2] == (lane, of_node)]
        return slice(there[0].start, there[-1].stop)

    places = [[place(lane, each) for each in nodes] for lane in lanes]
    me = next(owner for owner in order if owner[1:] == (node, node_rank))
    members = [owner.node_rank for owner in order if owner[:2] == me[:2]]
    first, last = places[me.lane][0].start // BLOCK, -(-places[me.lane][-1].stop // BLOCK)
    part = share(last - first, members.index(node_rank), len(members))
    ranks = list(accumulate(node_sizes, initial=0))
    runs = [
        range(share(shards, ranks[each], ranks[-1]).start, share(shards, ranks[each + 1] - 1, ranks[-1]).stop)
        for each in nodes
    ]
    return Division(
        own=owned[me],
        lane=me.lane,
        leads=node_rank == members[0],
        adds=in_blocks(range(first + part.start, first + part.stop)),
        places=places,
        runs=runs,
        uneven_nodes=len(set(node_sizes)) > 1,
    )
