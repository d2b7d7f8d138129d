"""Grids: numbers rounded to multiples of one power of two, whose sums and products are exact.

A float64 holds any multiple of 2^g below 2^(g + 53). So numbers that are multiples of 2^(e - b) and at most 2^e in
magnitude add without rounding as long as b + log2(terms) <= 53: in any order, with any vector unit and any BLAS.
Source: Ozaki, Ogita, Oishi, Rump 2012, "Error-free transformations of matrix multiplication by using fast routines of
matrix multiplication and its applications".
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]  # of float64

SIGNIFICAND = 53  # bits of a float64
MOST_BITS = 51  # of a rounded number: the constant that rounds takes two
LEAST, MOST = -250, 250  # exponents of grids; smaller numbers share the least, larger ones have diverged
NOT_FINITE = 2000  # the exponent of an array that holds NaN or something too large

SMALLEST = math.ldexp(1.0, LEAST - 1)  # what the largest magnitude on a grid counts as, at least
# Zero-dimensional arrays: a ufunc takes them in a third of the time of a Python number.
EXPONENT_FIELD = np.array(0x7FF << 52)  # of a float64, as an integer
OVERFLOW, UNDO_OVERFLOW = np.array(math.ldexp(1.0, 1024 - MOST)), math.ldexp(1.0, MOST - 1023)


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


def powers_above(maxima: Floats, out: Floats, factor: float = 1.0) -> Floats:
    """`factor` 2^e with 2^(e - 1) <= m < 2^e per element m >= SMALLEST of `maxima`.

    Infinite, so that `round_to` gives NaN, where m is NaN or at least 2^MOST. out: contiguous; may be `maxima` itself.
    """
    words = out.view(np.int64)
    np.bitwise_and(maxima.view(np.int64), EXPONENT_FIELD, words)  # 2^(e - 1)
    np.multiply(out, OVERFLOW, out)
    np.multiply(out, np.array(UNDO_OVERFLOW * factor), out)
    return out


class Rounding:
    """Rounds x in place, each of its rows to `bits` bits of the row's largest magnitude.

    axis: the one along which a row lies. scratch: at least as many elements as x. least: what the largest magnitude
    of a row counts as, at least. A row with NaN or something of 2^MOST or more becomes NaN.
    """

    def __init__(self, x: Floats, axis: int, bits: int, scratch: Floats, least: float = SMALLEST) -> None:
        self.axis, self.least = axis, least
        self.x, self.magnitudes = x, scratch.reshape(-1)[: x.size].reshape(x.shape)
        self.constants = np.empty([1 if place == axis else size for place, size in enumerate(x.shape)])
        self.words = self.constants.view(np.int64)
        self.factor = np.array(UNDO_OVERFLOW * math.ldexp(1.5, SIGNIFICAND - 1 - min(bits, MOST_BITS)))

    def __call__(self) -> None:
        """Round."""
        x, constants = self.x, self.constants
        np.abs(x, self.magnitudes)
        np.maximum.reduce(self.magnitudes, axis=self.axis, out=constants, keepdims=True, initial=self.least)
        np.bitwise_and(self.words, EXPONENT_FIELD, self.words)
        np.multiply(constants, OVERFLOW, constants)
        np.multiply(constants, self.factor, constants)
        np.add(x, constants, x)
        np.subtract(x, constants, x)


def exponent_above(maximum: float) -> int:
    """The smallest e >= LEAST with maximum < 2^e; NOT_FINITE for NaN and for 2^MOST or more."""
    if not maximum < math.ldexp(1.0, MOST):
        return NOT_FINITE
    return math.frexp(max(maximum, SMALLEST))[1]  # portable: no NaN comes here


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
        maxima = np.maximum.reduce(rounded, axis=axis, keepdims=True, initial=SMALLEST)
        if maxima.size == 1:  # as a number, which is faster
            constants: Floats | float = rounding_constant(exponent_above(maxima.item()), bits)
        else:
            constants = powers_above(maxima, maxima, math.ldexp(1.5, SIGNIFICAND - 1 - bits))
        round_to(rest, constants, rounded)
        np.subtract(rest, rounded, rest)
        total = total + np.add.reduce(rounded, axis)  # portable: slices on grids
    return np.asarray(total)
