"""What docs/scaling.md shows, out of the figures in docs/scaling.json: python benchmarks/scaling_docs.py.

Writes the measured constants into distnet/plan.py, the tables of docs/scaling.md between their marker
comments, and docs/scaling.svg.
"""

import json
import re
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import log2
from pathlib import Path
from typing import Any

from distnet import plan
from distnet.nn.model import ARITHMETICS
from distnet.nn.parameters import parameter_count
from distnet.plan import INTERCONNECTS, Cost, Link, Machine, Speed, Task, advice, cost, ring_cost, worlds

ROOT = Path(__file__).resolve().parents[1]
SMALL, MIDDLE, LARGE = (784, 256, 128, 10), (784, 2048, 2048, 10), (4096, 8192, 8192, 1000)
PLANNED = [Task(sizes, batch_size) for sizes in (SMALL, MIDDLE, LARGE) for batch_size in (1024, 16_384)]
NODE_SIZE, NODES = 32, 1024
EXAMPLES = ("ethernet-10g", "infiniband-hdr")  # shown in full, for the middle network
ENOUGH_NODES = (1, 8, 64, 1024)


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def machine_of(found: dict[str, Any]) -> Machine:
    """The machine that was measured, with the cache and the memory of the one that is planned for."""

    def rounded_values(name: str) -> dict[str, Any]:
        return {key: rounded(value) for key, value in found[name].items()}

    return plan.MACHINE._replace(
        portable=Speed(**rounded_values("portable")),
        native=Speed(**rounded_values("native")),
        messages=Link(*map(rounded, found["messages"])),
        **rounded_values("constants"),
    )


def planned(task: Task, link: Link, machine: Machine, ring: bool = False) -> list[Cost]:
    """From one rank up to NODES nodes."""
    model = ring_cost if ring else cost
    return [model(task, *place, link, machine) for place in worlds(NODES, NODE_SIZE)]


def enough(sizes: Sequence[int], nodes: int, link: Link, machine: Machine) -> int:
    """The fewest rows a rank that make training on so many nodes worth asking for."""
    ranks = nodes * NODE_SIZE

    def worth(rows: int) -> bool:
        task = Task(sizes, rows * ranks)
        costs = [cost(task, *place, link, machine) for place in ((1, 1), (nodes, NODE_SIZE))]
        return advice(costs)[0].ranks == ranks

    return bisect_left(range(1 << 16), True, lo=1, key=worth)


def told(sizes: Sequence[int]) -> str:
    """A network as the tables name it."""
    return "-".join(map(str, sizes))


def asked(costs: Sequence[Cost], one: float) -> str:
    """The ranks of the largest efficient world and its speed-up, and the same of the fastest."""
    return "; ".join(f"{each.ranks:,}: {one / each.step:,.1f}" for each in advice(costs))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def check_table(checks: Sequence[dict[str, Any]]) -> str:
    """Measured steps, and the error of the model."""
    places = list(dict.fromkeys((each["hosts"], each["ranks_per_host"]) for each in checks))
    rows: dict[tuple[str, str, int], list[str]] = {}
    ratios: dict[str, list[float]] = {}
    for each in checks:
        ratio = each["predicted"] / each["measured"]
        row = rows.setdefault((each["arithmetic"], told(each["network"]), each["batch_size"]), [])
        row.append(f"{each['measured']:,.0f} ({ratio:.2f})")
        kind = "hosts" if each["hosts"] > 1 else f"{'1 and 2' if each['ranks_per_host'] < 3 else '3 and 4'} ranks"
        ratios.setdefault(f"{each['arithmetic']}, {kind}", []).append(ratio)
    lines = [f"- {k}: {min(v):.2f} to {max(v):.2f}, median {statistics.median(v):.2f}" for k, v in ratios.items()]
    head = ["arithmetic, network", "batch", *(f"{hosts} × {ranks}" for hosts, ranks in places)]
    lines_of = ([f"{arithmetic}, {network}", f"{batch:,}", *row] for (arithmetic, network, batch), row in rows.items())
    table = markdown(head, lines_of)
    return "\n".join([table, "", "Predicted over measured time:", "", *lines])


def ring_words(rings: Sequence[dict[str, Any]]) -> str:
    """Measured allreduces, and the model's prediction."""
    lines = [
        f"- on {each['hosts']} host{'s' * (each['hosts'] > 1)}: {each['measured']:,.0f} µs; the model's ring: "
        f"{each['predicted']:,.0f} µs"
        for each in rings
    ]
    head = f"MPICH's Allreduce and the update of {told(rings[0]['network'])}, measured on two ranks:"
    return "\n".join([head, "", *lines])


def tables(found: dict[str, Any], machine: Machine) -> dict[str, str]:
    """The parts of docs/scaling.md that are written here, by the name in their marker."""
    links = {"between ranks of a node": machine.messages}
    if found["over_tcp"]:
        links["between hosts on this machine, TCP"] = Link(*map(rounded, found["over_tcp"]))
    links |= {f"`{name}`": link for name, link in INTERCONNECTS.items()}
    command = f"python -m distnet.plan --hidden {' '.join(map(str, MIDDLE[1:-1]))} --batch-size 16384 --nodes {NODES}"
    examples = []
    for name in EXAMPLES:
        case = Task(MIDDLE, 16_384), INTERCONNECTS[name], machine
        text = plan.table(planned(*case), planned(*case, ring=True), 16_384)
        examples.append(f"$ {command} --interconnect {name}\n{text}")
    asks = []
    for task in PLANNED:
        row = [told(task.sizes), f"{task.batch_size:,}"]
        for link in INTERCONNECTS.values():
            costs = planned(task, link, machine)
            row.append(asked(costs, costs[0].step))
        instant = machine._replace(messages=machine.messages._replace(latency=0, message=0))
        for ring_link, on in ((link, machine), (link._replace(latency=0, message=0), instant)):
            row.append(asked(planned(task, ring_link, on, ring=True), costs[0].step))
        asks.append(row)
    needs = [
        [told(sizes), f"{parameter_count(sizes):,}"]
        + [
            " / ".join(f"{enough(sizes, nodes, link, machine):,}" for nodes in ENOUGH_NODES)
            for link in INTERCONNECTS.values()
        ]
        for sizes in (SMALL, MIDDLE, LARGE)
    ]
    names = [f"`{name}`" for name in INTERCONNECTS]
    shared = [name for name in Machine._fields if name not in (*ARITHMETICS, "messages")]
    values = [(name, *[f"{getattr(machine, name):g}"] * 2) for name in shared]
    speeds = [machine.speed(arithmetic)._asdict() for arithmetic in ARITHMETICS]
    of_speeds = [(name, *(f"{speed[name]:g}" for speed in speeds)) for name in Speed._fields]
    return {
        "about": found["about"] + ".",
        "constants": markdown(["constant", *ARITHMETICS], ([f"`{name}`", *each] for name, *each in of_speeds + values)),
        "links": markdown(
            ["messages", "latency µs", "µs a message", "GB/s"],
            ([name, *(f"{value:g}" for value in link)] for name, link in links.items()),
        ),
        "checks": f"{check_table(found['checks'])}\n\n{ring_words(found['rings'])}",
        "enough": markdown(["network", "parameters", *names], needs),
        "asked": markdown(["network", "batch", *names, f"ring, {names[-1]}", "and no latency"], asks),
        "examples": "```text\n" + "\n\n".join(examples) + "\n```",
    }


def plot(machine: Machine) -> str:
    """SVG: speed-up over one rank against nodes, a panel for each network and mini-batch; both axes logarithmic."""
    colours = dict(zip(INTERCONNECTS, ("#b2182b", "#ef8a62", "#67a9cf", "#2166ac"), strict=True))
    wide, high, edge, least, most = 250, 200, 46, -3, 11  # least, most: powers of two on the vertical axis
    parts = []
    for number, task in enumerate(PLANNED):
        left, top = edge + number // 2 * (wide + edge), 40 + number % 2 * (high + 60)
        x = [left + wide * log2(nodes) / log2(NODES) for nodes in (1, 4, 16, 64, 256, 1024)]
        parts.append(f'<text x="{left}" y="{top - 8}">{told(task.sizes)}, mini-batch {task.batch_size:,}</text>')
        for power in range(least + 1, most, 2):
            y = top + high * (most - power) / (most - least)
            parts.append(f'<path d="M{left},{y:.1f}h{wide}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{2.0**power:g}</text>')
        for place, nodes in zip(x, (1, 4, 16, 64, 256, 1024), strict=True):
            parts.append(f'<text x="{place:.1f}" y="{top + high + 14}" text-anchor="middle">{nodes:,}</text>')
        for name, link in INTERCONNECTS.items():
            one = planned(task, link, machine)[0].step
            for ring, style in ((False, 'stroke-width="2"'), (True, 'stroke-dasharray="3 3"')):
                points = []
                for each in planned(task, link, machine, ring):
                    if each.ranks >= NODE_SIZE:
                        y = top + high * (most - max(log2(one / each.step), least)) / (most - least)
                        points.append(f"{left + wide * log2(each.nodes) / log2(NODES):.1f},{y:.1f}")
                line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{colours[name]}" {style}/>'
                parts.append(line)
    foot = 40 + 2 * (high + 60)
    for number, (name, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{edge + 110 * number}" y="{foot}" fill="{colour}">{name}</text>')
    words = f"speed-up over one rank against nodes of {NODE_SIZE} ranks; dashed: replicas, ring allreduce"
    parts.append(f'<text x="{edge + 420}" y="{foot}">{words}</text>')
    size = f'viewBox="0 0 {edge + 3 * (wide + edge)} {foot + 14}" font-family="sans-serif" font-size="11"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', background, *parts, "</svg>\n"])


def put(path: Path, before: str, text: str, after: str) -> None:
    """Replace what stands in a file between two strings. Raises ValueError where they aren't there."""
    old = path.read_text()
    start = old.index(before) + len(before)
    path.write_text(old[:start] + text + old[old.index(after, start) :])


def write_all(found: dict[str, Any]) -> None:
    """The figures, and everything that is made of them."""
    docs, source, machine = ROOT / "docs", ROOT / "distnet" / "plan.py", machine_of(found)
    (docs / "scaling.json").write_text(re.sub(r"\n {4,}|\n {2,3}(?=[]}])", " ", json.dumps(found, indent=1)) + "\n")
    for arithmetic in ARITHMETICS:
        speed = "".join(f"\n        {name}={value:g}," for name, value in machine.speed(arithmetic)._asdict().items())
        put(source, f"\n    {arithmetic}=Speed(", speed, "\n    )")
    for name in found["constants"]:
        put(source, f"\n    {name}=", f"{getattr(machine, name):g}", ",")
    put(source, "\n    messages=Link(", ", ".join(f"{value:g}" for value in machine.messages), ")")
    for name, text in tables(found, machine).items():
        put(docs / "scaling.md", f"<!-- {name}: benchmarks/scaling.py -->\n", text, "\n<!-- end -->")
    (docs / "scaling.svg").write_text(plot(machine))


if __name__ == "__main__":
    write_all(json.loads((ROOT / "docs" / "scaling.json").read_text()))
