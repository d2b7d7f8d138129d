"""golden.json on many machines that this one can be: python tests/matrix.py [--note FILE] [PYTHON ...].

Trains golden.py's small runs with these interpreters, each with its own NumPy and MPI, on different numbers of ranks
and nodes, OpenBLAS kernels, with and without NumPy's vector code, on one and two BLAS threads. A cell has a quarter
of the runs. Every two values meet in a cell, but for placements and kernels, which can't affect each other. Exit
status 1 if any sha256 differs, or a cell is not what it should be.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

from golden import FILE, is_small, read_golden
from hosts import usable

from distnet.runtime.proc import usable_cores

ROOT = FILE.parents[1]
GOLDEN = ROOT / "tests" / "golden.py"
PATIENCE = 300  # seconds for a cell, for hangs
# What makes OpenBLAS choose kernels, and the flags in /proc/cpuinfo that they need.
KERNELS = {
    "Prescott": {"pni"},
    "Nehalem": {"sse4_2"},
    "Sandybridge": {"avx"},
    "Haswell": {"avx2", "fma"},
    "Zen": {"avx2", "fma"},
    "SkylakeX": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
}
OTHER_NAMES = {"Prescott": "Katmai", "Zen": "Haswell"}  # of the same code, or in builds without code of its own
CROWDED = {  # Open MPI counts cores, and refuses root
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
PARTS = 4  # of the runs
APART = {"placement", "kernels"}


class Interpreter(NamedTuple):
    """An interpreter and what it has. mpi: "MPICH", "Open MPI" or "". extensions: the vector code of its NumPy."""

    path: Path
    python: str
    numpy: str
    mpi: str
    extensions: tuple[str, ...]


class Placement(NamedTuple):
    """ranks: 0 without mpirun. nodes: of the ranks; hosts: whether they are separate."""

    ranks: int
    nodes: int = 1
    hosts: bool = False

    def __str__(self) -> str:
        kind = "hosts" if self.hosts else "pretended nodes"
        return f"{self.ranks} ranks" + f" on {self.nodes} {kind}" * (self.nodes > 1)


PLACEMENTS = (
    *map(Placement, range(5)),
    Placement(3, 3),
    Placement(4, 2),
    Placement(4, 2, True),
)


class Cell(NamedTuple):
    """One environment. kernels: of OpenBLAS, "" for its own choice. part: of the runs."""

    interpreter: Interpreter
    placement: Placement
    kernels: str
    is_vectorised: bool
    threads: int
    part: int

    def is_possible(self) -> bool:
        """Whether the interpreter can be started on these ranks and nodes."""
        needs = ("MPICH",) if self.placement.hosts else ("MPICH", "Open MPI") if self.placement.ranks else None
        return needs is None or self.interpreter.mpi in needs

    def __str__(self) -> str:
        python, numpy, mpi = self.interpreter[1:4]
        return (
            f"Python {python}, NumPy {numpy}, {mpi or 'no MPI'}, {self.placement}, {self.kernels or 'own'} kernels, "
            f"vector code {'on' if self.is_vectorised else 'off'}, {self.threads} BLAS threads"
        )

    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        environment = os.environ | CROWDED | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": str(self.threads)}
        if self.kernels:
            environment["OPENBLAS_CORETYPE"] = self.kernels
        if not self.is_vectorised:
            environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(self.interpreter.extensions)
        return environment

    def command(self, names: list[str], more: list[str]) -> list[str]:
        """The command that compares these runs. more: options of golden.py."""
        python, (ranks, nodes, hosts) = str(self.interpreter.path), self.placement
        words = [python, str(GOLDEN), *names, *more]
        if hosts:
            return [python, str(ROOT / "tests" / "hosts.py"), str(nodes), str(ranks // nodes), *words]
        if nodes > 1:
            words += ["--ranks-per-node", str(ranks // nodes)]
        return [str(self.interpreter.path.with_name("mpirun")), "-n", str(ranks), *words] if ranks else words

    def find_difference(self, machine: dict[str, object]) -> str:
        """What of this cell is not so on the machine that golden.py describes, or ""."""
        expected = {"ranks": max(self.placement.ranks, 1), "nodes": self.placement.nodes, "threads": self.threads}
        if not self.is_vectorised:
            expected["SIMD"] = []
        wrong = [f"{name} {machine[name]}" for name, value in expected.items() if machine[name] != value]
        names = {self.kernels, OTHER_NAMES.get(self.kernels, self.kernels)}
        if not any(f"kernels {name}" in str(machine["BLAS"]) for name in names):
            wrong.append(str(machine["BLAS"]))
        return ", ".join(wrong)


def examine(path: Path) -> Interpreter:
    """What an interpreter has."""
    code = (
        "import json, platform, numpy\n"
        "from distnet.parallel.mpi import library_name, load_mpi\n"
        "try: mpi = library_name(load_mpi()).rpartition(' ')[0]\n"
        "except (ImportError, RuntimeError): mpi = ''\n"
        "found = numpy.show_config(mode='dicts')['SIMD Extensions'].get('found', [])\n"
        "print(json.dumps([platform.python_version(), numpy.__version__, mpi, found]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([path, "-c", code], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    python, numpy, mpi, extensions = json.loads(ended.stdout)
    return Interpreter(path, python, numpy, mpi, tuple(extensions))


def find_kernels() -> tuple[list[str], list[str]]:
    """The OpenBLAS kernels that this processor can run, and the others."""
    if platform.machine() != "x86_64":
        return [""], [*KERNELS]
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
    return [name for name, needs in KERNELS.items() if needs <= flags], [
        name for name, needs in KERNELS.items() if not needs <= flags
    ]


def choose(cells: list[Cell]) -> list[Cell]:
    """The fewest cells, about, in which every two values meet that meet in any of these; see the module."""
    numbers: dict[object, int] = {}
    masks = []
    for cell in cells:
        pairs = combinations(zip(Cell._fields, cell, strict=True), 2)
        masks.append(
            sum(1 << numbers.setdefault(pair, len(numbers)) for pair in pairs if {name for name, _ in pair} != APART)
        )
    chosen: list[Cell] = []
    missing, uses = (1 << len(numbers)) - 1, Counter[object]()

    def gain(place: int) -> tuple[int, int]:  # the second spreads the values over the cells
        return (masks[place] & missing).bit_count(), -sum(map(uses.__getitem__, enumerate(cells[place])))

    while missing:
        best = max(range(len(cells)), key=gain)
        chosen.append(cells[best])
        uses.update(enumerate(cells[best]))
        missing &= ~masks[best]
    return chosen


def run(cell: Cell, names: list[str], more: list[str]) -> str:
    """Compare in a cell; returns what is wrong, or "". more: options of golden.py."""
    try:
        ended = subprocess.run(
            cell.command(names, more),
            env=cell.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        return f"still running after {PATIENCE} s\n{error.stdout}"
    lines = ended.stdout.splitlines()
    machine = next((json.loads(line) for line in lines if line.startswith('{"ranks"')), None)
    if ended.returncode or machine is None or any(f"{name}: same" not in lines for name in names):
        return f"exit status {ended.returncode}\n{ended.stdout}"
    return cell.find_difference(machine)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("pythons", nargs="*", type=Path, default=[Path(sys.executable)], metavar="PYTHON")
    parser.add_argument("--note", type=Path, help="file for docs/machines.py", metavar="FILE")
    options = parser.parse_args()
    more = ["--note", str(options.note.absolute())] if options.note else []
    begin = time.monotonic()
    kernels, missing = find_kernels()
    interpreters = [examine(path.absolute()) for path in options.pythons]
    lacking = usable()
    places = [place for place in PLACEMENTS if not (place.hosts and lacking)]
    threads = [1, 2] if len(usable_cores()) > 1 else [1]
    for what, why in (
        (f"OpenBLAS kernels {', '.join(missing)}", "this processor can't run them" if missing else ""),
        ("separate hosts", lacking),
        ("2 BLAS threads", "" if len(threads) > 1 else "one core"),
        ("MPICH", "" if any(each.mpi == "MPICH" for each in interpreters) else "no interpreter has it"),
        ("Open MPI", "" if any(each.mpi == "Open MPI" for each in interpreters) else "no interpreter has it"),
    ):
        if why:
            print(f"left out: {what} ({why})")
    cells = list(map(Cell._make, product(interpreters, places, kernels, (True, False), threads, range(PARTS))))
    chosen = choose([cell for cell in cells if cell.is_possible()])
    names = [name for name in read_golden() if is_small(name)]
    failures = 0
    for number, cell in enumerate(chosen, 1):
        wrong = run(cell, names[cell.part :: PARTS], more)
        failures += bool(wrong)
        print(f"{time.monotonic() - begin:4.0f} s  {number}/{len(chosen)}  {cell}: {wrong or 'same'}", flush=True)
    print(f"{len(chosen)} environments, {failures or 'none'} with other bits")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
