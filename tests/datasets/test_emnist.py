"""EMNIST: its parts are found by their names, stand upright, and have as many classes as they have."""

import gzip

import numpy as np
import pytest
from helpers import write_idx

from distnet import NeuralNetwork
from distnet.datasets.folders import file_names
from distnet.datasets.loading import FIRST_LABEL, load
from distnet.datasets.options import EMNIST_CLASSES, DataOptions
from distnet.datasets.synthetic import synthetic_digits
from distnet.parallel.world import World
from distnet.runtime.errors import InputError

COUNTS = {"balanced": 47, "byclass": 62, "bymerge": 47, "digits": 10, "letters": 26, "mnist": 10}


def write_part(folder, name):
    """A data set of that name in which every class is there; returns its upright training images and labels."""
    written = []
    for kind, seed in (("train", 0), ("test", 1)):
        images = synthetic_digits(130, seed)[0]
        labels = np.arange(130) % len(EMNIST_CLASSES[name]) + FIRST_LABEL.get(name, 0)
        write_idx(folder / f"{name}-{kind}-images-idx3-ubyte", images.transpose(0, 2, 1))
        write_idx(folder / f"{name}-{kind}-labels-idx1-ubyte", labels)
        written.append((images, labels))
    return written[0]


def refusal(name, folder):
    with pytest.raises(InputError) as refused:
        load(World(), DataOptions(name, folder), "float32")
    return str(refused.value)


@pytest.mark.parametrize("name", EMNIST_CLASSES)
def test_a_part_is_upright_and_its_classes_are_its_own(tmp_path, name):
    images, labels = write_part(tmp_path, name)
    data = load(World(), DataOptions(name, tmp_path, raw_inputs=True), "float32")
    assert len(data.classes) == len(set(data.classes)) == COUNTS[name.removeprefix("emnist-")]
    assert data.train.targets.shape == data.test.targets.shape == (130, len(data.classes))
    assert (data.train.inputs[:, :784] == images.reshape(130, 784)).all()
    assert (data.train.targets.argmax(axis=1) == labels - labels.min()).all()


def test_the_names_of_the_files_are_those_that_python_mnist_knows():
    from mnist import MNIST

    for name in EMNIST_CLASSES:
        reader = MNIST()
        reader.select_emnist(name.removeprefix("emnist-"))
        theirs = [reader.train_img_fname, reader.train_lbl_fname, reader.test_img_fname, reader.test_lbl_fname]
        assert file_names(name) == theirs


def test_letters_train_to_the_same_bits_on_1_and_3_ranks_and_the_model_knows_them(train, tmp_path):
    write_part(tmp_path, "emnist-letters")
    for path in tmp_path.iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    model = tmp_path / "model.npz"
    options = ("--dataset", "emnist-letters", "--data-dir", tmp_path, "--epochs", 1, "--hidden", 8, "--model", model)
    assert train(*options, ranks=1).sha256 == train(*options, ranks=3).sha256
    network = NeuralNetwork.load(model)
    assert network.sizes == (784, 8, 26)
    assert "".join(network.about["classes"]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_files_that_are_missing_are_named(tmp_path):
    told = refusal("emnist-letters", tmp_path)
    assert told.startswith(
        f"--data-dir {tmp_path}: emnist-letters is missing; put emnist-letters-train-images-idx3-ubyte, "
    )
    assert all(file in told for file in file_names("emnist-letters"))
    write_part(tmp_path, "emnist-letters")
    (tmp_path / "emnist-letters-test-labels-idx1-ubyte").unlink()
    told = refusal("emnist-letters", tmp_path)
    assert "emnist-letters-test-labels-idx1-ubyte is missing beside emnist-letters-" in told
    assert "www.nist.gov" in told


def test_a_label_that_letters_do_not_have_is_refused(tmp_path):
    write_part(tmp_path, "emnist-letters")
    path = tmp_path / "emnist-letters-train-labels-idx1-ubyte"
    for label in (0, 27):
        path.write_bytes(path.read_bytes()[:-1] + bytes([label]))
        told = refusal("emnist-letters", tmp_path)
        assert told.startswith(f"{path}: label {label} at index 129 is not one of 1 to 26; ")
        assert "www.nist.gov" in told
