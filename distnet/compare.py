"""Compare training runs by their metrics files: python -m distnet.compare a/metrics.jsonl b/metrics.jsonl."""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import json
import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, NamedTuple, cast

from distnet.config.parser import Parser
from distnet.config.values import file_path, path_ending_in
from distnet.reporting.pages.charts import COLOURS, Curve, draw_line_chart, escape
from distnet.reporting.pages.page import render_document, render_figure, render_key, render_section, render_table
from distnet.runtime.command import run
from distnet.runtime.errors import InputError
from distnet.runtime.files import check_writable, is_same_file, write_content
from distnet.runtime.launch import launched_rank
from distnet.runtime.text import format_count, format_table, to_printable
from distnet.training.history import METRIC_NAMES, History

NEEDED = ("epoch", "loss", "learning_rate", "seconds", "samples_per_second")
SCORES = {
    f"{part}_{metric}": f"{part} {name}" for part in ("test", "validation") for metric, name in METRIC_NAMES.items()
}
COMPARED = ("loss", "validation_loss", "test_loss", "parameters_sha256")
Record = dict[str, Any]  # numbers, and the text parameters_sha256, which older files lack


class Run(NamedTuple):
    """label: its name in tables and charts. records: the metrics of each epoch, at least one."""

    label: str
    records: list[Record]

    def seconds(self) -> list[float]:
        """Seconds of training until the end of each epoch."""
        return list(accumulate(record["seconds"] for record in self.records))

    def kept(self) -> Record:
        """The epoch whose parameters were kept: the one with the lowest validation loss."""
        return self.records[History(cast(Any, self.records)).best_epoch() - 1]


def build_parser() -> Parser:
    """The parser of `python -m distnet.compare`."""
    parser = Parser(
        prog="python -m distnet.compare",
        description="Compare training runs in a table and on an HTML page.",
        usage="python -m distnet.compare METRICS [METRICS ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument("metrics", type=file_path, nargs="+", metavar="METRICS", help="metrics files of training runs")
    parser.add_argument(
        "--output",
        type=partial(path_ending_in, (".html",)),
        default=Path("compare.html"),
        metavar="FILE",
        help="HTML page to write (default: compare.html)",
    )
    return parser


def main() -> None:
    """Run the command."""
    if launched_rank() > 0:
        return
    typed = build_parser().parse_args()
    check_writable(typed.output, "--output")
    if any(is_same_file(typed.output, path) for path in typed.metrics):
        raise InputError(f"--output {typed.output}", "is one of the files to compare", "name another file")
    runs = [
        Run(label, read_metrics(path)) for label, path in zip(shorten_labels(typed.metrics), typed.metrics, strict=True)
    ]
    write_content(typed.output, render_page(runs).encode(errors="replace"), f"--output {typed.output}")
    print(format_table(build_table(runs)))
    print(f"wrote {to_printable(typed.output)}")


def read_metrics(path: Path) -> list[Record]:
    """Read the epochs in a metrics file. Raises InputError, which names the line, for anything else."""
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
                records.append(check_record(json.loads(line), records[-1]["epoch"] if records else 0))
            except (ValueError, RecursionError, OverflowError) as error:
                why = "is not a JSON object" if isinstance(error, json.JSONDecodeError) else str(error)
                raise InputError(f"{path}: line {place}", why, "name a file that --metrics wrote") from None
    if not records:
        raise InputError(path, "has no epoch", "wait for the first epoch, or name another file")
    return records


def check_record(value: Any, before: float) -> Record:
    """Check that a JSON value is a record of an epoch after epoch `before`; returns its `Record`. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    numbers: Record = {
        k: math.nan if v is None else float(v)  # NaN and infinity are null in JSON
        for k, v in value.items()
        if isinstance(v, int | float | None) and not isinstance(v, bool)
    }
    for name in NEEDED:
        if name not in numbers:
            raise ValueError(f"has no number {name}")
    if not (numbers["epoch"] > before and numbers["epoch"] % 1 == 0):
        raise ValueError(f"has epoch {numbers['epoch']:g} after epoch {before:g}")
    if not 0 <= numbers["seconds"] < math.inf:
        raise ValueError(f"has {numbers['seconds']:g} seconds")
    sha256 = value.get("parameters_sha256")
    return numbers | ({"parameters_sha256": sha256} if isinstance(sha256, str) else {})


def shorten_labels(paths: Sequence[Path]) -> list[str]:
    """Shorten paths to the parts in which they differ; equal paths get a number."""
    parts = [path.parts for path in paths]
    labels = [str(path) for path in paths]
    if len(set(parts)) > 1:
        start = count_shared(parts)
        end = min(count_shared([each[::-1] for each in parts]), min(map(len, parts)) - start)
        labels = ["/".join(each[start : len(each) - end]) for each in parts]
        if not all(labels):  # one path is the beginning or the end of another
            labels = ["/".join(each[max(start - 1, 0) : len(each) - end] or each) for each in parts]
        endings = {path.suffix for path in paths}
        if end == 0 and len(endings) == 1:
            labels = [label.removesuffix(*endings) for label in labels]
    counts = [labels[: place + 1].count(label) for place, label in enumerate(labels)]
    return [label if count == 1 else f"{label} ({count})" for label, count in zip(labels, counts, strict=True)]


def count_shared(sequences: Sequence[Sequence[str]]) -> int:
    """How many leading items all sequences share."""
    return len(list(takewhile(lambda items: len(set(items)) == 1, zip(*sequences, strict=False))))


def choose_score(runs: Sequence[Run]) -> str:
    """Choose the score that all epochs have: the accuracy, or that of another task."""
    for name in SCORES:
        if all(name in record for each in runs for record in each.records):
            return name
    raise InputError(
        "metrics",
        "no score is in all epochs of all files",
        "name runs of one task that all have a test or a validation set",
    )


def build_table(runs: Sequence[Run]) -> list[list[str]]:
    """Build the table: a header, and one row per run."""
    score = choose_score(runs)
    is_validated = any("validation_loss" in record for each in runs for record in each.records)
    head = ["run", *["bits"] * (len(runs) > 1), "epochs", "best " + SCORES[score], "epoch"]
    rows = [[*head, *["kept"] * is_validated, "last", "last loss", "seconds", "samples/s"]]
    for place, each in enumerate(runs):
        records = each.records
        best = max(records, key=lambda record: -math.inf if math.isnan(record[score]) else record[score])
        seconds = each.seconds()[-1]
        samples = sum(record["samples_per_second"] * record["seconds"] for record in records)
        row = [each.label]
        if len(runs) > 1:
            row.append(compare_bits(runs[0], each) if place else "-")
        row += [f"{len(records):,}", f"{best[score]:.4f}", f"{best['epoch']:.0f}"]
        if is_validated:
            row.append(f"{each.kept()[score]:.4f}" if all("validation_loss" in record for record in records) else "-")
        row += [f"{records[-1][score]:.4f}", f"{records[-1]['loss']:.4f}", f"{seconds:,.1f}"]
        row.append(f"{samples / seconds:,.0f}" if seconds else "-")
        rows.append(row)
    return rows


def compare_bits(first: Run, other: Run) -> str:
    """Compare two runs' losses and parameters to the last bit, for the epochs and data sets that both have."""
    theirs = {record["epoch"]: record for record in other.records}
    both = [(record, theirs[record["epoch"]]) for record in first.records if record["epoch"] in theirs]
    if not both:
        return "no epoch in common"
    for ours, yours in both:
        # As text: NaN equals NaN, and -0 differs from 0.
        if any(repr(ours[name]) != repr(yours[name]) for name in COMPARED if name in ours and name in yours):
            return f"differ from epoch {ours['epoch']:.0f}"
    same = f"same bits as {first.label}"
    is_whole = len(both) == len(first.records) == len(other.records)
    return same if is_whole else f"{same} in {format_count(len(both), 'epoch')}"


def draw_charts(runs: Sequence[Run]) -> dict[str, str]:
    """Draw loss, score and learning rate, each by epoch and by time; returns the charts by their titles."""
    score = choose_score(runs)
    titles = {
        "loss": "Training loss",
        score: SCORES[score][0].upper() + SCORES[score][1:],
        "learning_rate": "Learning rate",
    }
    drawn = {}
    for by_time in (False, True):
        for name, title in titles.items():
            curves = []
            for place, each in enumerate(runs):
                across = each.seconds() if by_time else [record["epoch"] for record in each.records]
                points = list(zip(across, (record.get(name, math.nan) for record in each.records), strict=True))
                # Earlier runs are wider, so that they stay visible below a later one with the same values.
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


def render_page(runs: Sequence[Run]) -> str:
    """Render the page as HTML."""
    head, *rows = build_table(runs)
    keys = "".join(render_key(each.label, k % COLOURS, "dashed" * (k >= COLOURS)) for k, each in enumerate(runs))
    drawn = [render_figure(f"<b>{escape(name)}</b>", chart) for name, chart in draw_charts(runs).items()]
    return render_document(
        "distnet: comparison of runs",
        [
            "<h1>Comparison of runs</h1>",
            f'<p class="keys">{keys}</p>',
            render_table(head, rows, reflows=True),
            render_section("Curves", '<div class="charts">', *drawn, "</div>"),
            '<p class="small">Earlier runs have wider lines, so that they show where runs are equal.</p>'
            * (len(runs) > 1),
        ],
    )


if __name__ == "__main__":
    run(main)
