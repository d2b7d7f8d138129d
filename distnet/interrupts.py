"""Ctrl-C during a step waits for the end of the step, so that it always finds the parameters of a complete one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """A context around a step, at whose end a SIGINT that came meanwhile is handled.

    It holds signals back only within `between_steps`.
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
    def between_steps(self) -> Iterator[None]:
        """While this lasts, the handler of SIGINT runs between steps. Only the main thread gets signals."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            yield
            return
        own = handler

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
