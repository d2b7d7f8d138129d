"""Fetch MNIST or Fashion-MNIST from public mirrors, and tell by sha256 whether files are the right ones.

Mirrors wrap the same bytes in different gzip files, so digests are those of the unpacked bytes.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from distnet.datasets.idx import unpacked
from distnet.runtime.errors import InputError

READ_SECONDS = 30.0  # for a connection, and for every read from it
RETRIES = 3  # after a cut connection, on the same mirror
CHUNK = 1 << 16  # bytes
LARGEST = 1 << 26  # bytes; more than any of the files has, gzipped or not, so a mirror can't fill the disk


class Dataset(NamedTuple):
    """sha256: file name, without `.gz`, to the digest of its unpacked bytes. mirrors: base URLs."""

    sha256: dict[str, str]
    mirrors: tuple[str, ...]


DATASETS = {
    "mnist": Dataset(
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
    ),
    "fashion-mnist": Dataset(
        {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
}


def is_file_of(dataset: str, name: str, path: Path) -> bool:
    """Whether `path`, gzipped or not, has the bytes of the file of that name in DATASETS."""
    return not _flaw(path, DATASETS[dataset].sha256[name])


def download(
    dataset: str,
    directory: Path,
    mirrors: Sequence[str] | None = None,
    progress: TextIO | None = None,
    first_answer: float | None = None,
) -> None:
    """Put into `directory` those of the four files of `dataset` that are not there, or not right.

    mirrors: base URLs, http or https, instead of the public ones; each is tried until one has the file.
    progress: is told a line for each file, redrawn while bytes come if it is a terminal.
    first_answer: seconds to wait for an answer, name lookup included, in equal parts for all mirrors;
        None for 30 s each. From the first answer on it is 30 s for a request, and for a read.
    What came before an interruption is kept in `NAME.gz.part`, and the next call goes on from there.
    A file of that name, raw or gzipped, with other bytes is replaced, but only once the right ones are there.
    Raises InputError when no mirror gave a file, or it can't be written.
    """
    if dataset not in DATASETS:
        raise InputError(f"data set {dataset!r}", "can't be downloaded", f"choose one of {', '.join(DATASETS)}")
    bases = [_checked(base) for base in mirrors or DATASETS[dataset].mirrors]
    seconds = READ_SECONDS if first_answer is None else first_answer / len(bases)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, sha256 in DATASETS[dataset].sha256.items():
            raw, packed = directory / name, directory / f"{name}.gz"
            here = raw if raw.exists() else packed
            if here.exists():
                flaw = _flaw(here, sha256)
                _tell(progress, f"{here}: {flaw}: fetching it again" if flaw else f"{here}: already here")
                if not flaw:
                    continue
            part, troubles = directory / f"{name}.gz.part", []
            for base in bases:
                trouble = _fetch(f"{base}{name}.gz", part, sha256, seconds, progress)
                if not trouble:
                    break
                troubles.append(f"{base} {trouble}")
                _tell(progress, f"{name}.gz: {troubles[-1]}")
            else:
                remedy = (
                    f"put the four files into {directory} by hand, or try python -m distnet.datasets with --mirror URL"
                )
                raise InputError(f"{name}.gz", f"could not be downloaded ({'; '.join(troubles)})", remedy)
            os.replace(part, packed)
            raw.unlink(missing_ok=True)  # it has other bytes, and would be found first
            _tell(progress, f"{packed}: here, from {base}")
            seconds = READ_SECONDS
            bases.remove(base)  # the mirror that worked goes first, so that a silent one costs its wait once
            bases.insert(0, base)
    except OSError as error:
        problem = f"the files can't be written ({_brief(error)})"
        raise InputError(directory, problem, "make room, or choose another folder with --data-dir") from error


def _checked(base: str) -> str:
    try:
        good = urlsplit(base).scheme in ("http", "https") and bool(urlsplit(base).hostname)
    except ValueError:
        good = False
    if not good:
        raise InputError(f"mirror {base!r}", "is not a web address", "name one that starts with http:// or https://")
    return base.rstrip("/") + "/"


def _flaw(path: Path, sha256: str) -> str:
    """Why the unpacked bytes of `path` are not those of this digest; empty if they are."""
    digest, size = hashlib.sha256(), 0
    try:
        with unpacked(path) as stream:
            while size <= LARGEST and (chunk := stream.read(CHUNK)):
                digest.update(chunk)
                size += len(chunk)
    except InputError as error:
        return f"no sha256, for it can't be read: {_brief(error.__cause__ or error)}; wanted {sha256[:8]}..."
    found = digest.hexdigest()
    return "" if found == sha256 else f"sha256 is {found[:8]}..., wanted {sha256[:8]}..."


def _fetch(url: str, part: Path, sha256: str, seconds: float, progress: TextIO | None) -> str:
    """Fetch one file of one mirror into `part`. Returns what went wrong; nothing when its bytes are right."""
    trouble = ""
    for _ in range(1 + RETRIES):
        start = part.stat().st_size if part.exists() else 0
        try:
            answer = _answer(url, start, seconds)
        except HTTPError as error:
            trouble = f"answered {error.code} {_brief(error)}"
            if error.code != 416 or not start:
                return trouble
            part.unlink()  # it has all the bytes, or more: start over
            continue
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a name that can't be looked up
            return f"gave no answer ({_brief(error)})"
        seconds = READ_SECONDS
        resumed = answer.status == 206
        with answer, part.open("ab" if resumed else "wb") as file:
            trouble = _save(answer, file, progress)
        if trouble:
            continue
        flaw = _flaw(part, sha256)
        if not flaw:
            return ""
        trouble = f"sent wrong bytes ({flaw})"
        part.unlink()
        if not resumed:  # otherwise the first part may be another mirror's: start over
            return trouble
    return trouble


def _answer(url: str, start: int, seconds: float) -> HTTPResponse:
    """What the server answers, asked for the bytes from `start` on.

    A name lookup knows no timeout, so a daemon thread waits for it and this one for the thread.
    """
    headers = {"User-Agent": "distnet"} | ({"Range": f"bytes={start}-"} if start else {})
    answer: Future[HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(urlopen(Request(url, headers=headers), timeout=READ_SECONDS))
        except Exception as error:
            if isinstance(error, HTTPError):
                error.close()
            answer.set_exception(error)

    def close(late: Future[HTTPResponse]) -> None:
        if not late.exception():
            late.result().close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        answer.add_done_callback(close)
        raise TimeoutError(f"within {seconds:g} s") from None


def _save(answer: HTTPResponse, file: BinaryIO, progress: TextIO | None) -> str:
    """Append the bytes that come. Returns how the connection was cut; nothing when all have come."""
    while file.tell() <= LARGEST:
        try:
            chunk = answer.read(CHUNK)
        except (OSError, HTTPException) as error:
            return f"was cut off after {file.tell():,} bytes ({_brief(error)})"
        if not chunk:
            # `read` does not complain of a connection that was closed before the length it promised.
            return f"was cut off after {file.tell():,} bytes" if answer.length else ""
        file.write(chunk)
        _tell(progress, f"{Path(file.name).name}: {file.tell() / 1e6:.1f} MB", end="")
    return ""  # far too many: no digest will match


def _brief(error: BaseException) -> str:
    reason = getattr(error, "reason", error)  # what urllib wraps
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())[:100]


def _tell(progress: TextIO | None, line: str, end: str = "\n") -> None:
    """Write a line, or redraw it when `end` is empty: on a terminal only."""
    if progress is None:
        return
    if progress.isatty():
        progress.write(f"\r{line:<78}{end}")
    elif end:
        progress.write(f"{line}{end}")
    progress.flush()
