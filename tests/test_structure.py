"""Packages import in one direction, modules without cycles; each file begins with its purpose."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT

# From the bottom to the top: a package imports only from packages before it. Commands are whatever has no package.
PACKAGES = (
    "runtime",
    "portable",
    "nn",
    "parallel",
    "datasets",
    "models",
    "training",
    "reporting",
    "interface",
    "estimators",
    "config",
    "commands",
)
INTERFACE = ("network",)
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "export",
    "compare",
    "plan",
    "speedup",
    "supervise",
    "verify",
    "datasets.__main__",
)
HOUSE = ROOT / "distnet"
# By their dotted names: doctor/checks.py is "doctor.checks".
FILES = {".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in HOUSE.rglob("*.py")}
OTHERS = {  # who may import it, and who for its types alone
    "mpi4py": (
        {
            "parallel.exchange",
            "parallel.launched",
            "parallel.mailbox",
            "parallel.mpi",
            "parallel.world",
            "runtime.command",
            "runtime.failure",
        },
        {"network", "parallel.shared_memory"},
    ),
    "mnist": ({"datasets.idx"}, set()),
    "onnx": ({"models.onnx"}, set()),
    "PIL": ({"datasets.pictures"}, set()),
    "pyarrow": ({"datasets.parquet"}, set()),
    "safetensors": ({"models.safetensors"}, set()),
    "scipy": ({"estimators.scikit"}, set()),
    "sklearn": ({"estimators.scikit"}, set()),
    "tensorboardX": ({"reporting.tensorboard"}, set()),
    "threadpoolctl": ({"runtime.blas"}, set()),
    "tqdm": ({"reporting.console"}, set()),
}
# Who else than `runtime.files` writes files, and why.
WRITERS = {
    "runtime.logs": "the null device, in place of a stream that is closed",
    "runtime.failure": "a rank's last words, for which nothing but the standard library may be needed",
    "datasets.mirrors": "a download that goes on where the last one ended",
    "parallel.shared_memory": "memory, whose file has no name and nothing that lasts",
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


@cache
def parsed(name):
    return ast.parse(FILES[name].read_text())


@cache
def imports_of(name, types):
    return imports(parsed(name), types)


def package_of(name):
    """The package of a module by its dotted name; "commands" for commands, "interface" for the network class."""
    if name in COMMANDS or name.startswith("doctor"):
        return "commands"
    return "interface" if name in INTERFACE else name.partition(".")[0]


def imported(name):
    """The modules of distnet that a module imports, by their dotted names."""
    found = {each.removeprefix("distnet.") for each in imports_of(name, types=True) if each.startswith("distnet.")}
    return {each for each in found if each in FILES and each not in PACKAGES}


MODULES = sorted(FILES.keys() - {"__init__", "__main__"})


def test_every_module_is_in_a_package_or_is_a_command():
    assert {package_of(name) for name in MODULES} == set(PACKAGES)
    assert {path.name for path in HOUSE.iterdir() if (path / "__init__.py").exists()} == {
        *PACKAGES[:8],
        "estimators",
        "config",
        "doctor",
    }


@pytest.mark.parametrize("name", MODULES)
def test_a_package_imports_only_from_packages_below_it(name):
    height = PACKAGES.index(package_of(name))
    assert {each for each in imported(name) if PACKAGES.index(package_of(each)) > height} == set()


def test_no_modules_import_each_other_in_a_cycle():
    below = {name: imported(name) for name in MODULES}
    while free := {name for name, needed in below.items() if not needed}:
        below = {name: needed - free for name, needed in below.items() if name not in free}
    assert below == {}


def test_the_package_itself_imports_its_files_when_they_are_asked_for():
    assert not {name for name in imports_of("__init__", types=False) if name.startswith("distnet")}


@pytest.mark.parametrize("library", OTHERS)
def test_a_library_is_imported_where_it_belongs(library):
    def importers(types):
        return {name for name in FILES if library in {i.split(".")[0] for i in imports_of(name, types)}}

    users, for_types = OTHERS[library]
    assert importers(types=False) <= users
    assert importers(types=True) <= users | for_types


def writes(tree: ast.AST) -> set[str]:
    """The calls in it that write files: by name, and `open` with a mode that isn't for reading."""
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
    found = {name for name in FILES if name != "runtime.files" and writes(parsed(name))}
    assert found == WRITERS.keys()


def without_remedy(tree: ast.AST) -> list[str]:
    """The functions that make an InputError without a remedy, once for each, unless they name what is expected."""
    found = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        words = {each.value for each in ast.walk(function) if isinstance(each, ast.Constant)}
        if any(isinstance(word, str) and word.startswith("expected ") for word in words):
            continue
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            is_error = isinstance(call.func, ast.Name) and call.func.id == "InputError"
            has_all = len(call.args) > 2 or any(isinstance(each, ast.Starred) for each in call.args)
            if is_error and not has_all and "remedy" not in {each.arg for each in call.keywords}:
                found.append(function.name)
    return found


def test_an_input_error_has_a_remedy_or_names_what_is_expected():
    found = {name: functions for name in FILES if (functions := without_remedy(parsed(name)))}
    assert found == {
        "config.parser": ["error"],  # argparse's own words, such as "expected one argument"
        "config.reading": ["read_config", "read_options"],  # the words of config/values.py
        "estimators.classifier": ["_read_targets"],  # scikit-learn's own words
        "runtime.numbers": ["check_choice"],  # the words of describe_bad_choice
    }


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(".".join(path.parent.relative_to(ROOT).parts) for path in HOUSE.rglob("__init__.py"))


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


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_a_test_file_starts_with_its_claim(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text()))
