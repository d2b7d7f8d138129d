"""Every option with its meaning, its default and its check, from the command line, a file or a preset."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distnet.config.values import (
    checkpoint_name,
    counts,
    dataset_name,
    file_path,
    interval,
    model_path,
    page_path,
    strengths,
)
from distnet.datasets.names import DATASETS, HEADERS, OWN
from distnet.nn.functional import ACTIVATIONS
from distnet.nn.hyperparameters import DEFAULTS, LEARNING_RATES, OPTIMIZERS
from distnet.nn.parameters import INITIALISATIONS
from distnet.nn.schedules import SCHEDULES
from distnet.runtime.arrays import DTYPES
from distnet.runtime.numbers import (
    Number,
    fraction,
    part,
    positive_count,
    positive_rate,
    rate_or_zero,
    seed_number,
    shard_count,
)

SEVERAL = (2, "*", "+")  # nargs of options that have several words
PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(name.removesuffix(".toml") for name in os.listdir(PRESET_FOLDER) if name.endswith(".toml")))


def option(
    default: Any,
    group: str,
    meaning: str,
    read: Callable[[str], Any] = str,
    whole: Callable[[Sequence[Any]], Any] = tuple,
    **more: Any,
) -> Any:
    """A field of Config that is an option on the command line as well.

    read: makes a value of one word. whole: makes one of several such values. more: as argparse takes them.
    """
    return field(default=default, metadata={"group": group, "help": meaning, "type": read, "whole": whole, **more})


@dataclass(frozen=True)
class Config:
    """The options of `python -m distnet.train`."""

    preset: str = option("mnist", "task", "the options to start from; all others override it", choices=tuple(PRESETS))
    dataset: str = option(
        "mnist",
        "data",
        f"what to learn: {', '.join(DATASETS)}, or a table of your own, {OWN}",
        dataset_name,
        metavar="NAME",
    )
    data_dir: Path = option(
        file_path(os.environ.get("DISTNET_DATA") or "data"),
        "data",
        "folder of the IDX files or of mnist.npz (default: $DISTNET_DATA, else data)",
        file_path,
    )
    train_limit: int | None = option(
        None, "data", "only the first K training samples (default: all)", positive_count, metavar="K"
    )
    train_samples: int = option(
        60_000, "data", "how many training samples to draw, for synthetic", positive_count, metavar="K"
    )
    label: str | None = option(
        None,
        "data",
        "the column of the classes, by its name or its number from 1, of csv (default: the last one)",
        metavar="COLUMN",
    )
    header: str | None = option(
        None,
        "data",
        "whether the first line is a header, of csv (default: found out from its cells)",
        choices=HEADERS,
    )
    ignore: tuple[str, ...] = option(
        (),
        "data",
        "columns to leave out, each by its name or its number from 1, of csv",
        nargs="*",
        metavar="COLUMN",
    )
    test_share: float = option(
        0.2,
        "data",
        "share of each class's rows to test on, of csv, and of npz without a test part",
        part,
        metavar="SHARE",
    )
    split_seed: int = option(0, "data", "random seed of the rows held out, to test on and for validation", seed_number)
    raw_inputs: bool = option(
        False,
        "data",
        "leave inputs as they are, instead of standardising images as a whole and tables by their columns",
        action="store_true",
    )
    hidden: tuple[int, ...] = option(
        (256, 128),
        "network",
        "neurons of each hidden layer; none for no hidden layer",
        counts,
        whole=lambda words: sum(words, ()),
        nargs="*",
        metavar="K",
    )
    activation: str = option("relu", "network", "what hidden neurons apply", choices=ACTIVATIONS)
    initialisation: str | None = option(
        None,
        "network",
        "initial weights: torch uniform within 1/√inputs, biases too; or normal of variance 2/inputs with he, "
        "2/(inputs + outputs) with xavier, 1/inputs with tutorial",
        choices=INITIALISATIONS,
    )
    dtype: str = option("float32", "network", "precision of everything that is computed", choices=DTYPES)
    learning_rate: float = option(
        None,
        "training",
        "step of gradient descent; with another optimizer than the preset's, "
        + ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items()),
        positive_rate,
        metavar="RATE",
    )
    scale_learning_rate: int | None = option(
        None,
        "training",
        "the learning rate is meant for mini-batches of K rows: multiply it by the rows there are over K",
        positive_count,
        metavar="K",
    )
    schedule: str = option("constant", "training", "how the learning rate changes", choices=SCHEDULES)
    warmup_epochs: float = option(
        0.0, "training", "in which the learning rate first rises to its value", rate_or_zero, metavar="K"
    )
    decay: float = option(
        0.1, "training", "what the rate is multiplied by, of step and exponential", fraction, metavar="FACTOR"
    )
    decay_epochs: float = option(
        10.0, "training", "after how many epochs each time, of step and exponential", positive_rate, metavar="K"
    )
    batch_size: int = option(
        128, "training", "rows of a mini-batch, over all ranks together", positive_count, metavar="B"
    )
    optimizer: str = option(DEFAULTS.optimizer, "training", "the rule that updates the parameters", choices=OPTIMIZERS)
    momentum: float = option(DEFAULTS.momentum, "training", "of momentum and nesterov", fraction, metavar="RATE")
    betas: tuple[float, float] = option(
        DEFAULTS.betas,
        "training",
        "decay of the two moments, of adam and adamw",
        fraction,
        nargs=2,
        metavar="RATE",
    )
    epsilon: float = option(
        DEFAULTS.epsilon, "training", "added to the divisor, of adam and adamw", positive_rate, metavar="E"
    )
    weight_decay: float = option(
        0.0,
        "training",
        "pull of the weights towards zero, not of biases: L2, and decoupled from the gradient with adamw",
        rate_or_zero,
        metavar="RATE",
    )
    clip_norm: float | None = option(
        None,
        "training",
        "the largest norm of the gradient over all parameters",
        positive_rate,
        metavar="NORM",
    )
    dropout: float = option(
        0.0, "regularisation", "probability with which a hidden neuron is left out of a step", fraction, metavar="P"
    )
    label_smoothing: float = option(
        0.0, "regularisation", "part of every target that is spread over all classes", fraction, metavar="PART"
    )
    augment: tuple[str, ...] = option(
        (),
        "regularisation",
        "change training images anew in every epoch: "
        "shift=PIXELS rotate=DEGREES scale=PERCENT elastic=ALPHA sigma=PIXELS",
        whole=strengths,
        nargs="*",
        metavar="KIND",
    )
    validation: int = option(
        0,
        "regularisation",
        "how many training samples to hold out, of each class its share; the parameters of the epoch with the lowest "
        "loss on them are what is saved",
        Number(int, lambda value: 0 <= value < 2**31, "whole number from 0 up"),
        metavar="K",
    )
    patience: int | None = option(
        None,
        "regularisation",
        "end after so many epochs without a lower loss on the samples held out",
        positive_count,
        metavar="K",
    )
    epochs: int = option(10, "training", "passes over the training set", positive_count, metavar="K")
    seed: int = option(0, "training", "of the initial weights, the order of samples and all that is drawn", seed_number)
    shards: int | None = option(
        None,
        "parallelism",
        "parts of every mini-batch, at least as many as ranks; the same number gives the same bits on any "
        "ranks (default: 4, or the next power of two that is at least the number of ranks)",
        shard_count,
        metavar="S",
    )
    stack: int | None = option(
        None,
        "parallelism",
        "how many of its shards a rank works through at once, which takes memory and changes no bit "
        "(default: as many as fit its cache)",
        positive_count,
        metavar="K",
    )
    ranks_per_node: int | None = option(
        None,
        "parallelism",
        "pretend that every K consecutive ranks are a node of their own, to try what happens between nodes",
        positive_count,
        metavar="K",
    )
    model: Path | None = option(
        None, "output", "where rank 0 writes the network, .pkl or .npz", model_path, metavar="FILE"
    )
    metrics: Path | None = option(
        None, "output", "where rank 0 writes a JSON object an epoch", file_path, metavar="FILE"
    )
    tensorboard: Path | None = option(
        None, "output", "folder for the same as TensorBoard reads it", file_path, metavar="DIR"
    )
    profile: bool = option(False, "output", "tell at the end where the time of every rank went", action="store_true")
    timeline: Path | None = option(
        None,
        "output",
        "where rank 0 writes what every rank did when, a Chrome trace for Perfetto",
        file_path,
        metavar="FILE",
    )
    verbose: bool = option(False, "output", "every rank tells on standard error what it does", action="store_true")
    log_dir: Path | None = option(
        None, "output", "a folder in which every rank tells that in a file of its own", file_path, metavar="DIR"
    )
    report: Path | None = option(
        None, "output", "where rank 0 writes a page about the run, .html", page_path, metavar="FILE"
    )
    tutorial_loss: bool = option(
        False, "output", "report the tutorial's form of the cross-entropy, too", action="store_true"
    )
    checkpoint_dir: Path | None = option(
        None,
        "recovery",
        "where rank 0 keeps checkpoints; SIGTERM, SIGINT and SIGUSR1 then stop after a step",
        file_path,
        metavar="DIR",
    )
    checkpoint_every: tuple[int, str] = option(
        (1, "epoch"),
        "recovery",
        "how often: so many epochs, steps or seconds, as in 500 steps",
        whole=interval,
        nargs="+",
        metavar="K",
    )
    keep: int = option(3, "recovery", "how many of the newest checkpoints to keep", positive_count, metavar="K")
    resume: str | None = option(
        None,
        "recovery",
        "go on from the newest good checkpoint, or from this one",
        checkpoint_name,
        nargs="?",
        const="",
        metavar="FILE",
    )
    stall_timeout: float = option(
        300.0, "recovery", "end all ranks when no step completes for so many seconds", positive_rate, metavar="SECONDS"
    )
    quiet: bool = option(False, "output", "print the last two lines alone", action="store_true")

    @property
    def outputs(self) -> dict[str, Path]:
        """The files that rank 0 writes, by what names them in messages."""
        names = ("model", "metrics", "timeline", "report")
        named = {f"--{name}": path for name in names if (path := getattr(self, name)) is not None}
        if self.model is not None:
            named["--model: its configuration"] = self.model.with_suffix(".toml")
        return named

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.optimizer])

    def described(self) -> dict[str, Any]:
        """All options as JSON knows them."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}
