"""A page of a training's speed at several numbers of ranks."""

import shlex
from collections.abc import Sequence

from distnet.reporting.pages.charts import Curve, draw_line_chart, escape
from distnet.reporting.pages.page import (
    render_bar,
    render_document,
    render_figure,
    render_key,
    render_pairs,
    render_section,
    render_table,
)
from distnet.reporting.pages.run import COLOUR_OF
from distnet.reporting.speedup import (
    Measurement,
    compare_bits,
    efficiency,
    speed_up,
    tabulate_shares,
    tabulate_speed,
)
from distnet.runtime.text import format_count

IDEAL = 7  # the colour of what would be ideal: grey


def render_speedup(runs: Sequence[Measurement], arguments: Sequence[str], notes: Sequence[str]) -> str:
    """Render the page as HTML. runs: from the fewest ranks up. arguments: of the training, as typed. notes: on it."""
    first = runs[0]
    pairs = [(name, rest) for name, _, rest in (line.partition(": ") for line in first.header)]
    speeds = [tabulate_speed(each, first) | {"ranks": format_count(each.ranks, "rank")} for each in runs]
    counts = [str(each.ranks) for each in runs]
    command = shlex.join(["python", "-m", "distnet.speedup", "--ranks", *counts, *arguments])
    verdict = [compare_bits(runs), *notes]
    return render_document(
        "distnet: speed-up",
        [
            "<h1>Speed-up</h1>",
            render_pairs(pair for pair in pairs if pair[0] in ("data", "network", "training")),
            *(f"<p>{escape(line[0].upper() + line[1:])}</p>" for line in verdict),
            render_section(
                "Speed",
                '<div class="charts pairs">',
                *draw_speeds(runs),
                "</div>",
                render_table(list(speeds[0]), [list(each.values()) for each in speeds], reflows=True),
            ),
            render_section("Where the time goes", *draw_shares(runs)),
            render_section("Command", f"<pre>{escape(command)}</pre>"),
        ],
    )


def draw_speeds(runs: Sequence[Measurement]) -> list[str]:
    """Draw speed-up and efficiency over the ranks, each beside the ideal."""
    first, drawn = runs[0], []
    for name, value, ideal in (
        ("Speed-up", speed_up, lambda each: each.ranks / first.ranks),
        ("Efficiency", efficiency, lambda each: 1.0),
    ):
        curves = [
            Curve("ideal", [(each.ranks, ideal(each)) for each in runs], IDEAL, dashed=True),
            Curve("measured", [(each.ranks, value(each, first)) for each in runs], dots=True),
        ]
        keys = render_key("measured", 0) + render_key("ideal", IDEAL, "dashed")
        chart = draw_line_chart(name, "ranks", curves, zero=True)
        drawn.append(render_figure(f"<b>{name}</b>{keys}", chart))
    return drawn


def draw_shares(runs: Sequence[Measurement]) -> list[str]:
    """Draw the shares of the phases as a bar per number of ranks, below a key and above a table."""
    head, *rows = tabulate_shares(runs)
    keys = "".join(render_key(phase, COLOUR_OF[phase], "box") for phase in head[2:])
    bars = []
    for each, row in zip(runs, rows, strict=True):
        row[0], shares = format_count(each.ranks, "rank"), each.shares()
        parts = [(COLOUR_OF[phase], shares[phase], f"{phase}: {shares[phase]:.1%}") for phase in head[2:]]
        bars.append(render_bar(row[0], parts, f"{row[1]} µs"))
    note = "Shares of the time of all ranks, and the time of a step on rank 0, which has no evaluation."
    table = render_table(head, rows, reflows=True)
    return [f'<p class="keys small">{keys}</p>', *bars, table, f'<p class="small">{note}</p>']
