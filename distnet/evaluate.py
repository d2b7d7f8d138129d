"""Evaluate a trained network: python -m distnet.evaluate model.pkl --dataset mnist."""

from distnet.runtime import command, failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from distnet.config.options import Config
from distnet.config.parser import Parser
from distnet.config.values import dataset_name, file_path, sha256_digest
from distnet.datasets.dataset import Dataset, Split, empty_split, own_blocks
from distnet.datasets.loading import load
from distnet.datasets.options import HEADERS, NAMED_TABLES, TABLES, DataOptions, Learned, TableOptions
from distnet.models.trained import Class, Trained, load_trained
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.reporting.summary import format_summary
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_DIFFERENT
from distnet.runtime.logs import warn
from distnet.runtime.numbers import part, positive_count, positive_rate, seed_number
from distnet.runtime.text import format_count, json_line, to_printable
from distnet.training.evaluation import Evaluation, prepare_on_node
from distnet.training.provenance import describe_difference
from distnet.training.summary import summarise

T = TypeVar("T")

PARTS = ("test", "train", "all")
SHOWN_MISTAKES = 10


def main() -> int:
    """Run the command; returns the exit status. Collective."""
    options = build_parser().parse_args()
    with failure.Watchdog(options.stall_timeout) as watchdog:
        return evaluate(options, watchdog)


def evaluate(options: argparse.Namespace, watchdog: failure.Watchdog) -> int:
    """Evaluate under a watchdog; returns the exit status. Collective."""
    world = launched_world()
    world.check_agreement({name: str(value) for name, value in vars(options).items()})
    trained = load_trained(world, options.model)
    data = load_as_trained(world, trained, options)
    split = standardise(world, trained, data, options.part)
    evaluation = Evaluation(world, prepare_on_node(world, trained.model), split)
    watchdog.position = evaluation.position
    found = evaluation.outputs()
    sha256 = world.on_root(lambda: parameters_sha256(trained.model.parameters))
    if world.rank == 0:
        summary = summarise(name_outputs(trained, data), found, options.mistakes)
        about: dict[str, Any] = {
            "model": str(options.model),
            "dataset": data.name,
            "source": data.source,
            "part": options.part,
            "standardised_by": "model" if trained.mean is not None else "data set",
        }
        if options.json:
            print(json_line(about | summary | {"parameters_sha256": sha256}))
        else:
            print_summary(trained, data, about, summary)
            print(f"parameters sha256 {sha256}")
    if options.expect_sha256 in (None, sha256):
        return 0
    world.on_root(lambda: warn(describe_difference(options.expect_sha256, sha256, "name the model that was meant")))
    return EXIT_DIFFERENT


def build_parser() -> Parser:
    """The parser of `python -m distnet.evaluate`."""
    parser = Parser(
        prog="python -m distnet.evaluate",
        usage="[mpirun -n N] python -m distnet.evaluate MODEL [options]",
        description="Print scores and worst mistakes of a model.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", type=file_path, metavar="MODEL", help="model file that training wrote")
    add("--dataset", type=dataset_name, metavar="NAME", help="data set, as in training (default: that of the training)")
    add("--data-dir", type=file_path, metavar="DIR", help="folder of its files (default: $DISTNET_DATA, else data)")
    add(
        "--part",
        choices=PARTS,
        default="test",
        help="rows to evaluate; train includes those that --validation held out (default: test)",
    )
    add(
        "--target",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="target columns (csv, parquet) (default: as in training)",
    )
    add("--header", choices=HEADERS, help="whether the first line is a header (csv only) (default: as in training)")
    add(
        "--ignore",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns to leave out (csv, parquet, if MODEL has no names of columns) (default: as in training)",
    )
    add(
        "--mistakes",
        type=positive_count,
        default=SHOWN_MISTAKES,
        metavar="K",
        help=f"number of worst mistakes or residuals to print (default: {SHOWN_MISTAKES})",
    )
    add(
        "--expect-sha256",
        type=sha256_digest,
        metavar="HEX",
        help=f"sha256 that the parameters should have; if they have another, the exit status is {EXIT_DIFFERENT}",
    )
    add("--json", action="store_true", help="one JSON object instead of text")
    add(
        "--stall-timeout",
        type=positive_rate,
        default=Config.stall_timeout,
        metavar="SECONDS",
        help=f"seconds without progress before all ranks are aborted (default: {Config.stall_timeout:g})",
    )
    return parser


def load_as_trained(world: World, trained: Trained, options: argparse.Namespace) -> Dataset:
    """The data set, with the test rows of the training; not yet standardised if the model stores mean and deviation.

    Raises InputError if the model doesn't fit it. Collective.
    """
    config = trained.config
    name = options.dataset or read_option(config, "dataset", dataset_name, None)
    if name is None:
        problem = f"model {trained.path} doesn't name the data set that it was trained on"
        raise InputError("--dataset", problem, "name a data set", on_every_rank=True)
    kind, _, path = name.partition(":")
    for option, kinds in (("target", NAMED_TABLES), ("header", ("csv",)), ("ignore", NAMED_TABLES)):
        if getattr(options, option) and kind not in kinds:
            remedy = f"choose --dataset {' or '.join(f'{each}:FILE' for each in kinds)}"
            raise InputError(f"--{option}", f"has no effect with --dataset {name}", remedy, on_every_rank=True)
    has_moments = trained.mean is not None
    source = DataOptions(
        name,
        options.data_dir,
        train_limit=1 if has_moments and options.part == "test" else None,  # the others are not used
        train_samples=read_option(config, "train_samples", positive_count, Config.train_samples),
        table=table_options(trained, options),
        raw_inputs=has_moments,
        raw_targets=True,
    )
    # The numbers of a table are standardised before they are rounded.
    data = load(world, source, np.float64 if kind in TABLES else trained.model.parameters.dtype)
    inputs, outputs = trained.model.sizes[0], len(trained.names)
    what = f"{kind}:{path}" if path else data.name
    if data.task != trained.model.task:
        raise other_data(trained, f"is of {trained.model.task}, but {what} is of {data.task}")
    if data.train.features != inputs:
        numbers = format_count(data.train.features, "number")
        raise other_data(trained, f"has {format_count(inputs, 'input')}, but a row of {what} has {numbers}")
    found = data.train.targets.shape[1]
    if data.task == "classification" and trained.classes is None and found != outputs:
        problem = f"has {format_count(trained.model.sizes[-1], 'output')}, but {what} has {found} classes"
        raise other_data(trained, problem)
    if data.task != "classification" and found != outputs:
        targets = format_count(found, "target")
        raise other_data(trained, f"has {format_count(outputs, 'output')}, but a row of {what} has {targets}")
    return data


def other_data(trained: Trained, problem: str) -> InputError:
    """The error for a model that was trained on other data."""
    return InputError(f"model {trained.path}", problem, "evaluate it on what it was trained on", on_every_rank=True)


def table_options(trained: Trained, options: argparse.Namespace) -> TableOptions:
    """How to read a table: as in training, with the same test rows."""
    config = trained.config
    target = read_columns(config, "target") or read_columns(config, "label")  # of distnet 0.1
    weight, split = (read_option(config, name, str, None) for name in ("weight", "split_column"))
    as_trained = options.dataset in (None, config.get("dataset"))
    ignored = read_columns(config, "ignore")
    test_share = None
    if (options.part != "all" or trained.mean is None) and not (as_trained and split is not None):
        test_share = read_option(config, "test_share", part, Config.test_share)
    return TableOptions(
        target=tuple(options.target),
        header=options.header or (read_option(config, "header", str, None) if as_trained else None),
        ignore=tuple(options.ignore) or (ignored if trained.columns is None else ()),
        test_share=test_share,
        split_seed=read_option(config, "split_seed", seed_number, Config.split_seed),
        learned=Learned(trained.columns, trained.targets, target, frozenset(map(str, trained.classes or ())), ignored),
        has_old_draw=bool(config) and "arithmetic" not in config,
        task=trained.model.task,
        weight=weight if as_trained else None,
        split_column=split if as_trained else None,
    )


def read_columns(config: dict[str, Any], name: str) -> tuple[str, ...]:
    """The columns that an option of the run named."""
    value = config.get(name)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else () if value is None else (str(value),)


def read_option(config: dict[str, Any], name: str, read: Callable[[str], T], default: T) -> T:
    """An option of the run that trained the model; `default` if the model doesn't store it."""
    try:
        return default if config.get(name) is None else read(str(config[name]))
    except argparse.ArgumentTypeError:
        return default


def standardise(world: World, trained: Trained, data: Dataset, part: str) -> Split:
    """The rows of these parts, standardised as in training, with the model's classes, and with their weights.

    Raises InputError for a class that the model doesn't have, and for numbers too large for its dtype. Collective.
    """
    every = [data.train, data.test, *([] if data.validation is None else [data.validation])]
    parts = {"test": [data.test], "train": [data.train], "all": every}[part]
    model, columns = trained.model, match_classes(trained, data.classes)
    features, dtype = model.sizes[0], model.parameters.dtype
    samples, has_weights = sum(len(each.inputs) for each in parts), parts[0].weights is not None
    split = empty_split(world, samples, features, model.sizes[-1], dtype, has_weights)
    unfit = np.zeros(1, np.int64)
    first = 0
    for each in parts:
        for block in own_blocks(len(each.inputs), world.node_rank, world.node_size):
            rows = slice(first + block.start, first + block.stop)
            trained.standardise(each.inputs[block, :features], split.inputs[rows, :features])
            split.inputs[rows, features] = 1
            convert_targets(trained, columns, each.targets[block], split.targets[rows])
            if each.weights is not None and split.weights is not None:
                split.weights[rows] = each.weights[block]
            unfit += not (np.isfinite(split.inputs[rows]).all() and np.isfinite(split.targets[rows]).all())
        first += len(each.inputs)
    if world.total(unfit)[0]:
        problem = f"some numbers are too large for model {trained.path} of {dtype}"
        raise InputError(data.source, problem, "scale them", on_every_rank=True)
    world.node_barrier()
    return split


def convert_targets(trained: Trained, columns: Sequence[int], targets: Array, out: Array) -> None:
    """Write a data set's targets (rows, targets), not standardised, as the model's (rows, outputs).

    columns: see `match_classes`. out: zeros.
    """
    if trained.model.task == "regression":
        trained.standardise_targets(targets, out)
    elif trained.model.task == "multilabel":
        out[:] = targets
    elif len(trained.names) == out.shape[1]:
        out[:, columns] = targets
    elif 1 in columns:  # a single output, the probability of the second of two classes
        out[:, 0] = targets[:, columns.index(1)]


def name_outputs(trained: Trained, data: Dataset) -> Trained:
    """The model with the data set's names of classes or targets, if it has none."""
    classes, targets = trained.classes or list(data.classes), trained.targets or data.targets
    return trained._replace(classes=classes or None, targets=targets)


def match_classes(trained: Trained, classes: Sequence[Class]) -> list[int]:
    """The index of each of the data set's classes among the model's, by name. Raises InputError on every rank."""
    if trained.classes is None:
        return list(range(len(classes)))
    places = {str(name): place for place, name in enumerate(trained.classes)} | {
        name: place for place, name in enumerate(trained.classes)
    }
    found = [places.get(name, places.get(str(name))) for name in classes]
    if None in found:
        shown = ", ".join(map(str, trained.classes[:10])) + ", ..." * (len(trained.classes) > 10)
        raise other_data(trained, f"has no class {classes[found.index(None)]!r} of the data set, but {shown}")
    return [place for place in found if place is not None]


def print_summary(trained: Trained, data: Dataset, about: dict[str, Any], summary: dict[str, Any]) -> None:
    """Print the summary as text. For rank 0 only."""
    model, name = trained.model, to_printable(trained.path)
    task = f", {model.task}" * (model.task != "classification")
    network = f"{'-'.join(map(str, model.sizes))} {model.activation}{task}"
    print(f"model: {name}, {network}, {model.arithmetic} {model.parameters.dtype}")
    part = "" if about["part"] == "all" else f"{about['part']} "
    print(f"data: {data.name} ({to_printable(data.source)}), {summary['samples']:,} {part}samples")
    if trained.mean is None:
        moments = "" if isinstance(data.mean, list) else f" (mean {data.mean:.6g}, deviation {data.deviation:.6g})"
        print(f"inputs: standardised by the data set's own training part{moments}, for the model has no moments")
    if trained.classes is None and model.task == "classification":
        print("classes: the data set's own, for the model has none")
    for line in format_summary(summary):
        print(line)


if __name__ == "__main__":
    command.run(main)
