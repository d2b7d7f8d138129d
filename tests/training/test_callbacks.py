"""A person's own functions see every step, epoch and checkpoint, on the ranks that they are promised, and end a run."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, Ended, command, mpirun

from distnet import NeuralNetwork
from distnet.datasets.dataset import shared_split
from distnet.parallel.exchange import Exchange
from distnet.parallel.world import World
from distnet.training.callbacks import Callback, train_with
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

SCRIPT = """
import json, sys
from pathlib import Path
from distnet.runtime.failure import install_hooks
install_hooks()
from distnet.train import train
from distnet.parallel.launched import launched_world

folder, *arguments = sys.argv[1:]
seen = {"steps": [], "epochs": [], "checkpoints": []}
status, network = train(
    arguments,
    on_step=lambda trainer: seen["steps"].append((trainer.epochs_done, trainer.steps_done)),
    on_epoch=lambda epoch: seen["epochs"].append((epoch.number, epoch.loss)),
    on_checkpoint=lambda path: seen["checkpoints"].append((path.name, path.exists())),
)
assert status == 0 and network.test is not None
Path(folder, f"seen-{launched_world().rank}.json").write_text(json.dumps(seen))
"""


def run(tmp_path, *arguments, ranks=None, script=SCRIPT, cwd=None):
    path = tmp_path / "script.py"
    path.write_text(script)
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    done = subprocess.run(
        [*launcher, sys.executable, str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("ranks", [None, 3])
def test_every_rank_sees_every_step_and_epoch_and_rank_0_every_checkpoint(ranks, digits, tmp_path):
    options = ("--data-dir", digits, "--hidden", 20, "--epochs", 2, "--checkpoint-dir", tmp_path / "run")
    ended = run(tmp_path, tmp_path, *options, ranks=ranks)
    assert ended.status == 0, ended.err
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(ranks or 1)]
    for each in seen:
        assert each["steps"] == [[epoch, step] for epoch in (0, 1) for step in range(1, 6)]
        assert [number for number, _ in each["epochs"]] == [1, 2]
        assert each["epochs"] == seen[0]["epochs"]
    assert seen[0]["checkpoints"] == [["checkpoint-0000000005.npz", True], ["checkpoint-0000000010.npz", True]]
    assert all(each["checkpoints"] == [] for each in seen[1:])
    assert ended.sha256 == command(*options[:-2], "--quiet").sha256


def test_training_ends_after_the_epoch_in_which_a_callback_says_so(digits, tmp_path):
    script = """
import sys
from distnet.train import train
status, network = train(sys.argv[1:], on_epoch=lambda epoch: epoch.number == 2)
assert (status, network.sizes) == (0, (784, 20, 10))
"""
    ended = run(tmp_path, "--data-dir", digits, "--hidden", 20, "--epochs", 9, ranks=2, script=script)
    assert ended.status == 0, ended.err
    epochs = [line.split()[1] for line in ended.out.splitlines() if line.startswith("epoch ")]
    assert epochs == ["1/9", "2/9"]


@pytest.mark.parametrize("what", ["on_step", "on_epoch", "on_checkpoint"])
def test_an_error_in_a_callback_ends_all_ranks(what, digits, tmp_path):
    script = f"""
import sys
from distnet.runtime.failure import install_hooks
install_hooks()
from distnet.train import train
from distnet.parallel.launched import launched_world
def trouble(what):
    if launched_world().rank == 0:
        raise OSError("my own mistake")
train(sys.argv[1:], {what}=trouble)
"""
    options = ("--data-dir", digits, "--hidden", 20, "--epochs", 2, "--checkpoint-dir", tmp_path / "run")
    ended = run(tmp_path, *options, ranks=2, script=script)
    assert ended.status != 0
    assert "distnet: rank 0 failed" in ended.err
    assert "my own mistake" in ended.err
    assert "can't be written" not in ended.err


@pytest.mark.parametrize(
    "call", ["train(sys.argv[1:], on_step=leave)", "network.train(*rows, comm=comm, on_step=leave)"]
)
def test_a_rank_that_exits_in_the_middle_leaves_no_other_waiting(call, digits, tmp_path):
    script = f"""
import sys
from distnet.runtime.failure import install_hooks
install_hooks()
import numpy as np
from distnet import NeuralNetwork
from distnet.train import train
from mpi4py import MPI
comm = MPI.COMM_WORLD
def leave(trainer):
    if comm.rank == 1:
        sys.exit(3)
network, rows = NeuralNetwork([4, 2]), (np.ones((9, 4)), np.eye(2)[np.arange(9) % 2])
{call}
"""
    ended = run(tmp_path, "--data-dir", digits, "--hidden", 20, "--quiet", ranks=2, script=script)
    assert ended.status != 0
    assert "distnet: rank 1 failed by sys.exit before the end" in ended.err


@pytest.mark.parametrize("checkpoint", [1, 2], ids=["while training", "at the end"])
def test_an_exit_in_the_thread_that_writes_checkpoints_ends_all_ranks(checkpoint, digits, tmp_path):
    script = f"""
import sys
from distnet.runtime.failure import install_hooks
install_hooks()
from distnet.train import train
seen = []
def leave(path):
    seen.append(path)
    if len(seen) == {checkpoint}:
        sys.exit(3)
train(sys.argv[1:], on_checkpoint=leave)
print("still here")
"""
    options = ("--data-dir", digits, "--hidden", 20, "--epochs", 2, "--checkpoint-dir", tmp_path / "run", "--quiet")
    ended = run(tmp_path, *options, ranks=2, script=script)
    assert ended.status != 0
    assert "distnet: rank 0 failed by sys.exit before the end" in ended.err
    assert "still here" not in ended.out


def test_what_a_callback_kept_of_shared_memory_outlives_the_run(digits, tmp_path):
    script = """
import sys
from distnet.runtime.failure import install_hooks
install_hooks()
import numpy as np
from distnet import NeuralNetwork
from distnet.train import train
from distnet.parallel.launched import launched_world
from mpi4py import MPI
world, kept, rows = launched_world(), [], (np.ones((9, 4)), np.eye(2)[np.arange(9) % 2])
keep = lambda t: kept.extend([t.exchange.parameters, t.exchange.gradients, t.train_set.inputs])
network = NeuralNetwork([4, 2])
network.train(*rows, epochs=2, on_step=keep)
assert (kept[0] == network.parameters).all() and [each.sum() for each in kept]
network.train(*rows, epochs=2, on_step=keep, comm=MPI.COMM_WORLD)
assert (kept[-3] == network.parameters).all() and [each.sum() for each in kept]
_, network = train(sys.argv[1:], on_step=keep)
assert (kept[-3] == network.parameters).all() and [each.sum() for each in kept]
print("still here")
"""
    ended = run(tmp_path, "--data-dir", digits, "--hidden", 20, "--epochs", 2, "--quiet", ranks=2, script=script)
    assert ended.status == 0, ended.err
    assert ended.out.count("still here") == 2


def rows_and_targets():
    draw = np.random.default_rng(0)
    return draw.normal(size=(50, 4)), np.eye(3)[draw.integers(3, size=50)]


def parameters_after(steps):
    """Those of a network whose training of five epochs a callback ends with an error."""
    network = NeuralNetwork([4, 5, 3])

    def give_up(trainer):
        if trainer.global_step == steps:
            raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        network.train(*rows_and_targets(), epochs=5, batch_size=20, on_step=give_up)
    return network.parameters.tobytes()


class Counter(Callback):
    """Counts its calls; `wanted` says whether it wants steps."""

    def __init__(self, wanted):
        self.wanted, self.started, self.steps, self.epochs = wanted, False, 0, 0

    def start(self, trainer):
        self.started = True

    def wants_steps(self):
        assert self.started
        return self.wanted

    def after_step(self, trainer):
        self.steps += 1
        return False

    def after_epoch(self, trainer, epoch):
        self.epochs += 1
        return False


@pytest.mark.parametrize("wanted", [(False, False), (True, False)], ids=["nobody", "one"])
def test_only_callbacks_that_want_steps_are_called_after_each(wanted, monkeypatch):
    inputs, targets = rows_and_targets()
    sizes, on_step, run = (4, 5, 3), [], Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda *given: on_step.append(given[3]) or run(*given))
    network = NeuralNetwork(sizes)
    data = shared_split(World(), inputs, targets, network.parameters.dtype)
    trainer = Trainer(World(), network.model, Splits(data), TrainingConfig(0.1, 20))
    counters = [Counter(each) for each in wanted]
    assert train_with(trainer, 2, counters)
    assert [each.steps for each in counters] == [6 * each for each in wanted]
    assert [each.epochs for each in counters] == [2, 2]
    assert (on_step == [None]) is not any(wanted)


def test_an_error_in_a_callback_of_a_network_leaves_it_the_parameters_of_that_step():
    whole = NeuralNetwork([4, 5, 3])
    whole.train(*rows_and_targets(), epochs=1, batch_size=20)
    assert parameters_after(3) == whole.parameters.tobytes()


@pytest.mark.parametrize("within", [False, True], ids=["between steps", "within a step"])
def test_after_ctrl_c_a_network_warns_and_has_the_parameters_of_the_last_complete_step(within, monkeypatch):
    handler, reduce_scatter, steps = signal.getsignal(signal.SIGINT), Exchange.reduce_scatter, []

    def interrupt():
        steps.append(None)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)

    def interrupted_reduce_scatter(exchange):
        interrupt()
        return reduce_scatter(exchange)

    network = NeuralNetwork([4, 5, 3])
    if within:
        monkeypatch.setattr(Exchange, "reduce_scatter", interrupted_reduce_scatter)
    with pytest.warns(UserWarning, match="training interrupted in epoch 2, after step 1 of 3"):
        network.train(
            *rows_and_targets(), epochs=5, batch_size=20, on_step=(lambda t: None) if within else lambda t: interrupt()
        )
    monkeypatch.undo()
    assert network.parameters.tobytes() == parameters_after(4)
    assert signal.getsignal(signal.SIGINT) is handler


def test_under_mpirun_an_error_in_a_callback_aborts_all_ranks_even_where_it_is_caught(tmp_path):
    script = """
import numpy as np
from distnet import NeuralNetwork
from distnet.parallel.launched import launched_world
def give_up(epoch):
    if launched_world().rank == 1:
        raise OSError("my own mistake")
try:
    NeuralNetwork([4, 2]).train(np.ones((9, 4)), np.eye(2)[np.arange(9) % 2], on_epoch=give_up)
except OSError:
    pass
"""
    ended = run(tmp_path, ranks=2, script=script)
    assert ended.status != 0
    assert "distnet: rank 1 failed" in ended.err
    assert "my own mistake" in ended.err


def test_a_network_tells_of_its_steps_too():
    draw = np.random.default_rng(0)
    rows, targets = draw.normal(size=(50, 4)), np.eye(3)[draw.integers(3, size=50)]
    network, seen = NeuralNetwork([4, 5, 3]), []
    network.train(rows, targets, epochs=2, batch_size=20, on_step=lambda trainer: seen.append(trainer.global_step))
    silent = NeuralNetwork([4, 5, 3])
    silent.train(rows, targets, epochs=2, batch_size=20)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert network.parameters.tobytes() == silent.parameters.tobytes()


def test_a_program_that_trained_has_its_signals_back_and_may_take_its_time(digits, tmp_path):
    script = """
import signal, sys, threading, time
from distnet.train import train
from distnet.parallel.launched import launched_world
own = lambda number, frame: print("own handler", flush=True)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, own)
for folder in ("one", "two"):
    train([*sys.argv[1:], "--checkpoint-dir", folder, "--stall-timeout", "2", "--quiet", "--validation", "100"])
assert not [t for t in threading.enumerate() if t.name.startswith(("stall watch", "checkpoint writer"))]
assert open("/proc/self/maps").read().count("/distnet-") == 1  # the barrier's, which stays
signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGTERM)
time.sleep(3.5)
print("still here")
"""
    folders = [f"--data-dir={digits}", "--hidden", 20, "--epochs", 2]
    ended = run(tmp_path, *folders, ranks=2, script=script, cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert ended.out.count("parameters sha256") == 2
    assert ended.out.count("own handler") == 4  # of two ranks, two each
    assert ended.out.count("still here") == 2
