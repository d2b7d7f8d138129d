"""The ranks: who they are, what the ranks of a node share, and what they tell each other.

`World()` is a single process and needs no MPI; `launched_world()` is whatever the launcher started. Both
have the same face, so that nothing above this file asks which it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.parallel.mpi import library_name
from distnet.parallel.rendezvous import POLITE_WAIT, names
from distnet.parallel.shared_memory import map_shared
from distnet.runtime.arrays import CACHE_LINE, aligned_zeros
from distnet.runtime.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
BROADCAST_BYTES = 1 << 30  # in one call, whose count is a C int


class World:
    """The ranks of a communicator and the nodes that they stand on.

    comm: an mpi4py intracommunicator, or None for one process without MPI. ranks_per_node: pretend that
    every so many consecutive ranks are a node of their own; where it isn't given, nodes are what MPI says.

    rank, size: this rank and how many there are; ranks of a node are consecutive, in whatever order the
    launcher placed them. node, node_rank: which node, and which of its ranks. node_sizes: ranks of each node.
    library: name and version of the MPI, "none" without one.
    Collective: the constructor, and every method that says so.
    """

    def __init__(self, comm: MPI.Intracomm | None = None, ranks_per_node: int | None = None) -> None:
        self.comm: MPI.Intracomm | None = None
        self.rank = self.node = self.node_rank = 0
        self.size = self.node_size = self.nodes = 1
        self.node_sizes = [1]
        self.library = "none"
        self._arrival = self._waits = 0  # how often this rank came to node_barrier, and to wait
        self._is_waiting = False
        if comm is None:
            return
        from mpi4py import MPI

        if ranks_per_node is None:
            self.node_comm: MPI.Intracomm = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)  # type: ignore[assignment]
        else:
            self.node_comm = comm.Split(comm.rank // ranks_per_node, key=comm.rank)  # type: ignore[assignment]
        self.node_rank, self.node_size = self.node_comm.rank, self.node_comm.size
        first = self.node_comm.bcast(comm.rank)
        firsts = sorted(set(comm.allgather(first)))
        self.node, self.nodes = firsts.index(first), len(firsts)
        self.comm = comm = comm.Split(0, key=self.node * comm.size + self.node_rank)  # type: ignore[assignment]
        self.rank, self.size = comm.rank, comm.size
        members = comm.allgather(self.node)
        self.node_sizes = [members.count(node) for node in range(self.nodes)]
        self.node_roots = comm.Split(0 if self.node_rank == 0 else MPI.UNDEFINED, key=self.rank)
        self.library = library_name(MPI.Get_library_version())
        arrivals = self.shared((self.node_size, CACHE_LINE // 8), np.int64)
        if self.node_size == 1:
            return
        self._arrivals = arrivals.reshape(-1).data.cast("B").cast("q")
        self._launched = MPI.Group.Translate_ranks(self.node_comm.group, None, MPI.COMM_WORLD.group)
        self._mine = self.node_rank * CACHE_LINE // 8
        self._others = [rank * CACHE_LINE // 8 for rank in range(self.node_size) if rank != self.node_rank]
        self._fence = MPI.Win.Allocate_shared(0, comm=self.node_comm)
        self._fence.Lock_all(MPI.MODE_NOCHECK)  # Sync is allowed within such an epoch alone
        self.node_comm.Barrier()

    def node_barrier(self) -> None:
        """Wait until all ranks of this node are here, and see what they wrote before. Collective on a node.

        Every rank counts its arrivals in a cache line of its own and looks at the others'. Giving the core
        away between looks makes more ranks than cores cheap, where MPI's barrier spins; and Python's signal
        handlers run here, which they don't inside an MPI call.
        """
        if self.node_size == 1:
            return
        arrivals, wait = self._arrivals, os.sched_yield
        self._fence.Sync()  # a memory barrier, where the processor needs one
        self._arrival = arrival = self._arrival + 1
        arrivals[self._mine] = arrival
        for other in self._others:
            while arrivals[other] < arrival:
                wait()
        self._fence.Sync()

    def missing(self) -> str:
        """The ranks that this one waits for, as the first that waits for them tells.

        "" where it doesn't wait, or another rank tells.
        """
        line = CACHE_LINE // 8
        place, own = (1, self._waits) if self._is_waiting else (0, self._arrival)
        counts = [self._arrivals[rank * line + place] for rank in range(self.node_size)] if self.node_size > 1 else []
        late = [self._launched[rank] for rank, count in enumerate(counts) if count < own]
        if any(count >= own for count in counts[: self.node_rank]):
            return ""
        return names(late) if late else "ranks on other nodes" * (self._is_waiting and self.nodes > 1)

    def wait(self, request: MPI.Request) -> None:
        """Wait for a collective that was started, giving the core away between looks, as node_barrier does."""
        self._waits += 1
        self._is_waiting = True
        if self.node_size > 1:
            self._arrivals[self._mine + 1] = self._waits
        while not request.Test():
            os.sched_yield()
        self._is_waiting = False

    def shared(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """A zeroed array on a cache line that all ranks of a node read and write. Collective.

        Its memory is freed when the last rank has dropped its last view of it.
        Raises InputError, on every rank, where a node has no room for it.
        """
        if self.size == 1:
            return aligned_zeros(shape, dtype)
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        memory, problem = map_shared(self.node_comm, max(size, 1)) if self.node_size > 1 else (None, "")
        assert self.comm is not None
        for first, wanted, what in self.comm.allgather((self.rank - self.node_rank, size, problem)):
            if what:
                raise InputError(
                    f"shared memory on the node of rank {first}",
                    f"it has no room for {wanted / 2**20:,.0f} MiB ({what})",
                    "use fewer samples or a smaller network, or give it more memory",
                    on_every_rank=True,
                )
        if memory is None:
            return aligned_zeros(shape, dtype)
        return np.frombuffer(memory, dtype, int(np.prod(shape, dtype=np.int64))).reshape(tuple(shape))

    def close(self) -> None:
        """Give back what the world itself took from MPI; it is of no use afterwards. Collective."""
        if self.node_size > 1:
            self._fence.Unlock_all()
            self._fence.Free()
        if self.comm is not None:
            self.node_comm.Free()
            if self.node_rank == 0:
                self.node_roots.Free()
            self.comm.Free()

    def on_root(self, work: Callable[[], Result]) -> Result:
        """Run `work` on rank 0 alone and return its (small) result on every rank. Collective.

        An InputError that it raises is raised on every rank. The others wait without taking the core.
        """
        result: Result | None = None
        problem: InputError | None = None
        if self.rank == 0:
            try:
                result = work()
            except InputError as error:
                problem = error
        if self.comm is not None and self.size > 1:
            arrived = self.comm.Ibarrier()
            while not arrived.Test():
                time.sleep(POLITE_WAIT)
            result, problem = self.comm.bcast((result, problem))
        if problem is not None:
            problem.on_every_rank = True
            raise problem
        return result  # type: ignore[return-value]

    def check_agreement(self, options: dict[str, Any]) -> None:
        """Raise InputError, on every rank, where a rank was given other options than rank 0. Collective."""
        if self.comm is None or self.size == 1:
            return
        everyone = self.comm.allgather(options)
        for rank, theirs in enumerate(everyone):
            for name, value in theirs.items():
                if value != everyone[0][name]:
                    raise InputError(
                        f"--{name.replace('_', '-')}",
                        f"{value} on rank {rank}, and {everyone[0][name]} on rank 0",
                        "give all ranks the same",
                        on_every_rank=True,
                    )

    def send_to_nodes(self, array: NDArray[Any]) -> None:
        """Copy a shared array of rank 0's node into the same array of every other node. Collective."""
        if self.nodes > 1 and self.node_rank == 0:
            flat = array.reshape(-1).view(np.uint8)
            for start in range(0, flat.size, BROADCAST_BYTES):
                self.node_roots.Bcast(flat[start : start + BROADCAST_BYTES])
        self.node_barrier()

    def total(self, array: NDArray[Any]) -> NDArray[Any]:
        """The elementwise sum over all ranks, in place and returned. Collective.

        Exact, and so independent of the ranks, for whole numbers, and where one rank at most has anything
        but zero for an element.
        """
        if self.comm is not None and self.size > 1:
            from mpi4py import MPI

            self.wait(self.comm.Iallreduce(MPI.IN_PLACE, array))
        return array
