"""Run the code blocks of README, CONTRIBUTING and docs, each page in order and in a folder of its own.

The language of a block decides. `bash` and `python` blocks run. An `sh` block doesn't, and a comment before it gives
the reason. All others are output, files or, in `py`, excerpts of distnet. The folder `data` has 150 synthetic digits
for training and 50 for testing instead of MNIST, so that a run takes a second. `folder` creates the files that commands
name.
"""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import ROOT, mpirun, write_digits
from numpy.typing import NDArray

from distnet import NeuralNetwork

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
RUN, NOT_RUN = ("bash", "python"), "sh"
SHOWN = {"text", "toml", "py"}
FENCE = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    """A code block: its page, the line before it, its language and content."""

    page: Path
    before: str
    language: str
    code: str

    @property
    def reason(self) -> str:
        """Why it doesn't run; empty if no comment gives a reason."""
        found = re.fullmatch(r"<!-- not run: (.+) -->", self.before)
        return found[1] if found else ""


BLOCKS = [
    Block(page, found["before"], found["language"], found["code"])
    for page in PAGES
    for found in FENCE.finditer("\n" + page.read_text())
]
WITH_CODE = [page for page in PAGES if any(block.page == page and block.language in RUN for block in BLOCKS)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path):
    """A folder with the data and the files that commands name."""
    from PIL import Image
    from safetensors.numpy import save_file

    from distnet.datasets.idx import read_idx_pair

    data = write_digits(tmp_path / "data", 150, 50)
    images, labels = read_idx_pair(data / "t10k-images-idx3-ubyte", data / "t10k-labels-idx1-ubyte", 10)
    (tmp_path / "page").mkdir()
    for path in ("seven.png", "page/one.jpg"):
        Image.fromarray(255 - images[0]).resize((200, 200)).save(tmp_path / path)
    packed = (data / "t10k-images-idx3-ubyte").read_bytes()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(packed))
    rows = images.reshape(len(images), -1)
    np.savetxt(tmp_path / "rows.txt", rows[:3], "%d")
    np.savetxt(tmp_path / "new.csv", np.column_stack([rows, labels]), "%d", ",")
    draw = np.random.default_rng(0)
    table = np.column_stack([draw.normal(size=(90, 4)), np.arange(90) % 3])
    np.savetxt(tmp_path / "iris.csv", table, "%g", ",")
    np.savetxt(tmp_path / "wine.csv", table, "%g", ";", header="a;b;c;d;quality", comments="")
    np.savez(tmp_path / "cells.npz", X=table[:, :4], y=np.arange(90) % 3)
    write_houses(tmp_path, table)
    layers = {"0.weight": (16, 784), "0.bias": (16,), "2.weight": (10, 16), "2.bias": (10,)}
    save_file({key: np.zeros(shape, np.float32) for key, shape in layers.items()}, tmp_path / "torch.safetensors")
    return tmp_path


def write_houses(folder: Path, table: NDArray[np.float64]) -> None:
    """Write tables for regression and several labels, of rows of four numbers."""
    a, b, c, d = table[:, :4].T
    price, parts = a - b / 2, [("train", "train", "validation", "test")[row % 4] for row in range(len(a))]
    labels = [(each > 0).astype(int) for each in (a, b, a + c)]
    houses = {"area": a, "age": b, "sales": abs(c), "price": price}
    for name, columns in {
        "houses.csv": houses,
        "newer.csv": {key: values[::5] for key, values in houses.items()},
        "marked.csv": {"area": a, "age": b, "part": parts, "price": price},
        "flats.csv": {"area": a, "age": b, "price": price, "rent": a + d},
        "scenes.csv": dict(zip(["a", "b", "c", "beach", "city", "forest"], [a, b, c, *labels], strict=True)),
    }.items():
        rows = [columns, *zip(*columns.values(), strict=True)]
        (folder / name).write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def run(block: Block, folder: Path, ranks: int | None = None, data: Path | None = None) -> str:
    """Run a block; return its standard output. data: the value of DISTNET_DATA, if any."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "MPI", "HYDRA", "PMIX", "DISTNET_"))
    }
    beside = Path(sys.executable).parent
    environment |= {"PATH": f"{beside}:{environment['PATH']}", "PYTHONPATH": str(ROOT), "MPIEXEC_TIMEOUT": "60"}
    environment |= {"DISTNET_DATA": str(data)} if data else {}
    if block.language == "python":
        (folder / "script.py").write_text(block.code)
        command = [*([mpirun(), "-n", str(ranks)] if ranks else []), sys.executable, "script.py"]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{block.code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_code_of_a_page_runs_in_order(page, folder):
    blocks = [block for block in BLOCKS if block.page == page and block.language in RUN]
    out = "".join(run(block, folder) for block in blocks)
    if page.name == "tutorial.md":  # it must run a second time, and with the data elsewhere
        elsewhere = (folder / "data").rename(folder / "elsewhere")
        out += "".join(run(block, folder, data=elsewhere) for block in blocks)
        digests = re.findall("^parameters sha256 (.*)$", out, re.MULTILINE)
        assert len(digests) >= 10
        assert len(set(digests)) == 1
    if page.name == "order.md":
        digests = re.findall("^parameters sha256 (.*)$", out, re.MULTILINE)
        native, portable = digests[:3], digests[3:]
        assert len(set(native)) == 3
        assert "".join(f"parameters sha256 {each}\n" for each in portable) in page.read_text()
        assert len(portable) == 3


def test_readmes_python_gives_the_same_under_mpirun(folder):
    block = next(block for block in BLOCKS if block.page.name == "README.md" and block.language == "python")
    found = []
    for ranks in (None, 2):
        out = run(block, folder, ranks)
        assert re.fullmatch(r"test accuracy 0\.\d{4}\n", out)
        found.append(NeuralNetwork.load(folder / "network.npz").parameters.tobytes())
    assert found[0] == found[1]


def test_the_pipeline_of_a_dataframe_gives_the_same_under_mpirun(folder):
    block = next(block for block in BLOCKS if "ColumnTransformer(" in block.code)
    alone = run(block, folder)
    accuracy = re.fullmatch(r"test accuracy (0\.\d{3})\n", alone)
    assert float(accuracy[1]) > 0.9
    assert run(block, folder, 2) == alone


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_known_language(page):
    languages = {block.language for block in BLOCKS if block.page == page}
    assert languages <= {*RUN, NOT_RUN, *SHOWN}
    assert page.read_text().count("```") == 2 * sum(block.page == page for block in BLOCKS)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == NOT_RUN],
    ids=lambda block: f"{name(block.page)}: {block.reason}",
)
def test_a_block_that_does_not_run_has_a_reason_and_is_shell(block):
    assert block.reason
    assert subprocess.run(["bash", "-n", "-c", block.code]).returncode == 0
