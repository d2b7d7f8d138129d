"""Rounding to grids keeps its bounds, and sums and products on them are exact up to the stated limit and not beyond."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from distnet.portable.grids import (
    EXPONENT_SHIFT,
    LEAST,
    MOST,
    MOST_BITS,
    NOT_FINITE,
    SIGNIFICAND,
    Rounding,
    exact_sum,
    exponent_above,
    powers_above,
    product_bits,
    round_to,
    rounding_constant,
    sum_bits,
)

TERMS = [1, 2, 3, 4, 5, 7, 8, 9, 64, 784, 1000, 1024, 1025]
INVALID = [np.nan, -np.nan, np.inf, -np.inf, math.ldexp(1.0, MOST), -1e308]


def random_numbers(count, spread=0, seed=0):
    generator = np.random.default_rng(seed)
    return np.ldexp(generator.uniform(-1, 1, count), generator.integers(-spread, 1, count))


def fractions(x):
    return [Fraction(each) for each in np.ravel(x).tolist()]


def total(x):
    return sum(fractions(x), Fraction(0))


def rounded_exactly(x, unit):
    """The nearest multiple of `unit`, the even one of two, by integers."""
    return round(Fraction(x) / unit) * unit


@pytest.mark.parametrize("terms", TERMS)
def test_sum_bits_is_the_smallest_b_with_so_many_terms_in_two_to_the_b(terms):
    bits = sum_bits(terms)
    assert terms <= 1 << bits
    assert bits == 0 or terms > 1 << (bits - 1)
    assert product_bits(terms) + bits == SIGNIFICAND


@pytest.mark.parametrize("bits", [1, 2, 11, 22, 26, MOST_BITS])
@pytest.mark.parametrize("exponent", [LEAST, -3, 0, 7, MOST])
def test_rounding_gives_the_nearest_multiple_up_to_the_largest_number(bits, exponent):
    unit, limit = Fraction(2) ** (exponent - bits), math.ldexp(1.0, exponent)
    halves = (np.array([0, 1, 2, 3, (1 << bits) - 1]) + 0.5) / (1 << bits) * limit
    edges = np.array([limit, np.nextafter(limit, 0), 0.0, -0.0, 5e-324, float(unit) / 2, *halves[halves <= limit]])
    x = np.concatenate([edges, np.nextafter(edges, 0), -edges, random_numbers(200, 30) * limit])
    rounded = round_to(x, rounding_constant(exponent, bits), np.empty_like(x))
    assert fractions(rounded) == [rounded_exactly(each, unit) for each in x.tolist()]
    assert max(abs(a - b) for a, b in zip(fractions(x), fractions(rounded), strict=True)) <= unit / 2
    assert not np.signbit(rounded[rounded == 0]).any()
    assert round_to(x, rounding_constant(exponent, bits), x) is x
    assert np.array_equal(x, rounded)


def test_one_bit_more_than_the_most_is_rounded_wrongly_at_the_limit():
    constant = math.ldexp(1.5, SIGNIFICAND - 1 - (MOST_BITS + 1))
    unit = Fraction(1, 1 << (MOST_BITS + 1))
    x = np.array([-1.0 + float(unit / 2)])
    assert fractions(round_to(x, constant, x.copy())) != [rounded_exactly(x[0], unit)]


def test_smaller_numbers_share_the_least_grid_and_a_grid_above_the_most_gives_nan():
    assert rounding_constant(LEAST - 100, 20) == rounding_constant(LEAST, 20)
    x = np.array([0.0, 1.0, -1e300])
    with np.errstate(invalid="ignore"):
        for exponent in (MOST + 1, 1024, NOT_FINITE):
            assert np.isnan(round_to(x, rounding_constant(exponent, 20), x.copy())).all()


def test_an_exponent_is_the_smallest_power_of_two_above_and_not_finite_for_what_no_grid_holds():
    for number in (1.0, 0.75, np.nextafter(1, 0), 3e-70, 1e75, np.nextafter(2.0**MOST, 0)):
        exponent = exponent_above(float(number))
        assert math.ldexp(0.5, exponent) <= number < math.ldexp(1.0, exponent)
    assert [exponent_above(each) for each in (0.0, 5e-324, 1e-100)] == [LEAST] * 3
    assert [exponent_above(abs(each)) for each in INVALID] == [NOT_FINITE] * len(INVALID)


@pytest.mark.parametrize("least", [LEAST, -3, MOST, MOST + 1])
def test_powers_above_are_those_of_the_exponents(least):
    powers = np.ldexp(1.0, np.arange(-1074, 1024))
    maxima = np.concatenate([[0.0, -0.0, 1 / 3, np.inf, np.nan, -np.nan], powers, np.nextafter(powers[1:], 0)])
    exponents = [max(exponent_above(each), least) for each in maxima.tolist()]
    places = np.right_shift(maxima.view(np.int64), EXPONENT_SHIFT)
    expected = [np.inf if each > MOST else math.ldexp(1.0, each) for each in exponents]
    assert powers_above(least).take(places, mode="wrap").tolist() == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("bits", [5, 22, 60])
def test_each_row_is_rounded_on_the_grid_of_its_own_largest_magnitude(axis, bits):
    x = random_numbers(4 * 5 * 6, 40).reshape(4, 5, 6)
    rows = np.moveaxis(x, axis, -1)
    rows[0, 0], rows[0, 1], rows[1, 0], rows[1, 1] = 0.0, 2.0**-1070, rows[1, 0] * 2.0**240, np.eye(1, rows.shape[-1])
    before = rows.copy().reshape(-1, rows.shape[-1])
    Rounding(x, axis, bits, np.empty(x.size + 3))()
    for row, result in zip(before, np.moveaxis(x, axis, -1).reshape(before.shape), strict=True):
        unit = Fraction(2) ** (exponent_above(float(np.abs(row).max())) - min(bits, MOST_BITS))
        assert fractions(result) == [rounded_exactly(each, unit) for each in row.tolist()]


@pytest.mark.parametrize("value", INVALID)
def test_a_row_that_no_grid_holds_becomes_nan_and_no_other_does(value):
    x = random_numbers(21).reshape(3, 7)
    expected = x.copy()
    Rounding(expected, 1, 20, np.empty(21))()
    x[1, 4] = value
    with np.errstate(over="ignore", invalid="ignore"):
        Rounding(x, 1, 20, np.empty(21))()
    assert np.isnan(x[1]).all()
    assert np.array_equal(x[[0, 2]], expected[[0, 2]])


def test_a_row_counts_as_the_least_magnitude_that_is_set_at_least():
    x = random_numbers(30, 12).reshape(5, 6)
    large = x * 16
    expected = round_to(x.copy(), rounding_constant(0, 20), np.empty_like(x))
    Rounding(x, 1, 20, np.empty(30), least=0)()
    assert np.array_equal(x, expected)
    own = large.copy()
    Rounding(own, 1, 20, np.empty(30))()
    Rounding(large, 1, 20, np.empty(30), least=LEAST)()
    assert np.array_equal(large, own)


def shuffled(count, times=3):
    generator = np.random.default_rng(count)
    return [np.arange(count), np.arange(count)[::-1], *(generator.permutation(count) for _ in range(times))]


def one_by_one(numbers):
    """Added from left to right, as no BLAS would hide it."""
    result = 0.0
    for each in numbers.tolist():
        result += each
    return result


def adversarial(terms, bits):
    """Pairs of factors with so many bits: all at the limit, all odd, and of alternating sign."""
    left, right = bits // 2, bits - bits // 2
    for a, b in ((1 << left, 1 << right), ((1 << left) - 1, (1 << right) - 1)):
        for signs in (np.ones(terms), np.resize([1.0, -1.0], terms), np.resize([1.0, 1.0, -1.0], terms)):
            yield np.full(terms, float(a)) * signs, np.full(terms, float(b))
            mixed = b - np.arange(terms) % min(7, b)
            yield np.full(terms, float(a)) * signs, mixed.astype(np.float64)


@pytest.mark.parametrize("scale", [0, -400, 400])
@pytest.mark.parametrize("terms", TERMS)
def test_products_of_so_many_bits_are_exact_in_any_order(terms, scale):
    generator = np.random.default_rng(terms)
    bits = product_bits(terms)
    random = [np.rint(generator.uniform(-1, 1, terms) * (1 << half)) for half in (bits // 2, bits - bits // 2)]
    for a, b in (*adversarial(terms, bits), random):
        a = np.ldexp(a, scale)
        exact = sum(map(math.prod, zip(fractions(a), fractions(b), strict=True)), Fraction(0))
        for order in shuffled(terms):
            left, right = a[order], b[order]
            results = [one_by_one(left * right), np.add.reduce(left * right), np.dot(left, right)]
            results += [
                (left[None] @ right[:, None])[0, 0],
                np.dot(left.reshape(1, -1), np.stack([right, right], 1))[0, 1],
            ]
            assert set(map(Fraction, map(float, results))) == {exact}


@pytest.mark.parametrize("terms", [2, 4, 8, 64, 1024])
def test_products_of_one_bit_more_are_not_exact(terms):
    """All but one are of the largest magnitude, and one makes the sum odd."""
    bits = product_bits(terms) + 1
    a, b = np.full(terms, float(1 << bits // 2)), np.full(terms, float(1 << bits - bits // 2))
    a[-1] = b[-1] = 1.0
    exact = total(a * b)
    for order in shuffled(terms):
        assert Fraction(one_by_one((a * b)[order])) != exact
        assert Fraction(float(np.dot(a[order], b[order]))) != exact


@pytest.mark.parametrize("terms", TERMS)
def test_rounded_rows_and_columns_have_exact_products_of_matrices(terms):
    """What training does: any numbers, rounded to the bits that a product of so many terms leaves."""
    bits = product_bits(terms)
    a, b = random_numbers(5 * terms, 40, 1).reshape(5, terms), random_numbers(terms * 4, 40, 2).reshape(terms, 4)
    a[0], b[:, 0] = 1.0, 1.0  # at the limit of their grids
    a[1], b[:, 1] = np.nextafter(1, 0), -np.nextafter(1, 0)
    Rounding(a, 1, bits // 2, np.empty(a.size))()
    Rounding(b, 0, bits - bits // 2, np.empty(b.size))()
    exact = [sum(x * y for x, y in zip(fractions(row), fractions(column), strict=True)) for row in a for column in b.T]
    for order in shuffled(terms, 3):
        assert fractions(a[:, order] @ b[order]) == exact
        assert fractions(np.dot(b[order].T, a[:, order].T).T) == exact
        assert fractions(np.einsum("ij,jk->ik", a[:, order], b[order])) == exact


def exact_sum_inputs():
    generator = np.random.default_rng(3)
    for count in (1, 2, 3, 5, 100, 1000):
        yield random_numbers(count)
        yield random_numbers(count, 60, count)
        yield np.ldexp(generator.uniform(0.5, 1, count), generator.integers(-1000, 249, count))
        cancelling = random_numbers(count, 10) * 1e10
        yield np.concatenate([cancelling, -cancelling, random_numbers(count)])
        yield np.full(count, 0.1)
        yield np.concatenate([[np.nextafter(2.0**MOST, 0)], np.full(count, 1.0)])
        yield np.full(count, 5e-324)
        yield np.full(count, 2.0**-200 / 3)


def test_exact_sum_keeps_its_bound_and_no_order_changes_a_bit():
    for x in exact_sum_inputs():
        n, result = len(x), float(exact_sum(x))
        largest = max(Fraction(float(np.abs(x).max())), Fraction(2) ** -198)
        bound = n**3 * Fraction(2) ** -104 * largest + Fraction(math.ulp(result)) / 2
        assert abs(Fraction(result) - total(x)) <= bound
        assert {exact_sum(x[order]).tobytes() for order in shuffled(n)} == {exact_sum(x).tobytes()}


def test_exact_sum_is_that_of_fsum_where_magnitudes_are_alike():
    for count in (1, 2, 10, 1000):
        x = np.random.default_rng(count).uniform(0.5, 1, count)
        assert float(exact_sum(x)) == math.fsum(x)


def test_exact_sum_adds_along_any_axis_and_leaves_its_argument():
    x = random_numbers(60, 20).reshape(3, 4, 5)
    before = x.copy()
    for axis in (0, 1, 2):
        result = exact_sum(x, axis)
        lines = np.moveaxis(x, axis, -1)
        assert np.array_equal(result.reshape(-1), [exact_sum(line) for line in lines.reshape(-1, lines.shape[-1])])
    assert np.array_equal(x, before)
    assert exact_sum(np.empty((0, 3))).tolist() == [0.0] * 3
    assert exact_sum(np.array([-0.0, -0.0])).tobytes() == np.zeros(1).tobytes()


@pytest.mark.parametrize("value", INVALID)
def test_exact_sum_of_what_no_grid_holds_is_nan(value):
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(exact_sum(np.array([1.0, value, 2.0])))


def test_one_grid_makes_sums_exact_for_every_split_into_parts():
    """What the exchange relies on: parts of a sum, added as any tree."""
    x = random_numbers(64, 40)
    round_to(x, rounding_constant(1, product_bits(64)), x)
    exact = total(x)
    for cuts in itertools.combinations(range(1, 64, 9), 3):
        parts = [np.add.reduce(part) for part in np.split(x, cuts)]
        assert {Fraction(float(sum(order))) for order in itertools.permutations(parts)} == {exact}
