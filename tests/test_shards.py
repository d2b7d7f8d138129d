"""Who owns what, and in which order shards are added."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distnet import shards


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_shares_cover_everything_once_and_differ_by_one_at_most(count, owners):
    runs = [shards.share(count, owner, owners) for owner in range(owners)]
    assert [i for run in runs for i in run] == list(range(count))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


@given(st.integers(1, 10_000))
def test_the_default_number_of_shards_is_a_power_of_two_of_at_least_four_and_the_ranks(ranks):
    default = shards.default_shards(ranks)
    assert default & (default - 1) == 0
    assert default >= max(4, ranks)
    assert default == 4 or default < 2 * ranks


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
    for left, right in shards.tree_levels(count):
        rows[left] += rows[right]
    assert rows[0] == count * (count - 1) // 2


@given(st.integers(1, 64), st.integers(0, 5))
def test_an_aligned_run_of_shards_is_a_complete_subtree(count, power):
    width = 2**power
    values = np.random.default_rng(count).normal(size=count)
    whole = values.copy()
    for left, right in shards.tree_levels(count)[:power]:
        whole[left] += whole[right]
    for start in range(0, count, width):
        part = values[start : start + width].copy()
        for left, right in shards.tree_levels(len(part)):
            part[left] += part[right]
        assert part[0] == whole[start]
