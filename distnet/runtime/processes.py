"""The processes that a command starts on this host, and what MPI leaves behind when they are killed.

Ranks have sessions of their own and, once their launcher is gone, another parent. They do inherit the environment, so
a mark in it identifies them. Needs /proc: elsewhere no process is found, and nothing is cleaned. A kill also leaves
/tmp/hydra_hwloc_xmlfile_*, some kilobytes, because only MPICH's proxy can tell which one is its own.
"""

import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from distnet.runtime.logs import warn
from distnet.runtime.proc import PROC

MARK = "DISTNET_SUPERVISED_AS"
SHARED_MEMORY = "/dev/shm"
# Names of the segments of MPICH, UCX, Open MPI, PSM and Intel MPI in SHARED_MEMORY.
SEGMENT = re.compile(
    r"(mpich_|ucx_shm_|sm_segment\.|vader_segment\.|osc_sm\.|osc_rdma\.|psm[23]_shm|Intel_MPI|shm-col-space-)[^/]*"
)
MAPPING = 2.0  # seconds within which the process that makes a segment maps it
PATIENCE = 10.0  # seconds for killed processes to disappear

Segment = tuple[str, int]  # path and inode


class Processes:
    """All processes that are started with `environment`, and their children. The end of a `with` kills them.

    environment: of this process, with a mark, and with a folder for temporary files that is deleted at the end.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._folder = tempfile.mkdtemp(prefix="distnet-")
        self.environment = os.environ | {MARK: self._mark, "TMPDIR": self._folder}
        self._first_seen = dict.fromkeys(find_segments(), float("-inf"))
        self._own: set[Segment] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if alive := self.end():
            warn(f"can't be killed: {' '.join(map(str, alive))}")
        for path, inode in self._own:
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        shutil.rmtree(self._folder, ignore_errors=True)

    def alive(self, word: str = "") -> list[int]:
        """Their process ids; only those with `word` in their command line."""
        mark = f"{MARK}={self._mark}\0".encode()
        return [
            int(process.name)
            for process in PROC.glob("[0-9]*")
            if mark in read(process / "environ") and word.encode() in read(process / "cmdline")
        ]

    def look(self) -> None:
        """Note which new segments they have mapped. Call this often: a process that died cannot be examined."""
        now = time.monotonic()
        for segment in find_segments():
            self._first_seen.setdefault(segment, now)
        new = {segment for segment, first in self._first_seen.items() if now - first < MAPPING} - self._own
        for process in self.alive() if new else ():
            self._own |= new & find_mapped(PROC / str(process))

    def end(self) -> list[int]:
        """Kill all that are alive, and wait until they have disappeared. Returns those that have not."""
        self.look()
        alive, quiet, deadline = self.alive(), 0, time.monotonic() + PATIENCE
        while quiet < 2 and time.monotonic() < deadline:  # the second look finds one that was just being started
            for process in alive:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
            alive = self.alive()
            quiet = 0 if alive else quiet + 1
        return alive


def find_segments() -> set[Segment]:
    """The segments of any MPI on this host."""
    with suppress(OSError):
        return {(each.path, each.inode()) for each in os.scandir(SHARED_MEMORY) if SEGMENT.fullmatch(each.name)}
    return set()


def find_mapped(process: Path) -> set[Segment]:
    """The files that this process, a folder of /proc, has mapped."""
    lines = [line.split(maxsplit=5) for line in read(process / "maps").decode(errors="replace").splitlines()]
    return {(fields[5], int(fields[4])) for fields in lines if len(fields) == 6}


def read(path: Path) -> bytes:
    """A file of /proc; empty if the process has exited or belongs to another user."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
