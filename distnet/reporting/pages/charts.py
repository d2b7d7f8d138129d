"""Charts as SVG, in the colours of the page that contains them: curves, and a confusion matrix."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Point = tuple[float, float]

# Colours of categories on a light and on a dark page; their contrast with the background is at least 4.5 to 1.
LIGHT = ("#0a5fc2", "#b83a0b", "#137a39", "#7a3fd0", "#b01f72", "#0d6f68", "#8a5d04", "#4a5869", "#b4173b")
DARK = ("#6cb0ff", "#ff9a5c", "#56d37c", "#b99dff", "#f58ac4", "#4fd1c5", "#e5c04b", "#a3b1c2", "#ff8095")
COLOURS = len(LIGHT)
LIGHT_BASE = {"ink": "#1a1f26", "soft": "#566170", "line": "#d5dae1", "page": "#ffffff", "card": "#f5f7f9"}
DARK_BASE = {"ink": "#e8ecf1", "soft": "#a3adba", "line": "#363d47", "page": "#12161b", "card": "#1b2027"}


def _css_variables(named: dict[str, str], colours: Sequence[str]) -> str:
    return "".join(f"--{k}:{v};" for k, v in (named | {f"c{k}": v for k, v in enumerate(colours)}).items())


# Print is always light.
STYLE = f"""
:root {{ color-scheme: light dark; {_css_variables(LIGHT_BASE, LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_css_variables(DARK_BASE, DARK)} }} }}
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
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 34  # margins, for the ticks and their numbers
HUGE, TINY = 1e150, 1e-150  # values beyond these are not drawn
DECADES = 20  # ratio of the largest to the smallest value above which a scale may be logarithmic
LETTER = 6.3  # average width of a letter
LONGEST_NAME = 10
POINTED_AT = 150  # curves with up to so many points show the value of the point under the mouse
NUMBERED_CLASSES = 14  # the most classes of a confusion matrix with its counts printed in the cells
CELL, SMALL_CELL = 34, 13  # sides of a cell with and without a count


class Curve(NamedTuple):
    """One line of a chart. points: from left to right; a point that is not finite leaves a gap."""

    label: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    width: float = 2


def escape(text: object) -> str:
    """Escape text for HTML, also inside quotation marks; a question mark replaces what is not printable."""
    return html.escape("".join(c if c.isprintable() else "?" for c in str(text)))


def find_ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers between `low` and `high`, low < high; about `most` of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(each * power for each in (1, 2, 5, 10) if each * power * (1 + 1e-9) >= (high - low) / most)
    step = max(step, 1.0) if whole else step
    found = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    room = (high - low) * 1e-6  # for rounding errors at the ends
    return [each for each in found if low - room <= each <= high + room]


def find_log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers for a logarithmic scale, 0 < low < high; about `most` of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [each * 10.0**power for power in powers for each in digits]
        found = [each for each in found if low <= each <= high]
        if len(found) <= most + 1:
            break
    return found[:: math.ceil(len(found) / (most + 1))] if found else []


def format_number(value: float, step: float) -> str:
    """Format a tick's number with the decimals that the step between ticks needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:g}" if decimals > 5 or abs(value) >= 1e6 else f"{value:,.{decimals}f}"


class Scale:
    """A map from values, all finite, to positions: `start` for the lowest value, `stop` for the highest."""

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

    def pad(self, part: float) -> "Scale":
        """Make room for lines that touch the top or bottom."""
        if self.logarithmic:
            room = (self.high / self.low) ** part
            self.low, self.high = self.low / room, self.high * room
        else:
            room = (self.high - self.low) * part
            self.low, self.high = self.low - room * (self.low != 0), self.high + room
        return self

    def ticks(self, whole: bool = False) -> list[tuple[float, str]]:
        """Positions and numbers of the ticks."""
        if self.logarithmic:
            return [(self(each), f"{each:g}") for each in find_log_ticks(self.low, self.high)]
        found = find_ticks(self.low, self.high, whole=whole)
        step = found[1] - found[0] if len(found) > 1 else 1.0 if whole else self.high - self.low
        return [(self(each), format_number(each, step)) for each in found]

    def __call__(self, value: float) -> float:
        """The position of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def draw_line_chart(
    what: str,
    along: str,
    curves: Sequence[Curve],
    *,
    zero: bool = False,
    logarithmic: bool = False,
    whole: bool = True,
    mark: float | None = None,
) -> str:
    """Draw curves in one chart with axes.

    what: the chart's name, for screen readers. along: name of the horizontal axis. zero: whether the vertical axis
    includes 0. logarithmic: whether it may be logarithmic. whole: whether the horizontal axis counts; otherwise it
    begins at 0. mark: position of a vertical line.
    """
    shown = [[point if all(map(_is_drawable, point)) else None for point in curve.points] for curve in curves]
    flat = [point for points in shown for point in points if point is not None]
    across = Scale([x for x, _ in flat], LEFT, WIDTH - RIGHT, zero=not whole)
    up = Scale([y for _, y in flat], HEIGHT - BOTTOM, TOP, zero=zero, logarithmic=logarithmic).pad(0.05)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_describe(what, curves))}">']
    bottom = HEIGHT - BOTTOM
    for y, text in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x, text in across.ticks(whole):
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(along)}</text>')
    if mark is not None:
        parts.append(f'<path class="mark" d="M{across(mark):.1f} {TOP}V{bottom}"/>')
    if not flat:
        parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{bottom / 2}" text-anchor="middle">no finite values</text>')
    for curve, points in zip(curves, shown, strict=True):
        colour = f"c{curve.colour % COLOURS}"
        for run in _split_at_gaps(points):
            places = [(across(x), up(y)) for x, y in run]
            if len(run) == 1:
                parts.append(f'<circle class="dot {colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>')
            else:
                line = "L".join(f"{x:.1f} {y:.1f}" for x, y in thin(places))
                how = f'class="curve{" dashed" * curve.dashed} {colour}" stroke-width="{curve.width:.1f}"'
                parts.append(f'<path {how} d="M{line}"/>')
            if len(points) <= POINTED_AT:
                parts += [
                    f'<circle class="hit {colour}" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>'
                    f"{escape(curve.label)}, {escape(along)} {x:g}: {y:.6g}</title></circle>"
                    for (x, y), (px, py) in zip(run, places, strict=True)
                ]
    return "".join([*parts, "</svg>"])


def _is_drawable(value: float) -> bool:
    return abs(value) < HUGE  # False for NaN


def _describe(what: str, curves: Sequence[Curve]) -> str:
    """Describe the chart and the ends of its curves in words."""
    ends = [f"{c.label} from {c.points[0][1]:.4g} to {c.points[-1][1]:.4g}" for c in curves if c.points]
    return f"{what}: {'; '.join(ends)}"


def _split_at_gaps(points: Iterable[Point | None]) -> list[list[Point]]:
    """The runs of points between gaps."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def thin(places: Sequence[Point]) -> list[Point]:
    """Keep the lowest and the highest position in each pixel column, from left to right."""
    columns: dict[int, list[Point]] = {}
    for place in places:
        columns.setdefault(round(place[0]), []).append(place)
    kept = []
    for column in columns.values():
        ends = {min(column, key=lambda place: place[1]), max(column, key=lambda place: place[1])}
        kept += [place for place in dict.fromkeys(column) if place in ends]
    return kept


def shorten(name: object) -> str:
    """Cut a name to the length that a chart has room for."""
    text = str(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def draw_matrix(names: Sequence[object], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix; its size grows with the number of classes.

    counts: a row per true class, a column per predicted class. The darker a cell, the larger its share of the row.
    """
    classes = len(names)
    is_numbered = classes <= NUMBERED_CLASSES
    short = [shorten(name) for name in names]
    longest = max(map(len, short))
    left = 28 + longest * LETTER
    is_turned = longest > 3 or not is_numbered
    top = 22 + (longest * LETTER if is_turned else 12)
    cell = CELL if is_numbered else SMALL_CELL
    font = min(11.0, cell / (max(len(str(count)) for row in counts for count in row) + 0.5) / 0.6)
    label = 11.0 if is_numbered else 10.0
    # The words on the axes need room, too, if there are few classes.
    width, height = max(left + classes * cell + 4, left + 60), max(top + classes * cell + 4, top + 70)
    what = "confusion matrix: a row per true class, a column per predicted class"
    size = f"width:{width:.0f}px;max-width:100%;min-width:{width * 0.82:.0f}px"
    parts = [f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="{size}" role="img" aria-label="{what}">']
    parts.append(f'<text class="soft" x="{left:.1f}" y="12">predicted</text>')
    middle = top + (height - top) / 2
    parts.append(
        f'<text class="soft" x="12" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 12 {middle:.1f})">'
        "true class</text>"
    )
    for place, name in enumerate(short):
        at = (place + 0.5) * cell
        y, x = top + at + label / 3, left + at
        named = f'font-size="{label:.1f}">{escape(name)}</text>'
        parts.append(f'<text x="{left - 5:.1f}" y="{y:.1f}" text-anchor="end" {named}')
        if is_turned:
            x += label / 3
            how = f'transform="rotate(-90 {x:.1f} {top - 5:.1f})"'
        else:
            how = 'text-anchor="middle"'
        parts.append(f'<text x="{x:.1f}" y="{top - 5:.1f}" {how} {named}')
    side = f'width="{cell * classes}" height="{cell * classes}"'
    parts.append(f'<rect class="ground" x="{left:.1f}" y="{top:.1f}" {side}/>')
    for true, row in enumerate(counts):
        for guess, count in enumerate(row):
            if not count:
                continue
            x, y = left + guess * cell, top + true * cell
            # The square root makes a few errors in a thousand visible; the text on top has to stay readable.
            strength = 0.08 + 0.42 * math.sqrt(count / sum(row))
            title = f"{escape(names[true])} predicted as {escape(names[guess])}: {count:,} of {sum(row):,}"
            parts.append(
                f'<g><title>{title}</title><rect class="{"right" if true == guess else "wrong"}" x="{x:.1f}" '
                f'y="{y:.1f}" width="{cell - 0.5:.1f}" height="{cell - 0.5:.1f}" fill-opacity="{strength:.2f}"/>'
            )
            if is_numbered:
                parts.append(
                    f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + font / 3:.1f}" text-anchor="middle" '
                    f'font-size="{font:.1f}">{count}</text>'
                )
            parts.append("</g>")
    return "".join([*parts, "</svg>"])
