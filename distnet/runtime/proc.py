"""What the kernel knows of this machine, from /proc and /sys; systems without them have no answer, or a simpler one."""

import os
import sys
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def read_words(path: Path, separator: str | None = None) -> list[str]:
    """The words of a file, or the parts between separators; [] if it can't be read."""
    with suppress(OSError):
        return [word for word in path.read_text(errors="replace").split(separator) if word]
    return []


def read_proc(name: str) -> list[str]:
    """The lines of a file in /proc; [] if it can't be read."""
    return read_words(PROC / name, "\n")


def cpu_model() -> str:
    """The name of the CPU; "" if unknown."""
    return _read_field("cpuinfo", "model name")


def available_memory() -> int | None:
    """Bytes that processes can still allocate without swapping; None if unknown."""
    kibibytes = _read_field("meminfo", "MemAvailable").split()
    return int(kibibytes[0]) << 10 if kibibytes else None


def usable_cores() -> frozenset[int]:
    """The cores that this process may use; elsewhere than on Linux, all."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _read_field(file: str, name: str) -> str:
    """The value after the first `name` and a colon; "" if there is none."""
    lines = (line.partition(":") for line in read_proc(file))
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")
