"""What docs/performance.md shows, out of the figures in docs/performance.json: python benchmarks/compare_docs.py.

Writes the tables of docs/performance.md and README.md between their marker comments, and docs/performance.svg.
"""

import datetime
import json
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from results import fill

DOCS = Path(__file__).resolve().parents[1] / "docs"
BASE = "native"  # the way that the picture compares with
SHORT_WAYS = (
    *("portable, 1 rank", "native", "eager PyTorch", "scikit-learn", "JAX scan"),
    *("portable, 2 ranks", "native, 2 ranks", "PyTorch DDP, 2 ranks"),
)
SHORT_CASES = ("tutorial, 10", "tutorial, 256", "784-256-128-10, 128", "784-800-800-10, 128")
PEERS = ("torch", "jax", "scikit-learn", "numpy", "mpi4py", "mpich")


class Row(NamedTuple):
    """A ratio that is wanted to be at least `wanted`, or at most."""

    case: str
    ratio: str
    wanted: float
    reached: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the target is met."""
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted

    @property
    def target(self) -> str:
        """What is wanted, as text."""
        return f"{'at most' if self.at_most else 'at least'} {self.wanted:g}"

    def __str__(self) -> str:
        return f"{' ' if self.is_met else '!'} {self.case:22} {self.ratio:50} {self.reached:6.2f}  {self.target}"


def about(rounds: int) -> str:
    """On what it was measured."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = ", ".join(f"{name} {version(name)}" for name in PEERS)
    return (
        f"{cpu[1] if cpu else platform.machine()}, 2 cores, Python {platform.python_version()}, {versions}; "
        f"{rounds} rounds; {datetime.date.today()}."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def steps_table(found: dict[str, dict[str, list[float]]]) -> str:
    """µs a step: a line a way, a column a case."""
    ways = list(next(iter(found.values())))

    def cell(times: list[float]) -> str:
        return f"{statistics.median(times):,.0f} ({min(times):,.0f} to {max(times):,.0f})"

    return table(["", *found], [[way, *(cell(times[way]) for times in found.values())] for way in ways])


def short_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Median µs per step of the most interesting ways and cases, for the README."""
    lines = [[way, *(f"{statistics.median(found[case][way]):,.0f}" for case in SHORT_CASES)] for way in SHORT_WAYS]
    return table(["", *SHORT_CASES], lines)


def rows_table(rows: Sequence[Row]) -> str:
    """Wanted and reached."""

    def verdict(row: Row) -> str:
        return "yes" if row.is_met else f"no, by {abs(1 - row.reached / row.wanted):.0%}"

    lines = [[row.case, row.ratio, row.target, f"{row.reached:.2f}", verdict(row)] for row in rows]
    return table(["network, batch", "ratio", "target", "reached", ""], lines)


def plot(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Time of each way over that of native arithmetic on one rank, a group of bars a case."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "distnet"
    from matplotlib import pyplot as plt

    ways = [way for way in next(iter(found.values())) if way != BASE]
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    width = 0.8 / len(ways)
    for number, way in enumerate(ways):
        ratios = [
            statistics.median(a / b for a, b in zip(times[way], times[BASE], strict=True)) for times in found.values()
        ]
        places = [case + (number - len(ways) / 2) * width for case in range(len(found))]
        axes.bar(places, ratios, width, label=way)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16, 32], ["¼", "½", "1", "2", "4", "8", "16", "32"])
    axes.set_ylabel("time of a step / native float32, one rank")
    axes.set_xticks(range(len(found)), list(found))
    axes.legend(ncols=3, fontsize="small", loc="upper right")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(found: dict[str, Any]) -> None:
    """performance.json, the plot, the tables, and README's."""
    (DOCS / "performance.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found["steps"], DOCS / "performance.svg")
    parts = {
        "about": found["about"],
        "steps": steps_table(found["steps"]),
        "wanted": rows_table([Row(*row) for row in found["rows"]]),
    }
    fill(DOCS / "performance.md", parts, "compare.py")
    fill(DOCS.parent / "README.md", {"speed": short_table(found["steps"])}, "compare.py")


if __name__ == "__main__":
    write(json.loads((DOCS / "performance.json").read_text()))
