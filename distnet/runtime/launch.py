"""What the launcher's environment says of this process: its rank, and whether it is one."""

import os
from functools import cache

# How launchers tell a process, before MPI starts, which rank it is to be and of how many: MPICH's and
# Intel's mpirun and srun with PMI, Open MPI's mpirun, PMIx alone, SLURM's srun.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
INSIDE = "DISTNET_INSIDE_RANK"  # process and place of the rank that sets it, for those that it starts
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def launched_rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    found = [os.environ[name] for name in RANK_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(found[0]) if found and launched() else 0


def launched_size() -> int:
    """How many processes the launcher started; 1 without a launcher, or where it doesn't say."""
    found = [os.environ[name] for name in SIZE_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(found[0]) if found else 1


def launched() -> bool:
    """Whether a launcher started this process, be it for one rank alone.

    SLURM's one task is no launch: it may be an interactive shell, whatever the variables that srun gave it.
    """
    if is_inside_rank():
        return False
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1" and launched_size() == 1:
        return "OMPI_COMM_WORLD_SIZE" in os.environ
    names = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")
    return any(name in os.environ for name in names)


def launched_place() -> str:
    """What the launcher gave this rank and no other process: its connection, or its name in the job."""
    if number := os.environ.get("PMI_FD"):
        try:
            found = os.fstat(int(number))
        except (OSError, ValueError):
            return "closed"
        return f"{found.st_dev}-{found.st_ino}"
    return "-".join(os.environ.get(name, "") for name in ("PMIX_NAMESPACE", "PMIX_RANK", "PMI_PORT", "PMI_RANK"))


def mark_rank() -> None:
    """Let the processes that this rank starts know that they are none, though they inherit its environment."""
    os.environ[INSIDE] = f"{os.getpid()} {launched_place()}"


@cache
def is_inside_rank() -> bool:
    """Whether a rank started this process, by subprocess for example: MPI_Init would end it there."""
    place = launched_place()
    if place == "closed":
        return True
    process, _, theirs = os.environ.get(INSIDE, "").partition(" ")
    return bool(process) and process != str(os.getpid()) and theirs == place
