"""Rows that are mostly zeros, stored without the zeros, and made dense a few at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.runtime.arrays import Array

Rows = NDArray[np.int64]


class SparseRows(NamedTuple):
    """Compressed sparse rows, as scipy's CSR format has them, without duplicates.

    values: (stored,). columns: (stored,), of each value. starts: (rows + 1,); row i has the values from starts[i] to
    starts[i + 1]. features: columns of the dense rows.
    """

    values: Array
    columns: NDArray[np.integer]
    starts: NDArray[np.integer]
    features: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the dense rows."""
        return len(self.starts) - 1, self.features

    def fill(self, rows: Rows, out: Array) -> None:
        """Write these rows, dense, into `out` (len(rows), features or more); further columns become 0."""
        places, counts = self._places(rows)
        out.fill(0)
        out[np.repeat(np.arange(len(rows)), counts), self.columns[places]] = self.values[places]

    def select(self, rows: Rows) -> SparseRows:
        """A copy of these rows."""
        places, counts = self._places(rows)
        starts = np.concatenate([[0], counts]).cumsum()  # portable: integers
        return SparseRows(self.values[places], self.columns[places], starts, self.features)

    def _places(self, rows: Rows) -> tuple[Rows, Rows]:
        """The places of these rows' values, and how many each row has."""
        first = self.starts[rows].astype(np.int64)  # portable: integers
        counts = self.starts[rows + 1] - first
        before = counts.cumsum() - counts  # portable: integers
        places = np.arange(int(counts.sum())) + np.repeat(first - before, counts)  # portable: integers
        return places, counts
