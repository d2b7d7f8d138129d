"""The world that a launcher started, and calls that all its ranks make together.

Ranks meet at the start of each such call. If one stays away, the others print its number and abort.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import TYPE_CHECKING, NoReturn

from distnet.parallel.mailbox import POLL_INTERVAL, mailbox, name_ranks
from distnet.parallel.mpi import start_mpi
from distnet.parallel.world import Arguments, Result, World
from distnet.runtime import failure
from distnet.runtime.logs import warn

if TYPE_CHECKING:
    from mpi4py import MPI

SPIN_TIME = 0.01  # seconds in which a rank polls as often as it can
ERROR_PATIENCE = 5.0  # seconds in which all ranks must raise, if one does
REMEDY = "let all ranks make the same calls"


def launched_world(ranks_per_node: int | None = None) -> World:
    """The world that mpirun or srun started, or a single process without a launcher; the same object at every call.

    ranks_per_node: see World.
    After the import of this module under mpirun, an uncaught exception aborts all ranks: see `failure.install_hooks`.
    Raises InputError if the launcher doesn't belong to the MPI that mpi4py loads.
    Collective: the first call with each ranks_per_node.
    """
    return _launched_world(ranks_per_node)  # one key for `cache`, whether or not it was given


@cache
def _launched_world(ranks_per_node: int | None) -> World:
    if not start_mpi():
        return World()
    from mpi4py import MPI

    if MPI.COMM_WORLD.size > 1:
        meet("distnet.launched_world")
    return World(MPI.COMM_WORLD, ranks_per_node)


def collective(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function `together` with all ranks of its keyword argument `comm`; without one, with all ranks."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with together(function.__qualname__, kwargs.get("comm")):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return run


@contextmanager
def together(call: str, comm: MPI.Intracomm | None = None) -> Iterator[None]:
    """A block that all ranks of a communicator enter together; see `meet`. comm: None for all ranks.

    If every rank raises an exception, it propagates; if only some do, all ranks are aborted. sys.exit within the block
    aborts them, too. So does a rank that stalls; see `failure.Watchdog`. Collective.
    """
    if not (start_mpi() and (comm or mailbox().comm).size > 1):
        yield
        return
    meet(call, comm)
    with failure.Watchdog(
        failure.stall_timeout(),
        is_failure=lambda error: not (isinstance(error, Exception) and all_raise(call, comm)),
    ):
        yield


def meet(call: str, comm: MPI.Intracomm | None = None) -> None:
    """Wait until all ranks of a communicator are at this call. comm: None for all ranks. MPI must be started.

    If a rank has exited, is in another call of distnet's, or stays away too long, its number is printed and all ranks
    are aborted. Collective.
    """
    mail = mailbox()
    others = mail.others(comm)
    mail.send(call, others)
    missing, begin, warned = set(others), time.monotonic(), False
    while True:
        for rank in sorted(missing):
            message = mail.receive(rank)
            if rank in mail.exited:
                status = mail.exited[rank]
                how = f" with status {status}" * bool(status)
                abort_all(f"rank {rank} has exited{how}, and rank {mail.rank} is in {call}; {REMEDY}", status or 1)
            if message not in (None, call):
                abort_all(
                    f"rank {rank} is in {message}, and rank {mail.rank} in {call}; {REMEDY}", speaks=mail.rank < rank
                )
            if message:
                missing.discard(rank)
        if not missing:
            return
        waited = time.monotonic() - begin
        is_first = all(mail.rank < rank for rank in others if rank not in missing)
        if waited > failure.WARN_AFTER and not warned:
            warned = True
            if is_first:
                seconds = f"{failure.WARN_AFTER:g} s"
                warn(f"rank {mail.rank} has waited {seconds} in {call} for {name_ranks(missing)}; {REMEDY}")
        if waited > failure.stall_timeout():
            who = name_ranks(missing)
            abort_all(f"rank {mail.rank} has waited {waited:.0f} s in {call} for {who}; {REMEDY}", speaks=is_first)
        if waited < SPIN_TIME:
            os.sched_yield()
        else:
            time.sleep(POLL_INTERVAL)


def abort_all(reason: str, status: int = 1, *, speaks: bool = True) -> NoReturn:
    """Print the reason and abort all ranks. speaks: False on a rank that lets another one print first."""
    time.sleep(0 if speaks else failure.RANK_0_HEAD_START)
    warn(reason)
    failure.abort(status)


def all_raise(call: str, comm: MPI.Intracomm | None) -> bool:
    """Whether all ranks of a communicator call this within ERROR_PATIENCE seconds. Collective."""
    mail, message = mailbox(), f"an error of {call}"
    missing, deadline = set(mail.others(comm)), time.monotonic() + ERROR_PATIENCE
    mail.send(message, list(missing))
    while missing and time.monotonic() < deadline:
        for rank in sorted(missing):
            received = mail.receive(rank)
            if received == message:
                missing.discard(rank)
            elif received or rank in mail.exited:
                return False
        time.sleep(POLL_INTERVAL)
    return not missing
