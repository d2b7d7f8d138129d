"""Ranks meet at each call that they make together; one that stays away is named."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from distnet.parallel.mailbox import Mailbox
from distnet.runtime import failure, watchdog
from distnet.runtime.logs import warn
from distnet.runtime.text import join_names

if TYPE_CHECKING:
    from mpi4py import MPI


IMPATIENT = 0.01  # seconds in which a rank looks for others as often as it can
EXCUSED = 5.0  # seconds in which all ranks raise what all raise
POLITE_WAIT = 0.0005  # seconds between looks, while rank 0 works alone and needs the core


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
        if waited > watchdog.WARN_AFTER and not warned:
            warned = True
            if is_first:
                warn(
                    f"rank {mail.rank} has waited {watchdog.WARN_AFTER:g} s in {what} for {names(missing)}; "
                    "let all ranks make the same calls"
                )
        if waited > watchdog.stall_timeout():
            end_all(
                f"rank {mail.rank} has waited {waited:.0f} s in {what} for {names(missing)}, and ends all", is_first
            )
        if waited < IMPATIENT:
            os.sched_yield()
        else:
            time.sleep(POLITE_WAIT)


def end_all(why: str, is_first: bool = True, status: int = 1) -> NoReturn:
    """Say why and end all ranks."""
    time.sleep(0 if is_first else failure.RANK_0_HEAD_START)
    warn(why)
    failure.abort(status)


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
