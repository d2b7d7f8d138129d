"""Read the configuration that a model or a checkpoint stores."""

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from distnet.config.building import UNCOMPUTED
from distnet.config.options import Config
from distnet.config.reading import read_value
from distnet.runtime.errors import RESTORE, InputError


def read_stored(stored: Mapping[str, Any], subject: object) -> Config:
    """The configuration in a file, without its options of output and recovery.

    stored: as JSON represents it. Raises InputError, with this subject, if it does not describe a training that this
    distnet can do again.
    """
    if "hidden" not in stored:
        problem = "does not store how it was trained, as models from Python don't"
        raise InputError(subject, problem, "name one that python -m distnet.train wrote")
    if "arithmetic" not in stored:
        raise InputError(subject, "is of distnet 0.1, whose bits are others", "train it again with distnet 0.1")
    options = {each.name: each.metadata for each in fields(Config)}
    config: dict[str, Any] = {}
    for name, value in stored.items():
        if name not in options:
            problem = f"its option {name} is unknown to this distnet"
            raise InputError(subject, problem, "use the distnet that wrote it")
        if value is None or name in UNCOMPUTED:
            continue
        try:
            config[name] = read_value(options[name], value)
        except (ArgumentTypeError, ValueError) as error:
            raise InputError(subject, f"its option {name} is damaged ({error})", RESTORE) from None
    return Config(**config)
