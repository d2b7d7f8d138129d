"""The ranks: their numbers and nodes, the memory that a node shares, and messages.

`World()` is a single process and needs no MPI; `launched_world()` has the ranks that the launcher started. Both have
the same interface.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.parallel.mailbox import POLL_INTERVAL, name_ranks
from distnet.parallel.mpi import library_name
from distnet.parallel.shared_memory import map_shared
from distnet.runtime.arrays import CACHE_LINE, aligned_zeros
from distnet.runtime.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")
Kept = TypeVar("Kept")
Arguments = ParamSpec("Arguments")
BROADCAST_BYTES = 1 << 30  # in one call, whose count is a C int


class World:
    """The ranks of a communicator and their nodes.

    comm: an mpi4py intracommunicator, or None for one process without MPI. ranks_per_node: simulates nodes of so many
    consecutive ranks; None for the nodes that MPI reports.

    rank, size: this rank, and the number of ranks. They are renumbered so that the ranks of a node are consecutive.
    node, node_rank: this rank's node, and its number there. node_sizes: the number of ranks of each node.
    library: name and version of the MPI, "none" without one.
    The constructor is collective.
    """

    def __init__(self, comm: MPI.Intracomm | None = None, ranks_per_node: int | None = None) -> None:
        self.comm: MPI.Intracomm | None = None
        self.rank = self.node = self.node_rank = 0
        self.size = self.node_size = self.nodes = 1
        self.node_sizes = [1]
        self.library = "none"
        self._arrival = self._waits = 0  # calls of node_barrier, and of wait
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
        self._fence.Lock_all(MPI.MODE_NOCHECK)  # MPI allows Sync only within such an epoch
        self.node_comm.Barrier()

    def node_barrier(self) -> None:
        """Wait until all ranks of this node arrive; what they wrote before is visible then. Collective on a node.

        Each rank counts its arrivals in its own cache line and polls those of the others. It yields the core between
        polls, so more ranks than cores are cheap. Python's signal handlers run here, unlike inside an MPI call.
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
        """The ranks that this one waits for, as text; "" if it doesn't wait, or a rank before it reports them."""
        line = CACHE_LINE // 8
        place, own = (1, self._waits) if self._is_waiting else (0, self._arrival)
        counts = [self._arrivals[rank * line + place] for rank in range(self.node_size)] if self.node_size > 1 else []
        late = [self._launched[rank] for rank, count in enumerate(counts) if count < own]
        if any(count >= own for count in counts[: self.node_rank]):
            return ""
        return name_ranks(late) if late else "ranks on other nodes" * (self._is_waiting and self.nodes > 1)

    def wait(self, request: MPI.Request) -> None:
        """Wait for a collective that was started; yields the core between polls, as `node_barrier` does."""
        self._waits += 1
        self._is_waiting = True
        if self.node_size > 1:
            self._arrivals[self._mine + 1] = self._waits
        while not request.Test():
            os.sched_yield()
        self._is_waiting = False

    def shared(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """A zeroed array, aligned to a cache line, that all ranks of a node read and write. Collective.

        Its memory is freed when no rank has a view of it any more.
        Raises InputError, on every rank, if a node has no room for it.
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
        """Free the world's communicators; it can't be used afterwards. Collective."""
        if self.node_size > 1:
            self._fence.Unlock_all()
            self._fence.Free()
        if self.comm is not None:
            self.node_comm.Free()
            if self.node_rank == 0:
                self.node_roots.Free()
            self.comm.Free()

    def on_root(self, work: Callable[[], Result]) -> Result:
        """Run `work` on rank 0 only and return its (small) result on every rank. Collective.

        An InputError of `work` is raised on every rank. The other ranks sleep meanwhile.
        """
        return self.keep_on_root(lambda: (work(), None))[0]

    def keep_on_root(self, work: Callable[[], tuple[Result, Kept]]) -> tuple[Result, Kept | None]:
        """As `on_root`, for work with two results: the second stays on rank 0, the others get None. Collective."""
        result: Result | None = None
        kept: Kept | None = None
        problem: InputError | None = None
        if self.rank == 0:
            try:
                result, kept = work()
            except InputError as error:
                problem = error
        if self.comm is not None and self.size > 1:
            arrived = self.comm.Ibarrier()
            while not arrived.Test():
                time.sleep(POLL_INTERVAL)
            result, problem = self.comm.bcast((result, problem))
        if problem is not None:
            problem.on_every_rank = True
            raise problem
        return result, kept  # type: ignore[return-value]

    def check_agreement(self, options: dict[str, Any]) -> None:
        """Raise InputError, on every rank, if a rank's options differ from those of rank 0. Collective."""
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
        """Copy a shared array from rank 0's node to all other nodes. Collective."""
        if self.nodes > 1 and self.node_rank == 0:
            flat = array.reshape(-1).view(np.uint8)
            for start in range(0, flat.size, BROADCAST_BYTES):
                self.node_roots.Bcast(flat[start : start + BROADCAST_BYTES])
        self.node_barrier()

    def total(self, array: NDArray[Any]) -> NDArray[Any]:
        """The element-wise sum over all ranks, in place and returned. Collective.

        The result is exact, so independent of the number of ranks, for integers, for elements that are non-zero on at
        most one rank, and for sums on a grid, see `portable/grids.py`.
        """
        if self.comm is not None and self.size > 1:
            from mpi4py import MPI

            self.wait(self.comm.Iallreduce(MPI.IN_PLACE, array))
        return array
