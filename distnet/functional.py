"""Activations, softmax and losses, each with its derivative.

Every function works element by element or row by row, so that a row's result depends on that row alone.
`out` may be the input itself; without it a new array is made.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating]


class Activation(NamedTuple):
    """A function of the logits z and its derivative, which is given in terms of a = function(z).

    one: the logit whose activation is exactly one.
    """

    function: Callable[[Array, Array | None], Array]
    derivative: Callable[[Array, Array | None], Array]
    one: float


def sigmoid(z: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-z)), element by element; exp may overflow to infinity, which gives the exact limit 0."""
    out = np.negative(z, out)
    np.exp(out, out)
    np.add(out, 1, out)
    return np.reciprocal(out, out)


def sigmoid_derivative(a: Array, out: Array | None = None) -> Array:
    """The slope a (1 - a) for a = sigmoid(z). `out` must not be `a`."""
    out = np.subtract(1, a, out)
    return np.multiply(out, a, out)


def tanh(z: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent, element by element."""
    return np.tanh(z, out)


def tanh_derivative(a: Array, out: Array | None = None) -> Array:
    """The slope 1 - a² for a = tanh(z)."""
    out = np.multiply(a, a, out)
    return np.subtract(1, out, out)


def relu(z: Array, out: Array | None = None) -> Array:
    """max(z, 0), element by element."""
    return np.maximum(z, 0, out=out)


def relu_derivative(a: Array, out: Array | None = None) -> Array:
    """1 where a = relu(z) is positive, else 0 (also at z = 0)."""
    return np.greater(a, 0, np.empty_like(a) if out is None else out)


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, sigmoid_derivative, one=np.inf),
    "tanh": Activation(tanh, tanh_derivative, one=np.inf),
    "relu": Activation(relu, relu_derivative, one=1.0),
}


def softmax(logits: Array, axis: int = -1) -> Array:
    """exp(z) / Σ exp(z) over the classes, which lie along `axis`.

    The maximum of *each row* is subtracted first: the value stays the same, exp can't overflow, and no
    row depends on its neighbours.
    Source: Goodfellow et al., Deep Learning, section 4.1.
    """
    shifted: Array = logits - logits.max(axis=axis, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=axis, keepdims=True)
    return shifted


def cross_entropy(probabilities: Array, targets: Array) -> float:
    """Categorical cross-entropy, the mean over rows of -Σ y log ŷ. Training minimises it.

    probabilities: (rows, classes), each row sums to 1. targets: same shape, each row sums to 1.
    A probability of zero counts as the smallest positive number of its dtype.
    """
    floor = np.finfo(probabilities.dtype).tiny
    return float(-np.sum(targets * np.log(np.maximum(probabilities, floor))) / len(targets))


def cross_entropy_delta(probabilities: Array, targets: Array) -> Array:
    """Gradient of the *summed* categorical cross-entropy with respect to the logits of a softmax: ŷ - y.

    Source: Goodfellow et al., Deep Learning, section 6.2.2.
    """
    return probabilities - targets


def tutorial_cross_entropy(probabilities: Array, targets: Array) -> float:
    """The tutorial's loss, the mean over rows of Σ (-y log ŷ - (1 - y) log(1 - ŷ)) over all outputs.

    It treats every output as a yes-no question of its own. It is reported, never minimised.
    """
    floor = np.finfo(probabilities.dtype).tiny
    yes = targets * np.log(np.maximum(probabilities, floor))
    no = (1 - targets) * np.log(np.maximum(1 - probabilities, floor))
    return float(-np.sum(yes + no) / len(targets))


def tutorial_cross_entropy_delta(probabilities: Array, targets: Array) -> Array:
    """Gradient of the *summed* tutorial loss with respect to the logits of a softmax.

    With g = (ŷ - y) / (ŷ (1 - ŷ)), the derivative for each output, the softmax's Jacobian
    diag(ŷ) - ŷ ŷᵀ gives ŷ ⊙ (g - Σ g ŷ). This isn't ŷ - y: that would hold if each output had a sigmoid
    of its own, whose Jacobian is diag(ŷ (1 - ŷ)); a softmax ties the outputs together.
    """
    g = (probabilities - targets) / (probabilities * (1 - probabilities))
    delta: Array = probabilities * (g - np.sum(g * probabilities, axis=-1, keepdims=True))
    return delta
