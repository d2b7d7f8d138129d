"""A network as a value: layer sizes, activation and parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distnet.nn.functional import ACTIVATIONS
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.numbers import check_choice


@dataclass(frozen=True, eq=False)
class Model:
    """A dense network with softmax outputs.

    sizes: neurons per layer, including inputs and outputs. activation: of the hidden layers. parameters: (at least N,),
    float32 or float64; they may change between passes. about: notes such as the configuration of the run, as JSON
    represents them.
    Raises InputError (on every rank) for invalid sizes and activations.
    """

    sizes: tuple[int, ...]
    activation: str
    parameters: Array
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_sizes(self.sizes))
        check_choice("activation", self.activation, ACTIVATIONS)


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
