"""Which rows and shards belong to whom, and the order in which shards are added: pure arithmetic.

Nothing here depends on the number of ranks except who owns what, and that is why no bit of the result does.
"""

DEFAULT_SHARDS = 4


def default_shards(ranks: int) -> int:
    """The number of shards where none is asked for: 4, or the next power of two that is at least `ranks`."""
    return max(DEFAULT_SHARDS, 1 << (ranks - 1).bit_length())


def share(count: int, owner: int, owners: int) -> range:
    """The contiguous run of `count` things that is `owner`'s, of `owners`; runs differ by one at most."""
    return range(count * owner // owners, count * (owner + 1) // owners)


def shard_rows(batch_size: int, shards: int) -> int:
    """Rows in every shard of a mini-batch, m = ceil(B / S); the last shards are filled up with padding."""
    return -(-batch_size // shards)


def real_rows(batch_size: int, rows: int, shard: int) -> int:
    """How many leading rows of shard `shard` are samples; the others, up to `rows`, are padding."""
    return min(max(batch_size - shard * rows, 0), rows)


def tree_levels(shards: int) -> list[tuple[slice, slice]]:
    """The fixed binary tree that adds `shards` rows: at each level, rows[left] += rows[right].

    Level j adds row i + 2^j to row i for every i that is a multiple of 2^(j+1), where both are there. After
    the last level row 0 is the sum. Every aligned run of 2^j rows is a complete subtree.
    """
    levels = []
    stride = 1
    while stride < shards:
        levels.append((slice(0, shards - stride, 2 * stride), slice(stride, shards, 2 * stride)))
        stride *= 2
    return levels
