"""Forward pass and backprop in portable arithmetic: every sum is exact, so its order does not matter.

Both factors of every product are rounded to grids on which the product's sums are exact. Weights have a grid per
neuron, activations and deltas one per row; for the weights' gradients, whose sums run over the rows of all ranks,
activations and deltas have a grid per layer that the ranks agree on. See docs/portable.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.nn.functional import Activation, build_activations
from distnet.nn.model import Model
from distnet.nn.outputs import OutputMemory
from distnet.nn.parameters import equal_layers, layer_views
from distnet.nn.portable_outputs import MOST_LABELS, OUTPUT_LAYERS
from distnet.portable import elementary
from distnet.portable.grids import (
    EXPONENT_SHIFT,
    LEAST,
    MOST_BITS,
    SIGNIFICAND,
    Floats,
    Rounding,
    powers_above,
    product_bits,
    round_to,
    rounding_constant,
)
from distnet.runtime.arrays import Array, Sharing, aligned_zeros, pad_count
from distnet.runtime.errors import InputError

BOUNDED = ("sigmoid", "tanh")  # activations of at most 1 in magnitude
NON_NEGATIVE = ("sigmoid", "relu")
# Columns up to which rows of weights are taken together, to find maxima and to add constants. NumPy copies constants of
# up to 4,096 columns once more.
TILE, LONG_TILE = 1024, 8192
MOST_ROWS = 1 << 20  # of a mini-batch
ENOUGH_BITS = 20  # of deltas, so that activations keep the bits that they have


class Bits(NamedTuple):
    """How many bits the factors of a layer's products keep.

    inputs, weights: forward, summed over the inputs. deltas, weights: backward, summed over the outputs.
    """

    inputs: int
    weights: int
    deltas: int


def layer_bits(inputs: int, outputs: int) -> Bits:
    """The bits of a layer, shared fairly between weights and what they are multiplied by."""
    weights = product_bits(max(inputs, outputs)) // 2
    return Bits(product_bits(inputs) - weights, weights, product_bits(outputs) - weights)


class Run(NamedTuple):
    """Consecutive layers of one shape: the rows of weights that this rank rounds.

    Rows of few weights are taken several at once, as one row of a tile, since NumPy is slow at short rows.
    """

    weights: Floats  # (layers, tiles, columns), in long tiles
    rounded: Floats
    magnitudes: Floats  # (layers, tiles, columns), the same memory as `rounded`
    tile_maxima: Floats  # (layers, 1, columns)
    split_maxima: Floats  # (layers, rows per tile, neurons), the same memory
    maxima: Floats  # (layers, 1, neurons), a view into one vector of all runs, as `powers` is
    powers: Floats
    split_constants: Floats  # (layers, rows per long tile, neurons)
    constants: Floats  # (layers, 1, columns), the same memory
    factor: Floats  # powers times this are the constants


def tile_rows(rows: int, columns: int, limit: int) -> int:
    """The largest divisor of `rows` of which so many rows have at most `limit` columns together; at least 1."""
    return max(k for k in range(1, max(limit // columns, 1) + 1) if rows % k == 0)  # portable: integers


class PortableArithmetic:
    """The weights of a model on the grids of their neurons, one copy per node. Implements `Arithmetic`.

    sharing: the ranks of the node. Each finds the largest weights of a share of the rows of every layer, and rounds
    this share.
    layers: per layer (inputs, outputs), rounded. biases: per layer (outputs,), as they are. powers: per layer
    (outputs,), 2^e > |w| for each neuron, views into `all_powers`. bits: per layer. changes: how often the powers
    changed.
    """

    def __init__(self, model: Model, sharing: Sharing) -> None:
        self.model, sizes = model, model.sizes
        shapes = list(pairwise(sizes))
        self.bits = [layer_bits(*shape) for shape in shapes]
        self.biases = [layer[-1] for layer in layer_views(model.parameters, sizes)]
        memory = sharing.allocate((sum(inputs * outputs for inputs, outputs in shapes),), np.float64)
        neurons = sum(sizes[1:])
        self.all_powers = aligned_zeros((neurons,), np.float64)
        self._maxima = sharing.allocate((sharing.ranks, pad_count(neurons, np.float64)), np.float64)[:, :neurons]
        own_maxima = self._maxima[sharing.rank]
        self.changes, self._known = 0, b""
        self.layers, self.powers, self._runs = [], [], list[Run]()
        at_weight = at_neuron = at_parameter = 0
        for run in equal_layers(sizes):
            count, (inputs, outputs) = len(run), shapes[run.start]
            rows = slice(inputs * sharing.rank // sharing.ranks, inputs * (sharing.rank + 1) // sharing.ranks)

            def cut(vector: Array, start: int, *shape: int, count: int = count) -> Array:
                size = count * math.prod(shape)
                return vector[start : start + size].reshape(count, *shape, copy=False)

            weights = cut(model.parameters, at_parameter, inputs + 1, outputs)[:, rows]
            rounded = cut(memory, at_weight, inputs, outputs)
            powers = cut(self.all_powers, at_neuron, 1, outputs)
            self.layers += list(rounded)
            self.powers += list(powers[:, 0])
            own = rows.stop - rows.start
            tile, long_tile = (tile_rows(own, outputs, limit) for limit in (TILE, LONG_TILE))
            maxima, constants = np.empty((count, tile, outputs)), np.empty((count, long_tile, outputs))
            by_tile, by_long_tile = ((count, own // each, each * outputs) for each in (tile, long_tile))
            self._runs.append(
                Run(
                    weights.reshape(by_long_tile, copy=False),
                    rounded[:, rows].reshape(by_long_tile, copy=False),
                    rounded[:, rows].reshape(by_tile, copy=False),
                    maxima.reshape(count, 1, -1),
                    maxima,
                    cut(own_maxima, at_neuron, 1, outputs),
                    powers,
                    constants,
                    constants.reshape(count, 1, -1),
                    np.array(rounding_constant(0, self.bits[run.start].weights)),
                )
            )
            at_weight += count * inputs * outputs
            at_neuron += count * outputs
            at_parameter += count * (inputs + 1) * outputs

    @property
    def stages(self) -> Sequence[Callable[[], None]]:
        """See `Arithmetic`. Not stored, for a cycle would keep shared memory."""
        return self._find_maxima, self._round

    def _find_maxima(self) -> None:
        """The largest weight of each neuron among this rank's rows."""
        for run in self._runs:
            np.abs(run.weights, run.rounded)
            np.maximum.reduce(run.magnitudes, axis=1, out=run.tile_maxima, keepdims=True, initial=0.0)
            np.maximum.reduce(run.split_maxima, axis=1, out=run.maxima, keepdims=True)

    def _round(self) -> None:
        """Round this rank's rows."""
        exponents = np.maximum.reduce(self._maxima, axis=0).view(np.int64)
        np.right_shift(exponents, EXPONENT_SHIFT, exponents)
        if (known := exponents.tobytes()) != self._known:
            self._known = known
            self.changes += 1
            powers_above().take(exponents, None, self.all_powers, "wrap")
            for run in self._runs:
                np.multiply(run.powers, run.factor, run.split_constants)
        for run in self._runs:
            np.add(run.weights, run.constants, run.rounded)
            np.subtract(run.rounded, run.constants, run.rounded)

    def round_inputs(self, inputs: Floats) -> None:
        """See `Arithmetic`."""
        assert self.model.input_exponent is not None
        round_to(inputs, rounding_constant(self.model.input_exponent, self.bits[0].inputs), inputs)

    def workspace(self, rows: int, counts: Sequence[int], batch_size: int, has_masks: bool) -> PortablePropagation:
        """See `Arithmetic`."""
        (count,) = counts
        if self.model.output == "sigmoid" and self.model.sizes[-1] > MOST_LABELS:
            raise InputError(
                "targets",
                f"portable arithmetic takes up to {MOST_LABELS:,} labels, got {self.model.sizes[-1]:,}",
                "use native arithmetic",
                on_every_rank=True,
            )
        if batch_size > MOST_ROWS:
            raise InputError(
                "--batch-size",
                f"portable arithmetic has no bits left for {batch_size:,} rows",
                f"use {MOST_ROWS:,} or fewer, or --arithmetic native",
                on_every_rank=True,
            )
        return PortablePropagation(self, count, batch_size, has_masks)


def build_activation(name: str, scratch: Floats) -> Activation:
    """The activation for logits of shape scratch.shape[1:]. scratch: (3, ...), overwritten."""
    arrays = tuple(scratch)
    sigmoid, tanh = partial(elementary.sigmoid, scratch=arrays), partial(elementary.tanh, scratch=arrays)
    return build_activations(sigmoid, tanh, np.array(1.0))[name]


class Hidden(NamedTuple):
    """What is computed with a hidden layer; arrays are (rows, neurons)."""

    product: Callable[[Floats, Floats, Floats], object]
    weights: Floats  # of the layer, rounded
    biases: Floats
    logits: Floats
    activations: Floats
    activation: Activation
    slopes: Floats
    deltas: Floats
    round_activations: Callable[[], object]
    scaled: Floats  # the deltas above times the powers of their neurons, (rows, neurons above)
    round_scaled: Rounding
    powers_above: Floats  # of the neurons above, as often as there are rows
    inverse_powers_above: Floats
    transposed_weights_above: Floats
    rounded: Floats  # activations on the grid of the mini-batch


class PortablePropagation:
    """Workspace for `rows` rows, one shard. Implements `Propagation`.

    weights: rounded; read at every pass. batch_size: rows of the mini-batch on all ranks together. has_masks: whether
    `forward` will be given masks.

    `infer` rounds the inputs in place.
    exponents: (2 layers - 1,) int64, of the last `backprop`: that of the largest |a| per hidden layer, then that of the
    largest |δ| per layer, the output layer last, as `powers_above` takes them.
    """

    def __init__(self, weights: PortableArithmetic, rows: int, batch_size: int, has_masks: bool) -> None:
        model, bits = weights.model, weights.bits
        sizes, input_exponent = model.sizes, model.input_exponent
        hidden, outputs = sizes[1:-1], sizes[-1]
        self._weights, self._has_masks = weights, has_masks
        self.columns = list(hidden)
        self.inputs = aligned_zeros((rows, pad_count(sizes[0] + 1, np.float64)), np.float64)
        self.targets = aligned_zeros((rows, outputs), np.float64)
        self._features, self._targets = self.inputs[:, : sizes[0]], self.targets.T
        self._inputs, self._ones = self.inputs[:, : sizes[0] + 1], np.ones(rows)

        starts = [rows * start for start in accumulate(hidden, initial=0)]
        flat = aligned_zeros((3, pad_count(starts[-1], np.float64)), np.float64)
        self._logits, self._activations, self._slopes = flat[:, : starts[-1]]
        self._deltas = aligned_zeros((starts[-1] + rows * outputs,), np.float64)
        self._output_deltas = self._deltas[starts[-1] :].reshape(outputs, rows)
        scratch = aligned_zeros((3, max(len(self._deltas), rows * max(sizes))), np.float64)
        self._magnitudes = scratch[0]

        self._derivative = build_activation(model.activation, scratch[:, : starts[-1]]).derivative
        is_bounded = model.activation in BOUNDED and not has_masks
        self._is_bounded, self._is_positive = is_bounded, model.activation in NON_NEGATIVE
        self._changes = 0
        self.hidden = []
        for number, (start, width) in enumerate(zip(starts, hidden, strict=False)):
            z, a, slopes = flat[:, start : start + rows * width].reshape(3, rows, width)
            cut = scratch[:, : rows * width].reshape(3, rows, width)
            scaled = scratch[1, : rows * sizes[number + 2]].reshape(rows, sizes[number + 2])
            powers, inverses = np.empty((2, *scaled.shape))
            round_activations: Callable[[], object] = Rounding(a, 1, bits[number + 1].inputs, scratch[0])
            if is_bounded:
                round_activations = partial(round_to, a, np.array(rounding_constant(0, bits[number + 1].inputs)), a)
            self.hidden.append(
                Hidden(
                    product=np.dot if number else np.matmul,  # portable: rows and neurons on grids; matmul never copies
                    weights=weights.layers[number],
                    biases=weights.biases[number],
                    logits=z,
                    activations=a,
                    activation=build_activation(model.activation, cut),
                    slopes=slopes,
                    deltas=self._deltas[start : start + rows * width].reshape(rows, width),
                    round_activations=round_activations,
                    scaled=scaled,
                    round_scaled=Rounding(scaled, 1, bits[number + 1].deltas, scratch[0]),
                    powers_above=powers,
                    inverse_powers_above=inverses,
                    transposed_weights_above=weights.layers[number + 1].T,
                    rounded=cut[2],
                )
            )
        self._top = self.hidden[-1].activations.T if hidden else self._features.T
        self._output_weights, self._output_biases = weights.layers[-1].T, weights.biases[-1][:, None]
        self.outputs = aligned_zeros((1, outputs, rows), np.float64)
        self._output_logits = self.outputs[0]
        if model.output != "identity":
            self._output_logits = aligned_zeros((outputs, rows), np.float64)
        self.loss_parts = aligned_zeros((2, rows), np.float64)
        memory = OutputMemory(self._output_logits, self.outputs[0], self._targets, self.loss_parts)
        output_scratch = scratch[:, : outputs * rows].reshape(3, outputs, rows)
        self._output_layer = OUTPUT_LAYERS[model.output](memory, output_scratch)

        least = LEAST if input_exponent is None else input_exponent
        self._round_inputs = Rounding(self._features, 1, bits[0].inputs, scratch[0], least)

        self._starts = np.array(starts, np.intp)
        self._maxima = np.full(2 * len(hidden) + 1, 0.5)  # less than 2^0, where activations are bounded
        self._activation_maxima, self._delta_maxima = self._maxima[: len(hidden)], self._maxima[len(hidden) :]
        self.exponents = np.zeros(len(self._maxima), np.int64)
        gradient_bits, kept = product_bits(batch_size), [layer.inputs for layer in bits]
        self._keeps = [is_bounded and gradient_bits - each >= ENOUGH_BITS for each in kept[1:]]
        of_activations = [
            each if keeps else gradient_bits // 2 for each, keeps in zip(kept[1:], self._keeps, strict=True)
        ]
        of_deltas = [gradient_bits - each for each in (kept[0], *of_activations)]
        self._all_constants = np.empty_like(self._maxima)
        # As zero-dimensional arrays, which ufuncs take faster than numbers.
        self._constants = [self._all_constants[place : place + 1].reshape(()) for place in range(len(self._maxima))]
        places = SIGNIFICAND - 1 - np.minimum([*of_activations, *of_deltas], MOST_BITS)
        self._factors = np.ldexp(1.5, places)

    def infer(self, inputs: Array | None = None) -> Floats:
        """See `Propagation`. A row's outputs depend on that row alone."""
        with np.errstate(all="ignore"):
            if inputs is not None:
                np.copyto(self._features, inputs[0, :, : self._features.shape[1]])
            self._round_inputs()
            outputs: Floats = self.forward()[0].T
        return outputs

    def forward(self, masks: Sequence[Array] = ()) -> Floats:
        """See `Propagation`."""
        above = self._features
        for number, layer in enumerate(self.hidden):
            logits, activations = layer.logits, layer.activations
            layer.product(above, layer.weights, logits)
            np.add(logits, layer.biases, logits)
            layer.activation.function(logits, activations)
            if masks:
                layer.activation.derivative(activations, logits, layer.slopes)
                np.multiply(layer.slopes, masks[number], layer.slopes)
                np.multiply(activations, masks[number], activations)
            layer.round_activations()
            above = activations
        logits = self._output_logits
        np.dot(self._output_weights, self._top, logits)  # portable: rows and neurons on grids
        np.add(logits, self._output_biases, logits)
        self._output_layer.activate()
        return self.outputs

    def losses(self) -> Floats:
        """See `Propagation`."""
        self._output_layer.find_losses()
        return self.loss_parts

    def backprop(self, gradients: Sequence[Array], scale: float = 1.0, weights: Array | None = None) -> None:
        """See `Propagation`. Computes the deltas; `finish` makes gradients of them."""
        delta = self._output_deltas
        np.subtract(self.outputs[0], self._targets, delta)
        if weights is not None:
            np.multiply(delta, weights, delta)
        if scale != 1:
            np.multiply(delta, scale, delta)
        if self.hidden and not self._has_masks:
            self._derivative(self._activations, self._logits, self._slopes)
        if self._changes != self._weights.changes:
            self._spread_powers()
        delta = delta.T
        for layer in reversed(self.hidden):
            scaled = layer.scaled
            np.multiply(delta, layer.powers_above, scaled)
            layer.round_scaled()
            np.multiply(scaled, layer.inverse_powers_above, scaled)
            delta = layer.deltas
            np.dot(scaled, layer.transposed_weights_above, delta)  # portable: rows and neurons on grids
            np.multiply(delta, layer.slopes, delta)
        self._find_exponents()

    def _spread_powers(self) -> None:
        """Copy the powers of the neurons, which rarely change: a row for each row of deltas."""
        self._changes = self._weights.changes
        for layer, powers in zip(self.hidden, self._weights.powers[1:], strict=True):
            np.copyto(layer.powers_above, powers)
            np.divide(1.0, layer.powers_above, layer.inverse_powers_above)

    def _find_exponents(self) -> None:
        """The exponents of activations and deltas; NOT_FINITE where one is NaN or too large."""
        if not len(self.inputs):
            return
        if self.hidden and not self._is_bounded:
            magnitudes = self._activations
            if not self._is_positive:
                magnitudes = np.abs(magnitudes, self._magnitudes[: magnitudes.size])
            np.maximum.reduceat(magnitudes, self._starts[:-1], axis=0, out=self._activation_maxima)
        magnitudes = np.abs(self._deltas, self._magnitudes[: self._deltas.size])
        np.maximum.reduceat(magnitudes, self._starts, axis=0, out=self._delta_maxima)
        np.right_shift(self._maxima.view(np.int64), EXPONENT_SHIFT, self.exponents)

    def finish(self, gradients: Sequence[Array], exponents: NDArray[np.int64]) -> None:
        """See `Propagation`. The gradients are exact for the rounded activations and deltas."""
        constants = self._constants
        powers_above().take(exponents, None, self._all_constants, "wrap")
        np.multiply(self._all_constants, self._factors, self._all_constants)
        count, below = len(self.hidden), self._inputs
        layers = [layer for stack in gradients for layer in stack[0]]
        for number in range(count + 1):
            if number:
                layer = self.hidden[number - 1]
                below = layer.activations
                if not self._keeps[number - 1]:
                    below = round_to(below, constants[number - 1], layer.rounded)
            delta = self._output_deltas.T if number == count else self.hidden[number].deltas
            round_to(delta, constants[count + number], delta)
            gradient = layers[number]
            if not number:
                np.matmul(self._inputs.T, delta, gradient)  # portable: both on the grids of the mini-batch
                continue
            np.dot(below.T, delta, gradient[:-1])  # portable: the same
            np.dot(self._ones, delta, gradient[-1])  # portable: the same
