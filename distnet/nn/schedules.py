"""The learning rate at a step: a pure function of the step, so that a run which goes on keeps it."""

import math
from typing import NamedTuple

SCHEDULES = ("constant", "step", "exponential", "cosine")


class Schedule(NamedTuple):
    """How the learning rate changes over the epochs.

    kind: "constant"; "step", times `decay` after every `decay_epochs`; "exponential", the same in equal parts at
    every step; "cosine", half a cosine wave from all to nothing at the end of `epochs` (Loshchilov and Hutter
    2017, without restarts), which that kind alone needs. warmup_epochs: in which it first rises in a straight line
    (Goyal et al. 2017); the kind begins after that.
    """

    kind: str = "constant"
    epochs: int | None = None
    decay: float = 0.1
    decay_epochs: float = 10.0
    warmup_epochs: float = 0.0

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What the learning rate of step `step`, from 0 up over all epochs, is multiplied by."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        epochs = (step - warmup) / steps_per_epoch
        match self.kind:
            case "step":
                return float(self.decay ** math.floor(epochs / self.decay_epochs + 1e-9))
            case "exponential":
                return float(self.decay ** (epochs / self.decay_epochs))
            case "cosine":
                assert self.epochs is not None
                whole = self.epochs - warmup / steps_per_epoch
                return (1 + math.cos(math.pi * min(epochs / whole, 1))) / 2 if whole > 0 else 1.0
        return 1.0
