"""Whatever bytes a file holds and whatever words follow the command: an InputError or something valid, no more.

No code is run, nothing written, nothing warned of, memory stays within some times the file's size, and it ends.
"""

import difflib
import encodings.utf_8_sig  # noqa: F401 - or the first file read would import it
import gzip
import io
import json
import os
import pickle
import signal
import struct
import sys
import time
import tomllib
import tracemalloc
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distnet.config.options import Config
from distnet.config.reading import read_config, to_toml
from distnet.config.resuming import check_same_run
from distnet.datasets.idx import read_idx_pair
from distnet.datasets.tables import TableOptions, read_table
from distnet.models.model_file import load_model, save_model
from distnet.nn.model import Model
from distnet.nn.parameters import parameter_count
from distnet.runtime.errors import HelpWanted, InputError
from distnet.training.checkpoint import Checkpoint, checkpoint_path, digest, read_checkpoint, write_checkpoint

TIMES, BESIDES = 20, 2_500_000  # the memory allowed: so many times the file's size, and so many bytes
SECONDS = 10
SUSPICIOUS = ("os.", "subprocess.", "socket.", "ctypes.", "shutil.", "exec", "import", "pty.", "code.")
IMPORTED_LATE = (difflib, tomllib)  # by a first error, and by a first file
for text_codec in ("cp437", "raw-unicode-escape", "utf-16"):
    "".encode(text_codec)  # imports it


def examples(number):
    """Settings that give the same examples at every run."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


class Hang(BaseException):
    """It takes too long."""


class Audit:
    """What a reader does beside reading, by the interpreter's own account."""

    def __init__(self):
        self.watching, self.seen = False, []
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if self.watching and (writes or event.startswith(SUSPICIOUS)):
            self.seen.append((event, arguments))


audit = Audit()


@contextmanager
def harmless(size=None):
    """What happens in this block, with a file of so many bytes, is refused by an InputError or does no harm."""

    def too_long(*ignored):
        raise Hang

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    if size is not None:
        tracemalloc.start()
    audit.seen.clear()
    audit.watching = True
    try:
        yield
    except InputError:
        pass
    finally:
        audit.watching = False
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not audit.seen
    assert peak < BESIDES + TIMES * (size or 0), peak


NUMBERS = [0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
interesting = st.one_of(
    st.binary(max_size=8),
    st.builds(
        lambda number, form: struct.pack(form, number % 256 ** struct.calcsize(form)),
        st.sampled_from(NUMBERS),
        st.sampled_from(["<H", "<I", "<Q", ">I", ">Q"]),
    ),
)
place = st.floats(0, 1, exclude_max=True)
change = st.one_of(
    st.tuples(st.just("put"), place, interesting),
    st.tuples(st.just("insert"), place, interesting),
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("cut"), place, place),
    st.tuples(st.just("end"), place, st.none()),
    st.tuples(st.just("repeat"), place, place),
)
changes = st.lists(change, min_size=1, max_size=4)


def mutated(content, changes):
    """The content with these changes, one after the other."""
    new = bytearray(content)
    for kind, where, what in changes:
        start = int(where * len(new))
        match kind:
            case "put":
                new[start : start + len(what)] = what
            case "insert":
                new[start:start] = what
            case "flip":
                new[start : start + 1] = bytes(byte ^ 1 << what for byte in new[start : start + 1])
            case "cut":
                del new[start : start + int(what * 100)]
            case "end":
                del new[start:]
            case "repeat":
                new[start:start] = new[start : start + int(what * 300)]
    return bytes(new)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def put(path, content):
    """Write a new file; to write over an old one waits for the disk."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


# Checkpoints.

ARRAYS = {"parameters": np.arange(50, dtype=np.float32), "losses": np.arange(9.0)}
HEADER = {
    "epochs_done": 1,
    "steps_done": 2,
    "optimizer_steps": 7,
    "shards": 4,
    "config": json.loads(json.dumps(Config().to_dict())),
    "fingerprint": "0123",
    "history": [{"epoch": 1, "test_accuracy": 0.5}],
}


def check_checkpoint(path, content):
    put(path, content)
    with harmless(len(content)):
        read = read_checkpoint(path)
        assert set(map(type, read.arrays.values())) <= {np.ndarray}
        assert all(array.ndim == 1 and array.dtype in (np.float32, np.float64) for array in read.arrays.values())
        check_same_run(path, read.header, Config(), 4)
        return read
    return None


@pytest.fixture(scope="module")
def checkpoint(folder):
    path = checkpoint_path(folder, 7)
    write_checkpoint(path, Checkpoint(HEADER, ARRAYS), 1)
    return path.read_bytes()


@given(changes)
@examples(1500)
def test_mutated_checkpoints_are_refused_or_unchanged(folder, checkpoint, changes):
    if read := check_checkpoint(folder / "mutated", mutated(checkpoint, changes)):
        assert read.arrays.keys() == ARRAYS.keys()
        assert all(array.tobytes() == ARRAYS[name].tobytes() for name, array in read.arrays.items())


@given(st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\0", b"\x80\x04"]), st.binary(max_size=300))
@examples(300)
def test_random_bytes_are_no_checkpoint(folder, start, content):
    assert check_checkpoint(folder / "random", start + content) is None


count = st.one_of(st.sampled_from([*NUMBERS, -1, 49, 50, 51]), st.integers(0, 100)).map(str)
npy = st.builds(
    lambda magic, form, order, shape, end, data: magic + f"{{{form}, {order}, {shape}, }}{end}".encode() + data,
    st.sampled_from([b"\x93NUMPY\x01\0\x76\0", b"\x93NUMPY\x02\0\x76\0\0\0", b"\x93NUMPY\x01\0\xff\xff", b""]),
    st.sampled_from(
        [
            f"'descr': '{form}'"
            for form in ("<f4", "<f8", ">f8", "<U9", "<U0", "|O", "<f2", "<c8", "|V4", "<M8[s]", "\\d")
        ]
        + ["'descr': [('a', '<f4', (1000000,))]", "'descr': ('<f4', (9,))", "'descr': __import__('os').abort()"]
    ),
    st.sampled_from(["'fortran_order': False", "'fortran_order': True"]),
    st.lists(count, max_size=3).map(lambda counts: f"'shape': ({''.join(each + ',' for each in counts)})"),
    st.sampled_from(["\n", " " * 9 + "\n", ""]),
    st.one_of(st.binary(max_size=50), st.sampled_from([bytes(200), bytes(400), b"\xff" * 200])),
)
compression = st.sampled_from([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED])
member = st.tuples(st.sampled_from(["parameters.npy", "losses.npy", "header.npy", "x", "../x.npy"]), npy, compression)


@given(st.lists(member, max_size=4, unique_by=lambda each: each[0]), st.binary(max_size=20))
@examples(700)
def test_archives_of_any_arrays_are_refused(folder, members, before):
    path = folder / "archive"
    file = io.BytesIO(before)
    file.seek(len(before))
    with zipfile.ZipFile(file, "w") as archive:
        for name, content, form in members:
            archive.writestr(name, content, form)
    assert check_checkpoint(path, file.getvalue()) is None
    check_model(path, file.getvalue())


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.floats(), st.text(max_size=5)),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["a", "test_accuracy"]), below),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from([*HEADER, "format", "version"]), plain, max_size=3),
    st.dictionaries(st.sampled_from([*HEADER["config"], "more"]), plain, max_size=3),
)
@examples(600)
def test_checkpoints_sealed_over_any_header_are_refused_or_valid(folder, some, of_the_config):
    header = {"format": "distnet checkpoint", "version": 1} | HEADER
    text = json.dumps(header | {"config": HEADER["config"] | of_the_config} | some)
    file = io.BytesIO()
    np.savez(file, header=np.array(text), sha256=np.array(digest(text, ARRAYS)), **ARRAYS)
    if read := check_checkpoint(folder / "sealed", file.getvalue()):
        assert 0 <= read.header["epochs_done"] <= Config().epochs


# Model files.


def check_model(path, content):
    put(path, content)
    with harmless():
        loaded = load_model(path)
        assert len(loaded.parameters) == parameter_count(loaded.sizes)
        assert loaded.parameters.dtype in (np.float32, np.float64)
        json.dumps(loaded.about)


@pytest.fixture(scope="module")
def models(folder):
    """A good one in each form."""
    contents = []
    for ending in (".pkl", ".npz"):
        path = folder / f"model{ending}"
        model = Model((3, 4, 2), "relu", np.arange(26, dtype=np.float32), {"config": Config().to_dict()})
        save_model(path, model)
        contents.append(path.read_bytes())
    return contents


@pytest.mark.parametrize("form", [0, 1], ids=["pkl", "npz"])
@given(changes)
@examples(1000)
def test_mutated_models_are_refused_or_valid(folder, models, form, changes):
    check_model(folder / "mutated model", mutated(models[form], changes))


opcodes = [
    *[b"(", b")", b"]", b"}", b"N", b"\x88", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"\x85", b"\x86", b"R"],
    *[
        b"\x81",
        b"\x92",
        b"b",
        b"\x93",
        b"\x94",
        b"h\0",
        b"h\1",
        b"q\0",
        b"r\xff\xff\xff\x7f",
        b"Q",
        b"P1\n",
        b"o",
        b".",
    ],
    *[b"cos\nsystem\n", b"cnumpy\nfrombuffer\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n", b"ios\nsystem\n"],
    *[b"\x8c\6touch x", b"\x8c\2os", b"\x8c\6system", b"\x8c\5numpy", b"\x8c\3<f4", b"\x8c\x0afrombuffer"],
    *[
        b"C\4abcd",
        b"B\xff\xff\xff\xff",
        b"\x8e" + b"\xff" * 8,
        b"\x95" + b"\xff" * 8,
        b"J\0\0\0\x80",
        b"\x8a\4\0\0\0\1",
    ],
    *[b"\x8c\6format", b"\x8c\x0ddistnet model", b"\x8c\5about", b"\x8c\x0aparameters", b"I01\n", b"G" + b"\x7f" * 8],
]


@given(st.sampled_from([b"\x80\4", b"\x80\2", b""]), st.lists(st.sampled_from(opcodes), max_size=25))
@examples(1500)
def test_pickles_of_any_opcodes_are_refused(folder, start, chosen):
    check_model(folder / "opcodes", start + b"".join(chosen) + b".")


@given(plain, st.integers(0, pickle.HIGHEST_PROTOCOL))
@examples(300)
def test_pickles_of_any_values_are_refused(folder, content, protocol):
    check_model(folder / "values", pickle.dumps(content, protocol))
    check_model(folder / "values", pickle.dumps({"format": "distnet model", "version": 1, "about": content}, protocol))


# IDX files.


def idx(magic, shape, data):
    return struct.pack(f">{1 + len(shape)}I", magic, *(count % 2**32 for count in shape)) + data


def check_idx(folder, images, labels):
    put(folder / "images", images)
    put(folder / "labels", labels)
    with harmless(len(images) + len(labels)):
        X, y = read_idx_pair(folder / "images", folder / "labels", 10)
        assert (X.dtype, y.dtype, X.ndim, y.ndim) == (np.uint8, np.uint8, 3, 1)
        assert len(X) == len(y) > 0
        assert y.max() < 10


IMAGES, LABELS = idx(0x803, (6, 3, 2), bytes(range(36))), idx(0x801, (6,), bytes(range(6)))


@given(changes, changes, st.booleans(), st.sampled_from([(0, 1), (1, 0), (1, 1)]))
@examples(1000)
def test_mutated_idx_files_are_refused_or_valid(folder, one, other, is_zipped, which):
    images, labels = (gzip.compress(each, mtime=0) if is_zipped else each for each in (IMAGES, LABELS))
    check_idx(folder, mutated(images, one) if which[0] else images, mutated(labels, other) if which[1] else labels)


size = st.one_of(st.sampled_from(NUMBERS), st.integers(0, 7))


@given(
    st.sampled_from([0x803, 0x801, 0x802, 0xD03, 0x1F8B0803]),
    st.lists(size, max_size=4),
    st.binary(max_size=60),
    st.sampled_from([lambda content: content, gzip.compress, lambda content: gzip.compress(content)[:-3]]),
)
@examples(1000)
def test_idx_files_of_any_header_are_refused_or_valid(folder, magic, shape, data, wrapped):
    check_idx(folder, wrapped(idx(magic, shape, data)), LABELS)
    check_idx(folder, IMAGES, wrapped(idx(magic, shape, data)))


# Tables.

CSV = b"x,y,kind\n" + b"".join(b"%d,1.5e%d,%s\n" % (row, row, b"ab"[row % 2 :][:1]) for row in range(12))


@given(changes)
@examples(1000)
def test_mutated_csv_files_are_refused_or_valid(folder, changed):
    content = mutated(CSV, changed)
    put(folder / "a.csv", content)
    with harmless(len(content)):
        table = read_table("csv", folder / "a.csv", TableOptions())
        assert np.isfinite(table.values).all()
        assert len(table.values) == len(table.codes) == len(table.train) + len(table.test)
        assert set(table.codes) == set(range(len(table.classes)))


# Files of options.

TOML = to_toml(read_config(["--checkpoint-dir", "a", "--optimizer", "adam", "--preset", "tutorial"])).encode()


@given(changes)
@examples(1000)
def test_mutated_files_of_options_are_a_configuration_or_refused(folder, changed):
    put(folder / "a.toml", mutated(TOML, changed))
    check_words(["--config", str(folder / "a.toml")])


# The command line.

words = st.one_of(
    st.sampled_from([f"--{field.name.replace('_', '-')}" for field in fields(Config)]),
    st.sampled_from(
        ["adam", "sgd", "relu", "tutorial", "mnist", "synthetic", "float64", "a.pkl", "a.npz", "epoch", "s"]
    ),
    st.sampled_from(
        ["--", "-", "--help", "-h", "--no", "@a", "=", "%s", "%(x)s", "{}", "nan", "-inf", "1e400", "1_0", "٣"]
    ),
    st.integers(-(10**30), 10**30).map(str),
    st.integers(0, 9).map(str),
    st.sampled_from(["9" * 400, "9" * 5000, "1 epoch", "500 steps", "60 s"]),
    st.floats().map(str),
    st.text(max_size=6),
    st.text(
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), min_size=1, max_size=3
    ),  # bytes that aren't text
)


@given(st.lists(words, max_size=8))
@examples(1000)
def test_any_words_are_a_configuration_or_refused_in_one_line(arguments):
    check_words(arguments)


option = st.sampled_from([f"--{field.name.replace('_', '-')}" for field in fields(Config)])


@given(st.lists(st.tuples(option, words), max_size=3))
@examples(1000)
def test_any_values_of_options_are_a_configuration_or_refused_in_one_line(pairs):
    check_words(["--checkpoint-dir", "a", *(word for pair in pairs for word in pair)])


def check_words(arguments):
    with harmless(), suppress(HelpWanted):
        config = read_config(arguments)
        json.dumps(config.to_dict())
        number, unit = config.checkpoint_every
        assert unit in ("epoch", "steps", "s")
        assert time.monotonic() + number > 0
