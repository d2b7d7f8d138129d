"""What tests share: real MNIST, commands as subprocesses, and a record of which tests really ran."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
MNIST = Path(os.environ.get("DISTNET_DATA") or ROOT.parent / "shared" / "mnist")
MARK = "DISTNET_TESTED_BY"  # in the environment of every process that tests start


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of real MNIST; skips where there is none."""
    if not list(MNIST.glob("train-images-idx3-ubyte*")):
        pytest.skip(f"real MNIST is not at hand: no files in {MNIST}")
    return MNIST


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the four files, with 600 drawn digits to train on and 100 to test."""
    return write_digits(tmp_path_factory.mktemp("digits"), 600, 100)


def write_digits(folder: Path, train: int, test: int) -> Path:
    """Write the four files with so many drawn digits to a folder, and return it."""
    from distnet.synthetic import synthetic_digits

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
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "MPI", "HYDRA", "PMIX"))}
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


@pytest.fixture
def train() -> Callable[..., Ended]:
    """Runs the training command."""
    return command


def record(*entries: tuple[object, ...]) -> None:
    """Append to this process's file in the folder of tests/run.py, if that is what runs."""
    if folder := os.environ.get("DISTNET_TEST_RECORD"):
        with open(Path(folder, str(os.getpid())), "a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Under tests/run.py, keep temporary files apart: pytests that clean up the folder of all of them collide."""
    if (folder := os.environ.get("DISTNET_TEST_RECORD")) and not config.option.basetemp:
        config.option.basetemp = f"{folder}.{os.getpid()}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Under MPI, import only files with tests for it, unless they are named."""
    left_out = config.getoption("--only-mpi") and collection_path.match("test_*.py")
    return (left_out and not re.search(r"\bmark\.mpi\b", collection_path.read_text())) or None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record every test that ran to its end."""
    if report.when == "call" or report.outcome != "passed":
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        record((report.outcome, report.nodeid, reason.removeprefix("Skipped: ")))


def rank_counts(item: pytest.Item) -> list[int]:
    """The numbers of ranks that tests/run.py runs a test on under MPI; none if it is a serial one."""
    fewest = [mark.kwargs.get("min_size", 1) for mark in item.iter_markers("mpi")]
    wanted = item.get_closest_marker("ranks")
    return [count for count in (wanted.args if wanted else (1, 2, 3, 4)) if fewest and count >= max(fewest)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under tests/run.py and MPI, leave the tests that run on other numbers of ranks."""
    if config.getoption("--only-mpi") and "DISTNET_TEST_RECORD" in os.environ:
        from mpi4py import MPI

        items[:] = [item for item in items if MPI.COMM_WORLD.size in rank_counts(item)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Record every test that was found."""
    record(*(("found", item.nodeid, "", rank_counts(item)) for item in session.items))


@pytest.fixture(autouse=True)
def _no_processes_left() -> Iterator[None]:
    """A test that starts processes waits for them."""
    yield
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    assert left == (0, 0), f"process {left[0]} was left behind"
