"""Short messages between ranks, apart from all collectives: which call a rank is in, or that it has exited.

Nobody has to wait for one: a rank that waits for others can poll, and name those that have not come.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from distnet.runtime.text import join_names

if TYPE_CHECKING:
    from mpi4py import MPI

TAG = 29_541  # below the least upper bound of tags, 32,767
EXIT = "exit "  # the start of a rank's last message; its exit status follows
LENGTH = 64  # bytes per message; MPI sends so few at once, without waiting for the receiver
POLL_INTERVAL = 0.0005  # seconds between polls, while rank 0 works alone and needs the core


class Mailbox:
    """Messages between the ranks of MPI_COMM_WORLD, from each rank in the order in which it sent them.

    They are point-to-point messages with a tag of their own, so a program's collectives never receive them.
    exited: rank -> exit status, of the ranks whose last message has been received.
    """

    def __init__(self) -> None:
        from mpi4py import MPI

        self.comm: MPI.Intracomm = MPI.COMM_WORLD
        self.rank = self.comm.rank
        self.exited: dict[int, int] = {}
        self._sent: list[tuple[MPI.Request, bytes]] = []

    def others(self, comm: MPI.Intracomm | None = None) -> list[int]:
        """The other ranks of a communicator, by their numbers in MPI_COMM_WORLD. comm: None for all ranks."""
        from mpi4py import MPI

        ranks = MPI.Group.Translate_ranks((comm or self.comm).group, None, self.comm.group)
        return [rank for rank in ranks if rank not in (self.rank, MPI.UNDEFINED)]

    def send(self, message: str, ranks: list[int]) -> None:
        """Send a message to each of these ranks, without waiting."""
        data = message.encode()[:LENGTH].ljust(LENGTH)
        self._sent = [(request, kept) for request, kept in self._sent if not request.Test()]
        self._sent += [(self.comm.Isend(data, rank, TAG), data) for rank in ranks if rank not in self.exited]

    def receive(self, rank: int) -> str | None:
        """The next message of a rank; None if none has arrived, or the rank has exited."""
        if rank in self.exited or not self.comm.Iprobe(rank, TAG):
            return None
        data = bytearray(LENGTH)
        self.comm.Recv(data, rank, TAG)
        message = data.decode().rstrip()
        if message.startswith(EXIT):
            self.exited[rank] = int(message.removeprefix(EXIT))
            return None
        return message


@cache
def mailbox() -> Mailbox:
    """Return the mailbox of this rank. MPI must be started."""
    return Mailbox()


def name_ranks(ranks: Iterable[int]) -> str:
    """'rank 2', 'ranks 1, 3 and 4'."""
    numbers = [str(rank) for rank in sorted(ranks)]
    return f"rank{'s' * (len(numbers) > 1)} {join_names(numbers)}"
