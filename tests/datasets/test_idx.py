"""IDX files: read as python-mnist reads them, and every bad file is refused in a line that names it."""

import gzip
import importlib.util
import struct
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distnet.datasets import idx
from distnet.datasets.idx import read_idx_pair
from distnet.runtime.errors import InputError

Pack = Callable[[bytes], bytes]
HUGE = 0xFFFF_FFFF
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def idx_bytes(*shape: int, data: bytes) -> bytes:
    return struct.pack(f">I{len(shape)}I", 0x0800 + len(shape), *shape) + data


PIXELS = bytes(range(60))
IMAGES = idx_bytes(5, 4, 3, data=PIXELS)
LABELS = idx_bytes(5, data=bytes([7, 0, 9, 1, 1]))


def write_pair(folder: Path, images: bytes = IMAGES, labels: bytes = LABELS, end: str = "") -> tuple[Path, Path]:
    paths = folder / f"train-images-idx3-ubyte{end}", folder / f"train-labels-idx1-ubyte{end}"
    for path, content in zip(paths, (images, labels), strict=True):
        path.write_bytes(content)
    return paths


def refusal(images_path: Path, labels_path: Path, classes: int = 10) -> str:
    with pytest.raises(InputError) as refused:
        read_idx_pair(images_path, labels_path, classes)
    message = str(refused.value)
    assert "\n" not in message
    assert "python -m distnet.datasets" in message
    return message


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzipped"])
def test_a_pair_is_read_by_its_content_whatever_its_names_end_in(tmp_path: Path, pack: Pack, end: str) -> None:
    images, labels = read_idx_pair(*write_pair(tmp_path, pack(IMAGES), pack(LABELS), end), 10)
    assert images.dtype == labels.dtype == np.uint8
    assert (images.shape, labels.shape) == ((5, 4, 3), (5,))
    assert images.tobytes() == PIXELS
    assert labels.tolist() == [7, 0, 9, 1, 1]


def test_one_file_of_a_pair_may_be_gzipped_and_the_other_not(tmp_path: Path) -> None:
    images, labels = read_idx_pair(*write_pair(tmp_path, gzip.compress(IMAGES), LABELS), 10)
    assert (images.shape, labels.shape) == ((5, 4, 3), (5,))


@pytest.mark.parametrize("gz", [False, True])
def test_pixels_and_labels_equal_those_of_python_mnists_own_list_parser(tmp_path: Path, gz: bool) -> None:
    from mnist import MNIST  # after distnet.datasets.idx, which silences its warnings

    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 5), np.uint8)
    numbers = np.arange(20, dtype=np.uint8) % 10
    pack, end = (gzip.compress, ".gz") if gz else (bytes, "")
    files = idx_bytes(20, 6, 5, data=pixels.tobytes()), idx_bytes(20, data=numbers.tobytes())
    images, labels = read_idx_pair(*write_pair(tmp_path, pack(files[0]), pack(files[1]), end), 10)
    images_as_lists, labels_as_list = MNIST(str(tmp_path), gz=gz).load_training()
    assert images.reshape(20, 30).tolist() == images_as_lists
    assert labels.tolist() == list(labels_as_list)


BAD_PAIRS = {
    "empty images": (b"", LABELS, "images", "is empty"),
    "empty labels": (IMAGES, b"", "labels", "is empty"),
    "a single byte": (IMAGES[:1], LABELS, "images", "ends within its header, after 1 bytes"),
    "images with a magic number alone": (IMAGES[:4], LABELS, "images", "ends within its header, after 4"),
    "images with a short header": (IMAGES[:15], LABELS, "images", "ends within its header, after 15"),
    "labels with a short header": (IMAGES, LABELS[:7], "labels", "ends within its header, after 7"),
    "labels for images": (LABELS, LABELS, "images", "starts with 00000801, IDX images start with 00000803"),
    "images for labels": (IMAGES, IMAGES, "labels", "starts with 00000803, IDX labels start with 00000801"),
    "a web page": (b"<html>sign in</html>", LABELS, "images", "starts with 3c68746d"),
    "truncated images": (IMAGES[:-1], LABELS, "images", "ends after 59 of the 60 bytes"),
    "truncated labels": (IMAGES, LABELS[:-1], "labels", "ends after 4 of the 5 bytes"),
    "trailing bytes behind images": (IMAGES + b"\0", LABELS, "images", "goes on after the 60 bytes"),
    "trailing bytes behind labels": (IMAGES, LABELS + b"\0", "labels", "goes on after the 5 bytes"),
    "images with a header alone": (IMAGES[:16], LABELS, "images", "ends after 0 of the 60 bytes"),
    "labels with a header alone": (IMAGES, LABELS[:8], "labels", "ends after 0 of the 5 bytes"),
    "zero images": (idx_bytes(0, 4, 3, data=b""), LABELS, "images", "promises nothing (0 x 4 x 3)"),
    "images of zero rows": (idx_bytes(5, 0, 3, data=b""), LABELS, "images", "promises nothing (5 x 0 x 3)"),
    "zero labels": (IMAGES, idx_bytes(0, data=b""), "labels", "promises nothing (0)"),
    "14 rows promised of 28": (
        idx_bytes(5, 14, 28, data=bytes(5 * 28 * 28)),
        LABELS,
        "images",
        "goes on after the 1,960 bytes that its header promises (5 x 14 x 28)",
    ),
    "absurd sizes of images": (
        idx_bytes(HUGE, HUGE, HUGE, data=PIXELS),
        LABELS,
        "images",
        "ends after 60 of",
    ),
    "an absurd number of labels": (
        IMAGES,
        idx_bytes(HUGE, data=b"\1"),
        "labels",
        "ends after 1 of the 4,294",
    ),
    "fewer labels than images": (
        IMAGES,
        idx_bytes(4, data=bytes(4)),
        "images",
        "has 5 images, but {labels} has 4 labels",
    ),
    "a label that is no class": (
        IMAGES,
        idx_bytes(5, data=bytes([1, 9, 10, 3, 200])),
        "labels",
        "label 10 at index 2 is not one of 0 to 9",
    ),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzipped"])
@pytest.mark.parametrize(("images", "labels", "culprit", "words"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_a_bad_pair_is_refused_by_name(
    tmp_path: Path, images: bytes, labels: bytes, culprit: str, words: str, pack: Pack
) -> None:
    images_path, labels_path = write_pair(tmp_path, pack(images), pack(labels))
    message = refusal(images_path, labels_path)
    assert message.startswith(f"{images_path if culprit == 'images' else labels_path}: ")
    assert words.format(labels=labels_path) in message


GZIPPED = gzip.compress(IMAGES)
DAMAGED = {
    "cut within the wrapper's header": GZIPPED[:5],
    "a magic number alone": GZIPPED[:2],
    "cut within its stream": GZIPPED[:40],
    "cut within its checksum": GZIPPED[:-6],
    "cut before its checksum": GZIPPED[:-8],
    "a wrong checksum": GZIPPED[:-8] + bytes([GZIPPED[-8] ^ 1]) + GZIPPED[-7:],
    "a wrong length": GZIPPED[:-1] + b"\1",
    "no deflate stream": GZIPPED[:10] + b"\xff" * 40,
    "another method": GZIPPED[:2] + b"\x07" + GZIPPED[3:],
    "junk behind it": GZIPPED + b"junk",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_gzip_wrapper_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    images_path, labels_path = write_pair(tmp_path, content, LABELS, ".gz")
    message = refusal(images_path, labels_path)
    assert message.startswith(f"{images_path}: its gzip wrapper is damaged (")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    images_path, labels_path = write_pair(tmp_path)
    labels_path.unlink()
    assert refusal(images_path, labels_path).startswith(f"{labels_path}: can't be read (No such file or directory)")


def test_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    images_path, labels_path = write_pair(tmp_path)
    images_path.unlink()
    images_path.mkdir()
    assert refusal(images_path, labels_path).startswith(f"{images_path}: can't be read (Is a directory)")


def test_a_file_without_permission_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images_path, labels_path = write_pair(tmp_path)

    def denied(path: Path, mode: str) -> None:  # not by chmod, for root may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    assert refusal(images_path, labels_path).startswith(f"{images_path}: can't be read (Permission denied)")


def test_there_may_be_more_classes_than_a_byte_can_tell(tmp_path: Path) -> None:
    assert len(read_idx_pair(*write_pair(tmp_path), classes=1000)[1]) == 5


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzipped"])
def test_memory_stays_near_the_size_of_the_unpacked_file(tmp_path: Path, pack: Pack) -> None:
    size = 8 << 20
    images = idx_bytes(8, 1024, 1024, data=bytes(size))
    paths = write_pair(tmp_path, pack(images), idx_bytes(8, data=bytes(8)))
    tracemalloc.start()
    try:
        read_idx_pair(*paths, 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * size


@pytest.mark.parametrize(
    ("shape", "behind"),
    [((5, 4, 3), 32 << 20), ((HUGE, HUGE, HUGE), 60)],
    ids=["a gzip bomb", "a huge header"],
)
def test_neither_a_gzip_bomb_nor_a_huge_header_takes_memory(
    tmp_path: Path, shape: tuple[int, ...], behind: int
) -> None:
    paths = write_pair(tmp_path, gzip.compress(idx_bytes(*shape, data=bytes(behind)), 1), LABELS)
    tracemalloc.start()
    try:
        refusal(*paths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@settings(deadline=None, database=None, max_examples=300)
@given(
    pack=st.sampled_from([bytes, gzip.compress]),
    target=st.sampled_from([0, 1]),
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=3),
    kept=st.none() | st.integers(0, 200),
)
def test_flipped_and_missing_bytes_give_the_promised_arrays_or_a_refusal(
    pack: Pack, target: int, flips: list[tuple[int, int]], kept: int | None
) -> None:
    files = [bytearray(pack(IMAGES)), bytearray(pack(LABELS))]
    for position, mask in flips:
        files[target][position % len(files[target])] ^= mask
    files[target] = files[target][:kept]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pair(Path(folder), bytes(files[0]), bytes(files[1]))
        try:
            images, labels = read_idx_pair(*paths, 10)
        except InputError as refused:
            message = str(refused)
        else:
            message = ""
    if message:
        assert str(paths[target]) in message
        return
    assert images.dtype == labels.dtype == np.uint8
    assert (len(images), labels.shape) == (5, (5,))
    assert images.shape[1] * images.shape[2] == 12
    assert labels.max() < 10
    if pack is gzip.compress:  # its checksum sees every changed pixel; a raw file has none
        assert (images.tobytes(), labels.tobytes()) == (PIXELS, LABELS[8:])


def test_importing_does_not_warn_even_where_python_mnist_must_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))  # an empty cache
    for name in [name for name in sys.modules if name == "mnist" or name.startswith("mnist.")]:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location("idx_again", idx.__file__)
    assert spec is not None
    assert spec.loader is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(("prefix", "counts"), [("train", TRAIN_COUNTS), ("t10k", TEST_COUNTS)])
def test_the_real_mnist_has_its_known_shape_and_label_counts(prefix: str, counts: list[int]) -> None:
    folder = helpers.MNIST
    images_path, labels_path = (folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    if not (images_path.exists() and labels_path.exists()):
        pytest.skip(f"real MNIST is not at hand: no {images_path.name} and {labels_path.name} in {folder}")
    images, labels = read_idx_pair(images_path, labels_path, 10)
    assert images.shape == (sum(counts), 28, 28)
    assert np.bincount(labels).tolist() == counts
