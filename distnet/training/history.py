"""The results of the epochs, the best epoch, and early stopping."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, NotRequired, TypedDict

from distnet.training.evaluation import METRICS, Scores

METRIC_NAMES = {"accuracy": "accuracy", "r2": "R2", "subset_accuracy": "subset accuracy"}


class Epoch(NamedTuple):
    """The results of an epoch.

    number: from 1. loss: mean over its samples, each at its own step. learning_rate: of the last step. samples,
    seconds: of training, without evaluation, and without the part before a resume. test, validation: None without such
    a set. parameters_sha256: of the parameters after its last step; None if it was not requested.
    """

    number: int
    loss: float
    learning_rate: float
    samples: int
    seconds: float
    test: Scores | None
    validation: Scores | None
    parameters_sha256: str | None = None


class Record(TypedDict):
    """The metrics of an epoch, as the metrics file and checkpoints hold them; the scores are those of the task."""

    epoch: int
    loss: float
    learning_rate: float
    validation_loss: NotRequired[float]
    validation_accuracy: NotRequired[float]
    validation_r2: NotRequired[float]
    validation_subset_accuracy: NotRequired[float]
    test_loss: NotRequired[float]
    test_accuracy: NotRequired[float]
    test_r2: NotRequired[float]
    test_subset_accuracy: NotRequired[float]
    test_tutorial_loss: NotRequired[float]
    samples_per_second: float
    seconds: float
    parameters_sha256: NotRequired[str]  # absent from the checkpoints of earlier versions


def find_score(record: Record, part: str) -> tuple[str, float] | None:
    """The name and the value of the score on the "test" or "validation" set; None without such a set."""
    for metric in METRICS.values():
        score = record.get(f"{part}_{metric}")
        if isinstance(score, float):
            return METRIC_NAMES[metric], score
    return None


@dataclass
class History:
    """The metrics of all completed epochs, one record per epoch; but for times, the same on every rank."""

    records: list[Record] = field(default_factory=list)

    def append(self, epoch: Epoch) -> None:
        """Add the next epoch."""
        record = Record(
            epoch=epoch.number,
            loss=epoch.loss,
            learning_rate=epoch.learning_rate,
            samples_per_second=epoch.samples / epoch.seconds,
            seconds=epoch.seconds,
        )
        for part, scores in (("validation", epoch.validation), ("test", epoch.test)):
            if scores is not None:
                record[f"{part}_loss"] = scores.loss  # type: ignore[literal-required]
                record[f"{part}_{scores.metric}"] = scores.score  # type: ignore[literal-required]
        if epoch.test is not None and epoch.test.tutorial_loss is not None:
            record["test_tutorial_loss"] = epoch.test.tutorial_loss
        if epoch.parameters_sha256 is not None:
            record["parameters_sha256"] = epoch.parameters_sha256
        self.records.append(record)

    def best_epoch(self) -> int:
        """The number of the epoch with the lowest validation loss; 0 before the first epoch. NaN counts as infinite.

        Without a validation set, it is the last epoch.
        """
        losses = [record["validation_loss"] for record in self.records if "validation_loss" in record]
        if not losses:
            return len(self.records)
        return losses.index(min(losses, key=lambda loss: math.inf if math.isnan(loss) else loss)) + 1

    def best(self) -> Record:
        """The record of the best epoch. It needs a completed epoch."""
        return self.records[self.best_epoch() - 1]


@dataclass(frozen=True)
class EarlyStopping:
    """Keep the best epoch's parameters, and stop after `patience` epochs without a lower validation loss.

    patience: None to train to the end.
    """

    patience: int | None = None

    def is_due(self, history: History) -> bool:
        """Whether the best epoch is at least `patience` epochs ago."""
        return self.patience is not None and len(history.records) - history.best_epoch() >= self.patience
