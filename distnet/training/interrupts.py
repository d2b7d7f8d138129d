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
        """While this lasts, SIGINT raises KeyboardInterrupt between steps alone. Only the main thread gets signals.

        A handler of somebody's own, such as that of a request to stop, runs at once: the step can still obey it.
        """
        own = signal.default_int_handler
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not own:
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
