"""What output layers have in common in both arithmetics. For each, δ = ŷ - y at the logits."""

from typing import NamedTuple, Protocol

from distnet.runtime.arrays import Array


class OutputMemory(NamedTuple):
    """Arrays of an output layer, (shards, outputs, rows) each; in portable arithmetic (outputs, rows).

    Outputs come before rows because NumPy computes maximum and sum over the outputs far faster that way.
    loss_parts: (2, shards * rows).
    """

    logits: Array
    outputs: Array
    targets: Array
    loss_parts: Array


class OutputLayer(Protocol):
    """Activation and loss of the output layer."""

    def activate(self) -> None:
        """Compute the outputs from the logits, which may change."""

    def find_losses(self) -> None:
        """Fill `loss_parts`, after `activate`; see `Propagation.losses`."""
