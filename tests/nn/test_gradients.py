"""Gradients and updates match the plain formulas, central differences, and autograd."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

from distnet import NeuralNetwork
from distnet.nn.model import ARITHMETICS
from distnet.portable.draws import draw_order
from distnet.training.trainer import ORDER

ACTIVATIONS = ["sigmoid", "tanh", "relu", "leaky-relu", "gelu"]
GELU = (2 / np.pi) ** 0.5
SIZES = [6, 5, 4, 3]


def data(rows, inputs=6, classes=3, seed=1):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, inputs)), np.eye(classes)[generator.integers(0, classes, rows)]


def plain_function(name):
    return {
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        "relu": lambda z: np.maximum(z, 0),
        "leaky-relu": lambda z: np.where(z > 0, z, 0.01 * z),
        "gelu": lambda z: z / 2 * (1 + np.tanh(GELU * (z + 0.044715 * z**3))),
    }[name]


def plain_derivative(name):
    return {
        "sigmoid": lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
        "tanh": lambda z: 1 / np.cosh(z) ** 2,
        "relu": lambda z: (z > 0).astype(float),
        "leaky-relu": lambda z: np.where(z > 0, 1, 0.01),
        "gelu": lambda z: (
            (1 + np.tanh(GELU * (z + 0.044715 * z**3))) / 2
            + z / 2 / np.cosh(GELU * (z + 0.044715 * z**3)) ** 2 * GELU * (1 + 3 * 0.044715 * z**2)
        ),
    }[name]


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def plain_step(weights, biases, X, Y, rate, activation):
    """One step of mini-batch gradient descent, in the textbook's form."""
    function, derivative = plain_function(activation), plain_derivative(activation)
    zs, activations = [], [X]
    for W, b in zip(weights, biases, strict=True):
        zs.append(activations[-1] @ W + b)
        activations.append(function(zs[-1]))
    delta = softmax(zs[-1]) - Y
    new = []
    for layer in reversed(range(len(weights))):
        new.append(
            (
                weights[layer] - rate * (activations[layer].T @ delta) / len(X),
                biases[layer] - rate * delta.sum(axis=0) / len(X),
            )
        )
        if layer:
            delta = (delta @ weights[layer].T) * derivative(zs[layer - 1])
    return [w for w, _ in new[::-1]], [b for _, b in new[::-1]]


@pytest.mark.parametrize("sizes", [SIZES, [4] * 5], ids=["layers", "equal layers"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backprop_matches_central_differences(activation, sizes):
    network = NeuralNetwork(sizes, activation, seed=3, dtype=np.float64, arithmetic="native")
    X, Y = data(8, sizes[0], sizes[-1])
    dw, db = network.backprop(X, Y)
    gradient = np.concatenate([np.append(w, b) for w, b in zip(dw, db, strict=True)])
    numerical = np.zeros_like(network.parameters)
    for i, value in enumerate(network.parameters.copy()):
        ends = []
        for step in (1e-6, -1e-6):
            network.parameters[i] = value + step
            ends.append(len(X) * network.cross_entropy(network.forward(X), Y))
        network.parameters[i] = value
        numerical[i] = (ends[0] - ends[1]) / 2e-6
    assert np.allclose(gradient, numerical, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("arithmetic", "tolerance"), [("native", 1e-13), ("portable", 1e-5)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backprop_and_training_match_automatic_differentiation(activation, arithmetic, tolerance):
    network = NeuralNetwork(SIZES, activation, 0.3, seed=3, dtype=np.float64, arithmetic=arithmetic)
    all_X, all_Y = X, Y = data(8)

    def loss(layers):
        a = X
        for number, (W, b) in enumerate(layers):
            z = anp.dot(a, W) + b
            a = {
                "sigmoid": 1 / (1 + anp.exp(-z)),
                "tanh": anp.tanh(z),
                "relu": anp.maximum(z, 0),
                "leaky-relu": anp.maximum(z, 0.01 * z),
                "gelu": z / 2 * (1 + anp.tanh(GELU * (z + 0.044715 * z**3))),
            }[activation]
            if number == len(layers) - 1:
                a = z - anp.max(z, axis=1, keepdims=True)
        return -anp.sum(Y * (a - anp.log(anp.sum(anp.exp(a), axis=1, keepdims=True))))

    layers = list(zip(network.weights, network.biases, strict=True))
    dw, db = network.backprop(X, Y)
    for ours_w, ours_b, (w, b) in zip(dw, db, autograd.grad(loss)(layers), strict=True):
        assert np.abs(ours_w - w).max() <= tolerance * max(1, np.abs(w).max())
        assert np.abs(ours_b - b).max() <= tolerance * max(1, np.abs(b).max())

    # Ten steps of training, each with autograd's gradient.
    theirs = [(w.copy(), b.copy()) for w, b in layers]
    for epoch in range(1, 6):
        order = draw_order(8, 3, ORDER, epoch)
        for rows in (order[:4], order[4:]):
            X, Y = all_X[rows], all_Y[rows]
            theirs = [
                (w - 0.3 * dw / 4, b - 0.3 * db / 4)
                for (w, b), (dw, db) in zip(theirs, autograd.grad(loss)(theirs), strict=True)
            ]
    network.train(all_X, all_Y, epochs=5, batch_size=4)
    for ours, (wanted, _) in zip(network.weights, theirs, strict=True):
        assert np.abs(ours - wanted).max() <= tolerance * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "shards"), [(12, 4), (10, 4), (10, 1), (7, 6), (3, 8), (1, 4)])
def test_an_update_is_the_plain_formulas_to_the_last_digits(activation, rows, shards):
    network = NeuralNetwork(SIZES, activation, 0.5, seed=2, dtype=np.float64, arithmetic="native")
    X, Y = data(rows)
    weights, biases = plain_step(network.weights, network.biases, X, Y, 0.5, activation)
    network.train(X, Y, epochs=1, batch_size=rows, shards=shards)
    for ours, wanted in zip([*network.weights, *network.biases], [*weights, *biases], strict=True):
        assert np.abs(ours - wanted).max() <= 1e-14 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("arithmetic", "tolerance"), [("native", 1e-15), ("portable", 0)])
def test_backprop_and_update_params_are_one_step_of_training(arithmetic, tolerance):
    """In portable arithmetic to the last bit: the rate over the rows is a power of two, so no scaling rounds."""
    X, Y = data(8)
    trained, stepped = (NeuralNetwork(SIZES, "tanh", 0.5, dtype=np.float64, arithmetic=arithmetic) for _ in range(2))
    trained.train(X, Y, epochs=1, batch_size=8)
    stepped.update_params(*stepped.backprop(X, Y), batch_size=8)
    assert np.abs(trained.parameters - stepped.parameters).max() <= tolerance


@pytest.mark.parametrize("exponent", [3, 0, -3])
def test_backprop_rounds_inputs_on_the_grid_of_the_training_set_as_forward_does(exponent):
    network = NeuralNetwork(SIZES)
    network.input_exponent = exponent
    small = np.full((1, 6), 2.0**-40)
    assert np.array_equal(network.forward(small), network.forward(0 * small))
    assert not network.backprop(small, np.eye(3)[:1])[0][0].any()


def test_gradients_are_summed_over_rows_not_averaged():
    network = NeuralNetwork(SIZES, dtype=np.float64)
    X, Y = data(4)
    once, _ = network.backprop(X, Y)
    twice, _ = network.backprop(np.vstack([X, X]), np.vstack([Y, Y]))
    assert np.allclose(twice[0], 2 * once[0])


def test_weights_and_biases_are_views_into_the_flat_parameters():
    network = NeuralNetwork(SIZES)
    network.parameters[:] = 7
    assert all((w == 7).all() for w in network.weights)
    network.biases[1][:] = 3
    assert (network.parameters == 3).sum() == SIZES[2]
    assert len(network.parameters) == 6 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_forward_gives_probabilities_and_no_row_depends_on_the_others(arithmetic):
    network = NeuralNetwork(SIZES, dtype=np.float64, arithmetic=arithmetic)
    X, _ = data(5)
    probabilities = network.forward(X)
    assert probabilities.shape == (5, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    X[1:] *= 50
    assert np.array_equal(network.forward(X)[0], probabilities[0])


def test_a_network_without_hidden_layers_learns():
    X, Y = data(200)
    Y = np.eye(3)[X[:, :3].argmax(axis=1)]
    network = NeuralNetwork([6, 3], learning_rate=0.5)
    network.train(X, Y, epochs=30, batch_size=20)
    assert network.test(X, Y) > 0.9


@pytest.mark.parametrize(("arithmetic", "tolerance"), [("native", 1e-12), ("portable", 1e-6)])
def test_the_reported_loss_is_the_cross_entropy_before_each_step(arithmetic, tolerance):
    X, Y = data(10)
    network = NeuralNetwork(SIZES, dtype=np.float64, arithmetic=arithmetic)
    expected = network.cross_entropy(network.forward(X), Y)
    epochs = []
    network.train(X, Y, epochs=1, batch_size=10, on_epoch=epochs.append)
    assert epochs[0].loss == pytest.approx(expected, rel=tolerance)
