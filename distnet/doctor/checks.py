"""What is right of what a machine, its data and a short training show, and what to type where it isn't."""

import platform
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from distnet.config.options import Config
from distnet.datasets.folders import KNOWN_SAMPLES, check_bytes, find_files, traces
from distnet.datasets.loading import read_files
from distnet.doctor.findings import BUG_REPORT, NOTE, OK, PROBLEM, Finding
from distnet.doctor.machine import Facts
from distnet.doctor.trial import CLASSES, PARAMETERS, PIXELS, Bits, Speed
from distnet.parallel.shards import default_shards
from distnet.parallel.shared_memory import SHARED_MEMORY
from distnet.parallel.world import World
from distnet.runtime.arrays import padded
from distnet.runtime.errors import InputError
from distnet.runtime.text import counted, join_names

MIB = 1 << 20
SHOWN = 4  # kinds of ranks in a line
# OpenBLAS's oldest kernels that a machine of the kind still has, to hold newer ones to.
OLDEST_KERNELS = {"x86_64": "Haswell", "aarch64": "ARMV8"}


def ranks(world: World, everyone: Sequence[Facts]) -> Finding:
    """Which ranks are on which node. everyone: a rank each, in their order."""
    places = [f"{spans(node)} on {everyone[node.start].host}" for node in nodes(world)]
    told = f"{counted(world.size, 'rank')} on {counted(world.nodes, 'node')}: {listed(places)}"
    return Finding(OK, "ranks", told)


def windows(world: World, everyone: Sequence[Facts], seen: bool) -> Finding:
    """Memory that the ranks of a node share. seen: whether they saw what the others wrote to it."""
    name = "windows"
    if not seen:
        return Finding(PROBLEM, name, "ranks of a node don't see what the others write to shared memory", BUG_REPORT)
    need = window_bytes(world)
    told = "ranks of a node share memory" if max(world.node_sizes) > 1 else "one rank needs no shared memory, more do"
    told += f"; MNIST takes {mib(need)} of it"
    free = [(each.shared_memory, each.host) for each in everyone if each.shared_memory is not None]
    if not free:
        return Finding(OK, name, told)
    least, host = min(free)
    told += f", and {SHARED_MEMORY} has {mib(least)} left{at(host, everyone)}"
    if least >= need:
        return Finding(OK, name, told)
    room = f"{-(-2 * need // (1 << 30))}g"
    remedy = (
        f"docker run --shm-size={room} ...; in Kubernetes an emptyDir with medium: Memory at {SHARED_MEMORY}; "
        f"else as root: mount -o remount,size={room} {SHARED_MEMORY}"
    )
    # One process alone has no windows.
    return Finding(PROBLEM if max(world.node_sizes) > 1 else NOTE, name, told, remedy)


def window_bytes(world: World) -> int:
    """Bytes that a node shares when it loads MNIST and trains with the default options."""
    samples, number = sum(KNOWN_SAMPLES), np.dtype(Config.dtype).itemsize
    raw = samples * (PIXELS + 1)
    data = samples * (padded(PIXELS + 1, Config.dtype) + CLASSES) * number
    return raw + data + (default_shards(world.size) + 1) * PARAMETERS * number


def memory(world: World, everyone: Sequence[Facts]) -> Finding:
    """What a node has left, beside what it takes to train on MNIST: the windows, and rank 0's copy of the files."""
    need = window_bytes(world) + sum(KNOWN_SAMPLES) * PIXELS
    free = [(each.memory, each.host) for each in everyone if each.memory is not None]
    if not free:
        return Finding(OK, "memory", f"nobody tells how much is free; MNIST takes {mib(need)} a node")
    least, host = min(free)
    told = f"{mib(least)} free{at(host, everyone)}; MNIST takes {mib(need)} a node"
    if least >= need:
        return Finding(OK, "memory", told)
    remedy = f"end other programs, or docker run --memory={-(-2 * need // MIB)}m ..."
    return Finding(PROBLEM, "memory", told, remedy)


def cores(world: World, everyone: Sequence[Facts]) -> list[Finding]:
    """Whether the ranks of each node can have a core each; nodes that are alike are told once."""
    hosts: dict[Finding, list[str]] = {}
    for numbers in nodes(world):
        node = everyone[numbers.start : numbers.stop]
        for finding in filter(None, (node_cores(node), node_quota(node))):
            hosts.setdefault(finding, []).append(node[0].host)
    if world.nodes == 1:
        return list(hosts)
    return [finding._replace(told=f"{finding.told} ({listed(where)})") for finding, where in hosts.items()]


def node_cores(node: Sequence[Facts]) -> Finding:
    """Which cores the ranks of a node may use."""
    sets, has = [each.cores for each in node], node[0].host_cores
    union = frozenset[int]().union(*sets)
    told = f"{counted(len(node), 'rank')}, {counted(has, 'core')}; "
    if len(set(sets)) == 1:
        told += f"may use {spans(union)}" if len(node) == 1 else f"each may use {spans(union)}"
    else:
        told += f"bound to {listed([spans(each) for each in sets])}"
    crowded = [each for each in (*sets, union) if sum(other <= each for other in sets) > len(each)]
    if not crowded:
        return Finding(OK, "cores", told)
    least = min(crowded, key=len)
    if len(least) < has:
        told += (
            f": {sum(other <= least for other in sets)} ranks take turns on {spans(least)}, and other cores are idle"
        )
        remedy = "mpirun --bind-to none ... (or --bind-to core), and no taskset, numactl or cpuset around it"
        return Finding(PROBLEM, "cores", told, remedy)
    return Finding(NOTE, "cores", f"{told}; more ranks than cores bring no more speed", f"mpirun -n {has} ...")


def node_quota(node: Sequence[Facts]) -> Finding | None:
    """Whether the container's time is enough for a core a rank; None without a limit."""
    quota = node[0].quota
    if quota is None:
        return None
    told = f"the container gets the time of {quota:g} cores for {counted(len(node), 'rank')}"
    if quota >= len(node):
        return Finding(OK, "quota", told)
    remedy = f"docker run --cpus {len(node)} ..., or mpirun -n {max(1, int(quota))} ..."
    return Finding(NOTE, "quota", told, remedy)


def software(everyone: Sequence[Facts]) -> list[Finding]:
    """Python, NumPy, BLAS and SIMD, which have to be the same on all ranks, since the bits depend on them."""
    first = everyone[0]
    kernels = OLDEST_KERNELS.get(platform.machine(), "KERNELS")
    numpy = f"python -m pip install numpy=={first.numpy.split()[0]}"
    common = frozenset(first.simd).intersection(*(each.simd for each in everyone))
    odd = " ".join(dict.fromkeys(feature for each in everyone for feature in each.simd if feature not in common))
    return [
        alike("Python", [each.python for each in everyone], "use the same Python on all hosts"),
        alike("NumPy", [each.numpy for each in everyone], numpy),
        alike("BLAS", [each.blas for each in everyone], f"{numpy}, and export OPENBLAS_CORETYPE={kernels}"),
        threads(everyone),
        alike(
            "SIMD",
            [" ".join(each.simd) or "unknown" for each in everyone],
            f'export NPY_DISABLE_CPU_FEATURES="{odd}"',
        ),
    ]


def alike(name: str, values: Sequence[str], remedy: str) -> Finding:
    """What all ranks have alike, or who has what. remedy: for every host."""
    if len(set(values)) == 1:
        return Finding(OK, name, values[0])
    return Finding(PROBLEM, name, f"not the same everywhere: {by_value(values)}", f"on every host: {remedy}")


def threads(everyone: Sequence[Facts]) -> Finding:
    """Whether BLAS uses one thread a rank when it is told to."""
    remedy = "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1"
    known = [each.threads for each in everyone if each.threads is not None]
    if len(known) < len(everyone):
        return Finding(NOTE, "threads", "nobody knows how many this BLAS uses; it has to be 1", remedy)
    default, limited = map(max, zip(*known, strict=True))
    told = f"{limited} of BLAS a rank in training" + f" ({default} by default)" * (default != limited)
    return Finding(PROBLEM, "threads", told, remedy) if limited > 1 else Finding(OK, "threads", told)


def variables(everyone: Sequence[Facts]) -> list[Finding]:
    """What the environment says about all this, if anything; no finding of it is wrong by itself."""
    told = [" ".join(f"{name}={value}" for name, value in each.variables.items()) for each in everyone]
    if not any(told):
        return []
    return [Finding(OK, "variables", told[0] if len(set(told)) == 1 else by_value(told))]


def data(directory: Path, named: bool) -> Finding:
    """Whether the data are there and intact. named: whether a person named the folder."""
    fetch = f"python -m distnet.datasets mnist --data-dir {directory}"
    try:
        files = find_files("mnist", directory)
        there = traces(directory)
        if files is None and (named or there):
            told = f"no mnist in {directory}" + (f", but {join_names(there)}" if there else "")
            return Finding(PROBLEM, "files", told, fetch)
        if files is None:
            told = f"no mnist in {directory}: training asks the mirrors, and draws digits if none answers"
            return Finding(NOTE, "files", told, fetch)
        arrays = read_files("mnist", files)
    except InputError as error:
        return Finding(PROBLEM, "files", f"{error.subject}: {error.problem}", fetch)
    counts = (len(arrays[0]), len(arrays[2]))
    if not set(counts) & set(KNOWN_SAMPLES):
        return Finding(OK, "files", f"{counts[0]:,} and {counts[1]:,} samples of your own in {directory}")
    troubles = {}
    for name in ("mnist", "fashion-mnist"):  # whose files have the same names
        try:
            check_bytes(name, files, arrays)
            return Finding(OK, "files", f"{name} in {directory}, every byte as published")
        except InputError as error:
            troubles[name] = f"{error.subject}: {error.problem}"
    return Finding(PROBLEM, "files", troubles["mnist"], fetch)


def same_bits(world: World, digests: Sequence[Bits], seconds: Sequence[float]) -> Finding:
    """Whether the ranks together, and each alone, end with the same parameters. seconds: of rank 0, both ways."""
    name, size = "bits", counted(world.size, "rank")
    alone = [each.alone for each in digests]
    if len({digest for each in digests for digest in each}) == 1:
        who = f"{size} and a single process train" if world.size > 1 else "a single process trains twice"
        told = f"{who} to the same parameters, in {seconds[0]:.1f} s and {seconds[1]:.1f} s; sha256 {alone[0]}"
        return Finding(OK, name, told)
    if len(set(alone)) > 1:
        told = f"ranks differ even as single processes: {by_value([digest[:8] for digest in alone])}"
        return Finding(PROBLEM, name, told, "hosts of one kind, or what stands beside BLAS and SIMD above")
    together = by_value([each.together[:8] for each in digests])
    told = f"{size} and a single process train to different parameters: {alone[0][:8]} alone, together {together}"
    return Finding(PROBLEM, name, told, f"python -m distnet.doctor once more, for memory can fail; then {BUG_REPORT}")


def exchange(found: Speed) -> Finding:
    """The exchange beside MPI_Allreduce."""
    told = (
        f"{found.exchange * 1e3:.2f} ms to add up {PARAMETERS:,} gradients and update, "
        f"{found.allreduce * 1e3:.2f} ms with MPI_Allreduce"
    )
    if found.exchange > 2 * found.allreduce:
        return Finding(NOTE, "exchange", f"{told}, which is faster", f"if it stays so on an idle machine, {BUG_REPORT}")
    return Finding(OK, "exchange", told)


def nodes(world: World) -> list[range]:
    """The ranks of each node."""
    return [range(stop - size, stop) for stop, size in zip(accumulate(world.node_sizes), world.node_sizes, strict=True)]


def by_value(values: Sequence[str]) -> str:
    """'2.4.6 on rank 0, 2.3.0 on ranks 1-3'."""
    holders: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        holders.setdefault(value, []).append(rank)
    told = [f"{value} on rank{'s' * (len(held) > 1)} {spans(held)}" for value, held in holders.items()]
    return listed(told)


def listed(words: Sequence[str]) -> str:
    """The first of them, and that there are more."""
    return ", ".join(words[:SHOWN]) + f" and {len(words) - SHOWN} more" * (len(words) > SHOWN)


def spans(numbers: Iterable[int]) -> str:
    """'0-2,5' of 0, 1, 2 and 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def mib(size: int) -> str:
    """'224 MiB'."""
    return f"{size / MIB:,.0f} MiB"


def at(host: str, everyone: Sequence[Facts]) -> str:
    """' on HOST', where there are others."""
    return f" on {host}" * any(each.host != host for each in everyone)
