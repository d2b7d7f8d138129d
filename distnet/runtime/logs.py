"""Where the logger "distnet" writes: standard error, and one file per rank."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distnet.runtime.errors import InputError

logger = logging.getLogger("distnet")


class LogFile(logging.FileHandler):
    """A file that is given up, with one line on standard error, when the disk refuses."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Remove this handler."""
        logger.removeHandler(self)
        why = sys.exc_info()[1]
        sys.stderr.write(f"distnet: --log-dir {self.baseFilename}: can't be written ({why}); it ends here\n")


def log_path(folder: Path, rank: int, size: int) -> Path:
    """The log file of a rank."""
    return folder / f"rank-{rank:0{len(str(size - 1))}}.log"


@contextmanager
def log_rank(rank: int, size: int, is_verbose: bool, folder: Path | None) -> Iterator[None]:
    """Write what this rank logs to standard error if `is_verbose`, and to its file in `folder` if there is one.

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
        logger.propagate = False  # a program of which training is a part has handlers of its own
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
