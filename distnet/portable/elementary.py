"""exp, log, cosine and sine from correctly rounded operations alone; those of NumPy and libm differ between machines.

Everything is float64. Scalars may be given for arrays.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distnet.portable.grids import Floats

LARGEST_ARGUMENT = 600.0  # of exp; larger ones count as this one, so that no result is subnormal or infinite
TABLE_BITS = 11
STEPS = 1 << TABLE_BITS  # of the table, per factor of two
STEP, STEPS_PER_UNIT = 0.6931471805599453 / STEPS, 1.4426950408889634 * STEPS  # log(2) / STEPS, and its reciprocal
ROUNDER = 1.5 * (1 << 52)  # x + ROUNDER is round(x) + ROUNDER, and its last bits as an integer are round(x)
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # the first has 32 bits, so integers times it are exact
TAU = 6.283185307179586
SIGMOID_LIMIT, SIGMOID_STEPS = 24, 128  # beyond the limit, the sigmoid counts as constant; steps per unit
# Zero-dimensional arrays: a ufunc takes them in a third of the time of a Python number.
_LARGEST, _SMALLEST, _STEP = np.array(LARGEST_ARGUMENT), np.array(-LARGEST_ARGUMENT), np.array(STEP)
_STEPS_PER_UNIT, _ROUNDER = np.array(STEPS_PER_UNIT), np.array(ROUNDER)
_TABLE_MASK, _TABLE_SHIFT = np.array(STEPS - 1), np.array(52 - TABLE_BITS)
_SIGMOID_ROUNDER = np.array(ROUNDER / SIGMOID_STEPS)  # rounds to whole steps
_FIRST_INDEX = np.array(ROUNDER / SIGMOID_STEPS - SIGMOID_LIMIT).view(np.int64)  # the word of the table's first step
_TWO = np.array(2.0)
_SIXTH, _HALF, _ONE = np.array(1 / 6), np.array(0.5), np.array(1.0)
_ROOT_OF_HALF, _LN2_HIGH, _LN2_LOW = np.array(0.7071067811865476), np.array(LN2_HIGH), np.array(LN2_LOW)
_LOG_SERIES = tuple(np.array(1 / odd) for odd in range(21, 0, -2))


Scratch = tuple[Floats, Floats, Floats]


def allocate(x: Floats) -> Scratch:
    """Scratch for functions of x."""
    return np.empty(x.shape), np.empty(x.shape), np.empty(x.shape)


@cache
def power_table() -> NDArray[np.int64]:
    """The words of 2^(i / STEPS), correctly rounded, less i << (52 - TABLE_BITS), for i = 0 ... STEPS - 1.

    From integer square roots: 2^(1/2), 2^(1/4), ... stand for the bits of i, the highest first.
    """
    one = 1 << 160
    powers, root = [one], 2 * one
    for _ in range(TABLE_BITS):
        root = math.isqrt(root * one)
        powers = [power for each in powers for power in (each, each * root // one)]
    words = np.array([power / one for power in powers]).view(np.int64)
    return words - (np.arange(STEPS, dtype=np.int64) << (52 - TABLE_BITS))


def exp(x: ArrayLike, out: Floats | None = None, scratch: Scratch | None = None) -> Floats:
    """e^x, element by element, with a relative error of at most 2^-51 + |x| 2^-52; |x| counts as 600 at most.

    out: may be x. scratch: three arrays of x's shape, overwritten; None to allocate them.
    x = n log(2) / STEPS + r, and e^x = 2^(n // STEPS) 2^(n % STEPS / STEPS) e^r: a shift, a table, a polynomial.
    """
    x = np.asarray(x, np.float64)
    shifted, steps, powers = allocate(x) if scratch is None else scratch
    out = np.empty(x.shape) if out is None else out
    np.minimum(x, _LARGEST, out=out)
    np.maximum(out, _SMALLEST, out=out)
    np.multiply(out, _STEPS_PER_UNIT, shifted)
    np.add(shifted, _ROUNDER, shifted)
    np.subtract(shifted, _ROUNDER, steps)
    np.multiply(steps, _STEP, steps)
    np.subtract(out, steps, out)  # r, at most STEP / 2
    words, index, power_words = shifted.view(np.int64), steps.view(np.int64), powers.view(np.int64)
    np.bitwise_and(words, _TABLE_MASK, index)
    power_table().take(index, None, power_words, "clip")
    np.left_shift(words, _TABLE_SHIFT, words)
    np.add(words, power_words, words)  # what the table subtracts are the low bits of n, which lie here now
    np.multiply(out, _SIXTH, steps)
    np.add(steps, _HALF, steps)
    np.multiply(steps, out, steps)
    np.add(steps, _ONE, steps)
    np.multiply(steps, out, steps)
    np.multiply(steps, shifted, steps)
    return np.add(steps, shifted, out)


@cache
def sigmoid_table() -> Floats:
    """The sigmoid (n,) in steps of 1 / SIGMOID_STEPS from -SIGMOID_LIMIT to SIGMOID_LIMIT.

    At both ends, and beyond them, the sigmoid counts as exactly 0 and 1, which gelu's slope needs.
    """
    count = SIGMOID_LIMIT * SIGMOID_STEPS
    table = 1.0 / (1.0 + exp(np.arange(count, -count - 1, -1) / SIGMOID_STEPS))
    table[0], table[-1] = 0, 1
    return table


def sigmoid(x: ArrayLike, out: Floats | None = None, scratch: Scratch | None = None) -> Floats:
    """1 / (1 + e^-x), element by element, from 0 to 1, with an absolute error of at most 2^-29.

    NaN for infinite x. Arguments as of `exp`. Activations are rounded to fewer bits, so the Taylor polynomial of second
    degree from the next of a table's steps serves them, at half the cost of `exp`: a + r a (1 - a) (1 + r (1/2 - a)).
    """
    x = np.asarray(x, np.float64)
    shifted, rest, a = allocate(x) if scratch is None else scratch
    out = np.empty(x.shape) if out is None else out
    np.add(x, _SIGMOID_ROUNDER, shifted)
    index = shifted.view(np.int64)
    np.subtract(shifted, _SIGMOID_ROUNDER, a)
    np.subtract(x, a, rest)  # at most half a step
    np.subtract(index, _FIRST_INDEX, index)
    sigmoid_table().take(index, None, a, "clip")
    slope = shifted
    np.subtract(_ONE, a, slope)
    np.multiply(slope, a, slope)
    np.subtract(_HALF, a, out)
    np.multiply(out, slope, out)
    np.multiply(out, rest, out)
    np.add(out, slope, out)
    np.multiply(out, rest, out)
    np.add(out, a, out)
    return out


def tanh(x: ArrayLike, out: Floats | None = None, scratch: Scratch | None = None) -> Floats:
    """Hyperbolic tangent, 2 sigmoid(2 x) - 1, with an absolute error of at most 2^-28. Arguments as of `exp`."""
    x = np.asarray(x, np.float64)
    out = np.empty(x.shape) if out is None else out
    np.multiply(x, _TWO, out)
    np.maximum(np.minimum(out, _LARGEST, out=out), _SMALLEST, out=out)  # gelu's argument can be infinite
    sigmoid(out, out, scratch)
    np.multiply(out, _TWO, out)
    np.subtract(out, _ONE, out)
    return out


def log(x: ArrayLike) -> Floats:
    """Natural logarithm of positive finite numbers, with a relative error of at most 2^-50.

    x = m 2^e with m from 0.7 to 1.4; log m = 2 artanh(s), s = (m - 1) / (m + 1), as a series.
    """
    m, e = np.frexp(np.asarray(x, np.float64))
    small = np.less(m, _ROOT_OF_HALF)
    m = np.where(small, m * _TWO, m)
    e = np.subtract(e, small, dtype=np.float64)
    s = (m - _ONE) / (m + _ONE)
    square = s * s
    series = np.full(s.shape, 1 / 23)
    for coefficient in _LOG_SERIES:
        np.multiply(series, square, series)
        np.add(series, coefficient, series)
    return np.asarray(e * _LN2_HIGH + (_TWO * s * series + e * _LN2_LOW))


def cos_sin(turns: ArrayLike) -> tuple[Floats, Floats]:
    """Cosine and sine of 2π x, with an absolute error of at most 2^-52, for |x| below 2^61.

    x is reduced to an eighth of a turn from a multiple of a quarter, which is exact; then their Taylor polynomials.
    """
    x = np.asarray(turns, np.float64)
    quarters = np.rint(x * 4.0)
    angle = (x - quarters * 0.25) * TAU
    square = angle * angle
    even, odd = np.full(x.shape, 1 / math.factorial(16)), np.full(x.shape, 1 / math.factorial(17))
    for power in range(14, -1, -2):
        even = 1 / math.factorial(power) - even * square
        odd = 1 / math.factorial(power + 1) - odd * square
    odd = odd * angle
    quadrant = quarters.astype(np.int64) & 3  # portable: less than 2^63, or the result is NaN
    swapped = np.equal(quadrant & 1, 1)
    cosine, sine = np.where(swapped, odd, even), np.where(swapped, even, odd)
    cosine = np.where(np.equal((quadrant + 1) & 2, 2), 0.0 - cosine, cosine)
    sine = np.where(np.equal(quadrant & 2, 2), 0.0 - sine, sine)
    return cosine, sine


def power(base: float, exponents: ArrayLike) -> Floats:
    """base^x = e^t for a positive base, with a relative error of at most 2^-51 + |t| 2^-49; |t| up to 600."""
    return exp(np.multiply(exponents, float(log(base))))
