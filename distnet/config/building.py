"""Build what a configuration describes: the data set, the network, its trainer."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from distnet.config.options import Config
from distnet.datasets.augmentation import STRENGTHS, Augmentation, Strengths
from distnet.datasets.dataset import Dataset, hold_out
from distnet.datasets.loading import load
from distnet.datasets.names import DEFAULT
from distnet.datasets.tables import TableOptions
from distnet.network import NeuralNetwork
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.schedules import Schedule
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.history import EarlyStopping
from distnet.training.trainer import Splits, Trainer


def load_dataset(world: World, config: Config) -> Dataset:
    """The data that the options name, on every node. Collective."""
    return load(
        world,
        config.dataset,
        config.data_dir,
        config.dtype,
        train_limit=config.train_limit,
        train_samples=config.train_samples,
        table=TableOptions(config.label, config.header, config.ignore, config.test_share, config.split_seed),
        raw_inputs=config.raw_inputs,
    )


def build_trainer(
    world: World, config: Config, data: Dataset, shards: int | None, lap: Callable[[str], None]
) -> tuple[NeuralNetwork, Trainer]:
    """The network as it is at the start, and its trainer. Collective."""
    sizes = (data.train.features, *config.hidden, data.train.targets.shape[1])
    validation, chosen = None, None
    if config.validation:
        validation, chosen = hold_out(
            world,
            data.train,
            config.validation,
            config.split_seed,
            data.classes,
            f"--validation {config.validation}",
        )
    rows = min(config.batch_size, len(data.train.inputs if chosen is None else chosen))
    rate = config.learning_rate * (rows / (config.scale_learning_rate or rows))
    network = NeuralNetwork(sizes, config.activation, rate, config.seed, config.dtype, config.initialisation)
    training = TrainingConfig(
        rate,
        config.batch_size,
        Hyperparameters(
            config.optimizer, config.momentum, config.betas, config.epsilon, config.weight_decay, config.clip_norm
        ),
        Schedule(config.schedule, config.epochs, config.decay, config.decay_epochs, config.warmup_epochs),
        Regularisation(config.dropout, config.label_smoothing, build_augmentation(config, data)),
        config.seed,
        shards,
        config.stack,
        EarlyStopping(config.patience) if config.validation else None,
    )
    return network, Trainer(world, network.model, Splits(data.train, data.test, validation, chosen), training, lap)


def build_augmentation(config: Config, data: Dataset) -> Augmentation | None:
    """What changes training images, where that is wanted. Raises InputError where they are none."""
    if not config.augment:
        return None
    if data.shape is None:
        raise InputError(
            f"--augment {' '.join(config.augment)}",
            f"rows of {data.source} are numbers, not images",
            "leave it out",
            on_every_rank=True,
        )
    strengths = {name: float(value) for name, value in (word.split("=") for word in config.augment)}
    background = (0 - np.asarray(data.mean, config.dtype)) / np.asarray(data.deviation, config.dtype)
    chosen = Strengths(**({"sigma": STRENGTHS["sigma"]} | strengths))
    return Augmentation(data.shape, chosen, float(background), config.dtype)


def reproducible_config(config: Config, data: Dataset, trainer: Trainer) -> Config:
    """What it takes to get the same bits again: the shards of this run, and the digits that stood in for others.

    Where this run wrote isn't part of that, or the next one would write over it; nor is a folder of data by its
    absolute path, which is another one on another machine.
    """
    outputs: dict[str, Any] = {
        each.name: each.default for each in fields(Config) if each.metadata["group"] in ("output", "recovery")
    }
    kept = {"tutorial_loss": config.tutorial_loss, "stall_timeout": config.stall_timeout}
    dataset = "synthetic" if data.source == "drawn" else config.dataset or DEFAULT
    folder = None if config.data_dir is None or config.data_dir.is_absolute() else config.data_dir
    return replace(config, **outputs | kept | {"dataset": dataset, "data_dir": folder, "shards": trainer.shards})
