"""Whether portable arithmetic learns as well as native float32: python benchmarks/learning.py [TASK ARITHMETIC SEED].

Trains each task from all of its seeds in both arithmetics, and notes every run in docs/results/learning.json; runs
that are noted already are left out, so it can be stopped and started again. With three words it trains this run
alone, noted or not. Then it prints a table of mean test errors, and writes it into docs/portable.md where that has a
place for it. DISTNET_DATA has to name real MNIST; Fashion-MNIST is where Debian's package has it. Needs SciPy (extra
bench) and mpirun beside this Python.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import results
from results import RESULTS, percent
from scipy import stats

from distnet.nn.model import ARITHMETICS

NOTES, PAGE = RESULTS / "learning.json", RESULTS.parent / "portable.md"
MARKER = "<!-- learning: benchmarks/learning.py -->"
RARE = 0.05  # p-value below which means differ by more than the seeds do
PLATEAU = 0.5  # test error above which a network has learned little


class Task(NamedTuple):
    """options: of the command."""

    options: tuple[str, ...]
    seeds: tuple[int, ...]


TASKS = {
    "mnist": Task(("--preset", "mnist"), (0, 1, 2, 3, 4)),
    "wide": Task(("--preset", "wide"), (0, 1, 2, 3, 4)),
    "fashion": Task(("--preset", "fashion"), (0, 1, 2)),
    "tutorial": Task(("--preset", "tutorial", "--epochs", "300"), (0,)),
}
Run = tuple[str, str, int]  # task, arithmetic, seed


def read(path: Path) -> dict[Run, dict[str, Any]]:
    """All runs that are noted."""
    runs = json.loads(path.read_text()) if path.exists() else []
    return {(each["task"], each["arithmetic"], each["seed"]): each for each in runs}


def note(path: Path, run: Run, measured: dict[str, Any]) -> None:
    """Put a run into the file, in the place of another of the same."""
    runs = read(path) | {run: {"task": run[0], "arithmetic": run[1]} | measured}
    lines = ",\n".join(json.dumps(runs[each]) for each in sorted(runs))
    path.write_text(f"[\n{lines}\n]\n")


def mean_error(runs: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation, as in 1.86 % ± 0.10."""
    errors = [run["error"] for run in runs]
    spread = f" ± {100 * statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return percent(statistics.mean(errors)) + spread


def row(name: str, portable: Sequence[dict[str, Any]], native: Sequence[dict[str, Any]]) -> list[str]:
    """The cells of a task: errors, their difference with its 95 % interval by Welch's t-test, p-value."""
    errors = [[run["error"] for run in runs] for runs in (portable, native)]
    difference = f"{100 * (statistics.mean(errors[0]) - statistics.mean(errors[1])):+.2f}"
    rarity = verdict = ""
    if min(map(len, errors)) > 1:
        test = stats.ttest_ind(*errors, equal_var=False)
        low, high = test.confidence_interval(1 - RARE)
        difference += f" ({100 * low:+.2f} to {100 * high:+.2f})"
        rarity, verdict = f"{test.pvalue:.2f}", "yes" if test.pvalue < RARE else "no"
    return [f"`{name}`", str(len(portable)), mean_error(portable), mean_error(native), difference, rarity, verdict]


def leaves_plateau(run: dict[str, Any]) -> str:
    """The first epoch after which the network has learned something, as text."""
    return next((f"in epoch {epoch}" for epoch, _, error in run["curve"] if error < PLATEAU), "never")


def table(runs: dict[Run, dict[str, Any]]) -> str:
    """A line per task that was trained in both arithmetics."""
    head = ["task", "seeds", "portable", "native float32", "difference (95 %)", "p", "more than the seeds"]
    lines, remarks = [head, ["---", *["---:"] * (len(head) - 1)]], list[str]()
    for name in TASKS:
        portable, native = ([run for key, run in runs.items() if key[:2] == (name, each)] for each in ARITHMETICS)
        if portable and native:
            lines.append(row(name, portable, native))
            if name == "tutorial":
                ends = [
                    f"{leaves_plateau(some[0])} in {each}"
                    for some, each in zip((portable, native), ARITHMETICS, strict=True)
                ]
                remarks.append(f"The network of `tutorial` leaves its plateau {' and '.join(ends)} arithmetic.")
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + [""] * bool(remarks) + remarks)


def main() -> None:
    """Train, note, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", metavar="TASK ARITHMETIC SEED")
    parser.add_argument("--ranks", type=int, default=1, help="the bits of native runs depend on it")
    parser.add_argument("--try", dest="trial", type=Path, metavar="FILE", help="one epoch of each run, noted in FILE")
    options = parser.parse_args()
    notes = options.trial or NOTES
    runs: list[Run] = [
        (name, arithmetic, seed)
        for name, task in TASKS.items()
        for seed, arithmetic in product(task.seeds, ARITHMETICS)
        if (name, arithmetic, seed) not in read(notes)
    ]
    if options.run:
        name, arithmetic, seed = options.run
        runs = [(name, arithmetic, int(seed))]
    for run in runs:
        name, arithmetic, seed = run
        words = [*TASKS[name].options, "--arithmetic", arithmetic, "--quiet"]
        measured = results.train([*words, *(["--epochs", "1"] if options.trial else [])], seed, options.ranks)
        note(notes, run, measured)
        print(f"{name}, {arithmetic}, seed {seed}: {percent(measured['error'])} in {measured['seconds']} s", flush=True)
    print(table(read(notes)))
    if not options.trial and MARKER in PAGE.read_text():
        results.fill(PAGE, {"learning": table(read(NOTES))}, "learning.py")


if __name__ == "__main__":
    main()
