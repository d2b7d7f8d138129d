"""Which rows and shards belong to whom, and the order in which shards are added: pure arithmetic.

Nothing here depends on the number of ranks except who owns what, and that is why no bit of the result does.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

DEFAULT_SHARDS = 4
VALUES_AT_ONCE = 1 << 20  # what a pass over a table copies


def default_shards(ranks: int) -> int:
    """The number of shards where none is asked for: 4, or the next power of two that is at least `ranks`."""
    return max(DEFAULT_SHARDS, 1 << (ranks - 1).bit_length())


def share(count: int, owner: int, owners: int) -> range:
    """The contiguous run of `count` things that is `owner`'s, of `owners`; runs differ by one at most."""
    return range(count * owner // owners, count * (owner + 1) // owners)


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """All rows in runs of so many that a pass needs little memory; the same for the same shape."""
    step = max(VALUES_AT_ONCE // max(columns, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def shard_rows(batch_size: int, shards: int) -> int:
    """Rows in every shard of a mini-batch, m = ceil(B / S); the last shards are filled up with padding."""
    return -(-batch_size // shards)


def real_rows(batch_size: int, rows: int, shard: int) -> int:
    """How many leading rows of shard `shard` are samples; the others, up to `rows`, are padding."""
    return min(max(batch_size - shard * rows, 0), rows)


class Add(NamedTuple):
    """One addition of the tree, rows[left] += rows[right]; then row `left` is the sum of left ... stop - 1."""

    left: int
    right: int
    stop: int


def tree(shards: int) -> list[Add]:
    """The fixed binary tree that adds `shards` rows, as additions in order; afterwards row 0 is the sum.

    Level j adds row i + 2^j to row i for every i that is a multiple of 2^(j+1), where both are there. So
    every aligned run of 2^j rows is a complete subtree.
    """
    adds = []
    stride = 1
    while stride < shards:
        for left in range(0, shards - stride, 2 * stride):
            adds.append(Add(left, left + stride, min(left + 2 * stride, shards)))
        stride *= 2
    return adds


def adds_within(adds: Sequence[Add], run: range) -> list[Add]:
    """The additions that a node can do by itself, which holds the rows of `run`."""
    return [add for add in adds if run.start <= add.left and add.stop <= run.stop]


def roots_within(adds: Sequence[Add], run: range) -> list[int]:
    """The rows of `run` that are left after its additions: roots of the largest complete subtrees in it."""
    added = {add.right for add in adds_within(adds, run)}
    return [row for row in run if row not in added]
