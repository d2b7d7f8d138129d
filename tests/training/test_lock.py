"""One run at a time writes into a checkpoint folder, and a command that is refused leaves it as it was."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import ROOT

from distnet.runtime.errors import InputError
from distnet.train import train
from distnet.training.lock import FolderLock

SMALL = ("--hidden", "9", "--epochs", "2", "--quiet")


def hold(folder):
    """Another process that has the lock until it is killed, and forks a child that lives on."""
    code = (
        "import os, pathlib, sys, time; from distnet.training.lock import FolderLock\n"
        "assert FolderLock(pathlib.Path(sys.argv[1])).acquire()\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(60)"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_kernel_releases_the_lock_of_a_process_that_is_killed_whatever_children_it_has(tmp_path):
    with hold(tmp_path) as other:
        child = int(other.stdout.readline())
        try:
            lock = FolderLock(tmp_path)
            assert not lock.acquire()
            assert lock.holder().startswith(f"process {other.pid} on ")
            os.kill(other.pid, signal.SIGKILL)
            other.wait()
            assert lock.acquire()
            assert lock.holder().startswith(f"process {os.getpid()} on ")
        finally:
            os.kill(child, signal.SIGKILL)
            other.kill()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_in_one_process_keep_each_other_out_too(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path / ".." / tmp_path.name)
    assert first.acquire()
    assert not second.acquire()
    second.release()  # which it hasn't
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_a_run_where_another_one_writes_is_refused_and_touches_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("distnet.training.lock.PATIENCE", 0.0)
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    assert lock.acquire()
    (folder / ".checkpoint-0000000005.npz.1234").write_bytes(b"being written")
    before = content(folder)
    for more in ([], ["--resume"]):
        with pytest.raises(InputError, match=r"--checkpoint-dir .*run: another run writes to it \(process \d+ on "):
            train(["--data-dir", str(digits), *SMALL, "--checkpoint-dir", str(folder), *more])
    assert content(folder) == before
    lock.release()


def test_a_folder_that_cannot_be_locked_is_told_and_used(digits, tmp_path, monkeypatch):
    def unsupported(*ignored):
        raise OSError(38, "Function not implemented")

    told = []
    monkeypatch.setattr("fcntl.lockf", unsupported)
    monkeypatch.setattr("distnet.training.lock.warn", told.append)
    assert train(["--data-dir", str(digits), *SMALL, "--checkpoint-dir", str(tmp_path / "run")]).status == 0
    why = "can't be locked (Function not implemented); let no other run write to it"
    assert told == [f"--checkpoint-dir {tmp_path / 'run'}: {why}"]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_command_that_is_refused_leaves_a_finished_run_and_what_another_one_writes_as_they_are(digits, tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "metrics.jsonl"
    run = ["--data-dir", str(digits), *SMALL, "--checkpoint-dir", str(folder), "--metrics", str(metrics)]
    first = train(run)
    assert first.status == 0
    (folder / ".checkpoint-0000000099.npz.1234").write_bytes(b"cut off")
    before = content(folder) | {"metrics": metrics.read_bytes()}
    for more, told in [
        (["--resume", "--seed", "1"], "--seed: got 1, "),
        (["--resume", "--epochs", "1"], "--epochs: got 1, "),
        (["--resume", "--train-limit", "100"], "--train-limit: got 100, "),
        (["--resume", str(folder / "missing.npz")], "can't be read"),
        (["--resume", "--data-dir", str(tmp_path)], "--data-dir "),
        (["--resume", "--model", str(tmp_path / "missing" / "model.npz")], "--model "),
        ([], "there are checkpoints in it"),
    ]:
        with pytest.raises(InputError, match=told):
            train([*run, *more])
        assert content(folder) | {"metrics": metrics.read_bytes()} == before, more
    again = train([*run, "--resume"])
    assert again.status == 0
    assert not (folder / ".checkpoint-0000000099.npz.1234").exists()
    assert content(folder).keys() == before.keys() - {"metrics", ".checkpoint-0000000099.npz.1234"}
