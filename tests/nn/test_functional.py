"""Derivatives match central differences, and no row depends on its neighbours."""

import numpy as np
import pytest

from distnet import NeuralNetwork
from distnet.nn import functional as f

Z = np.random.default_rng(0).normal(scale=2, size=(7, 5))
Y = np.eye(5)[[0, 1, 2, 3, 4, 0, 2]]
H = 1e-6


@pytest.mark.parametrize("name", f.ACTIVATIONS)
def test_an_activations_derivative_matches_central_differences(name):
    function, derivative, _ = f.ACTIVATIONS[name]
    expected = (function(Z + H, None) - function(Z - H, None)) / (2 * H)
    assert np.allclose(derivative(function(Z, None), Z, None), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", f.ACTIVATIONS)
def test_an_activation_and_its_derivative_write_to_the_memory_they_are_given_and_to_no_other(name):
    function, derivative, _ = f.ACTIVATIONS[name]
    z, a, slopes = Z.copy(), np.empty_like(Z), np.empty_like(Z)
    assert function(z, a) is a
    assert derivative(a, z, slopes) is slopes
    assert np.array_equal(z, Z)
    assert np.array_equal(a, function(Z, None))
    assert np.array_equal(slopes, derivative(a, Z, None))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name, each in f.ACTIVATIONS.items() if each.one is not None])
def test_the_logit_of_one_has_an_activation_of_exactly_one(name, dtype):
    function, _, one = f.ACTIVATIONS[name]
    assert np.all(function(np.full(37, one, dtype), None) == 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", f.ACTIVATIONS)
def test_activations_and_derivatives_keep_the_dtype(name, dtype):
    function, derivative, _ = f.ACTIVATIONS[name]
    z = Z.astype(dtype)
    a = function(z, None)
    assert a.dtype == derivative(a, z, None).dtype == dtype


def test_sigmoid_reaches_its_limits_without_nan():
    with np.errstate(over="ignore"):
        assert f.ACTIVATIONS["sigmoid"].function(np.array([-1e4, 0.0, 1e4]), None).tolist() == [0.0, 0.5, 1.0]


def softmax(z):
    """Softmax of z, computed by a NeuralNetwork of one identity layer."""
    network = NeuralNetwork([5, 5], dtype=np.float64, arithmetic="native")
    network.weights[0][:], network.biases[0][:] = np.eye(5), 0
    return network.forward(z)


def test_softmax_rows_sum_to_one_also_for_huge_logits():
    assert np.allclose(softmax(Z * 1e4).sum(axis=-1), 1)


def test_a_softmax_row_does_not_depend_on_its_neighbours():
    neighbours = Z.copy()
    neighbours[1:] += 1e3
    assert np.array_equal(softmax(Z)[0], softmax(neighbours)[0])


def tutorial_loss(probabilities, targets):
    """The mean of the tutorial's loss over the rows."""
    return f.tutorial_losses(probabilities, targets).mean()


def numerical(loss):
    """The gradient of rows * loss(softmax(z)) with respect to z by central differences."""
    gradient = np.zeros_like(Z)
    for index in np.ndindex(Z.shape):
        step = np.zeros_like(Z)
        step[index] = H
        up, down = loss(softmax(Z + step), Y), loss(softmax(Z - step), Y)
        gradient[index] = len(Z) * (up - down) / (2 * H)
    return gradient


def test_the_gradient_of_the_categorical_cross_entropy_is_probabilities_minus_targets():
    assert np.allclose(softmax(Z) - Y, numerical(f.cross_entropy), atol=1e-8)


def test_the_gradient_of_the_tutorials_loss_is_not_probabilities_minus_targets():
    probabilities = softmax(Z)
    g = (probabilities - Y) / (probabilities * (1 - probabilities))
    delta = probabilities * (g - np.sum(g * probabilities, axis=-1, keepdims=True))  # docs/mathematics.md
    assert np.allclose(delta, numerical(tutorial_loss), atol=1e-7)
    assert np.abs(delta - (probabilities - Y)).max() > 0.1


def test_losses_stay_finite_where_a_probability_is_zero():
    certain = np.array([[1.0, 0.0]])
    for target in (np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])):
        assert np.isfinite(f.cross_entropy(certain, target))
        assert np.isfinite(f.tutorial_losses(certain, target)).all()
    assert f.cross_entropy(certain, certain) == 0
