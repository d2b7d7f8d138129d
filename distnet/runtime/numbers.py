"""Validators for numbers and choices, of options and of parameters."""

import argparse
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

from distnet.runtime.errors import InputError

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Number(Generic[T]):
    """The int or float values that are `allowed`: parses one from text, or checks a parameter.

    right: what is allowed, in words.
    """

    kind: Callable[[str], T]
    allowed: Callable[[T], bool]
    right: str

    def __call__(self, text: str) -> T:
        """The number in `text`. Raises ArgumentTypeError if it isn't allowed."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.allowed(value):
            raise argparse.ArgumentTypeError(f"expected {self.right}, got {text!r}")
        return value

    def check(self, name: str, value: Any) -> T:
        """`value` as a Python number. Raises InputError (on every rank) that names the parameter if it is invalid."""
        numbers = Integral if self.kind is int else Real
        if isinstance(value, numbers) and not isinstance(value, bool):
            with suppress(OverflowError):
                number = self.kind(value)  # type: ignore[arg-type]
                if self.allowed(number):
                    return number
        raise InputError(name, f"expected {self.right}, got {value!r}", on_every_rank=True)


def check_fields(instance: Any, **numbers: Number[Any]) -> None:
    """Check fields of a frozen dataclass, and convert them to Python numbers; None is valid if it is the default.

    A NumPy scalar would change the precision of a product. Raises InputError (on every rank) for the first invalid one.
    """
    for name, number in numbers.items():
        value = getattr(instance, name)
        if value is not None or getattr(type(instance), name, 0) is not None:
            object.__setattr__(instance, name, number.check(name, value))


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise InputError (on every rank) that names the parameter if its value is not one of the choices."""
    if not isinstance(value, str | bool) or value not in choices:
        raise InputError(name, describe_bad_choice(value, choices), on_every_rank=True)


def doubled(end: int) -> list[int]:
    """1, 2, 4 ... and `end`."""
    return [1 << power for power in range((end - 1).bit_length())] + [end]


def describe_bad_choice(value: Any, choices: Iterable[Any]) -> str:
    """The problem with a value that is none of the choices."""
    return f"expected one of {', '.join(map(str, choices))}, got {value!r}"


positive_count = Number(int, lambda value: 1 <= value < 2**31, "a positive integer")
shard_count = Number(int, lambda value: 1 <= value <= 65_536, "an integer from 1 to 65536")
seed_number = Number(int, lambda value: 0 <= value < 2**63, "a non-negative integer")
positive_rate = Number(float, lambda value: math.isfinite(value) and value > 0, "a finite positive number")
rate_or_zero = Number(float, lambda value: math.isfinite(value) and value >= 0, "a finite non-negative number")
fraction = Number(float, lambda value: 0 <= value < 1, "a number from 0 up and below 1")
closed_fraction = Number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
part = Number(float, lambda value: 0 < value < 1, "a number between 0 and 1")
