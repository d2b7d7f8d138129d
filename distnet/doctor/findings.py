"""Findings about a machine, and how they are printed."""

import textwrap
from typing import NamedTuple

from distnet.runtime import failure
from distnet.runtime.text import format_count

OK, NOTE, PROBLEM = "ok", "note", "problem"
WIDTH = 100
BUG_REPORT = "send all of this output as a bug report"


class Finding(NamedTuple):
    """The result of one check.

    mark: OK, NOTE if something could be better, or PROBLEM. remedy: what to type, unless OK.
    """

    mark: str
    name: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        start = f"  {self.mark:7}  {self.name:9}  "
        blank = " " * len(start)
        wrapper = textwrap.TextWrapper(WIDTH, start, blank, break_long_words=False, break_on_hyphens=False)
        lines = wrapper.wrap(self.text)
        wrapper.initial_indent = blank
        return "\n".join([*lines, *wrapper.wrap(f"try: {self.remedy}" * bool(self.remedy))])


class Report:
    """Prints findings as they come, on rank 0; every rank adds the same ones."""

    def __init__(self, rank: int, watchdog: failure.Watchdog) -> None:
        self.rank, self.problems, self.notes, self.title = rank, 0, 0, "the launcher"
        watchdog.position = lambda: f"while checking {self.title}"

    def start_section(self, title: str) -> None:
        """Start the findings about something else."""
        self.title = title
        self.print(f"\n{title}")

    def add(self, *findings: Finding) -> None:
        """Print and count findings of this section."""
        for finding in findings:
            self.problems += finding.mark == PROBLEM
            self.notes += finding.mark == NOTE
            self.print(str(finding))

    def print_summary(self) -> None:
        """Print the last line, such as '1 problem, no notes'."""
        counts = ((self.problems, "problem"), (self.notes, "note"))
        self.print("\n" + ", ".join(format_count(number, what) if number else f"no {what}s" for number, what in counts))

    def print(self, text: str) -> None:
        """Print at once, in case the next check hangs."""
        if self.rank == 0:
            print(text, flush=True)
