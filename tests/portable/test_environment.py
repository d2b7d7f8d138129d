"""The self-test of the environment passes here, and finds every fault that portable arithmetic can't bear."""

import math
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest

from distnet.portable import environment
from distnet.portable.environment import TERMS, check_environment
from distnet.portable.grids import product_bits
from distnet.runtime.errors import InputError

find_deviation = environment.find_deviation.__wrapped__  # anew at every call


class Faulty(np.ndarray):
    """An array whose ufuncs have a fault, as of a processor or a library."""

    faults: ClassVar[dict] = {}

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        inputs = [each.view(np.ndarray) if isinstance(each, Faulty) else each for each in inputs]
        if "out" in options:
            options["out"] = tuple(each.view(np.ndarray) for each in options["out"])
        result = getattr(ufunc, method)(*inputs, **options)
        fault = self.faults.get(ufunc.__name__)
        return np.asarray(fault(result, *inputs) if fault else result).view(Faulty)


class FaultyNumPy:
    """NumPy with arrays of this kind."""

    def __getattr__(self, name):
        return getattr(np, name)

    def full(self, *arguments):
        return np.full(*arguments).view(Faulty)

    def arange(self, *arguments, **options):
        return np.arange(*arguments, **options).view(Faulty)


def flushed(result, *inputs):
    return np.where(np.abs(result) < np.finfo(float).tiny, 0.0, result)


def rounded_twice(result, a, b):
    """As an x87 does: to 64 bits, then to 53."""

    def add(x, y):
        exact = Fraction(x) + Fraction(y)
        unit = Fraction(2) ** (math.frexp(float(exact))[1] - 64)
        return float(round(exact / unit) * unit)

    return np.vectorize(add)(a, b)


def off_by_a_bit(at):
    """The result one bit off for one of the operands; that of Intel's `mkl_umath` is so for few numbers."""

    def fault(result, a, *rest):
        return np.where(np.asarray(a) == at, np.nextafter(result, np.inf), result)

    return fault


def one_lane_off(result, *inputs):
    """A vector unit's result is wrong in its last lane alone."""
    result = np.array(result)
    result[-1] = np.nextafter(result[-1], np.inf)
    return result


FAULTS = {
    "flushed sums": ({"add": flushed}, "subnormal numbers are flushed to zero"),
    "flushed products": ({"multiply": flushed}, "subnormal numbers are flushed to zero"),
    "x87": ({"add": rounded_twice}, "sums have more than 53 bits before they are rounded"),
    "division": ({"divide": off_by_a_bit(2.0)}, "2.0 / 7.0 is not correctly rounded"),
    "division in one lane": ({"divide": one_lane_off}, "1.0 / 3.0 is not correctly rounded"),
    "root": ({"sqrt": off_by_a_bit(0.1)}, "the square root of 0.1 is not correctly rounded"),
    "root in one lane": ({"sqrt": one_lane_off}, "the square root of 2.0 is not correctly rounded"),
    "product of float32": (
        {"matmul": lambda result, a, b: (a.astype(np.float32) @ b.astype(np.float32)).astype(float)},
        "the BLAS rounds a product of matrices that is exact",
    ),
    "product that rounds the last bit": (
        {"matmul": lambda result, a, b: result + (np.abs(result) == np.abs(result).max())},
        "the BLAS rounds a product of matrices that is exact",
    ),
}


def test_this_environment_has_no_deviation_and_the_test_leaves_no_warnings():
    assert find_deviation() == ""
    check_environment(find_deviation())


def test_the_test_itself_runs_unchanged_on_arrays_without_faults(monkeypatch):
    monkeypatch.setattr(environment, "np", FaultyNumPy())
    assert find_deviation() == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_a_portable_run_refused_in_one_line(monkeypatch, fault):
    faults, expected = FAULTS[fault]
    monkeypatch.setattr(environment, "np", FaultyNumPy())
    monkeypatch.setattr(Faulty, "faults", faults)
    assert find_deviation() == expected
    with pytest.raises(InputError, match="use --arithmetic native") as error:
        check_environment(find_deviation())
    assert "\n" not in str(error.value)


def test_the_product_is_at_the_bound_so_that_one_bit_more_would_be_rounded(monkeypatch):
    monkeypatch.setattr(environment, "product_bits", lambda terms: product_bits(terms) + 1)
    assert find_deviation() == "the BLAS rounds a product of matrices that is exact"


def test_strassens_algorithm_would_be_found(monkeypatch):
    """One level of it: its sums of blocks need a bit more than a product at the bound leaves."""

    def strassen(result, a, b):
        (a11, a12), (a21, a22) = ((a[i : i + 32, j : j + 32] for j in (0, 32)) for i in (0, 32))
        (b11, b12), (b21, b22) = ((b[i : i + 32, j : j + 32] for j in (0, 32)) for i in (0, 32))
        m1, m2, m3 = (a11 + a22) @ (b11 + b22), (a21 + a22) @ b11, a11 @ (b12 - b22)
        m4, m5 = a22 @ (b21 - b11), (a11 + a12) @ b22
        m6, m7 = (a21 - a11) @ (b11 + b12), (a12 - a22) @ (b21 + b22)
        return np.block([[m1 + m4 - m5 + m7, m3 + m5], [m2 + m4, m1 - m2 + m3 + m6]])

    assert TERMS == 64
    monkeypatch.setattr(environment, "np", FaultyNumPy())
    monkeypatch.setattr(Faulty, "faults", {"matmul": strassen})
    assert find_deviation() == "the BLAS rounds a product of matrices that is exact"
