"""Checks of a machine, its data and a short training; each finding has a remedy if something is wrong.

`everyone` are the facts of all ranks, in their order.
"""

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
from distnet.doctor.trial import CLASSES, PIXELS, SHA256, Digests
from distnet.nn.parameters import parameter_count
from distnet.parallel.shared_memory import SHARED_MEMORY
from distnet.parallel.world import World
from distnet.runtime.arrays import pad_count
from distnet.runtime.errors import InputError
from distnet.runtime.text import format_count, join_names, list_names

MIB = 1 << 20
SHOWN = 4  # items in a line
# The oldest kernels of OpenBLAS for each kind of machine, which all newer machines can run.
OLDEST_KERNELS = {"x86_64": "Haswell", "aarch64": "ARMV8"}


def list_ranks(world: World, everyone: Sequence[Facts]) -> Finding:
    """Which ranks are on which node."""
    places = [f"{format_ranges(node)} on {everyone[node.start].host}" for node in nodes(world)]
    text = f"{format_count(world.size, 'rank')} on {format_count(world.nodes, 'node')}: {list_names(places, SHOWN)}"
    return Finding(OK, "ranks", text)


def check_shared_memory(world: World, everyone: Sequence[Facts], is_shared: bool) -> Finding:
    """Room in /dev/shm for MNIST. is_shared: whether ranks read what others write to shared memory."""
    name = "windows"
    if not is_shared:
        text = "ranks of a node don't read what the others write to shared memory"
        return Finding(PROBLEM, name, text, BUG_REPORT)
    need, has_windows = window_bytes(world), max(world.node_sizes) > 1
    text = "ranks of a node share memory" if has_windows else "a single rank needs no shared memory, several do"
    text += f"; MNIST takes {need / MIB:,.0f} MiB of it"
    left, place = find_least("shared_memory", everyone)
    if left is None:
        return Finding(OK, name, text)
    text += f", and {SHARED_MEMORY} has {left / MIB:,.0f} MiB left{place}"
    if left >= need:
        return Finding(OK, name, text)
    room = f"{-(-2 * need // (1 << 30))}g"
    remedy = (
        f"docker run --shm-size={room} ...; in Kubernetes an emptyDir with medium: Memory at {SHARED_MEMORY}; "
        f"else as root: mount -o remount,size={room} {SHARED_MEMORY}"
    )
    return Finding(PROBLEM if has_windows else NOTE, name, text, remedy)


def check_memory(world: World, everyone: Sequence[Facts]) -> Finding:
    """Free memory for training on MNIST: the windows, and rank 0's copy of the files."""
    need = window_bytes(world) + sum(KNOWN_SAMPLES) * PIXELS
    left, place = find_least("memory", everyone)
    free = "unknown how much is free" if left is None else f"{left / MIB:,.0f} MiB free{place}"
    text = f"{free}; MNIST takes {need / MIB:,.0f} MiB per node"
    if left is None or left >= need:
        return Finding(OK, "memory", text)
    return Finding(PROBLEM, "memory", text, f"end other programs, or docker run --memory={-(-2 * need // MIB)}m ...")


def window_bytes(world: World) -> int:
    """Shared memory of a node when MNIST is loaded and trained on with the default options, in bytes."""
    samples, number = sum(KNOWN_SAMPLES), np.dtype(np.float64).itemsize
    raw = samples * (PIXELS + 1)
    data = samples * (pad_count(PIXELS + 1, np.float64) + CLASSES) * number
    # Parameters, as they are and rounded, and the gradients of each rank.
    vectors = max(world.node_sizes) + 2
    return raw + data + vectors * parameter_count((PIXELS, *Config.hidden, CLASSES)) * number


def find_least(resource: str, everyone: Sequence[Facts]) -> tuple[int | None, str]:
    """The least bytes of a resource on any host, None if unknown; and ' on HOST' if there are several hosts."""
    left = [(getattr(each, resource), each.host) for each in everyone if getattr(each, resource) is not None]
    if not left:
        return None, ""
    least, host = min(left)
    return least, f" on {host}" * any(each.host != host for each in everyone)


def check_cores(world: World, everyone: Sequence[Facts]) -> list[Finding]:
    """Whether each rank can have a core of its own; equal findings of several nodes are one."""
    hosts: dict[Finding, list[str]] = {}
    for numbers in nodes(world):
        node = everyone[numbers.start : numbers.stop]
        for finding in filter(None, (check_node_cores(node), check_node_quota(node))):
            hosts.setdefault(finding, []).append(node[0].host)
    if world.nodes == 1:
        return list(hosts)
    return [finding._replace(text=f"{finding.text} ({list_names(where, SHOWN)})") for finding, where in hosts.items()]


def check_node_cores(node: Sequence[Facts]) -> Finding:
    """Which cores the ranks of a node may use."""
    sets, cores = [each.cores for each in node], node[0].host_cores
    union = frozenset[int]().union(*sets)
    text = f"{format_count(len(node), 'rank')}, {format_count(cores, 'core')}; "
    if len(set(sets)) == 1:
        text += f"may use {format_ranges(union)}" if len(node) == 1 else f"each may use {format_ranges(union)}"
    else:
        text += f"bound to {list_names([format_ranges(each) for each in sets], SHOWN)}"
    crowded = [each for each in (*sets, union) if sum(other <= each for other in sets) > len(each)]
    if not crowded:
        return Finding(OK, "cores", text)
    least = min(crowded, key=len)
    if len(least) == cores:
        return Finding(NOTE, "cores", f"{text}; more ranks than cores are not faster", f"mpirun -n {cores} ...")
    ranks = sum(other <= least for other in sets)
    text += f": {ranks} ranks take turns on {format_ranges(least)}, and other cores are idle"
    remedy = "mpirun --bind-to none ... (or --bind-to core), and no taskset, numactl or cpuset around it"
    return Finding(PROBLEM, "cores", text, remedy)


def check_node_quota(node: Sequence[Facts]) -> Finding | None:
    """Whether the container's CPU quota is at least one core per rank; None without a quota."""
    quota = node[0].quota
    if quota is None:
        return None
    text = f"the container may use {quota:g} cores' worth of time for {format_count(len(node), 'rank')}"
    if quota >= len(node):
        return Finding(OK, "quota", text)
    return Finding(NOTE, "quota", text, f"docker run --cpus {len(node)} ..., or mpirun -n {max(1, int(quota))} ...")


def compare_software(everyone: Sequence[Facts]) -> list[Finding]:
    """Python, NumPy, BLAS and SIMD, on which the bits of native arithmetic depend, and what portable needs."""
    first = everyone[0]
    kernels = OLDEST_KERNELS.get(platform.machine(), "KERNELS")
    numpy = f"python -m pip install numpy=={first.numpy.split()[0]}"
    common = frozenset(first.simd).intersection(*(each.simd for each in everyone))
    odd = " ".join(dict.fromkeys(feature for each in everyone for feature in each.simd if feature not in common))
    simd = [" ".join(each.simd) or "unknown" for each in everyone]
    return [
        compare("Python", [each.python for each in everyone], "use the same Python on all hosts"),
        compare("NumPy", [each.numpy for each in everyone], numpy),
        compare("BLAS", [each.blas for each in everyone], f"{numpy}, and export OPENBLAS_CORETYPE={kernels}"),
        check_threads(everyone),
        compare("SIMD", simd, f'export NPY_DISABLE_CPU_FEATURES="{odd}"'),
        check_rounding(everyone),
    ]


def compare(name: str, values: Sequence[str], remedy: str) -> Finding:
    """The value that all ranks have, or a note. remedy: for every host."""
    if len(set(values)) == 1:
        return Finding(OK, name, values[0])
    text = f"not the same everywhere, which changes the bits of native arithmetic: {group_by_value(values)}"
    return Finding(NOTE, name, text, f"on every host: {remedy}")


def check_rounding(everyone: Sequence[Facts]) -> Finding:
    """Whether portable arithmetic can be used."""
    deviations = [each.deviation for each in everyone]
    if any(deviations):
        text = f"not as portable arithmetic needs it: {group_by_value([each or 'none' for each in deviations])}"
        return Finding(PROBLEM, "rounding", text, "another NumPy or BLAS, or --arithmetic native")
    return Finding(OK, "rounding", "as IEEE 754 defines it, also in the BLAS and of subnormal numbers")


def check_threads(everyone: Sequence[Facts]) -> Finding:
    """Whether the BLAS can be limited to one thread per rank."""
    remedy = "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1"
    known = [each.threads for each in everyone if each.threads is not None]
    if len(known) < len(everyone):
        return Finding(NOTE, "threads", "unknown how many this BLAS uses; it must be 1", remedy)
    default, limited = map(max, zip(*known, strict=True))
    text = f"{limited} of BLAS per rank in training" + f" ({default} by default)" * (default != limited)
    return Finding(PROBLEM, "threads", text, remedy) if limited > 1 else Finding(OK, "threads", text)


def list_variables(everyone: Sequence[Facts]) -> list[Finding]:
    """The environment variables that matter, if any are set."""
    values = [" ".join(f"{name}={value}" for name, value in each.variables.items()) for each in everyone]
    return [Finding(OK, "variables", format_values(values))] if any(values) else []


def list_systems(everyone: Sequence[Facts]) -> Finding:
    """The operating system and processor."""
    return Finding(OK, "system", format_values([f"{each.system}; {each.cpu}" for each in everyone]))


def format_values(values: Sequence[str]) -> str:
    """The value that all ranks have, or each with its ranks."""
    return values[0] if len(set(values)) == 1 else group_by_value(values)


def check_data(folder: Path, is_named: bool) -> Finding:
    """Whether the data are complete and intact. is_named: whether the user named the folder."""
    fetch = f"python -m distnet.datasets mnist --data-dir {folder}"
    try:
        files = find_files("mnist", folder)
        others = traces(folder)
        if files is None and (is_named or others):
            text = f"no mnist in {folder}" + (f", but {join_names(others)}" if others else "")
            return Finding(PROBLEM, "files", text, fetch)
        if files is None:
            text = f"no mnist in {folder}: training tries to download it, and else draws synthetic digits"
            return Finding(NOTE, "files", text, fetch)
        arrays = read_files("mnist", files)
    except InputError as error:
        return Finding(PROBLEM, "files", f"{error.subject}: {error.problem}", fetch)
    counts = (len(arrays[0]), len(arrays[2]))
    if not set(counts) & set(KNOWN_SAMPLES):
        return Finding(OK, "files", f"{counts[0]:,} and {counts[1]:,} samples of your own in {folder}")
    problems = {}
    for name in ("mnist", "fashion-mnist"):  # their files have the same names
        try:
            check_bytes(name, files, arrays)
            return Finding(OK, "files", f"{name} in {folder}, every byte as published")
        except InputError as error:
            problems[name] = f"{error.subject}: {error.problem}"
    return Finding(PROBLEM, "files", problems["mnist"], fetch)


def compare_bits(world: World, digests: Sequence[Digests], seconds: float, seconds_alone: float) -> Finding:
    """Whether training gives the same parameters on all ranks together, on each alone, and on every other machine."""
    name, size = "bits", format_count(world.size, "rank")
    alone = [each.alone for each in digests]
    if {digest for each in digests for digest in each} == {SHA256}:
        who = f"{size} and a single process train" if world.size > 1 else "a single process trains"
        text = f"{who} to the same bits as everywhere, in {seconds:.1f} s and {seconds_alone:.1f} s; sha256 {SHA256}"
        return Finding(OK, name, text)
    if set(alone) != {SHA256}:
        text = f"a single process trains to other bits than everywhere, which is a bug: {group_by_value(alone)}"
        return Finding(PROBLEM, name, f"{text}; expected {SHA256}", BUG_REPORT)
    together = group_by_value([each.together[:8] for each in digests])
    text = f"{size} and a single process train to different parameters: {alone[0][:8]} alone, together {together}"
    return Finding(PROBLEM, name, text, f"python -m distnet.doctor once more, for memory can fail; then {BUG_REPORT}")


def nodes(world: World) -> list[range]:
    """The ranks of each node."""
    return [range(stop - size, stop) for stop, size in zip(accumulate(world.node_sizes), world.node_sizes, strict=True)]


def group_by_value(values: Sequence[str]) -> str:
    """'2.4.6 on rank 0, 2.3.0 on ranks 1-3'."""
    holders: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        holders.setdefault(value, []).append(rank)
    groups = [f"{value} on rank{'s' * (len(ranks) > 1)} {format_ranges(ranks)}" for value, ranks in holders.items()]
    return list_names(groups, SHOWN)


def format_ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2 and 5 as '0-2,5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
