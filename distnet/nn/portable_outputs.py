"""Output layers in portable arithmetic. A row's results depend on that row alone."""

from collections.abc import Callable

import numpy as np

from distnet.nn.outputs import OutputLayer, OutputMemory
from distnet.portable import elementary
from distnet.portable.grids import MOST_BITS, Floats, Rounding, product_bits, round_to, rounding_constant
from distnet.runtime.arrays import aligned_zeros

MOST_LABELS = 1000  # whose product of 1 + exp(-|z|), each at most 2, is less than the largest float64


class RowSum:
    """Sums over the outputs of each row, exact for terms rounded to a grid of their row. terms: (outputs, rows)."""

    def __init__(self, terms: Floats, scratch: Floats) -> None:
        self._terms = terms
        self._round = Rounding(terms, 0, sum_grid(len(terms)), scratch)

    def write(self, out: Floats) -> None:
        """Round the terms in place, and write their sums, (rows,)."""
        self._round()
        np.add.reduce(self._terms, axis=0, out=out)  # portable: on the grid of their row


def sum_grid(terms: int) -> int:
    """How many bits each term of a sum keeps."""
    return min(MOST_BITS, product_bits(terms))


class Softmax:
    """Softmax with the categorical cross-entropy. Subtracts the maximum of each row from its logits."""

    def __init__(self, memory: OutputMemory, scratch: Floats) -> None:
        self._logits, self._outputs, self._targets, self._loss_parts = memory
        self._scratch = tuple(scratch)
        outputs, rows = self._logits.shape
        self._row_maxima, self._products = aligned_zeros((1, rows), np.float64), np.zeros((outputs, rows))
        self._sum = RowSum(self._products, scratch[0])
        self._unit_constant = np.array(rounding_constant(0, sum_grid(outputs)))  # exponentials are at most 1

    def activate(self) -> None:
        """See `OutputLayer`."""
        logits, outputs, totals = self._logits, self._outputs, self._loss_parts[0]
        np.maximum.reduce(logits, axis=0, out=self._row_maxima, keepdims=True)
        np.subtract(logits, self._row_maxima, logits)
        elementary.exp(logits, outputs, self._scratch)
        round_to(outputs, self._unit_constant, self._products)
        np.add.reduce(self._products, axis=0, out=totals)  # portable: at most 1, on one grid
        np.divide(outputs, totals, outputs)

    def find_losses(self) -> None:
        """See `OutputLayer`."""
        np.multiply(self._logits, self._targets, self._products)
        self._sum.write(self._loss_parts[1])


class Sigmoid:
    """Independent sigmoids with the sum of their binary cross-entropies, log(1 + exp(-|z|)) + max(z, 0) - y z."""

    def __init__(self, memory: OutputMemory, scratch: Floats) -> None:
        self._logits, self._outputs, self._targets, self._loss_parts = memory
        self._scratch = tuple(scratch)
        self._sums, self._terms = np.zeros((2, *self._logits.shape))
        self._is_positive = np.zeros(self._logits.shape, bool)
        self._sum = RowSum(self._terms, scratch[0])

    def activate(self) -> None:
        """See `OutputLayer`."""
        powers, sums = self._terms, self._sums
        np.abs(self._logits, powers)
        np.negative(powers, powers)
        elementary.exp(powers, powers, self._scratch)
        np.add(powers, 1.0, sums)
        np.divide(powers, sums, self._outputs)
        np.greater_equal(self._logits, 0.0, self._is_positive)
        np.divide(1.0, sums, self._outputs, where=self._is_positive)

    def find_losses(self) -> None:
        """See `OutputLayer`."""
        terms, product = self._terms, self._loss_parts[0]
        np.copyto(product, self._sums[0])
        for sums in self._sums[1:]:
            np.multiply(product, sums, product)
        np.multiply(self._logits, self._targets, terms)
        np.subtract(terms, np.maximum(self._logits, 0.0, out=self._scratch[1]), terms)
        self._sum.write(self._loss_parts[1])


class Identity:
    """The logits themselves, with half the squared error. `outputs` and `logits` are the same memory."""

    def __init__(self, memory: OutputMemory, scratch: Floats) -> None:
        self._outputs, self._targets, self._loss_parts = memory.outputs, memory.targets, memory.loss_parts
        self._terms = np.zeros(self._outputs.shape)
        self._sum = RowSum(self._terms, scratch[0])
        self._loss_parts[0] = 1

    def activate(self) -> None:
        """See `OutputLayer`."""

    def find_losses(self) -> None:
        """See `OutputLayer`."""
        terms = self._terms
        np.subtract(self._outputs, self._targets, terms)
        np.multiply(terms, terms, terms)
        np.multiply(terms, -0.5, terms)
        self._sum.write(self._loss_parts[1])


# Each takes scratch of (3, outputs, rows).
OUTPUT_LAYERS: dict[str, Callable[[OutputMemory, Floats], OutputLayer]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "identity": Identity,
}
