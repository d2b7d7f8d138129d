"""Facts about a process: cores, memory, and what NumPy and its BLAS compute with."""

import os
import platform
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distnet.parallel.shared_memory import shared_memory_left
from distnet.portable.environment import find_deviation
from distnet.runtime.blas import count_blas_threads, describe_blas, find_libraries, single_blas_thread
from distnet.runtime.proc import available_memory, cpu_model, read_proc, read_words, usable_cores

CGROUPS = Path("/sys/fs/cgroup")
# Variables that change what is computed, or how fast.
VARIABLES = re.compile(
    "DISTNET_DATA$|MPI4PY_LIBMPI$|(OPENBLAS|OMP|MKL|BLIS|NPY|NUMPY|MPICH|MPIR_CVAR|I_MPI|UCX|FI|PRTE_MCA)_"
)


class Facts(NamedTuple):
    """Facts about one process.

    cores: those that it may use. host_cores: how many any process may use here. quota: CPU time of its container, in
    cores; None without a limit. memory, shared_memory: free bytes, in total and in /dev/shm; None if unknown.
    blas: library and kernels. threads: of the BLAS, by default and when limited to one; None if unknown. simd:
    extensions that NumPy uses. deviation: from IEEE 754, see `find_deviation`. variables: those of the environment
    that matter.
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
    deviation: str
    variables: dict[str, str]


def gather_facts() -> Facts:
    """The facts about this process."""
    # NumPy leaves out what is unknown.
    configuration: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    simd = configuration.get("SIMD Extensions", {})
    compiler = configuration.get("Compilers", {}).get("c", {})
    return Facts(
        host=socket.gethostname(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cpu=cpu_model() or platform.processor() or "unknown",
        cores=usable_cores(),
        host_cores=host_cores() or os.cpu_count() or 1,
        quota=cpu_quota(),
        memory=memory_left(),
        shared_memory=shared_memory_left(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        numpy=f"{np.__version__} (built with {compiler.get('name')} {compiler.get('version')})",
        blas="; ".join(
            name if kernels == "unknown" else f"{name}, kernels {kernels}" for name, kernels in describe_blas()
        ),
        threads=count_threads(),
        simd=(*simd.get("baseline", ()), *simd.get("found", ())),
        deviation=find_deviation(),
        variables={name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)},
    )


def count_threads() -> tuple[int, int] | None:
    """The BLAS's threads, by default and when limited to one; None if threadpoolctl finds no BLAS."""
    counts = [count_blas_threads()] if find_libraries() else []
    with single_blas_thread:
        counts += [count_blas_threads()] * len(counts)
    return (counts[0], counts[1]) if counts else None


def control_groups(controller: str) -> Iterator[Path]:
    """The folders that limit this process, from its own outwards, in version 1 or 2 of control groups."""
    for line in read_proc("self/cgroup"):
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = CGROUPS / controller if names else CGROUPS
        # In a container, the path can be the one outside. The root itself is then the container's.
        inner = root / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def cpu_quota() -> float | None:
    """CPU time for all processes of the container together, in cores; None without a limit."""
    quotas = []
    for folder in control_groups("cpu"):
        limit = read_words(folder / "cpu.max") or [
            *read_words(folder / "cpu.cfs_quota_us"),
            *read_words(folder / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0].isdecimal():  # "max" and -1 are no limit
            quotas.append(int(limit[0]) / int(limit[1]))
    return min(quotas, default=None)


def host_cores() -> int:
    """How many cores the container may use; 0 if unknown."""
    for folder in control_groups("cpuset"):
        if words := read_words(folder / "cpuset.cpus.effective") or read_words(folder / "cpuset.effective_cpus"):
            ends = [run.split("-") for run in words[0].split(",")]
            return sum(int(run[-1]) - int(run[0]) + 1 for run in ends)
    return 0


def memory_left() -> int | None:
    """Bytes that can still be allocated, on the host and in the container; None if unknown."""
    available = available_memory()
    left = [] if available is None else [available]
    for folder in control_groups("memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            numbers = [*read_words(folder / limit), *read_words(folder / usage)]
            if len(numbers) == 2 and numbers[0].isdecimal():
                statistics = read_words(folder / "memory.stat")
                reclaimable = int(statistics[statistics.index(cache) + 1]) if cache in statistics else 0
                left.append(int(numbers[0]) - int(numbers[1]) + reclaimable)
    return min(left, default=None)
