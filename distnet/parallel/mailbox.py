"""Words that ranks send each other apart from all collectives: where they are, and that they have left.

Nobody has to wait for one: a rank that waits for another can look who has come, and name who hasn't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

TAG = 29_541  # below the least upper bound of tags, 32,767
END = "end "  # the beginning of a rank's last word, which its status follows
LENGTH = 64  # bytes of a word, which MPI sends at once, without waiting for its receiver


class Mailbox:
    """Words from and to every other rank of MPI_COMM_WORLD, each in the order in which it was sent.

    They are point-to-point messages with a tag of their own, so that collectives of a program don't mix with them.
    """

    def __init__(self) -> None:
        from mpi4py import MPI

        self.comm: MPI.Intracomm = MPI.COMM_WORLD
        self.rank = self.comm.rank
        self.ended: dict[int, int] = {}  # ranks that have ended, and with which status
        self._sent: list[tuple[MPI.Request, bytes]] = []

    def others(self, comm: MPI.Intracomm | None = None) -> list[int]:
        """The other ranks of a communicator, of all where none is given, by their numbers in MPI_COMM_WORLD."""
        from mpi4py import MPI

        if comm is None:
            ranks = list(range(self.comm.size))
        else:
            ranks = list(MPI.Group.Translate_ranks(comm.group, None, self.comm.group))
        return [rank for rank in ranks if rank not in (self.rank, MPI.UNDEFINED)]

    def send(self, word: str, ranks: list[int]) -> None:
        """Send a word to each of these ranks, without waiting."""
        data = word.encode()[:LENGTH].ljust(LENGTH)
        self._sent = [(request, kept) for request, kept in self._sent if not request.Test()]
        self._sent += [(self.comm.Isend(data, rank, TAG), data) for rank in ranks if rank not in self.ended]

    def send_end(self, status: int, ranks: list[int]) -> None:
        """Let these ranks know that this one has ended. Nothing can be sent afterwards."""
        self.send(f"{END}{status}", ranks)

    def receive(self, rank: int) -> str | None:
        """The next word of a rank; None where none has come, or it has ended."""
        if rank in self.ended or not self.comm.Iprobe(rank, TAG):
            return None
        data = bytearray(LENGTH)
        self.comm.Recv(data, rank, TAG)
        word = data.decode().rstrip()
        if word.startswith(END):
            self.ended[rank] = int(word.removeprefix(END))
            return None
        return word
