"""A rank that fails, an interrupt, a wrong launcher: all ranks end soon, and the reason is told."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, command, end, fault, mpirun, start

SOON = 20  # seconds: much more than any of these needs, and less than a hang
FOREVER = ("--epochs", 1_000_000, "--quiet")


def failed(train, digits, name, rank, ranks=3):
    """How a training ends in which `rank` has this fault; `command` sees that no process is left."""
    ended = train("--data-dir", digits, *FOREVER, ranks=ranks, env=fault(name, rank), timeout=SOON)
    assert ended.status != 0
    assert "sha256" not in ended.out
    return ended


def assert_told(ended, rank, where=""):
    """The rank's number stands above its traceback."""
    told = rf"^distnet: rank {rank} failed{where}\b.*\nTraceback \(most recent call last\):$"
    assert re.search(told, ended.err, re.MULTILINE), ended.err


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_an_exception_on_one_rank_ends_all_with_its_traceback_and_number(train, digits, rank):
    ended = failed(train, digits, "error", rank)
    assert_told(ended, rank)
    assert "\nRuntimeError: a fault for a test\n" in ended.err
    assert ended.err.count("Traceback") == 1
    assert ended.status == 1


def test_an_exception_in_a_thread_ends_all_ranks(train, digits):
    ended = failed(train, digits, "thread", 1)
    assert_told(ended, 1, " in thread helper")
    assert "\nRuntimeError: a fault for a test\n" in ended.err


def test_a_rank_without_memory_ends_all_ranks(train, digits):
    ended = failed(train, digits, "memory", 2)
    assert_told(ended, 2)
    assert "\nMemoryError: a fault for a test\n" in ended.err


@pytest.mark.parametrize("rank", [0, 2])
def test_an_import_that_fails_on_one_rank_before_mpi_starts_ends_all_ranks(train, digits, rank):
    ended = failed(train, digits, "import", rank)
    assert_told(ended, rank)
    assert "\nImportError: a fault for a test\n" in ended.err


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_while_mpi_is_loaded_but_not_started_ends_all_ranks(train, digits, rank):
    ended = failed(train, digits, "before MPI", rank)
    assert_told(ended, rank)
    assert "\nRuntimeError: a fault for a test\n" in ended.err


@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.7, 0.9])
def test_an_interrupt_in_the_first_second_ends_all_ranks(digits, seconds, monkeypatch):
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # make coverage: it starts before distnet can
    training = start("--data-dir", digits, *FOREVER, ranks=3)
    time.sleep(seconds)
    training.send_signal(signal.SIGINT)
    ended = end(training, SOON)
    assert ended.status != 0
    assert "sha256" not in ended.out


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_leaves_without_an_error_ends_all_ranks(train, digits, rank):
    ended = failed(train, digits, "exit", rank)
    assert re.search(rf"^distnet: rank {rank} .*sys\.exit before the end", ended.err, re.MULTILINE)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_ranks(train, digits, rank):
    failed(train, digits, "SIGKILL", rank)


@pytest.mark.parametrize("name", ["error", "thread", "import"])
def test_without_mpirun_a_failure_is_told_in_the_same_way(train, digits, name):
    ended = failed(train, digits, name, None, ranks=None)
    assert "distnet: rank 0 failed" in ended.err
    assert ended.err.endswith("Error: a fault for a test\n")
    assert ended.status == 1


@pytest.mark.parametrize("ranks", [None, 3])
def test_an_interrupt_ends_the_training_with_one_line(digits, tmp_path, ranks):
    metrics, model = tmp_path / "metrics.jsonl", tmp_path / "model.pkl"
    training = start("--data-dir", digits, *FOREVER, "--metrics", metrics, "--model", model, ranks=ranks)
    deadline = time.monotonic() + SOON
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    ended = end(training, SOON)
    assert ended.status != 0
    assert "sha256" not in ended.out
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    if ranks is None:
        assert (ended.status, ended.err) == (130, "distnet: interrupted\n")
    elif mpi_library().startswith("MPICH"):  # after an interrupt, Open MPI's mpirun passes no output on
        assert ended.err.count("distnet: interrupted\n") == 1


def mpi_library():
    """Name and version of the MPI that mpi4py loads; asked in a process of its own, for loading it has effects."""
    code = (
        "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; "
        "from distnet.parallel.mpi import library_name; "
        "print(library_name(MPI.Get_library_version()))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def check_not_run_four_times_over(train, digits, variables, *told, env=None):
    """Each of the processes that a launcher started with these variables ends; the first one says why."""
    size, rank = variables
    for number in range(4):
        launched = {size: "4", rank: str(number)} | (env or {})
        ended = train("--data-dir", digits, "--epochs", 1, env=launched, timeout=SOON)
        assert (ended.status, ended.out) == (2, "")
        if number == 0:
            assert ended.err.startswith("distnet: ")
            assert ended.err.count("\n") == 1
            assert all(part in ended.err for part in told), ended.err
        else:
            assert ended.err == ""


def test_a_launcher_of_another_mpi_is_told_once(train, digits):
    library = mpi_library()
    told = ["started 4 processes, but mpi4py loads ", library, "start them with the mpirun that belongs to"]
    if library.startswith("Open MPI"):
        check_not_run_four_times_over(train, digits, ("PMI_SIZE", "PMI_RANK"), "the mpirun of MPICH's family", *told)
    else:
        variables = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
        check_not_run_four_times_over(train, digits, variables, "Open MPI's mpirun", *told)


def test_a_launcher_without_mpi4py_is_told_once(train, digits, tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module named mpi4py')")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    told = ["launcher: it started 4 processes, but mpi4py can't be used here", "pip install mpi4py"]
    check_not_run_four_times_over(train, digits, ("PMI_SIZE", "PMI_RANK"), *told, env=env)


def test_four_worlds_of_one_rank_are_told_once(train, digits):
    told = ["launcher: it started 4 processes, but each is alone in its "]
    check_not_run_four_times_over(train, digits, ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), *told)


def test_commands_that_a_rank_starts_run_as_one_process(digits, tmp_path):
    """By subprocess, which closes the rank's connection to its launcher, and by os.system, which hands it on."""
    script = f"""
import os, subprocess, sys
from distnet.parallel.launched import launched_world
command = [sys.executable, "-m", "distnet.train", "--data-dir", {str(digits)!r}, "--epochs", "1", "--quiet"]
if launched_world().rank == 1:
    print(subprocess.run(command).returncode, flush=True)
    print(os.system(" ".join(command)), flush=True)
    command = [sys.executable, "-m", "distnet.supervise", "-n", "2", "--", "--checkpoint-dir", {str(tmp_path)!r}]
    print(subprocess.run(command).returncode, flush=True)
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    ended = end(start(ranks=2, script=path), 60)
    assert ended.status == 0, ended.err
    one = command("--data-dir", digits, "--epochs", 1, "--quiet").out
    assert ended.out == f"{one}0\n{one}0\n2\n"
    assert ended.err.count("distnet: started by a rank of an MPI job; running as a single process\n") == 2
    assert (
        "distnet: distnet.supervise: mpirun started it, and it starts mpirun itself; start it without mpirun"
        in ended.err
    )


@pytest.mark.parametrize("module", ["train", "compare", "datasets", "export", "plan", "supervise"])
def test_a_python_without_what_distnet_needs_is_one_line_that_says_what_to_activate(module):
    ended = command(module=f"distnet.{module}", env=fault("not activated"))
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    activate = ROOT / ".venv" / "bin" / "activate"
    remedy = f": source {activate}" if activate.exists() else " that distnet is installed in"
    told = r"distnet: .*python.*: (numpy|threadpoolctl) isn't installed for this Python; activate the environment"
    assert re.fullmatch(told + re.escape(f"{remedy}\n"), ended.err)


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_program_may_train_in_a_thread_with_any_standard_error_and_none_at_all_for_output(digits, tmp_path, ranks):
    """Standard error is an object without a descriptor, as in a notebook, and standard output was closed by `>&-`."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import io, os, sys, threading
sys.stderr, sys.stdout = io.StringIO(), None
import numpy as np
from distnet import NeuralNetwork
from distnet.train import train

def work():
    network = NeuralNetwork([4, 3])
    network.train(np.ones((9, 4)), np.eye(3)[np.arange(9) % 3], epochs=2, batch_size=3)
    options = ["--data-dir", {str(digits)!r}, "--epochs", "1", "--checkpoint-dir", "run"]
    status, network = train(options)
    sums.append(network.parameters.sum())

sums = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
os.write(1, f"{{len(sums)}}\\n".encode())
""")
    ended = end(start(ranks=ranks, script=script, cwd=tmp_path), 60)
    assert (ended.status, ended.out, ended.err) == (0, "1\n" * (ranks or 1), "")


@pytest.mark.parametrize("launcher", [[], [mpirun(), "-n", "2"]], ids=["one process", "2 ranks"])
def test_the_command_works_with_closed_standard_streams(digits, tmp_path, launcher):
    model = tmp_path / "model.npz"
    shell = f"exec {sys.executable} -m distnet.train --data-dir {digits} --epochs 1 --model {model} >&- 2>&-"
    done = subprocess.run([*launcher, "bash", "-c", shell], cwd=ROOT, timeout=60)
    assert (done.returncode, model.exists()) == (0, True)
