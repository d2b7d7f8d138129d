"""Every option with its meaning, its default and its check; presets are dictionaries of options."""

import argparse
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from distnet.errors import input_error_on_every_rank

T = TypeVar("T", int, float)

DATASETS = ("mnist", "fashion-mnist", "synthetic")
ACTIVATIONS = ("sigmoid", "tanh", "relu")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
# Options that mean something to some optimizers alone.
FOR_OPTIMIZERS = {
    "momentum": ("momentum", "nesterov"),
    "betas": ("adam", "adamw"),
    "epsilon": ("adam", "adamw"),
}
DTYPES = ("float32", "float64")
MODEL_ENDINGS = (".pkl", ".npz")

PRESETS: dict[str, dict[str, Any]] = {
    # 98 % on MNIST within half a minute on two cores.
    "mnist": {},
    # The network that this project started from. It stands on a plateau for its first 120 epochs or so.
    "tutorial": {
        "hidden": (50,) * 6,
        "activation": "sigmoid",
        "learning_rate": 0.002,
        "batch_size": 10,
        "epochs": 1000,
        "tutorial_loss": True,
    },
}


def number(kind: Callable[[str], T], allowed: Callable[[T], bool], right: str) -> Callable[[str], T]:
    """A reader of one number of `kind` that refuses what isn't `allowed` and says what is `right`."""

    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no {right}")
        return value

    return read


positive_count = number(int, lambda value: 1 <= value < 2**31, "whole number from 1 up")
shard_count = number(int, lambda value: 1 <= value <= 65_536, "whole number from 1 to 65536")
seed_number = number(int, lambda value: 0 <= value < 2**63, "whole number from 0 up")
positive_rate = number(float, lambda value: math.isfinite(value) and value > 0, "finite number above 0")
rate_or_zero = number(float, lambda value: math.isfinite(value) and value >= 0, "finite number from 0 up")
fraction = number(float, lambda value: 0 <= value < 1, "number from 0 up and below 1")


def model_path(text: str) -> Path:
    """A file name that says in which form the model is to be written."""
    if Path(text).suffix not in MODEL_ENDINGS:
        raise argparse.ArgumentTypeError(f"{text!r} doesn't end in {' or '.join(MODEL_ENDINGS)}")
    return Path(text)


def interval(text: str) -> tuple[int, str]:
    """'1 epoch', '500 steps' or '60 s' as a number and its unit: "epoch", "steps" or "s"."""
    units = {"epoch": "epoch", "epochs": "epoch", "step": "steps", "steps": "steps", "s": "s"}
    found = re.fullmatch(r"([1-9]\d*) *([a-z]+)", text)
    if found is None or found[2] not in units:
        raise input_error_on_every_rank(
            f"--checkpoint-every: {text!r} is no interval such as 1 epoch, 500 steps or 60 s"
        )
    return int(found[1]), units[found[2]]


def option(default: Any, group: str, meaning: str, read: Callable[[str], Any] = str, **more: Any) -> Any:
    """A field of Config that is an option on the command line as well."""
    return field(default=default, metadata={"group": group, "help": meaning, "type": read, **more})


@dataclass(frozen=True)
class Config:
    """The options of `python -m distnet.train`."""

    preset: str = option("mnist", "task", "the options to start from; all others override it", choices=tuple(PRESETS))
    dataset: str = option("mnist", "data", "what to learn", choices=DATASETS)
    data_dir: Path = option(
        Path(os.environ.get("DISTNET_DATA") or "data"),
        "data",
        "where the IDX files are (default: $DISTNET_DATA, else data)",
        Path,
    )
    train_limit: int | None = option(
        None, "data", "only the first K training samples (default: all)", positive_count, metavar="K"
    )
    train_samples: int = option(
        60_000, "data", "how many training samples to draw, for synthetic", positive_count, metavar="K"
    )
    hidden: tuple[int, ...] = option(
        (256, 128),
        "network",
        "neurons of each hidden layer; none for no hidden layer",
        positive_count,
        nargs="*",
        metavar="K",
    )
    activation: str = option("relu", "network", "what hidden neurons apply", choices=ACTIVATIONS)
    dtype: str = option("float32", "network", "precision of everything that is computed", choices=DTYPES)
    learning_rate: float = option(0.1, "training", "step of gradient descent", positive_rate, metavar="RATE")
    batch_size: int = option(
        128, "training", "rows of a mini-batch, over all ranks together", positive_count, metavar="B"
    )
    optimizer: str = option("sgd", "training", "the rule that updates the parameters", choices=OPTIMIZERS)
    momentum: float = option(0.9, "training", "of momentum and nesterov", fraction, metavar="RATE")
    betas: tuple[float, float] = option(
        (0.9, 0.999),
        "training",
        "decay of the two moments, of adam and adamw",
        fraction,
        nargs=2,
        metavar="RATE",
    )
    epsilon: float = option(1e-8, "training", "added to the divisor, of adam and adamw", positive_rate, metavar="E")
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
    epochs: int = option(10, "training", "passes over the training set", positive_count, metavar="K")
    seed: int = option(0, "training", "of the initial weights and the order of samples", seed_number)
    shards: int | None = option(
        None,
        "parallelism",
        "parts of every mini-batch, at least as many as ranks; the same number gives the same bits on any "
        "ranks (default: 4, or the next power of two that is at least the number of ranks)",
        shard_count,
        metavar="S",
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
    metrics: Path | None = option(None, "output", "where rank 0 writes a JSON object an epoch", Path, metavar="FILE")
    tutorial_loss: bool = option(
        False, "output", "report the tutorial's form of the cross-entropy, too", action="store_true"
    )
    checkpoint_dir: Path | None = option(
        None,
        "recovery",
        "where rank 0 keeps checkpoints; SIGTERM, SIGINT and SIGUSR1 then stop after a step",
        Path,
        metavar="DIR",
    )
    checkpoint_every: tuple[int, str] = option(
        (1, "epoch"),
        "recovery",
        "how often: so many epochs, steps or seconds, as in 500 steps",
        nargs="+",
        metavar="K",
    )
    keep: int = option(3, "recovery", "how many of the newest checkpoints to keep", positive_count, metavar="K")
    resume: str | None = option(
        None,
        "recovery",
        "go on from the newest good checkpoint, or from this one",
        nargs="?",
        const="",
        metavar="FILE",
    )
    stall_timeout: float = option(
        300.0, "recovery", "end all ranks when no step completes for so many seconds", positive_rate, metavar="SECONDS"
    )
    quiet: bool = option(False, "output", "print the last two lines alone", action="store_true")

    def described(self) -> dict[str, Any]:
        """All options as JSON knows them."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and every rank's."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the option, the value and what would be right."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = f"{unknown}: there is no such option; {self.prog} --help lists all"
        raise input_error_on_every_rank(message.removeprefix("argument "))


def parser() -> Parser:
    """The parser of `python -m distnet.train`; options that nobody typed are absent from its result."""
    made = Parser(
        prog="python -m distnet.train",
        usage="[mpirun -n N] python -m distnet.train [options]",
        description="Train a dense network on this process or on all that mpirun starts, to the same bits.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for each in fields(Config):
        details = dict(each.metadata)
        group = details.pop("group")
        if group not in groups:
            groups[group] = made.add_argument_group(group)
        if details.get("action"):
            del details["type"]
        elif "(default: " not in details["help"]:
            shown = each.default if isinstance(each.default, tuple) else (each.default,)
            details["help"] += f" (default: {' '.join('none' if v is None else str(v) for v in shown)})"
        groups[group].add_argument("--" + each.name.replace("_", "-"), **details)
    groups["output"].add_argument("--help", action="store_true", help="print this and end")
    return made


def read_config(arguments: Sequence[str]) -> tuple[Config, frozenset[str]] | None:
    """The configuration that these command-line arguments ask for, and the names of the options typed.

    None where --help was among them. Raises InputError (on every rank) for an option that doesn't exist or
    a value that can't be.
    Collective: no, but every rank reads the same arguments.
    """
    typed = vars(parser().parse_args(arguments))
    if typed.pop("help", False):
        return None
    for several in ("hidden", "betas"):
        if several in typed:
            typed[several] = tuple(typed[several])
    if "checkpoint_every" in typed:
        typed["checkpoint_every"] = interval(" ".join(typed["checkpoint_every"]))
    for name in ("checkpoint_every", "keep", "resume"):
        if name in typed and "checkpoint_dir" not in typed:
            option_name = "--" + name.replace("_", "-")
            raise input_error_on_every_rank(f"{option_name}: there are no checkpoints without --checkpoint-dir DIR")
    config = Config(**{**PRESETS[typed.get("preset", Config.preset)], **typed})
    for name, optimizers in FOR_OPTIMIZERS.items():
        if name in typed and config.optimizer not in optimizers:
            raise input_error_on_every_rank(
                f"--{name}: --optimizer {config.optimizer} has none; choose --optimizer {' or '.join(optimizers)}"
            )
    return config, frozenset(typed)
