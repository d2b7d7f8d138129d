"""The processes that a command leads to on this host, and what MPI's libraries leave behind when they are killed.

Ranks have sessions of their own and, once their launcher is gone, another parent; what they do inherit is the
environment. So every process is known by a mark in it, wherever it ended up. Needs /proc: elsewhere nothing is
found, and nothing cleaned. What stays after a kill is the topology that MPICH's proxy writes to /tmp, some kilobytes
in a file hydra_hwloc_xmlfile_*: only the proxy knows which one is its own.
"""

import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

MARK = "DISTNET_SUPERVISED_AS"
SHARED_MEMORY = "/dev/shm/"
# What MPICH, UCX, Open MPI, PSM and Intel MPI call their segments, each a file of SHARED_MEMORY itself.
SEGMENT = re.compile(
    r"(mpich_|ucx_shm_|sm_segment\.|vader_segment\.|osc_sm\.|osc_rdma\.|psm[23]_shm|Intel_MPI|shm-col-space-)[^/]*"
)
NEW, AGAIN = 1.0, 0.05  # seconds in which the process that makes a segment maps it; between looks at that
PATIENCE = 10.0  # seconds for killed processes to be gone


class Processes:
    """All processes that are started with `environment`, and theirs. At the end of a `with` they are no more.

    environment: of this process, marked, and with a folder for temporaries that goes when they go.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._folder = tempfile.mkdtemp(prefix="distnet-")
        self.environment = os.environ | {MARK: self._mark, "TMPDIR": self._folder}
        self._older = segments()
        self._remains: set[tuple[str, int]] = set()  # path and inode, since names are given anew
        self._made = 0  # when a file in SHARED_MEMORY was made last, as the folder says, and as we saw it
        self._seen = self._noted = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if alive := self.end():
            sys.stderr.write(f"distnet: can't be killed: {' '.join(map(str, alive))}\n")
        for path, inode in self._remains:
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        shutil.rmtree(self._folder, ignore_errors=True)

    def alive(self, word: str = "") -> list[int]:
        """Their ids; of those alone that have `word` in their command line."""
        mark = f"{MARK}={self._mark}\0".encode()
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if mark in read(process / "environ") and word.encode() in read(process / "cmdline")
        ]

    def look(self) -> None:
        """Note what they would leave behind; to be called every now and then, since the dead don't tell.

        Costs next to nothing while nobody on this host makes shared memory.
        """
        with suppress(OSError):
            made, now = os.stat(SHARED_MEMORY).st_mtime_ns, time.monotonic()
            if made != self._made:
                self._made, self._seen = made, now
            elif now - self._seen > NEW or now - self._noted < AGAIN:
                return
            for process in self.alive():
                self._remains.update(used(Path("/proc", str(process))) - self._older)
            self._noted = time.monotonic()

    def end(self) -> list[int]:
        """Kill all that are alive and wait until they are gone. Returns those that don't go."""
        self.look()
        alive, quiet, deadline = self.alive(), 0, time.monotonic() + PATIENCE
        while quiet < 2 and time.monotonic() < deadline:  # one that is just being started is seen at second sight
            for process in alive:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
            alive = self.alive()
            quiet = 0 if alive else quiet + 1
        return alive


def segments() -> set[tuple[str, int]]:
    """Paths and inodes of the segments that any MPI on this host has made."""
    found = set()
    with suppress(OSError):
        for entry in os.scandir(SHARED_MEMORY):
            if SEGMENT.fullmatch(entry.name):
                found.add((entry.path, entry.inode()))
    return found


def used(process: Path) -> set[tuple[str, int]]:
    """Paths and inodes of the segments that this process, a folder of /proc, has mapped.

    Nothing else that it has mapped: a virtual environment may lie in shared memory, too.
    """
    found = set()
    for line in read(process / "maps").decode(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if fields[-1].startswith(SHARED_MEMORY) and SEGMENT.fullmatch(fields[-1].removeprefix(SHARED_MEMORY)):
            found.add((fields[5], int(fields[4])))
    return found


def read(path: Path) -> bytes:
    """A file of /proc; empty where its process is gone, or somebody else's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
