"""The numbers sent between nodes, and the same bits on nodes of any sizes. Run under mpirun."""

import numpy as np
import pytest
from test_same_bits import check_every_rank_count

from distnet.nn.model import ARITHMETICS
from distnet.nn.parameters import BLOCK
from distnet.parallel.exchange import Exchange
from distnet.parallel.shards import roots_within, share, tree
from distnet.parallel.world import World

pytestmark = [pytest.mark.mpi, pytest.mark.ranks(1, 2, 3, 4, 6)]


class Counting:
    """A communicator that records how many numbers each collective sends to other ranks."""

    def __init__(self, comm):
        self.comm = comm
        self.collectives = []
        self.sent = 0

    def Ialltoallv(self, send, receive):
        self.collectives.append("Ialltoallv")
        self.sent += sum(send[1][0])
        return self.comm.Ialltoallv(send, receive)

    def Iallgatherv(self, send, receive):
        self.collectives.append("Iallgatherv")
        self.sent += receive[1][0][self.comm.rank] * (self.comm.size - 1)
        return self.comm.Iallgatherv(send, receive)

    def Free(self):
        self.comm.Free()


def steps_sent(world, count, shards, steps=3):
    """The numbers that all ranks of this node send in a step, and the collectives of this rank."""
    exchange = Exchange(world, np.zeros(count, np.float32), shards)
    if exchange.lane_comm is not None:
        exchange.lane_comm = Counting(exchange.lane_comm)
    for _ in range(steps):
        exchange.gradients[:, :count] = world.rank
        exchange.reduce_scatter()
        exchange.allgather()
    sent, collectives = 0, []
    if exchange.lane_comm is not None:
        sent, collectives = exchange.lane_comm.sent, exchange.lane_comm.collectives
    exchange.close()
    by_node = np.zeros(world.nodes, np.int64)
    by_node[world.node] = sent
    assert not sent % steps
    return world.total(by_node) // steps, collectives


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize("ranks_per_node", [1, 2])
def test_aligned_nodes_send_two_n_times_k_minus_one_over_k_numbers_in_two_collectives(ranks_per_node):
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Split(0 if MPI.COMM_WORLD.rank < 4 else 1)
    good = True
    if MPI.COMM_WORLD.rank < 4:
        world = World(comm, ranks_per_node)
        count = 12 * BLOCK  # the parameters, and the one number that rides along
        by_node, collectives = steps_sent(world, count - 1, shards=4)
        wanted = 2 * count * (world.nodes - 1) // world.nodes
        good = by_node.tolist() == [wanted] * world.nodes and collectives == ["Ialltoallv", "Iallgatherv"] * 3
        world.close()
    comm.Free()
    assert all(MPI.COMM_WORLD.allgather(good))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("shards", [4, 5, 6, 8, 13, 16])
@pytest.mark.parametrize("count", [10 * BLOCK, 52_510, 700])
def test_any_nodes_send_what_the_formula_in_the_documentation_says(shards, count):
    from mpi4py import MPI

    wrong = []
    for ranks_per_node in range(1, MPI.COMM_WORLD.size):
        world = World(MPI.COMM_WORLD, ranks_per_node)
        by_node, _ = steps_sent(world, count, shards)
        # docs/design.md: node j has r_j subtree roots and owns N_j of N + 1 columns; it sends r_j (N + 1 - N_j)
        # numbers to reduce, and N_j (k - 1) to gather.
        first = np.cumsum([0, *world.node_sizes])
        owned = np.zeros(world.nodes, np.int64)
        exchange = Exchange(world, np.zeros(count, np.float32), shards)
        owned[world.node] = len(exchange.slice) + len(exchange._total_requests)
        world.total(owned)
        exchange.close()
        for node in range(world.nodes):
            run = range(
                share(shards, first[node], world.size).start, share(shards, first[node + 1] - 1, world.size).stop
            )
            roots = len(roots_within(tree(shards), run))
            wanted = roots * (count + 1 - owned[node]) + owned[node] * (world.nodes - 1)
            if by_node[node] != wanted:
                wrong.append((ranks_per_node, node, by_node[node], wanted))
        world.close()
    assert not any(MPI.COMM_WORLD.allgather(wrong)), wrong


def test_every_rank_keeps_one_part_in_n_of_the_parameters_to_update():
    from mpi4py import MPI

    for ranks_per_node in range(1, MPI.COMM_WORLD.size + 1):
        world = World(MPI.COMM_WORLD, ranks_per_node)
        exchange = Exchange(world, np.zeros(64 * BLOCK, np.float32), 8)
        mine = exchange.columns.stop - exchange.columns.start
        sizes = MPI.COMM_WORLD.allgather(mine)
        exchange.close()
        world.close()
        assert sum(sizes) == 64 * BLOCK
        assert max(sizes) - min(sizes) <= BLOCK


@pytest.mark.mpi(min_size=2)
def test_a_network_too_large_for_mpis_counts_is_refused_in_one_line_on_every_rank(monkeypatch):
    from mpi4py import MPI

    from distnet.parallel import exchange as module
    from distnet.runtime.errors import InputError

    monkeypatch.setattr(module, "LARGEST_COUNT", 1000)
    world = World(MPI.COMM_WORLD, 1)
    try:
        Exchange(world, np.zeros(10_000, np.float32), 8)
        said = ""
    except InputError as error:
        said = str(error)
    assert all("10,000 parameters" in each and "\n" not in each for each in MPI.COMM_WORLD.allgather(said))


@pytest.mark.mpi(min_size=2)
def test_data_beyond_a_c_int_is_broadcast_in_pieces(monkeypatch):
    from mpi4py import MPI

    from distnet.parallel import world as module

    monkeypatch.setattr(module, "BROADCAST_BYTES", 1000)
    world = World(MPI.COMM_WORLD, 1)
    array = world.shared((12_345,), np.uint8)
    if world.rank == 0:
        array[:] = np.arange(12_345) % 251
    world.send_to_nodes(array)
    arrived = np.array_equal(array, np.arange(12_345) % 251)
    world.close()
    assert all(MPI.COMM_WORLD.allgather(arrived))


SIX = [("native", 6), ("native", 8), ("native", 11), ("portable", None)]


@pytest.mark.mpi(min_size=6)
@pytest.mark.parametrize(("arithmetic", "shards"), SIX)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_topology_of_six_ranks_gives_the_same_bits(arithmetic, shards, optimizer):
    case = {"arithmetic": arithmetic, "shards": shards, "optimizer": optimizer, "clip_norm": 0.7}
    check_every_rank_count(6, sizes=(90, 40, 7), **case)


@pytest.mark.mpi(min_size=6)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_more_ranks_than_rows_give_the_same_bits(arithmetic):
    check_every_rank_count(6, sizes=(90, 40, 7), arithmetic=arithmetic, shards=8, rows=5, batch_size=3)
