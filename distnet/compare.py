"""Runs over each other, from their metrics files: python -m distnet.compare a/metrics.jsonl b/metrics.jsonl."""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.watch()  # before any import that can fail

import json
import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from distnet.config.parser import Parser
from distnet.config.values import file_path
from distnet.reporting.pages.charts import COLOURS, Curve, draw_line_chart, escape
from distnet.reporting.pages.page import render_document, render_figure, render_key, render_section, render_table
from distnet.runtime.command import run
from distnet.runtime.errors import InputError
from distnet.runtime.files import check_writable, is_same_file, write_content
from distnet.runtime.launch import launched_rank
from distnet.runtime.text import aligned, counted, printable

NEEDED = ("epoch", "loss", "learning_rate", "seconds", "samples_per_second")
SCORES = ("test_accuracy", "validation_accuracy")
COMPARED = ("loss", "validation_loss", "test_loss")
Record = dict[str, float]


class Run(NamedTuple):
    """label: what to call it. records: the metrics of each epoch, at least one."""

    label: str
    records: list[Record]

    def seconds(self) -> list[float]:
        """Of training, until the end of each epoch."""
        return list(accumulate(record["seconds"] for record in self.records))


def parser() -> Parser:
    """The parser of `python -m distnet.compare`."""
    made = Parser(prog="python -m distnet.compare", description="Draw training runs over each other.",
                  usage="python -m distnet.compare METRICS [METRICS ...] [options]",
                  allow_abbrev=False)  # fmt: skip
    made.add_argument("metrics", type=file_path, nargs="+", metavar="METRICS", help="files that --metrics wrote")
    made.add_argument("--output", type=file_path, default=Path("compare.html"), metavar="FILE",
                      help="file to write, .html (default: compare.html)")  # fmt: skip
    return made


def main() -> None:
    """Compare as the command line says."""
    if launched_rank() > 0:
        return
    typed = parser().parse_args()
    if typed.output.suffix != ".html":
        raise InputError(f"--output {typed.output}", "the name must end in .html", f"use {typed.output.stem}.html")
    check_writable(typed.output, "--output")
    if any(is_same_file(typed.output, path) for path in typed.metrics):
        raise InputError(f"--output {typed.output}", "is one of the files to compare", "name another file")
    runs = [Run(label, read(path)) for label, path in zip(labels(typed.metrics), typed.metrics, strict=True)]
    write_content(typed.output, page(runs).encode(errors="replace"), f"--output {typed.output}")
    print(aligned(figures(runs)))
    print(f"drawn in {printable(typed.output)}")


def read(path: Path) -> list[Record]:
    """The epochs in a metrics file. Raises InputError, naming the line, for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, f"can't be read ({error.strerror})", "name a file that --metrics wrote") from None
    except UnicodeDecodeError:
        raise InputError(path, "is not text", "name a file that --metrics wrote") from None
    records: list[Record] = []
    for place, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                records.append(checked(json.loads(line), records[-1]["epoch"] if records else 0))
            except (ValueError, RecursionError, OverflowError) as error:
                why = "no JSON object" if isinstance(error, json.JSONDecodeError) else str(error)
                raise InputError(f"{path}: line {place}", why, "name a file that --metrics wrote") from None
    if not records:
        raise InputError(path, "has no epoch", "wait for the first, or name another file")
    return records


def checked(found: Any, before: float) -> Record:
    """The numbers of an epoch that comes after epoch `before`. Raises ValueError where it isn't one."""
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    numbers = {
        k: math.nan if v is None else float(v)  # null is what JSON has for it
        for k, v in found.items()
        if isinstance(v, int | float | None) and not isinstance(v, bool)
    }
    for name in NEEDED:
        if name not in numbers:
            raise ValueError(f"no number {name}")
    if not (numbers["epoch"] > before and numbers["epoch"] % 1 == 0):
        raise ValueError(f"epoch {numbers['epoch']:g} comes after {before:g}")
    if not 0 <= numbers["seconds"] < math.inf:
        raise ValueError(f"{numbers['seconds']:g} seconds can't be")
    return numbers


def labels(paths: Sequence[Path]) -> list[str]:
    """What tells the paths apart, as short as may be; those that are the same get a number."""
    several = [path.parts for path in paths]
    first = several[0]
    shortest = min(map(len, several))
    if len(set(several)) > 1:
        start = next((k for k in range(shortest) if any(p[k] != first[k] for p in several)), shortest)
        end = next(
            (k for k in range(shortest - start) if any(p[-1 - k] != first[-1 - k] for p in several)), shortest - start
        )
        named = ["/".join(p[start : len(p) - end]) for p in several]
        if not all(named):  # one is the beginning or the end of another
            named = ["/".join(p[max(start - 1, 0) : len(p) - end]) or "/".join(p) for p in several]
        ending = paths[0].suffix
        if end == 0 and all(path.suffix == ending for path in paths):
            named = [name.removesuffix(ending) for name in named]
    else:
        named = [str(path) for path in paths]
    seen: dict[str, int] = {}
    for place, name in enumerate(named):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            named[place] = f"{name} ({seen[name]})"
    return named


def score(runs: Sequence[Run]) -> str:
    """The accuracy that all of them have."""
    for name in SCORES:
        if all(name in record for each in runs for record in each.records):
            return name
    raise InputError(
        "compare", "no accuracy is in all epochs of all files", "name runs that all have a test or a validation set"
    )


def figures(runs: Sequence[Run]) -> list[list[str]]:
    """The table: a head, and a row a run."""
    accuracy = score(runs)
    kept = any("validation_loss" in record for each in runs for record in each.records)
    head = [
        "run",
        *["losses"] * (len(runs) > 1),
        "epochs",
        "best " + accuracy.replace("_", " "),
        "epoch",
        *["kept"] * kept,
        "last",
        "last loss",
    ]
    rows = [[*head, "seconds", "samples/s"]]
    for place, each in enumerate(runs):
        records = each.records
        best = max(records, key=lambda record: -math.inf if math.isnan(record[accuracy]) else record[accuracy])
        seconds = each.seconds()[-1]
        samples = sum(record["samples_per_second"] * record["seconds"] for record in records)
        row = [each.label]
        if len(runs) > 1:
            row.append(sameness(runs[0], each) if place else "-")
        row += [f"{len(records):,}", f"{best[accuracy]:.4f}", f"{best['epoch']:.0f}"]
        if kept:
            row.append(f"{chosen(records)[accuracy]:.4f}" if "validation_loss" in records[0] else "-")
        row += [f"{records[-1][accuracy]:.4f}", f"{records[-1]['loss']:.4f}", f"{seconds:,.1f}"]
        row.append(f"{samples / seconds:,.0f}" if seconds else "-")
        rows.append(row)
    return rows


def chosen(records: Sequence[Record]) -> Record:
    """The epoch with the lowest loss on the samples held out, whose parameters a run keeps."""
    losses = [record.get("validation_loss", math.nan) for record in records]
    return records[min(range(len(records)), key=lambda k: math.inf if math.isnan(losses[k]) else losses[k])]


def sameness(first: Run, other: Run) -> str:
    """Whether their losses are the same to the last bit, in the epochs and of the sets that both have."""
    theirs = {record["epoch"]: record for record in other.records}
    both = [(record, theirs[record["epoch"]]) for record in first.records if record["epoch"] in theirs]
    if not both:
        return "no epoch in common"
    for ours, yours in both:
        # As text, so that a NaN is like a NaN, and -0 unlike 0.
        if any(repr(ours[name]) != repr(yours[name]) for name in COMPARED if name in ours and name in yours):
            return f"differ from epoch {ours['epoch']:.0f}"
    same = f"same bits as {first.label}"
    return same if len(both) == len(first.records) == len(other.records) else f"{same} in {counted(len(both), 'epoch')}"


def charts(runs: Sequence[Run]) -> dict[str, str]:
    """Loss, accuracy and learning rate, each over epochs and over seconds, by their names."""
    accuracy = score(runs)
    told = {
        "loss": "Training loss",
        accuracy: accuracy.replace("_", " ").capitalize(),
        "learning_rate": "Learning rate",
    }
    drawn = {}
    for by_time in (False, True):
        for name, title in told.items():
            curves = []
            for place, each in enumerate(runs):
                across = each.seconds() if by_time else [record["epoch"] for record in each.records]
                points = list(zip(across, (record.get(name, math.nan) for record in each.records), strict=True))
                # Where runs are the same, the earlier one shows as an edge of the later.
                width = 2 + 2.5 * (1 - place / (len(runs) - 1)) if len(runs) > 1 else 2
                curves.append(Curve(each.label, points, place, place >= COLOURS, width))
            drawn[f"{title}, by {'time' if by_time else 'epoch'}"] = draw_line_chart(
                title,
                "seconds of training" if by_time else "epoch",
                curves,
                zero=name == "learning_rate",
                logarithmic=name == "loss",
                whole=not by_time,
            )
    return drawn


def page(runs: Sequence[Run]) -> str:
    """All of it as HTML."""
    head, *rows = figures(runs)
    keys = "".join(render_key(each.label, k % COLOURS, "dashed" * (k >= COLOURS)) for k, each in enumerate(runs))
    drawn = [render_figure(f"<b>{escape(name)}</b>", chart) for name, chart in charts(runs).items()]
    return render_document(
        "distnet: runs compared",
        [
            "<h1>Runs compared</h1>",
            f'<p class="keys">{keys}</p>',
            render_table(head, rows),
            render_section("Curves", '<div class="charts">', *drawn, "</div>"),
            '<p class="small">Where runs are the same, the earlier one shows as an edge of the later.</p>'
            * (len(runs) > 1),
        ],
    )


if __name__ == "__main__":
    run(main)
