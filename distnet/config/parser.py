"""The parser of commands: one-line errors, and a proposal for an unknown option."""

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from distnet.runtime.errors import HelpWanted, InputError

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


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and every rank's, and whose --help rank 0 prints alone."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the option, the value and what would be right."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [name for action in self._actions for name in action.option_strings]
            words = [word.partition("=")[0] for word in unknown.split() if word.startswith("-")]
            raise InputError(unknown, no_such_option(words, known), f"see {self.prog} --help", on_every_rank=True)
        subject, _, problem = message.removeprefix("argument ").partition(": ")
        raise InputError(subject, problem, on_every_rank=True)

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
