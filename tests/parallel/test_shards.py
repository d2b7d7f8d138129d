"""Ownership of shards, and the order in which they are added."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distnet.parallel import shards


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_shares_cover_everything_once_and_differ_by_one_at_most(count, owners):
    runs = [shards.share(count, owner, owners) for owner in range(owners)]
    assert [i for run in runs for i in run] == list(range(count))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


@given(st.integers(1, 5_000), st.integers(1, 100))
def test_every_row_of_a_mini_batch_is_in_one_shard(batch_size, count):
    rows = shards.shard_rows(batch_size, count)
    real = [shards.real_rows(batch_size, rows, shard) for shard in range(count)]
    assert sum(real) == batch_size
    assert all(0 <= r <= rows for r in real)
    assert real == sorted(real, reverse=True)


@given(st.integers(1, 300))
def test_the_tree_adds_every_shard_once(count):
    rows = np.arange(count)
    for add in shards.tree(count):
        rows[add.left] += rows[add.right]
    assert rows[0] == count * (count - 1) // 2
    assert len(shards.tree(count)) == count - 1


@given(st.integers(1, 100), st.data())
def test_nodes_add_their_own_subtrees_first_and_the_sum_has_the_same_bits(count, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    values = np.random.default_rng(count).normal(size=count)
    whole, cut = values.copy(), values.copy()
    adds = shards.tree(count)
    for add in adds:
        whole[add.left] += whole[add.right]
    runs = [range(start, stop) for start, stop in pairwise([0, *cuts, count])]
    left_over = list(adds)
    for run in runs:
        for add in shards.adds_within(adds, run):
            cut[add.left] += cut[add.right]
            left_over.remove(add)
    roots = {root for run in runs for root in shards.roots_within(adds, run)}
    assert {add.left for add in left_over} | {add.right for add in left_over} <= roots
    for add in left_over:
        cut[add.left] += cut[add.right]
    assert cut[0] == whole[0]


@given(st.integers(0, 6), st.integers(0, 30))
def test_an_aligned_run_of_shards_has_one_root(power, number):
    adds = shards.tree(64 * 31)
    assert shards.roots_within(adds, range(number << power, (number + 1) << power)) == [number << power]
