"""The learning rate as a pure function of the step, which a resumed run continues."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnet.portable.elementary import cos_sin, power
from distnet.portable.grids import Floats
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

    def factors(self, steps: NDArray[np.int64], steps_per_epoch: int) -> Floats:
        """The factor of the learning rate at each of these steps, counted from 0 over all epochs."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if self.kind == "constant" and not warmup:
            return np.ones(len(steps))
        epochs = (np.maximum(steps, warmup) - warmup) / steps_per_epoch
        if self.kind == "step":
            drops = np.floor(epochs / self.decay_epochs + 1e-9)
            powers = [1.0]
            # Until no more are needed, or all others are the same, as after an underflow.
            while len(powers) <= np.max(drops) and powers[-1] * self.decay != powers[-1]:
                powers.append(powers[-1] * self.decay)
            places = np.minimum(drops, len(powers) - 1)
            factors = np.array(powers)[places.astype(np.int64)]  # portable: places in a list
        elif self.kind == "exponential":
            decay = max(self.decay, 5e-324)  # portable: a checked number
            factors = power(decay, epochs / self.decay_epochs)
        elif self.kind == "cosine":
            assert self.epochs is not None
            whole = self.epochs - warmup / steps_per_epoch
            factors = (1 + cos_sin(np.minimum(epochs / whole, 1.0) / 2)[0]) / 2 if whole > 0 else np.ones(len(steps))
        else:
            factors = np.ones(len(steps))
        return np.where(steps < warmup, (steps + 1) / (warmup + 1), factors)
