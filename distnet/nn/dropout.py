"""Dropout: training zeroes random hidden neurons, different ones per sample and epoch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.portable.draws import Draws
from distnet.runtime.arrays import Array

PURPOSE = 1  # the stream of random numbers; augmentation uses 0
PARTS = 4  # random numbers of 16 bits per word


class Dropout:
    """Workspace for the masks of up to `rows` rows.

    probability: of zeroing a neuron, in steps of 1/65536. The other neurons are multiplied by 1 / (1 - probability), so
    inference needs no change. columns: columns of memory per hidden layer. neurons: neurons per hidden layer; the
    columns after them get the factor 1. They don't change what is drawn, so all arithmetics leave out the same neurons.
    masks: (rows, columns) per hidden layer, factors for the activations.
    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    """

    def __init__(
        self, probability: float, columns: Sequence[int], neurons: Sequence[int], rows: int, dtype: DTypeLike
    ) -> None:
        self.threshold = min(max(round(probability * 65536), 1), 65535)  # portable: integers
        self.factor = 65536 / (65536 - self.threshold)
        total = sum(neurons)  # portable: integers
        self._draws = Draws(-(-total // PARTS), rows, PURPOSE)
        self._stays = np.empty((rows, total), np.bool_)
        self._drawn = np.zeros((rows, total), dtype)
        starts = np.cumsum([0, *neurons[:-1]])  # portable: integers
        self.masks: list[Array] = [self._drawn[:, start : start + k] for start, k in zip(starts, neurons, strict=True)]
        self._copies: list[tuple[Array, Array]] = []
        if list(columns) != list(neurons):
            drawn, self.masks = self.masks, [np.ones((rows, count), dtype) for count in columns]
            self._copies = [(mask[:, : each.shape[1]], each) for mask, each in zip(self.masks, drawn, strict=True)]

    def draw(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> None:
        """Draw the masks of these samples, for the first len(samples) rows."""
        count = len(samples)
        words = self._draws.words(seed, epoch, samples).astype("<u8", copy=False)  # portable: words stay words
        parts = words.view("<u2")[:, : self._stays.shape[1]]  # portable: little-endian
        np.greater_equal(parts, self.threshold, out=self._stays[:count])
        stays, masks = self._stays[:count], self._drawn[:count]
        np.multiply(stays, self.factor, out=masks, casting="unsafe")  # portable: casts to float32 in native arithmetic
        for mask, drawn in self._copies:
            np.copyto(mask, drawn)
