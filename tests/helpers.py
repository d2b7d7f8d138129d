"""What tests share: commands as subprocesses, folders of digits, faults."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


MNIST = Path(os.environ.get("DISTNET_DATA") or ROOT.parent / "shared" / "mnist")


MARK = "DISTNET_TESTED_BY"  # in the environment of every process that tests start


def write_digits(folder: Path, train: int, test: int) -> Path:
    """Write the four files with so many drawn digits to a folder, and return it."""
    from distnet.datasets.synthetic import synthetic_digits

    folder.mkdir(exist_ok=True)
    for prefix, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = synthetic_digits(count, seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes in the form of MNIST's files."""
    header = np.array([0x0800 + array.ndim, *array.shape], ">u4")
    path.write_bytes(header.tobytes() + array.astype(np.uint8).tobytes())


def fault(name: str, rank: int | None = None, step: int = 5) -> dict[str, str]:
    """The environment in which a fault of tests/faults/ happens, on one rank or all, in this step of training."""
    env = {"DISTNET_FAULT": name, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "faults"), str(ROOT)])}
    env["DISTNET_FAULT_STEP"] = str(step)
    return env if rank is None else env | {"DISTNET_FAULT_RANK": str(rank)}


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def sha256(self) -> str:
        """The digest that the training command prints last."""
        name, kind, digest = self.out.splitlines()[-1].split()
        assert (name, kind) == ("parameters", "sha256")
        return digest


def command(*arguments: object, timeout: float = 60, **how: object) -> Ended:
    """Run a command of distnet's to its end or `timeout` seconds. how: see `start`."""
    return end(start(*arguments, **how), timeout)


def start(
    *arguments: object,
    ranks: int | None = None,
    env: dict[str, str] | None = None,
    module: str = "distnet.train",
    script: Path | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start a command of distnet's, or a person's own script, under mpirun where `ranks` is given."""
    launcher = [] if ranks is None else [mpirun(), "-n", str(ranks)]
    # Unbuffered, `print` writes a line and its end one by one, and lines of several ranks mix.
    foreign = ("PMI_", "MPI", "HYDRA", "PMIX", "PYTHONUNBUFFERED")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment |= {"PYTHONPATH": str(ROOT), "DISTNET_DATA": str(MNIST), MARK: str(os.getpid())} | (env or {})
    return subprocess.Popen(
        [*launcher, sys.executable, *(["-m", module] if script is None else [script]), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
        cwd=cwd or ROOT,
    )


def end(started: subprocess.Popen[str], timeout: float) -> Ended:
    """Wait until a command has ended and all its processes are gone.

    Fails the test if it has to be ended from outside.
    """
    try:
        out, err = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        out, err = started.communicate()
        pytest.fail(f"still running after {timeout} s\n{out}\n{err}")
    deadline = time.monotonic() + 5
    while left := alive():
        if time.monotonic() > deadline:
            pytest.fail(f"processes are left: {left}\n{err}")
        time.sleep(0.05)
    return Ended(started.returncode, out, err)


def wait_for(true: Callable[[], object], running: subprocess.Popen[str], timeout: float = 20) -> None:
    """Wait until something of a running command is true; if that never comes, end it and fail the test."""
    deadline = time.monotonic() + timeout
    while not true():
        if running.poll() is not None or time.monotonic() > deadline:
            running.kill()
            pytest.fail(f"what was waited for never came: {end(running, timeout)}")
        time.sleep(0.02)


def read_metrics(path: Path) -> list[dict[str, object]]:
    """What a metrics file says, but for the time that it took."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in each.items() if k not in ("seconds", "samples_per_second")} for each in records]


def alive() -> list[str]:
    """The processes that any `start` of this run of pytest left, on every kind of machine that has /proc."""
    mark = f"{MARK}={os.getpid()}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                found.append(f"{process.name} {(process / 'cmdline').read_bytes()!r}")
    return found


def mpirun() -> str:
    """The launcher that belongs to this interpreter's environment."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else "mpirun"


SOON = 20  # seconds: much more than any of these needs, and less than a hang


@contextmanager
def files_unchanged(folder, arguments):
    """Gives the arguments with results to write in `folder`, none of whose files may change."""
    outputs = {"--model": folder / "model.pkl", "--metrics": folder / "metrics.jsonl"}
    for path in outputs.values():
        path.write_text("of an older run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield [part for name, path in outputs.items() if name not in arguments for part in (name, path)] + [*arguments]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def check_refused(train, folder, *arguments, ranks=None, named, **how):
    """Run the command in `folder`, whose files it may not touch; `named` are parts of the one line."""
    with files_unchanged(folder, arguments) as complete:
        ended = train(*complete, ranks=ranks, timeout=SOON, cwd=folder, **how)
    ours = [line for line in ended.err.splitlines() if line.startswith("distnet: ")]
    assert len(ours) == 1, ended.err
    assert all(part in ours[0] for part in named), (named, ours)
    assert (ended.status, ended.out) == (2, "")
    if ranks is None:
        assert ended.err == f"{ours[0]}\n"
    else:  # launchers may have something to say as well
        assert "Traceback" not in ended.err
        assert "abort" not in ended.err.lower()


LAST_LINES = re.compile(r"test accuracy [01]\.\d{4}\nparameters sha256 [0-9a-f]{64}\n")


def check_same_bits(train, rank_counts, *arguments):
    """The command ends with the same two lines on each of these numbers of ranks; None is without mpirun."""
    ended = {ranks: train(*arguments, "--quiet", ranks=ranks) for ranks in rank_counts}
    assert {ranks: run.status for ranks, run in ended.items()} == dict.fromkeys(rank_counts, 0)
    assert all(LAST_LINES.fullmatch(run.out) for run in ended.values())
    assert len({run.out for run in ended.values()}) == 1, {ranks: run.out for ranks, run in ended.items()}


VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """What is in a page, and that what it opens it closes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.headings, self.texts, self.titles = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        self.titles += [value for name, value in attributes if name == "title"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert "svg" in self.open, f"<{tag}/> in HTML stays open"
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" in self.open:
            assert "url(" not in text
            assert "@import" not in text
        elif "title" in self.open and "svg" in self.open:
            self.titles.append(text)
        else:
            self.texts.append(text)
        if self.open[-1:] == ["h2"]:
            self.headings.append(text)

    @property
    def text(self):
        return " ".join(self.texts)

    def points(self, curve, along="epoch"):
        """x -> y of a curve, as the page tells where one points at it."""
        found = (re.fullmatch(rf"{curve}, {along} (\S+): (\S+)", title) for title in self.titles)
        return {float(each[1]): float(each[2]) for each in found if each}

    def pictures(self):
        """The images, decoded, of mistakes and of weights."""
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        images = [Image.open(BytesIO(b64decode(source.removeprefix("data:image/png;base64,")))) for source in sources]
        return [each for each in images if each.mode == "L"], [each for each in images if each.mode == "P"]


def check_self_contained(page):
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "href") or value.startswith("data:"), (tag, name, value)
            assert name in ("src", "xmlns") or "http" not in value, (tag, name, value)
