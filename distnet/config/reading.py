"""Read a configuration from the command line, a file and a preset, and write one."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from distnet import __version__
from distnet.config import toml
from distnet.config.conflicts import find_ineffective
from distnet.config.options import PRESET_FOLDER, SEVERAL, Config
from distnet.config.parser import Parser, no_such_option
from distnet.config.values import file_path
from distnet.runtime.errors import InputError

MOST_USED = ("dataset", "hidden", "epochs", "learning_rate", "model")  # come first in --help
WRITTEN = "# The configuration of a run of distnet"  # how the files begin that `to_toml` makes


def build_parser() -> Parser:
    """The parser of `python -m distnet.train`; options that nobody typed are absent from its result."""
    made = Parser(
        prog="python -m distnet.train",
        usage="[mpirun -n N] python -m distnet.train [options]",
        description="Train a dense network on this process or on all that mpirun starts, to the same bits.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {"most used": made.add_argument_group("most used")}
    preset = read_options(PRESET_FOLDER / f"{Config.preset}.toml")
    for each in fields(Config):
        default = preset.get(each.name, each.default)
        details = dict(each.metadata)
        group = details.pop("group")
        if each.name in MOST_USED:
            group = "most used"
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
        "--config",
        type=file_path,
        metavar="FILE",
        help="file of options in TOML, named as here; options typed override it",
    )
    return made


def dashed(name: str) -> str:
    """The name of a field of Config as an option has it."""
    return name.replace("_", "-")


def read_config(arguments: Sequence[str]) -> Config:
    """The configuration of these command-line arguments, which override the file of --config, and that the preset.

    Raises HelpWanted where --help was among them, and InputError (on every rank) for an option that doesn't
    exist, a value that can't be, or an option that means nothing beside the others.
    Every rank reads the same arguments and the same file.
    """
    typed = vars(build_parser().parse_args(arguments))
    for each in fields(Config):
        if each.name in typed and each.metadata.get("nargs") in SEVERAL:
            try:
                typed[each.name] = each.metadata["whole"](typed[each.name])
            except argparse.ArgumentTypeError as error:
                raise InputError(f"--{dashed(each.name)}", str(error), on_every_rank=True) from None
    path = typed.pop("config", None)
    file = read_options(path) if path else {}
    preset = read_options(PRESET_FOLDER / f"{(file | typed).get('preset', Config.preset)}.toml")
    alone = Config(**merge_options(preset, file))
    config = Config(**merge_options(preset, file, typed))
    for name, output in config.outputs.items():
        if path is not None and os.path.realpath(output) == os.path.realpath(path):
            raise InputError(f"{name} {output}", "is the file of --config", "name another file", on_every_rank=True)
    idle = find_ineffective(config)
    for name, why in idle.items():
        if name in typed:
            raise InputError(f"--{dashed(name)}", why, on_every_rank=True)
        if name in file and name in find_ineffective(alone):
            raise InputError(f"{path}: {name}", why, on_every_rank=True)
    # What the file says for another optimizer, say, than the one typed is as if it weren't there.
    return replace(config, **{name: getattr(Config, name) for name in idle})


def merge_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The options of all layers; each overrides the ones before it.

    A learning rate was chosen for an optimizer: where a later layer names another one, the rate is dropped.
    """
    options: dict[str, Any] = {"optimizer": Config.optimizer}
    for layer in layers:
        if layer.get("optimizer", options["optimizer"]) != options["optimizer"]:
            options.pop("learning_rate", None)
        options |= layer
    return options


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by the names of Config's fields, each checked as the command line is.

    Keys are the options' names, with dashes or underscores. Raises InputError (on every rank) that names file,
    key and value.
    """
    try:
        found = toml.parse(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"--config {path}",
            f"can't be read ({error.strerror})",
            "name a file of options in TOML",
            on_every_rank=True,
        ) from None
    except ValueError as error:
        raise InputError(
            f"--config {path}", str(error), "write options as in epochs = 3, one per line", on_every_rank=True
        ) from None
    known = {each.name: each for each in fields(Config)}
    options: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            told = no_such_option([name], list(known))
            raise InputError(f"{path}: {key}", told, "see python -m distnet.train --help", on_every_rank=True)
        if name in options:
            raise InputError(f"{path}: {key}", "is there twice", "remove one", on_every_rank=True)
        try:
            given = option_value(known[name].metadata, value)
        except (argparse.ArgumentTypeError, ValueError) as error:  # ValueError: too long to be told
            raise InputError(f"{path}: {key}", str(error), on_every_rank=True) from None
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


def to_toml(config: Config) -> str:
    """The configuration as a TOML file that `read_config` reads back to the same.

    Options that are none, or mean nothing beside the others, aren't in it.
    """
    idle = find_ineffective(config)
    values = {k: v for k, v in config.to_dict().items() if getattr(config, k) is not None and k not in idle}
    if "checkpoint_every" in values:
        values["checkpoint_every"] = " ".join(map(str, config.checkpoint_every))
    if values.get("resume") == "":
        values["resume"] = True
    return f"{WRITTEN} ({__version__}), for --config\n{toml.format_values(values)}"
