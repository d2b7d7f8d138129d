"""All parameters of a network in one flat vector, with views of the layers.

A layer is a matrix of (inputs + 1, outputs). Its last row is the bias, which multiplies an additional input that is
always one. So one product computes both, in the forward pass and in backprop.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import DTypeLike

from distnet.nn.functional import ACTIVATIONS
from distnet.nn.model import check_sizes
from distnet.portable.draws import draw_fractions, draw_normals
from distnet.runtime.arrays import Array, little_endian
from distnet.runtime.errors import InputError
from distnet.runtime.numbers import check_choice, seed_number

INITIALISATIONS = ("torch", "he", "xavier", "tutorial")

PURPOSE = 2  # of the random numbers; augmentation has 0, dropout 1
BLOCK = 1024  # parameters; slices of the flat vector are whole blocks, except the last one


def parameter_count(sizes: Sequence[int]) -> int:
    """N, the number of weights and biases of a network with these layer sizes."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


def layer_views(vectors: Array, sizes: Sequence[int]) -> list[Array]:
    """Views of (..., inputs + 1, outputs) into vectors of (..., at least N), one per layer."""
    return [stack[..., number, :, :] for stack in layer_stacks(vectors, sizes) for number in range(stack.shape[-3])]


def layer_stacks(vectors: Array, sizes: Sequence[int]) -> list[Array]:
    """Views of (..., layers, inputs + 1, outputs) into vectors of (..., at least N), one per run of `equal_layers`."""
    stacks, stop = [], 0
    for run in equal_layers(sizes):
        inputs, outputs = sizes[run.start : run.start + 2]
        start, stop = stop, stop + len(run) * (inputs + 1) * outputs
        stacks.append(vectors[..., start:stop].reshape(*vectors.shape[:-1], -1, inputs + 1, outputs, copy=False))
    return stacks


def equal_layers(sizes: Sequence[int]) -> list[range]:
    """The layers in runs of one shape, whose memory is contiguous, so that one call serves all of a run.

    The first and the last layer are runs of their own.
    """
    runs: list[range] = []
    last = len(sizes) - 2
    for number, shape in enumerate(pairwise(sizes)):
        if 1 < number < last and shape == tuple(sizes[number - 1 : number + 1]):
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


def weight_runs(sizes: Sequence[int]) -> list[slice]:
    """Slices of the flat vector that are weights, one per layer; the biases lie between them."""
    starts = accumulate(((inputs + 1) * outputs for inputs, outputs in pairwise(sizes)), initial=0)
    return [
        slice(start, start + inputs * outputs)
        for start, (inputs, outputs) in zip(starts, pairwise(sizes), strict=False)
    ]


def initial_parameters(
    sizes: Sequence[int], activation: str, seed: int, dtype: DTypeLike, initialisation: str | None = None
) -> Array:
    """The initial flat vector (N,).

    initialisation: "torch" draws weights and biases uniformly within ±1 / √inputs, as torch.nn.Linear does. The others
    draw normal weights and set biases to zero; the variance is 2 / inputs for "he", 2 / (inputs + outputs) for
    "xavier", and 1 / inputs for "tutorial". None for the default: "tutorial" for sigmoid, else "torch".
    Source: He et al. 2015, section 2.2; Glorot and Bengio 2010.
    Raises InputError (on every rank) for invalid values.
    """
    sizes = check_sizes(sizes)
    check_choice("activation", activation, ACTIVATIONS)
    seed = seed_number.check("seed", seed)
    if initialisation is not None:
        check_choice("initialisation", initialisation, INITIALISATIONS)
    floating = False
    with suppress(TypeError):
        floating = np.dtype(dtype) in (np.float32, np.float64)
    if not floating:
        raise InputError("dtype", f"expected float32 or float64, got {dtype!r}", on_every_rank=True)
    vector = np.zeros(parameter_count(sizes), dtype)
    initialisation = initialisation or ("tutorial" if activation == "sigmoid" else "torch")
    for number, matrix in enumerate(layer_views(vector, sizes)):
        weights, key = matrix[:-1], (seed, PURPOSE, number)
        inputs, outputs = weights.shape
        if initialisation == "torch":
            uniform = draw_fractions(matrix.size, *key).reshape(matrix.shape) * 2 - 1
            matrix[:] = uniform / math.sqrt(inputs)
            continue
        variance = {"he": 2 / inputs, "xavier": 2 / (inputs + outputs), "tutorial": 1 / inputs}[initialisation]
        weights[:] = draw_normals(weights.size, *key).reshape(weights.shape) * math.sqrt(variance)
    return vector


def parameters_sha256(parameters: Array) -> str:
    """The SHA-256 of the flat parameter vector as little-endian bytes, 64 hex digits."""
    return hashlib.sha256(little_endian(parameters + 0.0).data).hexdigest()  # + 0.0 makes -0.0 of some BLAS 0.0
