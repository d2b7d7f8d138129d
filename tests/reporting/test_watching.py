"""What a person sees while a run goes on: a bar on a terminal, lines of every rank, curves in TensorBoard."""

import fcntl
import os
import pty
import struct
import sys
import termios

import pytest
from helpers import ROOT, command, fault

SMALL = ("--epochs", 3, "--hidden", 20)


def on_terminal(*arguments, env=None):
    """What the command shows on a terminal of 100 columns: its status, and the pieces between carriage returns."""
    process, terminal = pty.fork()
    if process == 0:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
        os.execve(sys.executable, [sys.executable, "-m", "distnet.train", *map(str, arguments)], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # that is how a terminal ends
            break
        shown += read
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode().replace("\r\n", "\n").split("\r")


def test_a_terminal_shows_a_bar_above_which_the_epochs_stay(digits):
    status, pieces = on_terminal(*SMALL, "--data-dir", digits)
    assert status == 0
    bars = [piece for piece in pieces if "samples/s" in piece and "%|" in piece]
    assert any("epoch 1/3:" in bar and "loss " in bar for bar in bars)
    assert any("accuracy 0." in bar for bar in bars)
    lines = [line for piece in pieces for line in piece.splitlines()]
    for number in (1, 2, 3):
        assert sum(line.startswith(f"epoch {number}/3  loss ") for line in lines) == 1
    assert lines[-1].startswith("parameters sha256 ")
    assert "%|" not in pieces[-1]  # the bar is gone


@pytest.mark.parametrize(("options", "env"), [(("--quiet",), None), ((), fault("no tqdm"))])
def test_quiet_and_without_tqdm_a_terminal_shows_no_bar(options, env, digits):
    status, pieces = on_terminal(*SMALL, "--data-dir", digits, *options, env=env)
    assert status == 0
    assert "%|" not in "".join(pieces)


def test_what_is_no_terminal_gets_no_bar(digits):
    assert command(*SMALL, "--data-dir", digits).err == ""


@pytest.mark.parametrize("ranks", [None, 3])
def test_verbose_ranks_tell_under_their_own_number_and_in_files_of_their_own(ranks, digits, tmp_path):
    folder = tmp_path / "logs"
    options = ("--verbose", "--log-dir", folder, "--checkpoint-dir", tmp_path / "run")
    ended = command(*SMALL, "--data-dir", digits, *options, ranks=ranks)
    assert ended.status == 0, ended.err
    assert {path.name for path in folder.iterdir()} == {f"rank-{rank}.log" for rank in range(ranks or 1)}
    for rank in range(ranks or 1):
        told = (folder / f"rank-{rank}.log").read_text().splitlines()
        assert all(f" rank {rank} on " in line for line in told)
        for what in ("process ", "node 1 of 1, MPI ", "loaded mnist, sha256 ", "owns shards ", "epoch 3/3, loss "):
            assert sum(what in line for line in told) == 1, what
        assert sum("is on the disk" in line for line in told) == (3 if rank == 0 else 0)
        assert sorted(line for line in ended.err.splitlines() if f" rank {rank} on " in line) == sorted(told)
    assert ended.out == command(*SMALL, "--data-dir", digits, ranks=ranks).out or ended.sha256


def test_logs_that_cannot_be_written_are_told_in_one_line(digits, tmp_path):
    (tmp_path / "logs").write_text("a file")
    ended = command(*SMALL, "--data-dir", digits, "--log-dir", tmp_path / "logs")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"distnet: --log-dir {tmp_path}/logs")
    assert ended.err.count("\n") == 1


def scalars(folder):
    """What TensorBoard would draw: tag -> [(step, value)], in the order of the files."""
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  the extra is there
    from tensorboardX.proto.event_pb2 import Event

    found, purged = {}, []
    for path in sorted(folder.iterdir()):
        raw, place = path.read_bytes(), 0
        while place < len(raw):
            (length,) = struct.unpack("<Q", raw[place : place + 8])
            event = Event.FromString(raw[place + 12 : place + 12 + length])
            place += 16 + length
            if event.session_log.status:
                purged.append(event.step)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found, purged


@pytest.mark.parametrize("ranks", [None, 2])
def test_tensorboard_gets_the_metrics_of_every_epoch(ranks, digits, tmp_path):
    import json

    board, metrics = tmp_path / "runs" / "a", tmp_path / "metrics.jsonl"
    options = ("--tensorboard", board, "--metrics", metrics, "--validation", 100)
    ended = command(*SMALL, "--data-dir", digits, *options, ranks=ranks)
    assert ended.status == 0, ended.err
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    found, _ = scalars(board)
    tags = {"training/loss": "loss", "training/learning_rate": "learning_rate", "test/accuracy": "test_accuracy"}
    tags |= {"validation/loss": "validation_loss", "training/samples_per_second": "samples_per_second"}
    for tag, name in tags.items():
        assert found[tag] == [(r["epoch"], pytest.approx(r[name], rel=1e-6)) for r in records]


def test_a_resumed_run_goes_on_on_the_same_board(digits, tmp_path):
    options = ("--data-dir", digits, "--tensorboard", tmp_path / "board", "--checkpoint-dir", tmp_path / "run")
    assert command("--hidden", 20, "--epochs", 2, *options).status == 0
    assert command("--hidden", 20, "--epochs", 3, *options, "--resume").status == 0
    found, purged = scalars(tmp_path / "board")
    assert [step for step, _ in found["test/accuracy"]] == [1, 2, 3]
    assert 3 in purged


def test_without_tensorboardx_its_option_says_what_to_install(digits, tmp_path):
    ended = command(*SMALL, "--data-dir", digits, "--tensorboard", tmp_path, env=fault("no tensorboardX"))
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == (
        f"distnet: --tensorboard {tmp_path}: it needs tensorboardX (a fault for a test); pip install tensorboardX"
    )
