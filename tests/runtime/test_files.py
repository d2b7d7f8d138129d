"""Where something else than a plain file is, a result goes through it and leaves it what it was."""

import json
import os
import socket
import stat
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import command

from distnet.datasets.npz import read_npz
from distnet.datasets.options import TableOptions
from distnet.runtime import proc
from distnet.runtime.errors import InputError
from distnet.runtime.files import GrowingFile, check_writable, write_content, write_whole


def write(path, content=b"new"):
    check_writable(path, "--option")
    write_content(path, content, f"--option {path}:")


def grow(path, content=b"new"):
    check_writable(path, "--option")
    file = GrowingFile(path)
    file.append(content[:1])
    file.append(content[1:])
    file.close()


WAYS = pytest.mark.parametrize("way", [write, grow], ids=["whole", "growing"])


@WAYS
def test_a_link_stays_a_link_and_its_target_is_what_is_written(tmp_path, way):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "old").write_bytes(b"of an older run")
    for name in ("old", "missing"):
        link = tmp_path / f"to-{name}"
        link.symlink_to(Path("elsewhere") / name)
        way(link)
        assert link.is_symlink()
        assert (folder / name).read_bytes() == b"new"
    assert sorted(os.listdir(folder)) == ["missing", "old"]


def test_a_link_into_a_folder_that_is_missing_and_a_loop_of_links_are_refused_beforehand(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "missing" / "file")
    with pytest.raises(InputError, match=f"there is no folder {tmp_path / 'missing'}; make it first"):
        check_writable(link, "--option")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        check_writable(loop, "--option")


@WAYS
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_written_again_keeps_its_mode_and_owner(tmp_path, way, mode):
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)
    before = path.stat()
    way(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)


def test_a_secret_file_is_never_readable_by_others_not_even_while_it_is_written(tmp_path):
    path = tmp_path / "file"
    path.touch(0o600)
    seen = []
    write_whole(path, lambda file: seen.extend(stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()))
    assert seen == [0o600, 0o600]


@pytest.fixture
def device(tmp_path):
    """A null device of our own: a test must not be able to replace the system's."""
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("needs root, to make a device")
    return device


@WAYS
def test_a_device_stays_a_device(device, way):
    before = device.stat()
    way(device)
    assert device.is_char_device()
    assert (device.stat().st_ino, device.stat().st_mode) == (before.st_ino, before.st_mode)


@WAYS
def test_a_pipe_gets_all_of_it_and_its_reader_the_end_only_then(tmp_path, way):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = bytes(range(256)) * 1000  # more than a pipe holds
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    while True:
        try:
            way(pipe, content)
            break
        except (InputError, OSError):  # the reader hasn't come yet
            continue
    reader.join()
    assert got == [content]
    assert pipe.is_fifo()


def test_a_pipe_that_nobody_reads_is_told_and_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe, "--option")  # the reader may come until then
    with pytest.raises(InputError, match=r"can't be written \(No such device or address\)"):
        write_content(pipe, b"new", f"--option {pipe}:")


def test_a_socket_is_refused_beforehand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths of sockets have to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match="--option socket: can't be written"):
            check_writable(Path("socket"), "--option")


def test_a_run_writes_into_its_own_output_and_leaves_links_as_they_are(digits, tmp_path):
    """As a person types it: streams of metrics and of a trace, and a model behind a link."""
    (tmp_path / "store").mkdir()
    model = tmp_path / "model.npz"
    model.symlink_to(tmp_path / "store" / "model.npz")
    options = ("--data-dir", digits, "--hidden", 9, "--epochs", 2, "--quiet", "--model", model)
    ended = command(*options, "--metrics", "/dev/stdout", "--timeline", "/dev/stderr")
    assert ended.status == 0
    assert json.loads(ended.err)["traceEvents"]
    assert [json.loads(line)["epoch"] for line in ended.out.splitlines()[:2]] == [1, 2]
    assert ended.out.splitlines()[2].startswith("test accuracy ")
    assert model.is_symlink()
    assert (tmp_path / "store" / "model.npz").stat().st_size > 784 * 9 * 4


def test_a_table_that_unpacks_to_more_than_the_memory_that_is_left_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    path = tmp_path / "table.npz"
    np.savez_compressed(path, X=np.zeros((200_000, 100), "f4"), y=np.arange(200_000) % 2)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable:   40960 kB\n")
    tracemalloc.start()
    with pytest.raises(InputError, match=r"it unpacks to 77 MiB, and 40 MiB of memory are left"):
        read_npz(path, TableOptions())
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    (tmp_path / "meminfo").write_text("MemAvailable:   90000 kB\n")
    assert read_npz(path, TableOptions())[0].shape == (200_000, 100)
