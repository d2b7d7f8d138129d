"""Read a configuration from the command line, a TOML file and a preset, and write one as TOML."""

import json
import os
import tomllib
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from distnet import __version__
from distnet.config.conflicts import find_ineffective
from distnet.config.options import PRESET_FOLDER, SEVERAL, TABLE_PRESET, Config, to_flag
from distnet.config.parser import Parser, unknown_option
from distnet.config.values import file_path
from distnet.datasets.options import is_table
from distnet.runtime.errors import InputError
from distnet.runtime.numbers import describe_bad_choice
from distnet.runtime.text import format_count

MOST_USED = ("dataset", "hidden", "epochs", "learning_rate", "model")  # come first in --help
WRITTEN = "# The configuration of a run of distnet"  # the first words of files that `to_toml` makes


def build_parser() -> Parser:
    """The parser of `python -m distnet.train`; options that were not given are absent from its result."""
    parser = Parser(
        prog="python -m distnet.train",
        usage="[mpirun -n N] python -m distnet.train [options]",
        description="Train a dense network, with the same bits at every number of ranks.",
        argument_default=SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {"most used": parser.add_argument_group("most used")}
    preset = read_options(PRESET_FOLDER / f"{Config.preset}.toml")
    for each in fields(Config):
        default = preset.get(each.name, each.default)
        details = dict(each.metadata)
        group = details.pop("group")
        if each.name in MOST_USED:
            group = "most used"
        del details["whole"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        if details.get("action"):
            del details["type"]
        elif "(default: " not in details["help"]:
            shown = default if isinstance(default, tuple) else (default,)
            details["help"] += f" (default: {' '.join('none' if v is None else str(v) for v in shown) or 'none'})"
        groups[group].add_argument(to_flag(each.name), **details)
    groups["configuration"].add_argument(
        "--config", type=file_path, metavar="FILE", help="TOML file of options; those on the command line override it"
    )
    return parser


def read_config(arguments: Sequence[str], task: str | None = None) -> Config:
    """The configuration of these command-line arguments, which override the file of --config, which overrides a preset.

    task: of the data set, once it is known, where --task doesn't name it.

    Raises HelpWanted for --help, and InputError (on every rank) for an unknown option, an invalid value, or an option
    that has no effect beside the others. Every rank reads the same arguments and the same file.
    """
    given = vars(build_parser().parse_args(arguments))
    for each in fields(Config):
        if each.name in given and each.metadata.get("nargs") in SEVERAL:
            try:
                given[each.name] = each.metadata["whole"](given[each.name])
            except ArgumentTypeError as error:
                raise InputError(to_flag(each.name), str(error), on_every_rank=True) from None
    path = given.pop("config", None)
    # Files of distnet 0.1 name no arithmetic, and mean the one that it had.
    file = {"arithmetic": "native"} | read_options(path) if path else {}
    name = choose_preset(file | given)
    preset = {"preset": name} | read_options(PRESET_FOLDER / f"{name}.toml") | {"task": task}
    config = Config(**merge_options(preset, file, given))
    for name, output in config.outputs.items():
        if path is not None and os.path.realpath(output) == os.path.realpath(path):
            raise InputError(f"{name} {output}", "is the file of --config", "name another file", on_every_rank=True)
    ineffective = find_ineffective(config)
    ineffective_in_file = find_ineffective(Config(**merge_options(preset, file)))
    for name, why in ineffective.items():
        if name in given:
            raise InputError(to_flag(name), *why, on_every_rank=True)
        if name in file and name in ineffective_in_file:
            raise InputError(f"{path}: {name}", *why, on_every_rank=True)
    # The file may set options for another optimizer than the one on the command line. These are left out.
    return replace(config, **{name: getattr(Config, name) for name in ineffective})


def choose_preset(options: Mapping[str, Any]) -> str:
    """The name of the preset below these options: the one they name, else `table` for tables."""
    name: str = options.get("preset", TABLE_PRESET if is_table(options.get("dataset")) else Config.preset)
    return name


def merge_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The options of all layers; each overrides the ones before it.

    A learning rate belongs to an optimizer. If a later layer names another optimizer, the rate is dropped. So is the
    decoupled weight decay of adamw, which would be far too much as L2.
    """
    options: dict[str, Any] = {"optimizer": Config.optimizer}
    for layer in layers:
        before = options["optimizer"]
        if layer.get("optimizer", before) != before:
            options.pop("learning_rate", None)
            if before == "adamw":
                options.pop("weight_decay", None)
        options |= layer
    return options


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by the names of Config's fields, checked as on the command line.

    Keys are the options' names, with dashes or underscores. Raises InputError (on every rank), which names the file
    and the key.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        problem, remedy = f"can't be read ({error.strerror})", "name a file of options in TOML"
        raise InputError(f"--config {path}", problem, remedy, on_every_rank=True) from None
    except (ValueError, RecursionError) as error:
        problem, remedy = " ".join(str(error).split()), "write options as in epochs = 3, one per line"
        raise InputError(f"--config {path}", problem, remedy, on_every_rank=True) from None
    known = {each.name: each for each in fields(Config)}
    options: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise unknown_option(f"{path}: {key}", [name], list(known), "python -m distnet.train")
        if name in options:
            raise InputError(f"{path}: {key}", "occurs twice", "remove one", on_every_rank=True)
        try:
            checked = read_value(known[name].metadata, value)
        except (ArgumentTypeError, ValueError) as error:  # ValueError: an integer too long for a message
            raise InputError(f"{path}: {key}", str(error), on_every_rank=True) from None
        if checked is not None:
            options[name] = checked
    return options


def read_value(option: Mapping[str, Any], value: Any) -> Any:
    """The value of an option, given by its metadata, from its value in TOML; None to leave the option out.

    Raises ArgumentTypeError for an invalid value.
    """
    nargs = option.get("nargs")
    if option.get("action"):
        if not isinstance(value, bool):
            raise ArgumentTypeError(f"expected true or false, got {value!r}")
        return value
    if nargs == "?" and isinstance(value, bool):
        return option["const"] if value else None
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in values):
        raise ArgumentTypeError(f"expected numbers or strings, got {value!r}")
    count = nargs if isinstance(nargs, int) else 1
    if nargs not in ("*", "+") and len(values) != count:
        raise ArgumentTypeError(f"expected {format_count(count, 'value')}, got {value!r}")
    read = [option["type"](each if isinstance(each, str) else repr(each)) for each in values]
    for each in read:
        if each not in option.get("choices", read):
            raise ArgumentTypeError(describe_bad_choice(each, option["choices"]))
    return option["whole"](read) if nargs in SEVERAL else read[0]


def to_toml(config: Config) -> str:
    """The configuration as a TOML file that `read_config` reads back to the same.

    Options that are None, or have no effect beside the others, are not in it.
    """
    ineffective = find_ineffective(config)
    values = {k: v for k, v in config.to_dict().items() if getattr(config, k) is not None and k not in ineffective}
    if "checkpoint_every" in values:
        values["checkpoint_every"] = " ".join(map(str, config.checkpoint_every))
    values |= {name: True for name in ("resume", "profile") if values.get(name) == ""}  # given without FILE
    # JSON has the same strings, finite numbers, booleans and lists, but does not escape DEL.
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", r"\u007f") for key, value in values.items()
    ]
    return f"{WRITTEN} ({__version__}), for --config\n{''.join(lines)}"
