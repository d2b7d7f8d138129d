"""Several hosts on this machine: python tests/hosts.py HOSTS RANKS_PER_HOST COMMAND [ARGUMENT ...].

Starts MPICH's mpirun over network namespaces that a bridge joins, so that MPI sees separate nodes. UCX would
find out that they share memory, so it is held to TCP. Needs root and iproute2. Ends with the command's status;
leaves nothing behind.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distnet.runtime.launcher import mpirun_beside_python

NETWORK = "10.78.0"


def usable() -> str:
    """Empty where hosts can be made and started on, else what is missing."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and ip netns"
    mpirun = mpirun_beside_python()
    if not shutil.which(mpirun) or b"Open MPI" in subprocess.check_output([mpirun, "--version"]):
        return "needs MPICH, whose mpirun takes a stand-in for ssh"
    name = f"dn{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        return "needs root and ip netns: namespaces can't be made"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def ip(*arguments: str, check: bool = True) -> None:
    """Run iproute2's ip."""
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


@contextmanager
def hosts(count: int) -> Iterator[tuple[list[str], str]]:
    """Make `count` hosts; gives their addresses and the name that their namespaces, NAME-1 ..., begin with."""
    name = f"dn{os.getpid()}"
    bridge = f"br{name}"[:15]
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for number in range(1, count + 1):
            host, link = f"{name}-{number}", f"v{number}{name}"[:15]
            ip("netns", "add", host)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "set", link, "master", bridge, "up")
            ip("-n", host, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield [f"{NETWORK}.{number}" for number in range(1, count + 1)], name
    finally:
        for number in range(1, count + 1):
            ip("netns", "del", f"{name}-{number}", check=False)
        ip("link", "del", bridge, check=False)


@contextmanager
def launcher(count: int, ranks_per_host: int) -> Iterator[list[str]]:
    """The beginning of a command that runs on every host: mpirun, with a stand-in for ssh."""
    with hosts(count) as (addresses, name), tempfile.TemporaryDirectory() as folder:
        remote_shell = Path(folder, "remote-shell")
        remote_shell.write_text(
            "#!/bin/sh\n"
            'while case "$1" in -*) true;; *) false;; esac; do shift; done\n'
            "host=$1; shift\n"
            f'exec ip netns exec "{name}-${{host##*.}}" sh -c "$*"\n'
        )
        remote_shell.chmod(0o755)
        places = ",".join(f"{address}:{ranks_per_host}" for address in addresses)
        yield [
            *(
                "ip",
                "netns",
                "exec",
                f"{name}-1",
                mpirun_beside_python(),
                "-launcher",
                "ssh",
                "-launcher-exec",
                str(remote_shell),
            ),
            *("-genv", "UCX_TLS", "tcp,self", "-hosts", places, "-n", str(count * ranks_per_host)),
        ]


def main() -> int:
    """Run the command line's command."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    if missing := usable():
        sys.exit(missing)
    with launcher(int(sys.argv[1]), int(sys.argv[2])) as start:
        command = [*start, *sys.argv[3:]]
        if os.environ.get("DISTNET_SHOW_COMMAND"):
            print(shlex.join(command), file=sys.stderr)
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
