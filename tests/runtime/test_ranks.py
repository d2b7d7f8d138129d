"""Ranks are started by what is there: srun in a SLURM job, mpirun elsewhere, and nothing for one process."""

import re
import sys

import pytest

from distnet.runtime import ranks, slurm
from distnet.runtime.errors import InputError
from distnet.runtime.ranks import build_launcher, run_to_end, run_training


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The folder of all programs that can be found; there is none yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ranks, "mpirun_beside_python", lambda: "mpirun")
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_MPI_TYPE"):
        monkeypatch.delenv(name, raising=False)

    def add(name, code=""):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)

    return add


@pytest.fixture
def allocation(programs, monkeypatch):
    """A job of three nodes, two with four tasks and one with two."""
    programs("srun", 'echo "$@"; exit 3')
    for name, value in {"JOB_ID": "7", "TASKS_PER_NODE": "4(x2),2", "JOB_CPUS_PER_NODE": "8(x2),4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_without_mpi_one_rank_is_one_process_and_several_are_one_line(programs):
    assert build_launcher(1) == []
    with pytest.raises(InputError, match=re.escape("2 ranks: there is no mpirun beside this Python or on the PATH; ")):
        build_launcher(2)
    programs("mpirun")
    assert build_launcher(2) == ["mpirun", "-n", "2"]
    assert build_launcher(1) == []


@pytest.mark.parametrize(("count", "nodes"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (10, 3)])
def test_srun_fills_as_few_nodes_of_the_job_as_have_room(allocation, monkeypatch, count, nodes):
    monkeypatch.setenv("SLURM_MPI_TYPE", "pmix")
    assert build_launcher(count)[-3:] == [f"--nodes={nodes}", "-n", str(count)]


def test_srun_gets_the_whole_command_and_the_protocol_of_the_mpi_that_is_loaded(allocation):
    status, out = run_training(["--epochs", "3"], 2)
    assert status == 3
    assert out.endswith(f" --nodes=1 -n 2 {sys.executable} -m distnet.train --epochs 3\n")
    assert re.search(r" --mpi=(pmi2|pmix) ", out)


def test_a_job_has_room_for_its_tasks_or_without_them_for_its_cores(allocation, monkeypatch):
    assert slurm.count_ranks() == 20
    monkeypatch.setenv("SLURM_NTASKS", "10")
    assert slurm.count_ranks() == 10


def test_a_job_without_srun_such_as_in_a_container_uses_mpirun(programs, monkeypatch):
    programs("mpirun")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert build_launcher(2) == ["mpirun", "-n", "2"]


def test_a_process_that_is_silent_for_too_long_is_killed(programs):
    programs("sleeper", "echo awake; while :; do :; done")
    exited = run_to_end(["sleeper"], silence=0.5)
    assert (exited.returncode, exited.stdout) == (None, "awake\n")
