"""Ownership and transfer of columns."""

from hypothesis import given
from hypothesis import strategies as st

from distnet.nn.parameters import BLOCK
from distnet.parallel.partition import divide, slice_order

NODE_SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def all_ranks(node_sizes):
    return [(node, node_rank) for node, size in enumerate(node_sizes) for node_rank in range(size)]


@given(NODE_SIZES)
def test_every_rank_owns_one_slice_and_every_lane_has_ranks_of_every_node(node_sizes):
    order = slice_order(node_sizes)
    assert sorted(owner[1:] for owner in order) == all_ranks(node_sizes)
    for lane in range(min(node_sizes)):
        nodes = [owner.node for owner in order if owner.lane == lane]
        assert nodes == sorted(nodes)
        assert set(nodes) == set(range(len(node_sizes)))


@given(NODE_SIZES, st.integers(1, 40 * BLOCK), st.integers(36, 70))
def test_slices_cover_every_column_once_and_so_do_a_nodes_additions(node_sizes, columns, shards):
    divisions = {each: divide(columns, shards, node_sizes, *each) for each in all_ranks(node_sizes)}
    own = sorted((d.own.start, d.own.stop) for d in divisions.values() if d.own.start < d.own.stop)
    assert [start for start, _ in own] + [columns] == [0] + [stop for _, stop in own]
    assert all(start % BLOCK == 0 for start, _ in own)
    for node in range(len(node_sizes)):
        adds = sorted(
            (d.adds.start, d.adds.stop)
            for each, d in divisions.items()
            if each[0] == node and d.adds.start < d.adds.stop
        )
        assert [start for start, _ in adds] + [columns] == [0] + [stop for _, stop in adds]


@given(NODE_SIZES, st.integers(1, 40 * BLOCK), st.integers(36, 70))
def test_a_lane_has_one_leader_a_node_and_holds_the_slices_of_its_ranks(node_sizes, columns, shards):
    divisions = {each: divide(columns, shards, node_sizes, *each) for each in all_ranks(node_sizes)}
    leaders = sorted((d.lane, node) for (node, _), d in divisions.items() if d.leads)
    assert leaders == [(lane, node) for lane in range(min(node_sizes)) for node in range(len(node_sizes))]
    for (node, _), d in divisions.items():
        place = d.places[d.lane][node]
        assert place.start <= d.own.start <= d.own.stop <= place.stop
    assert [shard for run in divisions[0, 0].runs for shard in run] == list(range(shards))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40 * BLOCK))
def test_on_equal_nodes_every_rank_transfers_its_own_slice_alone(nodes, ranks, columns):
    for node, node_rank in all_ranks([ranks] * nodes):
        d = divide(columns, 32, [ranks] * nodes, node, node_rank)
        assert d.leads
        assert not d.uneven_nodes
        assert d.own == d.places[d.lane][node]
