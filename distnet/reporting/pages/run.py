"""The page of one run, for `--report`: how it learned, where it errs, what it looks at, and what made it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.reporting.pages.charts import Curve, escaped, line_chart, matrix
from distnet.reporting.pages.page import document, figure, key, named_values, section, table
from distnet.reporting.pages.png import Bytes, address, png
from distnet.reporting.profile import blamed, waiting
from distnet.runtime.arrays import Array
from distnet.runtime.stopwatch import PHASES

MISTAKES = 24  # which `Run.found` should have
SHOWN_CLASSES = 100  # of which the matrix still can be looked at, and the table be read
SHOWN_NEURONS = 64
SHOWN_RANKS = 64
LEVELS = 31  # of a weight's strength, each way; fewer make smaller files
POSITIVE, NEGATIVE = (40, 120, 235), (235, 100, 30)  # on white and on black
COLOUR_OF = dict(zip(PHASES, (0, 1, 2, 3, 7, 5, 6, 4, 8), strict=True))  # grey where nothing is done
SCORES = (("test", "test", 1), ("validation", "validation", 2))  # key in a record, label, colour


class Run(NamedTuple):
    """What there is to tell of a run.

    title: data set and network, in a few words. header: the lines that it printed first, each "name: rest".
    history: the metrics of each epoch. kept: the epoch whose parameters these are. found: see
    `evaluation.findings`, for the test set. images: of found["mistakes"], in their order; None for tables.
    weights: of the first layer, (neurons, rows, columns); None for tables. configuration: as TOML.
    environment: name -> value. sha256: of the parameters. phases: by `profile.gathered`; empty where no step was taken.
    """

    title: str
    header: Sequence[str]
    history: Sequence[Mapping[str, Any]]
    kept: int
    found: Mapping[str, Any]
    images: Sequence[Bytes] | None
    weights: Array | None
    configuration: str
    environment: Mapping[str, str]
    sha256: str
    phases: Sequence[Mapping[str, Any]]


def run_page(run: Run) -> str:
    """The page, as HTML. Collective: no."""
    parts = [
        f"<header>\n<h1>{escaped(run.title)}</h1>",
        named_values(dict(line.split(": ", 1) for line in run.header)),
        tiles(run),
        f"<p>SHA-256 of the parameters, on any number of ranks:<br><code>{escaped(run.sha256)}</code></p>\n</header>",
        section("Learning", curves(run)),
        section("Where it errs", errors(run.found)),
        section("Worst mistakes", mistakes(run)),
    ]
    if run.weights is not None:
        parts.append(section("First layer", weights(run)))
    if run.phases:
        parts.append(section("Time a step", time_a_step(run.phases)))
    parts += [
        '<div class="beside">',
        section("Configuration", f"<pre>{lines(run.configuration)}</pre>"),
        section("Environment", named_values(run.environment)),
        "</div>",
    ]
    return document(f"distnet: {run.title}", parts)


def lines(text: str) -> str:
    """Several lines, escaped."""
    return "\n".join(map(escaped, text.splitlines()))


def tiles(run: Run) -> str:
    """The figures that one looks for first."""
    found, seconds = run.found, [record["seconds"] for record in run.history]
    samples = sum(record["samples_per_second"] * record["seconds"] for record in run.history)
    wrong = sum(each["wrong"] for each in found["classes"])
    epochs = len(run.history)
    last = run.kept == epochs
    told = {
        "test accuracy": f"{found['accuracy']:.4f}",
        "test loss": f"{found['loss']:.4f}",
        f"wrong of {found['samples']:,}": f"{wrong:,}",
        "epochs" if last else f"epoch of {epochs:,}, kept": f"{run.kept:,}",
        "training": duration(sum(seconds)),
        "samples/s": f"{samples / sum(seconds):,.0f}" if sum(seconds) else "-",
    }
    shown = [
        f'<div class="tile"><b>{escaped(v)}</b><span class="small">{escaped(k)}</span></div>' for k, v in told.items()
    ]
    return '<div class="tiles">\n' + "\n".join(shown) + "\n</div>"


def duration(seconds: float) -> str:
    """'9.71 s', '12 min 3 s' or '2 h 5 min'."""
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def curves(run: Run) -> str:
    """Loss, accuracy and learning rate over the epochs."""

    def of(name: str) -> list[tuple[float, float]]:
        return [(record["epoch"], record[name]) for record in run.history if name in record]

    def scores(what: str) -> list[Curve]:
        return [Curve(label, of(f"{name}_{what}"), colour, name != "test") for name, label, colour in SCORES]

    charts = {
        "Loss": [Curve("training", of("loss")), *scores("loss")],
        "Accuracy": scores("accuracy"),
        "Learning rate": [Curve("learning rate", of("learning_rate"))],
    }
    mark = run.kept if run.kept != len(run.history) else None
    figures = []
    for name, several in charts.items():
        shown = [curve for curve in several if curve.points]
        keys = [key(each.label, each.colour, "dashed" * each.dashed) for each in shown if len(several) > 1]
        drawn = line_chart(name, "epoch", shown, zero=name == "Learning rate", logarithmic=name == "Loss", mark=mark)
        figures.append(figure(f"<b>{name}</b>{' '.join(keys)}", drawn))
    told = [
        "The training loss of an epoch is that of its samples, each before the step that learned from it"
        " (with dropout, augmentation and smoothed labels, where there are such); test and validation come after the"
        " epoch."
    ]
    if mark is not None:
        told.append(f"The dashed line is epoch {mark}, whose parameters were kept.")
    return '<div class="charts">\n' + "\n".join(figures) + f'\n</div>\n<p class="small">{" ".join(told)}</p>'


def errors(found: Mapping[str, Any]) -> str:
    """The confusion matrix, and a line a class."""
    names, confusion = [each["class"] for each in found["classes"]], found["confusion"]
    shown = list(range(len(names)))
    told = "How many samples of each class were taken for which: right in blue, wrong in orange."
    if len(names) > SHOWN_CLASSES:
        shown = sorted(shown, key=lambda place: -found["classes"][place]["wrong"])[:SHOWN_CLASSES]
        told = f"The {SHOWN_CLASSES} of {len(names):,} classes with most mistakes; a matrix of all would be too fine."
    rows = []
    for place in shown:
        each = found["classes"][place]
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
    listed = table(("class", "samples", "wrong", "error", "taken for"), rows)
    if len(names) > SHOWN_CLASSES:
        return f'<p class="small">{told}</p>\n{listed}'
    return f'<div class="beside">\n{figure(told, matrix(names, confusion))}\n{listed}\n</div>'


def mistakes(run: Run) -> str:
    """What the network is most confidently wrong about: as pictures, or as a list where samples are none."""
    worst = run.found["mistakes"]
    if not worst:
        return "<p>None.</p>"
    told = "The test samples whose own class had the least probability; below each, that of the class it was taken for."
    if run.images is None:
        rows = [
            (
                f"{each['index']:,}",
                each["class"],
                each["predicted"],
                f"{each['probability']:.4f}",
                f"{each['loss']:.4f}",
            )
            for each in worst
        ]
        told = "The test rows whose own class had the least probability, counted from 0."
        return f'<p class="small">{told}</p>\n' + table(("row", "class", "taken for", "probability", "loss"), rows)
    figures = []
    for each, image in zip(worst, run.images, strict=True):
        true, guess = escaped(each["class"]), escaped(each["predicted"])
        figures.append(
            f'<figure><img src="{address(png(image))}" alt="test image {each["index"]}: {true} taken for {guess}" '
            f'width="{image.shape[1]}" height="{image.shape[0]}"><figcaption><b>{true} → {guess}</b><br>'
            f"{each['probability']:.4f}<br>no. {each['index']:,}</figcaption></figure>"
        )
    return (
        f'<p class="small">{told} Numbers count from 0.</p>\n<div class="thumbs">\n' + "\n".join(figures) + "\n</div>"
    )


def weights(run: Run) -> str:
    """The first layer's weights as pictures, of the neurons with the largest."""
    assert run.weights is not None
    finite = np.nan_to_num(run.weights.astype(np.float64), posinf=0, neginf=0)
    strengths = np.abs(finite).max(axis=(1, 2))
    with np.errstate(over="ignore"):
        norms = np.square(finite).sum(axis=(1, 2))
    chosen = np.sort(np.argsort(-norms, kind="stable")[:SHOWN_NEURONS])
    which = f"All {len(finite):,} neurons"
    if len(chosen) < len(finite):
        which = f"The {len(chosen)} of {len(finite):,} neurons with the largest weights"
    palette = weight_palette()
    pictures = []
    for place in chosen:
        levels = np.rint(finite[place] / (strengths[place] or 1) * LEVELS).astype(np.int64) + LEVELS
        source = address(png(levels.astype(np.uint8), palette))
        pictures.append(f'<img src="{source}" alt="weights of neuron {place}" title="neuron {place}">')
    told = (
        f"{which}, each scaled by its own largest weight: what speaks for it in "
        f"{key('blue', 0, 'box')} and what speaks against it in {key('orange', 1, 'box')}."
    )
    return f'<p class="small">{told}</p>\n<div class="thumbs weights">\n' + "\n".join(pictures) + "\n</div>"


def weight_palette() -> Bytes:
    """Colours of weights from the most negative through none at all, which is transparent, to the largest."""
    palette = np.zeros((2 * LEVELS + 1, 4), np.uint8)
    palette[:LEVELS, :3], palette[LEVELS + 1 :, :3] = NEGATIVE, POSITIVE
    palette[:, 3] = np.rint(np.abs(np.arange(-LEVELS, LEVELS + 1)) * (255 / LEVELS))
    return palette


def pixels(inputs: Array, mean: float, deviation: float, shape: tuple[int, int]) -> Bytes:
    """The image that these inputs, (rows * columns,), were standardised from."""
    values: NDArray[np.float64] = inputs.astype(np.float64) * deviation + mean
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8).reshape(shape)


def time_a_step(phases: Sequence[Mapping[str, Any]]) -> str:
    """A bar a rank with its phases, the slowest rank by its name, and the numbers. phases: see Run."""
    names = [name for name in phases[0]["seconds"] if any(each["seconds"][name] for each in phases)]
    steps = [{name: each["seconds"][name] / each["steps"] * 1e3 for name in names} for each in phases]
    totals = [sum(each.values()) for each in steps]
    shown = list(range(len(phases)))
    told = [blamed(phases)] if len(phases) > 1 else []
    if len(phases) > SHOWN_RANKS:
        waits, waited = waiting(phases)
        least = sorted(shown, key=lambda place: waits[place])
        shown = sorted(least[:SHOWN_RANKS])
        told.append(f"shown are the {SHOWN_RANKS} of {len(phases):,} ranks that {waited} least")
    bars, rows = [], []
    longest = max(totals) or 1.0
    for place in shown:
        called = f"rank {phases[place]['rank']}, {phases[place]['host']}"
        spans = [
            f'<span class="c{COLOUR_OF[name]}" style="width:{steps[place][name] / longest * 100:.2f}%" '
            f'title="{name}: {steps[place][name]:.4g} ms"></span>'
            for name in names
        ]
        bars.append(
            f'<div class="bar"><span>{escaped(called)}</span><div class="track">{"".join(spans)}</div>'
            f"<span>{totals[place]:.3f} ms</span></div>"
        )
        rows.append((called, *(f"{steps[place][name]:.3f}" for name in names), f"{totals[place]:.3f}"))
    keys = "".join(key(name, COLOUR_OF[name], "box") for name in names)
    what = "Milliseconds a step, which evaluations and checkpoints between steps are spread over."
    return "\n".join(
        [
            *(f"<p>{escaped(each[0].upper() + each[1:])}.</p>" for each in told),
            f'<p class="keys small">{keys}</p>',
            *bars,
            f'<p class="small">{what}</p>',
            table(("rank", *names, "sum"), rows),
        ]
    )
