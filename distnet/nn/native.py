"""Forward pass and backprop of a stack of shards in native arithmetic: as fast as NumPy and its BLAS are.

Every product is a stacked matmul with the shapes of one shard, and every shard starts on a cache line. So the
arithmetic of a shard is the same alone as in a stack.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.nn.functional import build_activations, native_sigmoid
from distnet.nn.model import Model
from distnet.nn.native_outputs import OUTPUT_LAYERS
from distnet.nn.outputs import OutputMemory
from distnet.nn.parameters import equal_layers, layer_views
from distnet.runtime.arrays import Array, aligned_zeros, pad_count
from distnet.runtime.blas import single_blas_thread

matmul, multiply = np.matmul, np.multiply

# With few rows and many weights, BLAS computes Wδᵀ far faster than δWᵀ; the product is then stored by columns.
FEW_ROWS, MANY_WEIGHTS = 64, 1 << 15
SMALL = 1 << 18  # bytes of all hidden layers' slopes, up to which one call is faster than one per layer


class Hidden(NamedTuple):
    """The memory of a hidden layer, as views of (shards, rows, columns).

    A row fills whole cache lines. Element-wise steps include its spare columns, which nothing reads: that is far
    faster than stopping at the last neuron of every row.
    """

    layer: Array  # (inputs + 1, neurons), weights and biases
    logits: Array  # all columns; the column after the neurons holds `Activation.one`
    neuron_logits: Array  # the neurons' columns
    activations: Array  # all columns
    ones: Array  # (shards, rows), the column after the neurons
    with_ones: Array  # the neurons' columns and `ones`, which the bias multiplies
    neuron_deltas: Array  # the neurons' columns
    slopes: Array  # the activation's derivative, all columns
    transposed_weights_above: Array  # (neurons above, neurons)
    product: Array  # (shards, rows, neurons), deltas above times weights above; may be stored by columns
    factors: tuple[Array, Array, Array]  # `product`, the slopes, and the deltas that they are multiplied into


class Run(NamedTuple):
    """Consecutive layers of one shape, whose gradients are one stacked product."""

    hidden: list[Hidden]  # that these layers lead to, the last first
    transposed_inputs: Array  # (shards, layers, inputs + 1, rows)
    deltas: Array  # (shards, layers, rows, outputs)


class NativePropagation:
    """Workspace for `shards` stacked shards of `rows` rows each. Implements `Propagation`.

    model: its parameters are read at every pass. real: how many leading rows of each shard are samples; None for all.

    inputs: (shards * rows, pad_count(sizes[0] + 1)). Fill it before `forward`, with ones in column sizes[0].
    targets: (shards * rows, outputs). Fill it before `backprop` and `losses`.
    outputs: (shards, outputs, rows), the result of `forward`.
    """

    def __init__(
        self,
        model: Model,
        shards: int,
        rows: int,
        real: Sequence[int] | None = None,
    ) -> None:
        sizes, dtype = model.sizes, model.parameters.dtype
        one = np.array(1, dtype)
        self.activation = build_activations(partial(native_sigmoid, one=one), one=one)[model.activation]
        self.layers = layer_views(model.parameters, sizes)
        features, outputs = sizes[0], sizes[-1]

        def by_output() -> Array:
            lines = aligned_zeros((shards, pad_count(outputs * rows, dtype)), dtype)
            return lines[:, : outputs * rows].reshape(shards, outputs, rows)

        self.inputs = aligned_zeros((shards * rows, pad_count(features + 1, dtype)), dtype)
        self.targets = aligned_zeros((shards * rows, outputs), dtype)
        self.stacked_inputs = self.inputs.reshape(shards, rows, -1)[..., : features + 1]
        self.stacked_targets = self.targets.reshape(shards, rows, outputs).swapaxes(-1, -2)
        self.columns = wide = [pad_count(size + 1, dtype) for size in sizes[1:-1]]
        starts = [shards * rows * start for start in accumulate(wide, initial=0)]
        all_layers = aligned_zeros((4, starts[-1]), dtype)
        self.hidden_logits, self.activations, self.slopes, all_deltas = all_layers
        self.small = self.slopes.nbytes <= SMALL
        self.hidden = []
        # Transposed views are created once, here: creating one takes as long as a small product.
        for columns, start, (layer, layer_above) in zip(wide, starts, pairwise(self.layers), strict=False):
            size = layer.shape[1]
            z, a, slopes, d = all_layers[:, start : start + shards * rows * columns].reshape(4, shards, rows, columns)
            z[..., size] = self.activation.one or 0
            product, factors = d[..., :size], (d, slopes, d)
            if rows <= FEW_ROWS and layer_above[:-1].size >= MANY_WEIGHTS:
                product = aligned_zeros((shards, size, rows), dtype).swapaxes(-1, -2)
                factors = product, slopes[..., :size], d[..., :size]
            memory = Hidden(
                layer=layer,
                logits=z,
                neuron_logits=z[..., :size],
                activations=a,
                ones=a[..., size],
                with_ones=a[..., : size + 1],
                neuron_deltas=d[..., :size],
                slopes=slopes,
                transposed_weights_above=layer_above[:-1].T,
                product=product,
                factors=factors,
            )
            self.hidden.append(memory)
        self.logits, self.output_deltas = by_output(), by_output()
        self.outputs = self.logits if model.output == "identity" else by_output()
        self.transposed_output_layer = self.layers[-1].T
        self.transposed_top = (self.hidden[-1].with_ones if sizes[1:-1] else self.stacked_inputs).swapaxes(-1, -2)
        self.transposed_output_deltas = self.output_deltas.swapaxes(-1, -2)

        def stack(arrays: Array, layers: range, columns: int) -> Array:
            """The rows of consecutive hidden layers of one size, (shards, layers, rows, columns)."""
            some = arrays[starts[layers.start] : starts[layers.stop]]
            return some.reshape(len(layers), shards, rows, -1).swapaxes(0, 1)[..., :columns]

        self.runs = []
        for run in reversed(equal_layers(sizes)):
            inputs, deltas = self.stacked_inputs[:, None], self.transposed_output_deltas[:, None]
            if run.start:
                inputs = stack(self.activations, range(run.start - 1, run.stop - 1), sizes[run.start] + 1)
            if run.stop < len(self.layers):
                deltas = stack(all_deltas, run, sizes[run.stop])
            hidden = self.hidden[run.start : run.stop]
            self.runs.append(Run(hidden[::-1], inputs.swapaxes(-1, -2), deltas))
        self.loss_parts = np.ones((2, shards * rows), dtype)
        output_memory = OutputMemory(self.logits, self.outputs, self.stacked_targets, self.loss_parts)
        self.output_layer = OUTPUT_LAYERS[model.output](output_memory)
        self.exponents = np.empty(0, np.int64)
        self.padding = [self.output_deltas[shard, :, count:] for shard, count in enumerate(real or ()) if count < rows]

    def forward(self, masks: Sequence[Array] = (), inputs: Array | None = None) -> Array:
        """See `Propagation`. inputs: as of `infer`, for all shards."""
        self.masks = masks
        function = self.activation.function
        above = self.stacked_inputs if inputs is None else inputs
        for number, hidden in enumerate(self.hidden):
            matmul(above, hidden.layer, hidden.neuron_logits)
            function(hidden.logits, hidden.activations)
            if self.activation.one is None:
                hidden.ones.fill(1)
            if masks:
                mask = masks[number].reshape(hidden.activations.shape, copy=False)
                self.activation.derivative(hidden.activations, hidden.logits, hidden.slopes)
                multiply(hidden.slopes, mask, hidden.slopes)
                multiply(hidden.activations, mask, hidden.activations)
            above = hidden.with_ones
        top = self.transposed_top if self.hidden or inputs is None else inputs.swapaxes(-1, -2)
        matmul(self.transposed_output_layer, top, self.logits)
        self.output_layer.activate()
        return self.outputs

    def infer(self, inputs: Array | None = None) -> Array:
        """See `Propagation`."""
        with np.errstate(over="ignore", divide="ignore"), single_blas_thread:  # saturated activations are exact limits
            outputs: Array = self.forward(inputs=inputs)[0].T
        return outputs

    def losses(self) -> Array:
        """See `Propagation`."""
        self.output_layer.find_losses()
        return self.loss_parts

    def backprop(self, gradients: Sequence[Array], scale: float = 1.0, weights: Array | None = None) -> None:
        """See `Propagation`. The inputs must be `self.inputs`."""
        np.subtract(self.outputs, self.stacked_targets, self.output_deltas)
        if weights is not None:
            multiply(self.output_deltas, weights.reshape(len(self.output_deltas), 1, -1), self.output_deltas)
        if scale != 1:
            multiply(self.output_deltas, scale, self.output_deltas)
        for missing in self.padding:
            missing.fill(0)
        derivative = self.activation.derivative
        if self.small and not self.masks:
            derivative(self.activations, self.hidden_logits, self.slopes)
        delta = self.transposed_output_deltas
        for run, gradient in zip(self.runs, reversed(gradients), strict=True):
            for hidden in run.hidden:
                matmul(delta, hidden.transposed_weights_above, hidden.product)
                if not self.small and not self.masks:
                    derivative(hidden.activations, hidden.logits, hidden.slopes)
                multiply(*hidden.factors)
                delta = hidden.neuron_deltas
            matmul(run.transposed_inputs, run.deltas, gradient)

    def finish(self, gradients: Sequence[Array], exponents: NDArray[np.int64]) -> None:
        """Nothing is left to do: `backprop` has computed the gradients."""


class NativeArithmetic:
    """Implements `Arithmetic`."""

    stages: Sequence[Callable[[], None]] = ()  # nothing is derived from the parameters

    def __init__(self, model: Model) -> None:
        self.model = model

    def round_inputs(self, inputs: Array) -> None:
        """Inputs are multiplied as they are."""

    def workspace(self, rows: int, counts: Sequence[int], batch_size: int, has_masks: bool) -> NativePropagation:
        """See `Arithmetic`."""
        return NativePropagation(self.model, len(counts), rows, counts)
