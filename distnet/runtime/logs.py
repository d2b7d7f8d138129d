"""Where messages go: warnings to standard error, the logger "distnet" also to one file per rank."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distnet.runtime.errors import InputError
from distnet.runtime.text import to_printable

logger = logging.getLogger("distnet")


def warn(text: str) -> None:
    """Print `text` as one line on standard error, after "distnet: "."""
    if sys.stderr is not None:
        sys.stderr.write(f"distnet: {to_printable(text.replace(chr(10), ' '))}\n")
        sys.stderr.flush()


def open_streams() -> None:
    """Connect standard streams that were closed before the start (`>&-`) to the null device."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def error_descriptor() -> int:
    """The descriptor of standard error; 2 if the program has replaced it by an object without one."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


class LogFile(logging.FileHandler):
    """A file that is abandoned, with one line on standard error, when writing fails."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Remove this handler."""
        logger.removeHandler(self)
        warn(f"--log-dir {self.baseFilename}: can't be written ({sys.exc_info()[1]}); it ends here")


def log_path(folder: Path, rank: int, size: int) -> Path:
    """The log file of a rank."""
    return folder / f"rank-{rank:0{len(str(size - 1))}}.log"


@contextmanager
def log_rank(rank: int, size: int, is_verbose: bool, folder: Path | None) -> Iterator[None]:
    """Write this rank's log to standard error if `is_verbose`, and to its file in `folder` if there is one.

    Raises InputError if the file can't be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()] if is_verbose else []
    if folder is not None:
        path = log_path(folder, rank, size)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(LogFile(path))
        except OSError as error:
            raise InputError(
                f"--log-dir {path}", f"can't be written ({error.strerror})", "name another folder"
            ) from None
    form = f"%(asctime)s.%(msecs)03d rank {rank:{len(str(size - 1))}} on {socket.gethostname()}: %(message)s"
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers = handlers
    if handlers:
        logger.setLevel(logging.INFO)
        logger.propagate = False  # the handlers of the calling program stay silent
    for handler in handlers:
        handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    logger.info("process %d, %d of %d", os.getpid(), rank + 1, size)
    try:
        yield
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
        for handler in handlers:
            handler.close()
