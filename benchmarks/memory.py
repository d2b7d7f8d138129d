"""Memory of all ranks together, as proportional set size: python benchmarks/memory.py.

Starts the main job at 1, 2 and 4 ranks on real MNIST (DISTNET_DATA) and looks, every 50 ms, at what
/proc/PID/smaps_rollup says: a page that several ranks share counts once in the sum.
"""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import blas_kernel  # noqa: F401 - for the processes that this starts

ALLOWED_GROWTH, ALLOWED_A_RANK = 1.3, 60  # of one rank's memory, and MiB


def descendants(parent: int) -> list[int]:
    """The processes that `parent` started, and theirs."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [pid for child in map(int, children) for pid in (child, *descendants(child))]


def pss(pid: int, words: list[bytes]) -> int:
    """KiB; 0 for a process that has ended or isn't a rank, which `words` behind its interpreter tell."""
    try:
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1 : 1 + len(words)] != words:
            return 0
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def largest(command: list[str], words: list[bytes], seconds: float = 60) -> float:
    """The largest sum over ranks, in MiB, until the command has ended, or so long."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen, until = 0, time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < until:
        seen = max(seen, sum(pss(pid, words) for pid in descendants(running.pid)))
        time.sleep(0.05)
    running.terminate()
    running.wait()
    return seen / 1024


def of_distnet(ranks: int) -> float:
    """In a run of two epochs of the main job."""
    mpirun = Path(sys.executable).with_name("mpirun")
    command = [str(mpirun), "-n", str(ranks), sys.executable, "-m", "distnet.train", "--epochs", "2", "--quiet"]
    return largest(command, [b"-m", b"distnet.train"])  # mpirun's helpers have the words further back


def of_ddp(ranks: int) -> float:
    """In the first 20 s of the same training with PyTorch DDP, every rank of which loads the data for itself."""
    script = str(Path(__file__).with_name("accuracy.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", script]
    return largest([*command, "--ddp", "0"], [b"-u", script.encode()], seconds=20)


def main() -> None:
    """Print the sums and how they grow."""
    one = 0.0
    for ranks in (1, 2, 4):
        mib = of_distnet(ranks)
        one = one or mib
        allowed = ALLOWED_GROWTH * one + ALLOWED_A_RANK * ranks
        print(
            f"{ranks} ranks: {mib:,.0f} MiB together" + (f", allowed {allowed:,.0f}" if ranks > 1 else ""), flush=True
        )
    if find_spec("torch"):
        print(f"PyTorch DDP, 4 ranks: {of_ddp(4):,.0f} MiB together")


if __name__ == "__main__":
    main()
