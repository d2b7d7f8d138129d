"""What a process finds where it runs: cores, memory, and what NumPy and its BLAS compute with."""

import os
import platform
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from distnet.parallel.shared_memory import shared_memory_left

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Variables that change what is computed, or how fast.
TELLING = re.compile(
    "DISTNET_DATA$|MPI4PY_LIBMPI$|(OPENBLAS|OMP|MKL|BLIS|NPY|NUMPY|MPICH|MPIR_CVAR|I_MPI|UCX|FI|PRTE_MCA)_"
)


class Facts(NamedTuple):
    """What one process found.

    cores: those that it may use. host_cores: how many any process may use here. quota: cores' worth of time that
    its container gets; None without a limit. memory: bytes that can still be had. shared_memory: bytes left in
    /dev/shm. Both None where nobody tells. blas: what computes products, with its kernels. threads: of it, by
    default and where there should be one; None where it can't be told. simd: what NumPy's own loops use.
    variables: of the environment, those that matter.
    """

    host: str
    system: str
    cpu: str
    cores: frozenset[int]
    host_cores: int
    quota: float | None
    memory: int | None
    shared_memory: int | None
    python: str
    numpy: str
    blas: str
    threads: tuple[int, int] | None
    simd: tuple[str, ...]
    variables: dict[str, str]


def facts() -> Facts:
    """Of this process."""
    # NumPy leaves out what it doesn't know.
    configuration: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    simd = configuration.get("SIMD Extensions", {})
    compiler = configuration.get("Compilers", {}).get("c", {})
    blas, threads = loaded_blas(configuration.get("Build Dependencies", {}).get("blas", {}))
    on_linux = hasattr(os, "sched_getaffinity")
    return Facts(
        host=socket.gethostname(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cpu=line_of(PROC / "cpuinfo", "model name") or platform.processor() or "unknown",
        cores=frozenset(os.sched_getaffinity(0) if on_linux else range(os.cpu_count() or 1)),
        host_cores=host_cores() or os.cpu_count() or 1,
        quota=cpu_quota(),
        memory=memory_left(),
        shared_memory=shared_memory_left(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        numpy=f"{np.__version__} (built with {compiler.get('name')} {compiler.get('version')})",
        blas=blas,
        threads=threads,
        simd=(*simd.get("baseline", ()), *simd.get("found", ())),
        variables={name: value for name, value in sorted(os.environ.items()) if TELLING.match(name)},
    )


def loaded_blas(built: dict[str, Any]) -> tuple[str, tuple[int, int] | None]:
    """The BLAS with its kernels, and its threads; where threadpoolctl knows none, what NumPy was built with."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not pools:
        return f"{built.get('name', 'unknown')} {built.get('version', '')}".strip(), None
    told = [
        f"{pool['internal_api']} {pool['version']}, kernels {pool.get('architecture', 'unknown')}" for pool in pools
    ]
    with threadpool_limits(1, user_api="blas"):
        limited = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    return "; ".join(dict.fromkeys(told)), (max(pool["num_threads"] for pool in pools), limited)


def control_groups(controller: str) -> Iterator[Path]:
    """The folders that limit this process, from its own outwards, in either version of control groups."""
    for line in words(PROC / "self" / "cgroup", "\n"):
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = GROUPS / controller if names else GROUPS
        # Inside a container the path can be the one outside; then the root itself is the container's.
        inner = root / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def cpu_quota() -> float | None:
    """Cores' worth of time for all processes of the container together."""
    found = []
    for folder in control_groups("cpu"):
        limit = words(folder / "cpu.max") or [
            *words(folder / "cpu.cfs_quota_us"),
            *words(folder / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0].isdecimal():  # "max" and -1 are no limit
            found.append(int(limit[0]) / int(limit[1]))
    return min(found, default=None)


def host_cores() -> int:
    """How many cores the container may use; 0 where nothing tells."""
    for folder in control_groups("cpuset"):
        if text := words(folder / "cpuset.cpus.effective") or words(folder / "cpuset.effective_cpus"):
            ends = [run.split("-") for run in text[0].split(",")]
            return sum(int(run[-1]) - int(run[0]) + 1 for run in ends)
    return 0


def memory_left() -> int | None:
    """Bytes that processes can still get: of the host's, and of what the container may have."""
    left = []
    if available := line_of(PROC / "meminfo", "MemAvailable"):
        left.append(int(available.split()[0]) << 10)
    for folder in control_groups("memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            numbers = [*words(folder / limit), *words(folder / usage)]
            if len(numbers) == 2 and numbers[0].isdecimal():
                told = words(folder / "memory.stat")
                given_back = int(told[told.index(cache) + 1]) if cache in told else 0
                left.append(int(numbers[0]) - int(numbers[1]) + given_back)
    return min(left, default=None)


def mapped(name: str) -> str:
    """The path of a shared library that this process has loaded, whose file name begins so; "" if it hasn't."""
    found = re.search(rf"/\S*/{name}\S*\.so\S*$", "\n".join(words(PROC / "self" / "maps", "\n")), re.MULTILINE)
    return found[0] if found else ""


def line_of(path: Path, name: str) -> str:
    """What stands after `name` and a colon in a file of /proc."""
    lines = (line.partition(":") for line in words(path, "\n"))
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def words(path: Path, separator: str | None = None) -> Sequence[str]:
    """The words or lines of a file that the kernel writes; none where it can't be read."""
    with suppress(OSError):
        return [word for word in path.read_text(errors="replace").split(separator) if word]
    return []
