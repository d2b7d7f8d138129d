"""Every option of training with its meaning, its default and its check."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distnet.config.values import (
    dataset_name,
    file_path,
    path_ending_in,
    read_counts,
    read_interval,
    read_keep,
    read_strengths,
    sha256_digest,
)
from distnet.datasets.options import CLASS_WEIGHTS, DATASETS, DEFAULT, HEADERS, OWN
from distnet.models.model_file import MODEL_ENDINGS
from distnet.nn.functional import ACTIVATIONS
from distnet.nn.model import ARITHMETICS, TASKS
from distnet.nn.optimizers import DEFAULTS, LEARNING_RATES, OPTIMIZERS
from distnet.nn.parameters import INITIALISATIONS
from distnet.nn.schedules import SCHEDULES
from distnet.parallel.exchange import REDUCTIONS
from distnet.runtime.arrays import DTYPES
from distnet.runtime.failure import EXIT_DIFFERENT, STALL_TIMEOUT
from distnet.runtime.numbers import (
    Number,
    closed_fraction,
    fraction,
    part,
    positive_count,
    positive_rate,
    rate_or_zero,
    seed_number,
    shard_count,
)
from distnet.training.provenance import provenance_path

SEVERAL = (2, "*", "+")  # nargs of options that take several words
PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(name.removesuffix(".toml") for name in os.listdir(PRESET_FOLDER) if name.endswith(".toml")))
TABLE_PRESET = "table"  # of tables, unless another is named


def option(
    default: Any,
    group: str,
    meaning: str,
    read: Callable[[str], Any] = str,
    whole: Callable[[Sequence[Any]], Any] = tuple,
    **more: Any,
) -> Any:
    """A field of Config that is also an option of the command.

    read: converts one word. whole: combines the converted words of an option that takes several. more: for argparse.
    """
    return field(default=default, metadata={"group": group, "help": meaning, "type": read, "whole": whole, **more})


def to_flag(name: str) -> str:
    """The option of a field of Config: "--learning-rate" for learning_rate."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Config:
    """The options of `python -m distnet.train`."""

    preset: str = option(
        "mnist",
        "configuration",
        f"preset that the other options override (default: mnist; {TABLE_PRESET} for {OWN})",
        choices=tuple(PRESETS),
    )
    task: str | None = option(
        None, "data", "task that the targets of a table define (default: inferred from the targets)", choices=TASKS
    )
    dataset: str | None = option(
        None,
        "data",
        f"data set to train on: {', '.join(DATASETS)}, or a table of your own, {OWN} (default: {DEFAULT})",
        dataset_name,
        metavar="NAME",
    )
    data_dir: Path | None = option(
        None, "data", "folder of the data set's files (default: $DISTNET_DATA, else data)", file_path, metavar="DIR"
    )
    train_limit: int | None = option(
        None, "data", "number of training samples to use, from the first on (default: all)", positive_count, metavar="K"
    )
    train_samples: int = option(
        60_000, "data", "number of training samples to draw (synthetic only)", positive_count, metavar="K"
    )
    target: tuple[str, ...] = option(
        (),
        "data",
        "target columns, by name or number from 1 (csv, parquet) (default: the last)",
        nargs="+",
        metavar="COLUMN",
    )
    header: str | None = option(
        None, "data", "whether the first line is a header (csv only) (default: inferred)", choices=HEADERS
    )
    ignore: tuple[str, ...] = option(
        (), "data", "columns to leave out, by name or number from 1 (csv, parquet)", nargs="*", metavar="COLUMN"
    )
    weight: str | None = option(
        None,
        "data",
        "column of the rows' weights in the loss (csv, parquet; in npz, the array sample_weight)",
        metavar="COLUMN",
    )
    class_weight: str | None = option(
        None,
        "data",
        "weights of the classes in the loss: balanced is training rows / (classes · training rows of the class)",
        choices=CLASS_WEIGHTS,
    )
    test_share: float = option(
        0.2,
        "data",
        "share of the rows, and of each class, in the test set (tables without a test set)",
        part,
        metavar="SHARE",
    )
    split_column: str | None = option(
        None,
        "data",
        "column with the words train, validation and test, which divides the rows (csv, parquet)",
        metavar="COLUMN",
    )
    validation_data: Path | None = option(
        None,
        "data",
        "file of the validation set, with the format and the columns of the table (csv, npz, parquet)",
        file_path,
        metavar="FILE",
    )
    split_seed: int = option(
        0, "data", "random seed of the split into training, validation and test set", seed_number, metavar="N"
    )
    raw_inputs: bool = option(False, "data", "inputs without standardisation", action="store_true")
    hidden: tuple[int, ...] = option(
        (256, 128),
        "network",
        "neurons of each hidden layer; without K, no hidden layer",
        read_counts,
        whole=lambda words: sum(words, ()),
        nargs="*",
        metavar="K",
    )
    activation: str = option("relu", "network", "activation of the hidden layers", choices=ACTIVATIONS)
    initialisation: str | None = option(
        None,
        "network",
        "initial weights: torch is uniform within 1/√inputs, biases too; he, xavier and tutorial are normal with "
        "variance 2/inputs, 2/(inputs + outputs) and 1/inputs",
        choices=INITIALISATIONS,
    )
    arithmetic: str = option(
        "portable",
        "network",
        "portable has the same bits on every machine and number of ranks; native is faster",
        choices=ARITHMETICS,
    )
    dtype: str = option(
        None,
        "network",
        "precision of all computations (default: float64 in portable, float32 in native)",
        choices=DTYPES,
    )
    learning_rate: float = option(
        None,
        "training",
        "learning rate; default with another optimizer than the preset's: "
        + ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items()),
        positive_rate,
        metavar="RATE",
    )
    scale_learning_rate: int | None = option(
        None,
        "training",
        "mini-batch size that the learning rate is meant for; the rate is multiplied by the actual size over K",
        positive_count,
        metavar="K",
    )
    schedule: str = option("constant", "training", "learning rate schedule", choices=SCHEDULES)
    warmup_epochs: float = option(0.0, "training", "warm-up length, in epochs", rate_or_zero, metavar="K")
    decay: float = option(
        0.1,
        "training",
        "factor of each decay of the learning rate (step, exponential only)",
        fraction,
        metavar="FACTOR",
    )
    decay_epochs: float = option(
        10.0, "training", "epochs per decay of the learning rate (step, exponential only)", positive_rate, metavar="K"
    )
    batch_size: int = option(128, "training", "rows per mini-batch, of all ranks together", positive_count, metavar="B")
    optimizer: str = option(DEFAULTS.optimizer, "training", "rule that updates the parameters", choices=OPTIMIZERS)
    momentum: float = option(
        DEFAULTS.momentum, "training", "momentum coefficient (momentum, nesterov only)", closed_fraction, metavar="RATE"
    )
    betas: tuple[float, float] = option(
        DEFAULTS.betas, "training", "decay rates of the moments (adam, adamw only)", fraction, nargs=2, metavar="RATE"
    )
    epsilon: float = option(
        DEFAULTS.epsilon, "training", "term added to the divisor (adam, adamw only)", positive_rate, metavar="E"
    )
    weight_decay: float = option(
        0.0, "training", "weight decay, not of biases: L2, or decoupled with adamw", rate_or_zero, metavar="RATE"
    )
    clip_norm: float | None = option(
        None, "training", "largest norm of the gradient over all parameters", positive_rate, metavar="NORM"
    )
    dropout: float = option(
        0.0, "regularisation", "probability that a step leaves out a hidden neuron", fraction, metavar="P"
    )
    label_smoothing: float = option(
        0.0, "regularisation", "share of each target that is spread over all classes", fraction, metavar="SHARE"
    )
    augment: tuple[str, ...] = option(
        (),
        "regularisation",
        "random changes of the training images, new in every epoch: "
        "shift=PIXELS rotate=DEGREES scale=PERCENT elastic=ALPHA sigma=PIXELS",
        whole=read_strengths,
        nargs="*",
        metavar="KIND",
    )
    validation: int = option(
        0,
        "regularisation",
        "size of the validation set, held out from the training set in proportion to its classes; the parameters of "
        "the epoch with the lowest loss on it are saved",
        Number(int, lambda value: 0 <= value < 2**31, "a non-negative integer"),
        metavar="K",
    )
    patience: int | None = option(
        None,
        "regularisation",
        "early stopping after K epochs without a lower validation loss",
        positive_count,
        metavar="K",
    )
    epochs: int = option(10, "training", "passes over the training set", positive_count, metavar="K")
    seed: int = option(0, "training", "random seed", seed_number, metavar="N")
    shards: int | None = option(
        None,
        "parallelism",
        "parts of every mini-batch (native only); with S, the bits are the same on up to S ranks "
        "(default: one per rank)",
        shard_count,
        metavar="S",
    )
    stack: int | None = option(
        None,
        "parallelism",
        "shards that a rank computes at once, for speed and memory (native only) (default: as many as fit its cache)",
        positive_count,
        metavar="K",
    )
    reduction: str = option(
        REDUCTIONS[0],
        "parallelism",
        "how the gradients of all ranks are added: tree is a fixed order; allreduce is MPI's own, for comparison",
        choices=REDUCTIONS,
    )
    ranks_per_node: int | None = option(
        None,
        "parallelism",
        "ranks per simulated node, to test several nodes on one machine",
        positive_count,
        metavar="K",
    )
    model: Path | None = option(
        None,
        "output",
        "model file to write, .pkl or .npz; its options (.toml) and provenance (.run.json) are written beside it",
        partial(path_ending_in, MODEL_ENDINGS),
        metavar="FILE",
    )
    metrics: Path | None = option(None, "output", "metrics file, one JSON object per epoch", file_path, metavar="FILE")
    tensorboard: Path | None = option(None, "output", "TensorBoard log directory", file_path, metavar="DIR")
    profile: str | None = option(
        None,
        "output",
        "time of every rank by activity, printed at the end; with FILE, also written as JSON",
        os.path.expanduser,
        nargs="?",
        const="",
        metavar="FILE",
    )
    timeline: Path | None = option(
        None, "output", "trace file of every rank's activity, for Perfetto", file_path, metavar="FILE"
    )
    verbose: bool = option(False, "output", "log messages of every rank, on standard error", action="store_true")
    log_dir: Path | None = option(None, "output", "log directory, one file per rank", file_path, metavar="DIR")
    report: Path | None = option(
        None, "output", "HTML report of the run", partial(path_ending_in, (".html",)), metavar="FILE"
    )
    tutorial_loss: bool = option(
        False, "output", "the tutorial's form of the cross-entropy as an additional metric", action="store_true"
    )
    expect_sha256: str | None = option(
        None,
        "output",
        f"sha256 that the parameters should have; if they have another, the exit status is {EXIT_DIFFERENT}",
        sha256_digest,
        metavar="HEX",
    )
    checkpoint_dir: Path | None = option(
        None,
        "recovery",
        "checkpoint directory; SIGTERM, SIGINT and SIGUSR1 then stop the run after a step",
        file_path,
        metavar="DIR",
    )
    checkpoint_every: tuple[int, str] = option(
        (1, "epoch"),
        "recovery",
        "interval of checkpoints in epochs, steps or seconds, as in 500 steps",
        whole=read_interval,
        nargs="+",
        metavar=("K", "UNIT"),
    )
    keep: int | str = option(
        3, "recovery", "number of newest checkpoints to keep, or all, for audits", read_keep, metavar="K"
    )
    resume: str | None = option(
        None,
        "recovery",
        "checkpoint to resume from (without FILE, the newest good one)",
        os.path.expanduser,
        nargs="?",
        const="",
        metavar="FILE",
    )
    stall_timeout: float = option(
        STALL_TIMEOUT,
        "recovery",
        "seconds without a step before all ranks are aborted",
        positive_rate,
        metavar="SECONDS",
    )
    quiet: bool = option(False, "output", "only the last two lines of output", action="store_true")

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.optimizer])
        if self.dtype is None:
            object.__setattr__(self, "dtype", "float64" if self.arithmetic == "portable" else "float32")

    @property
    def outputs(self) -> dict[str, Path]:
        """The files that rank 0 writes, by their names in messages."""
        names = ("model", "metrics", "timeline", "report")
        outputs = {f"--{name}": path for name in names if (path := getattr(self, name)) is not None}
        if self.profile:
            outputs["--profile"] = Path(self.profile)
        if self.model is not None:
            outputs["--model: its configuration"] = self.model.with_suffix(".toml")
            outputs["--model: its provenance"] = provenance_path(self.model)
        return outputs

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON represents them, with the name of the default data set if none was given."""
        options = asdict(self) | {"dataset": self.dataset or DEFAULT}
        return {name: str(v) if isinstance(v, Path) else v for name, v in options.items()}
