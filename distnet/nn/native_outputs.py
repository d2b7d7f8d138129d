"""Output layers in native arithmetic."""

from collections.abc import Callable

import numpy as np

from distnet.nn.outputs import OutputLayer, OutputMemory
from distnet.runtime.arrays import aligned_zeros


class Softmax:
    """Softmax with the categorical cross-entropy. Subtracts the maximum of each row from its logits."""

    def __init__(self, memory: OutputMemory) -> None:
        self._logits, self._outputs, self._targets, self._loss_parts = memory
        shards, _, rows = self._logits.shape
        self._row_maxima = aligned_zeros((shards, 1, rows), self._logits.dtype)
        self._row_sums = self._loss_parts[0].reshape(shards, 1, rows)
        self._row_dots = self._loss_parts[1].reshape(shards, rows)

    def activate(self) -> None:
        """See `OutputLayer`."""
        logits, outputs, sums = self._logits, self._outputs, self._row_sums
        np.maximum.reduce(logits, axis=-2, keepdims=True, out=self._row_maxima)
        np.subtract(logits, self._row_maxima, logits)
        np.exp(logits, outputs)
        np.add.reduce(outputs, axis=-2, keepdims=True, out=sums)
        np.divide(outputs, sums, outputs)

    def find_losses(self) -> None:
        """See `OutputLayer`."""
        np.vecdot(self._logits, self._targets, axis=-2, out=self._row_dots)  # type: ignore[call-overload]


class Sigmoid:
    """Independent sigmoids with the sum of their binary cross-entropies, log(1 + exp(-|z|)) + max(z, 0) - y z."""

    def __init__(self, memory: OutputMemory) -> None:
        self._logits, self._outputs, self._targets, self._loss_parts = memory
        self._powers, self._sums = aligned_zeros((2, *self._logits.shape), self._logits.dtype)
        self._is_positive = np.zeros(self._logits.shape, bool)
        self._row_losses = self._loss_parts[1].reshape(len(self._logits), -1)

    def activate(self) -> None:
        """See `OutputLayer`. The exponential of -|z| can't overflow."""
        powers, sums = self._powers, self._sums
        np.abs(self._logits, out=powers)
        np.negative(powers, out=powers)
        np.exp(powers, out=powers)
        np.add(powers, 1, out=sums)
        np.divide(powers, sums, out=self._outputs)
        np.greater_equal(self._logits, 0, out=self._is_positive)
        np.divide(1, sums, out=self._outputs, where=self._is_positive)

    def find_losses(self) -> None:
        """See `OutputLayer`."""
        losses, products = self._sums, self._powers
        np.log1p(np.exp(np.negative(np.abs(self._logits, out=losses), out=losses), out=losses), out=losses)
        np.add(losses, np.maximum(self._logits, 0, out=products), out=losses)
        np.subtract(losses, np.multiply(self._logits, self._targets, out=products), out=losses)
        np.add.reduce(losses, axis=-2, out=self._row_losses)
        np.negative(self._row_losses, out=self._row_losses)
        self._loss_parts[0] = 1


class Identity:
    """The logits themselves, with half the squared error. `outputs` and `logits` are the same memory."""

    def __init__(self, memory: OutputMemory) -> None:
        self._outputs, self._targets, self._loss_parts = memory.outputs, memory.targets, memory.loss_parts
        self._errors = aligned_zeros(self._outputs.shape, self._outputs.dtype)
        self._row_losses = self._loss_parts[1].reshape(len(self._outputs), -1)

    def activate(self) -> None:
        """See `OutputLayer`."""

    def find_losses(self) -> None:
        """See `OutputLayer`."""
        errors = self._errors
        np.subtract(self._outputs, self._targets, out=errors)
        np.multiply(errors, errors, out=errors)
        np.add.reduce(errors, axis=-2, out=self._row_losses)
        np.multiply(self._row_losses, -0.5, out=self._row_losses)
        self._loss_parts[0] = 1


OUTPUT_LAYERS: dict[str, Callable[[OutputMemory], OutputLayer]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "identity": Identity,
}
