"""exp, log, tanh, cosine, sine and power keep their bounds, against references of 60 digits."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from distnet.portable import elementary
from distnet.portable.elementary import (
    LARGEST_ARGUMENT,
    STEP,
    STEPS,
    cos_sin,
    exp,
    log,
    power,
    power_table,
    sigmoid,
    tanh,
)

DIGITS = 60
ULP = Decimal(2) ** -53
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
FINEST = math.ulp(0.0)


@pytest.fixture(autouse=True)
def _digits():
    with localcontext() as context:
        context.prec = DIGITS
        yield


def random_numbers(low, high, count, seed=0):
    return np.random.default_rng(seed).uniform(low, high, count)


def neighbours(points):
    """Each number with those next to it."""
    points = np.asarray(points, np.float64)
    return np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)])


def largest_ratio(results, references, bounds):
    """The largest |result - reference| / bound."""
    errors = [abs(Decimal(float(a)) - b) for a, b in zip(results, references, strict=True)]
    return max(error / bound for error, bound in zip(errors, bounds, strict=True))


def is_kept_and_tight(ratio):
    """A bound that is never exceeded, and at least a quarter of which occurs."""
    return Decimal("0.25") < ratio <= 1


def exp_arguments():
    """Random ones, the ends, tiny ones, and those midway between two steps, where the polynomial's is largest."""
    steps = np.random.default_rng(1).integers(-865 * STEPS, 865 * STEPS, 600)
    return np.concatenate(
        [
            random_numbers(-600, 600, 1500),
            random_numbers(-1, 1, 1000, 1),
            np.ldexp(random_numbers(-1, 1, 300, 2), -np.arange(300)),
            neighbours([-600.0, 600.0, 0.0]).clip(-600, 600),
            neighbours((steps + 0.5) * STEP),
        ]
    )


def test_exp_keeps_its_bound():
    x = exp_arguments()
    exact = [Decimal(each).exp() for each in x]
    bounds = [(4 * ULP + abs(Decimal(each)) * 2 * ULP) * value for each, value in zip(x, exact, strict=True)]
    assert is_kept_and_tight(largest_ratio(exp(x), exact, bounds))


def test_exp_of_more_than_600_is_that_of_600_so_that_every_result_is_normal():
    assert exp([601.0, 1e308, np.inf]).tolist() == [float(exp(600.0))] * 3
    assert exp([-601.0, -1e308, -np.inf]).tolist() == [float(exp(-600.0))] * 3
    assert np.finfo(float).tiny < float(exp(-LARGEST_ARGUMENT))
    assert float(exp(LARGEST_ARGUMENT)) < np.inf


def test_nan_stays_nan():
    nan = np.array([1.0, np.nan, -np.nan])
    assert np.isnan([function(nan)[1:] for function in (exp, sigmoid, tanh, log)]).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(cos_sin(nan)).all(axis=0).tolist() == [False, True, True]


def test_exp_is_exact_at_zero_and_never_decreases_over_consecutive_arguments():
    assert exp([0.0, -0.0]).tolist() == [1.0, 1.0]
    for start in (-3.7, 0.25, 0.5 * STEP, 100.0):
        x = start + np.arange(-500, 500) * math.ulp(start) * 64
        assert (np.diff(exp(np.sort(x))) >= 0).all()


def test_exp_sigmoid_and_tanh_give_the_same_bits_in_place_with_scratch_and_as_a_scalar():
    x = exp_arguments()
    for function in (exp, sigmoid, tanh):
        expected, memory = function(x.copy()), x.copy()
        assert function(memory, memory, np.empty((3, *x.shape))) is memory
        assert np.array_equal(memory, expected)
        assert [float(function(float(each))) for each in x[:50]] == expected[:50].tolist()
        assert np.array_equal(function(x[:2500].reshape(50, 50)), expected[:2500].reshape(50, 50))


def test_the_table_holds_the_powers_of_two_correctly_rounded():
    words = power_table() + (np.arange(STEPS, dtype=np.int64) << (52 - elementary.TABLE_BITS))
    for number, value in enumerate(words.view(np.float64)):
        assert abs(Decimal(float(value)) - Decimal(2) ** (Decimal(number) / STEPS)) <= ULP


def test_sigmoid_and_tanh_keep_their_bounds_within_their_range():
    ends = neighbours(np.linspace(-24, 24, 97) + 0.5 / elementary.SIGMOID_STEPS)
    x = np.concatenate([exp_arguments() / np.resize([600, 60, 20, 1], len(exp_arguments())), ends])
    for function, bound, factor in ((sigmoid, 29, 1), (tanh, 28, 2)):
        references = [1 / (1 + (-factor * Decimal(each)).exp()) for each in x]
        references = [factor * each - (factor - 1) for each in references]
        assert is_kept_and_tight(largest_ratio(function(x), references, [Decimal(2) ** -bound] * len(x)))
        values = function([-1e300, -24.5, 0.0, 24.5, 1e300])
        assert values[0] == values[1]
        assert values[3] == values[4] == 1
        assert values[2] == 1 - factor / 2


def log_arguments():
    """Random ones of all magnitudes, subnormal ones, and those where the result is smallest or the reduction jumps."""
    near_one = 1 + np.ldexp(random_numbers(-1, 1, 800, 3), -np.resize(np.arange(52), 800))
    edges = math.sqrt(0.5) * np.ldexp(1.0, [-1022, -3, -1, 0, 1, 2, 900])
    return np.concatenate(
        [
            random_numbers(0.5, 2, 1500),
            np.ldexp(random_numbers(0.5, 1, 1000, 1), np.random.default_rng(1).integers(-1070, 1024, 1000)),
            near_one[near_one != 1],
            neighbours(edges),
            [FINEST, 7 * FINEST, np.finfo(float).tiny, np.finfo(float).max, np.nextafter(1, 2), np.nextafter(1, 0)],
        ]
    )


def test_log_keeps_its_bound():
    x = log_arguments()
    exact = [Decimal(each).ln() for each in x]
    assert is_kept_and_tight(largest_ratio(log(x), exact, [8 * ULP * abs(value) for value in exact]))
    assert log([1.0]).tobytes() == np.zeros(1).tobytes()


def cosine_and_sine(turns):
    """Of 2π times a Fraction, by their Taylor series; the whole turns are taken off exactly."""
    turns -= round(turns)
    angle = 2 * PI * turns.numerator / turns.denominator
    term, sums = Decimal(1), [Decimal(0), Decimal(0)]
    for number in range(60):
        sums[number % 2] += term if number % 4 < 2 else -term
        term *= angle / (number + 1)
    return sums


def test_cosine_and_sine_keep_their_bound_up_to_the_largest_argument():
    eighths = neighbours(np.arange(-16, 17) / 8)
    x = np.concatenate(
        [
            random_numbers(-1, 1, 700),
            eighths,
            np.ldexp(random_numbers(-1, 1, 60, 1), -np.arange(60)),
            np.ldexp(random_numbers(-1, 1, 120, 2), np.resize(np.arange(62), 120)),
            [np.nextafter(2.0**61, 0), -np.nextafter(2.0**61, 0), 2.0**52 + 1, 2.0**50 + 0.25],
        ]
    )
    exact = [cosine_and_sine(Fraction(each)) for each in x.tolist()]
    for result, reference in zip(cos_sin(x), zip(*exact, strict=True), strict=True):
        assert is_kept_and_tight(largest_ratio(result, reference, [2 * ULP] * len(x)))


def test_cosine_and_sine_of_quarter_turns_are_exact():
    cosine, sine = cos_sin(np.arange(-8, 9) / 4)
    assert cosine.tolist() == np.resize([1, 0, -1, 0], 17).tolist()
    assert sine.tolist() == np.resize([0, 1, 0, -1], 17).tolist()


def test_power_keeps_its_bound():
    generator = np.random.default_rng(0)
    bases = np.concatenate([neighbours([1 - 1e-6, 1 + 1e-9, 0.9, 0.999, 2.0, 10.0]), generator.uniform(0.5, 2, 300)])
    results, exact, bounds = [], [], []
    for base in map(float, bases):
        logarithm = Decimal(base).ln()
        for t in (-599.9, -1.0, 0.01, 3.0, 60.0, 599.9):
            exponent = float(Decimal(t) / logarithm)
            argument = Decimal(exponent) * logarithm
            results.append(power(base, exponent))
            exact.append(argument.exp())
            bounds.append((4 * ULP + 16 * ULP * abs(argument)) * exact[-1])
    assert Decimal("0.1") < largest_ratio(results, exact, bounds) <= 1
    assert power(5.0, 0.0) == power(1.0, 1e300) == 1.0
