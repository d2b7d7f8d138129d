"""A checkpoint file: written atomically, checked by its sha256 when read, never trusted."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from distnet.runtime.arrays import Array, little_endian
from distnet.runtime.errors import RESTORE, InputError, first_line
from distnet.runtime.files import read_arrays, write_whole
from distnet.training.history import Record, find_score
from distnet.training.lock import FolderLock
from distnet.training.provenance import are_sessions

FORMAT, VERSION = "distnet checkpoint", 2  # 1 was of distnet 0.1, whose bits are others
NAME = re.compile(r"checkpoint-(\d{10})\.npz")
COMPLETED = "completed.json"
TEMPORARY = re.compile(r"\.(checkpoint-\d{10}\.npz|completed\.json|probe)[.-].*")
# The files that a run writes into its checkpoint folder.
OURS = re.compile(rf"{NAME.pattern}|completed\.json|failure-.*\.txt|\.lock")
DTYPES = (np.float32, np.float64)
ALL = "all"  # a choice of --keep
COUNTS = ("epochs_done", "steps_done", "optimizer_steps", "shards")


class VersionError(InputError):
    """A checkpoint is of a version that this distnet can't resume, and so are those before it."""


class Checkpoint(NamedTuple):
    """The state of a run.

    header: as JSON: COUNTS, "config", "fingerprint", "history", one record per completed epoch, and "sessions", see
    `Sessions.until`; early files of this version have no sessions.
    arrays: name -> vector.
    """

    header: dict[str, Any]
    arrays: dict[str, Array]


def digest(header: str, arrays: dict[str, Array]) -> str:
    """The sha256 of everything that a checkpoint holds, in hexadecimal."""
    total = hashlib.sha256(header.encode())
    for name, array in sorted(arrays.items()):
        array = little_endian(array)
        total.update(f"{name} {array.dtype.str} {array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()


def checkpoint_path(directory: Path, step: int) -> Path:
    """The path of the checkpoint after `step` steps, counted over the whole run."""
    return directory / f"checkpoint-{step:010}.npz"


def checkpoints(directory: Path) -> list[Path]:
    """All checkpoints in a directory, newest first, damaged ones included."""
    return sorted((path for path in directory.glob("checkpoint-*") if NAME.fullmatch(path.name)), reverse=True)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint, counted over the whole run."""
    return int(path.stem.removeprefix("checkpoint-"))


def write_checkpoint(path: Path, checkpoint: Checkpoint, keep: int | str) -> None:
    """Write a checkpoint, then remove old ones, so that `keep` are left with it. For rank 0.

    keep: a number, or ALL. Checkpoints of later steps stay: they are damaged, or were passed over on purpose.
    Raises OSError if the disk refuses it; nothing is removed then.
    """
    header = json.dumps({"format": FORMAT, "version": VERSION} | checkpoint.header)
    arrays = {name: little_endian(array) for name, array in checkpoint.arrays.items()}
    sha256 = digest(header, arrays)

    def write(file: BinaryIO) -> None:
        texts = {"header": little_endian(np.array(header)), "sha256": little_endian(np.array(sha256))}
        np.savez(file, **texts, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
    if isinstance(keep, int):
        for old in [each for each in checkpoints(path.parent) if each.name <= path.name][keep:]:
            old.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint. Executes nothing from it, and takes no more memory than the file is long.

    Raises InputError if it is missing, damaged or of another program, and VersionError. For rank 0.
    """
    try:
        texts, arrays = read_arrays(path)
        if texts.keys() != {"header", "sha256"} or any(array.dtype not in DTYPES for array in arrays.values()):
            raise ValueError("it holds other arrays than a checkpoint")
        if digest(texts["header"], arrays) != texts["sha256"]:
            raise ValueError("its content does not match its sha256")
        header = json.loads(texts["header"])
        check_header(path, header)
    except VersionError:
        raise
    except OSError as error:
        problem = f"can't be read ({error.strerror or error})"
        raise InputError(f"checkpoint {path}", problem, "name a checkpoint of distnet's") from None
    except Exception as error:
        # Given damaged or foreign bytes, zipfile and NumPy raise almost anything.
        problem = f"is damaged or not a checkpoint of distnet ({first_line(error)})"
        raise InputError(f"checkpoint {path}", problem, RESTORE) from None
    return Checkpoint(header, arrays)


def check_header(path: Path, header: Any) -> None:
    """Raise ValueError if a header lacks something that every checkpoint of this version has, and VersionError."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("it is of another program")
    if header.get("version") != VERSION:
        raise VersionError(
            f"checkpoint {path}",
            f"is of version {header.get('version')!r}, and this distnet resumes from version {VERSION}",
            "resume with the distnet that wrote it, or start over with another --checkpoint-dir",
        )
    counts, history = [header.get(name) for name in COUNTS], header.get("history")
    if (
        not all(type(count) is int and 0 <= count < 2**63 for count in counts)
        or not isinstance(header.get("config"), dict)
        or not isinstance(header.get("fingerprint"), str)
        or not are_sessions(header.get("sessions", []))
        or not isinstance(history, list)
        or len(history) != header["epochs_done"]
        or not all(isinstance(record, dict) and find_score(cast(Record, record), "test") for record in history)
    ):
        raise ValueError("its header is invalid")


def newest_good(directory: Path, warn: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is good; None if there is no checkpoint. For rank 0.

    Damaged ones are passed over, each with a call of `warn`.
    Raises InputError if all are damaged: starting over would throw work away. Raises VersionError at the first.
    """
    found = checkpoints(directory)
    for path in found:
        try:
            return path, read_checkpoint(path)
        except VersionError:
            raise
        except InputError as error:
            warn(f"{error.subject}: {error.problem}; trying the one before it")
    if found:
        raise InputError(
            "--resume",
            f"none of the {len(found)} checkpoints in {directory} is good",
            "restore one, or start over with another --checkpoint-dir",
        )
    return None


def sweep(directory: Path) -> None:
    """Remove what an interrupted write left, unless a run has the lock. For rank 0."""
    lock = FolderLock(directory)
    if lock.acquire():
        remove_temporaries(directory)
        lock.release()


def remove_temporaries(directory: Path) -> None:
    """Remove what an interrupted write left. For rank 0 of the run that has the lock."""
    for path in directory.glob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
