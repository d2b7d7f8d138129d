"""Whether what a compressed file holds fits into memory, which its headers say before anything is unpacked."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipInfo

MEMORY = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that a process can still take without swapping; None where nobody says."""
    with contextlib.suppress(OSError, ValueError):
        for line in MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def check_unpacked_size(members: Iterable[ZipInfo]) -> None:
    """Raise ValueError where members of a .zip file unpack to more than fits into memory; nothing is unpacked.

    For files of other people's, which may be compressed. What a member unpacks to beyond its header is never read.
    """
    size, room = sum(each.file_size for each in members), available_memory()
    if room is not None and size > room:
        raise ValueError(f"it unpacks to {size >> 20:,} MiB, and {room >> 20:,} MiB of memory are left")
