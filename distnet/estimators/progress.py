"""How far a fit is: scikit-learn's rules for when it ends, and for the learning rate."""

from __future__ import annotations

import math

import numpy as np

from distnet.estimators.parameters import Parameters
from distnet.nn.parameters import weight_runs
from distnet.portable.elementary import power
from distnet.portable.grids import exact_sum
from distnet.training.callbacks import Callback
from distnet.training.history import Epoch
from distnet.training.trainer import Trainer

SMALLEST_RATE = 1e-6  # with which an adaptive learning rate ends


class Progress(Callback):
    """Follows the epochs of a fit, and ends it.

    without: epochs since the last that was better by tol. best: the largest merit so far, which is the score on the
    validation set, or else minus the loss. seen: samples seen by earlier calls.

    losses, scores: of each epoch. is_converged: whether training ended before max_iter.
    """

    def __init__(self, estimator: Parameters, without: int, best: float, seen: int) -> None:
        self._estimator = estimator
        self.without, self.best, self.seen = without, best, seen
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.is_converged = False

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Decide whether to end, and with which learning rate to go on."""
        estimator = self._estimator
        samples = len(trainer.chosen)
        loss = epoch.loss / trainer.model.sizes[-1] if trainer.model.task == "regression" else epoch.loss
        self.losses.append(loss + self._penalty(trainer))
        self.seen += samples
        self._print(trainer, f"Iteration {len(self.losses)}, loss = {self.losses[-1]:.8f}")
        merit = -self.losses[-1]
        if epoch.validation is not None:
            merit = math.nan if trainer.diverged else float(epoch.validation.score)
            self.scores.append(merit)
            self._print(trainer, f"Validation score: {merit:f}")
        self.without = self.without + 1 if merit < self.best + estimator.tol else 0
        if merit > self.best and not trainer.diverged:
            self.best = merit
            if epoch.validation is not None:
                trainer.snapshot_best()
        if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
            trainer.learning_rate = scale_inversely(estimator, self.seen)
        return self.without > estimator.n_iter_no_change and self._end(trainer)

    def _end(self, trainer: Trainer) -> bool:
        """End training, unless an adaptive learning rate can still fall."""
        estimator = self._estimator
        what = "Validation score" if self.scores else "Training loss"
        epochs = f"{estimator.n_iter_no_change} consecutive epochs"
        text = f"{what} did not improve more than tol={estimator.tol:f} for {epochs}."
        if estimator.solver == "sgd" and estimator.learning_rate == "adaptive":
            if trainer.learning_rate > SMALLEST_RATE:
                trainer.learning_rate /= 5
                self.without = 0
                self._print(trainer, f"{text} Setting learning rate to {trainer.learning_rate:f}")
                return False
            text += " Learning rate too small."
        self._print(trainer, f"{text} Stopping.")
        self.is_converged = True
        return True

    def _penalty(self, trainer: Trainer) -> float:
        """Half of alpha times the squared weights, over the samples of a mini-batch, with the epoch's last weights."""
        if not self._estimator.alpha:
            return 0.0
        weights = trainer.train_set.weights
        total = len(trainer.chosen) if weights is None else float(exact_sum(weights[trainer.chosen]))
        squares = 0.0
        with np.errstate(all="ignore"):  # of a network that has diverged
            for run in weight_runs(trainer.model.sizes):
                squares += float(exact_sum(np.square(trainer.model.parameters[run], dtype=np.float64)))
        return 0.5 * self._estimator.alpha * squares * trainer.steps_per_epoch / total

    def _print(self, trainer: Trainer, line: str) -> None:
        """Print a line on rank 0, if the estimator is verbose."""
        if self._estimator.verbose and trainer.world.rank == 0:
            print(line)


def scale_inversely(estimator: Parameters, seen: int) -> float:
    """The learning rate after so many samples, for learning_rate="invscaling"."""
    if estimator.arithmetic == "native":
        return float(estimator.learning_rate_init / (seen + 1) ** estimator.power_t)
    return estimator.learning_rate_init * float(power(float(seen + 1), -estimator.power_t))
