"""The environment that a launcher gives this process: whether it is a rank, and which."""

import os
from functools import cache

# Set by Open MPI's mpirun; MPICH's and Intel's mpirun, and srun with PMI; PMIx; SLURM's srun.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
INSIDE = "DISTNET_INSIDE_RANK"  # set by a rank, to its process id and place, for the processes that it starts
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def launched_rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    values = [os.environ[name] for name in RANK_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(values[0]) if values and launched() else 0


def launched_size() -> int:
    """How many processes the launcher started; 1 without a launcher, or if unknown."""
    values = [os.environ[name] for name in SIZE_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(values[0]) if values else 1


def launched() -> bool:
    """Whether a launcher started this process, even as the only rank.

    False for a single task of SLURM, which may be an interactive shell.
    """
    if is_inside_rank():
        return False
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1" and launched_size() == 1:
        return "OMPI_COMM_WORLD_SIZE" in os.environ
    names = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")
    return any(name in os.environ for name in names)


def launched_place() -> str:
    """What identifies this rank: its connection to the launcher, "closed" if it is, or its name in the job."""
    if number := os.environ.get("PMI_FD"):
        try:
            status = os.fstat(int(number))
        except (OSError, ValueError):
            return "closed"
        return f"{status.st_dev}-{status.st_ino}"
    return "-".join(os.environ.get(name, "") for name in ("PMIX_NAMESPACE", "PMIX_RANK", "PMI_PORT", "PMI_RANK"))


def mark_rank() -> None:
    """Mark the environment, so that processes which this rank starts don't take themselves for ranks."""
    os.environ[INSIDE] = f"{os.getpid()} {launched_place()}"


@cache
def is_inside_rank() -> bool:
    """Whether a rank started this process, such as by subprocess: MPI_Init would abort it."""
    place = launched_place()
    if place == "closed":
        return True
    process, _, theirs = os.environ.get(INSIDE, "").partition(" ")
    return bool(process) and process != str(os.getpid()) and theirs == place
