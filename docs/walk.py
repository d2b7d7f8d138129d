"""Write docs/walk.md, one training step with all its numbers. Run it with: mpirun -n 2 python docs/walk.py.

`Trainer.step` computes the numbers: it reports the end of each phase, and a recorder copies the arrays.
"""

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np

from distnet.datasets.dataset import shared_split
from distnet.nn.model import Model
from distnet.nn.parameters import BLOCK, layer_views
from distnet.nn.portable import PortablePropagation
from distnet.parallel import exchange, partition
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.portable.grids import BIAS
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.training.configuration import TrainingConfig
from distnet.training.evaluation import losses_from
from distnet.training.trainer import Splits, Trainer

PAGE = Path(__file__).with_name("walk.md")
RANKS = 2
SIZES, CLASSES = (3, 2, 2), 2
ROWS = np.array([[1, 0, 2], [0, 1, 1], [2, 1, 0], [1, 2, 1]])
LABELS = np.array([0, 1, 1, 0])
LAYERS = (
    [[0.5, -0.4], [-0.3, 0.2], [0.1, 0.6], [0.1, -0.1]],  # the last row is the bias
    [[0.7, -0.2], [-0.5, 0.4], [0.2, 0.0]],
)
NEURONS = (("x₁", "x₂", "x₃"), ("h₁", "h₂"), ("p₁", "p₂"))
LEARNING_RATE = 0.4
BLOCK_HERE = 8  # parameters, so that each rank has a slice

HEAD = """\
# One step, with all its numbers

<!-- made by mpirun -n 2 python docs/walk.py: edit the script instead -->

This page follows one training step of a small network on two ranks. The network has three inputs x, two hidden neurons
h with ReLU, and two classes with probabilities p. The mini-batch has four rows, two per rank.

Each section quotes the next lines of [`Trainer.step`](design.md#a-step), all of them in order, and shows the numbers
that they computed. `lap` marks the end of a phase, where `docs/walk.py` copied the numbers.

The arithmetic is portable, so the numbers are the same on every machine. What it rounds is smaller than the decimals
shown. The parameters θ before the step are short decimals, so that you can check by hand:
"""
TAIL = """\
## The same in NumPy

One process without grids or shards computes the same parameters, to the decimals shown:
"""

Numbers = dict[str, Array]


class Recorder:
    """Copies what a rank has at the end of each phase of a step. numbers: by name."""

    def __init__(self) -> None:
        self.numbers: Numbers = {}
        self.trainer: Trainer | None = None

    def lap(self, phase: str) -> None:
        """Copy the arrays of a phase, over those of an earlier phase of this name."""
        assert self.trainer is not None
        (batch,), here = self.trainer.batches.values(), self.trainer.exchange
        (group,) = batch.groups
        work = group.propagation
        assert isinstance(work, PortablePropagation)
        (hidden,), count = work.hidden, len(here.parameters)
        arrays = {
            "data": {"inputs": group.inputs[:, : SIZES[0]].astype(int), "targets": group.targets.astype(int)},
            "forward": {
                "hidden logits": hidden.logits,
                "activations": hidden.activations,
                "logits": work._output_logits.T,
                "probabilities": work.outputs[0].T,
            },
            "backward": {
                "loss parts": work.loss_parts.T,
                "output deltas": work._output_deltas.T,
                "hidden deltas": hidden.deltas,
                "exponents": work.exponents - BIAS,
                "gradients": here.gradients[0, :count],
            },
            "exchange": {"sum": here._sum},
            "waiting": {"largest exponents": here._largest_exponents - BIAS} if here._exponents is not None else {},
            "update": {"slice": here.slice},
        }
        self.numbers |= {name: array.copy() for name, array in arrays[phase].items()}


def take_step(world: World) -> list[Numbers]:
    """The numbers of every rank in one step of training. Collective, on RANKS ranks."""
    assert world.comm is not None
    assert world.size == RANKS
    recorder = Recorder()
    initial = np.concatenate([np.ravel(layer) for layer in LAYERS])
    with patch.object(exchange, "BLOCK", BLOCK_HERE), patch.object(partition, "BLOCK", BLOCK_HERE):
        split = shared_split(world, ROWS, np.eye(CLASSES)[LABELS], np.float64)
        model = Model(SIZES, "relu", initial, arithmetic="portable")
        trainer = Trainer(world, model, Splits(split), TrainingConfig(LEARNING_RATE, len(ROWS)), recorder.lap)
    recorder.trainer = trainer
    trainer.step(np.arange(len(ROWS)), 0)
    columns = trainer.exchange.columns
    recorder.numbers |= {"columns": np.array([columns.start, columns.stop]), "before": initial}
    recorder.numbers["after"] = trainer.close()
    return world.comm.allgather(recorder.numbers)


def number(value: float) -> str:
    """A number with four decimals, zero without a sign."""
    text = f"{value:.4f}"
    return text.removeprefix("-") if float(text) == 0 else text


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; all columns but the first are right-aligned. Floats have four decimals."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[number(cell) if isinstance(cell, float) else cell for cell in row] for row in rows]  # type: ignore[misc]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def row_table(columns: dict[str, list[Array]]) -> str:
    """A table of one line per row of the mini-batch.

    columns: names, separated by blanks, of the columns of arrays (rows, columns), one per rank.
    """
    head = ["rank", "row", *(name for names in columns for name in names.split())]
    rows: list[list[object]] = []
    for rank, arrays in enumerate(zip(*columns.values(), strict=True)):
        for cells in zip(*arrays, strict=True):
            rows.append([rank, len(rows) + 1, *(cell for row in cells for cell in row)])
    return table(head, rows)


def pick(seen: Sequence[Numbers], name: str) -> list[Array]:
    """An array of each rank."""
    return [each[name] for each in seen]


def weight_names() -> list[str]:
    """What every place in the vector of parameters is: "x₁ → h₁", or "bias of h₁"."""
    return [
        f"{below} → {above}" if below else f"bias of {above}"
        for belows, aboves in zip(NEURONS, NEURONS[1:], strict=False)
        for below in (*belows, "")
        for above in aboves
    ]


def layer_tables(parameters: Array) -> str:
    """The layers as matrices."""
    tables = []
    for layer, belows, aboves in zip(layer_views(parameters, SIZES), NEURONS, NEURONS[1:], strict=False):
        tables.append(table(["", *aboves], [[name, *row] for name, row in zip((*belows, "bias"), layer, strict=True)]))
    return "\n".join(tables)


def quote(markers: Sequence[str]) -> list[str]:
    """The lines of `Trainer.step` after its docstring, divided before the lines that start with these markers.

    Raises ValueError if a marker is not there, in this order, or lines are left out.
    """
    source = inspect.getsource(Trainer.step)
    lines = source[source.index('"""', source.index('"""') + 3) + 3 :].strip("\n").splitlines()
    starts, place = [], 0
    for marker in markers:
        place = next((at for at in range(place, len(lines)) if lines[at].strip().startswith(marker)), len(lines))
        if place == len(lines):
            raise ValueError(f"Trainer.step has no line {marker!r} here: correct docs/walk.py")
        starts.append(place)
    if starts[0]:
        raise ValueError(f"docs/walk.py leaves out {lines[0]!r}")
    return [
        textwrap.dedent("\n".join(lines[start:stop])).strip()
        for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True)
    ]


def format_code(code: str, language: str) -> str:
    """A block of code. `py` is an excerpt, which the tests don't run."""
    return f"```{language}\n{code.strip()}\n```\n"


def run_numpy() -> tuple[str, str]:
    """The same step in NumPy, and what it prints."""
    first, second = (str(layer) for layer in LAYERS)
    code = f"""
import numpy as np

np.set_printoptions(precision=4, suppress=True)
V1 = np.array({first})
V2 = np.array({second})  # the last rows are the biases
ones = np.ones(({len(ROWS)}, 1))
X = np.hstack([{ROWS.tolist()}, ones])
Y = np.eye({CLASSES})[{LABELS.tolist()}]

z = X @ V1
h = np.hstack([np.maximum(z, 0), ones])
e = np.exp(h @ V2)
p = e / e.sum(axis=1, keepdims=True)
d2 = (p - Y) * {LEARNING_RATE} / {len(ROWS)}
d1 = d2 @ V2[:-1].T * (z > 0)
print(V1 - X.T @ d1)
print(V2 - h.T @ d2)
"""
    with redirect_stdout(StringIO()) as out:
        exec(code, {})
    return code, out.getvalue()


def sections(seen: Sequence[Numbers]) -> Iterator[tuple[str, str, str]]:
    """Of each section, the title, the start of its first line in `Trainer.step`, and the text with the tables."""
    names, rank_names = weight_names(), [f"rank {rank}" for rank in range(RANKS)]
    columns = [each["columns"] for each in seen]
    owners = [rank for rank, (start, stop) in enumerate(columns) for _ in range(start, stop)]
    factor = LEARNING_RATE / len(ROWS)
    first_weight: dict[str, list[Array]] = {
        "x₁": [each["inputs"][:, :1] for each in seen],
        "δ(h₁)": [each["hidden deltas"][:, :1] for each in seen],
        "x₁·δ(h₁)": [each["inputs"][:, :1] * each["hidden deltas"][:, :1] for each in seen],
    }
    yield (
        "The mini-batch",
        "batch, weights =",
        f"Both ranks compute the same: `rate` is α = {LEARNING_RATE}, `total` is B = {len(ROWS)}, `scale` is 1/B. "
        "With plain SGD, `linear` is true.\n",
    )
    yield (
        "The rows of each rank",
        "for group in batch.groups",
        "In portable arithmetic, a rank has one group of rows. It copies them from the shared memory of the node, "
        "without a message.\n\n" + row_table({"x₁ x₂ x₃": pick(seen, "inputs"), "y₁ y₂": pick(seen, "targets")}),
    )
    yield (
        "Forward pass",
        "propagation.forward",
        "The logit z of a neuron is the sum of the layer below, times the weights, plus the bias. "
        "h = max(z(h), 0), and p is the softmax of z(p). "
        "Softmax first subtracts the largest z(p) of the row; the table shows the differences.\n\n"
        + row_table(
            {
                "z(h₁) z(h₂)": pick(seen, "hidden logits"),
                "h₁ h₂": pick(seen, "activations"),
                "z(p₁) z(p₂)": pick(seen, "logits"),
                "p₁ p₂": pick(seen, "probabilities"),
            }
        ),
    )
    yield (
        "Deltas and losses",
        "# Scaling the few",
        f"δ(p) = (p - y) · α/B, and α/B is {factor:g}. "
        "δ(h) is the sum of δ(p) times the weights from h to p, and zero where z(h) ≤ 0. "
        "s is the sum of exp z(p), t is z(p) of the row's class, and the loss is log s - t.\n\n"
        + row_table(
            {
                "δ(p₁) δ(p₂)": pick(seen, "output deltas"),
                "δ(h₁) δ(h₂)": pick(seen, "hidden deltas"),
                "s t": pick(seen, "loss parts"),
                "loss": [losses_from(parts.T)[:, None] for parts in pick(seen, "loss parts")],
            }
        ),
    )
    yield (
        "Exponents",
        "exponents =",
        "Only portable arithmetic needs this. For the largest magnitude m of each array, a rank finds the smallest "
        f"exponent e with m < 2ᵉ. In memory, {BIAS:,} is added to it, as in a float64. "
        "The ranks agree on the largest exponents, and round to the same grids, "
        "so that the gradients add [without rounding](portable.md#the-bound).\n\n"
        + table(
            ["", "h", "δ(h)", "δ(p)"],
            [
                *([name, *own] for name, own in zip(rank_names, pick(seen, "exponents"), strict=True)),
                ["largest", *seen[0]["largest exponents"]],
            ],
        ),
    )
    yield (
        "Gradients of each rank",
        "for group in batch.groups",
        "The gradient of a weight is the sum, over the rows of the rank, of its input times its neuron's δ. "
        "Of a bias, it is the sum of the δ. For the weight from x₁ to h₁:\n\n"
        + row_table(first_weight)
        + "\nThe sums are "
        + ", and ".join(
            f"{number(own[0])} on {name}" for own, name in zip(pick(seen, "gradients"), rank_names, strict=True)
        )
        + ".\n",
    )
    yield (
        "Reduce-scatter",
        "gradient_sum =",
        "Each rank adds the gradients of both ranks, but only over its own slice of the parameters. "
        f"Slices are whole blocks, of {BLOCK:,} parameters in distnet. "
        f"On this page, a block has {BLOCK_HERE}, so that both ranks have a slice.\n\n"
        + table(
            ["", *rank_names, "sum", "added by"],
            zip(
                names,
                *pick(seen, "gradients"),
                np.concatenate(pick(seen, "sum")),
                (rank_names[rank] for rank in owners),
                strict=True,
            ),
        ),
    )
    yield (
        "Update",
        "if linear and total",
        "Each rank subtracts the sum from its slice. The factor α/B is already in the deltas.\n\n"
        + table(
            ["", "θ before", "θ after", "updated by"],
            zip(
                names,
                seen[0]["before"],
                np.concatenate(pick(seen, "slice")),
                (rank_names[rank] for rank in owners),
                strict=True,
            ),
        ),
    )
    yield (
        "Allgather",
        "self.share_parameters",
        "The ranks of a node share one array of parameters. After a barrier, both ranks see all of them, and round the "
        "weights for the next step. Ranks of different nodes send each other their slices.\n\n"
        + layer_tables(seen[1]["after"]),
    )


def page(world: World) -> str:
    """The whole page. Collective, on RANKS ranks."""
    seen = take_step(world)
    parts = list(sections(seen))
    codes = quote([marker for _, marker, _ in parts])
    lines = [HEAD, layer_tables(seen[0]["before"])]
    for place, ((title, _, text), code) in enumerate(zip(parts, codes, strict=True), 1):
        lines.append(f"## {place}. {title}\n\n{format_code(code, 'py')}\n{text}")
    code, out = run_numpy()
    return "\n".join([*lines, TAIL, format_code(code, "python"), format_code(out, "text")])


if __name__ == "__main__":
    world = launched_world()
    if world.size != RANKS:
        raise InputError(
            "docs/walk.py", f"needs {RANKS} ranks, got {world.size}", f"mpirun -n {RANKS} python docs/walk.py"
        )
    text = page(world)
    if world.rank == 0:
        PAGE.write_text(text)
