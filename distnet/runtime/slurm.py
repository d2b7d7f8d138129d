"""The allocation of a SLURM job, and srun's words to start ranks in it."""

import os
import re
import shutil
import subprocess
import sys
from itertools import accumulate

# The protocol of the MPI that mpi4py loads; with another, each task would be a world of one rank.
FIND_PROTOCOL = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print("pmix" if "Open MPI" in MPI.Get_library_version() else "pmi2")
"""


def is_allocated() -> bool:
    """Whether this process belongs to a SLURM job, and can start steps of it."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None


def count_ranks() -> int:
    """How many ranks the job has room for: the tasks that it requested, else its cores; 1 if unknown."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    return int(tasks) if tasks.isdecimal() else sum(read_counts("SLURM_JOB_CPUS_PER_NODE")) or 1


def build_srun(ranks: int) -> list[str]:
    """The words before a command that start it on `ranks` ranks, on as few of the job's nodes as have room."""
    words = ["srun", "--cpu-bind=cores", "--cpus-per-task=1", "--kill-on-bad-exit=1"]
    if "SLURM_MPI_TYPE" not in os.environ:
        found = subprocess.run([sys.executable, "-c", FIND_PROTOCOL], capture_output=True, text=True)
        words += [f"--mpi={found.stdout.strip() or 'none'}"]
    room = list(accumulate(read_counts("SLURM_TASKS_PER_NODE")))
    if room and ranks <= room[-1]:
        words += [f"--nodes={1 + sum(each < ranks for each in room)}"]
    return [*words, "-n", str(ranks)]


def read_counts(name: str) -> list[int]:
    """The counts per node in a variable of SLURM's, such as "32(x2),16"."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get(name, ""))
    return [int(count) for count, times in found for _ in range(int(times or 1))]
