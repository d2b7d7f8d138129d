"""Estimate the time of a training step on 1, 2, 4 ... ranks and nodes: python -m distnet.plan --nodes 16.

The latency-bandwidth model and its accuracy are described in docs/scaling.md.
"""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

from collections.abc import Sequence
from typing import NamedTuple

from distnet.config.options import Config
from distnet.config.parser import Parser
from distnet.config.values import read_counts
from distnet.nn.model import ARITHMETICS
from distnet.nn.parameters import BLOCK, parameter_count
from distnet.parallel.shards import shard_rows, share
from distnet.runtime.command import run
from distnet.runtime.numbers import Number, doubled, positive_count
from distnet.runtime.text import format_count

FLOAT64 = 8  # bytes
ROUNDING = 7 * FLOAT64  # bytes moved per weight: magnitude, maximum, addition, subtraction
BARRIERS = {"portable": 5, "native": 2}  # per step; also for the exponents, the largest weights and the rounded weights
AT_ONCE = 32  # messages in flight in MPICH's Ialltoallv (MPIR_CVAR_ALLTOALL_THROTTLE)
SHORT, SHORT_POWER = 81_920, 524_288  # bytes from which its Iallgatherv is a ring; the second for 2^j ranks
WORTHWHILE = 0.5  # the least efficiency that the advice accepts


class Link(NamedTuple):
    """A connection. latency: µs. message: µs of CPU time to send and receive it. bandwidth: GB/s per node and way."""

    latency: float
    message: float
    bandwidth: float


INTERCONNECTS = {
    # MPICH over TCP, OSU benchmarks: gist.github.com/jfgrimm/3af692a5475bdd4ed836b5a18197a209. Its osu_bw
    # sends 0.23 million messages of one byte a second over TCP and 4.9 million over InfiniBand; twice their time.
    "ethernet-1g": Link(25, 8.7, 0.117),
    # Feng et al., Optimizing 10-Gigabit Ethernet, SC 2003; 1,460 of a packet's 1,538 bytes are data.
    "ethernet-10g": Link(12, 8.7, 1.19),
    # TCP: naddod.com/blog/edr-infiniband-vs-100gb-ethernet-performance-competition; 91 Gbit/s in several
    # streams: gist.github.com/sciarrilli/6411d019fad8ab85d9ef57675953625f.
    "ethernet-100g": Link(10, 8.7, 11.4),
    # Azure's HBv3, learn.microsoft.com: 1.2 µs, 192 Gbit/s.
    "infiniband-hdr": Link(1.2, 0.41, 24),
}


class Speed(NamedTuple):
    """The speed of a rank in one arithmetic.

    number: bytes per number. layer: µs of the NumPy calls of a layer on little data. gigaflops: of matrix products.
    near, far: ns per parameter and shard, beside the products, if parameters and gradients fit a rank's cache, and if
    not. one_row: the least for shards of one row. neuron: ns per row and hidden neuron, to round activations and
    deltas. output: ns per row and class, for exponentials. weight: ns to round a weight.
    """

    number: float
    layer: float
    gigaflops: float
    near: float
    far: float
    one_row: float
    neuron: float = 0
    output: float = 0
    weight: float = 0


class Machine(NamedTuple):
    """The speed of a node. benchmarks/scaling.py measures all values except cache and node_bandwidth.

    native is in float32. near_bandwidth, far_bandwidth: GB/s of a rank that adds or updates, if its data fits the cache
    and if not. barrier: µs of two ranks. look: µs for each further rank. messages: between ranks of the node. cache: MB
    per rank. node_bandwidth: GB/s of all ranks together.
    """

    portable: Speed
    native: Speed
    near_bandwidth: float
    far_bandwidth: float
    barrier: float
    look: float
    messages: Link
    cache: float
    node_bandwidth: float

    def speed(self, arithmetic: str) -> Speed:
        """The speed in "portable" or "native" arithmetic."""
        return self.portable if arithmetic == "portable" else self.native


# As benchmarks/scaling.py wrote it. cache, node_bandwidth: a socket of AMD's EPYC 7003, 32 MB of L3 for 8
# cores, and half of the 340 GB/s that STREAM reaches on two (Azure's HBv3, learn.microsoft.com).
MACHINE = Machine(
    portable=Speed(
        number=8,
        layer=15.5,
        gigaflops=49.9,
        near=1.41,
        far=1.58,
        one_row=0.967,
        neuron=5.18,
        output=5.91,
        weight=1.38,
    ),
    native=Speed(
        number=4,
        layer=4.68,
        gigaflops=97.5,
        near=0.339,
        far=1.15,
        one_row=1.21,
        neuron=0,
        output=0,
        weight=0,
    ),
    near_bandwidth=57.8,
    far_bandwidth=60.5,
    barrier=0.571,
    look=0.0342,
    messages=Link(1.73, 1.88, 12.3),
    cache=4,
    node_bandwidth=170,
)


class Task(NamedTuple):
    """What is trained. sizes: neurons per layer. batch_size: rows per mini-batch. arithmetic: one of ARITHMETICS."""

    sizes: Sequence[int]
    batch_size: int
    arithmetic: str = "portable"


class Cost(NamedTuple):
    """The time of a step. compute, exchange: µs. The exchange includes the update."""

    nodes: int
    ranks: int
    compute: float
    exchange: float

    @property
    def step(self) -> float:
        """µs of the whole step."""
        return self.compute + self.exchange


def cost(task: Task, nodes: int, node_size: int, link: Link, on: Machine = MACHINE, shards: int | None = None) -> Cost:
    """The time of a step on `nodes` nodes of `node_size` ranks. shards: None for one per rank."""
    ranks, parameters, speed = nodes * node_size, parameter_count(task.sizes), on.speed(task.arithmetic)
    size, shards, is_portable = speed.number * parameters, shards or ranks, task.arithmetic == "portable"
    runs = [share(shards, node, nodes) for node in range(nodes)]
    roots, rows = [subtrees(each, shards) for each in runs], max(map(len, runs))
    moved = size * (3 * (rows - 1) + (3 * (sum(roots) - 1) + 3) / nodes)  # by additions, and by the update
    exchange = memory(on, moved, size * (rows + 1), node_size)
    if node_size > 1:
        exchange += BARRIERS[task.arithmetic] * (on.barrier + on.look * (node_size - 2))
    if nodes > 1:
        messages = min(nodes - 1, -(-parameters // BLOCK // node_size))  # none to ranks without a block
        exchange += -(-messages // AT_ONCE) * link.latency + messages * link.message
        exchange += allgather_steps(nodes, size / node_size) * (link.latency + link.message)
        exchange += is_portable * small_allreduce(nodes, link)
        exchange += (max(roots) + 1) * size * (nodes - 1) / nodes / (link.bandwidth * 1e3)
    compute = propagation(on, task, shard_rows(task.batch_size, shards), -(-shards // ranks), node_size)
    return Cost(nodes, ranks, compute + rounding(on, task, node_size, node_size), exchange)


def ring_cost(task: Task, nodes: int, node_size: int, link: Link, on: Machine = MACHINE) -> Cost:
    """The time of a step with a replica on every rank, updated after a ring allreduce over all ranks."""
    ranks, size = nodes * node_size, on.speed(task.arithmetic).number * parameter_count(task.sizes)
    # A message within a node is copied twice: read, write, read, write.
    inside = on.messages._replace(bandwidth=min(on.messages.bandwidth, on.node_bandwidth / (4 * node_size)))
    hops = [inside] * (node_size > 1) + [link] * (nodes > 1)
    hop = max((each.latency + each.message + size / ranks / (each.bandwidth * 1e3) for each in hops), default=0)
    update = memory(on, 3 * size * node_size, 2 * size * node_size, node_size)
    compute = propagation(on, task, shard_rows(task.batch_size, ranks), 1, node_size)
    if task.arithmetic == "portable":
        compute += rounding(on, task, 1, node_size)
        update += small_allreduce(node_size, on.messages) + small_allreduce(nodes, link)
    return Cost(nodes, ranks, compute, 2 * (ranks - 1) * hop + update)


def propagation(on: Machine, task: Task, rows: int, shards: int, node_size: int) -> float:
    """µs of forward pass and backprop of a rank's shards, while the other ranks of its node compute theirs."""
    sizes, speed = task.sizes, on.speed(task.arithmetic)
    count = parameter_count(sizes)
    flops = 6 * count - 2 * (sizes[0] + 1) * sizes[1]  # the first layer passes no δ on
    besides = speed.near
    if 2 * speed.number * count > on.cache * 1e6:  # parameters are read twice, gradients written
        besides = max(speed.far, 3 * speed.number * node_size / on.node_bandwidth)
    if rows == 1:
        besides = max(speed.one_row, besides)
    row = flops / speed.gigaflops + sum(sizes[1:-1]) * speed.neuron + sizes[-1] * speed.output
    return len(sizes) * speed.layer + shards * (rows * row + count * besides) / 1e3


def rounding(on: Machine, task: Task, sharers: int, node_size: int) -> float:
    """µs in which a rank rounds the weights, one of `sharers` that share them; every rank of the node does so."""
    speed, weights = on.speed(task.arithmetic), parameter_count(task.sizes) / sharers
    each = speed.weight
    if each and 2 * speed.number * weights > on.cache * 1e6:
        each = max(each, ROUNDING * node_size / on.node_bandwidth)
    return weights * each / 1e3


def small_allreduce(members: int, link: Link) -> float:
    """µs of an allreduce of a few numbers, by recursive doubling."""
    return (members - 1).bit_length() * (link.latency + link.message)


def memory(on: Machine, moved: float, held: float, node_size: int) -> float:
    """µs in which the ranks of a node together move `moved` bytes of arrays of `held` bytes."""
    near = held <= node_size * on.cache * 1e6
    bandwidth = node_size * on.near_bandwidth if near else min(node_size * on.far_bandwidth, on.node_bandwidth)
    return moved / (bandwidth * 1e3)


def subtrees(run: range, shards: int) -> int:
    """The number of complete subtrees of the fixed tree in this run of shards: see shards.roots_within."""
    start, count = run.start, 0
    while start < run.stop:
        size = 1 << shards.bit_length()
        while start % size or (start + size > run.stop and run.stop < shards):
            size //= 2
        start, count = start + size, count + 1
    return count


def allgather_steps(ranks: int, total: float) -> int:
    """Messages in sequence in MPICH's Iallgatherv of `total` bytes: recursive doubling, Bruck's algorithm or a ring."""
    short = total < (SHORT_POWER if ranks & (ranks - 1) == 0 else SHORT)
    return (ranks - 1).bit_length() if short else ranks - 1


def worlds(nodes: int, node_size: int) -> list[tuple[int, int]]:
    """Nodes, and ranks per node: 1, 2, 4 ... ranks on one node, then 2, 4 ... whole nodes."""
    return [(1, ranks) for ranks in doubled(node_size)] + [(count, node_size) for count in doubled(nodes)[1:]]


def advice(costs: Sequence[Cost]) -> tuple[Cost, Cost]:
    """The largest efficient world, and the fastest. costs: from one rank up."""
    efficient = [each for each in costs if costs[0].step >= WORTHWHILE * each.ranks * each.step]
    return efficient[-1], min(costs, key=lambda each: each.step)


def table(costs: Sequence[Cost], rings: Sequence[Cost], batch_size: int) -> str:
    """One line per world. All speed-ups, also the ring's, are relative to one rank of this design."""
    head = "exchange µs  samples/s speed-up  eff."
    lines = [
        f"{'':27}{'this design':^38}   {'replicas, ring allreduce':^38}".rstrip(),
        f"nodes  ranks  compute µs   {head}   {head}",
    ]
    for each, ring in zip(costs, rings, strict=True):
        line = f"{each.nodes:5,} {each.ranks:6,} {each.compute:11,.0f}"
        for way in (each, ring):
            gain = costs[0].step / way.step
            line += f"   {way.exchange:11,.0f} {batch_size / way.step * 1e6:10,.0f} {gain:8.1f} {gain / way.ranks:5.0%}"
        lines.append(line)
    return "\n".join(lines)


def build_parser() -> Parser:
    """The parser of `python -m distnet.plan`."""
    layers = " ".join(map(str, Config.hidden))
    parser = Parser(
        prog="python -m distnet.plan",
        description="Estimate the time of a training step on more and more ranks and nodes.",
        allow_abbrev=False,
    )
    parser.add_argument("--hidden", type=read_counts, nargs="*", default=[Config.hidden], metavar="K",
                      help=f"neurons of each hidden layer (default: {layers})")  # fmt: skip
    parser.add_argument("--batch-size", type=positive_count, default=Config.batch_size, metavar="B",
                      help=f"rows per mini-batch, of all ranks together (default: {Config.batch_size})")  # fmt: skip
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default=Config.arithmetic,
                      help=f"arithmetic; native is float32 here (default: {Config.arithmetic})")  # fmt: skip
    parser.add_argument("--nodes", type=Number(int, lambda k: 1 <= k <= 65_536, "an integer from 1 to 65536"),
                      default=16, metavar="K", help="number of nodes (default: 16)")  # fmt: skip
    parser.add_argument("--ranks-per-node", type=positive_count, default=32, metavar="K",
                      help="ranks per node, at most its cores (default: 32)")  # fmt: skip
    parser.add_argument("--interconnect", choices=tuple(INTERCONNECTS), default="ethernet-10g",
                      help="network between the nodes (default: ethernet-10g)")  # fmt: skip
    parser.add_argument("--features", type=positive_count, default=784, metavar="K",
                      help="inputs of the network (default: 784)")  # fmt: skip
    parser.add_argument("--classes", type=positive_count, default=10, metavar="K",
                      help="outputs of the network (default: 10)")  # fmt: skip
    return parser


def main() -> None:
    """Run the command."""
    typed = build_parser().parse_args()
    task = Task((typed.features, *sum(typed.hidden, ()), typed.classes), typed.batch_size, typed.arithmetic)
    places, link = worlds(typed.nodes, typed.ranks_per_node), INTERCONNECTS[typed.interconnect]
    costs = [cost(task, *place, link) for place in places]
    print(table(costs, [ring_cost(task, *place, link) for place in places], typed.batch_size))
    worth, fastest = advice(costs)
    gains = [costs[0].step / each.step for each in (worth, fastest)]
    where = f"{format_count(worth.ranks, 'rank')} on {format_count(worth.nodes, 'node')}"
    print(
        f"Request {where}: {gains[0]:.1f} times the speed of one rank at {gains[0] / worth.ranks:.0%} efficiency; "
        f"the fastest world has {fastest.ranks:,}, {gains[1]:.1f} times at {gains[1] / fastest.ranks:.0%}."
    )


if __name__ == "__main__":
    run(main)
