"""Charts as SVG, in the colours of the page that contains them."""

import html
import math
from collections.abc import Sequence
from itertools import groupby
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
.points {{ fill: none; stroke: var(--c); stroke-width: 4; stroke-linecap: round; stroke-opacity: .6; }}
.hit {{ fill: var(--c); fill-opacity: 0; }}
.hit:hover {{ fill-opacity: 1; }}
.mark {{ stroke: var(--soft); stroke-dasharray: 3 3; }}
"""

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 34  # margins, for the ticks and their numbers
DIGIT = 6.5  # the width of a digit
HUGE, TINY = 1e150, 1e-150  # values beyond these are not drawn
DECADES = 20  # ratio of the largest to the smallest value above which a scale may be logarithmic
MOST_TICKS = 5  # about
POINTED_AT = 150  # curves with up to so many points show the value of the point under the mouse


class Curve(NamedTuple):
    """One line of a chart. points: from left to right; one that is not finite leaves a gap. dots: whether they show."""

    label: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    width: float = 2
    dots: bool = False


def escape(text: object) -> str:
    """Escape text for HTML, also inside quotation marks; a question mark replaces what is not printable."""
    return html.escape("".join(c if c.isprintable() else "?" for c in str(text)))


def find_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers between `low` and `high`, low < high."""
    least = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(each * power for each in (1, 2, 5, 10) if each * power * (1 + 1e-9) >= least)
    step = max(step, 1.0) if whole else step
    found = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    room = (high - low) * 1e-6  # for rounding errors at the ends
    return [each for each in found if low - room <= each <= high + room]


def find_log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic scale, 0 < low < high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [each * 10.0**power for power in powers for each in digits]
        found = [each for each in found if low <= each <= high]
        if len(found) <= MOST_TICKS + 1:
            break
    return found[:: math.ceil(len(found) / (MOST_TICKS + 1)) or 1]


class Scale:
    """A map from values, all finite, to positions from `start` to `stop`.

    zero: whether it includes 0. logarithmic: whether it may be. margin: part of the length to leave free above the
    highest value, and below the lowest unless that is 0.
    """

    def __init__(
        self,
        values: Sequence[float],
        start: float,
        stop: float,
        *,
        zero: bool = False,
        logarithmic: bool = False,
        margin: float = 0.0,
    ) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        low = min(low, 0.0) if zero else low
        self.logarithmic = logarithmic and low > TINY and high / low > DECADES
        if high - low <= max(1e-9 * max(abs(low), abs(high)), TINY):
            room = abs(high) / 10 if abs(high) > TINY else 1.0
            low, high = low - room, high + room
        if self.logarithmic:
            room = (high / low) ** margin
            low, high = low / room, high * room
        else:
            room = (high - low) * margin
            low, high = low - room * (low != 0), high + room
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def ticks(self, whole: bool = False) -> list[tuple[float, str]]:
        """Positions and numbers of the ticks."""
        low, high = self.low, self.high
        found = find_log_ticks(low, high) if self.logarithmic else find_ticks(low, high, whole)
        return [(self(each), f"{each:,.6g}") for each in found]

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

    what: the chart's name, for screen readers. along: name of the horizontal axis. zero, logarithmic: of the vertical
    axis, see Scale. whole: whether the horizontal axis counts; otherwise it begins at 0. mark: position of a vertical
    line.
    """
    drawable = [point for curve in curves for point in curve.points if is_drawable(point)]
    across = Scale([x for x, _ in drawable], LEFT, WIDTH - RIGHT, zero=not whole)
    bottom = HEIGHT - BOTTOM
    up = Scale([y for _, y in drawable], bottom, TOP, zero=zero, logarithmic=logarithmic, margin=0.05)
    ends = [f"{c.label} from {c.points[0][1]:.4g} to {c.points[-1][1]:.4g}" for c in curves if c.points]
    parts = draw_axes(f"{what}: {'; '.join(ends)}", along, across, up, whole=whole, is_empty=not drawable)
    if mark is not None:
        parts.append(f'<path class="mark" d="M{across(mark):.1f} {TOP}V{bottom}"/>')
    for curve in curves:
        colour = f"c{curve.colour % COLOURS}"
        for is_run, group in groupby(curve.points, is_drawable):
            if not is_run:
                continue
            run = list(group)
            places = [(across(x), up(y)) for x, y in run]
            if curve.dots or len(run) == 1:
                parts += [f'<circle class="dot {colour}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in places]
            if len(run) > 1:
                line = "L".join(f"{x:.1f} {y:.1f}" for x, y in thin(places))
                how = f'class="curve{" dashed" * curve.dashed} {colour}" stroke-width="{curve.width:.1f}"'
                parts.append(f'<path {how} d="M{line}"/>')
            if len(curve.points) <= POINTED_AT:
                parts += [
                    f'<circle class="hit {colour}" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>'
                    f"{escape(curve.label)}, {escape(along)} {x:g}: {y:.6g}</title></circle>"
                    for (x, y), (px, py) in zip(run, places, strict=True)
                ]
    return "".join([*parts, "</svg>"])


def draw_scatter(
    what: str, along: str, upwards: str, points: Sequence[Point], *, rows: Sequence[int], diagonal: bool
) -> str:
    """Draw points in one chart with axes.

    what: the chart's name, for screen readers. along, upwards: names of the axes; the latter is not shown. rows: the
    number of each point. diagonal: whether a line shows where both coordinates are equal; else it shows where y is 0.
    """
    drawable = [(row, *point) for row, point in zip(rows, points, strict=True) if is_drawable(point)]
    columns, heights = [x for _, x, _ in drawable], [y for _, _, y in drawable]
    if diagonal:
        columns = heights = columns + heights
    across = Scale(columns, LEFT, WIDTH - RIGHT, margin=0.03)
    up = Scale(heights, HEIGHT - BOTTOM, TOP, zero=not diagonal, margin=0.05)
    ends = (max(across.low, up.low), min(across.high, up.high)) if diagonal else (across.low, across.high)
    parts = draw_axes(f"{what}: {len(drawable):,} points", along, across, up, whole=False, is_empty=not drawable)
    if drawable:
        start, stop = (f"{across(x):.1f} {up(x if diagonal else 0):.1f}" for x in ends)
        parts.append(f'<path class="mark" d="M{start}L{stop}"/>')
        places = dict.fromkeys(f"M{across(x):.1f} {up(y):.1f}h0" for _, x, y in drawable)
        parts.append(f'<path class="points c0" d="{"".join(places)}"/>')
    if len(drawable) <= POINTED_AT:
        parts += [
            f'<circle class="hit c0" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4"><title>'
            f"row {row}, {escape(along)} {x:.6g}, {escape(upwards)} {y:.6g}</title></circle>"
            for row, x, y in drawable
        ]
    return "".join([*parts, "</svg>"])


def draw_axes(what: str, along: str, across: Scale, up: Scale, *, whole: bool, is_empty: bool) -> list[str]:
    """The start of a chart: its name for screen readers, axes with ticks, and a note if it has nothing to draw."""
    bottom = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(what)}">']
    for y, text in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x, text in across.ticks(whole):
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        inside = min(x, WIDTH - DIGIT / 2 * len(text))
        parts.append(f'<text class="soft" x="{inside:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(along)}</text>')
    if is_empty:
        parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{bottom / 2}" text-anchor="middle">no finite values</text>')
    return parts


def is_drawable(point: Point) -> bool:
    """Whether both coordinates are finite, and not huge."""
    return all(abs(each) < HUGE for each in point)  # False for NaN


def thin(places: Sequence[Point]) -> list[Point]:
    """Keep the lowest and the highest position in each pixel column. places: from left to right."""
    kept = []
    for _, group in groupby(places, lambda place: round(place[0])):
        column = list(group)
        ends = {min(column, key=lambda place: place[1]), max(column, key=lambda place: place[1])}
        kept += [place for place in dict.fromkeys(column) if place in ends]
    return kept
