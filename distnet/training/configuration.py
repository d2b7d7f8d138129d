"""How a network is trained: learning rate, mini-batches, optimizer, schedule, regularisation, seed."""

from dataclasses import dataclass

from distnet.datasets.augmentation import Augmentation
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.schedules import Schedule
from distnet.parallel.exchange import REDUCTIONS
from distnet.runtime.numbers import (
    check_choice,
    check_fields,
    fraction,
    positive_count,
    positive_rate,
    seed_number,
    shard_count,
)
from distnet.training.history import EarlyStopping


@dataclass(frozen=True)
class Regularisation:
    """What prevents overfitting. It applies to training samples only.

    dropout: probability of dropping a hidden neuron. label_smoothing: ε; targets become (1 - ε) y + ε / K for K
    classes (Szegedy et al. 2016, section 7). augmentation: random changes of the inputs, which must be images.
    Raises InputError (on every rank) for invalid values.
    """

    dropout: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        check_fields(self, dropout=fraction, label_smoothing=fraction)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that training depends on, beside the network and the data.

    batch_size: rows of a mini-batch, on all ranks together. seed: of the order of samples, dropout and augmentation.
    shards: parts of each mini-batch, see docs/design.md; None for the default. stack: how many shards a rank computes
    at once; None for as many as fit into its cache. early_stopping: needs a validation set. shuffle: whether each epoch
    takes the samples in another order. reduction: how gradients are added, see `Exchange`.
    Raises InputError (on every rank) for invalid values.
    """

    learning_rate: float
    batch_size: int
    hyperparameters: Hyperparameters = Hyperparameters()
    schedule: Schedule = Schedule()
    regularisation: Regularisation = Regularisation()
    seed: int = 0
    shards: int | None = None
    stack: int | None = None
    early_stopping: EarlyStopping | None = None
    shuffle: bool = True
    reduction: str = REDUCTIONS[0]

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_fields(
            self,
            learning_rate=positive_rate,
            batch_size=positive_count,
            seed=seed_number,
            shards=shard_count,
            stack=positive_count,
        )
