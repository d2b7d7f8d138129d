"""Every option with its meaning, its default and its check, from the command line, a file or a preset."""

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from distnet import __version__, toml
from distnet.errors import HelpWanted, input_error_on_every_rank
from distnet.hyperparameters import DEFAULTS, LEARNING_RATES, OPTIMIZERS

T = TypeVar("T", int, float)

EMNIST = tuple(f"emnist-{part}" for part in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))
DATASETS = ("mnist", "fashion-mnist", "synthetic", *EMNIST)
TABLES = ("csv", "npz")  # what stands before the colon of a person's own file
OWN = " or ".join(f"{kind}:FILE" for kind in TABLES)
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky-relu", "gelu")
INITIALISATIONS = ("torch", "he", "xavier", "tutorial")
SCHEDULES = ("constant", "step", "exponential", "cosine")
# Kinds of augmentation with the strengths that they have where none is given; sigma is elastic's.
STRENGTHS = {"shift": 1.0, "rotate": 10.0, "scale": 10.0, "elastic": 36.0, "sigma": 6.0}
# Options that mean something to some optimizers alone.
FOR_OPTIMIZERS = {
    "momentum": ("momentum", "nesterov"),
    "betas": ("adam", "adamw"),
    "epsilon": ("adam", "adamw"),
}
# To some schedules alone.
FOR_SCHEDULES = {"decay": ("step", "exponential"), "decay_epochs": ("step", "exponential")}
# And to some kinds of tables alone.
FOR_TABLES = {"label": ("csv",), "header": ("csv",), "ignore": ("csv",), "test_share": TABLES}
HEADERS = ("yes", "no")
SEVERAL = (2, "*", "+")  # nargs of options that have several words
DTYPES = ("float32", "float64")
MODEL_ENDINGS = (".pkl", ".npz")

# What options are called in other libraries, where neither spelling nor beginning leads to ours.
USUAL_NAMES = {
    "alpha": "weight-decay",
    "bs": "batch-size",
    "data": "data-dir",
    "early-stopping": "patience",
    "l2": "weight-decay",
    "layers": "hidden",
    "lr": "learning-rate",
    "max-iter": "epochs",
    "num-epochs": "epochs",
    "out": "model",
    "output": "model",
    "random-state": "seed",
    "save": "model",
    "solver": "optimizer",
    "val-split": "validation",
    "wd": "weight-decay",
}

PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(name.removesuffix(".toml") for name in os.listdir(PRESET_FOLDER) if name.endswith(".toml")))
WRITTEN = "# The configuration of a run of distnet"  # how the files begin that `written_config` makes


@dataclass(frozen=True)
class Number(Generic[T]):
    """Numbers of a kind that are `allowed`: reads one from text, or checks one that a program gives.

    right: what is allowed, in words.
    """

    kind: Callable[[str], T]
    allowed: Callable[[T], bool]
    right: str

    def __call__(self, text: str) -> T:
        """The number in `text`. Raises ArgumentTypeError where it isn't allowed."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no {self.right}")
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise InputError (on every rank) that names the parameter where its value isn't allowed."""
        numbers = Integral if self.kind is int else Real
        if not isinstance(value, numbers) or isinstance(value, bool) or not self.allowed(value):  # type: ignore[arg-type]
            raise input_error_on_every_rank(f"{name} {value!r}: expected a {self.right}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise InputError (on every rank) that names the parameter where its value is none of the choices."""
    if not isinstance(value, str | bool) or value not in choices:
        raise input_error_on_every_rank(f"{name} {value!r}: choose from {', '.join(map(str, choices))}")


positive_count = Number(int, lambda value: 1 <= value < 2**31, "whole number from 1 up")
shard_count = Number(int, lambda value: 1 <= value <= 65_536, "whole number from 1 to 65536")
seed_number = Number(int, lambda value: 0 <= value < 2**63, "whole number from 0 up")
positive_rate = Number(float, lambda value: math.isfinite(value) and value > 0, "finite number above 0")
rate_or_zero = Number(float, lambda value: math.isfinite(value) and value >= 0, "finite number from 0 up")
fraction = Number(float, lambda value: 0 <= value < 1, "number from 0 up and below 1")
part = Number(float, lambda value: 0 < value < 1, "number between 0 and 1")


def counts(word: str) -> tuple[int, ...]:
    """Positive counts with commas between them, such as 256,128; one at the end is no matter."""
    return tuple(positive_count(text) for text in word.removesuffix(",").split(","))


def strengths(words: Sequence[str]) -> tuple[str, ...]:
    """Kinds of augmentation with their strengths, each as in "shift=1"; one without has its own in STRENGTHS."""
    found: dict[str, float] = {}
    for word in (word for several in words for word in several.split(",")):
        name, has_value, text = word.partition("=")
        if name not in STRENGTHS:
            raise argparse.ArgumentTypeError(
                f"{word!r} is none of {', '.join(STRENGTHS)}, nor one of them with =NUMBER"
            )
        found[name] = rate_or_zero(text) if has_value else STRENGTHS[name]
    if found.get("scale", 0) >= 100 or not 0.5 <= found.get("sigma", 1) <= 100:
        raise argparse.ArgumentTypeError("scale has to be below 100, and sigma from 0.5 to 100")
    if "sigma" in found and "elastic" not in found:
        raise argparse.ArgumentTypeError("sigma means nothing without elastic; name elastic, too")
    return tuple(f"{name}={value!r}".removesuffix(".0") for name, value in found.items())


def dataset_name(text: str) -> str:
    """A data set that is known by its name, or a kind of file and its path."""
    kind, _, path = text.partition(":")
    if text not in DATASETS and (kind not in TABLES or not path):
        raise argparse.ArgumentTypeError(f"{text!r} is no data set (choose from {', '.join(DATASETS)}, {OWN})")
    return f"{kind}:{os.path.expanduser(path)}" if path else text


def file_path(text: str) -> Path:
    """A path, in which ~ is the home folder: shells know it at the start of a word alone, and files of options not."""
    return Path(os.path.expanduser(text))


def checkpoint_name(text: str) -> str:
    """The same for a checkpoint to resume from, where an empty name is the newest."""
    return os.path.expanduser(text)


def model_path(text: str) -> Path:
    """A file name that says in which form the model is to be written."""
    if Path(text).suffix not in MODEL_ENDINGS:
        raise argparse.ArgumentTypeError(f"{text!r} doesn't end in {' or '.join(MODEL_ENDINGS)}")
    return file_path(text)


def page_path(text: str) -> Path:
    """A file name that a browser knows as a page."""
    if Path(text).suffix != ".html":
        raise argparse.ArgumentTypeError(f"{text!r} doesn't end in .html")
    return file_path(text)


def interval(words: Sequence[str]) -> tuple[int, str]:
    """'1 epoch', '500 steps' or '60 s' as a number and its unit: "epoch", "steps" or "s"."""
    units = {"epoch": "epoch", "epochs": "epoch", "step": "steps", "steps": "steps", "s": "s"}
    text = " ".join(words)
    found = re.fullmatch(r"([1-9]\d*) *([a-z]+)", text)
    if found is None or found[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is no interval such as 1 epoch, 500 steps or 60 s")
    return int(found[1]), units[found[2]]


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


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and every rank's, and whose --help rank 0 prints alone."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the option, the value and what would be right."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [name for action in self._actions for name in action.option_strings]
            words = [word.partition("=")[0] for word in unknown.split() if word.startswith("-")]
            message = f"{unknown}: {no_such_option(words, known)}; {self.prog} --help lists all"
        raise input_error_on_every_rank(message.removeprefix("argument "))

    def print_help(self, file: object = None) -> NoReturn:
        """Raise HelpWanted, wherever --help stands among the arguments and whatever is wrong behind it."""
        raise HelpWanted(self.format_help())


def no_such_option(words: Iterable[str], known: Sequence[str]) -> str:
    """That there is no such option, and which of those that are `known` these words are nearest to."""
    nearest = dict.fromkeys(match for word in words if (match := nearest_option(word, known)))
    return "there is no such option" + (f", but {' and '.join(nearest)}" if nearest else "")


def nearest_option(word: str, known: Iterable[str]) -> str | None:
    """The one of the `known` options that somebody may mean who typed `word`; None where it could be any.

    It is what other libraries call so, else the only one that begins with the word or is the word's beginning, else
    the one whose spelling is most alike.
    """
    from difflib import get_close_matches  # few runs need it

    plain = {name.lstrip("-").replace("_", "-"): name for name in known}
    typed = word.lstrip("-").replace("_", "-").lower()
    if usual := plain.get(USUAL_NAMES.get(typed, "")):
        return usual
    begun = [name for name in plain if name.startswith(typed) or typed.startswith(f"{name}-")]
    alike = begun if len(begun) == 1 else get_close_matches(typed, plain, 1)
    return plain[alike[0]] if alike else None


def parser() -> Parser:
    """The parser of `python -m distnet.train`; options that nobody typed are absent from its result."""
    made = Parser(
        prog="python -m distnet.train",
        usage="[mpirun -n N] python -m distnet.train [options]",
        description="Train a dense network on this process or on all that mpirun starts, to the same bits.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    preset = read_options(PRESET_FOLDER / f"{Config.preset}.toml")
    for each in fields(Config):
        default = preset.get(each.name, each.default)
        details = dict(each.metadata)
        group = details.pop("group")
        del details["whole"]
        if group not in groups:
            groups[group] = made.add_argument_group(group)
        if details.get("action"):
            del details["type"]
        elif "(default: " not in details["help"]:
            shown = default if isinstance(default, tuple) else (default,)
            details["help"] += f" (default: {' '.join('none' if v is None else str(v) for v in shown) or 'none'})"
        groups[group].add_argument(f"--{dashed(each.name)}", **details)
    groups["task"].add_argument(
        "--config", type=file_path, metavar="FILE", help="options in TOML, named as here; the others typed override it"
    )
    return made


def dashed(name: str) -> str:
    """The name of a field of Config as an option has it."""
    return name.replace("_", "-")


def read_config(arguments: Sequence[str]) -> tuple[Config, frozenset[str]]:
    """The configuration that these command-line arguments ask for, and the names of the options given.

    Given are those typed and those in the file of --config, over which the typed ones win, as it wins over
    the preset. Raises HelpWanted where --help was among them, and InputError (on every rank) for an option that doesn't
    exist, a value that can't be, or an option that means nothing beside the others.
    Collective: no, but every rank reads the same arguments, and the same file.
    """
    typed = vars(parser().parse_args(arguments))
    for each in fields(Config):
        if each.name in typed and each.metadata.get("nargs") in SEVERAL:
            try:
                typed[each.name] = each.metadata["whole"](typed[each.name])
            except argparse.ArgumentTypeError as error:
                raise input_error_on_every_rank(f"--{dashed(each.name)}: {error}") from None
    path = typed.pop("config", None)
    file = read_options(path) if path else {}
    preset = read_options(PRESET_FOLDER / f"{(file | typed).get('preset', Config.preset)}.toml")
    alone = Config(**overridden(preset, file))
    config = Config(**overridden(preset, file, typed))
    for name, output in config.outputs.items():
        if path is not None and os.path.realpath(output) == os.path.realpath(path):
            raise input_error_on_every_rank(f"{name} {output}: that is the file of --config; name another file")
    idle = without_effect(config)
    for name, why in idle.items():
        if name in typed:
            raise input_error_on_every_rank(f"--{dashed(name)}: {why}")
        if name in file and name in without_effect(alone):
            raise input_error_on_every_rank(f"{path}: {name}: {why}")
    # What the file says for another optimizer, say, than the one typed is as if it weren't there.
    return replace(config, **{name: getattr(Config, name) for name in idle}), frozenset(typed | file) - idle.keys()


def overridden(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The options of all layers; each overrides the ones before it.

    A learning rate was chosen for an optimizer: where a later layer names another one, the rate is dropped.
    """
    options: dict[str, Any] = {"optimizer": Config.optimizer}
    for layer in layers:
        if layer.get("optimizer", options["optimizer"]) != options["optimizer"]:
            options.pop("learning_rate", None)
        options |= layer
    return options


def without_effect(config: Config) -> dict[str, str]:
    """The options that mean nothing beside the others, each with what to tell who gave it."""
    told = {}
    if config.checkpoint_dir is None:
        told = dict.fromkeys(
            ("checkpoint_every", "keep", "resume"), "there are no checkpoints without --checkpoint-dir DIR"
        )
    for name, optimizers in FOR_OPTIMIZERS.items():
        if config.optimizer not in optimizers:
            told[name] = f"--optimizer {config.optimizer} has none; choose --optimizer {' or '.join(optimizers)}"
    for name, schedules in FOR_SCHEDULES.items():
        if config.schedule not in schedules:
            told[name] = f"--schedule {config.schedule} has none; choose --schedule {' or '.join(schedules)}"
    if not config.hidden:
        told["dropout"] = "there is no hidden layer to leave neurons out of; give --hidden some"
    if config.dataset.partition(":")[0] in TABLES:
        told |= dict.fromkeys(("data_dir", "train_samples"), f"--dataset {config.dataset} names its file; leave it out")
    if config.quiet:
        told["profile"] = "--quiet prints the last two lines alone; leave one of the two out"
    if not config.validation:
        told["patience"] = "there is nothing to measure by without --validation K"
    if not config.validation and config.dataset.partition(":")[0] not in TABLES:
        told["split_seed"] = "no rows are held out without --validation K or a table"
    for name, kinds in FOR_TABLES.items():
        if config.dataset.partition(":")[0] not in kinds:
            right = " or ".join(f"--dataset {kind}:FILE" for kind in kinds)
            told[name] = f"--dataset {config.dataset} has none; choose {right}"
    return told


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by the names of Config's fields, each checked as the command line is.

    Keys are the options' names, with dashes or underscores. Raises InputError (on every rank) that names file,
    key and value. Collective: no.
    """
    try:
        found = toml.parsed(path.read_bytes())
    except OSError as error:
        raise input_error_on_every_rank(
            f"--config {path}: can't be read ({error.strerror}); name a file of options in TOML"
        ) from None
    except ValueError as error:
        raise input_error_on_every_rank(
            f"--config {path}: {error}; options in TOML look like epochs = 3, a line each"
        ) from None
    known = {each.name: each for each in fields(Config)}
    options: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            told = no_such_option([name], list(known))
            raise input_error_on_every_rank(f"{path}: {key}: {told}; python -m distnet.train --help lists all")
        if name in options:
            raise input_error_on_every_rank(f"{path}: {key}: it is there twice; leave one")
        try:
            given = option_value(known[name].metadata, value)
        except (argparse.ArgumentTypeError, ValueError) as error:  # ValueError: too long to be told
            raise input_error_on_every_rank(f"{path}: {key}: {error}") from None
        if given is not None:
            options[name] = given
    return options


def option_value(option: Mapping[str, Any], value: Any) -> Any:
    """What a value in a file means to the option with these metadata, None where it leaves it out.

    Raises ArgumentTypeError where the option can't have it.
    """
    nargs = option.get("nargs")
    if option.get("action"):
        if not isinstance(value, bool):
            raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
        return value
    if nargs == "?" and isinstance(value, bool):
        return option["const"] if value else None
    given = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in given):
        raise argparse.ArgumentTypeError(f"{value!r} is no number or string that this option can have")
    words = [each if isinstance(each, str) else repr(each) for each in given]
    wanted = nargs if isinstance(nargs, int) else None if nargs in SEVERAL else 1
    if wanted not in (None, len(words)) or (nargs == "+" and not words):
        raise argparse.ArgumentTypeError(f"expected {wanted or 'a'} value{'s' * ((wanted or 1) > 1)}, not {value!r}")
    read = [option["type"](word) for word in words]
    for each in read:
        if each not in option.get("choices", read):
            raise argparse.ArgumentTypeError(f"invalid choice: {each!r} (choose from {', '.join(option['choices'])})")
    return option["whole"](read) if nargs in SEVERAL else read[0]


def written_config(config: Config) -> str:
    """The configuration as a TOML file that `read_config` reads back to the same.

    Options that are none, or mean nothing beside the others, aren't in it, nor is the usual folder of data.
    """
    left_out = {*without_effect(config), *(["data_dir"] if config.data_dir == Config.data_dir else [])}
    values = {k: v for k, v in config.described().items() if v is not None and k not in left_out}
    if "checkpoint_every" in values:
        values["checkpoint_every"] = " ".join(map(str, config.checkpoint_every))
    if values.get("resume") == "":
        values["resume"] = True
    return f"{WRITTEN} ({__version__}), for --config\n{toml.written(values)}"
