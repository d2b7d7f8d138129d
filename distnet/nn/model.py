"""A network as a value: its task, layer sizes, activation and parameters."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from distnet.nn.functional import ACTIVATIONS
from distnet.portable.grids import MOST
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.numbers import check_choice

ARITHMETICS = ("portable", "native")
TASKS = ("classification", "regression", "multilabel")


@dataclass(frozen=True, eq=False)
class Model:
    """A dense network.

    sizes: neurons per layer, including inputs and outputs. activation: of the hidden layers. parameters: (at least N,),
    float32 or float64; they may change between passes. about: notes such as the configuration of the run, as JSON
    represents them. task: what the outputs are, see `output`.
    arithmetic: "portable", with parameters in float64, or "native". input_exponent: e with |x| <= 2^e for all inputs of
    the training set, the grid of inputs in portable arithmetic; None before a training.
    Raises InputError (on every rank) for an invalid size, activation, arithmetic or task.
    """

    sizes: tuple[int, ...]
    activation: str
    parameters: Array
    about: dict[str, Any] = field(default_factory=dict)
    arithmetic: str = "native"
    input_exponent: int | None = None
    task: str = "classification"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_sizes(self.sizes))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("arithmetic", self.arithmetic, ARITHMETICS)
        check_choice("task", self.task, TASKS)

    @property
    def output(self) -> str:
        """The activation of the output layer, whose loss has δ = ŷ - y at the logits.

        "softmax" with the categorical cross-entropy, to choose one of several classes. "sigmoid" with the binary
        cross-entropy of each output, for labels that don't exclude each other, and for one of two classes if there is a
        single output. "identity" with half the squared error, for regression.
        """
        if self.task == "regression":
            return "identity"
        return "sigmoid" if self.task == "multilabel" or self.sizes[-1] == 1 else "softmax"

    @property
    def input_limit(self) -> float:
        """What the magnitudes of inputs must be below."""
        return math.ldexp(1.0, MOST) if self.arithmetic == "portable" else math.inf


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """The layer sizes as Python integers. Raises InputError (on every rank) for invalid ones."""
    try:
        layers = tuple(sizes)
    except TypeError:
        layers = ()
    if len(layers) < 2 or any(not isinstance(size, (int, np.integer)) or size < 1 for size in layers):
        problem = f"expected inputs, hidden layers and outputs, each 1 or more, got {sizes!r}"
        raise InputError("sizes", problem, on_every_rank=True)
    return tuple(map(int, layers))


def choose_dtype(arithmetic: str, dtype: DTypeLike | None) -> DTypeLike:
    """The dtype of parameters: `dtype`, or the arithmetic's default for None.

    Raises InputError (on every rank) for portable arithmetic in float32.
    """
    if arithmetic == "native":
        return np.float32 if dtype is None else dtype
    with suppress(TypeError):  # `initial_parameters` names what is no dtype
        if dtype is not None and np.dtype(dtype) == np.float32:
            raise InputError(
                "dtype float32", "portable arithmetic is float64", 'use arithmetic="native"', on_every_rank=True
            )
    return np.float64 if dtype is None else dtype
