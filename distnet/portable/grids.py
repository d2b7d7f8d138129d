"""Grids: numbers rounded to multiples of one power of two, whose sums and products are exact.

A float64 holds any multiple of 2^g below 2^(g + 53). So numbers that are multiples of 2^(e - b) and at most 2^e in
magnitude add without rounding as long as b + log2(terms) <= 53: in any order, with any vector unit and any BLAS.
Source: Ozaki, Ogita, Oishi, Rump 2012, "Error-free transformations of matrix multiplication by using fast routines of
matrix multiplication and its applications".
"""

import math
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]  # of float64

SIGNIFICAND = 53  # bits of a float64
MOST_BITS = 51  # of a rounded number: the constant that rounds takes two
LEAST, MOST = -250, 250  # exponents of grids; smaller numbers share the least, larger ones have diverged
NOT_FINITE = 2000  # the exponent of an array that holds NaN or something too large

EXPONENT_SHIFT = np.array(52)  # moves the exponent of a float64, as an integer, to the right end
BIAS = 1022  # m < 2^(e - BIAS) for this exponent e of m
FIRST = np.zeros(1, np.intp)


def sum_bits(terms: int) -> int:
    """Bits by which a sum of so many terms may be longer than its terms."""
    return (terms - 1).bit_length()


def product_bits(terms: int) -> int:
    """Bits that both factors together may have, b1 + b2, so that a sum of so many products is exact."""
    return SIGNIFICAND - sum_bits(terms)


def rounding_constant(exponent: int, bits: int) -> float:
    """c, with which `round_to` rounds to multiples of 2^(exponent - bits), for |x| <= 2^exponent.

    bits: at most MOST_BITS. The error is at most half a multiple, 2^(exponent - bits - 1). Infinite, so that `round_to`
    gives NaN, for exponents above MOST.
    """
    return math.ldexp(1.5, SIGNIFICAND - 1 + max(exponent, LEAST) - bits) if exponent <= MOST else math.inf


def round_to(x: Floats, constant: Floats | float, out: Floats) -> Floats:
    """Round x to the grid of a rounding constant, which broadcasts against it. out: may be x itself."""
    np.add(x, constant, out)  # two ufuncs, so that nothing fuses them
    np.subtract(out, constant, out)
    return out


@cache
def powers_above(least: int = LEAST) -> Floats:
    """The powers of two above numbers m, by the exponent of m as `EXPONENT_SHIFT` leaves it, (2048,).

    2^e with 2^(e - 1) <= m < 2^e and e at least `least`. Infinite, so that `round_to` gives NaN, where m is NaN or at
    least 2^MOST. Take them with "wrap": the sign of NaN is shifted, too.
    """
    exponents = np.maximum(np.arange(2048) - BIAS, least)
    return np.where(np.less(MOST, exponents), np.inf, np.ldexp(1.0, np.minimum(exponents, MOST)))


@cache
def rounding_constants(bits: int, least: int = LEAST) -> Floats:
    """The rounding constants of so many bits in place of the `powers_above`."""
    return powers_above(least) * math.ldexp(1.5, SIGNIFICAND - 1 - min(bits, MOST_BITS))


class Rounding:
    """Rounds x in place, each of its rows to `bits` bits of the row's largest magnitude.

    axis: the one along which a row lies. scratch: at least as many elements as x. least: the exponent that a row has at
    least. A row with NaN or something of 2^MOST or more becomes NaN.
    """

    def __init__(self, x: Floats, axis: int, bits: int, scratch: Floats, least: int = LEAST) -> None:
        self.x, self.scratch = x, scratch.reshape(-1)[: x.size].reshape(x.shape)
        maxima, self.constants = np.empty((2, *(1 if place == axis else size for place, size in enumerate(x.shape))))
        self.exponents = maxima.view(np.int64)
        self.look_up = partial(rounding_constants(bits, least).take, self.exponents, None, self.constants, "wrap")
        self.find_maxima = partial(np.maximum.reduce, self.scratch, axis, None, maxima, True, 0.0)
        if axis == x.ndim - 1 and x.shape[axis]:  # much faster at short rows, much slower along other axes
            self.find_maxima = partial(np.maximum.reduceat, self.scratch, FIRST, axis, None, maxima)

    def __call__(self) -> None:
        """Round."""
        x, scratch = self.x, self.scratch
        np.abs(x, scratch)
        self.find_maxima()
        np.right_shift(self.exponents, EXPONENT_SHIFT, self.exponents)
        self.look_up()
        np.copyto(scratch, self.constants)  # adding arrays of one shape is far faster than broadcasting
        np.add(x, scratch, x)
        np.subtract(x, scratch, x)


def exponent_above(maximum: float) -> int:
    """The smallest e >= LEAST with maximum < 2^e; NOT_FINITE for NaN and for 2^MOST or more."""
    if not maximum < math.ldexp(1.0, MOST):
        return NOT_FINITE
    return max(math.frexp(maximum)[1], LEAST) if maximum else LEAST  # portable: integers


def exact_sum(x: Floats, axis: int = 0) -> Floats:
    """The sum of float64 numbers along an axis, the same bits in any order of additions.

    x is cut into two slices on grids of its largest magnitudes m along the axis; their sums are exact. The error is at
    most n^3 2^-104 m, for n terms, and one rounding; m counts as 2^-198 at least. NaN where x holds NaN or something of
    2^MOST or more.
    """
    bits = min(MOST_BITS, SIGNIFICAND - sum_bits(max(x.shape[axis], 1)))
    total, rest, rounded = 0.0, np.array(x), np.empty(x.shape)
    for _ in range(2):
        np.abs(rest, rounded)
        maxima = np.maximum.reduce(rounded, axis=axis, keepdims=True, initial=0.0)
        if maxima.size == 1:  # as a number, which is faster
            constants: Floats | float = rounding_constant(exponent_above(maxima.item()), bits)
        else:
            exponents = np.right_shift(maxima.view(np.int64), EXPONENT_SHIFT)
            constants = rounding_constants(bits).take(exponents, mode="wrap")
        round_to(rest, constants, rounded)
        np.subtract(rest, rounded, rest)
        total = total + np.add.reduce(rounded, axis)  # portable: slices on grids
    return np.asarray(total)
