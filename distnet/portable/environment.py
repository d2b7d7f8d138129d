"""A test of what portable arithmetic needs of the processor, NumPy and its BLAS, in microseconds."""

import math
from functools import cache

import numpy as np

from distnet.portable.grids import product_bits
from distnet.runtime.errors import InputError

HARD_FRACTIONS = ((1.0, 3.0), (2.0, 7.0), (9007199254740991.0, 9007199254740992.0), (5e-324, 0.75), (1e308, 3e-5))
HARD_ROOTS = (2.0, 3.0, 0.1, 9007199254740991.0, 1e-310, 1.7976931348623157e308)
TERMS = 64  # of the product at the bound


@cache
def find_deviation() -> str:
    """What this environment computes otherwise than IEEE 754 says, or "" where nothing is found.

    Tests subnormal numbers, single rounding in double precision, division, square roots, and a product of matrices at
    the largest sums that are exact.
    """
    with np.errstate(all="ignore"):
        least = np.full(9, 5e-324)  # more than a vector unit holds at once
        if not (np.array_equal(least + 0.0, least) and np.array_equal(least * 1.0, least)):
            return "subnormal numbers are flushed to zero"
        if not np.array_equal(np.full(9, 1e16) + 2.9999, np.full(9, 1e16) + 2.0):
            return "sums have more than 53 bits before they are rounded"
        for a, b in HARD_FRACTIONS:
            if not np.array_equal(np.full(9, a) / np.full(9, b), [a / b] * 9):
                return f"{a!r} / {b!r} is not correctly rounded"
        for a in HARD_ROOTS:
            if not np.array_equal(np.sqrt(np.full(9, a)), [math.sqrt(a)] * 9):
                return f"the square root of {a!r} is not correctly rounded"
    bits = product_bits(TERMS)
    left, right = 1 << bits // 2, 1 << bits - bits // 2
    pattern = np.arange(TERMS * TERMS, dtype=np.int64).reshape(TERMS, TERMS) * 2654435761
    factor, other = left - pattern % 1024, right - pattern // 7 % 1024
    factor[::2, 1::3] *= -1
    expected = sum(factor[:, k, None] * other[k] for k in range(TERMS))  # portable: integers
    if not np.array_equal(factor.astype(np.float64) @ other.astype(np.float64), expected):  # portable: what is tested
        return "the BLAS rounds a product of matrices that is exact"
    return ""


def check_environment(deviation: str) -> None:
    """Raise InputError (on every rank) for what `find_deviation` found."""
    if deviation:
        raise InputError(
            "--arithmetic portable",
            f"would have other bits here than elsewhere: {deviation}",
            "use --arithmetic native, or another NumPy or BLAS",
            on_every_rank=True,
        )
