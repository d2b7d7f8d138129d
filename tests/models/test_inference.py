"""`NeuralNetwork.forward` computes in blocks, keeps its workspaces, and sees every change of the network."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from distnet import NeuralNetwork
from distnet.models import inference
from distnet.nn.arithmetic import prepare
from distnet.runtime.errors import InputError

X = np.random.default_rng(0).normal(size=(700, 40))
every_arithmetic = pytest.mark.parametrize("arithmetic", ["portable", "native"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(inference, "FORWARD_ROWS", 64)
    monkeypatch.setattr(inference, "MANY_PRODUCTS", 1)


def build(arithmetic, dtype="float64"):
    return NeuralNetwork([40, 30, 20, 5], "tanh", dtype=dtype, arithmetic=arithmetic)


def in_one_pass(network, rows):
    work = prepare(network.model).workspace(len(rows), (len(rows),), len(rows), has_masks=False)
    work.inputs[:, :40] = rows
    work.inputs[:, 40] = 1
    return work.infer().copy()


def test_blocks_give_the_outputs_of_one_pass():
    network = build("portable")
    assert network.forward(X).tobytes() == in_one_pass(network, X).tobytes()
    network = build("native")
    np.testing.assert_allclose(network.forward(X), in_one_pass(network, X), rtol=1e-12)


@every_arithmetic
def test_any_number_of_threads_gives_the_same_bits_and_repeated_calls_do(arithmetic):
    network, found = build(arithmetic), []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, "blas"):
            found += [network.forward(X).tobytes() for _ in range(3)]
    assert len(set(found)) == 1


@every_arithmetic
def test_parameters_changed_in_place_are_seen(arithmetic):
    network = build(arithmetic)
    network.forward(X)
    for change in (network.weights[0], network.biases[1], network.parameters):
        change += 0.125
        fresh = build(arithmetic)
        fresh.parameters[:] = network.parameters
        assert network.forward(X).tobytes() == fresh.forward(X).tobytes()


def test_an_input_exponent_that_a_training_sets_is_seen():
    network = build("portable")
    network.forward(X / 64)
    network.train(X, np.eye(5)[np.arange(700) % 5], epochs=1)
    assert network.forward(X / 64).tobytes() == in_one_pass(network, X / 64).tobytes()


@every_arithmetic
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_has_no_workspace_and_parameters_of_its_own(arithmetic, duplicate):
    network = build(arithmetic)
    size = len(pickle.dumps(network))
    expected = network.forward(X).tobytes()
    assert len(pickle.dumps(network)) == size
    other = duplicate(network)
    other.parameters += 1
    assert other.forward(X).tobytes() != expected
    assert network.forward(X).tobytes() == expected


@every_arithmetic
def test_threads_that_call_at_the_same_time_get_their_own_outputs(arithmetic):
    network = build(arithmetic)
    parts = [X[start : start + rows] for rows in (1, 63, 200) for start in (0, 70, 140)]
    expected = [network.forward(part).tobytes() for part in parts]
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda number: network.forward(parts[number % 9]).tobytes(), range(200)))
    assert found == [expected[number % 9] for number in range(200)]


@every_arithmetic
def test_outputs_of_earlier_calls_are_not_overwritten(arithmetic):
    network = build(arithmetic)
    first = network.forward(X)
    expected = first.copy()
    network.forward(-X)
    assert np.array_equal(first, expected)


@every_arithmetic
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_by_its_row_in_any_block(arithmetic, value):
    rows = X.copy()
    rows[500, 3] = value
    network = build(arithmetic)
    with pytest.raises(InputError, match=r"X\[500, 3\]: expected a finite number of float64"):
        network.forward(rows)
    assert np.isfinite(network.forward(X)).all()


def test_a_number_too_large_for_float32_is_named_without_a_warning():
    rows = X.copy()
    rows[300, 7] = -1e39
    with pytest.raises(InputError, match=r"X\[300, 7\]: .*got -1e\+39"):
        build("native", "float32").forward(rows)


def test_large_numbers_whose_sum_overflows_are_valid():
    assert np.isfinite(build("native").forward(np.full((3, 40), 1e308))).all()


def test_it_keeps_workspaces_of_a_few_shapes_only():
    network = build("native")
    for rows in range(1, 20):
        network.forward(X[:rows])
    assert list(network._inference._free) == [16, 17, 18, 19]
