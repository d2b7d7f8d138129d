"""A finding about a machine, and how a terminal shows it."""

import re
import sys
import textwrap
from typing import NamedTuple

from distnet.runtime.text import counted

OK, NOTE, PROBLEM = "ok", "note", "problem"
COLOURS = {OK: 32, NOTE: 33, PROBLEM: 31}  # of ANSI: green, yellow, red
WIDTH = 100
BUG_REPORT = "send all of this output as a bug report"


class Finding(NamedTuple):
    """mark: OK; NOTE, of what works but could be better; or PROBLEM. remedy: what to type, where it isn't OK."""

    mark: str
    name: str
    told: str
    remedy: str = ""


def shown(finding: Finding) -> str:
    """A finding as aligned lines."""
    start = f"  {finding.mark:7}  {finding.name:9}  "
    blank = " " * len(start)
    lines = []
    for text, first in ((finding.told, start), (f"try: {finding.remedy}" * bool(finding.remedy), blank)):
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=first, subsequent_indent=blank, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines)


def summary(problems: int, notes: int) -> str:
    """'1 problem, no notes'."""
    counts = ((problems, "problem"), (notes, "note"))
    return ", ".join(f"no {what}s" if number == 0 else counted(number, what) for number, what in counts)


def coloured(text: str) -> str:
    """Findings with their marks in colour, where standard output is a terminal."""
    if not sys.stdout.isatty():
        return text
    marks = re.compile(rf"^  ({'|'.join(COLOURS)})\b", re.MULTILINE)
    return marks.sub(lambda found: f"  \033[{COLOURS[found[1]]}m{found[1]}\033[m", text)
