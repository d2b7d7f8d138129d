"""README, docs and launch agree with the code: options, files, signatures and messages exist."""

import inspect
import json
import os
import re
import runpy
import subprocess
import sys

import pytest
from golden import is_small, read_golden
from helpers import ROOT

from distnet import NeuralNetwork, __main__

SOURCE = sorted((ROOT / "distnet").rglob("*.py"))
LAUNCH = ROOT / "launch"
OPTIONS = runpy.run_path(str(ROOT / "docs" / "options.py"))
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
KEYS = re.findall(r"\*\*`([^`]+)`\*\*", TROUBLES)
KEYS_OF_OTHERS = re.findall(r"\*\*`([^`]+)`\*\*", TROUBLES.partition("other libraries\n")[2].partition("\n## ")[0])
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *LAUNCH.iterdir()]
COMMANDS = {
    command: {name for action in OPTIONS["parser_of"](command)._actions for name in action.option_strings}
    for command in OPTIONS["commands"]()
}
# Commands that pass on their options, or those after `--`.
PASSES_ON = dict.fromkeys(("local.sh", "slurm.sbatch", "pbs.sh", "make train", "qsub"), "train")
OTHERS_OPTIONS = {  # options of other programs, as far as pages name them
    "apt-get": {"--no-install-recommends"},
    "benchmarks/compare.py": {"--guard"},
    "docker": {"--rm", "--shm-size"},
    "make test": {"--skipped"},
    "mpirun": {"--bind-to", "--host", "--mca", "--oversubscribe", "--version"},
    "pip": {"--no-cache-dir"},
    "pytest": {"--only-mpi"},
    "sbatch": {"--array", "--cpus-per-task", "--hint", "--job-name", "--nodes", "--ntasks-per-node", "--open-mode"}
    | {"--requeue", "--signal", "--time", "--wrap"},
    "make golden": {"--note"},
    "tests/arm64.py": {"--architecture", "--note"},
    "tests/golden.py": {"--note", "--write"},
    "benchmarks/blas_libraries.py": {"--note"},
    "srun": {"--cpu-bind", "--cpus-per-task", "--kill-on-bad-exit", "--mpi", "--pty"},
    "timeout": {"--preserve-status", "--signal"},
    "useradd": {"--create-home", "--uid"},
}
MISSPELT = {"--lr"}  # CHANGELOG names it as such
NAMED = sorted([*PASSES_ON, *OTHERS_OPTIONS], key=len, reverse=True)
WORD = re.compile(
    r"(?P<option>(?<![\w-])--[a-z][a-z0-9-]*)|(?P<rest>(?<!\S)--(?!\S))|(?P<end>[;|]|&&| # )"
    rf"|(?P<lines>#SBATCH)|\bdistnet\.(?P<ours>{'|'.join(COMMANDS)})\b"
    rf"|(?<![\w.-])(?:launch/)?(?P<named>{'|'.join(map(re.escape, NAMED))})\b(?!:)"
)


def run(command, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_signatures_in_the_documentation_are_those_of_the_code():
    page = (ROOT / "docs" / "python.md").read_text()
    block = re.search(r"^NeuralNetwork\(([^()]*)\)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
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
    assert [wrong for text in command_lines(page) for wrong in foreign_options(text)] == []


def command_lines(page):
    """The lines of code of a page (joined at backslashes), its code spans, and the options in the remaining text."""
    text = page.read_text().replace("\\\n", " ")
    if page.suffix != ".md":
        return text.splitlines()
    blocks = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
    prose = blocks.sub("", text)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    rest = re.findall(r"--[a-z][a-z0-9-]*", re.sub(r"`[^`]+`", "", prose))
    return [*(line for block in blocks.findall(text) for line in block.splitlines()), *spans, *rest]


def foreign_options(line):
    """The options in a line that the command before them lacks; without a command, those that no command has."""
    command, wrong = None, []
    for found in WORD.finditer(line):
        match found.lastgroup, found[0]:
            case "option", option if command is None:
                if not any(option in known for known in (*(COMMANDS | OTHERS_OPTIONS).values(), MISSPELT)):
                    wrong.append(option)
            case "option", option if option not in (COMMANDS | OTHERS_OPTIONS)[command]:
                if command != "speedup" or option not in COMMANDS["train"]:  # it takes both its own and those
                    wrong.append(f"{command} {option}")
            case "rest", _:
                command = "train"
            case "end", _:
                command = None
            case "lines", _:
                command = "sbatch"
            case "ours", _:
                command = found["ours"]
            case "named", _:
                command = PASSES_ON.get(found["named"], found["named"])
    return wrong


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("python -m distnet.train --epochs 3", []),
        ("python -m distnet.train --uid 3", ["train --uid"]),
        ("python -m distnet.predict model.npz --epochs 3", ["predict --epochs"]),
        ("mpirun --oversubscribe -n 4 python -m distnet.train --oversubscribe", ["train --oversubscribe"]),
        (
            "python -m distnet.supervise -n 4 --epochs 3 -- --max-restarts 5",
            ["supervise --epochs", "train --max-restarts"],
        ),
        ("python -m distnet.speedup --ranks 2 --epochs 3 --uid 3", ["speedup --uid"]),
        ("timeout --epochs 5 python -m distnet.train", ["timeout --epochs"]),
        ('make train ARGS="--guard"', ["train --guard"]),
        ("launch/slurm.sbatch --array=0-5", ["train --array"]),
        ("#SBATCH --preset=best", ["sbatch --preset"]),
        ("--preset best --shards 2", []),
        ("--no-such-option", ["--no-such-option"]),
    ],
)
def test_an_option_belongs_to_the_command_before_it(line, wrong):
    assert foreign_options(line) == wrong


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_file_that_a_page_links_to_exists(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_module_that_a_page_names_exists(page):
    packages = "|".join(path.name for path in (ROOT / "distnet").iterdir() if path.is_dir())
    modules = re.findall(rf"`(?:distnet/)?((?:{packages})/[\w/]+\.py)`", page.read_text())
    assert [each for each in modules if not (ROOT / "distnet" / each).exists()] == []


def test_readme_and_tutorial_print_the_golden_hashes_of_make_train():
    mnist, synthetic = (read_golden()[f"make train {data}"][1].parameters for data in ("mnist", "synthetic"))
    readme, tutorial = ((ROOT / page).read_text() for page in ("README.md", "docs/tutorial.md"))
    assert re.findall(r"\| (MNIST|synthetic digits) \| `(\w+)` \|", readme) == [
        ("MNIST", mnist),
        ("synthetic digits", synthetic),
    ]
    for page in (readme, tutorial):
        assert set(re.findall(r"\b[0-9a-f]{64}\b", page)) == {mnist, synthetic}


def test_the_page_of_options_is_up_to_date():
    assert (ROOT / "docs" / "options.md").read_text() == OPTIONS["page"](), "run python docs/options.py"


def test_the_page_of_machines_is_up_to_date():
    machines = runpy.run_path(str(ROOT / "docs" / "machines.py"))
    rows = json.loads((ROOT / "docs" / "machines.json").read_text())
    written = (ROOT / "docs" / "machines.md").read_text()
    assert written == machines["page"](rows, sum(map(is_small, read_golden()))), "run python docs/machines.py"
    rows[0]["runs"] |= {"csv": False}
    assert "the bits differ in 1 of" in machines["page"](rows, 0)


def test_the_picture_of_a_grid_is_what_its_script_draws():
    draw = runpy.run_path(str(ROOT / "docs" / "grid.py"))["draw"]
    assert (ROOT / "docs" / "grid.svg").read_text() == draw(), "run python docs/grid.py"


def test_every_command_is_in_the_readme_and_in_the_list_of_python_m_distnet():
    assert set(__main__.COMMANDS) == COMMANDS.keys()
    rows = re.findall(r"^\| `distnet\.(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(rows) == COMMANDS.keys()


def test_the_page_of_options_has_every_option_of_every_command_once_and_no_empty_table():
    sections = re.split(r"^## python -m distnet\.", (ROOT / "docs" / "options.md").read_text(), flags=re.MULTILINE)[1:]
    assert {section.partition("\n")[0] for section in sections} == COMMANDS.keys()
    for section in sections:
        rows = re.findall(r"^\| `(--[a-z0-9-]+)[^|]*` \|", section, re.MULTILINE)
        wanted = {option for option in COMMANDS[section.partition("\n")[0]] if option.startswith("--")}
        assert sorted(rows) == sorted(wanted - {"--help"})
        tables = re.findall(r"^\| --- \| --- \| --- \|\n(.*)", section, re.MULTILINE)
        assert tables
        assert all(row.startswith("| `") for row in tables)


@pytest.mark.parametrize("command", OPTIONS["commands"]())
def test_help_names_every_option_of_a_command(command):
    told = run([sys.executable, "-m", f"distnet.{command}", "--help"])
    for action in OPTIONS["parser_of"](command)._actions:
        assert all(name in told for name in action.option_strings[-1:])


def test_every_key_of_the_troubleshooting_is_in_the_source():
    source = "".join(re.sub(r'"(\s*\n\s*| \+ )f?"', "", file.read_text()) for file in SOURCE)
    source += re.sub(r'",\s+f?"', ": ", source) + re.sub(r'",\s+f?"', "; ", source)  # an InputError's parts
    parts = {part for key in KEYS if key not in KEYS_OF_OTHERS for part in key.split("…")}
    assert {part for part in parts if part not in source} == set()
    assert len(KEYS) == len(set(KEYS))
