"""Charts as SVG, curves and a matrix of counts, in the colours of the page that they stand in."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Point = tuple[float, float]

# Of categories, on white and on almost black; each stands out from the background by 4.5 to 1 at least.
LIGHT = ("#0a5fc2", "#b83a0b", "#137a39", "#7a3fd0", "#b01f72", "#0d6f68", "#8a5d04", "#4a5869", "#b4173b")
DARK = ("#6cb0ff", "#ff9a5c", "#56d37c", "#b99dff", "#f58ac4", "#4fd1c5", "#e5c04b", "#a3b1c2", "#ff8095")
COLOURS = len(LIGHT)
PAPER = {"ink": "#1a1f26", "soft": "#566170", "line": "#d5dae1", "page": "#ffffff", "card": "#f5f7f9"}
NIGHT = {"ink": "#e8ecf1", "soft": "#a3adba", "line": "#363d47", "page": "#12161b", "card": "#1b2027"}


def _variables(named: dict[str, str], colours: Sequence[str]) -> str:
    return "".join(f"--{k}:{v};" for k, v in (named | {f"c{k}": v for k, v in enumerate(colours)}).items())


# On paper it is always day.
STYLE = f"""
:root {{ color-scheme: light dark; {_variables(PAPER, LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(NIGHT, DARK)} }} }}
{" ".join(f".c{k} {{ --c: var(--c{k}); }}" for k in range(COLOURS))}
svg {{ font: 11px system-ui, sans-serif; fill: var(--ink); }}
.soft {{ fill: var(--soft); }}
.grid {{ stroke: var(--line); }}
.curve {{ fill: none; stroke: var(--c); stroke-linejoin: round; stroke-linecap: round; }}
.dashed {{ stroke-dasharray: 1 4.5; }}
.dot {{ fill: var(--c); }}
.hit {{ fill: var(--c); fill-opacity: 0; }}
.hit:hover {{ fill-opacity: 1; }}
.mark {{ stroke: var(--soft); stroke-dasharray: 3 3; }}
.ground {{ fill: var(--card); }}
.right {{ fill: var(--c0); }}
.wrong {{ fill: var(--c1); }}
"""

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 34  # margins, which ticks and their numbers need
HUGE, TINY = 1e150, 1e-150  # what is beyond can't be drawn to a scale
DECADES = 20  # largest through smallest value from which a scale is better logarithmic
LETTER = 6.3  # width of one, about
LONGEST_NAME = 10
POINTED_AT = 150  # points of a curve that tell their value where the mouse is
CELLS_WITH_NUMBERS = 14  # a row


class Curve(NamedTuple):
    """One line of a chart. points: from left to right; where one isn't finite there is a gap."""

    label: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    width: float = 2


def escaped(text: object) -> str:
    """As text of a page, or between quotation marks in it; what can't be printed is a question mark."""
    return html.escape("".join(c if c.isprintable() else "?" for c in str(text)))


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, which is more; about as many as `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(each * power for each in (1, 2, 5, 10) if each * power * (1 + 1e-9) >= (high - low) / most)
    step = max(step, 1.0) if whole else step
    found = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    room = (high - low) * 1e-6  # for what rounding did to the ends
    return [each for each in found if low - room <= each <= high + room]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """The same for a logarithmic scale; both are above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [each * 10.0**power for power in powers for each in digits]
        found = [each for each in found if low <= each <= high]
        if len(found) <= most + 1:
            break
    return found[:: math.ceil(len(found) / (most + 1))] if found else []


def number(value: float, step: float) -> str:
    """A tick's number, with as many decimals as the steps between ticks need."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:g}" if decimals > 5 or abs(value) >= 1e6 else f"{value:,.{decimals}f}"


class Scale:
    """Values to places in the picture, from `start` for the lowest to `stop`. values: all finite."""

    def __init__(
        self, values: Sequence[float], start: float, stop: float, *, zero: bool = False, logarithmic: bool = False
    ) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        low = min(low, 0.0) if zero else low
        self.logarithmic = logarithmic and low > TINY and high / low > DECADES
        if high - low <= max(1e-9 * max(abs(low), abs(high)), TINY):
            room = abs(high) / 10 if abs(high) > TINY else 1.0
            low, high = low - room, high + room
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def padded(self, part: float) -> "Scale":
        """With room for lines that touch the top or bottom."""
        if self.logarithmic:
            room = (self.high / self.low) ** part
            self.low, self.high = self.low / room, self.high * room
        else:
            room = (self.high - self.low) * part
            self.low, self.high = self.low - room * (self.low != 0), self.high + room
        return self

    def ticks(self, whole: bool = False) -> list[tuple[float, str]]:
        """Places and numbers of the ticks."""
        if self.logarithmic:
            return [(self(each), f"{each:g}") for each in log_ticks(self.low, self.high)]
        found = ticks(self.low, self.high, whole=whole)
        step = found[1] - found[0] if len(found) > 1 else 1.0 if whole else self.high - self.low
        return [(self(each), number(each, step)) for each in found]

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def line_chart(
    what: str,
    along: str,
    curves: Sequence[Curve],
    *,
    zero: bool = False,
    logarithmic: bool = False,
    whole: bool = True,
    mark: float | None = None,
) -> str:
    """Curves over one another, with axes.

    what: the chart's name, for who can't see it. along: the horizontal axis. zero: the vertical one has to begin there.
    logarithmic: where values span decades. whole: the horizontal axis counts; else it begins at 0. mark: where to draw
    a vertical line.
    """
    shown = [[point if all(map(_drawable, point)) else None for point in curve.points] for curve in curves]
    flat = [point for points in shown for point in points if point is not None]
    across = Scale([x for x, _ in flat], LEFT, WIDTH - RIGHT, zero=not whole)
    up = Scale([y for _, y in flat], HEIGHT - BOTTOM, TOP, zero=zero, logarithmic=logarithmic).padded(0.05)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(_spoken(what, curves))}">']
    bottom = HEIGHT - BOTTOM
    for y, text in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x, text in across.ticks(whole):
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escaped(along)}</text>')
    if mark is not None:
        parts.append(f'<path class="mark" d="M{across(mark):.1f} {TOP}V{bottom}"/>')
    if not flat:
        parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{bottom / 2}" text-anchor="middle">no finite number</text>')
    for curve, points in zip(curves, shown, strict=True):
        colour = f"c{curve.colour % COLOURS}"
        for run in _runs(points):
            places = [(across(x), up(y)) for x, y in run]
            if len(run) == 1:
                parts.append(f'<circle class="dot {colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>')
            else:
                line = "L".join(f"{x:.1f} {y:.1f}" for x, y in thinned(places))
                how = f'class="curve{" dashed" * curve.dashed} {colour}" stroke-width="{curve.width:.1f}"'
                parts.append(f'<path {how} d="M{line}"/>')
            if len(points) <= POINTED_AT:
                parts += [
                    f'<circle class="hit {colour}" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>'
                    f"{escaped(curve.label)}, {escaped(along)} {x:g}: {y:.6g}</title></circle>"
                    for (x, y), (px, py) in zip(run, places, strict=True)
                ]
    return "".join([*parts, "</svg>"])


def _drawable(value: float) -> bool:
    return abs(value) < HUGE  # which a NaN isn't either


def _spoken(what: str, curves: Sequence[Curve]) -> str:
    """The ends of the curves, in words."""
    told = [f"{c.label} from {c.points[0][1]:.4g} to {c.points[-1][1]:.4g}" for c in curves if c.points]
    return f"{what}: {'; '.join(told)}"


def _runs(points: Iterable[Point | None]) -> list[list[Point]]:
    """The points between gaps."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def thinned(places: Sequence[Point]) -> list[Point]:
    """The lowest and the highest place of each column of the picture, from left to right."""
    columns: dict[int, list[Point]] = {}
    for place in places:
        columns.setdefault(round(place[0]), []).append(place)
    kept = []
    for column in columns.values():
        ends = {min(column, key=lambda place: place[1]), max(column, key=lambda place: place[1])}
        kept += [place for place in dict.fromkeys(column) if place in ends]
    return kept


def shortened(name: object) -> str:
    """A name as a chart has room for."""
    text = str(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def matrix(names: Sequence[object], counts: Sequence[Sequence[int]]) -> str:
    """How often each class, a row, was taken for each, a column; the darker, the larger the part of the row."""
    classes = len(names)
    short = [shortened(name) for name in names]
    longest = max(map(len, short))
    left = 28 + longest * LETTER
    turned = longest > 3
    top = 22 + (longest * LETTER if turned else 12)
    width = 420 if classes <= CELLS_WITH_NUMBERS else 640
    cell = (width - left - 4) / classes
    font = min(11.0, cell / (max(len(str(count)) for row in counts for count in row) + 0.5) / 0.6)
    label = min(11.0, cell * 1.1)
    height = top + classes * cell + 4
    what = "confusion matrix: rows are true classes, columns what they were taken for"
    parts = [f'<svg viewBox="0 0 {width:g} {height:.0f}" role="img" aria-label="{what}">']
    parts.append(f'<text class="soft" x="{left:.1f}" y="12">taken for</text>')
    middle = top + classes * cell / 2
    parts.append(
        f'<text class="soft" x="12" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 12 {middle:.1f})">'
        "true class</text>"
    )
    for place, name in enumerate(short):
        at = (place + 0.5) * cell
        y, x = top + at + label / 3, left + at
        named = f'font-size="{label:.1f}">{escaped(name)}</text>'
        parts.append(f'<text x="{left - 5:.1f}" y="{y:.1f}" text-anchor="end" {named}')
        if turned:
            x += label / 3
            how = f'transform="rotate(-90 {x:.1f} {top - 5:.1f})"'
        else:
            how = 'text-anchor="middle"'
        parts.append(f'<text x="{x:.1f}" y="{top - 5:.1f}" {how} {named}')
    size = f'width="{cell * classes:.1f}" height="{cell * classes:.1f}"'
    parts.append(f'<rect class="ground" x="{left:.1f}" y="{top:.1f}" {size}/>')
    for true, row in enumerate(counts):
        for guess, count in enumerate(row):
            if not count:
                continue
            x, y = left + guess * cell, top + true * cell
            # Few errors in a thousand have to be seen, and the number on top has to be read.
            strength = 0.08 + 0.42 * math.sqrt(count / sum(row))
            told = f"{escaped(names[true])} taken for {escaped(names[guess])}: {count:,} of {sum(row):,}"
            parts.append(
                f'<g><title>{told}</title><rect class="{"right" if true == guess else "wrong"}" x="{x:.1f}" '
                f'y="{y:.1f}" width="{cell - 0.5:.1f}" height="{cell - 0.5:.1f}" fill-opacity="{strength:.2f}"/>'
            )
            if classes <= CELLS_WITH_NUMBERS:
                parts.append(
                    f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + font / 3:.1f}" text-anchor="middle" '
                    f'font-size="{font:.1f}">{count}</text>'
                )
            parts.append("</g>")
    return "".join([*parts, "</svg>"])
