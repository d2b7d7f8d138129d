"""What tests share: real MNIST, commands as subprocesses, and a record of which tests really ran."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MNIST = Path(os.environ.get("DISTNET_DATA") or ROOT.parent / "shared" / "mnist")


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of real MNIST; skips where there is none."""
    if not list(MNIST.glob("train-images-idx3-ubyte*")):
        pytest.skip(f"real MNIST is not at hand: no files in {MNIST}")
    return MNIST


@dataclass
class Ended:
    """How a command ended. survivors: processes of its session that were still there two seconds later."""

    status: int
    out: str
    err: str

    @property
    def sha256(self) -> str:
        """The digest that the training command prints last."""
        name, kind, digest = self.out.splitlines()[-1].split()
        assert (name, kind) == ("parameters", "sha256")
        return digest


def command(
    *arguments: object,
    ranks: int | None = None,
    timeout: float = 60,
    env: dict[str, str] | None = None,
    module: str = "distnet.train",
    cwd: Path | None = None,
) -> Ended:
    """Run a command of distnet's, under mpirun where `ranks` is given, to its end or `timeout` seconds.

    Fails the test if it has to be ended from outside.
    """
    launcher = [] if ranks is None else [mpirun(), "-n", str(ranks)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "MPI", "HYDRA", "PMIX"))}
    environment |= {"PYTHONPATH": str(ROOT), "DISTNET_DATA": str(MNIST)} | (env or {})
    started = subprocess.Popen(
        [*launcher, sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
        cwd=cwd or ROOT,
    )
    try:
        out, err = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        out, err = started.communicate()
        pytest.fail(f"still running after {timeout} s\n{out}\n{err}")
    return Ended(started.returncode, out, err)


def mpirun() -> str:
    """The launcher that belongs to this interpreter's environment."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else "mpirun"


@pytest.fixture
def train() -> Callable[..., Ended]:
    """Runs the training command."""
    return command


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note every test that ran to its end, for tests/run.py to count."""
    path = os.environ.get("DISTNET_TEST_RECORD")
    if path and (report.when == "call" or report.outcome != "passed"):
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        with open(path, "a") as file:
            file.write(f"{report.outcome}\t{report.nodeid}\t{reason}\n")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note every test that was found."""
    if path := os.environ.get("DISTNET_TEST_RECORD"):
        with open(path, "a") as file:
            file.writelines(f"found\t{item.nodeid}\t\n" for item in session.items)


@pytest.fixture(autouse=True)
def _no_processes_left() -> Iterator[None]:
    """A test that starts processes waits for them."""
    yield
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    assert left == (0, 0), f"process {left[0]} was left behind"
