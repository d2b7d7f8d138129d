"""The optimizer's rule, its constants and their defaults: the same for the command and for programs."""

from dataclasses import dataclass

from distnet.runtime.errors import InputError
from distnet.runtime.numbers import check_choice, check_fields, fraction, positive_rate, rate_or_zero

# Default learning rate of each rule. A momentum of 0.9 makes steps ten times as long.
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "adam": 0.001, "adamw": 0.001}
OPTIMIZERS = tuple(LEARNING_RATES)


@dataclass(frozen=True)
class Hyperparameters:
    """The optimizer's rule and its constants; the learning rate is passed to every step.

    clip_norm: the largest norm of the mean gradient over all parameters; None for no limit.
    Raises InputError (on every rank) for invalid values.
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        try:
            first, second = self.betas
        except (TypeError, ValueError):
            raise InputError(f"betas {self.betas!r}", "expected two numbers", on_every_rank=True) from None
        object.__setattr__(self, "betas", (fraction.check("betas", first), fraction.check("betas", second)))
        check_fields(self, clip_norm=positive_rate, momentum=fraction, epsilon=positive_rate, weight_decay=rate_or_zero)


DEFAULTS = Hyperparameters()
