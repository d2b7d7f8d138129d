"""Which rows to hold out: the same share of every class, drawn from a seed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def draw_held_out(codes: Rows, count: int, seed: Sequence[int]) -> tuple[Rows, Rows]:
    """`count` rows to hold out, and the other rows, both in random order.

    codes: (rows,), the class of each row. Where there is room, every class of two rows or more has a row on either
    side, and beyond that its share of `count`.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(codes))
    sizes = np.bincount(codes)
    quota = held_out_per_class(sizes, count, draw)
    # The place of each row among those of its class, in the order drawn.
    grouped = np.argsort(codes[order], kind="stable")
    places = np.empty_like(order)
    places[grouped] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = places < quota[codes[order]]
    return order[held], order[~held]


def held_out_per_class(sizes: Rows, count: int, draw: np.random.Generator) -> Rows:
    """How many rows of each class to hold out, `count` in all, for classes of these sizes."""
    present = np.count_nonzero(sizes)
    exact = sizes * (count / sizes.sum())
    low = np.minimum(sizes - 1, 1).clip(0) if count >= present else np.zeros_like(sizes)
    high = (sizes - 1).clip(low) if sizes.sum() - count >= present else sizes
    quota = np.floor(exact).astype(np.int64).clip(low, high)
    chance = draw.permutation(len(sizes)) / (2 * len(sizes))  # between classes that want a row alike
    while missing := count - int(quota.sum()):
        step = 1 if missing > 0 else -1
        room = quota < high if step > 0 else quota > low
        if not room.any():  # classes of one row fill what is left
            low, high = np.zeros_like(sizes), sizes
            continue
        want = np.where(room, step * (exact - quota) + chance * 1e-6, -np.inf)
        quota[want.argmax()] += step
    return np.asarray(quota, np.int64)


def find_single(codes: Rows) -> int | None:
    """A class that has one row alone, which can't be on both sides of a split."""
    single = np.flatnonzero(np.bincount(codes) == 1)
    return int(single[0]) if single.size else None
