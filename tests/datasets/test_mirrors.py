"""Downloads from a mirror on this machine: whatever it does, only right bytes get their final name."""

import gc
import gzip
import hashlib
import io
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import helpers
import pytest

from distnet.datasets import mirrors
from distnet.datasets.idx import FILES
from distnet.datasets.mirrors import DATASETS, Published, download, is_file_of
from distnet.runtime.errors import InputError

FIRST, *OTHERS = FILES
RAW = {name: random.Random(name).randbytes(100_000) for name in FILES}  # does not shrink when gzipped
PACKED = {f"{name}.gz": gzip.compress(raw) for name, raw in RAW.items()}


class Mirror(HTTPServer):
    """Serves `files` on a port of its own, with the faults that a test asks for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(files)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.cuts: list[int] = []  # bytes after which one answer with FIRST after the other is cut
        self.delays: list[float] = []  # seconds before one answer after the other
        self.knows_ranges = True
        self.gate = threading.Event()  # closed: answers have to wait
        self.gate.set()
        self.log: list[tuple[str, int, int]] = []  # (name, first byte asked for, bytes sent)

    def starts(self, name: str = FIRST) -> list[int]:
        """The first byte that each request for a file asked for."""
        return [start for asked, start, _ in self.log if asked == f"{name}.gz"]


class Answer(BaseHTTPRequestHandler):
    """One answer of a Mirror."""

    server: Mirror

    def do_GET(self) -> None:
        self.server.gate.wait()
        time.sleep(self.server.delays.pop(0) if self.server.delays else 0)
        name = self.path.rpartition("/")[2]
        body = self.server.files.get(name)
        start = 0
        if self.server.knows_ranges and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if body is None or (start and start >= len(body)):
            self.server.log.append((name, start, 0))
            self.send_error(404 if body is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and name == f"{FIRST}.gz" else len(body)
        self.server.log.append((name, start, len(body[start:][:cut])))
        with suppress(ConnectionError):  # of a client that has heard enough
            self.wfile.write(body[start:][:cut])

    def log_message(self, *_: Any) -> None:
        """Not on standard error."""


@pytest.fixture(autouse=True)
def nothing_left_open_and_nobody_else_contacted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    look_up = socket.getaddrinfo

    def look_up_here(host: str, *rest: Any, **options: Any) -> Any:
        assert host == "127.0.0.1", "a test asked for a public mirror"
        return look_up(host, *rest, **options)

    answers: list[HTTPResponse] = []

    def ask(*args: Any, **options: Any) -> HTTPResponse:
        answers.append(urlopen(*args, **options))
        return answers[-1]

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setattr(mirrors, "urlopen", ask)
    monkeypatch.setenv("no_proxy", "*")
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert all(answer.isclosed() for answer in answers)
    gc.collect()  # an unclosed socket warns here, and warnings are errors


@pytest.fixture
def start_mirror() -> Iterator[Callable[[dict[str, bytes]], Mirror]]:
    running: list[tuple[Mirror, threading.Thread]] = []

    def start(files: dict[str, bytes]) -> Mirror:
        server = Mirror(files)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's table, with the digests of the small files and without its public mirrors."""
    digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in RAW.items()}
    monkeypatch.setitem(DATASETS, "mnist", Published(digests, ()))


@pytest.fixture
def mirror(small: None, start_mirror: Callable[[dict[str, bytes]], Mirror]) -> Mirror:
    return start_mirror(PACKED)


@pytest.fixture
def second(start_mirror: Callable[[dict[str, bytes]], Mirror]) -> Mirror:
    return start_mirror(PACKED)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(*args: Any, **options: Any) -> str:
    """The message of the InputError that a download ends with, in a minute at most."""
    messages: list[str] = []

    def attempt() -> None:
        with pytest.raises(InputError) as refused:
            download(*args, **options)
        messages.append(str(refused.value))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60)
    assert messages, "no InputError"
    assert "\n" not in messages[0]
    return messages[0]


def test_all_four_files_come_and_nothing_else_is_left(mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    download("mnist", folder, [mirror.url])
    assert contents(folder) == PACKED


def test_the_mirrors_of_the_table_are_asked_where_none_is_named(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "mnist", DATASETS["mnist"]._replace(mirrors=(mirror.url,)))
    download("mnist", tmp_path)
    assert contents(tmp_path) == PACKED


def test_a_mirror_may_be_named_without_its_last_slash(mirror: Mirror, tmp_path: Path) -> None:
    download("mnist", tmp_path, [mirror.url.rstrip("/") + "/some/folder"])
    assert contents(tmp_path) == PACKED


def test_a_cut_connection_is_taken_up_where_it_was(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [70_000, 20_000]
    download("mnist", tmp_path, [mirror.url])
    assert contents(tmp_path) == PACKED
    assert mirror.starts() == [0, 70_000, 90_000]
    assert sum(sent for _, _, sent in mirror.log) == sum(map(len, PACKED.values()))  # no byte twice


def test_a_mirror_that_always_cuts_is_left_after_four_requests_and_the_next_goes_on(
    mirror: Mirror, second: Mirror, tmp_path: Path
) -> None:
    mirror.cuts = [1000] * 9
    download("mnist", tmp_path, [mirror.url, second.url])
    assert contents(tmp_path) == PACKED
    assert (mirror.starts(), second.starts()) == ([0, 1000, 2000, 3000], [4000])


def test_a_reset_connection_is_taken_up_like_a_cut_one(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, resets = HTTPResponse.read, [ConnectionResetError(104, "Connection reset by peer")]

    def reset_once(answer: HTTPResponse, amount: int | None = None) -> bytes:
        if resets and answer.length != len(PACKED[f"{FIRST}.gz"]):  # not at its first byte
            raise resets.pop()
        return read(answer, amount)

    monkeypatch.setattr(HTTPResponse, "read", reset_once)
    download("mnist", tmp_path, [mirror.url])
    assert contents(tmp_path) == PACKED
    assert mirror.starts() == [0, mirrors.CHUNK]


def test_what_came_before_the_last_cut_is_kept_for_the_next_call(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [10_000] * 4
    message = refusal("mnist", tmp_path, [mirror.url])
    assert f"{mirror.url} was cut off after 40,000 bytes" in message
    assert contents(tmp_path) == {f"{FIRST}.gz.part": PACKED[f"{FIRST}.gz"][:40_000]}
    download("mnist", tmp_path, [mirror.url])
    assert contents(tmp_path) == PACKED
    assert mirror.starts()[-1] == 40_000


def test_a_mirror_that_ignores_ranges_starts_over(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts, mirror.knows_ranges = [50_000], False
    download("mnist", tmp_path, [mirror.url])
    assert contents(tmp_path) == PACKED


@pytest.mark.parametrize(
    ("lying", "starts"),
    [
        (PACKED[f"{FIRST}.gz"], [len(PACKED[f"{FIRST}.gz"]), 0]),  # complete: 416
        (PACKED[f"{FIRST}.gz"] + bytes(9), [len(PACKED[f"{FIRST}.gz"]) + 9, 0]),  # too long: 416
        (gzip.compress(RAW[FIRST], 0)[:5000], [5000, 0]),  # another mirror's wrapper
        (b"", [0]),
    ],
    ids=["complete", "too long", "of another mirror", "empty"],
)
def test_a_part_that_does_not_fit_is_started_over(
    mirror: Mirror, tmp_path: Path, lying: bytes, starts: list[int]
) -> None:
    (tmp_path / f"{FIRST}.gz.part").write_bytes(lying)
    download("mnist", tmp_path, [mirror.url])
    assert contents(tmp_path) == PACKED
    assert mirror.starts() == starts


def test_a_wrong_byte_is_refused_with_both_digests_and_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    wrong = bytes([RAW[FIRST][0] ^ 1]) + RAW[FIRST][1:]
    mirror.files[f"{FIRST}.gz"] = gzip.compress(wrong)
    message = refusal("mnist", tmp_path, [mirror.url])
    assert message.startswith(f"{FIRST}.gz: could not be downloaded ({mirror.url} sent wrong bytes (sha256 is ")
    for raw in wrong, RAW[FIRST]:
        assert hashlib.sha256(raw).hexdigest()[:8] in message
    assert contents(tmp_path) == {}
    assert mirror.starts() == [0]


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:99] + b"#" + packed[100:]])
def test_a_damaged_wrapper_is_refused_and_leaves_nothing(
    mirror: Mirror, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    mirror.files[f"{FIRST}.gz"] = damage(PACKED[f"{FIRST}.gz"])
    message = refusal("mnist", tmp_path, [mirror.url])
    assert f"{mirror.url} sent wrong bytes (no sha256, because it can't be read: " in message
    assert hashlib.sha256(RAW[FIRST]).hexdigest()[:8] in message
    assert contents(tmp_path) == {}


def test_wrong_bytes_of_one_mirror_are_had_from_the_next(mirror: Mirror, second: Mirror, tmp_path: Path) -> None:
    mirror.files[f"{FIRST}.gz"] = b"<html>sign in</html>"
    download("mnist", tmp_path, [mirror.url, second.url])
    assert contents(tmp_path) == PACKED


def test_a_file_that_never_ends_is_left_and_refused(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "LARGEST", 200_000)
    mirror.files[f"{FIRST}.gz"] = bytes(5_000_000)
    told = io.StringIO()
    monkeypatch.setattr(told, "isatty", lambda: True)
    assert "sent wrong bytes" in refusal("mnist", tmp_path, [mirror.url], progress=told)
    assert re.findall(r"[\d.]+ MB", told.getvalue())[-1] == "0.3 MB"
    assert contents(tmp_path) == {}


def test_a_gzip_bomb_is_not_unpacked_to_its_end(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "LARGEST", 200_000)
    mirror.files[f"{FIRST}.gz"] = gzip.compress(bytes(5_000_000))
    message = refusal("mnist", tmp_path, [mirror.url])
    assert "sent wrong bytes (sha256 is " in message
    assert hashlib.sha256(bytes(5_000_000)).hexdigest()[:8] not in message


def test_a_mirror_without_the_files_is_asked_once_and_the_next_has_them(
    mirror: Mirror, second: Mirror, tmp_path: Path
) -> None:
    mirror.files.clear()
    download("mnist", tmp_path, [mirror.url, second.url])
    assert contents(tmp_path) == PACKED
    assert [name for name, _, _ in mirror.log] == [f"{FIRST}.gz"]


def test_the_error_says_what_every_mirror_answered_and_what_to_do(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files.clear()
    nobody = closed_port()
    message = refusal("mnist", tmp_path, [mirror.url, nobody])
    assert f"{mirror.url} answered 404 Not Found; {nobody} gave no answer (Connection refused)); " in message
    assert f"copy the four files into {tmp_path}, or try python -m distnet.datasets with --mirror URL" in message


def test_right_files_are_not_fetched_again_raw_or_gzipped(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{FIRST}.gz").write_bytes(gzip.compress(RAW[FIRST], 0))
    (tmp_path / OTHERS[0]).write_bytes(RAW[OTHERS[0]])
    download("mnist", tmp_path, [mirror.url])
    assert [name for name, _, _ in mirror.log] == [f"{name}.gz" for name in OTHERS[1:]]
    download("mnist", tmp_path, [closed_port()])


@pytest.mark.parametrize("name", [FIRST, f"{FIRST}.gz"])
def test_a_wrong_file_is_fetched_again_and_told_of(mirror: Mirror, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(RAW[FIRST][:-1])
    told = io.StringIO()
    download("mnist", tmp_path, [mirror.url], progress=told)
    assert contents(tmp_path) == PACKED
    assert f"{tmp_path / name}: sha256 is " in told.getvalue()
    assert "downloading it again" in told.getvalue()


def test_a_wrong_file_stays_where_no_mirror_has_the_right_one(small: None, tmp_path: Path) -> None:
    (tmp_path / FIRST).write_bytes(b"mine")
    refusal("mnist", tmp_path, [closed_port()])
    assert contents(tmp_path) == {FIRST: b"mine"}


def test_a_server_that_never_answers_is_not_waited_for_longer_than_told(silent: str, tmp_path: Path) -> None:
    assert f"{silent} gave no answer (within 0.3 s)" in refusal("mnist", tmp_path, [silent], first_answer=0.3)


def test_a_silent_mirror_leaves_time_for_the_next_and_is_not_asked_again(
    silent: str, mirror: Mirror, tmp_path: Path
) -> None:
    told = io.StringIO()
    download("mnist", tmp_path, [silent, mirror.url], progress=told, first_answer=3)
    assert contents(tmp_path) == PACKED
    assert told.getvalue().count("gave no answer (within 1.5 s)") == 1


def test_once_a_mirror_answered_its_later_answers_may_take_longer(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts, mirror.delays = [1000], [0, 1.2]
    download("mnist", tmp_path, [mirror.url], first_answer=1)
    assert contents(tmp_path) == PACKED


def test_a_name_lookup_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    daemons: list[bool] = []

    def hang(*_: Any) -> Any:
        daemons.append(threading.current_thread().daemon)
        over.wait()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert "gave no answer (within 0.2 s)" in refusal(
            "mnist", tmp_path, ["http://mirror.invalid/"], first_answer=0.2
        )
    finally:
        over.set()
    assert daemons == [True]  # the interpreter can end without it


def test_an_answer_that_comes_too_late_is_closed(mirror: Mirror, tmp_path: Path) -> None:
    mirror.gate.clear()
    assert "gave no answer" in refusal("mnist", tmp_path, [mirror.url], first_answer=0.2)
    mirror.gate.set()  # the fixture then looks for threads and sockets


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc", "data/mnist", "http://", "http://[::1", ""])
def test_a_mirror_that_is_no_web_address_is_refused(tmp_path: Path, url: str) -> None:
    assert f"mirror {url!r}: is not a web address" in refusal("mnist", tmp_path / "new", [url])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/", "http://127.0.0.1/a b/", "http://127.0.0.1/ä/"])
def test_a_malformed_address_is_refused_in_a_line(tmp_path: Path, url: str) -> None:
    assert f"{url} gave no answer (" in refusal("mnist", tmp_path, [url])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file")
    assert refusal("mnist", tmp_path / "data").startswith(f"{tmp_path / 'data'}: the files can't be written (")


def test_a_full_disk_is_not_blamed_on_the_mirror(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    message = refusal("mnist", tmp_path, [mirror.url])
    assert message.startswith(f"{tmp_path}: the files can't be written (No space left on device)")


def test_progress_is_a_line_a_file(mirror: Mirror, tmp_path: Path) -> None:
    told = io.StringIO()
    download("mnist", tmp_path, [mirror.url], progress=told)
    assert told.getvalue().splitlines() == [f"{tmp_path / name}.gz: downloaded from {mirror.url}" for name in RAW]


def test_progress_on_a_terminal_redraws_its_line(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(told, "isatty", lambda: True)
    download("mnist", tmp_path, [mirror.url], progress=told)
    assert f"\r{FIRST}.gz.part: 0.1 MB" in told.getvalue()
    assert told.getvalue().count("\n") == 4
    assert told.getvalue().endswith("\n")


def test_a_changed_pixel_of_a_raw_file_is_seen(small: None, tmp_path: Path) -> None:
    path = tmp_path / FIRST
    path.write_bytes(RAW[FIRST])
    assert is_file_of("mnist", FIRST, path)
    path.write_bytes(RAW[FIRST][:-1] + bytes([RAW[FIRST][-1] ^ 1]))
    assert not is_file_of("mnist", FIRST, path)
    assert not is_file_of("mnist", FIRST, tmp_path / f"{FIRST}.gz")


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_table_has_four_files_and_two_mirrors_for_each(dataset: str) -> None:
    assert tuple(DATASETS[dataset].sha256) == FILES
    assert all(len(bytes.fromhex(digest)) == 32 for digest in DATASETS[dataset].sha256.values())
    assert len(set(DATASETS[dataset].mirrors)) == 2


def test_the_real_mnist_comes_whole_through_two_cuts(
    start_mirror: Callable[[dict[str, bytes]], Mirror], tmp_path: Path
) -> None:
    folder = helpers.MNIST
    paths = [folder / f"{name}.gz" for name in FILES]
    if missing := [path.name for path in paths if not path.exists()]:
        pytest.skip(f"real MNIST is not at hand: no {', '.join(missing)} in {folder}")
    mirror = start_mirror({path.name: path.read_bytes() for path in paths})
    mirror.cuts = [3_000_000, 4_000_000]
    download("mnist", tmp_path, [mirror.url])
    assert mirror.starts() == [0, 3_000_000, 7_000_000]
    for name in FILES:
        assert is_file_of("mnist", name, tmp_path / f"{name}.gz")
