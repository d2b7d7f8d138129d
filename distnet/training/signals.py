"""Signals during training: requests to stop are recorded and obeyed later; Ctrl-C waits for the end of the step."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from distnet.runtime.failure import in_main_thread
from distnet.runtime.logs import logger

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequests:
    """Requests to stop this process: SIGTERM, SIGINT and SIGUSR1. pending: whether there was one.

    Only the main thread can install handlers. In any other thread, no method changes anything.
    """

    def __init__(self) -> None:
        self.pending = False
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """Record SIGTERM and SIGUSR1 from now on, instead of ending. SIGINT still ends the process at once.

        Call it before NumPy and MPI are imported. The kernel holds SIGUSR1 back until `listen`, also in threads that
        are started meanwhile, because MPI_Init of MPICH installs a handler that ignores it.
        """
        if in_main_thread():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._record)

    def listen(self, handler: Callable[[int, FrameType | None], object] | None = None) -> None:
        """Once MPI is started: record all three signals from now on; a second SIGINT raises KeyboardInterrupt.

        handler: called instead.
        """
        if in_main_thread():
            for number in SIGNALS:
                signal.signal(number, handler or self._record)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    def release(self) -> None:
        """Restore the handlers from before `hold`, since nothing will obey requests. A pending one takes effect."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        if self.pending:
            signal.raise_signal(signal.SIGTERM)

    def ignore(self) -> None:
        """Ignore signals from now on: the exit status is decided, and a signal must not change it."""
        if in_main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Record requests as `hold` does. At the end, restore the program's own handlers and forget all requests."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
        self.hold()
        try:
            yield
        finally:
            if in_main_thread():
                for number, handler in handlers.items():
                    if handler is not None:  # it was not installed from Python
                        signal.signal(number, handler)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self.pending = self._interrupted = False

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        if not self.pending:
            self.pending = True
            logger.info(f"signal {signal.Signals(number).name}: stopping after this step")


stop_requests = StopRequests()


class Interrupts:
    """A context for one step. Within `deferred`, a Ctrl-C during the step takes effect at its end.

    KeyboardInterrupt therefore always finds the parameters of a complete step.
    """

    def __init__(self) -> None:
        self._in_step = self._pending = False

    def __enter__(self) -> None:
        self._in_step = True

    def __exit__(self, *error: object) -> None:
        self._in_step = False
        if self._pending:
            self._pending = False
            signal.raise_signal(signal.SIGINT)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Handle SIGINT between steps only, if Python's own handler would raise KeyboardInterrupt anywhere.

        Another handler, such as that of StopRequests, stays and runs at once: the step can still obey it.
        """
        own = signal.default_int_handler
        if not in_main_thread() or signal.getsignal(signal.SIGINT) is not own:
            yield
            return

        def wait_for_step(number: int, frame: FrameType | None) -> None:
            if self._in_step:
                self._pending = True
            else:
                own(number, frame)

        signal.signal(signal.SIGINT, wait_for_step)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) is wait_for_step:
                signal.signal(signal.SIGINT, own)
