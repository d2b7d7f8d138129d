"""What every rank tells of itself, on standard error and in a file of its own, where that is wanted."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distnet.runtime.errors import InputError

if TYPE_CHECKING:
    import logging

_logger: logging.Logger | None = None


def log_path(folder: Path, rank: int, size: int) -> Path:
    """Where a rank writes."""
    return folder / f"rank-{rank:0{len(str(size - 1))}}.log"


def start_logs(rank: int, size: int, aloud: bool, folder: Path | None) -> None:
    """From now on `log` writes: to standard error where it is `aloud`, and to rank-N.log in a folder.

    Raises InputError where the file can't be written.
    Every rank has a file of its own.
    """
    global _logger
    import logging  # takes as long to import as all of distnet does without NumPy

    rank_name = f"rank {rank:{len(str(size - 1))}}"
    form = f"%(asctime)s.%(msecs)03d {rank_name} on {socket.gethostname()}: %(message)s"

    class File(logging.FileHandler):
        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
            logger.removeHandler(self)
            why = sys.exc_info()[1]
            sys.stderr.write(f"distnet: --log-dir {self.baseFilename}: can't be written ({why}); it ends here\n")

    logger = logging.getLogger("distnet")
    handlers: list[logging.Handler] = [logging.StreamHandler()] if aloud else []
    if folder is not None:
        path = log_path(folder, rank, size)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(File(path))
        except OSError as error:
            raise InputError(
                f"--log-dir {path}", f"can't be written ({error.strerror})", "name another folder"
            ) from None
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a program of which training is a part has handlers of its own
    logger.handlers = handlers
    _logger = logger
    for handler in handlers:
        handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    log(f"process {os.getpid()}, {rank + 1} of {size}")


def stop_logs() -> None:
    """From now on `log` is silent again, and the file closed."""
    global _logger
    if _logger is not None:
        for handler in _logger.handlers:
            handler.close()
        _logger.handlers = []
        _logger = None


def log(text: str) -> None:
    """A line of this rank, where somebody wants to know."""
    if _logger is not None:
        _logger.info(text)
