"""The bits don't depend on how many threads the BLAS of the process has, in training or not, in any Python thread."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from distnet import NeuralNetwork
from distnet.runtime.blas import single_blas_thread

SIZES = [300, 200, 40, 3]
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(700, 300)), np.eye(3)[DRAW.integers(3, size=700)]


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def three_threads():
    with threadpool_limits(3, user_api="blas"):
        yield


def test_a_network_computes_the_same_bits_with_any_number_of_blas_threads():
    network = NeuralNetwork(SIZES, "tanh")

    def bits():
        return [each.tobytes() for each in (network.forward(X), *network.backprop(X, Y)[0])]

    with threadpool_limits(1, user_api="blas"):
        expected = bits()
    assert bits() == expected
    assert blas_threads() == {3}


def test_a_training_that_ends_leaves_the_one_in_another_thread_its_single_blas_thread():
    first_is_done, seen = threading.Event(), []

    second_has_begun = threading.Event()

    def train(on_epoch):
        NeuralNetwork(SIZES).train(X, Y, epochs=2, on_epoch=on_epoch)

    def wait_for_the_first(epoch):
        second_has_begun.set()
        assert first_is_done.wait(60)
        seen.append(blas_threads())

    second = threading.Thread(target=train, args=(wait_for_the_first,))
    first = threading.Thread(target=train, args=(lambda epoch: second_has_begun.wait(60) is None,))
    first.start()
    second.start()
    first.join()
    first_is_done.set()
    second.join()
    assert seen == [{1}, {1}]
    assert blas_threads() == {3}


def test_contexts_within_each_other_restore_the_number_at_the_last_exit():
    with single_blas_thread:
        with single_blas_thread:
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {3}


def test_the_blas_that_is_noted_is_numpys_also_if_scipy_has_loaded_another():
    code = """
from distnet.runtime.blas import describe_blas
print(describe_blas())
"""
    alone, beside = (
        subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True, check=True).stdout
        for first in ("", "import scipy.linalg")
    )
    assert alone == beside
