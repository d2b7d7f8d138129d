"""Text for people: counts, lists, tables; and JSON for programs."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

SHOWN = 20  # names in a message


def format_count(number: int, what: str) -> str:
    """'1 rank', '2 ranks'."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def join_names(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def list_names(names: Iterable[str], most: int = SHOWN) -> str:
    """The first names for a message, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + f" and {len(names) - most:,} more" * (len(names) > most)


def to_printable(text: object) -> str:
    r"""Text that is safe for a terminal: characters that can't be printed are escaped as in Python, such as \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of escaped words as a table, with the first column left-aligned and the others right-aligned."""
    clean = [[to_printable(word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(w.rjust(k) for w, k in zip(row[1:], widths[1:], strict=True))])
        for row in clean
    )


def json_line(value: Any) -> str:
    """A line of JSON, in which NaN and infinity are null: JSON has no words for them, and most readers refuse them."""

    def finite(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: finite(each) for key, each in value.items()}
        return [finite(each) for each in value] if isinstance(value, list | tuple) else value

    return json.dumps(finite(value))
