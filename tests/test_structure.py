"""The house: a file imports only from files on lower floors, and says first what it is for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

FLOORS = (
    {
        "blas",
        "doctor.__init__",
        "draws",
        "errors",
        "functional",
        "hyperparameters",
        "interrupts",
        "mailbox",
        "pages.__init__",
        "pages.charts",
        "pages.png",
        "processes",
        "schedules",
        "shards",
        "split",
        "stopwatch",
        "text",
        "toml",
        "unpacking",
    },
    {
        "config",
        "csv_tables",
        "doctor.findings",
        "dropout",
        "files",
        "guard",
        "idx",
        "launcher",
        "layers",
        "lock",
        "logs",
        "npz_tables",
        "optimizers",
        "pages.page",
        "shared_memory",
        "synthetic",
    },
    {
        "augmentation",
        "checkpoint",
        "keras",
        "mirrors",
        "model_file",
        "pictures",
        "propagation",
        "slices",
        "stops",
        "tables",
        "tensorboard",
        "world",
    },
    {"datasets", "doctor.machine", "exchange", "profile", "trained"},
    {"doctor.mpi", "evaluation", "pages.run"},
    {"trainer"},
    {"checkpointing", "doctor.trial", "network", "progress"},
    {"classifier", "doctor.checks", "report"},
    {"__main__", "compare", "doctor.__main__", "evaluate", "export", "plan", "predict", "supervise", "train"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
HOUSE = ROOT / "distnet"
# By their dotted names: doctor/checks.py is "doctor.checks".
FILES = {".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in HOUSE.rglob("*.py")}
OTHERS = {  # who may import it, and who for its types alone
    "mpi4py": ({"exchange", "guard", "mailbox", "world"}, {"network", "shared_memory"}),
    "mnist": ({"idx"}, set()),
    "onnx": ({"export"}, set()),
    "PIL": ({"pictures"}, set()),
    "safetensors": ({"export"}, set()),
    "sklearn": ({"classifier"}, set()),
    "tensorboardX": ({"tensorboard"}, set()),
    "threadpoolctl": ({"blas", "doctor.machine"}, set()),
    "tqdm": ({"progress"}, set()),
}
# Who else than `files` writes files, and why.
WRITERS = {
    "guard": "a rank's last words, for which nothing but the standard library may be needed",
    "mirrors": "a download that goes on where the last one ended",
    "shared_memory": "memory, whose file has no name and nothing that lasts",
}


def imports(tree: ast.AST, types: bool) -> set[str]:
    """The modules that are imported anywhere in it; with or without those under `if TYPE_CHECKING`."""
    if isinstance(tree, ast.Import):
        return {alias.name for alias in tree.names}
    if isinstance(tree, ast.ImportFrom):
        assert tree.level == 0, "a relative import"
        return {tree.module, *(f"{tree.module}.{alias.name}" for alias in tree.names)}
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING" and not types:
        return set()
    return set().union(*(imports(child, types) for child in ast.iter_child_nodes(tree)))


def parsed(name):
    return ast.parse(FILES[name].read_text())


def test_every_file_has_its_floor():
    assert FILES.keys() - FLOOR.keys() == {"__init__"}
    assert sum(map(len, FLOORS)) == len(FLOOR)


@pytest.mark.parametrize("name", sorted(FILES.keys() & FLOOR.keys()))
def test_a_file_imports_only_from_lower_floors(name):
    found = imports(parsed(name), types=True)
    ours = {each.removeprefix("distnet.") for each in found if each.startswith("distnet.")}
    assert {other: FLOOR[other] for other in ours & FLOOR.keys() if FLOOR[other] >= FLOOR[name]} == {}


def test_the_package_itself_imports_its_files_when_they_are_asked_for():
    assert not {name for name in imports(parsed("__init__"), types=False) if name.startswith("distnet")}


@pytest.mark.parametrize("library", OTHERS)
def test_a_library_is_imported_where_it_belongs(library):
    def importers(types):
        return {name for name in FILES if library in {i.split(".")[0] for i in imports(parsed(name), types)}}

    users, for_types = OTHERS[library]
    assert importers(types=False) <= users
    assert importers(types=True) <= users | for_types


def writes(tree: ast.AST) -> set[str]:
    """The calls in it that write files: by their names, and `open` by a mode that isn't for reading."""
    found = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = [*call.args, *(each.value for each in call.keywords if each.arg == "mode")]
        constants = [each for word in words for each in ast.walk(word) if isinstance(each, ast.Constant)]
        modes = {each.value for each in constants if isinstance(each.value, str)}
        if name in ("write_bytes", "write_text", "mkstemp") or (name == "open" and modes - {"r", "rb"}):
            found.add(name)
    return found


def test_every_file_is_written_by_the_one_mechanism_of_files():
    found = {name for name in FILES if name != "files" and writes(parsed(name))}
    assert found == WRITERS.keys()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_starts_with_what_it_is_for(name):
    told = ast.get_docstring(parsed(name))
    assert told
    assert told.splitlines()[0].endswith((".", ":", "?"))


def test_importing_everything_imports_no_mpi4py():
    names = ", ".join(f"distnet.{name}" for name in sorted(FILES))
    code = f"import sys, {names}; print('mpi4py' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("False\n", "")


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda path: path.stem)
def test_a_test_file_starts_with_its_claim(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text()))
