"""Which rank computes which shards, and the order in which shards are added: pure arithmetic.

Only ownership depends on the number of ranks; that is why no bit of the result does.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

VALUES_AT_ONCE = 1 << 20  # values that a pass over a table copies at once


def share(count: int, owner: int, owners: int) -> range:
    """The contiguous run of `count` items that owner number `owner` of `owners` has; lengths differ by at most one."""
    return range(count * owner // owners, count * (owner + 1) // owners)


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """All rows, in runs short enough that a pass needs little memory; they depend on the shape only."""
    step = max(VALUES_AT_ONCE // max(columns, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def shard_rows(batch_size: int, shards: int) -> int:
    """Rows of each shard of a mini-batch, m = ceil(B / S); the last shards are padded."""
    return -(-batch_size // shards)


def real_rows(batch_size: int, rows: int, shard: int) -> int:
    """The number of leading rows of shard `shard` that are samples; the others, up to `rows`, are padding."""
    return min(max(batch_size - shard * rows, 0), rows)


class Add(NamedTuple):
    """An addition of the tree, rows[left] += rows[right]; row `left` is then the sum of rows left ... stop - 1."""

    left: int
    right: int
    stop: int


def tree(shards: int) -> list[Add]:
    """The additions of the fixed binary tree over `shards` rows, in order; row 0 is the sum in the end.

    Level j adds row i + 2^j to row i for every multiple i of 2^(j+1), if both rows exist. So every aligned run of 2^j
    rows is a complete subtree.
    """
    adds = []
    stride = 1
    while stride < shards:
        for left in range(0, shards - stride, 2 * stride):
            adds.append(Add(left, left + stride, min(left + 2 * stride, shards)))
        stride *= 2
    return adds


def adds_within(adds: Sequence[Add], run: range) -> list[Add]:
    """The additions that need only the rows of `run`."""
    return [add for add in adds if run.start <= add.left and add.stop <= run.stop]


def roots_within(adds: Sequence[Add], run: range) -> list[int]:
    """The rows of `run` that remain after `adds_within`: roots of the largest complete subtrees in it."""
    added = {add.right for add in adds_within(adds, run)}
    return [row for row in run if row not in added]
