"""The report of one run, for `--report`: how it learned, its errors, its weights, its time, and what produced it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.reporting.pages.charts import Curve, draw_line_chart, draw_scatter, escape
from distnet.reporting.pages.page import (
    render_bar,
    render_document,
    render_figure,
    render_key,
    render_pairs,
    render_section,
    render_table,
)
from distnet.reporting.pages.png import Bytes, encode_png
from distnet.reporting.profile import describe_slowest_rank, waiting_seconds
from distnet.runtime.arrays import Array
from distnet.runtime.stopwatch import PHASES
from distnet.training.evaluation import METRICS, Scores
from distnet.training.history import METRIC_NAMES, History
from distnet.training.provenance import Session

MISTAKES = 24  # how many `Run.findings` should have
SHOWN_CLASSES = 100  # the most classes of a confusion matrix
NUMBERED_CLASSES = 14  # the most classes of a confusion matrix whose cells show their counts
LABEL_SCORES = {"precision": "precision", "recall": "recall", "F1": "f1", "log loss": "log_loss", "ROC AUC": "roc_auc"}
SHOWN_TARGETS = 12  # the most targets with charts
SHOWN_POINTS = 2000  # the most points of a chart
SHOWN_NEURONS = 64
SHOWN_RANKS = 64
LEVELS = 31  # of a weight's strength, each way; fewer make smaller files
POSITIVE, NEGATIVE = (40, 120, 235), (235, 100, 30)  # visible on white and on black
COLOUR_OF = dict(zip(PHASES, (0, 1, 2, 3, 7, 5, 6, 4, 8), strict=True))  # grey for waiting


class Run(NamedTuple):
    """What the report shows.

    title: data set and network, in a few words. header: the lines that the run printed first, each "name: rest".
    command: as typed. label_smoothing: of the training loss.
    training: scores on the training set of the parameters that were kept. findings: those of `summary.summarise` on
    the test set. images: of findings["mistakes"], in their order; None for tables. weights: of the first layer,
    (neurons, rows, columns); None for tables. true, predicted: (rows, outputs) of the test set, of regression in own
    units. configuration: as TOML. environment: name -> value. sessions: of the run. sha256: of the parameters.
    phases: see `profile.gather_phases`; empty if no step was taken.
    """

    title: str
    header: Sequence[str]
    command: str
    history: History
    label_smoothing: float
    training: Scores
    findings: Mapping[str, Any]
    images: Sequence[Bytes] | None
    weights: Array | None
    true: Array
    predicted: Array
    configuration: str
    environment: Mapping[str, str]
    sessions: Sequence[Session]
    sha256: str
    phases: Sequence[Mapping[str, Any]]


def render_run(run: Run) -> str:
    """Render the report as HTML."""
    header = [(name, rest) for name, _, rest in (line.partition(": ") for line in run.header)]
    command = re.sub("(?<= )--[a-z0-9-]+", r'<span class="option">\g<0></span>', escape(run.command))
    configuration = "\n".join(map(escape, run.configuration.splitlines()))
    parts = [
        f"<header>\n<h1>{escape(run.title)}</h1>",
        render_pairs(header),
        render_tiles(run),
        f"<p>SHA-256 of the parameters, the same on any number of ranks:<br><code>{escape(run.sha256)}</code></p>",
        "</header>",
        render_section("Learning", render_curves(run)),
        *render_findings(run),
    ]
    if run.weights is not None:
        parts.append(render_section("First layer", render_weights(run.weights)))
    if run.phases:
        parts.append(render_section("Time per step", render_step_time(run.phases)))
    parts += [
        render_section("Command", f"<pre>{command}</pre>"),
        '<div class="beside">',
        render_section("Effective configuration", f"<pre>{configuration}</pre>"),
        render_section("Provenance", render_pairs(run.environment.items())),
        "</div>",
        render_section("Sessions", render_sessions(run.sessions)),
    ]
    return render_document(f"distnet: {run.title}", parts)


def render_sessions(sessions: Sequence[Session]) -> str:
    """Render where and when each session trained, as a table."""
    head = ("steps", "start", "end", "ranks", "nodes", "host of rank 0")
    rows = [
        (
            f"{each['from_step']:,} to {each['to_step']:,}",
            each["start"],
            each["end"],
            f"{each['ranks']:,}",
            f"{each['nodes']:,}",
            each["host"],
        )
        for each in sessions
    ]
    return render_table(head, rows, reflows=True)


def render_findings(run: Run) -> list[str]:
    """Render the sections about the test set, which depend on the task."""
    findings = run.findings
    if findings["task"] == "regression":
        return [
            render_section("Predictions by target", render_targets(run)),
            render_section("Largest residuals", render_residuals(findings["residuals"])),
        ]
    if findings["task"] == "multilabel":
        return [
            render_section("Errors by label", render_labels(findings)),
            render_section("Worst mistakes", render_label_mistakes(findings["mistakes"])),
        ]
    return [
        render_section("Errors by class", render_errors(findings)),
        render_section("Most confident errors", render_mistakes(run)),
    ]


def render_tiles(run: Run) -> str:
    """Render the most important numbers."""
    findings, records, kept = run.findings, run.history.records, run.history.best_epoch()
    seconds = sum(record["seconds"] for record in records)
    samples = sum(record["samples_per_second"] * record["seconds"] for record in records)
    metric = METRICS[findings["task"]]
    values = {
        f"test {METRIC_NAMES[metric]}": f"{findings[metric]:.4f}",
        "test loss": f"{findings['loss']:.4f}",
        f"training {METRIC_NAMES[metric]}": f"{run.training.score:.4f}",
        "training loss": f"{run.training.loss:.4f}",
        **count_errors(findings),
        "epochs" if kept == len(records) else f"best epoch of {len(records):,}": f"{kept:,}",
        "training time": format_duration(seconds),
        "samples/s": f"{samples / seconds:,.0f}" if seconds else "-",
    }
    tiles = [
        f'<div class="tile"><b>{escape(v)}</b><span class="small">{escape(k)}</span></div>' for k, v in values.items()
    ]
    return '<div class="tiles">\n' + "\n".join(tiles) + "\n</div>"


def count_errors(findings: Mapping[str, Any]) -> dict[str, str]:
    """The number of rows with an error; of a regression to a single target, the errors in its unit."""
    if findings["task"] == "regression":
        mean = findings["mean"] if len(findings["targets"]) == 1 else {}
        return {f"test {name.upper()}": f"{mean[name]:.6g}" for name in ("rmse", "mae") if name in mean}
    samples = findings["samples"]
    return {f"errors in {samples:,}": f"{samples - round(findings[METRICS[findings['task']]] * samples):,}"}


def format_duration(seconds: float) -> str:
    """'9.71 s', '12 min 3 s' or '2 h 5 min'."""
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def render_curves(run: Run) -> str:
    """Render loss, accuracy and learning rate over the epochs.

    Losses against smoothed labels have a chart of their own, since they can't be compared with the others.
    """
    records: Sequence[Mapping[str, Any]] = run.history.records
    kept = run.history.best_epoch()

    def curve_of(name: str, label: str, colour: int = 0, dashed: bool = False) -> Curve:
        return Curve(label, [(each["epoch"], each[name]) for each in records if name in each], colour, dashed)

    def curves_of(what: str) -> list[Curve]:
        training_set = Curve("training set", [(kept, run.training.loss if what == "loss" else run.training.score)])
        validation = curve_of(f"validation_{what}", "validation", 2, dashed=True)
        return [curve_of(f"test_{what}", "test", 1), validation, training_set]

    training = curve_of("loss", "training")
    charts = {"Loss": [training, *curves_of("loss")]}
    if run.label_smoothing:
        charts = {"Training loss, smoothed labels": [training], "Loss": curves_of("loss")}
    metric = METRICS[run.findings["task"]]
    score = METRIC_NAMES[metric]
    charts |= {score[0].upper() + score[1:]: curves_of(metric)}
    charts |= {"Learning rate": [curve_of("learning_rate", "learning rate")]}
    mark = kept if kept != len(records) else None
    figures = []
    for name, curves in charts.items():
        shown = [curve for curve in curves if curve.points]
        kinds = ["dot" if each.label == "training set" else "dashed" * each.dashed for each in shown]
        keys = [render_key(each.label, each.colour, kind) for each, kind in zip(shown, kinds, strict=True)]
        drawn = draw_line_chart(
            name, "epoch", shown, zero=name == "Learning rate", logarithmic="loss" in name.lower(), mark=mark
        )
        figures.append(render_figure(f"<b>{name}</b>{' '.join(keys * (len(curves) > 1))}", drawn))
    notes = [
        "The training loss is the mean over an epoch's mini-batches, each before its own update, with dropout and"
        " augmentation if they are used. All other values are measured after the epoch. The dot is the training set,"
        " with the parameters that were kept: compare it with the test set."
    ]
    if epsilon := run.label_smoothing:
        lowest = compute_lowest_loss(epsilon, len(run.findings["classes"]))
        notes.append(
            f"With labels smoothed by {epsilon:g} the training loss can't fall below {lowest:.4f}."
            " It can't be compared with the other losses, which use the labels themselves."
        )
    if mark is not None:
        notes.append(f"The dashed line marks epoch {mark}, whose parameters were kept.")
    kind = "charts pairs" if len(figures) == 4 else "charts"
    return f'<div class="{kind}">\n' + "\n".join(figures) + f'\n</div>\n<p class="small">{" ".join(notes)}</p>'


def compute_lowest_loss(epsilon: float, classes: int) -> float:
    """The lowest cross-entropy with labels smoothed by epsilon, which is the entropy of such a label."""
    other = epsilon / classes
    right = 1 - epsilon + other
    return -sum(p * math.log(p) for p in (right, *[other] * (classes - 1)) if p > 0)


def render_errors(findings: Mapping[str, Any]) -> str:
    """Render the confusion matrix, and a table with a row per class."""
    classes, confusion = findings["classes"], findings["confusion"]
    names = [each["class"] for each in classes]
    shown = list(range(len(names)))
    if len(names) > SHOWN_CLASSES:
        shown = sorted(shown, key=lambda place: -classes[place]["wrong"])[:SHOWN_CLASSES]
    rows = []
    for place in shown:
        each = classes[place]
        others = [(count, guess) for guess, count in enumerate(confusion[place]) if count and guess != place]
        often = sorted(others, key=lambda other: -other[0])[:1]
        rows.append(
            (
                each["class"],
                f"{each['samples']:,}",
                f"{each['wrong']:,}",
                "-" if each["error"] is None else f"{each['error']:.4f}",
                "".join(f"{names[guess]} ({count:,})" for count, guess in often) or "-",
            )
        )
    table = render_table(("class", "samples", "errors", "error rate", "confused with"), rows)
    if len(names) > SHOWN_CLASSES:
        note = f"The {SHOWN_CLASSES} of {len(names):,} classes with most errors. The confusion matrix would be too big."
        return f'<p class="small">{note}</p>\n{table}'
    caption = "A row per true class, a column per predicted class: correct predictions in blue, errors in orange."
    return f'<div class="flow">\n{render_figure(caption, render_matrix(names, confusion))}\n{table}\n</div>'


def render_targets(run: Run) -> str:
    """Render errors of each target as a table, and its predictions and residuals as charts."""
    targets = run.findings["targets"]
    rows = [
        [each["target"], *(f"{each[name]:.6g}" for name in ("rmse", "mae")), f"{each['r2']:.4f}"] for each in targets
    ]
    parts = [render_table(("target", "RMSE", "MAE", "R2"), rows)]
    shown = list(range(len(targets)))
    notes = ["Dots on the dashed line are predicted exactly. A residual is the true value minus the predicted one."]
    if len(targets) > SHOWN_TARGETS:
        shown = sorted(sorted(shown, key=lambda place: targets[place]["r2"])[:SHOWN_TARGETS])
        notes.append(f"The charts are of the {SHOWN_TARGETS} targets with the lowest R2.")
    step = -(-len(run.true) // SHOWN_POINTS)
    if step > 1:
        notes.append(f"The charts show one of {step:,} test samples.")
    numbers = range(0, len(run.true), step)
    figures = []
    for place in shown:
        name = targets[place]["target"]
        true, predicted = (np.asarray(each[::step, place], np.float64).tolist() for each in (run.true, run.predicted))
        residuals = [actual - guess for actual, guess in zip(true, predicted, strict=True)]
        for upwards, along, values in (
            ("predicted", "true", zip(true, predicted, strict=True)),
            ("residual", "predicted", zip(predicted, residuals, strict=True)),
        ):
            what, points = f"{upwards} against {along}", list(values)
            drawn = draw_scatter(
                f"{name}, {what}", along, upwards, points, rows=numbers, diagonal=upwards == "predicted"
            )
            figures.append(render_figure(f"<b>{escape(name)}</b>: {what}", drawn))
    parts += [f'<p class="small">{" ".join(notes)}</p>', '<div class="charts pairs">', *figures, "</div>"]
    return "\n".join(parts)


def render_residuals(residuals: Sequence[Mapping[str, Any]]) -> str:
    """Render the largest residuals as a table."""
    rows = [
        [f"{each['index']:,}", each["target"], *(f"{each[name]:.6g}" for name in ("true", "predicted", "residual"))]
        for each in residuals
    ]
    note = "Test samples, numbered from 0."
    return f'<p class="small">{note}</p>\n{render_table(("row", "target", "true", "predicted", "residual"), rows)}'


def render_labels(findings: Mapping[str, Any]) -> str:
    """Render errors of each label as bars, and its scores as a table."""
    labels, samples = findings["labels"], findings["samples"]
    errors = [each["missed"] + each["extra"] for each in labels]
    shown = list(range(len(labels)))
    parts = []
    if len(labels) > SHOWN_CLASSES:
        shown = sorted(shown, key=lambda place: -errors[place])[:SHOWN_CLASSES]
        parts.append(f'<p class="small">The {SHOWN_CLASSES} of {len(labels):,} labels with most errors.</p>')
    keys = render_key("missed: present, but not predicted", 1, "box") + render_key("extra: predicted only", 3, "box")
    parts.append(f'<p class="keys small">{keys}</p>')
    longest = max(errors) or 1
    rows = []
    for place in shown:
        each = labels[place]
        kinds = [
            (colour, each[kind] / longest, f"{kind}: {each[kind]:,} of {samples:,}")
            for kind, colour in (("missed", 1), ("extra", 3))
        ]
        parts.append(render_bar(each["label"], kinds, f"{errors[place]:,}"))
        scores = ["-" if each[name] is None else f"{each[name]:.4f}" for name in LABEL_SCORES.values()]
        rows.append([each["label"], *(f"{each[name]:,}" for name in ("samples", "missed", "extra")), *scores])
    parts.append(render_table(("label", "samples", "missed", "extra", *LABEL_SCORES), rows, reflows=True))
    return "\n".join(parts)


def render_label_mistakes(mistakes: Sequence[Mapping[str, Any]]) -> str:
    """Render the rows with the highest loss among those with an error, as a table."""
    if not mistakes:
        return "<p>None.</p>"
    rows = []
    for each in mistakes:
        names = [", ".join(map(str, each[kind])) or "-" for kind in ("labels", "predicted")]
        rows.append([f"{each['index']:,}", *names, f"{each['loss']:.4f}"])
    note = "Test samples with the highest loss, numbered from 0."
    return f'<p class="small">{note}</p>\n{render_table(("row", "labels", "predicted", "loss"), rows)}'


def render_matrix(names: Sequence[object], counts: Sequence[Sequence[int]]) -> str:
    """Render a confusion matrix, in cells that fit its classes and their counts.

    counts: a row per true class, a column per predicted class. The darker a cell, the larger its share of the row.
    """
    digits = max(len(str(count)) for row in counts for count in row)
    is_numbered = len(names) <= NUMBERED_CLASSES
    is_turned = not is_numbered or max(len(str(name)) for name in names) > 3
    labels = [f'title="{escape(name)}"><span>{escape(name)}</span></th>' for name in names]
    lines = ["<th></th>" + "".join(f'<th scope="col" {label}' for label in labels)]
    for true, row in enumerate(counts):
        cells = [f'<th scope="row" {labels[true]}']
        for guess, count in enumerate(row):
            if not count:
                cells.append("<td></td>")
                continue
            # The square root makes a few errors in a thousand visible; the text on top has to stay readable.
            strength = 8 + 42 * math.sqrt(count / sum(row))
            title = f"{escape(names[true])} predicted as {escape(names[guess])}: {count:,} of {sum(row):,}"
            kind = f'class="c{int(true != guess)}" style="--p:{strength:.0f}%" title="{title}"'
            cells.append(f"<td {kind}>{count if is_numbered else ''}</td>")
        lines.append("".join(cells))
    kinds = "matrix" + " turned" * is_turned + " dense" * (not is_numbered)
    table = "\n".join(f"<tr>{line}</tr>" for line in lines)
    style = f"--n:{len(names)};--digits:{digits}"
    return f'<div class="scroll"><table class="{kinds}" style="{style}">\n{table}\n</table></div>'


def render_mistakes(run: Run) -> str:
    """Render the errors with the highest loss, as pictures, or as a table if the samples are not images."""
    mistakes = run.findings["mistakes"]
    if not mistakes:
        return "<p>None.</p>"
    note = "Test samples with the lowest probability of their own class, numbered from 0"
    if run.images is None:
        columns = ("index", "class", "predicted", "probability", "loss")
        forms = (",", "", "", ".4f", ".4f")
        rows = [[format(each[name], form) for name, form in zip(columns, forms, strict=True)] for each in mistakes]
        head = ("row", "class", "predicted", "probability of that", "loss")
        return f'<p class="small">{note}.</p>\n{render_table(head, rows)}'
    figures = []
    for each, image in zip(mistakes, run.images, strict=True):
        true, guess = escape(each["class"]), escape(each["predicted"])
        source, alt = encode_png(image), f"test image {each['index']}: {true} predicted as {guess}"
        figures.append(
            f'<figure><img src="{source}" alt="{alt}" width="{image.shape[1]}" height="{image.shape[0]}">'
            f"<figcaption><b>{true} → {guess}</b><br>{each['probability']:.4f}<br>no. {each['index']:,}</figcaption>"
            "</figure>"
        )
    note += ". Below each: its class, the predicted class, and the probability of that."
    return f'<p class="small">{note}</p>\n<div class="thumbs">\n' + "\n".join(figures) + "\n</div>"


def render_weights(weights: Array) -> str:
    """Render the weights of the first layer as pictures, for the neurons with the largest weights."""
    finite = np.nan_to_num(weights.astype(np.float64), posinf=0, neginf=0)
    strengths = np.abs(finite).max(axis=(1, 2))
    with np.errstate(over="ignore"):
        norms = np.square(finite).sum(axis=(1, 2))
    shown = np.sort(np.argsort(-norms, kind="stable")[:SHOWN_NEURONS])
    which = f"All {len(finite):,} neurons"
    if len(shown) < len(finite):
        which = f"The {len(shown)} of {len(finite):,} neurons with the largest weights"
    palette = build_weight_palette()
    pictures = []
    for place in shown:
        levels = np.rint(finite[place] / (strengths[place] or 1) * LEVELS).astype(np.int64) + LEVELS
        source = encode_png(levels.astype(np.uint8), palette)
        pictures.append(f'<img src="{source}" alt="weights of neuron {place}" title="neuron {place}">')
    note = (
        f"{which}, each scaled by its own largest weight: positive weights in {render_key('blue', 0, 'box')}, "
        f"negative ones in {render_key('orange', 1, 'box')}."
    )
    return f'<p class="small">{note}</p>\n<div class="thumbs weights">\n' + "\n".join(pictures) + "\n</div>"


def build_weight_palette() -> Bytes:
    """Colours from the most negative weight to the most positive; 0 is transparent."""
    palette = np.zeros((2 * LEVELS + 1, 4), np.uint8)
    palette[:LEVELS, :3], palette[LEVELS + 1 :, :3] = NEGATIVE, POSITIVE
    palette[:, 3] = np.rint(np.abs(np.arange(-LEVELS, LEVELS + 1)) * (255 / LEVELS))
    return palette


def restore_pixels(inputs: Array, mean: float, deviation: float, shape: tuple[int, int]) -> Bytes:
    """The image, (rows, columns), whose standardised pixels are `inputs`, (rows * columns,)."""
    values: NDArray[np.float64] = inputs.astype(np.float64) * deviation + mean
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8).reshape(shape)


def render_step_time(phases: Sequence[Mapping[str, Any]]) -> str:
    """Render each rank's phases as a bar and in a table, and why ranks waited. phases: see Run."""
    names = [name for name in phases[0]["seconds"] if any(each["seconds"][name] for each in phases)]
    steps = [{name: each["seconds"][name] / each["steps"] * 1e3 for name in names} for each in phases]
    totals = [sum(each.values()) for each in steps]
    shown = list(range(len(phases)))
    notes = [describe_slowest_rank(phases)] if len(phases) > 1 else []
    if len(phases) > SHOWN_RANKS:
        waits, waited = waiting_seconds(phases)
        least = sorted(shown, key=lambda place: waits[place])
        shown = sorted(least[:SHOWN_RANKS])
        notes.append(f"the {SHOWN_RANKS} of {len(phases):,} ranks that {waited} least are shown")
    bars, rows = [], []
    longest = max(totals) or 1.0
    for place in shown:
        label = f"rank {phases[place]['rank']}, {phases[place]['host']}"
        spent = steps[place]
        spans = [(COLOUR_OF[name], spent[name] / longest, f"{name}: {spent[name]:.4g} ms") for name in names]
        bars.append(render_bar(label, spans, f"{totals[place]:.3f} ms"))
        rows.append((label, *(f"{steps[place][name]:.3f}" for name in names), f"{totals[place]:.3f}"))
    keys = "".join(render_key(name, COLOUR_OF[name], "box") for name in names)
    unit = "Milliseconds per step. The time of evaluations and checkpoints is spread over all steps."
    return "\n".join(
        [
            *(f"<p>{escape(each[0].upper() + each[1:])}.</p>" for each in notes),
            f'<p class="keys small">{keys}</p>',
            *bars,
            f'<p class="small">{unit}</p>',
            render_table(("rank", *names, "sum"), rows, reflows=True),
        ]
    )
