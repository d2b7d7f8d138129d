"""Forward pass and backprop of a stack of shards, in memory that is taken once.

Every product is a stacked matmul whose shapes are those of one shard, and every shard starts on a cache
line, so that a shard meets the same arithmetic whether it is alone or one of many.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distnet.functional import ACTIVATIONS, Array
from distnet.layers import aligned_zeros, layer_views, padded


class Hidden(NamedTuple):
    """The memory of a hidden layer, each (shards, rows, columns).

    A row fills whole cache lines. Elementwise steps run over all of it in one go, which is far faster than
    stopping at the last neuron of every row; what they leave in the spare columns meets nothing.
    """

    activations: Array  # the logits z, overwritten by a; all columns
    neurons: Array  # its first columns, one a neuron
    ones: Array  # (shards, rows), the column behind them, which the biases multiply
    with_ones: Array  # neurons and ones
    transposed: Array  # (shards, columns, rows), the same
    deltas: Array  # all columns
    neuron_deltas: Array  # its first columns
    slopes: Array  # the activation's derivative; all columns


class Propagation:
    """Workspace for `shards` stacked shards of `rows` rows each, over one flat vector of parameters.

    sizes: neurons a layer, inputs and outputs included. parameters: (at least N,); read at every pass.
    real: how many leading rows of each shard are samples; all of them where it is not given.

    inputs: (shards * rows, padded(sizes[0] + 1)), to be filled by the caller before `forward`; column
    sizes[0] has to be one.
    targets: (shards * rows, classes), to be filled by the caller before `backprop` and `losses`.
    probabilities: (shards, classes, rows), the result of `forward`. Classes come before rows here, since
    NumPy takes the maximum and the sum over the classes far faster that way.
    Collective: no.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str,
        parameters: Array,
        shards: int,
        rows: int,
        real: Sequence[int] | None = None,
    ) -> None:
        dtype = parameters.dtype
        self.activation = ACTIVATIONS[activation]
        self.layers = layer_views(parameters, sizes)
        features, classes = sizes[0], sizes[-1]

        def stack(columns: int) -> Array:
            return aligned_zeros((shards, rows, padded(columns, dtype)), dtype)

        def by_class() -> Array:
            whole_lines = aligned_zeros((shards, padded(classes * rows, dtype)), dtype)
            return whole_lines[:, : classes * rows].reshape(shards, classes, rows)

        self.inputs = aligned_zeros((shards * rows, padded(features + 1, dtype)), dtype)
        self.targets = aligned_zeros((shards * rows, classes), dtype)
        self.stacked_inputs = self.inputs.reshape(shards, rows, -1)[..., : features + 1]
        self.stacked_targets = self.targets.reshape(shards, rows, classes).swapaxes(-1, -2)
        # Transposed views are made here, once: making one takes as long as a small product.
        self.transposed_inputs = self.stacked_inputs.swapaxes(-1, -2)
        self.transposed_weights = [layer[:-1].T for layer in self.layers]
        self.transposed_output_layer = self.layers[-1].T
        self.hidden = []
        for size in sizes[1:-1]:
            a, d = stack(size + 1), stack(size + 1)
            memory = Hidden(
                activations=a,
                neurons=a[..., :size],
                ones=a[..., size],
                with_ones=a[..., : size + 1],
                transposed=a[..., : size + 1].swapaxes(-1, -2),
                deltas=d,
                neuron_deltas=d[..., :size],
                slopes=stack(size + 1),
            )
            self.hidden.append(memory)
        self.logits, self.probabilities, self.output_deltas = by_class(), by_class(), by_class()
        self.transposed_output_deltas = self.output_deltas.swapaxes(-1, -2)
        self.row_maximum = aligned_zeros((shards, 1, rows), dtype)
        self.row_sum = aligned_zeros((shards, 1, rows), dtype)
        self.row_dots = aligned_zeros((shards, rows), dtype)
        self.row_losses = aligned_zeros((shards * rows,), dtype)
        self.padding = [self.output_deltas[shard, :, count:] for shard, count in enumerate(real or ()) if count < rows]

    def forward(self, inputs: Array | None = None) -> Array:
        """Probabilities (shards, classes, rows) of the inputs. Overwrites the previous pass.

        inputs: (shards, rows, sizes[0] + 1) with ones in the last column, in place of `self.inputs`; its
        rows have to lie as wide as those of `self.inputs`.
        """
        function = self.activation.function
        above = self.stacked_inputs if inputs is None else inputs
        for hidden, layer in zip(self.hidden, self.layers, strict=False):
            np.matmul(above, layer, out=hidden.neurons)
            function(hidden.activations, hidden.activations)
            hidden.ones.fill(1)
            above = hidden.with_ones
        last = self.hidden[-1].transposed if self.hidden else above.swapaxes(-1, -2)
        np.matmul(self.transposed_output_layer, last, out=self.logits)
        # Softmax, with the maximum of each row subtracted first.
        np.maximum.reduce(self.logits, axis=-2, keepdims=True, out=self.row_maximum)
        np.subtract(self.logits, self.row_maximum, out=self.logits)
        np.exp(self.logits, out=self.probabilities)
        np.add.reduce(self.probabilities, axis=-2, keepdims=True, out=self.row_sum)
        np.divide(self.probabilities, self.row_sum, out=self.probabilities)
        return self.probabilities

    def losses(self) -> Array:
        """Categorical cross-entropy of each row, (shards * rows,), of the last forward pass.

        log Σ exp(z) - Σ y z with the logits, which loses nothing where a probability is almost zero.
        Overwritten by the next call; to be called once a pass.
        """
        np.log(self.row_sum, out=self.row_sum)
        np.vecdot(self.logits, self.stacked_targets, axis=-2, out=self.row_dots)  # type: ignore[call-overload]
        np.subtract(self.row_sum.reshape(-1), self.row_dots.reshape(-1), out=self.row_losses)
        return self.row_losses

    def backprop(self, gradients: Sequence[Array], scale: float = 1.0) -> None:
        """Gradients of `scale` times the summed cross-entropy of each shard, after `forward` from `self.inputs`.

        gradients: one (shards, inputs + 1, outputs) a layer, overwritten: weights, and the bias as the last
        row. Padding rows add nothing.
        Source: Goodfellow et al., Deep Learning, algorithm 6.4.
        """
        derivative = self.activation.derivative
        np.subtract(self.probabilities, self.stacked_targets, out=self.output_deltas)
        if scale != 1:
            np.multiply(self.output_deltas, scale, out=self.output_deltas)
        for missing in self.padding:
            missing.fill(0)
        delta = self.transposed_output_deltas
        for number in range(len(self.hidden), 0, -1):
            hidden = self.hidden[number - 1]
            np.matmul(hidden.transposed, delta, out=gradients[number])
            np.matmul(delta, self.transposed_weights[number], out=hidden.neuron_deltas)
            derivative(hidden.activations, hidden.slopes)
            np.multiply(hidden.deltas, hidden.slopes, out=hidden.deltas)
            delta = hidden.neuron_deltas
        np.matmul(self.transposed_inputs, delta, out=gradients[0])
