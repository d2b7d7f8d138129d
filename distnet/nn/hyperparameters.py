"""Which rule updates the parameters, its constants, and their defaults: the same for the command and for programs."""

from typing import NamedTuple

# Of each rule, where no learning rate is given. A momentum of 0.9 makes steps ten times as long.
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "adam": 0.001, "adamw": 0.001}
OPTIMIZERS = tuple(LEARNING_RATES)


class Hyperparameters(NamedTuple):
    """Which rule, and its constants; the learning rate comes with every step.

    clip_norm: the largest norm of the mean gradient over all parameters; None for any.
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None


DEFAULTS = Hyperparameters()
