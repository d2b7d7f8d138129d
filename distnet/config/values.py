"""Read the values of options from words."""

import os
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from distnet.datasets.augmentation import STRENGTHS
from distnet.datasets.options import DATASETS, OWN, TABLES
from distnet.runtime.numbers import describe_bad_choice, positive_count, rate_or_zero
from distnet.training.checkpoint import ALL


def read_counts(word: str) -> tuple[int, ...]:
    """Positive integers separated by commas, such as "256,128"; a trailing comma is allowed."""
    return tuple(positive_count(text) for text in word.removesuffix(",").split(","))


def read_strengths(words: Sequence[str]) -> tuple[str, ...]:
    """Kinds of augmentation, each as "shift=1"; a kind without a strength gets its default."""
    found: dict[str, float] = {}
    for word in (word for several in words for word in several.split(",")):
        name, has_value, text = word.partition("=")
        if name not in STRENGTHS:
            raise ArgumentTypeError(describe_bad_choice(word, [f"{each}[=NUMBER]" for each in STRENGTHS]))
        found[name] = rate_or_zero(text) if has_value else STRENGTHS[name]
    if found.get("scale", 0) >= 100 or not 0.5 <= found.get("sigma", 1) <= 100:
        raise ArgumentTypeError("expected scale below 100 and sigma from 0.5 to 100")
    if "sigma" in found and "elastic" not in found:
        raise ArgumentTypeError("sigma has no effect without elastic; add elastic")
    return tuple(f"{name}={value!r}".removesuffix(".0") for name, value in found.items())


def sha256_digest(text: str) -> str:
    """A sha256 in hexadecimal, in lower case."""
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ArgumentTypeError(f"expected 64 hexadecimal digits, got {text!r}")
    return text.lower()


def dataset_name(text: str) -> str:
    """The name of a data set, or the kind and the path of a table."""
    kind, _, path = text.partition(":")
    if text not in DATASETS and (kind not in TABLES or not path):
        raise ArgumentTypeError(describe_bad_choice(text, (*DATASETS, OWN)))
    return f"{kind}:{os.path.expanduser(path)}" if path else text


def file_path(text: str) -> Path:
    """A path. ~ is the home folder, also in files of options and behind an equals sign, where no shell expands it."""
    return Path(os.path.expanduser(text))


def path_ending_in(endings: Sequence[str], text: str) -> Path:
    """A path whose name has one of these extensions. Raises ArgumentTypeError."""
    if Path(text).suffix not in endings:
        raise ArgumentTypeError(f"expected a name that ends in {' or '.join(endings)}, got {text!r}")
    return file_path(text)


def read_keep(text: str) -> int | str:
    """The number of checkpoints to keep, or "all"."""
    if text == ALL:
        return ALL
    try:
        return positive_count(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"expected a positive integer or {ALL}, got {text!r}") from None


def read_interval(words: Sequence[str]) -> tuple[int, str]:
    """'1 epoch', '500 steps' or '60 s' as a number and its unit: "epoch", "steps" or "s"."""
    units = {"epoch": "epoch", "epochs": "epoch", "step": "steps", "steps": "steps", "s": "s"}
    text = " ".join(words)
    found = re.fullmatch(r"([1-9]\d*) *([a-z]+)", text)
    if found is None or found[2] not in units:
        raise ArgumentTypeError(f"expected an interval such as 1 epoch, 500 steps or 60 s, got {text!r}")
    return int(found[1]), units[found[2]]
