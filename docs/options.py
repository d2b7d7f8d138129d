"""Every option of every command as docs/options.md: python docs/options.py, after a change to any of them.

Nothing is written by hand there: a file of distnet that has a `parser` and can be run is a command; where it is the
`__main__.py` of a folder, that has the name.
"""

import argparse
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from distnet.config.reading import dashed
from distnet.config.resuming import MAY_CHANGE

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "distnet"
PAGE = ROOT / "docs" / "options.md"
FIRST = "train"

HEAD = """\
# Every option

<!-- made by python docs/options.py: change the code's words, not these -->

`--help` prints the same in the terminal. Defaults of `distnet.train` are those of the preset `mnist`, where a run
starts unless `--preset` names another. In a file for `--config` an option has the same name: `batch-size = 64`.
"""


def commands() -> list[str]:
    """The names of the files and folders that are commands, the training first."""
    runnable = [
        path
        for path in HOUSE.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path != HOUSE / "__main__.py"
    ]
    names = [path.parent.name if path.stem == "__main__" else path.stem for path in runnable]
    return sorted(names, key=lambda name: (name != FIRST, name))


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command; the training's stands with its options."""
    home = "config.reading" if command == FIRST else command
    if (HOUSE / command).is_dir():
        home += ".__main__"
    made: argparse.ArgumentParser = import_module(f"distnet.{home}").parser()
    return made


def placeholder(action: argparse.Action) -> str:
    """What stands behind an option: its values as --help shows them, but for choices."""
    if action.nargs == 0 or action.choices is not None:
        return ""
    value = str(action.metavar or action.dest.upper())
    match action.nargs:
        case "*":
            return f" [{value} ...]"
        case "+":
            return f" {value} [{value} ...]"
        case "?":
            return f" [{value}]"
        case int(count):
            return f" {value}" * count
    return f" {value}"


def row(action: argparse.Action) -> str:
    """An option's row of the table."""
    meaning, _, default = (action.help or "").partition(" (default: ")
    choices = [str(choice) for choice in action.choices or ()]
    if not all(choice in meaning for choice in choices):
        meaning += ": " + ", ".join(f"`{choice}`" for choice in choices)
    name = action.option_strings[-1] + placeholder(action) if action.option_strings else action.metavar or action.dest
    default = "required" if action.required else default.removesuffix(")")
    cells = (f"`{name}`", meaning, default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(actions: Iterable[argparse.Action]) -> list[str]:
    """The lines of a table of options, none for no options; --help is no news."""
    rows = [row(each) for each in actions if "--help" not in each.option_strings]
    return ["| option | meaning | default |", "| --- | --- | --- |", *rows, ""] if rows else []


def section(command: str) -> str:
    """What there is to say of a command."""
    parser = parser_of(command)
    lines = [f"## {parser.prog}", "", str(parser.description), ""]
    if parser.usage:
        lines += ["```text", parser.usage, "```", ""]
    if command != FIRST:
        return "\n".join([*lines, *table(parser._actions)])
    for group in parser._action_groups:
        if rows := table(group._group_actions):
            lines += [f"### {group.title}", "", *rows]
    anew = ", ".join(f"`--{dashed(name)}`" for name in sorted(MAY_CHANGE))
    told = f"A run that goes on with `--resume` may have other values of {anew}; no others."
    return "\n".join([*lines, told + " With `--schedule cosine` the `--epochs` have to stay, too.", ""])


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(section, commands())]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
