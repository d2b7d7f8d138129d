"""Dropout: hidden neurons left out at random while training, others for every sample in every epoch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.nn.draws import Draws
from distnet.runtime.arrays import Array

PURPOSE = 1  # of the random numbers; augmentation has 0
PARTS = 4  # random numbers of 16 bits in a word


class Dropout:
    """Workspace for the masks of up to `rows` rows.

    probability: with which a neuron is left out, in steps of 1/65536; those that stay count for
    1 / (1 - probability), so that nothing has to be changed where the network is used.
    columns: of every hidden layer's memory, a whole number of cache lines. neurons: which of them, the first
    ones; what is behind them stays.
    masks: (rows, columns) a layer, factors for the activations.
    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    Collective: no.
    """

    def __init__(
        self, probability: float, columns: Sequence[int], neurons: Sequence[int], rows: int, dtype: DTypeLike
    ) -> None:
        self.threshold = min(max(round(probability * 2**16), 1), 2**16 - 1)
        self.factor = 2**16 / (2**16 - self.threshold)
        total = sum(columns)
        self._draws = Draws(-(-total // PARTS), rows, PURPOSE)
        self._stays = np.empty((rows, total), np.bool_)
        self._masks = np.zeros((rows, total), dtype)
        starts = np.cumsum([0, *columns[:-1]])
        self.masks: list[Array] = [self._masks[:, start : start + c] for start, c in zip(starts, columns, strict=True)]
        self._behind = [mask[:, size:] for mask, size in zip(self.masks, neurons, strict=True)]

    def draw(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> None:
        """New masks for the first len(samples) rows, which belong to these samples."""
        count = len(samples)
        parts = self._draws.words(seed, epoch, samples).view(np.uint16)[:, : self._stays.shape[1]]
        np.greater_equal(parts, self.threshold, out=self._stays[:count])
        np.multiply(self._stays[:count], self.factor, out=self._masks[:count], casting="unsafe")
        for behind in self._behind:
            behind.fill(1)
