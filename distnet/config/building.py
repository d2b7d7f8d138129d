"""Build what a configuration describes: data set, network and trainer."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from distnet.config.options import Config
from distnet.datasets.augmentation import STRENGTHS, Augmentation, Strengths
from distnet.datasets.dataset import Dataset, Split, hold_out
from distnet.datasets.loading import load
from distnet.datasets.options import DEFAULT, TABLES, DataOptions, TableOptions
from distnet.datasets.sparse import Rows
from distnet.datasets.weights import balance_classes
from distnet.network import NeuralNetwork
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.schedules import Schedule
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.history import EarlyStopping
from distnet.training.trainer import Splits, Trainer

# Options that decide nothing of what is computed.
UNCOMPUTED = {each.name for each in fields(Config) if each.metadata["group"] in ("output", "recovery")}


def load_dataset(world: World, config: Config) -> Dataset:
    """The data set of this configuration, on every node, without weights of classes. Collective."""
    table = TableOptions(
        target=config.target,
        header=config.header,
        ignore=config.ignore,
        test_share=None if config.split_column is not None else config.test_share,
        split_seed=config.split_seed,
        task=config.task,
        weight=config.weight,
        split_column=config.split_column,
    )
    options = DataOptions(
        config.dataset,
        config.data_dir,
        config.train_limit,
        config.train_samples,
        table,
        config.raw_inputs,
        validation=config.validation_data,
    )
    return load(world, options, config.dtype)


def build_trainer(
    world: World, config: Config, data: Dataset, shards: int | None, lap: Callable[[str], None]
) -> tuple[NeuralNetwork, Trainer]:
    """The untrained network, and its trainer. Collective."""
    if config.class_weight is not None:
        data = balance_classes(world, data)
    sizes = (data.train.features, *config.hidden, data.train.targets.shape[1])
    validation, chosen = data.validation, None
    if config.validation:
        validation, chosen = hold_out(
            world, data.train, config.validation, config.split_seed, data.classes, "--validation"
        )
    if config.patience is not None and validation is None:
        world.on_root(lambda: warn(f"--patience has no effect: column {config.split_column} has no validation row"))
    check_weights(data, validation, chosen)
    rows = min(config.batch_size, len(data.train.inputs if chosen is None else chosen))
    rate = config.learning_rate * (rows / (config.scale_learning_rate or rows))
    network = NeuralNetwork(
        sizes, config.activation, rate, config.seed, config.dtype, config.initialisation, config.arithmetic, data.task
    )
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
        EarlyStopping(config.patience) if validation else None,
        reduction=config.reduction,
    )
    return network, Trainer(world, network.model, Splits(data.train, data.test, validation, chosen), training, lap)


def check_weights(data: Dataset, validation: Split | None, chosen: Rows | None) -> None:
    """Raise InputError if all rows of a set have weight 0, so that it has no loss. chosen: see `Splits`."""
    training = data.train.weights if chosen is None or data.train.weights is None else data.train.weights[chosen]
    others = (("test", data.test), ("validation", validation))
    weights = {"training": training} | {name: split.weights for name, split in others if split is not None}
    for name, each in weights.items():
        if each is not None and not each.any():
            problem = f"all {name} rows have weight 0"
            raise InputError(data.source, problem, "give some a weight", on_every_rank=True)


def build_augmentation(config: Config, data: Dataset) -> Augmentation | None:
    """The random changes of training images; None if none are requested. Raises InputError if rows are not images."""
    if not config.augment:
        return None
    if data.shape is None:
        raise InputError(
            "--augment", f"rows of {data.source} are numbers, not images", "leave it out", on_every_rank=True
        )
    strengths = {name: float(value) for name, value in (word.split("=") for word in config.augment)}
    background = (0 - np.asarray(data.mean, config.dtype)) / np.asarray(data.deviation, config.dtype)
    chosen = Strengths(**({"sigma": STRENGTHS["sigma"]} | strengths))
    return Augmentation(data.shape, chosen, float(background), config.dtype)


def computed_options(config: Config) -> dict[str, Any]:
    """The options that decide what is computed, as JSON represents them."""
    return {name: value for name, value in config.to_dict().items() if name not in UNCOMPUTED}


def reproducible_config(config: Config, data: Dataset, trainer: Trainer) -> Config:
    """The configuration that gives the same bits again, with the shards and the data set that this run used.

    It has no output files, which would be overwritten, and no absolute data folder, which other machines don't have.
    """
    outputs: dict[str, Any] = {name: getattr(Config, name) for name in UNCOMPUTED}
    kept = {"tutorial_loss": config.tutorial_loss, "stall_timeout": config.stall_timeout}
    task = data.task if data.name in TABLES else None
    dataset = "synthetic" if data.source == "drawn" else config.dataset or DEFAULT
    folder = None if config.data_dir is None or config.data_dir.is_absolute() else config.data_dir
    shards = trainer.shards if config.arithmetic == "native" else None
    return replace(config, **outputs | kept | {"task": task, "dataset": dataset, "data_dir": folder, "shards": shards})
