"""Requests to stop: SIGTERM, SIGINT and SIGUSR1, which are noted from the first moment on and obeyed later."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from distnet.runtime.failure import in_main_thread
from distnet.runtime.logs import logger

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequests:
    """The requests that this process was sent. pending: whether there was one.

    Only the main thread can install handlers. In any other thread nothing changes, and signals do what they did.
    """

    def __init__(self) -> None:
        self.pending = False
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """From now on note SIGTERM and SIGUSR1 instead of ending. SIGINT still ends at once.

        To be called before NumPy and MPI are imported: the kernel keeps SIGUSR1 back until `listen`, also in
        threads that are started meanwhile, because MPI_Init of MPICH installs a handler of its own, which ignores it.
        """
        if in_main_thread():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)

    def listen(self, handler: Callable[[int, FrameType | None], object] | None = None) -> None:
        """Once MPI is started: note all three from now on; a second SIGINT raises KeyboardInterrupt.

        handler: to be called instead.
        """
        if in_main_thread():
            for number in SIGNALS:
                signal.signal(number, handler or self._note)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    def release(self) -> None:
        """Nobody will obey: signals do what they did before `hold`, one that was noted included."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        if self.pending:
            signal.raise_signal(signal.SIGTERM)

    def ignore(self) -> None:
        """The outcome is settled: a signal now would end this rank on its way out, with another status."""
        if in_main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Note requests as from `hold` on; at the end the program's own handlers are back, and nothing is noted."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
        self.hold()
        try:
            yield
        finally:
            if in_main_thread():
                for number, handler in handlers.items():
                    if handler is not None:  # it isn't Python's
                        signal.signal(number, handler)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self.pending = self._interrupted = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        if not self.pending:
            self.pending = True
            logger.info(f"signal {signal.Signals(number).name}: to stop after this step")


stop_requests = StopRequests()
