"""One BLAS thread while distnet computes: more threads divide a product differently, and add in another order."""

import threading
from typing import Any

from threadpoolctl import ThreadpoolController


class SingleThread:
    """A context in which each BLAS library of this process has one thread.

    The number is a property of the process. So the contexts of all Python threads are counted, and the last one that
    exits restores the number. Contexts may be nested.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._libraries: list[Any] | None = None
        self._threads: list[int] = []  # of each library, outside of all contexts
        self._entered = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._libraries is None:  # finding them is slow, and needs NumPy's to be loaded
                self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
            if not self._entered:
                self._threads = [library.get_num_threads() for library in self._libraries]
            self._entered += 1
            for library in self._libraries:
                set_threads(library, 1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                for library, threads in zip(self._libraries or (), self._threads, strict=True):
                    set_threads(library, threads)
                    release(library)


def set_threads(library: Any, threads: int) -> None:
    """Set the number. threadpoolctl 3.8 lets only one Python thread do that, unless it is cleared."""
    release(library)
    library.set_num_threads(threads)


def release(library: Any) -> None:
    """Let any Python thread set the number next."""
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)


single_blas_thread = SingleThread()
