"""Optimizers: their hyperparameters, and rules that update a slice of the parameters from its gradients.

Every rule works element by element, so the bits don't depend on how the vector is divided into slices. Each rank keeps
the state of its own slice, 1/n of the whole (ZeRO stage 1, Rajbhandari et al. 2020).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.numbers import check_choice, check_fields, closed_fraction, fraction, positive_rate, rate_or_zero

CHUNK = 32_768  # elements that a rule updates at once, so that its next pass finds them in the cache

# Default learning rate per optimizer. A momentum of 0.9 makes steps ten times as long.
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "adam": 0.001, "adamw": 0.001}
OPTIMIZERS = tuple(LEARNING_RATES)


@dataclass(frozen=True)
class Hyperparameters:
    """The optimizer and its constants. The learning rate is not one of them: it changes per step.

    weight_decay: λ; the gradient of a weight gains λ times the weight. penalty: the same with λ = penalty / Σ w over
    the rows of the mini-batch, as scikit-learn's alpha. clip_norm: the largest norm of the mean gradient over all
    parameters; None for no limit.
    Raises InputError (on every rank) for invalid values.
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    penalty: float = 0.0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        try:
            first, second = self.betas
        except (TypeError, ValueError):
            raise InputError("betas", f"expected two numbers, got {self.betas!r}", on_every_rank=True) from None
        object.__setattr__(self, "betas", (fraction.check("betas", first), fraction.check("betas", second)))
        check_fields(
            self,
            clip_norm=positive_rate,
            momentum=closed_fraction,
            epsilon=positive_rate,
            weight_decay=rate_or_zero,
            penalty=rate_or_zero,
        )


DEFAULTS = Hyperparameters()


class Chunk(NamedTuple):
    """A part of the slice. weights: views of its parameters that aren't biases, with their positions in it."""

    parameters: Array
    place: slice
    weights: list[tuple[Array, slice]]
    state: list[Array]
    scratch: Array


class Optimizer:
    """One rank's part of the optimizer.

    parameters: this rank's slice of θ, updated in place. weights: the runs of it that are weights; biases lie between
    them and don't decay. state: name -> array of the size of the slice, initially zero. steps, beta_powers: how many
    updates there were, and β^steps. linear: whether the rule is just θ - α g; `update` may then be called with α g as
    Σ∇, and with 1 as scale and learning rate.
    The formulas are those of torch.optim: θ are the parameters, g the mean gradient, α the learning rate.
    """

    def __init__(self, parameters: Array, weights: Sequence[slice], choice: Hyperparameters) -> None:
        self.choice = choice
        self.steps, self.beta_powers = 0, [1.0, 1.0]  # β^steps, as products: no `pow` has the same bits everywhere
        self._rule, names = RULES[choice.optimizer]
        self.linear = (
            choice.optimizer == "sgd" and not choice.weight_decay and not choice.penalty and choice.clip_norm is None
        )
        self.state = {name: np.zeros_like(parameters) for name in names}
        step = max(1, len(parameters)) if self.linear else CHUNK  # a linear rule makes a single pass
        scratch = np.empty(min(step, len(parameters)), parameters.dtype)
        self._chunks = []
        for start in range(0, len(parameters), step):
            place = slice(start, min(start + step, len(parameters)))
            chunk = parameters[place]
            cut = [slice(max(run.start - start, 0), min(run.stop - start, len(chunk))) for run in weights]
            self._chunks.append(
                Chunk(
                    chunk,
                    place,
                    [(chunk[run], run) for run in cut if run.start < run.stop],
                    [state[place] for state in self.state.values()],
                    scratch[: len(chunk)],
                )
            )

    def update(self, gradient_sum: Array, scale: float, learning_rate: float) -> None:
        """θ ← rule(θ, g) with g = scale · Σ∇.

        gradient_sum: Σ∇ over the rows of the global mini-batch, for this slice; overwritten. scale: 1 / B, or less
        after `clip_scale`.
        """
        self._count_step()
        for chunk in self._chunks:
            self._rule(self, chunk, gradient_sum[chunk.place], scale, learning_rate)

    def restore_steps(self, steps: int) -> None:
        """Continue after so many steps."""
        self.steps, self.beta_powers = 0, [1.0, 1.0]
        for _ in range(steps):
            self._count_step()

    def _count_step(self) -> None:
        self.steps += 1
        (power1, power2), (beta1, beta2) = self.beta_powers, self.choice.betas
        self.beta_powers = [power1 * beta1, power2 * beta2]

    def _decay(self, scale: float) -> float:
        """λ of this step."""
        return self.choice.weight_decay + self.choice.penalty * scale

    def _mean_gradient(self, chunk: Chunk, gradient: Array, scale: float) -> None:
        """G ← scale · Σ∇, with the L2 form of weight decay, + λ θ, for weights only."""
        np.multiply(gradient, scale, out=gradient)
        if decay := self._decay(scale):
            for weights, run in chunk.weights:
                np.multiply(weights, decay, out=chunk.scratch[run])
                np.add(gradient[run], chunk.scratch[run], out=gradient[run])

    def _sgd(self, chunk: Chunk, gradient: Array, scale: float, learning_rate: float) -> None:
        """θ ← θ - α g."""
        if self._decay(scale):
            self._mean_gradient(chunk, gradient, scale)
            scale = 1.0
        if learning_rate * scale != 1:
            np.multiply(gradient, learning_rate * scale, out=gradient)
        np.subtract(chunk.parameters, gradient, out=chunk.parameters)

    def _momentum(self, chunk: Chunk, gradient: Array, scale: float, learning_rate: float) -> None:
        """V ← μ v + g, θ ← θ - α v; with Nesterov momentum θ ← θ - α (g + μ v).

        Source: Sutskever et al. 2013.
        """
        (velocity,) = chunk.state
        self._mean_gradient(chunk, gradient, scale)
        np.multiply(velocity, self.choice.momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        if self.choice.optimizer == "nesterov":
            np.multiply(velocity, self.choice.momentum, out=chunk.scratch)
            np.add(gradient, chunk.scratch, out=gradient)
            np.multiply(gradient, learning_rate, out=gradient)
        else:
            np.multiply(velocity, learning_rate, out=gradient)
        np.subtract(chunk.parameters, gradient, out=chunk.parameters)

    def _adam(self, chunk: Chunk, gradient: Array, scale: float, learning_rate: float) -> None:
        """M ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², θ ← θ - α m̂ / (√v̂ + ε), bias-corrected.

        AdamW shrinks the weights by α λ first, instead of adding λ θ to g.
        Source: Kingma and Ba 2015; Loshchilov and Hutter 2019.
        """
        first, second = chunk.state
        beta1, beta2 = self.choice.betas
        scratch = chunk.scratch
        if self.choice.optimizer == "adamw":
            np.multiply(gradient, scale, out=gradient)
            if decay := self._decay(scale):
                for weights, _ in chunk.weights:
                    np.multiply(weights, 1 - learning_rate * decay, out=weights)
        else:
            self._mean_gradient(chunk, gradient, scale)
        np.multiply(first, beta1, out=first)
        np.multiply(gradient, 1 - beta1, out=scratch)
        np.add(first, scratch, out=first)
        np.multiply(second, beta2, out=second)
        np.multiply(gradient, gradient, out=gradient)
        np.multiply(gradient, 1 - beta2, out=gradient)
        np.add(second, gradient, out=second)
        np.sqrt(second, out=gradient)
        np.multiply(gradient, 1 / math.sqrt(1 - self.beta_powers[1]), out=gradient)
        np.add(gradient, self.choice.epsilon, out=gradient)
        np.multiply(first, learning_rate / (1 - self.beta_powers[0]), out=scratch)
        np.divide(scratch, gradient, out=gradient)
        np.subtract(chunk.parameters, gradient, out=chunk.parameters)


Rule = Callable[[Optimizer, Chunk, Array, float, float], None]
RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "sgd": (Optimizer._sgd, ()),
    "momentum": (Optimizer._momentum, ("velocity",)),
    "nesterov": (Optimizer._momentum, ("velocity",)),
    "adam": (Optimizer._adam, ("first_moment", "second_moment")),
    "adamw": (Optimizer._adam, ("first_moment", "second_moment")),
}


def clip_scale(squared_norm: float, scale: float, clip_norm: float) -> float:
    """`scale`, reduced so that the mean gradient's norm is at most clip_norm.

    squared_norm: of Σ∇ over all parameters; if it is NaN, so is the result. Source: Pascanu et al. 2013; the 1e-6 is
    from torch.
    """
    factor = clip_norm / (math.sqrt(squared_norm) * scale + 1e-6)
    return scale if factor > 1 else scale * factor
