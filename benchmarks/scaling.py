"""Measure the constants of distnet/plan.py, and how far off its model is: python benchmarks/scaling.py.

What one rank computes, in CPU time; what barriers and messages take; and real steps at 1 to 4 ranks on this
machine and on 2 and 3 hosts made of it, which needs root and ip netns. Writes the figures to
docs/scaling.json, and then all that scaling_docs.py makes of them. Takes six minutes.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from exchange import allreduce_and_update
from peers import Case, distnet
from scaling_docs import ROOT, machine_of, rounded, write_all
from threadpoolctl import threadpool_limits

from distnet.nn.arithmetic import prepare
from distnet.nn.model import ARITHMETICS, Model
from distnet.nn.optimizers import Hyperparameters, Optimizer
from distnet.nn.parameters import initial_parameters, layer_stacks, parameter_count
from distnet.parallel.exchange import Exchange
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.plan import Link, Machine, Speed, Task, cost, ring_cost
from distnet.runtime.arrays import aligned_zeros

LAYOUTS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (2, 2)]  # hosts, ranks of each
PASSES, ROUNDS = 3, 3  # launches of each layout, in turn, and measurements of each case in a launch
# The constants come from these.
TINY, NEAR, FAR = (8, 8, 8, 8, 8), (784, 800, 800, 10), (784, 2048, 2048, 10)
NARROW, OUTPUTS = (784, *[50] * 6, 10), (8, 1000)
DTYPES = {"portable": "float64", "native": "float32"}
CASES = [  # sizes, activation, batch size, steps a measurement
    ((784, *[50] * 6, 10), "sigmoid", 256, 40),
    ((784, 256, 128, 10), "relu", 128, 40),
    ((784, 256, 128, 10), "relu", 1024, 8),
    (NEAR, "relu", 128, 8),
    (NEAR, "relu", 1024, 2),
    (FAR, "relu", 512, 1),
]
MESSAGE, BURST, LARGE = 1024, 32, 1 << 22  # bytes of a small message, how many at once, bytes of a large one
LOOKS = 32  # at the other rank, in the barrier that is measured beside the usual one


def timed(work: Callable[[], object], clock: Callable[[], float], count: int, rounds: int = 9) -> list[float]:
    """µs that `work` takes: averages over `count`, after one round that isn't counted."""
    times = []
    for _ in range(rounds + 1):
        begin = clock()
        for _ in range(count):
            work()
        times.append((clock() - begin) / count * 1e6)
    return times[1:]


def step_times(sizes: tuple[int, ...], rows: int, count: int, arithmetic: str, dtype: str = "") -> tuple[float, float]:
    """µs of CPU time for forward pass and backprop of one shard, and for preparing the weights.

    dtype: "" for the arithmetic's usual one.
    """
    dtype = dtype or DTYPES[arithmetic]
    parameters = aligned_zeros((parameter_count(sizes),), dtype)
    parameters[:] = initial_parameters(sizes, "relu", 0, dtype, "he")
    gradients = layer_stacks(aligned_zeros((1, len(parameters)), dtype), sizes)
    weights = prepare(Model(sizes, "relu", parameters, arithmetic=arithmetic, input_exponent=3))
    propagation = weights.workspace(rows, (rows,), rows, has_masks=False)
    propagation.inputs[:] = np.random.default_rng(0).standard_normal(propagation.inputs.shape)
    weights.round_inputs(propagation.inputs[:, : sizes[0]])

    def work() -> None:
        propagation.forward()
        propagation.backprop(gradients)
        propagation.losses()
        propagation.finish(gradients, propagation.exponents)

    def refresh() -> None:
        for stage in weights.stages:
            stage()

    taken = (timed(each, time.thread_time, count) for each in (work, refresh))
    return statistics.median(next(taken)), statistics.median(next(taken))


def row_time(sizes: tuple[int, ...], few: int, many: int, arithmetic: str, dtype: str = "") -> float:
    """The ns that each further row takes."""
    more, less = (step_times(sizes, rows, 1 + 64 // rows, arithmetic, dtype)[0] for rows in (many, few))
    return (more - less) / (many - few) * 1e3


def row_flops(sizes: tuple[int, ...]) -> int:
    """Floating-point operations of a row's products."""
    return 6 * parameter_count(sizes) - 2 * (sizes[0] + 1) * sizes[1]


def update_bandwidth(sizes: tuple[int, ...], count: int) -> float:
    """GB/s of one rank that adds four shards and updates."""
    size = parameter_count(sizes)
    exchange = Exchange(World(), np.zeros(size, np.float32), 4)
    optimizer = Optimizer(exchange.slice, [], Hyperparameters())
    taken = timed(lambda: optimizer.update(exchange.reduce_scatter(), 1, 1), time.thread_time, count)
    return 4 * size * (3 * 3 + 3) / statistics.median(taken) / 1e3


def speed_constants(arithmetic: str) -> dict[str, float]:
    """The fields of plan.Speed, from a few networks and numbers of rows.

    The rate of products is that of native arithmetic. What a row takes beside them in portable arithmetic is fitted to
    a narrow network, and to one that is all outputs.
    """

    def beside_native(sizes: tuple[int, ...]) -> float:
        portable, native = (row_time(sizes, 64, 512, each, "float64") for each in ("portable", "native"))
        return portable - native

    dtype, is_portable = DTYPES[arithmetic], arithmetic == "portable"
    layer = sum(step_times(TINY, 1, 300, arithmetic)) / len(TINY)
    gigaflops = row_flops(NEAR) / row_time(NEAR, 16, 256, "native", dtype)
    neuron = output = weight = 0.0
    if is_portable:
        output = beside_native(OUTPUTS) / OUTPUTS[-1]
        neuron = (beside_native(NARROW) - output * NARROW[-1]) / sum(NARROW[1:-1])
        weight = step_times(NEAR, 16, 6, arithmetic)[1] * 1e3 / parameter_count(NEAR)

    def besides(sizes: tuple[int, ...], rows: int, count: int) -> float:
        """What calls, flops and roundings leave of it, in ns per parameter; at least 0."""
        row = row_flops(sizes) / gigaflops + neuron * sum(sizes[1:-1]) + output * sizes[-1]
        taken = step_times(sizes, rows, count, arithmetic)[0] - len(sizes) * layer
        return max(taken * 1e3 - rows * row, 0) / parameter_count(sizes)

    return {
        "number": np.dtype(dtype).itemsize,
        "layer": layer,
        "gigaflops": gigaflops,
        "near": besides(NEAR, 16, 6),
        "far": besides(FAR, 16, 2),
        "one_row": besides(NEAR, 1, 6),
        "neuron": neuron,
        "output": output,
        "weight": weight,
    }


def message_constants(world: World) -> list[float]:
    """Latency, time a message, and time of LARGE bytes each way, between the two ranks. Collective."""
    from mpi4py import MPI

    comm, other = world.comm, 1 - world.rank
    assert comm is not None
    small, large = np.zeros((2, MESSAGE), np.uint8), np.zeros((2, LARGE), np.uint8)

    def there_and_back() -> None:
        for turn in (0, 1):
            if turn == world.rank:
                comm.Send(small[0], other)
            else:
                comm.Recv(small[0], other)

    def burst() -> None:
        receives = [comm.Irecv(small[0], other) for _ in range(BURST)]
        MPI.Request.Waitall(receives + [comm.Isend(small[1], other) for _ in range(BURST)])

    def exchange() -> None:
        comm.Sendrecv(large[0], other, recvbuf=large[1], source=other)

    latency = min(timed(there_and_back, time.perf_counter, 100)) / 2
    message = max(min(timed(burst, time.perf_counter, 10)) - latency, 0) / BURST
    return [latency, message, min(timed(exchange, time.perf_counter, 5))]


def on_ranks() -> None:
    """On every rank of an mpirun: all cases, then barriers and messages. Rank 0 prints JSON."""
    world = launched_world()
    found: dict[str, Any] = {"library": world.library, "steps": {arithmetic: [] for arithmetic in ARITHMETICS}}
    for arithmetic, taken in found["steps"].items():
        for sizes, activation, batch_size, count in CASES:
            steps = distnet(Case(sizes, activation, batch_size), arithmetic, DTYPES[arithmetic]).steps
            steps(count)
            taken.append([steps(count) for _ in range(ROUNDS)])
    if world.size == 2:
        found["messages"] = message_constants(world)
        assert world.comm is not None
        found["allreduce"] = timed(allreduce_and_update(world.comm, parameter_count(NEAR)), time.perf_counter, 10)
        if world.nodes == 1:
            found["barrier"] = min(timed(world.node_barrier, time.perf_counter, 500))
            world._others *= LOOKS
            found["look"] = (min(timed(world.node_barrier, time.perf_counter, 500)) - found["barrier"]) / (LOOKS - 1)
    if world.rank == 0:
        print(json.dumps(found))


def launch(hosts: int, ranks: int) -> dict[str, Any] | None:
    """What `on_ranks` found; None where hosts can't be made here."""
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks)]
    # UCX would find that the hosts share this machine's memory.
    env = os.environ | {"MPIEXEC_TIMEOUT": "100"} | ({"UCX_TLS": "tcp,self"} if hosts > 1 else {})
    if hosts > 1:
        mpirun = [sys.executable, str(ROOT / "tests" / "hosts.py"), str(hosts), str(ranks)]
    command = [*mpirun, sys.executable, __file__, "--on-ranks"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    if hosts > 1 and "needs root" in done.stderr:
        return None
    if done.returncode:
        sys.exit(f"{hosts} hosts, {ranks} ranks each: status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def shared_cores(machine: Machine, ranks: int) -> Machine:
    """The machine as each of `ranks` ranks sees it, when they are more than its cores."""
    cores = os.cpu_count() or 1
    times = max(1, ranks / cores)
    size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    cache = float(size.read_text().rstrip("K\n")) / 1e3 if size.exists() else machine.cache * cores

    def slower(speed: Speed) -> Speed:
        values = {name: value * times for name, value in speed._asdict().items()}
        return Speed(**values)._replace(number=speed.number, gigaflops=speed.gigaflops / times)

    return machine._replace(
        portable=slower(machine.portable),
        native=slower(machine.native),
        near_bandwidth=machine.near_bandwidth / times,
        far_bandwidth=machine.far_bandwidth / times,
        cache=cache / min(ranks, cores) / times,
        node_bandwidth=machine.far_bandwidth * cores,
    )


def measure() -> dict[str, Any]:
    """Everything that docs/scaling.json holds of this machine."""
    with threadpool_limits(1, user_api="blas"):
        found: dict[str, Any] = {arithmetic: speed_constants(arithmetic) for arithmetic in ARITHMETICS}
        constants = {"near_bandwidth": update_bandwidth(NEAR, 6), "far_bandwidth": update_bandwidth(FAR, 2)}
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {layout: [] for layout in LAYOUTS}
    for _ in range(PASSES):
        for layout in LAYOUTS:
            if one := launch(*layout):
                runs[layout].append(one)

    def fastest(layout: tuple[int, int], key: str) -> Any:
        """Of all passes, a number or each of a list: what else the machine does only slows messages down."""
        return np.min([one[key] for one in runs[layout]], axis=0).tolist()

    def link_of(layout: tuple[int, int]) -> list[float]:
        latency, message, large = fastest(layout, "messages")
        return [latency, message, LARGE / large / 1e3]

    found["constants"] = constants | {key: fastest((1, 2), key) for key in ("barrier", "look")}
    found["messages"] = link_of((1, 2))
    found["over_tcp"] = link_of((2, 1)) if runs[2, 1] else None
    machine, found["checks"], found["rings"] = machine_of(found), [], []
    for (hosts, ranks), launched in runs.items():
        if not launched:
            continue
        link = Link(*found["over_tcp"]) if hosts > 1 else machine.messages
        on = shared_cores(machine, hosts * ranks)
        for arithmetic, (number, (sizes, _, batch_size, _)) in product(ARITHMETICS, enumerate(CASES)):
            times = [each for one in launched for each in one["steps"][arithmetic][number]]
            model = cost(Task(sizes, batch_size, arithmetic), hosts, ranks, link, on)
            found["checks"].append(
                {"arithmetic": arithmetic, "hosts": hosts, "ranks_per_host": ranks}
                | {"network": sizes, "batch_size": batch_size}
                | {"measured": rounded(statistics.median(times)), "spread": [rounded(min(times)), rounded(max(times))]}
                | {"predicted": rounded(model.step), "predicted_compute": rounded(model.compute)}
            )
        if hosts * ranks == 2:
            ring = ring_cost(Task(NEAR, 1, "native"), hosts, ranks, link, on).exchange
            taken = float(np.median([one["allreduce"] for one in launched]))
            found["rings"].append(
                {"hosts": hosts, "network": NEAR, "measured": rounded(taken), "predicted": rounded(ring)}
            )
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    system = f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, NumPy {np.__version__}"
    found["about"] = (
        f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores, {system}, "
        f"{runs[1, 1][0]['library']}; {time.strftime('%Y-%m-%d')}"
    )
    return found


def main() -> None:
    """Measure, compare, plan, write."""
    found = measure()
    if not found["over_tcp"]:
        print("left out the hosts, which need root and ip netns")
    write_all(found)


if __name__ == "__main__":
    on_ranks() if "--on-ranks" in sys.argv else main()
