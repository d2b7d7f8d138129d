"""Stopped at any step and gone on with on any ranks, a run ends with the bits of one that nobody disturbed."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import alive, command, end, fault, mpirun, read_metrics, start, wait_for

from distnet.datasets.dataset import shared_split
from distnet.nn.model import ARITHMETICS, Model
from distnet.nn.optimizers import RULES, Hyperparameters
from distnet.nn.parameters import initial_parameters
from distnet.parallel.world import World
from distnet.training.checkpoint import Checkpoint, checkpoint_path, checkpoints, read_checkpoint, write_checkpoint
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

SIZES, ROWS, BATCH = (19, 23, 7), 61, 16  # four steps an epoch, the last of 13 rows
SOON = 20


# In one process a rank, under mpirun.


def trainer(world, arithmetic, **hyper):
    dtype, shards = ("float64", None) if arithmetic == "portable" else ("float32", 4)
    generator = np.random.default_rng(9)
    X = generator.normal(size=(ROWS, SIZES[0]))
    Y = np.eye(SIZES[-1])[generator.integers(0, SIZES[-1], ROWS)]
    split = shared_split(world, X, Y, dtype)
    initial = initial_parameters(SIZES, "tanh", 0, dtype)
    hyper = Hyperparameters(weight_decay=0.01, clip_norm=0.7, **hyper)
    config = TrainingConfig(0.1, BATCH, hyper, shards=shards)
    return Trainer(world, Model(SIZES, "tanh", initial, arithmetic=arithmetic), Splits(split, split), config)


def told(epoch):
    return epoch.number, epoch.loss, epoch.test.score, epoch.test.loss


def topologies(ranks):
    """All that so many ranks can be: how many of them, and how many a pretended node; None for one node."""
    return [(n, per_node) for n in range(ranks, 0, -1) for per_node in [None, *range(1, n)]]


def moved(comm, per_node, arithmetic, optimizer, position, found, stop_after, reported):
    """Go on for some steps on these ranks. Returns whether the run is done, where it stands, its state, its bits."""
    world = World(comm, per_node)
    training = trainer(world, arithmetic, optimizer=optimizer)
    if position[-1]:
        training.restore(*position, found)
    steps = itertools.count(1)
    done = training.run(3, lambda epoch: reported.append(told(epoch)), lambda: next(steps) == stop_after)
    position, state = (training.epochs_done, training.steps_done, training.optimizer.steps), training.state()
    assert bool(state) == (world.rank == 0)
    parameters = training.close()
    world.close()
    return done, position, state, parameters


def through_a_file(position, arrays):
    """What a checkpoint gives back of a state."""
    history = [{"test_accuracy": 0.5}] * position[0]
    header = dict(zip(("epochs_done", "steps_done", "optimizer_steps"), position, strict=True))
    header |= {"shards": 4, "config": {}, "fingerprint": "", "history": history}
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint_path(Path(folder), position[-1])
        write_checkpoint(path, Checkpoint(header, arrays), 1)
        return read_checkpoint(path).arrays


@pytest.mark.mpi
@pytest.mark.ranks(4)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("optimizer", RULES)
def test_a_run_that_moves_to_other_ranks_after_every_step_or_two_ends_with_the_same_bits(optimizer, arithmetic):
    from mpi4py import MPI

    everyone, undisturbed, reported = MPI.COMM_WORLD, [], []
    alone = trainer(World(), arithmetic, optimizer=optimizer)
    alone.run(3, lambda epoch: undisturbed.append(told(epoch)))
    done, position, state = False, (0, 0, 0), {}
    places = itertools.cycle(topologies(min(everyone.size, 4)))
    for stop_after in itertools.cycle((1, 2)):
        ranks, per_node = next(places)
        comm = everyone.Split(0 if everyone.rank < ranks else MPI.UNDEFINED)
        if comm != MPI.COMM_NULL:
            done, position, state, parameters = moved(
                comm, per_node, arithmetic, optimizer, position, state, stop_after, reported
            )
            comm.Free()
        done, position = everyone.bcast((done, position))
        if done:
            break
        state = through_a_file(position, state) if everyone.rank == 0 else {}
    same = everyone.rank > 0 or (parameters.tobytes() == alone.close().tobytes() and reported == undisturbed)
    assert all(everyone.allgather(same))


@pytest.mark.mpi
def test_a_state_is_whole_even_if_the_other_ranks_go_back_to_the_best_parameters_at_once():
    from mpi4py import MPI

    world = World(MPI.COMM_WORLD)
    training = trainer(world, "portable")
    training.best = training.exchange.slice.copy()
    training.run(1, lambda epoch: None)
    expected, gather = training.exchange.parameters.copy(), training.exchange.gather

    def slowly(part):
        found = gather(part)
        time.sleep(0.2 * (world.rank == 0))
        return found

    training.exchange.gather = slowly
    world.node_barrier()
    state = training.state()
    training.restore_best()
    same = world.rank > 0 or np.array_equal(state["parameters"], expected)
    training.close()
    world.close()
    assert all(MPI.COMM_WORLD.allgather(same))


# By the command.

OPTIONS = ("--hidden", 20, "--epochs", 3, "--quiet")  # of 600 digits: five steps an epoch, the last of 88 rows
STOPPED = "checkpoint written; run it again with --checkpoint-dir {} --resume"


@pytest.fixture(scope="module")
def undisturbed(digits):
    """The last lines of the run that nobody disturbs."""
    ended = command("--data-dir", digits, *OPTIONS)
    assert ended.status == 0
    return ended.out


def run(digits, folder, *more, **how):
    """A run that goes on from what there is."""
    return command("--data-dir", digits, *OPTIONS, "--checkpoint-dir", folder, "--resume", *more, **how)


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "adam", "--clip-norm", 0.5),
        (
            *("--optimizer", "adamw", "--weight-decay", 0.01, "--learning-rate", 0.01, "--activation", "gelu"),
            *("--schedule", "cosine", "--warmup-epochs", 0.5, "--dropout", 0.3, "--label-smoothing", 0.1),
            *("--augment", "shift,rotate,scale,elastic"),
        ),
        (
            *("--arithmetic", "native", "--shards", 6, "--stack", 1, "--optimizer", "nesterov"),
            *("--weight-decay", 0.01, "--activation", "tanh", "--tutorial-loss"),
        ),
    ],
    ids=str,
)
def test_4_ranks_then_1_then_3_then_2_nodes_end_as_a_run_that_nobody_disturbed(digits, tmp_path, options):
    reference = tmp_path / "reference.jsonl"
    undisturbed = command("--data-dir", digits, *OPTIONS, *options, "--metrics", reference)
    told, folder = tmp_path / "metrics.jsonl", tmp_path / "checkpoints"
    stops = [  # ranks, the signal and the rank that gets it, its step in this run, and where all then stand
        (4, "SIGTERM", 2, 3, "in epoch 1, after step 3 of 5"),
        (None, "SIGINT", 0, 4, "in epoch 2, after step 2 of 5"),
        (3, "SIGUSR1", 0, 3, "in epoch 2, after step 5 of 5"),
        (1, "SIGTERM", 0, 1, "in epoch 3, after step 1 of 5"),
    ]
    for ranks, name, rank, step, where in stops:
        ended = run(digits, folder, *options, "--metrics", told, ranks=ranks, env=fault(name, rank, step))
        assert (ended.status, ended.out) == (75, "")
        assert f"distnet: stopped {where}, {STOPPED.format(folder)}\n" in ended.err
    ended = run(digits, folder, *options, "--metrics", told, "--ranks-per-node", 2, ranks=4)
    assert (ended.status, ended.err, ended.out) == (0, "", undisturbed.out)
    assert read_metrics(told) == read_metrics(reference)
    assert json.loads((folder / "completed.json").read_text())["parameters_sha256"] == undisturbed.sha256


def test_in_portable_arithmetic_a_run_moves_to_any_number_of_ranks(digits, tmp_path, undisturbed):
    assert run(digits, tmp_path, env=fault("SIGTERM", step=7)).status == 75
    assert run(digits, tmp_path, ranks=6, env=fault("SIGTERM", 4, 7)).status == 75
    assert run(digits, tmp_path, ranks=5).out == undisturbed


def test_in_native_arithmetic_the_checkpoints_shards_are_kept_and_too_many_ranks_are_told(digits, tmp_path):
    native = ("--arithmetic", "native")
    assert run(digits, tmp_path, *native, env=fault("SIGTERM", step=7)).status == 75
    ended = run(digits, tmp_path, *native, ranks=2)
    assert (ended.status, ended.out) == (2, "")
    assert f"{checkpoints(tmp_path)[0]}: was made with 1 shard, and 2 ranks need one each; use 1 rank" in ended.err
    other = tmp_path / "other"
    assert run(digits, other, *native, ranks=3, env=fault("SIGTERM", 2, 7)).status == 75
    three = command("--data-dir", digits, *OPTIONS, *native, "--shards", 3)
    assert run(digits, other, *native, ranks=2).out == three.out


def test_checkpoints_by_the_clock_are_made_by_all_ranks_at_the_same_step(digits, tmp_path):
    running = start(
        *("--data-dir", digits, *OPTIONS, "--epochs", 10**6, "--checkpoint-dir", tmp_path),
        *("--checkpoint-every", "1", "s", "--ranks-per-node", 1),
        ranks=2,
    )
    wait_for(lambda: len(checkpoints(tmp_path)) > 1, running)
    second, first = (path.stat().st_mtime for path in checkpoints(tmp_path))
    running.send_signal(signal.SIGUSR1)
    assert end(running, SOON).status == 75
    assert 0.9 < second - first < 5
    assert all(read_checkpoint(path) for path in checkpoints(tmp_path))


def ranks_of():
    """The processes of a running command, by their ranks."""
    found = {}
    for line in alive():
        process = line.split()[0]
        environment = Path("/proc", process, "environ").read_bytes()
        if rank := re.search(rb"\0(?:PMI_RANK|OMPI_COMM_WORLD_RANK)=(\d+)\0", environment):
            found[int(rank[1])] = int(process)
    return found


def endless(digits, folder, *more, ranks=3, **how):
    """A run that doesn't end, once its first checkpoint is there."""
    options = ("--epochs", 10**6, "--checkpoint-dir", folder)
    running = start("--data-dir", digits, *OPTIONS, *options, *more, ranks=ranks, **how)
    wait_for(lambda: checkpoints(folder), running)
    return running


def ours(ended):
    """What distnet told on standard error, without what the launcher said."""
    return [line for line in ended.err.splitlines() if line.startswith("distnet: ")]


def check_stopped(digits, folder, ended):
    """It told one plain line, and its newest checkpoint has the bits of an undisturbed run as long."""
    assert "sha256" not in ended.out
    assert "Traceback" not in ended.err
    assert not list(folder.glob("failure-*"))
    if ended.status == 1 and "Open MPI" in launcher():  # it kills all ranks 0.25 s after it got a signal
        assert ours(ended) == []
    else:
        assert ended.status == 75
        (line,) = ours(ended)
        assert re.fullmatch(
            rf"distnet: stopped in epoch \d+, after step \d of 5, {re.escape(STOPPED.format(folder))}", line
        )
    epochs = read_checkpoint(checkpoints(folder)[0]).header["epochs_done"] + 1
    resumed = run(digits, folder, "--epochs", epochs)
    assert resumed.out == command("--data-dir", digits, *OPTIONS, "--epochs", epochs).out


@cache
def launcher():
    """Which mpirun it is."""
    return subprocess.run([mpirun(), "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_to_mpirun_stops_all_ranks_after_a_step_and_nothing_is_lost(digits, tmp_path, name):
    running = endless(digits, tmp_path)
    running.send_signal(signal.Signals[name])
    check_stopped(digits, tmp_path, end(running, SOON))


@pytest.mark.parametrize(("name", "rank"), [("SIGTERM", 0), ("SIGINT", 1), ("SIGUSR1", 2)])
def test_a_signal_to_one_rank_alone_stops_all_ranks_after_a_step_and_nothing_is_lost(digits, tmp_path, name, rank):
    running = endless(digits, tmp_path, "--ranks-per-node", 2)
    os.kill(ranks_of()[rank], signal.Signals[name])
    check_stopped(digits, tmp_path, end(running, SOON))


@pytest.mark.parametrize(
    ("name", "moment", "ranks"),
    [
        ("SIGUSR1", "before MPI", 2),
        ("SIGUSR1", "loading", 2),
        ("SIGTERM", "before MPI", 2),
        ("SIGUSR1", "loading", None),
    ],
)
def test_a_request_to_stop_that_comes_before_the_first_step_stops_after_it(digits, tmp_path, name, moment, ranks):
    rank = ranks and 1
    env = fault("stop while loading", rank) | {"DISTNET_FAULT_SIGNAL": name, "DISTNET_FAULT_MOMENT": moment}
    ended = run(digits, tmp_path, ranks=ranks, env=env)
    assert ended.status == 75
    assert f"distnet: stopped in epoch 1, after step 1 of 5, {STOPPED.format(tmp_path)}\n" in ended.err


def test_without_checkpoints_a_request_to_stop_while_loading_ends_the_command(digits):
    env = fault("stop while loading") | {"DISTNET_FAULT_SIGNAL": "SIGTERM", "DISTNET_FAULT_MOMENT": "before MPI"}
    ended = command("--data-dir", digits, *OPTIONS, env=env)
    assert (ended.status, ended.out, ended.err) == (-signal.SIGTERM, "", "")


def test_ctrl_c_at_a_terminal_which_every_process_gets_is_one_interrupt(digits, tmp_path):
    running = endless(digits, tmp_path)
    os.killpg(running.pid, signal.SIGINT)
    check_stopped(digits, tmp_path, end(running, SOON))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_works_while_the_other_ranks_wait_for_one_that_does_not_come(digits, tmp_path, name):
    running = endless(digits, tmp_path)
    ranks = ranks_of()
    os.kill(ranks[0], signal.SIGSTOP)
    time.sleep(0.1)
    os.kill(ranks[1], signal.Signals[name])
    time.sleep(0.3)
    assert running.poll() is None
    os.kill(ranks[0], signal.SIGCONT)
    check_stopped(digits, tmp_path, end(running, SOON))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_second_interrupt_ends_all_ranks_at_once(digits, tmp_path, rank):
    running = endless(digits, tmp_path)
    ranks = ranks_of()
    os.kill(ranks[2], signal.SIGSTOP)  # so that no step can be finished
    time.sleep(0.1)
    for _ in range(2):
        assert running.poll() is None
        os.kill(ranks[rank], signal.SIGINT)
        time.sleep(0.2)
    assert end(running, 5).status == 130


# The ends of those who fail.


def failures(folder):
    """The blocks in the failure files, by rank."""
    return {int(path.name.split("-")[-2]): path.read_text() for path in folder.glob("failure-*.txt")}


def test_an_exception_tells_rank_host_epoch_step_and_traceback_on_standard_error_and_in_a_file(digits, tmp_path):
    ended = run(digits, tmp_path, ranks=3, env=fault("error", 1, step=8))
    assert ended.status == 1
    (block,) = [failures(tmp_path)[1]]
    assert block in ended.err
    assert list(failures(tmp_path)) == [1]
    head, traceback = block.split("\n", 1)
    assert head == f"distnet: rank 1 failed on {os.uname().nodename}, in epoch 2, after step 2 of 5"
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.endswith("RuntimeError: a fault for a test\n")
    assert not (tmp_path / "completed.json").exists()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "leave"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_gone_ends_all_and_the_run_is_not_taken_for_complete(digits, tmp_path, undisturbed, name, rank):
    assert run(digits, tmp_path).status == 0
    assert (tmp_path / "completed.json").exists()
    ended = run(digits, tmp_path, "--epochs", 10, "--resume", ranks=3, env=fault(name, rank, step=8))
    assert "sha256" not in ended.out
    assert not (tmp_path / "completed.json").exists()
    if name != "leave":  # with which MPICH's mpirun ends with status 0
        assert ended.status != 0
    if name == "SIGSEGV":
        assert "Segmentation fault" in ended.err


def check_stalled(ended, folder, others):
    """The other ranks told where they wait."""
    assert ended.status not in (0, 75)
    told = failures(folder)
    assert set(told) >= set(others)
    for rank in others:
        head = f"distnet: rank {rank} made no step for 4 s and waits on {os.uname().nodename}, in epoch "
        assert told[rank].startswith(head)
        assert " in run\n    epoch = self.epoch(on_step, tutorial_loss, has_sha256)\n" in told[rank]
        assert head in ended.err


def test_a_rank_that_is_stopped_ends_all_and_the_others_tell_where_they_wait(digits, tmp_path):
    running = endless(digits, tmp_path, "--stall-timeout", 4)
    os.kill(ranks_of()[1], signal.SIGSTOP)
    check_stalled(end(running, SOON), tmp_path, others=[0, 2])


def test_a_rank_that_sleeps_ends_all_and_every_one_tells_where_it_waits(digits, tmp_path):
    ended = run(digits, tmp_path, "--stall-timeout", 4, ranks=3, env=fault("sleep", 0, step=7), timeout=SOON)
    check_stalled(ended, tmp_path, others=[0, 1, 2])
    assert "in <lambda>\n    in_training(lambda: time.sleep(1000))" in failures(tmp_path)[0]


def test_a_rank_that_never_comes_ends_all_before_the_first_step(digits, tmp_path):
    begin = time.monotonic()
    ended = run(digits, tmp_path, "--stall-timeout", 2, ranks=3, env=fault("late", 1), timeout=SOON)
    assert ended.status not in (0, 75)
    assert time.monotonic() - begin > 2
    assert "in launched_world" in ended.err  # where the others wait


def test_a_run_that_goes_on_is_not_taken_for_stalled(digits, tmp_path):
    running = endless(digits, tmp_path, "--stall-timeout", 4)
    time.sleep(6)
    running.send_signal(signal.SIGUSR1)
    assert end(running, SOON).status == 75


# Ranks that were given different options.


def apart(*commands):
    """Arguments that give the first rank the first of these, the second the second, and so on."""
    other = [(":", "-n", 1, sys.executable, "-m", "distnet.train", *each) for each in commands[1:]]
    return [*commands[0], *itertools.chain(*other)]


@pytest.mark.parametrize(
    ("options", "value"),
    [
        (("--epochs", 4), "4 on rank 1, and 3 on rank 0"),
        (("--seed", 1), "1 on rank 1, and 0 on rank 0"),
        (("--learning-rate", 0.2), "0.2 on rank 1, and 0.3 on rank 0"),
        (("--resume",), " on rank 1, and None on rank 0"),
    ],
    ids=str,
)
def test_a_rank_with_another_option_is_named_with_both_values(digits, tmp_path, options, value):
    usual = ("--data-dir", digits, *OPTIONS, "--checkpoint-dir", tmp_path)
    ended = command(*apart(usual, (*usual, *options)), ranks=1, timeout=15)
    assert (ended.status, ended.out) == (2, "")
    assert ours(ended) == [f"distnet: {options[0]}: {value}; give all ranks the same"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_bad_option_on_one_rank_alone_ends_all_and_names_it(digits, wrong):
    commands = [("--data-dir", digits, *OPTIONS)] * 3
    commands[wrong] = ("--epochs", "none")
    ended = command(*apart(*commands), ranks=1, timeout=15)
    assert (ended.status, ended.out) == (2, "")
    assert ours(ended) == [f"distnet: rank {wrong}: --epochs: expected a positive integer, got 'none'"]


def test_help_on_one_rank_alone_ends_all(digits):
    ended = command(*apart(("--data-dir", digits, *OPTIONS), ("--help",)), ranks=1, timeout=15)
    assert ended.status == 2
    assert "distnet: rank 1 exited before the other ranks; give all ranks the same options\n" in ended.err
