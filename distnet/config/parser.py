"""The parser of all commands: one-line errors, and a suggestion for an unknown option."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from distnet.runtime.errors import HelpWanted, InputError
from distnet.runtime.numbers import describe_bad_choice

# Names of options in other libraries that resemble none of ours.
USUAL_NAMES = {
    "alpha": "weight-decay",
    "bs": "batch-size",
    "data": "data-dir",
    "early-stopping": "patience",
    "l2": "weight-decay",
    "label": "target",
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
    """An argparse parser that raises InputError (on every rank) for errors, and HelpWanted for --help."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError for argparse's message."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [name for action in self._actions for name in action.option_strings]
            words = [word.partition("=")[0] for word in unknown.split() if word.startswith("-")]
            raise unknown_option(unknown, words, known, self.prog)
        subject, _, problem = message.removeprefix("argument ").partition(": ")
        raise InputError(subject, problem, on_every_rank=True)

    def print_help(self, file: object = None) -> NoReturn:
        """Raise HelpWanted, before the arguments after --help are read."""
        raise HelpWanted(self.format_help())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Argparse's check of choices, with our message."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, describe_bad_choice(value, action.choices))


def unknown_option(subject: object, words: Iterable[str], known: Sequence[str], program: str) -> InputError:
    """The error for unknown options, which proposes the known ones nearest to them."""
    nearest = dict.fromkeys(match for word in words if (match := find_nearest_option(word, known)))
    proposal = f"did you mean {' and '.join(nearest)}? See" if nearest else "see"
    return InputError(subject, "there is no such option", f"{proposal} {program} --help", on_every_rank=True)


def find_nearest_option(word: str, known: Iterable[str]) -> str | None:
    """The known option that the user probably meant; None if several could be meant.

    In this order: the usual name in other libraries, the only option that begins with the word or is its beginning, the
    most similar spelling.
    """
    from difflib import get_close_matches  # few runs need it

    plain = {name.lstrip("-").replace("_", "-"): name for name in known}
    typed = word.lstrip("-").replace("_", "-").lower()
    if usual := plain.get(USUAL_NAMES.get(typed, "")):
        return usual
    begun = [name for name in plain if name.startswith(typed) or typed.startswith(f"{name}-")]
    alike = begun if len(begun) == 1 else get_close_matches(typed, plain, 1)
    return plain[alike[0]] if alike else None
