"""The two arithmetics behind one interface: a model's weights as they are multiplied, and workspaces to do it in."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distnet.nn.model import Model
from distnet.nn.native import NativeArithmetic
from distnet.nn.portable import PortableArithmetic
from distnet.portable.environment import check_environment, find_deviation
from distnet.runtime.arrays import Array, Sharing


class Propagation(Protocol):
    """Forward pass and backprop of some rows, in memory allocated once.

    inputs: (rows, pad_count(sizes[0] + 1)). Fill it before `forward`, with ones in column sizes[0].
    targets: (rows, outputs). Fill it before `backprop` and `losses`.
    outputs: (shards, outputs, rows per shard), the result of `forward`.
    columns: of dropout's masks, per hidden layer.
    exponents: int64, of the last `backprop`, what `finish` needs the largest of; none in native arithmetic.
    """

    inputs: Array
    targets: Array
    outputs: Array
    columns: list[int]
    exponents: NDArray[np.int64]

    def forward(self, masks: Sequence[Array] = ()) -> Array:
        """Outputs (shards, outputs, rows per shard) for the inputs, see `Model.output`. Overwrites the previous pass.

        masks: dropout factors for the activations, (rows, columns) per hidden layer; `backprop` uses them, too.
        """

    def infer(self, inputs: Array | None = None) -> Array:
        """Outputs (rows, outputs) of the only shard, a view that the next pass overwrites.

        inputs: (1, rows, sizes[0] + 1) with ones in the last column and the row stride of `self.inputs`; None for
        `self.inputs`.
        """

    def losses(self) -> Array:
        """Per row of the last pass, p and q with the loss log p - q, (2, rows). Overwritten by the next call.

        Of softmax, p = Σ exp(z) and q = Σ y z with the largest logit subtracted from all, which stays exact if a
        probability is almost zero. A logarithm of the whole epoch costs far less than one per step.
        """

    def backprop(self, gradients: Sequence[Array], scale: float = 1.0, weights: Array | None = None) -> None:
        """Gradients of `scale` times the summed loss of each shard, after `forward`; `finish` ends it.

        gradients: (shards, layers, inputs + 1, outputs) per run of equal layers, as of `layer_stacks`, overwritten; the
        last row is the bias's. Padding rows contribute nothing. weights: (rows,), by which the losses are multiplied;
        None for 1 each.
        Source: Goodfellow et al., Deep Learning, algorithm 6.4.
        """

    def finish(self, gradients: Sequence[Array], exponents: NDArray[np.int64]) -> None:
        """Finish the gradients of `backprop`. exponents: elementwise the largest of all ranks' `exponents`."""


class Arithmetic(Protocol):
    """A model's weights, prepared to be multiplied.

    stages: what prepares the weights again after the parameters changed. The ranks of the node have to meet after each,
    since they share its result.
    """

    model: Model

    @property
    def stages(self) -> Sequence[Callable[[], None]]:
        """What prepares the weights again."""

    def round_inputs(self, inputs: Array) -> None:
        """Round inputs of the training set in place, for `Propagation.forward`; `infer` does so itself."""

    def workspace(self, rows: int, counts: Sequence[int], batch_size: int, has_masks: bool) -> Propagation:
        """Memory for shards of `rows` rows, of which `counts` are samples. batch_size: rows of the whole mini-batch."""


def prepare(model: Model, sharing: Sharing = Sharing()) -> Arithmetic:
    """The model's own arithmetic, up to date with its parameters.

    sharing: the ranks of the node, which all call this.
    Raises InputError where this environment can't compute in it.
    """
    if model.arithmetic == "native":
        return NativeArithmetic(model)
    check_environment(find_deviation())
    arithmetic = PortableArithmetic(model, sharing)
    for stage in arithmetic.stages:
        stage()
        sharing.meet()
    return arithmetic
