"""Dropout zeroes the expected share of neurons, and gradients are those of the remaining network."""

import numpy as np
import pytest

from distnet.nn.dropout import Dropout
from distnet.nn.model import Model
from distnet.nn.native import NativePropagation
from distnet.nn.parameters import layer_stacks, parameter_count
from distnet.runtime.arrays import aligned_zeros
from distnet.training.evaluation import losses_from

SAMPLES = np.arange(2000)


def drawn(probability, samples=SAMPLES, seed=3, epoch=1, columns=(48, 16), dtype=np.float64):
    dropout = Dropout(probability, columns, [40, 7], len(samples), dtype)
    dropout.draw(seed, epoch, samples)
    return [mask.copy() for mask in dropout.masks]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_neurons_are_left_out_with_the_probability_and_the_mean_stays_one(probability):
    for mask, neurons in zip(drawn(probability), (40, 7), strict=True):
        part = mask[:, :neurons]
        assert set(np.unique(part)) == {0, part.max()}
        assert part.max() == pytest.approx(1 / (1 - probability), rel=1e-4)
        deviation = (probability * (1 - probability) / part.size) ** 0.5
        assert abs((part == 0).mean() - probability) < 4 * deviation


def test_the_one_for_the_bias_is_never_left_out():
    for mask, neurons in zip(drawn(0.9), (40, 7), strict=True):
        assert np.all(mask[:, neurons:] == 1)


def test_the_neurons_left_out_are_the_same_in_every_arithmetic_and_precision():
    portable = drawn(0.3, columns=(40, 7))
    for columns, dtype in (((48, 8), np.float64), ((48, 16), np.float32)):
        for mask, expected in zip(drawn(0.3, columns=columns, dtype=dtype), portable, strict=True):
            assert np.array_equal(mask[:, : expected.shape[1]] > 0, expected > 0)


def test_neurons_and_samples_are_left_out_independently():
    left = drawn(0.5)[0][:, :40] > 0
    of_neurons = np.corrcoef(left.T) - np.eye(40)
    of_samples = np.corrcoef(left[:200, :]) - np.eye(200)
    assert abs(of_neurons).max() < 5 / 2000**0.5
    assert abs(of_samples.mean()) < 0.01


def test_a_samples_mask_depends_on_seed_epoch_and_sample_alone():
    whole = drawn(0.5)
    order = np.random.default_rng(0).permutation(SAMPLES)
    for some in (slice(0, 1), slice(0, 1000), slice(500, 2000)):
        for mask, expected in zip(drawn(0.5, order[some]), whole, strict=True):
            assert np.array_equal(mask, expected[order[some]])
    for other in (drawn(0.5, seed=4), drawn(0.5, epoch=2), drawn(0.5, SAMPLES + 5000)):
        assert 0.4 < (other[0] == whole[0])[:, :40].mean() < 0.6


@pytest.mark.parametrize("probability", [1e-7, 0.9999999])
def test_a_probability_near_its_ends_is_the_nearest_that_there_is(probability):
    left_out = (drawn(probability, np.arange(20_000))[0][:, :40] == 0).mean()
    assert abs(left_out - probability) < 1e-4
    assert 0 < left_out < 1


def test_seeds_of_any_integer_type_and_size_are_seeds():
    for seed in (3, np.int64(3), 3 + 2**64):
        assert np.array_equal(drawn(0.5, seed=seed)[0], drawn(0.5)[0])
    assert not np.array_equal(drawn(0.5, seed=2**63)[0], drawn(0.5)[0])


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "leaky-relu", "gelu"])
def test_gradients_are_those_of_central_differences_of_the_network_that_is_left(activation):
    sizes, rows, h = (5, 9, 6, 6, 6, 3), 8, 1e-5
    parameters = aligned_zeros((parameter_count(sizes),), np.float64)
    generator = np.random.default_rng(0)
    parameters[:] = generator.normal(size=len(parameters))  # biases, too: relu has no slope at zero
    work = NativePropagation(Model(sizes, activation, parameters), 2, rows // 2)
    work.inputs[:, :5], work.inputs[:, 5] = generator.normal(size=(rows, 5)), 1
    work.targets[:] = np.eye(3)[generator.integers(0, 3, rows)]
    dropout = Dropout(0.4, work.columns, sizes[1:-1], rows, np.float64)
    dropout.draw(0, 1, np.arange(rows))

    def loss():
        work.forward(masks=dropout.masks)
        return losses_from(work.losses()).sum()

    loss()
    gradients = np.zeros((2, len(parameters)))
    work.backprop(layer_stacks(gradients, sizes))
    expected = np.empty_like(parameters)
    for number, before in enumerate(parameters.copy()):
        parameters[number] = before + h
        above = loss()
        parameters[number] = before - h
        expected[number] = (above - loss()) / (2 * h)
        parameters[number] = before
    assert gradients.sum(axis=0) == pytest.approx(expected, rel=1e-6, abs=1e-8)
