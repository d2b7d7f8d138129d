"""Read the values of options from words."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from distnet.datasets.augmentation import STRENGTHS
from distnet.datasets.names import DATASETS, OWN, TABLES
from distnet.models.model_file import MODEL_ENDINGS
from distnet.runtime.numbers import positive_count, rate_or_zero


def read_counts(word: str) -> tuple[int, ...]:
    """Positive counts with commas between them, such as 256,128; one at the end is no matter."""
    return tuple(positive_count(text) for text in word.removesuffix(",").split(","))


def read_strengths(words: Sequence[str]) -> tuple[str, ...]:
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a data set (choose from {', '.join(DATASETS)}, {OWN})")
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
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(MODEL_ENDINGS)}")
    return file_path(text)


def page_path(text: str) -> Path:
    """A file name that a browser knows as a page."""
    if Path(text).suffix != ".html":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .html")
    return file_path(text)


def read_interval(words: Sequence[str]) -> tuple[int, str]:
    """'1 epoch', '500 steps' or '60 s' as a number and its unit: "epoch", "steps" or "s"."""
    units = {"epoch": "epoch", "epochs": "epoch", "step": "steps", "steps": "steps", "s": "s"}
    text = " ".join(words)
    found = re.fullmatch(r"([1-9]\d*) *([a-z]+)", text)
    if found is None or found[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval such as 1 epoch, 500 steps or 60 s")
    return int(found[1]), units[found[2]]
