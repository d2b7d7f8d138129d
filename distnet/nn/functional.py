"""Activations, their derivatives, losses, and what outputs predict.

Every function works element by element or row by row, so a row's result depends on that row alone.
`out` must not overlap the inputs; if it is None, a new array is returned.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.portable.elementary import log
from distnet.portable.grids import exact_sum
from distnet.runtime.arrays import Array

LEAK = 0.01  # the slope of leaky relu for negative logits, as in torch
HALF = 0.5  # the probability from which a label is predicted
GELU_LINEAR, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


class Activation(NamedTuple):
    """A function of the logits z and its derivative.

    function(z, out): the activations a, in the shape of z. derivative(a, z, out): the slopes, in the same shape.
    one: the logit whose activation is exactly 1; None if there is none.
    """

    function: Callable[[Array, Array | None], Array]
    derivative: Callable[[Array, Array, Array | None], Array]
    one: float | None


def sigmoid_derivative(a: Array, z: Array, out: Array | None = None, one: Array | int = 1) -> Array:
    """The slope a (1 - a). one: as of `native_sigmoid`."""
    out = np.subtract(one, a, out)
    return np.multiply(out, a, out)


def tanh_derivative(a: Array, z: Array, out: Array | None = None) -> Array:
    """The slope 1 - a²."""
    out = np.multiply(a, a, out)
    return np.subtract(1, out, out)


def relu(z: Array, out: Array | None = None) -> Array:
    """max(z, 0)."""
    return np.maximum(z, 0, out=out)


def relu_derivative(a: Array, z: Array, out: Array | None = None) -> Array:
    """1 where a is positive, else 0 (also at z = 0)."""
    return np.greater(a, 0, np.empty_like(a) if out is None else out)


def leaky_relu(z: Array, out: Array | None = None) -> Array:
    """The logit if it is positive, else 1/100 of it. Source: Maas et al. 2013."""
    out = np.multiply(z, LEAK, out)
    return np.maximum(z, out, out=out)


def leaky_relu_derivative(a: Array, z: Array, out: Array | None = None) -> Array:
    """1 where a is positive, else 1/100 (also at z = 0)."""
    out = relu_derivative(a, z, out)
    return np.maximum(out, LEAK, out=out)


def identity(z: Array, out: Array | None = None) -> Array:
    """The logit itself."""
    return np.add(z, 0, out)


def identity_derivative(a: Array, z: Array, out: Array | None = None) -> Array:
    """The slope 1."""
    out = np.empty_like(a) if out is None else out
    out.fill(1)
    return out


def native_sigmoid(z: Array, out: Array | None = None, one: Array | int = 1) -> Array:
    """1 / (1 + exp(-z)); if exp overflows to infinity, the result is the exact limit 0.

    one: the number 1. As a zero-dimensional array of z's dtype, it saves a third of the time for a few hundred logits.
    """
    out = np.negative(z, out)
    np.exp(out, out)  # portable: of native arithmetic
    np.add(out, one, out)
    return np.divide(one, out, out)


Function = Callable[[Array, Array | None], Array]  # (x, out), element by element; out may be x


def build_activations(
    sigmoid: Function = native_sigmoid,
    tanh: Function = np.tanh,  # portable: the default of native arithmetic
    one: Array | int = 1,
) -> dict[str, Activation]:
    """All activations by name, from these two functions. one: as of `native_sigmoid`, for the slopes."""

    def gelu_tanh(z: Array, out: Array | None) -> Array:
        """tanh(√(2/π) (z + 0.044715 z³))."""
        out = np.multiply(z, z, out)
        np.multiply(out, GELU_CUBIC, out)
        np.add(out, 1, out)
        np.multiply(out, z, out)
        np.multiply(out, GELU_LINEAR, out)
        return tanh(out, out)

    def gelu(z: Array, out: Array | None = None) -> Array:
        """z/2 (1 + tanh(√(2/π) (z + 0.044715 z³))), the usual approximation of z Φ(z).

        Source: Hendrycks and Gimpel 2016, "Gaussian error linear units", section 2.
        """
        out = gelu_tanh(z, out)
        np.add(out, 1, out)
        np.multiply(out, z, out)
        return np.multiply(out, 0.5, out)

    def gelu_derivative(a: Array, z: Array, out: Array | None = None) -> Array:
        """The slope (1 + t)/2 (1 + (1 - t) u): t is the tanh in `gelu`, u is z times the derivative of its argument.

        Allocates two arrays like z.
        """
        t = gelu_tanh(z, out)
        u = np.multiply(z, z)
        np.multiply(u, 3 * GELU_CUBIC * GELU_LINEAR, u)
        np.add(u, GELU_LINEAR, u)
        np.multiply(u, z, u)
        rest = np.subtract(1, t)
        np.multiply(u, rest, u)
        np.add(u, 1, u)
        np.add(t, 1, t)
        np.multiply(t, u, t)
        return np.multiply(t, 0.5, t)

    return {
        "sigmoid": Activation(sigmoid, partial(sigmoid_derivative, one=one), one=np.inf),
        "tanh": Activation(tanh, tanh_derivative, one=np.inf),
        "relu": Activation(relu, relu_derivative, one=1.0),
        "leaky-relu": Activation(leaky_relu, leaky_relu_derivative, one=1.0),
        "gelu": Activation(gelu, gelu_derivative, one=None),
        "identity": Activation(identity, identity_derivative, one=1.0),
    }


ACTIVATIONS = build_activations()


def class_probabilities(outputs: Array) -> Array:
    """Probabilities (rows, classes) from outputs; a single output is the probability of the second of two classes."""
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def classify(outputs: Array) -> NDArray[np.int64]:
    """The index of the most probable class of each row, (rows,)."""
    if outputs.shape[1] == 1:
        return (outputs[:, 0] >= HALF).astype(np.int64)  # portable: 0 and 1
    return np.asarray(outputs.argmax(axis=1))


def cross_entropy(probabilities: Array, targets: Array) -> float:
    """Categorical cross-entropy, the mean over rows of -Σ y log ŷ. Training minimises it.

    probabilities, targets: (rows, classes); each row sums to 1.
    A probability of zero counts as the smallest normal number of its dtype.
    """
    floor = np.finfo(probabilities.dtype).tiny
    return float(exact_sum((targets * -log(np.maximum(probabilities, floor))).reshape(-1)) / len(targets))


def tutorial_losses(probabilities: Array, targets: Array) -> Array:
    """The tutorial's loss of each row, Σ (-y log ŷ - (1 - y) log(1 - ŷ)); arguments as of `cross_entropy`.

    It treats each output as an independent binary classification. It is reported, never minimised.
    """
    floor = np.finfo(probabilities.dtype).tiny
    yes = targets * log(np.maximum(probabilities, floor))
    no = (1 - targets) * log(np.maximum(1 - probabilities, floor))
    return exact_sum(-(yes + no), axis=1)
