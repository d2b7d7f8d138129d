"""In a program under mpirun, no rank waits forever for one that has exited, makes another call, or stays away."""

import numpy as np
import pytest
from helpers import end, start

from distnet.datasets.dataset import shared_split
from distnet.parallel.world import World
from distnet.runtime.errors import InputError

SOON = 60  # seconds: much more than any of these needs, and less than a hang
BEGIN = """
import os, sys, time
from mpi4py import MPI
import numpy as np
from distnet import NeuralNetwork, load_mnist
from distnet.runtime import failure, launch
from distnet.train import train
rank = MPI.COMM_WORLD.rank
network = NeuralNetwork([4, 3])
X, Y = np.ones((9, 4)), np.eye(3)[np.arange(9) % 3]
"""


@pytest.fixture
def program(tmp_path):
    """Run a program, by default on two ranks."""

    def run(code, *arguments, ranks=2, begin=BEGIN, **env):
        script = tmp_path / "program.py"
        script.write_text(begin + code)
        return end(start(*arguments, ranks=ranks, script=script, cwd=tmp_path, env=env), SOON)

    return run


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("if rank == 1: sys.exit()\nnetwork.train(X, Y)", "rank 1 has exited, and rank 0 is in NeuralNetwork.train"),
        ("if rank == 1: network.train(X, Y)", "rank 0 has exited, and rank 1 is in NeuralNetwork.train"),
        ("if rank == 1: raise SystemExit(3)\nload_mnist()", "rank 1 has exited, and rank 0 is in load_mnist"),
        ("if rank == 0: train(['--dataset', 'synthetic'])", "rank 1 has exited, and rank 0 is in distnet.train.train"),
        (
            "network.train(X, Y) if rank == 0 else load_mnist()",
            "rank 1 is in load_mnist, and rank 0 in NeuralNetwork.train",
        ),
        (
            "comm = MPI.COMM_SELF if rank == 1 else None\nnetwork.train(X, Y, comm=comm)",
            "rank 1 has exited, and rank 0 is in NeuralNetwork.train",
        ),
    ],
)
def test_a_call_that_not_all_ranks_make_ends_all_and_names_the_rank_that_is_elsewhere(program, code, told):
    ended = program(code)
    assert ended.status == 1
    assert f"distnet: {told}; let all ranks make the same calls\n" in ended.err


def test_the_same_goes_for_a_program_that_leaves_starting_mpi_to_distnet(program):
    begin = BEGIN.replace("from mpi4py import MPI\n", "").replace("MPI.COMM_WORLD.rank", "launch.launched_rank()")
    ended = program("if rank == 1: sys.exit()\nnetwork.train(X, Y)", begin=begin)
    assert ended.status == 1
    assert "distnet: rank 1 has exited, and rank 0 is in " in ended.err


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ("time.sleep(600)", "but other ranks have not; aborting all ranks"),
        ("network.train(X, Y)", "and "),
    ],
)
def test_sys_exit_with_a_status_ends_all_ranks_at_once_with_it(program, others, told):
    ended = program(f"if rank == 1: sys.exit(3)\n{others}")
    assert ended.status == 3
    assert f"distnet: rank 1 has exited with status 3, {told}" in ended.err


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(3)", 3),
        ("if rank == 0: sys.exit()\ntime.sleep(1)", 0),
        # A status that somebody caught isn't one.
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    time.sleep(rank)", 0),
    ],
)
def test_ranks_that_need_no_other_one_may_leave(program, code, status):
    ended = program(code)
    assert ended.status == status
    assert "distnet" not in ended.err
    assert "Abort" not in ended.err


SLOW = """
failure.WARN_AFTER = 1.0

def wait(trainer=None):
    if rank == 1 and (trainer is None or trainer.global_step == 5):
        time.sleep(1.8)

wait()
network.train(X, Y)
network.train(X, Y, on_step=wait)
train([*sys.argv[1:], "--quiet", "--ranks-per-node", "1"], on_step=wait)
"""


def test_a_rank_that_waits_long_names_whom_it_waits_for_and_goes_on(program, digits):
    """Before a call, within a call, and on nodes of one rank, which can't see the arrivals of others."""
    ended = program(SLOW, "--data-dir", digits, "--epochs", 2, ranks=3)
    assert ended.status == 0, ended.err
    before, within, *between = [line for line in ended.err.splitlines() if line.startswith("distnet: ")]
    assert before == (
        "distnet: rank 0 has waited 1 s in NeuralNetwork.train for rank 1; let all ranks make the same calls"
    )
    assert within == "distnet: rank 0 has waited 1 s for rank 1, in epoch 5, after step 1 of 1"
    where = "has waited 1 s for ranks on other nodes, in epoch 1, after step 5 of 5"
    assert sorted(between) == [f"distnet: rank 0 {where}", f"distnet: rank 2 {where}"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "rank == 1 and time.sleep(600)\nnetwork.train(X, Y)",
            "rank 0 has waited 2 s in NeuralNetwork.train for rank 1",
        ),
        (
            "network.train(X, Y, on_epoch=lambda _: rank == 1 and time.sleep(600))",
            "rank 0 made no step for 2 s and waits",
        ),
    ],
    ids=["in front of a call", "in the middle of it"],
)
def test_ranks_of_a_program_that_make_no_step_end(program, code, told):
    ended = program(code, DISTNET_STALL_TIMEOUT="2")
    assert ended.status == 1
    assert f"distnet: {told}" in ended.err


@pytest.mark.parametrize("error", ["MemoryError", "InputError"])
def test_an_error_of_one_rank_within_a_call_ends_all_though_the_program_would_catch_it(program, error):
    ended = program(f"""
from distnet.runtime.errors import InputError
from distnet.training.trainer import Trainer
prepare = Trainer.__init__
def spoiled(*args, **kwargs):
    if rank == 1: raise {error}("it", "is mine")
    prepare(*args, **kwargs)
Trainer.__init__ = spoiled
try:
    network.train(X, Y)
except Exception:
    pass
""")
    assert ended.status == 1
    assert "distnet: rank 1 failed" in ended.err
    assert f"{error}: " in ended.err
    assert "is mine" in ended.err


def test_an_error_of_all_ranks_can_be_caught_and_a_value_of_one_rank_that_is_no_number_is_all_ranks_error(program):
    ended = program("""
from distnet.runtime.errors import InputError
own = X.astype(object)
if rank == 1:
    own[8, 2] = "x"
for rows in (X[:, :2], own, X[: 9 - rank]):
    try:
        network.train(rows, Y[: len(rows)])
    except InputError as error:
        print(error, flush=True)
network.train(X, Y)
""")
    assert ended.status == 0, ended.err
    shape = "X: expected shape (rows, 4), got (9, 2)"
    value = "X: not all of its values are numbers (could not convert string to float: 'x') (on rank 1)"
    others = "X and Y: rank 1 has others than rank 0; give all ranks the same arrays"
    assert sorted(ended.out.splitlines()) == sorted([shape, f"{value}; convert or remove the others", others] * 2)


@pytest.mark.parametrize("bad", ["x", 1j], ids=str)
def test_a_value_that_is_no_number_is_an_input_error(bad):
    rows = np.ones((9, 4), object)
    rows[8, 2] = bad
    with pytest.raises(InputError, match="X: not all of its values are numbers"):
        shared_split(World(), rows, np.eye(3)[np.arange(9) % 3], np.float32)
