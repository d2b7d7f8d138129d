"""Golden hashes: small trainings that give the same bits on every machine, as golden.json has them.

    python tests/golden.py [NAME ...]              train here, alone or under mpirun, and compare
    python tests/golden.py --note docs/machines.json   also note this machine, for docs/machines.py
    python tests/golden.py --write [NAME ...]      write golden.json anew: bits change with a minor version only

A run has the arguments of `distnet.train` and, if it is to be interrupted and resumed, the step after which a rank gets
SIGTERM. Its hashes are those of the trained parameters, and of its results: all metrics, and predictions.
"""

import argparse
import hashlib
import io
import json
import platform
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from distnet import __version__
from distnet.datasets.synthetic import synthetic_digits
from distnet.doctor import trial
from distnet.doctor.machine import gather_facts
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.portable.draws import draw_normals
from distnet.train import train
from distnet.training.history import Epoch
from distnet.training.trainer import Trainer

FILE = Path(__file__).with_suffix(".json")
DIGITS, TEST_DIGITS = 300, 90
ROWS, COLUMNS, CLASSES = 240, 7, 3
PURPOSE = 1000  # of the random numbers of tables, beside those that distnet draws
PREDICTIONS = 20  # rows


class Hashes(NamedTuple):
    """sha256 of the parameters, as the command prints it, and of metrics and predictions."""

    parameters: str
    results: str


class Run(NamedTuple):
    """A training. arguments: of `distnet.train`. stop: the step after which it is interrupted; 0 for none."""

    arguments: list[str]
    stop: int = 0


def read_golden() -> dict[str, tuple[Run, Hashes]]:
    """All runs of golden.json, by their names."""
    return {
        name: (
            Run(shlex.split(entry["arguments"]), entry.get("stop", 0)),
            Hashes(*(entry.get(part, "") for part in Hashes._fields)),
        )
        for name, entry in json.loads(FILE.read_text()).items()
    }


def is_small(name: str) -> bool:
    """Whether a run takes less than two seconds; those of `make train` take a minute."""
    return not name.startswith("make train")


@contextmanager
def working_directory(has_data: bool = True) -> Iterator[None]:
    """An empty working directory, or one with the data that the runs name; only rank 0 reads them."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        if has_data:
            write_data()
        yield


def write_data() -> None:
    """Write digits and tables into the working directory, drawn in portable arithmetic."""
    Path("digits").mkdir()
    for prefix, count, seed in (("train", DIGITS, 0), ("t10k", TEST_DIGITS, 1)):
        images, labels = synthetic_digits(count, seed)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
            Path("digits", f"{prefix}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    values = draw_normals(ROWS * COLUMNS, 0, PURPOSE).reshape(ROWS, COLUMNS)
    write_targets(values)
    labels = values[:, :CLASSES].argmax(axis=1)
    # Columns of very different sizes, one of them constant.
    values = values * np.ldexp(1.0, np.arange(-30, 61, 15)) + np.ldexp(1.0, np.arange(-28, 63, 15))
    values[:, -1] = 0.1
    lines = [",".join(map(repr, [*row, f"class {label}"])) for row, label in zip(values.tolist(), labels, strict=True)]
    Path("table.csv").write_text("\n".join(["a,b,c,d,e,f,g,kind", *lines, ""]))
    train, test = np.split(np.arange(ROWS), [ROWS * 3 // 4])
    np.savez(
        "table.npz",
        X=values[train].astype(np.float32),
        y=labels[train],
        X_test=values[test].astype(np.float32),
        y_test=labels[test],
    )


def write_targets(values: NDArray[np.float64]) -> None:
    """Write tables with other targets than classes, with weights and a split, all made of these (ROWS, COLUMNS)."""
    targets = np.stack([values[:, 0] * values[:, 1] + values[:, 2], 1e6 - 1e3 * values[:, 3]], axis=1)
    present = (values[:, :3] + values[:, 1:4] > 0).astype(int)
    weights = np.where(np.arange(ROWS) % 5, np.abs(values[:, 4]), 0.0)
    parts = [("train", "train", "train", "test", "validation")[row % 5] for row in range(ROWS)]
    columns = [*values.T, *targets.T, *present.T, weights]
    rows = [[*map(repr, map(float, row)), part] for row, part in zip(zip(*columns, strict=True), parts, strict=True)]
    for name, chosen in (("targets.csv", rows), ("more.csv", rows[1::4])):
        lines = ["a,b,c,d,e,f,g,price,size,red,green,blue,weight,part", *map(",".join, chosen), ""]
        Path(name).write_text("\n".join(lines))
    np.savez("targets.npz", X=values, y=targets, sample_weight=weights)


def train_small(run: Run, ranks_per_node: int | None = None) -> Hashes:
    """The hashes of a run. Collective, in a `working_directory` of each rank's own."""
    numbers: list[float] = []

    def collect(epoch: Epoch) -> None:
        numbers.extend((epoch.loss, epoch.learning_rate))
        numbers.extend(
            value
            for scores in (epoch.test, epoch.validation)
            if scores
            for value in (scores.score, scores.loss, scores.tutorial_loss)
            if value is not None
        )

    def interrupt(trainer: Trainer) -> None:
        if trainer.global_step == run.stop and trainer.world.rank == trainer.world.size - 1:
            signal.raise_signal(signal.SIGTERM)

    data = ["--data-dir", "digits"] if "--dataset" not in run.arguments else []
    nodes = [] if ranks_per_node is None else ["--ranks-per-node", str(ranks_per_node)]
    arguments = [*run.arguments, *data, *nodes, "--quiet"]
    with redirect_stdout(io.StringIO()):
        if run.stop:
            arguments += ["--checkpoint-dir", "checkpoints"]
            with redirect_stderr(io.StringIO()):  # it says that it stopped
                stopped = train(arguments, on_step=interrupt, on_epoch=collect)
            assert stopped.network is None, "the run was complete before it was interrupted"
            arguments.append("--resume")
        network = train(arguments, on_epoch=collect).network
        shutil.rmtree("checkpoints", ignore_errors=True)
    assert network is not None
    rows = draw_normals(PREDICTIONS * network.sizes[0], 1, PURPOSE).reshape(PREDICTIONS, -1)
    results = np.concatenate([numbers, network.forward(rows).reshape(-1)])
    assert np.isfinite(results).all(), "training has diverged"
    return Hashes(parameters_sha256(network.parameters), hashlib.sha256(results.astype("<f8").tobytes()).hexdigest())


def describe_machine(world: World) -> dict[str, object]:
    """Facts about ranks and software, for messages and for matrix.py."""
    facts = gather_facts()
    configuration: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    return {
        "ranks": world.size,
        "nodes": world.nodes,
        "MPI": world.library,
        "CPU": f"{platform.machine()}, {sys.byteorder}-endian, {facts.cpu}",
        "Python": facts.python,
        "NumPy": facts.numpy,
        "BLAS": facts.blas,
        "threads": facts.threads and facts.threads[0],
        "SIMD": configuration.get("SIMD Extensions", {}).get("found", []),
        "deviation": facts.deviation,
    }


def note_machine(path: Path, machine: dict[str, object], verdicts: dict[str, bool]) -> None:
    """Add a row about this machine to a file, or these runs to its row. Rows of other minor versions are dropped."""
    rows = json.loads(path.read_text()) if path.exists() else []
    version = __version__.rpartition(".")[0]
    rows = [row for row in rows if row["distnet"] == version]
    environment = {"distnet": version, **machine, "SIMD": bool(machine["SIMD"])}
    row = next((row for row in rows if row.items() >= environment.items()), None)
    if row is None:
        rows.append(row := {**environment, "runs": {}})
    row["runs"] |= verdicts
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def compare(names: list[str], ranks_per_node: int | None, path: Path | None, cpu: str, blas: str) -> int:
    """Train these runs, and print whether they have their hashes. Returns the exit status. Collective.

    path: where to note it, or None. cpu, blas: what to note, "" for the names that are found.
    """
    world = launched_world(ranks_per_node)
    machine = describe_machine(world)
    if cpu:
        machine["CPU"] = f"{platform.machine()}, {sys.byteorder}-endian, {cpu}"
    machine["BLAS"] = blas or machine["BLAS"]
    if world.rank == 0:
        print(json.dumps(machine), flush=True)
    status, golden = 0, read_golden()
    verdicts: dict[str, bool] = {}
    with working_directory(has_data=world.rank == 0):
        for name in names:
            run, expected = golden[name]
            found = train_small(run, ranks_per_node)
            status |= found != expected
            verdicts[name] = not world.total(np.array([found != expected], np.int64))[0]
            if found != expected or world.rank == 0:
                verdict = "same" if found == expected else f"rank {world.rank} has {found}, expected {expected}"
                print(f"{name}: {verdict}", flush=True)
    if path is not None and world.rank == 0:
        note_machine(path, machine, verdicts)
    return status


def write(names: list[str]) -> None:
    """Write the hashes that these runs have here into golden.json, and that of the doctor's run into its module."""
    document, golden = json.loads(FILE.read_text()), read_golden()
    with working_directory():
        for name in names:
            document[name] |= train_small(golden[name][0])._asdict()
    FILE.write_text(json.dumps(document, indent=2) + "\n")
    (digests,), *_ = trial.train_both_ways(World())
    module = Path(trial.__file__)
    module.write_text(module.read_text().replace(trial.SHA256, digests.alone))


def main() -> int:
    """Run the command."""
    golden = read_golden()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="runs of golden.json (default: all small ones)", metavar="NAME")
    parser.add_argument("--ranks-per-node", type=int, help="of pretended nodes", metavar="K")
    parser.add_argument(
        "--note", type=Path, help="note this machine in a file such as docs/machines.json", metavar="FILE"
    )
    for name in ("--cpu", "--blas"):
        parser.add_argument(name, default="", help="note this in place of what is found", metavar="NAME")
    parser.add_argument("--write", action="store_true", help="write their hashes into golden.json")
    options = parser.parse_args()
    names = options.names or [name for name in golden if is_small(name)]
    if unknown := [name for name in names if name not in golden]:
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(golden)}")
    if not options.write:
        return compare(
            names, options.ranks_per_node, options.note and options.note.absolute(), options.cpu, options.blas
        )
    write(names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
