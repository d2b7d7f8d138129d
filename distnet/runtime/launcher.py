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
from distnet.runtime.processes import Processes

LOOK = 0.05  # seconds between looks at what runs
ANSWER = 5.0  # seconds for a host to answer


class Host(NamedTuple):
    """A host and how many ranks it takes."""

    name: str
    ranks: int


def read_hosts(text: str) -> list[Host]:
    """Hosts of a:2,b:2."""
    pairs = [each.rpartition(":") for each in text.split(",")]
    if not all(name and ranks.isdecimal() and int(ranks) for name, _, ranks in pairs):
        raise ArgumentTypeError(f"{text!r} isn't of the form a:2,b:2, hosts with their ranks")
    return [Host(name, int(ranks)) for name, _, ranks in pairs]


def mpirun_beside_python() -> str:
    """The mpirun of this Python's environment; where it has none, the first on the PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else "mpirun"


class Launcher:
    """MPICH's or Open MPI's mpirun.

    mpirun: the beginning of its command. hosts: where ranks may be; without any that is left to mpirun.
    """

    def __init__(self, mpirun: Sequence[str], hosts: Sequence[Host] = ()) -> None:
        if shutil.which(mpirun[0]) is None:
            raise InputError(f"--mpirun {mpirun[0]}", "there is no such program", "name mpirun with its path")
        self.mpirun, self.hosts = list(mpirun), list(hosts)
        self.hosts_option = "-hosts"
        if hosts and "Open MPI" in subprocess.run([*mpirun, "--version"], capture_output=True, text=True).stdout:
            self.hosts_option = "--host"

    def start(
        self, hosts: Sequence[Host], ranks: int, command: Sequence[str], processes: Processes, silent: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a command on so many ranks, in a session that the terminal's Ctrl-C doesn't reach.

        If this process is killed, mpirun gets SIGUSR1, which it hands on.
        """
        places = [self.hosts_option, ",".join(f"{host.name}:{host.ranks}" for host in hosts)] if hosts else []
        prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
        output = subprocess.DEVNULL if silent else None
        return subprocess.Popen(
            [*self.mpirun, *places, "-n", str(ranks), *command],
            env=processes.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: prctl and prctl(1, signal.SIGUSR1),  # PR_SET_PDEATHSIG
        )

    def answering(self, processes: Processes, stopped: Callable[[], bool]) -> list[Host]:
        """The hosts on each of which mpirun can start something now. Returns early where it is `stopped`."""
        probes = {host: self.start([host], 1, ["true"], processes, silent=True) for host in self.hosts}
        until = time.monotonic() + ANSWER
        while time.monotonic() < until and not stopped() and any(probe.poll() is None for probe in probes.values()):
            time.sleep(LOOK)
        good = [host for host, probe in probes.items() if probe.poll() == 0]
        for probe in probes.values():
            probe.kill()
            probe.wait()
        processes.end()
        return good
