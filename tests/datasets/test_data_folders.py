"""MNIST is found however its files are named and wherever they lie, and what looks like it is never replaced."""

import gzip
import shutil

import numpy as np
import pytest

from distnet.config.building import load_dataset
from distnet.config.reading import read_config
from distnet.datasets import folders, mirrors
from distnet.datasets.folders import find_files, locate
from distnet.datasets.idx import FILES, read_idx_pair
from distnet.datasets.loading import load
from distnet.datasets.options import DataOptions
from distnet.parallel.world import World
from distnet.runtime.errors import InputError


def as_7_zip(digits, folder):
    for name in FILES:
        shutil.copy(digits / name, folder / name.replace("-idx", ".idx"))


def as_7_zip_gzipped(digits, folder):
    for name in FILES:
        (folder / f"{name.replace('-idx', '.idx')}.gz").write_bytes(gzip.compress((digits / name).read_bytes()))


def as_kaggle(digits, folder):
    as_7_zip(digits, folder)
    for name in FILES:
        (folder / name).mkdir()
        shutil.copy(digits / name, folder / name)


def as_torchvision(digits, folder):
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for name in FILES:
        shutil.copy(digits / name, folder / "MNIST" / "raw")


def as_keras(digits, folder):
    (train, train_labels), (test, test_labels) = (
        read_idx_pair(digits / FILES[i], digits / FILES[i + 1], 10) for i in (0, 2)
    )
    arrays = {"x_train": train, "y_train": train_labels, "x_test": test, "y_test": test_labels}
    np.savez_compressed(folder / "mnist.npz", **arrays)


FORMS = [as_7_zip, as_7_zip_gzipped, as_kaggle, as_torchvision, as_keras]


@pytest.mark.parametrize("write", FORMS)
def test_mnist_is_the_same_in_every_form(write, digits, tmp_path):
    write(digits, tmp_path)
    data = load(World(), DataOptions("mnist", tmp_path), "float32")
    assert data.fingerprint == load(World(), DataOptions("mnist", digits), "float32").fingerprint
    assert locate("mnist", tmp_path)
    if write is as_torchvision:
        assert find_files("mnist", tmp_path / "MNIST") == find_files("mnist", tmp_path)


def test_real_mnist_as_keras_has_it_is_checked_to_the_byte(tmp_path):
    train = np.zeros((60_000, 28, 28), np.uint8)
    labels = np.zeros(60_000, np.uint8)
    np.savez_compressed(
        tmp_path / "mnist.npz", x_train=train, y_train=labels, x_test=train[:10_000], y_test=labels[:10_000]
    )
    with pytest.raises(InputError, match=r"mnist.npz: its bytes aren't those of mnist"):
        load(World(), DataOptions("mnist", tmp_path), "float32")


def test_a_folder_of_torchvision_for_fashion_mnist_is_found(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "INSTALLED", {})
    (tmp_path / "FashionMNIST").mkdir()
    shutil.copytree(digits, tmp_path / "FashionMNIST" / "raw")
    for folder in (tmp_path, tmp_path / "FashionMNIST"):
        assert find_files("fashion-mnist", folder)[0].parent == tmp_path / "FashionMNIST" / "raw"
    assert find_files("mnist", tmp_path) is None


GOOD = {
    "x_train": np.zeros((5, 4, 3), np.uint8),
    "y_train": np.zeros(5, np.uint8),
    "x_test": np.zeros((2, 4, 3), np.uint8),
    "y_test": np.zeros(2, np.uint8),
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"x_test": None},
            "X_test is missing, it has x_train, y_train, y_test; download it again",
        ),
        ({"x_test": None, "y_test": None}, "x_test and y_test are missing; download it again"),
        (
            {"x_train": np.zeros((5, 12), np.uint8)},
            r"x_train is of shape (5, 12) and uint8, not (images, rows, columns)",
        ),
        ({"x_train": np.zeros((5, 4, 3))}, "x_train is of shape (5, 4, 3) and float64"),
        ({"y_test": np.zeros(3, np.uint8)}, "y_test is of shape (3,) and uint8, not one label per image"),
        ({"y_train": np.full(5, 10, np.uint8)}, "label 10 at index 0 is not one of 0 to 9"),
        ({"x_test": np.zeros((2, 5, 5), np.uint8)}, "its images have 25 pixels, those of "),
        (
            {"y_train": np.array([None] * 5)},
            "y_train[0] is None, which is not a number; download it again",
        ),
    ],
)
def test_a_bad_file_of_keras_is_refused_by_name(change, told, tmp_path):
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(InputError) as refused:
        load(World(), DataOptions("mnist", tmp_path), "float32")
    assert str(refused.value).startswith(str(tmp_path / "mnist.npz"))
    assert told in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"no zip file at all"])
def test_a_file_that_is_no_npz_is_refused_by_name(content, tmp_path):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(InputError) as refused:
        load(World(), DataOptions("mnist", tmp_path), "float32")
    assert str(refused.value).startswith(f"{tmp_path / 'mnist.npz'}: ")
    assert "download it again" in str(refused.value)


@pytest.fixture
def no_network(monkeypatch):
    def download(*arguments, **options):
        raise InputError("mirrors", "none answers")

    monkeypatch.setattr(folders, "HAS_FOLDER", False)
    monkeypatch.setattr(mirrors, "download", download)


@pytest.mark.parametrize(
    "name",
    [
        "mnist.pkl.gz",
        "mnist_train.csv",
        "MNIST.zip",
        "MNIST/processed/training.pt",
        "my-mnist/0/1.png",
        "train-images-idx3-ubyte.zip",
        "train-images-idx3-ubyte.gz.part",
        "train_images.npy",
        "t10k-labels-idx1-ubyte/t10k-labels-idx1-ubyte",
    ],
)
def test_what_looks_like_mnist_is_told_of_and_never_replaced_by_drawn_digits(name, no_network, tmp_path, monkeypatch):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    for given in (False, True):
        monkeypatch.setattr(folders, "DATA_FOLDER", tmp_path)
        with pytest.raises(InputError) as refused:
            locate(None, tmp_path if given else None)
        told = str(refused.value)
        assert told.startswith(f"--data-dir {tmp_path}: {FILES[0]} and the other files of mnist aren't there")
        assert f"but {name.partition('/')[0]}; download" in told
        assert "\n" not in told


@pytest.mark.parametrize(
    "name",
    ["README.md", "fashion-mnist/x", "FashionMNIST/raw/x", "emnist-digits-train-images-idx3-ubyte", "kmnist.npz"],
)
def test_other_files_do_not_look_like_mnist(name, no_network, tmp_path, monkeypatch, capsys):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    (tmp_path / "MNIST").mkdir()  # empty
    monkeypatch.setattr(folders, "DATA_FOLDER", tmp_path)
    assert locate(None, None) is None
    assert "using synthetic digits" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "below"), [((), "."), (("--dataset", "fashion-mnist"), "fashion-mnist")])
def test_what_is_downloaded_where_nothing_is_there_is_what_training_uses(
    options, below, digits, no_network, tmp_path, monkeypatch
):
    folder = tmp_path / "data"
    monkeypatch.setattr(folders, "DATA_FOLDER", folder)
    monkeypatch.setattr(folders, "INSTALLED", {})
    monkeypatch.setattr(mirrors, "download", lambda name, home, **how: shutil.copytree(digits, home))
    data = load_dataset(World(), read_config(options))
    assert data.source == str(folder / below)
    assert data.fingerprint == load(World(), DataOptions("mnist", digits), "float64").fingerprint


@pytest.mark.parametrize("write", [as_7_zip, as_torchvision])
def test_of_a_part_of_the_files_it_is_told_which_are_there_and_which_are_missing(write, digits, no_network, tmp_path):
    write(digits, tmp_path)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    paths[0].unlink()
    paths[1].unlink()
    with pytest.raises(InputError) as refused:
        locate("mnist", tmp_path)
    there = " and ".join(sorted((path.name for path in paths[2:]), key=lambda name: "label" in name))
    wanted = (
        f"--data-dir {paths[0].parent}: {FILES[2]} and {FILES[3]} are missing beside {there}; download the files with "
    )
    assert str(refused.value).startswith(wanted)


def test_a_whole_set_is_taken_where_there_is_a_part_of_another(digits, tmp_path):
    as_torchvision(digits, tmp_path)
    shutil.copy(digits / FILES[0], tmp_path)
    assert find_files("mnist", tmp_path)[0].parent == tmp_path / "MNIST" / "raw"
