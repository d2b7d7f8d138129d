"""Outputs of a network for any number of rows, computed in blocks."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from distnet.datasets.dataset import as_numbers
from distnet.nn.arithmetic import Propagation, prepare
from distnet.nn.model import Model
from distnet.runtime.arrays import Array
from distnet.runtime.blas import count_blas_threads, single_blas_thread
from distnet.runtime.errors import InputError

FORWARD_ROWS = 1000  # of a block: more fill the caches, fewer make the calls per block count
MANY_PRODUCTS = 1 << 26  # of rows and parameters, from which starting threads pays
MOST_THREADS = 8  # each has a workspace
MOST_SHAPES = 4  # of workspaces to keep


class Inference:
    """Forward passes of a model, in workspaces that are kept between calls. Python threads may call at the same time.

    A large number of rows is divided among as many threads as BLAS has. The same X gives the same bits with any number
    of them.
    model: its parameters may change between calls.
    Raises InputError where this environment can't compute in the model's arithmetic.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        # What the arithmetic is up to date with; native arithmetic derives nothing from the parameters.
        self._prepared = model.parameters.copy() if model.arithmetic == "portable" else None
        self._arithmetic = prepare(model)
        self._lock = threading.Lock()
        self._free: dict[int, list[Propagation]] = {}  # by rows; the one used last is the last one

    def is_for(self, other: Any) -> bool:
        """Whether it computes the outputs of another model, too. other: has the fields of one."""
        own = self.model
        return (
            other.parameters is own.parameters
            and other.sizes == own.sizes
            and other.activation == own.activation
            and other.arithmetic == own.arithmetic
            and other.input_exponent == own.input_exponent
            and other.task == own.task
        )

    def find_outputs(self, X: Array) -> Array:
        """Outputs (rows, outputs) for X (rows, inputs). Raises InputError, see `check_inputs`."""
        if X.dtype.kind not in "biuf":
            X, _ = check_inputs(self.model, X)
        self._refresh()
        model, rows = self.model, len(X)
        outputs = np.empty((rows, model.sizes[-1]), model.parameters.dtype)
        blocks = [slice(start, start + FORWARD_ROWS) for start in range(0, rows, FORWARD_ROWS)]
        fill = partial(self._fill, X, outputs)
        threads = 1
        if rows * model.parameters.size >= MANY_PRODUCTS:
            threads = min(count_blas_threads(), len(blocks), MOST_THREADS)
        if threads > 1:
            with single_blas_thread, ThreadPoolExecutor(threads) as executor:
                are_finite = list(executor.map(fill, blocks))
        else:
            are_finite = [fill(block) for block in blocks]
        if not all(are_finite):
            check_inputs(model, X)
        return outputs

    def _refresh(self) -> None:
        """Prepare the weights again if the parameters have changed."""
        if self._prepared is None:
            return
        with self._lock:
            if not np.array_equal(self._prepared, self.model.parameters):
                self._prepared[:] = self.model.parameters
                for stage in self._arithmetic.stages:
                    stage()

    def _fill(self, X: Array, outputs: Array, block: slice) -> bool:
        """Write the outputs of a block of rows. Returns False if its inputs may be invalid."""
        work = self._take(len(outputs[block]))
        inputs = work.inputs[:, : self.model.sizes[0]]
        is_portable = self.model.arithmetic == "portable"
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(inputs, X[block], casting="unsafe")
            total = 0 if is_portable else np.add.reduce(inputs, axis=None)  # not finite if an input is not
            outputs[block] = work.infer()
            if is_portable:  # outputs are NaN if an input is, or is too large
                total = np.add.reduce(outputs[block], axis=None)
        self._keep(work)
        return math.isfinite(total)

    def _take(self, rows: int) -> Propagation:
        """A workspace that no other thread uses."""
        with self._lock:
            if free := self._free.get(rows):
                return free.pop()
        work = self._arithmetic.workspace(rows, (rows,), rows, has_masks=False)
        work.inputs[:, self.model.sizes[0]] = 1
        return work

    def _keep(self, work: Propagation) -> None:
        """Keep a workspace for the next call."""
        rows = len(work.inputs)
        with self._lock:
            self._free[rows] = [*self._free.pop(rows, []), work][:MOST_THREADS]
            if len(self._free) > MOST_SHAPES:
                del self._free[next(iter(self._free))]


def check_inputs(model: Model, X: Array) -> tuple[Array, float]:
    """X as real numbers, and their largest magnitude.

    Raises InputError for numbers that are not finite, or too large for the model's arithmetic.
    """
    X = as_numbers("X", X, model.parameters.dtype)
    largest = max(-float(X.min()), float(X.max()))
    if largest >= model.input_limit:
        problem = f"some numbers are too large for {model.arithmetic} arithmetic, such as {largest:g}"
        raise InputError("X", problem, "scale X")
    return X, largest
