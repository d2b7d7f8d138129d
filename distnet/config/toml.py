"""Flat TOML, keys and their values: read by the standard library, written by hand, as that only reads."""

from collections.abc import Mapping
from typing import Any

# What a string can't hold as it is: quotes, backslashes and control characters.
ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127, ord('"'), ord("\\"))}


def parse(content: bytes) -> dict[str, Any]:
    """The keys and values of a TOML file. Raises ValueError, whose text is one line, for any other bytes."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("it isn't UTF-8 text") from None
    if not any(line and not line.isspace() and line[0] != "#" for line in text.splitlines()):
        return {}
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())) from None


def format_values(values: Mapping[str, Any]) -> str:
    """A line for each of these values: strings, numbers, booleans and lists of them; `parse` reads them back."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value.translate(ESCAPES)}"'
        case int() | float():
            return repr(value)
        case _:
            return f"[{', '.join(map(_value, value))}]"
