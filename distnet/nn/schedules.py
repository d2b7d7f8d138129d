"""The learning rate as a pure function of the step, which a resumed run continues."""

import math
from dataclasses import dataclass

from distnet.runtime.numbers import check_choice, check_fields, fraction, positive_count, positive_rate, rate_or_zero

SCHEDULES = ("constant", "step", "exponential", "cosine")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes over the epochs.

    kind: "constant"; "step" multiplies by `decay` after every `decay_epochs`; "exponential" decays as fast, at each
    step; "cosine" is half a cosine wave from 1 to 0 over `epochs` (Loshchilov and Hutter 2017, without restarts).
    epochs: needed by "cosine" only. warmup_epochs: length of a linear rise before the schedule of this kind begins
    (Goyal et al. 2017).
    Raises InputError (on every rank) for invalid values.
    """

    kind: str = "constant"
    epochs: int | None = None
    decay: float = 0.1
    decay_epochs: float = 10.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        check_choice("schedule", self.kind, SCHEDULES)
        check_fields(
            self, epochs=positive_count, decay=fraction, decay_epochs=positive_rate, warmup_epochs=rate_or_zero
        )

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """The factor of the learning rate at a step, counted from 0 over all epochs."""
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
