"""mpirun as a process of its own, on the hosts that answer."""

import ctypes
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn
from distnet.runtime.processes import Processes

LOOK = 0.05  # seconds between looks at what runs
ANSWER = 5.0  # seconds for a host to answer


class Host(NamedTuple):
    """A host, and its number of ranks."""

    name: str
    ranks: int


def read_hosts(text: str) -> list[Host]:
    """The hosts in a list such as a:2,b:2. Raises ArgumentTypeError."""
    pairs = [each.rpartition(":") for each in text.split(",")]
    if not all(name and ranks.isdecimal() and int(ranks) for name, _, ranks in pairs):
        raise ArgumentTypeError(f"{text!r} isn't of the form a:2,b:2, hosts with their ranks")
    return [Host(name, int(ranks)) for name, _, ranks in pairs]


def mpirun_beside_python() -> str:
    """The mpirun beside this Python; without one, the first on the PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else "mpirun"


class Launcher:
    """MPICH's or Open MPI's mpirun.

    mpirun: the first words of its command. hosts: for the ranks; without any, mpirun chooses.
    """

    def __init__(self, mpirun: Sequence[str], hosts: Sequence[Host] = ()) -> None:
        if shutil.which(mpirun[0]) is None:
            raise InputError(f"--mpirun {mpirun[0]}", "there is no such program", "name mpirun with its path")
        self.mpirun, self.hosts = list(mpirun), list(hosts)
        self.hosts_option = "-hosts"
        if hosts and "Open MPI" in subprocess.run([*mpirun, "--version"], capture_output=True, text=True).stdout:
            self.hosts_option = "--host"

    def start(
        self, hosts: Sequence[Host], ranks: int, command: Sequence[str], processes: Processes, output: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on `ranks` ranks. If this process is killed, mpirun gets SIGUSR1, which it forwards."""
        places = [self.hosts_option, ",".join(f"{host.name}:{host.ranks}" for host in hosts)] if hosts else []
        return start_session([*self.mpirun, *places, "-n", str(ranks), *command], processes, output, output)

    def find_hosts(self, processes: Processes, is_stopped: Callable[[], bool]) -> list[Host]:
        """The hosts on which mpirun can start a process now; warns of the others. Returns early if `is_stopped`."""
        probes = {host: self.start([host], 1, ["true"], processes, subprocess.DEVNULL) for host in self.hosts}
        deadline = time.monotonic() + ANSWER
        while time.monotonic() < deadline and not is_stopped() and any(each.poll() is None for each in probes.values()):
            time.sleep(LOOK)
        hosts = [host for host, probe in probes.items() if probe.poll() == 0]
        for host, probe in probes.items():
            if host not in hosts and not is_stopped():
                warn(f"host {host.name} doesn't answer")
            probe.kill()
            probe.wait()
        processes.end()
        return hosts


def start_session(
    command: Sequence[str], processes: Processes, stdout: int | None, stderr: int | None
) -> subprocess.Popen[bytes]:
    """Start a command as one of `processes`, in a session that the terminal's Ctrl-C does not reach.

    If this process is killed, the command gets SIGUSR1.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # on Linux only
    return subprocess.Popen(
        command,
        env=processes.environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=lambda: prctl and prctl(1, signal.SIGUSR1),  # PR_SET_PDEATHSIG
    )
