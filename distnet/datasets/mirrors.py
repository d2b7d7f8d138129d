"""Download MNIST or Fashion-MNIST from public mirrors; verify files by their sha256.

Mirrors compress the same bytes differently, so the digests are those of the unpacked bytes.
"""

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from distnet.datasets.idx import unpacked
from distnet.runtime.errors import InputError

READ_SECONDS = 30.0  # timeout of a connection, and of each read from it
RETRIES = 3  # after a cut connection, on the same mirror
CHUNK = 1 << 16  # bytes
ADDRESS = re.compile(r"https?://([\w.-]+|\[[\da-fA-F:]+\])")
LARGEST = 1 << 26  # bytes; more than any of the files has, gzipped or not, so that a mirror can't fill the disk


class Published(NamedTuple):
    """A data set on the web. sha256: by file name, without .gz, of the unpacked bytes. mirrors: base URLs."""

    sha256: dict[str, str]
    mirrors: tuple[str, ...]


DATASETS = {
    "mnist": Published(
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
    "fashion-mnist": Published(
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
    """Whether `path`, gzipped or not, has the bytes of the published file of that name."""
    return not _flaw(path, DATASETS[dataset].sha256[name])


def download(
    dataset: str,
    directory: Path,
    mirrors: Sequence[str] | None = None,
    progress: TextIO | None = None,
    first_answer: float | None = None,
) -> None:
    """Download those of the four files of `dataset` that are missing in `directory`, or have other bytes.

    mirrors: base URLs, http or https, instead of the public ones; tried in order.
    progress: where to print one line per file; on a terminal, it shows the bytes so far.
    first_answer: seconds to wait for a first answer, including name lookup, in equal parts for all mirrors; None for
    30 s each. Each later request has 30 s.
    An interrupted download stays in `NAME.gz.part`, and the next call resumes it. A file with other bytes is replaced
    once the right one is there.
    Raises InputError if no mirror has a file, or a file can't be written.
    """
    bases = [base.rstrip("/") + "/" for base in mirrors or DATASETS[dataset].mirrors]
    if wrong := [base for base in mirrors or () if not ADDRESS.match(base)]:
        raise InputError(f"mirror {wrong[0]!r}", "is not a web address", "use one that starts with http:// or https://")
    seconds = READ_SECONDS if first_answer is None else first_answer / len(bases)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, sha256 in DATASETS[dataset].sha256.items():
            raw, packed = directory / name, directory / f"{name}.gz"
            here = raw if raw.exists() else packed
            if here.exists():
                flaw = _flaw(here, sha256)
                _show(progress, f"{here}: {flaw}: downloading it again" if flaw else f"{here}: already here")
                if not flaw:
                    continue
            part, problems = directory / f"{name}.gz.part", []
            for base in bases:
                problem = _fetch(f"{base}{name}.gz", part, sha256, seconds, progress)
                if not problem:
                    break
                problems.append(f"{base} {problem}")
                _show(progress, f"{name}.gz: {problems[-1]}")
            else:
                remedy = f"copy the four files into {directory}, or try python -m distnet.datasets with --mirror URL"
                raise InputError(f"{name}.gz", f"could not be downloaded ({'; '.join(problems)})", remedy)
            os.replace(part, packed)
            raw.unlink(missing_ok=True)  # it has other bytes, and would be found first
            _show(progress, f"{packed}: downloaded from {base}")
            seconds = READ_SECONDS
            bases = [base, *(each for each in bases if each != base)]  # so that a silent mirror delays only once
    except OSError as error:
        problem = f"the files can't be written ({_describe(error)})"
        raise InputError(directory, problem, "free some space, or choose another folder with --data-dir") from error


def _flaw(path: Path, sha256: str) -> str:
    """Why the unpacked bytes of `path` don't have this digest; empty if they have."""
    digest, size = hashlib.sha256(), 0
    try:
        with unpacked(path, "") as stream:
            while size <= LARGEST and (chunk := stream.read(CHUNK)):
                digest.update(chunk)
                size += len(chunk)
    except (InputError, OSError) as error:
        return f"no sha256, because it can't be read: {_describe(error.__cause__ or error)}; expected {sha256[:8]}..."
    found = digest.hexdigest()
    return "" if found == sha256 else f"sha256 is {found[:8]}..., expected {sha256[:8]}..."


def _fetch(url: str, part: Path, sha256: str, seconds: float, progress: TextIO | None) -> str:
    """Download one file from one mirror into `part`. Returns the problem; empty if its bytes are right."""
    problem = ""
    for _ in range(1 + RETRIES):
        start = part.stat().st_size if part.exists() else 0
        try:
            answer = _request(url, start, seconds)
        except HTTPError as error:
            problem = f"answered {error.code} {_describe(error)}"
            if error.code != 416 or not start:
                return problem
            part.unlink()  # it has all bytes, or more: start over
            continue
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a host name that can't be looked up
            return f"gave no answer ({_describe(error)})"
        seconds = READ_SECONDS
        is_resumed = answer.status == 206
        with answer, part.open("ab" if is_resumed else "wb") as file:
            problem = _save(answer, file, progress)
        if problem:
            continue
        flaw = _flaw(part, sha256)
        if not flaw:
            return ""
        problem = f"sent wrong bytes ({flaw})"
        part.unlink()
        if not is_resumed:  # otherwise the first part may be another mirror's: start over
            return problem
    return problem


def _request(url: str, start: int, seconds: float) -> HTTPResponse:
    """The server's answer to a request for the bytes from `start` on. Raises TimeoutError, and what `urlopen` raises.

    Name lookups have no timeout, so a daemon thread makes the request.
    """
    headers = {"User-Agent": "distnet"} | ({"Range": f"bytes={start}-"} if start else {})
    answer: Future[HTTPResponse] = Future()

    def request() -> None:
        try:
            answer.set_result(urlopen(Request(url, headers=headers), timeout=READ_SECONDS))
        except Exception as error:
            if isinstance(error, HTTPError):
                error.close()
            answer.set_exception(error)

    def close(late: Future[HTTPResponse]) -> None:
        if not late.exception():
            late.result().close()

    threading.Thread(target=request, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        answer.add_done_callback(close)
        raise TimeoutError(f"within {seconds:g} s") from None


def _save(answer: HTTPResponse, file: BinaryIO, progress: TextIO | None) -> str:
    """Append the bytes of an answer. Returns how the connection was cut; empty if all bytes are there."""
    while file.tell() <= LARGEST:
        try:
            chunk = answer.read(CHUNK)
        except (OSError, HTTPException) as error:
            return f"was cut off after {file.tell():,} bytes ({_describe(error)})"
        if not chunk:
            # `read` raises nothing if the connection was closed before the promised length.
            return f"was cut off after {file.tell():,} bytes" if answer.length else ""
        file.write(chunk)
        _show(progress, f"{Path(file.name).name}: {file.tell() / 1e6:.1f} MB", end="")
    return ""  # far too many: no digest will match


def _describe(error: BaseException) -> str:
    """An error's reason in one line."""
    reason = getattr(error, "reason", error)  # urllib wraps the original error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())[:100]


def _show(progress: TextIO | None, line: str, end: str = "\n") -> None:
    """Print a line; on a terminal it replaces the line before, unless that is complete. No end: on a terminal only."""
    if progress and (end or progress.isatty()):
        print(f"\r{line:<78}" if progress.isatty() else line, end=end, file=progress, flush=True)
