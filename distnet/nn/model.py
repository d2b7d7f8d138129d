"""A network as a value: layer sizes, activation and parameters."""

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


@dataclass(frozen=True, eq=False)
class Model:
    """A dense network with softmax outputs.

    sizes: neurons per layer, including inputs and outputs. activation: of the hidden layers. parameters: (at least N,),
    float32 or float64; they may change between passes. about: notes such as the configuration of the run, as JSON
    represents them.
    arithmetic: "portable", with parameters in float64, or "native". input_exponent: e with |x| <= 2^e for all inputs of
    the training set, the grid of inputs in portable arithmetic; None before a training.
    Raises InputError (on every rank) for an invalid size, activation or arithmetic.
    """

    sizes: tuple[int, ...]
    activation: str
    parameters: Array
    about: dict[str, Any] = field(default_factory=dict)
    arithmetic: str = "native"
    input_exponent: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_sizes(self.sizes))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("arithmetic", self.arithmetic, ARITHMETICS)

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
