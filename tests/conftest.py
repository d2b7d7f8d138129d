"""Fixtures, and a record of which tests really ran."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import (
    MNIST,
    Ended,
    command,
    write_digits,
)


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
