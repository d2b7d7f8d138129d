"""The state of a run as a file: written whole, checked by its sha256 when read, never trusted."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distnet.errors import InputError
from distnet.files import write_whole
from distnet.functional import Array

FORMAT, VERSION = "distnet checkpoint", 1
NAME = re.compile(r"checkpoint-(\d{10})\.npz")
TEMPORARY = re.compile(r"\.(checkpoint-\d{10}\.npz|completed\.json)\..*")
DTYPES = (np.float32, np.float64)


class Checkpoint(NamedTuple):
    """header: what JSON knows of the run: where it stands, its configuration. arrays: name -> vector."""

    header: dict[str, Any]
    arrays: dict[str, Array]


def digest(header: str, arrays: dict[str, Array]) -> str:
    """64 hex digits over everything that a checkpoint holds."""
    total = hashlib.sha256(header.encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps of the whole run lies."""
    return directory / f"checkpoint-{step:010}.npz"


def checkpoints(directory: Path) -> list[Path]:
    """All checkpoints, the newest first, good or not."""
    return sorted((path for path in directory.glob("checkpoint-*") if NAME.fullmatch(path.name)), reverse=True)


def write_checkpoint(path: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write a checkpoint; then remove the oldest beyond `keep`. Collective: no, for rank 0.

    Raises OSError where the disk refuses; nothing is removed then.
    """
    header = json.dumps({"format": FORMAT, "version": VERSION} | checkpoint.header)
    sha256 = digest(header, checkpoint.arrays)

    def write(file: BinaryIO) -> None:
        np.savez(file, header=np.array(header), sha256=np.array(sha256), **checkpoint.arrays)  # type: ignore[arg-type]

    write_whole(path, write)
    for old in checkpoints(path.parent)[keep:]:
        old.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint. Collective: no, for rank 0.

    Raises InputError that names the file and what is wrong: missing, damaged, another version or somebody
    else's. Nothing that it holds is run, and no more memory is taken than the file is long.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as members:
            if any(each.compress_type or each.file_size > size for each in members.infolist()):
                raise ValueError("it is compressed, which ours never are")
            if sum(each.file_size for each in members.infolist()) > size:
                raise ValueError("it promises more than it holds")
            for each in members.infolist():
                with members.open(each) as member:
                    check_array_header(member, each.file_size)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = str(arrays.pop("header"))
        sha256 = str(arrays.pop("sha256"))
        parsed = json.loads(header)
        if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
            raise ValueError("it is somebody else's")
        if parsed.get("version") != VERSION:
            raise ValueError(f"it is of version {parsed.get('version')!r}, and this distnet reads {VERSION}")
        if any(array.ndim != 1 or array.dtype not in DTYPES for array in arrays.values()):
            raise ValueError("it holds other arrays than ours")
        if digest(header, arrays) != sha256:
            raise ValueError("its sha256 is not that of its content")
    except OSError as error:
        raise InputError(f"checkpoint {path}: can't be read ({error.strerror or error})") from None
    except Exception as error:
        # Damaged and foreign bytes make zipfile and NumPy raise almost anything.
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"checkpoint {path}: is damaged or none of distnet's ({reason})") from None
    return Checkpoint(parsed, arrays)


def check_array_header(member: Any, size: int) -> None:
    """Raise ValueError where an .npy member promises more than its `size` bytes."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError("it holds an array of another form")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject or any(length > size for length in shape) or np.prod(shape, dtype=float) * dtype.itemsize > size:
        raise ValueError("it holds an array that promises more than there is")


def newest_good(directory: Path, say: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is good, or None where there is none at all. Collective: no, for rank 0.

    Those that aren't are told to `say` and passed over. Raises InputError where there are some and none is
    good: to start over then would throw work away.
    """
    found = checkpoints(directory)
    for path in found:
        try:
            return path, read_checkpoint(path)
        except InputError as error:
            say(f"{error}; going on with the one before it")
    if found:
        raise InputError(
            f"--resume: none of the {len(found)} checkpoints in {directory} is good; "
            "restore one, or start over with another --checkpoint-dir"
        )
    return None


def sweep(directory: Path) -> None:
    """Remove what an interrupted write left. Collective: no, for rank 0, before anything is written."""
    for path in directory.iterdir():
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def prepare_directory(directory: Path) -> None:
    """Make the checkpoint directory, or raise InputError. Collective: no, for rank 0."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        sweep(directory)
    except OSError as error:
        raise InputError(
            f"--checkpoint-dir {directory}: can't be written ({error.strerror}); name a folder elsewhere"
        ) from None
