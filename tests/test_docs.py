"""What README, docs and launch say is so: code runs, options and files exist."""

import inspect
import os
import re
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT
from test_structure import FILES, FLOOR

from distnet import NeuralNetwork
from distnet.config import parser

README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
LAUNCH = ROOT / "launch"
OPTIONS = runpy.run_path(str(ROOT / "docs" / "options.py"))
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
KEYS = re.findall(r"\*\*`([^`]+)`\*\*", TROUBLES)
KEYS_OF_OTHERS = re.findall(r"\*\*`([^`]+)`\*\*", TROUBLES.partition("of others\n")[2].partition("\n## ")[0])
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *LAUNCH.iterdir()]
OTHERS_OPTIONS = {"--oversubscribe", "--mpi", "--cpu-bind", "--cpus-per-task", "--hint", "--job-name", "--nodes"}
OTHERS_OPTIONS |= {
    "--ntasks-per-node",
    "--time",
    "--only-mpi",
    "--skipped",
    "--no-install-recommends",
    "--guard",
    "--array",
}
OTHERS_OPTIONS |= {"--kill-on-bad-exit", "--open-mode", "--requeue", "--signal", "--preserve-status", "--bind-to"}
OTHERS_OPTIONS |= {"--create-home", "--uid", "--no-cache-dir", "--rm", "--shm-size", "--version", "--host", "--mca"}


def run(command, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readmes_signatures_are_the_codes():
    block = re.search(r"^NeuralNetwork\(([^\n]*)\)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    told = [("__init__", block[1]), *re.findall(r"\.(\w+)\(([^()]*)\)", block[2])]
    assert {name for name, _ in told} >= {"__init__", "train", "test", "forward", "backprop", "save", "load"}
    for name, arguments in told:
        real = inspect.signature(getattr(NeuralNetwork, name)).parameters.values()
        wanted = [(each.name, each.default) for each in real if each.name != "self"]
        given = [
            each.strip().partition("=") for each in arguments.replace(",\n", ", ").split(", ") if each.strip() != "*"
        ]
        assert [argument for argument, _, _ in given] == [argument for argument, _ in wanted], name
        for (argument, has_default, text), (_, default) in zip(given, wanted, strict=True):
            assert bool(has_default) == (default is not inspect.Parameter.empty), (name, argument)
            plain = isinstance(default, (int, float, str)) or default is None
            assert not has_default or not plain or text == repr(default).replace("'", '"'), (name, argument)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_a_page_names_exists(page):
    known = {option for action in parser()._actions for option in action.option_strings} | OTHERS_OPTIONS
    for file in FILES.values():
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', file.read_text()))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text())) - known == set()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_file_that_a_page_links_to_exists(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_the_house_has_every_file_on_its_floor():
    rows = re.findall(r"^\| (\d) \| `([\w/]+)\.py` \|", DESIGN, re.MULTILINE)
    table = {name.replace("/", "."): int(floor) for floor, name in rows}
    assert len(table) == len(rows)
    del table["__init__"]
    assert table == FLOOR
    assert table.keys() | {"__init__"} == FILES.keys()


def test_the_page_of_options_is_what_the_parsers_say():
    assert (ROOT / "docs" / "options.md").read_text() == OPTIONS["page"](), "run python docs/options.py"


@pytest.mark.parametrize("command", OPTIONS["commands"]())
def test_help_names_every_option_of_a_command(command):
    told = run([sys.executable, "-m", f"distnet.{command}", "--help"])
    for action in OPTIONS["parser_of"](command)._actions:
        assert all(name in told for name in action.option_strings[-1:])


def test_every_key_of_the_troubleshooting_is_in_the_source():
    source = "".join(re.sub(r'"(\s*\n\s*| \+ )f?"', "", file.read_text()) for file in FILES.values())
    parts = {part for key in KEYS if key not in KEYS_OF_OTHERS for part in key.split("…")}
    assert {part for part in parts if part not in source} == set()
    assert len(KEYS) == len(set(KEYS))
