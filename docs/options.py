"""Write docs/options.md, the options of all commands. Run it after changing an option: python docs/options.py.

A command is a module of distnet that has a `build_parser` and can be run. The `__main__.py` of a folder has the name
of the folder.
"""

import argparse
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from distnet.config.options import to_flag
from distnet.config.resuming import MAY_CHANGE

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "distnet"
PAGE = ROOT / "docs" / "options.md"
FIRST = "train"

HEAD = """\
# Every option

<!-- made by python docs/options.py: edit the help texts in the code instead -->

`--help` prints the same in the terminal. The defaults of `distnet.train` are those of the preset `mnist`. For tables,
they are those of [`table`](presets.md#presets). `--preset` selects another.
[Configuration files](presets.md#configuration-files) use the same names: `batch-size = 64`.
"""


def commands() -> list[str]:
    """The names of all commands, train first."""
    runnable = [
        path
        for path in HOUSE.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path != HOUSE / "__main__.py"
    ]
    names = [path.parent.name if path.stem == "__main__" else path.stem for path in runnable]
    return sorted(names, key=lambda name: (name != FIRST, name))


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command; for train, that in config/."""
    home = "config.reading" if command == FIRST else command
    if (HOUSE / command).is_dir():
        home += ".__main__"
    parser: argparse.ArgumentParser = import_module(f"distnet.{home}").build_parser()
    return parser


def placeholder(action: argparse.Action) -> str:
    """The values of an option in the form of --help, without choices."""
    if action.nargs == 0 or action.choices is not None:
        return ""
    names = action.metavar or action.dest.upper()
    value, last = names if isinstance(names, tuple) else (names, names)
    match action.nargs:
        case "*":
            return f" [{value} ...]"
        case "+":
            return f" {value} [{last} ...]"
        case "?":
            return f" [{value}]"
        case int(count):
            return f" {value}" * count
    return f" {value}"


def row(action: argparse.Action) -> str:
    """The table row of an option."""
    meaning, _, default = (action.help or "").partition(" (default: ")
    choices = [str(choice) for choice in action.choices or ()]
    if not all(choice in meaning for choice in choices):
        meaning += ": " + ", ".join(f"`{choice}`" for choice in choices)
    name = action.option_strings[-1] + placeholder(action) if action.option_strings else action.metavar or action.dest
    default = "required" if action.required else default.removesuffix(")")
    cells = (f"`{name}`", meaning, default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(actions: Iterable[argparse.Action]) -> list[str]:
    """The lines of a table of options without --help; none if there are no options."""
    rows = [row(each) for each in actions if "--help" not in each.option_strings]
    return ["| option | meaning | default |", "| --- | --- | --- |", *rows, ""] if rows else []


def section(command: str) -> str:
    """The section of a command."""
    parser = parser_of(command)
    lines = [f"## {parser.prog}", "", str(parser.description), ""]
    if parser.usage:
        lines += ["```text", parser.usage, "```", ""]
    if command != FIRST:
        return "\n".join([*lines, *table(parser._actions)])
    for group in parser._action_groups:
        if rows := table(group._group_actions):
            lines += [f"### {group.title}", "", *rows]
    names = ", ".join(f"`{to_flag(name)}`" for name in sorted(MAY_CHANGE))
    note = f"With `--resume`, only these options may change: {names}. With `--schedule cosine`, `--epochs` may not."
    return "\n".join([*lines, note, ""])


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(section, commands())]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
