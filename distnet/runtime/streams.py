"""Lines for people on standard error, and standard streams that are closed or have no descriptor."""

import os
import sys

from distnet.runtime.text import printable


def say(text: str) -> None:
    """Lines for the person who watches, on standard error."""
    if sys.stderr is not None:
        sys.stderr.write(f"distnet: {printable(text.replace(chr(10), ' '))}\n")
        sys.stderr.flush()


def open_streams() -> None:
    """Let what is written to a stream that was closed before the start (`>&-`) go nowhere, instead of raising."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def error_descriptor() -> int:
    """Where faulthandler writes: standard error, also where a program has put an object without a descriptor there."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2
