"""Memory of all ranks together, as proportional set size: python benchmarks/memory.py.

Starts the main job at 1, 2 and 4 ranks on real MNIST (DISTNET_DATA) and looks, every 50 ms, at what
/proc/PID/smaps_rollup says: a page that several ranks share counts once in the sum.
"""

import subprocess
import sys
import time
from pathlib import Path

ALLOWED_GROWTH, ALLOWED_A_RANK = 1.3, 60  # of one rank's memory, and MiB


def descendants(parent: int) -> list[int]:
    """The processes that `parent` started, and theirs."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [pid for child in map(int, children) for pid in (child, *descendants(child))]


def pss(pid: int) -> int:
    """KiB; 0 for a process that has ended or isn't a rank."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:3] != [b"-m", b"distnet.train"]:  # mpirun's helpers have the words further back
            return 0
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def largest(ranks: int) -> float:
    """The largest sum over ranks, in MiB, in a run of two epochs."""
    mpirun = Path(sys.executable).with_name("mpirun")
    command = [str(mpirun), "-n", str(ranks), sys.executable, "-m", "distnet.train", "--epochs", "2", "--quiet"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen = 0
    while running.poll() is None:
        seen = max(seen, sum(map(pss, descendants(running.pid))))
        time.sleep(0.05)
    return seen / 1024


def main() -> None:
    """Print the sums and how they grow."""
    one = 0.0
    for ranks in (1, 2, 4):
        mib = largest(ranks)
        one = one or mib
        allowed = ALLOWED_GROWTH * one + ALLOWED_A_RANK * ranks
        print(
            f"{ranks} ranks: {mib:,.0f} MiB together" + (f", allowed {allowed:,.0f}" if ranks > 1 else ""), flush=True
        )


if __name__ == "__main__":
    main()
