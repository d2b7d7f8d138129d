"""A person's program: .ci/run has mypy --strict check it against the installed wheel, and runs it there."""

from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
from numpy.typing import NDArray

from distnet import NeuralNetwork
from distnet.runtime.errors import InputError

if TYPE_CHECKING:
    from distnet import Classifier


def fit(X: NDArray[np.float64], y: NDArray[np.int64]) -> "Classifier":
    """With the extra `sklearn`."""
    from distnet import Classifier

    return Classifier((8,), max_iter=3, random_state=0).fit(X, y)


X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
network = NeuralNetwork([4, 8, 3], activation="tanh", learning_rate=0.1, seed=0, dtype=np.float64)
network.train(X, np.eye(3)[y], epochs=2, batch_size=5)
assert_type(network.test(X, np.eye(3)[y]), float)
assert_type(network.forward(X), NDArray[np.floating[Any]])
assert_type(network.about, dict[str, Any])
fast = NeuralNetwork([4, 8, 3], dtype=np.float32, arithmetic="native")
fast.train(X, np.eye(3)[y], epochs=1, shards=2)
try:
    NeuralNetwork.load("nowhere.npz")
except InputError as error:
    print(error)
