"""What dense networks reach: python benchmarks/results.py [ROW ...].

Trains the rows that are named, each from all of its seeds, by the command that stands in the table, and notes
error, time, sha256 and curve of every run in docs/results/ROW.json. Then, or without any row, draws the curves into
docs/results/*.svg and writes the tables of docs/results/README.md. DISTNET_DATA has to name real MNIST. Needs
matplotlib (extra bench) and mpirun beside this Python.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import blas_kernel  # noqa: F401 - for the processes that this starts

from distnet import __version__
from distnet.config.options import PRESET_FOLDER

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
POINTS = 200  # of a curve that are kept


class Row(NamedTuple):
    """options: of the command. wanted: the largest test error. reference: whose figure that is."""

    options: tuple[str, ...]
    seeds: tuple[int, ...]
    wanted: float | None
    reference: str


ROWS = {
    "mnist": Row(
        ("--preset", "mnist"), (0, 1, 2, 3, 4), 0.019, "time to 98 %, compared with scikit-learn: docs/performance.md"
    ),
    "wide": Row(("--preset", "wide"), (0, 1, 2, 3, 4), 0.016, "Simard et al. 2003: 1.6 %"),
    "simard": Row(("--preset", "simard"), (0, 1, 2), 0.007, "Simard et al. 2003: 0.7 %"),
    "best": Row(("--preset", "best"), (0,), 0.005, "Cireşan et al. 2010: 0.35 %, 12 million weights on a GPU"),
    "fashion": Row(("--preset", "fashion"), (0, 1, 2), 0.095, "the data set's own table: 256-128-100, 11.67 %"),
    "tutorial": Row(("--preset", "tutorial"), (0,), None, "accuracy not stated in the tutorial"),
}


def train(options: Sequence[str], seed: int, ranks: int) -> dict[str, Any]:
    """One run. Raises CalledProcessError if it fails."""
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "metrics.jsonl")
        command = [mpirun, "-n", str(ranks), sys.executable, "-m", "distnet.train", *options]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "--seed", str(seed), "--metrics", str(metrics)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({"DISTNET_DATA": ""} if "fashion" in options else {}),
        )
        return noted(seed, time.perf_counter() - begin, ranks, done.stdout, metrics.read_text())


def noted(seed: int, seconds: float, ranks: int, out: str, metrics: str) -> dict[str, Any]:
    """What is kept of a run, from what it printed and its metrics."""
    records = [json.loads(line) for line in metrics.splitlines()]
    accuracy, digest = (line.split()[-1] for line in out.splitlines()[-2:])
    step = max(1, len(records) // POINTS)
    kept = [record for record in records if record["epoch"] % step == 0 or record is records[-1]]
    return {
        "seed": seed,
        "version": __version__,
        "seconds": round(seconds, 1),
        "ranks": ranks,
        "error": round(1 - float(accuracy), 4),
        "sha256": digest,
        "curve": [[r["epoch"], round(r["loss"], 5), round(1 - r["test_accuracy"], 4)] for r in kept],
    }


def note(row: str, run: dict[str, Any]) -> None:
    """Put a run into the row's file, with its arithmetic, in the place of another from the same seed."""
    path = RESULTS / f"{row}.json"
    _, preset = ROWS[row].options
    settings = tomllib.loads((PRESET_FOLDER / f"{preset}.toml").read_text())
    run |= {"arithmetic": settings.get("arithmetic", "portable")}
    runs = {each["seed"]: each for each in (json.loads(path.read_text()) if path.exists() else [])}
    runs[run["seed"]] = run
    lines = ",\n".join(json.dumps(runs[seed]) for seed in sorted(runs))
    path.write_text(f"[\n{lines}\n]\n")


def percent(error: float) -> str:
    """As in 1.76 %."""
    return f"{100 * error:.2f} %"


def version_of(runs: list[dict[str, Any]]) -> str:
    """The distnet that trained them, and its arithmetic."""
    return f"{runs[0]['version']}, {runs[0]['arithmetic']}"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a row."""
    lines = [
        "| `python -m distnet.train` with | test error (each seed) | target | reference | distnet |",
        "| --- | --- | ---: | --- | --- |",
    ]
    for name, runs in found.items():
        row, errors = ROWS[name], [run["error"] for run in runs]
        told = percent(statistics.mean(errors))
        if len(errors) > 1:
            told += f" ± {100 * statistics.stdev(errors):.2f} ({', '.join(f'{100 * error:.2f}' for error in errors)})"
        wanted = f"{100 * row.wanted:g} %" if row.wanted else ""
        lines.append(f"| `{' '.join(row.options)}` | {told} | {wanted} | {row.reference} | {version_of(runs)} |")
    return "\n".join(lines)


def summary(found: dict[str, list[dict[str, Any]]]) -> str:
    """The same for the first seed, with its bits."""
    lines = ["| options | test error | distnet | parameters sha256 |", "| --- | ---: | --- | --- |"]
    for name, runs in found.items():
        run, options = runs[0], " ".join(ROWS[name].options)
        lines.append(f"| `{options}` | {percent(run['error'])} | {version_of([run])} | `{run['sha256'][:16]}...` |")
    return "\n".join(lines)


def digests(found: dict[str, list[dict[str, Any]]]) -> str:
    """The sha256 of every run."""
    lines = ["| run | seed | parameters sha256 |", "| --- | ---: | --- |"]
    lines += [f"| {name} | {run['seed']} | `{run['sha256']}` |" for name, runs in found.items() for run in runs]
    return "\n".join(lines)


def draw(name: str, runs: list[dict[str, Any]]) -> None:
    """Test error and training loss over the epochs, a line a seed."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "distnet"
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    for run in runs:
        epochs, losses, errors = zip(*run["curve"], strict=True)
        above.plot(epochs, [100 * error for error in errors], label=f"seed {run['seed']}", linewidth=1)
        below.plot(epochs, losses, linewidth=1)
    above.set_yscale("log")
    if ROWS[name].wanted:
        above.axhline(100 * (ROWS[name].wanted or 0), color="black", linewidth=0.8, linestyle="--", label="wanted")
    above.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 3, 5)))
    above.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    above.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    above.set_ylabel("test error, %")
    above.legend(fontsize="small")
    below.set_ylabel("training loss")
    below.set_xlabel("epoch")
    above.set_title(" ".join(ROWS[name].options))
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def write() -> None:
    """All pictures and tables, out of what is noted."""
    paths = {name: RESULTS / f"{name}.json" for name in ROWS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    for name, runs in found.items():
        draw(name, runs)
    pictures = "\n\n".join(f"![{name}]({name}.svg)" for name in found)
    fill(RESULTS / "README.md", {"table": table(found), "curves": pictures, "digests": digests(found)})
    fill(RESULTS.parents[1] / "README.md", {"table": summary(found)})


def fill(page: Path, parts: dict[str, str], script: str = "results.py") -> None:
    """Write each part between its marker comments."""
    text = page.read_text()
    for marker, part in parts.items():
        begin, end = f"<!-- {marker}: benchmarks/{script} -->\n", "\n<!-- end -->"
        start = text.index(begin) + len(begin)
        text = text[:start] + part + text[text.index(end, start) :]
    page.write_text(text)


def main() -> None:
    """Train, note, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--ranks", type=int, default=1, help="the bits of native rows depend on it")
    options = parser.parse_args()
    for row in options.rows:
        for seed in ROWS[row].seeds:
            run = train(ROWS[row].options, seed, options.ranks)
            note(row, run)
            print(f"{row}, seed {seed}: {percent(run['error'])} in {run['seconds']:.0f} s", flush=True)
    write()


if __name__ == "__main__":
    main()
