"""One BLAS thread while distnet computes: more threads divide a product differently, and add in another order."""

import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController


class SingleThread:
    """A context in which each BLAS library of this process has one thread.

    The number is a property of the process. So the contexts of all Python threads are counted, and the last one that
    exits restores the number. Contexts may be nested.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[int] = []  # of each library, outside of all contexts
        self._entered = 0

    def __enter__(self) -> None:
        libraries = find_libraries()
        with self._lock:
            if not self._entered:
                self._threads = [library.get_num_threads() for library in libraries]
            self._entered += 1
            for library in libraries:
                set_threads(library, 1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                libraries = find_libraries()
                for library, threads in zip(libraries, self._threads, strict=True):
                    set_threads(library, threads)
                for library in libraries:
                    release(library)


@cache
def find_libraries() -> list[Any]:
    """The BLAS libraries of this process; finding them is slow, and needs NumPy's to be loaded."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def describe_blas() -> list[tuple[str, str]]:
    """Name with version, and kernels, of NumPy's BLAS, such as ("openblas 0.3.30", "Haswell").

    Those of the whole process if NumPy has none of its own; SciPy may have loaded another. If there is none that
    threadpoolctl knows, the one that NumPy was built with. Kernels are "unknown" if they are.
    """
    all_libraries = [library.info() for library in find_libraries()]
    beginning = str(Path(np.__file__).resolve().parent)  # of paths in numpy/ and, beside it, in numpy.libs/
    numpy_libraries = [each for each in all_libraries if each["filepath"].startswith(beginning)]
    if found := numpy_libraries or all_libraries:
        names = [(f"{each['internal_api']} {each['version']}", each.get("architecture", "unknown")) for each in found]
        return list(dict.fromkeys(names))
    configuration: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    built = configuration.get("Build Dependencies", {}).get("blas", {})  # NumPy leaves out what is unknown
    return [(f"{built.get('name', 'unknown')} {built.get('version', '')}".strip(), "unknown")]


def count_blas_threads() -> int:
    """How many threads BLAS has now."""
    return max((library.get_num_threads() for library in find_libraries()), default=1)


def set_threads(library: Any, threads: int) -> None:
    """Set the number. threadpoolctl 3.8 lets only one Python thread do that, unless it is cleared."""
    for _ in range(2):
        if library.get_num_threads() == threads:  # far faster than setting it
            return
        library.set_num_threads(threads)
        if library.get_num_threads() != threads:
            release(library)


def release(library: Any) -> None:
    """Let any Python thread set the number next."""
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)


single_blas_thread = SingleThread()
