"""Bad input: one line that names the option or the file and its value, status 2, and nothing written."""

import gzip
import shutil

import numpy as np
import pytest
from helpers import check_refused, files_unchanged, write_idx

from distnet import NeuralNetwork
from distnet.datasets import folders
from distnet.datasets.idx import FILES
from distnet.estimators.classifier import Classifier
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.schedules import Schedule
from distnet.runtime.errors import InputError
from distnet.train import train as train_here
from distnet.training.configuration import Regularisation

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


@pytest.fixture
def check_raised(capfd, monkeypatch):
    """As `check_refused`, but of the function that the command calls: what the error says."""

    def check(folder, *arguments, named):
        monkeypatch.chdir(folder)
        with files_unchanged(folder, arguments) as complete, pytest.raises(InputError) as caught:
            train_here([str(each) for each in complete])
        assert "\n" not in str(caught.value)
        assert all(part in str(caught.value) for part in named), (named, caught.value)
        assert capfd.readouterr() == ("", "")

    return check


NUMBERS = {
    "--batch-size": ["0", "-3", "nan", "many", "1.5", ""],
    "--shards": ["0", "-1", "four"],
    "--epochs": ["0", "-1", "1e3", "inf"],
    "--learning-rate": ["0", "-0.1", "nan", "inf", "fast"],
    "--hidden": ["0", "-5", "nan", "2.5", "wide"],
    "--train-limit": ["0", "-1", "all"],
    "--train-samples": ["0", "1e6"],
    "--test-share": ["0", "1", "half"],
    "--seed": ["-1", "0.5", "random"],
    "--momentum": ["1.1", "-0.1"],
    "--epsilon": ["0"],
    "--weight-decay": ["-1", "nan"],
    "--clip-norm": ["0", "inf"],
    "--keep": ["0", "every"],
    "--checkpoint-every": ["0", "often"],
    "--stall-timeout": ["0", "never"],
    "--ranks-per-node": ["0"],
    "--optimizer": ["lion"],
    "--arithmetic": ["exact"],
    "--activation": ["softplus"],
    "--dtype": ["float16"],
    "--dataset": ["cifar", "csv", "csv:", "npy:a.npy"],
    "--preset": ["fast"],
    "--model": ["model.txt", "model"],
}
BAD_OPTIONS = [(option, value) for option, values in NUMBERS.items() for value in values]


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS)
def test_a_value_that_an_option_cannot_have(check_raised, tmp_path, option, value):
    check_raised(tmp_path, option, value, named=[f"{option}: ", repr(value)])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epoch", "3"], ["--epoch 3: there is no such option; did you mean --epochs?", "--help"]),
        (["--config", "a.toml"], ["--config a.toml: can't be read (No such file or directory)"]),
        (["--learning_rate", "0.1"], ["--learning_rate 0.1: there is no such option"]),
        (["extra"], ["extra: there is no such option"]),
        (["--epochs"], ["--epochs: expected one argument"]),
        (["--learning-rate", "-inf"], ["--learning-rate: "]),
        (["--hidden", "20", "0"], ["--hidden: expected a positive integer, got '0'"]),
        (["--betas", "0.9"], ["--betas: expected 2 arguments"]),
        (["--betas", "0.9", "1"], ["--betas: expected a number from 0 up and below 1, got '1'"]),
    ],
)
def test_an_option_that_does_not_exist_or_lacks_its_value(check_raised, tmp_path, arguments, named):
    check_raised(tmp_path, *arguments, named=named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--two\nlines"], ["--two lines: there is no such option"]),
        (["--batch-size", "many"], ["--batch-size: expected a positive integer, got 'many'"]),
        (["--model", "missing/a.pkl"], ["--model missing/a.pkl: there is no folder missing"]),
    ],
)
def test_a_mistake_is_one_line_and_status_2(train, tmp_path, arguments, named):
    check_refused(train, tmp_path, *arguments, named=named)


@pytest.mark.parametrize("option", ["--model", "--metrics"])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("missing/a.pkl", "there is no folder"),
        ("file/a.pkl", "can't be written (Not a directory)"),
        ("folder.pkl", "is a folder"),
        ("/proc/a.pkl", "can't be written"),
    ],
)
def test_a_result_that_could_not_be_written_is_found_before_the_training(
    check_raised, digits, tmp_path, option, place, why
):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.pkl").mkdir()
    path = tmp_path / place
    check_raised(tmp_path, "--data-dir", digits, option, path, named=[f"{option} {path}", why])


def test_a_path_that_the_configuration_beside_the_model_cannot_hold_is_found_before_the_training(
    check_raised, digits, tmp_path
):
    arguments = ("--data-dir", digits, "--metrics", tmp_path / "\udcff.jsonl")
    check_raised(tmp_path, *arguments, named=["--model ", "a path in it isn't text"])


def cut(path, count):
    path.write_bytes(path.read_bytes()[:count])


def overwrite(path, place, byte):
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)


DAMAGE = {  # to one of the four files; and what is said of it
    "missing training images": (TRAIN_IMAGES, lambda path: path.unlink(), "is missing"),
    "missing training labels": (TRAIN_LABELS, lambda path: path.unlink(), "is missing"),
    "missing test images": (TEST_IMAGES, lambda path: path.unlink(), "is missing"),
    "missing test labels": (TEST_LABELS, lambda path: path.unlink(), "is missing"),
    "truncated images": (TRAIN_IMAGES, lambda path: cut(path, -1), "ends after 470,399 of the 470,400 bytes"),
    "truncated labels": (TEST_LABELS, lambda path: cut(path, 50), "ends after 42 of the 100 bytes"),
    "images that end in their header": (TEST_IMAGES, lambda path: cut(path, 10), "ends within its header"),
    "empty images": (TRAIN_IMAGES, lambda path: cut(path, 0), "is empty"),
    "empty labels": (TEST_LABELS, lambda path: cut(path, 0), "is empty"),
    "wrong magic of images": (TEST_IMAGES, lambda path: overwrite(path, 3, 1), "starts with 00000801"),
    "wrong magic of labels": (TRAIN_LABELS, lambda path: overwrite(path, 2, 9), "starts with 00000901"),
    "trailing bytes": (TRAIN_LABELS, lambda path: path.write_bytes(path.read_bytes() + b"!"), "goes on after"),
    "no images": (TRAIN_IMAGES, lambda path: write_idx(path, np.zeros((0, 28, 28))), "promises nothing"),
    "fewer images": (TRAIN_IMAGES, lambda path: write_idx(path, np.zeros((599, 28, 28))), "599 images"),
    "fewer labels": (TEST_LABELS, lambda path: write_idx(path, np.zeros(99)), "99 labels"),
    "smaller test images": (TEST_IMAGES, lambda path: write_idx(path, np.zeros((100, 8, 8))), "64 pixels"),
    "label 10": (TRAIN_LABELS, lambda path: overwrite(path, 8 + 5, 10), "label 10 at index 5"),
    "label 255": (TEST_LABELS, lambda path: overwrite(path, -1, 255), "label 255 at index 99"),
    "truncated gzip": (TEST_IMAGES, lambda path: path.write_bytes(gzip.compress(b"IDX")[:-9]), "gzip wrapper"),
}


def damage(digits, folder, name):
    """A copy of the data with one file damaged; its path and what is said of it."""
    file, harm, said = DAMAGE[name]
    data = shutil.copytree(digits, folder / "data")
    harm(data / file)
    return data, [file, said]


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_with_what_is_wrong(check_raised, digits, tmp_path, name):
    data, named = damage(digits, tmp_path, name)
    check_raised(tmp_path, "--data-dir", data, named=[*named, str(data)])


@pytest.mark.parametrize("name", ["missing test labels", "truncated images", "wrong magic of labels", "label 10"])
def test_a_damaged_file_ends_all_ranks_with_one_line(train, digits, tmp_path, name):
    data, named = damage(digits, tmp_path, name)
    check_refused(train, tmp_path, "--data-dir", data, ranks=3, named=[*named, str(data)])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch-size", "0"], ["--batch-size: expected a positive integer, got '0'"]),
        (["--no-such-option"], ["--no-such-option: there is no such option"]),
        (["--shards", "4"], ["--shards: portable arithmetic has the same bits without; use --arithmetic native"]),
        (
            ["--arithmetic", "native", "--shards", "2"],
            ["--shards: 3 ranks need one shard each, got 2", "3 shards or more", "2 ranks or fewer"],
        ),
        (["--config", "missing"], ["--config missing: can't be read"]),
        (["--dataset", "csv:missing"], ["--dataset csv:missing: can't be read (No such file or directory)"]),
        (["--model", "missing/a.pkl"], ["--model missing/a.pkl: there is no folder missing"]),
        (["--data-dir", "missing"], ["--data-dir missing: "]),
    ],
)
def test_a_bad_option_ends_all_ranks_with_one_line(train, tmp_path, arguments, named):
    check_refused(train, tmp_path, *arguments, ranks=3, named=named)


@pytest.mark.parametrize("file", FILES)
def test_one_flipped_bit_in_real_mnist_is_seen(check_raised, mnist, tmp_path, file):
    for name in FILES:
        (tmp_path / f"{name}.gz").symlink_to(mnist / f"{name}.gz")
    content = bytearray(gzip.decompress((tmp_path / f"{file}.gz").read_bytes()))
    content[len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(content)
    (tmp_path / f"{file}.gz").unlink()
    check_raised(tmp_path, "--data-dir", tmp_path, named=[f"{tmp_path / file}: ", "sha256"])


def test_mnist_is_neither_taken_for_fashion_mnist_nor_replaced_by_it(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "INSTALLED", {})
    for path in mnist.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert folders.find_files("fashion-mnist", tmp_path) is None
    own = folders.home("fashion-mnist", tmp_path)
    assert own == tmp_path / "fashion-mnist"
    assert folders.home("fashion-mnist", own) == own
    own.mkdir()
    for name in FILES:
        (own / name).write_bytes(b"")
    assert folders.find_files("fashion-mnist", tmp_path) == [own / name for name in FILES]
    assert folders.find_files("mnist", tmp_path)[0].parent == tmp_path


def test_a_folder_without_data_that_somebody_typed_is_not_replaced_by_synthetic_digits(train, tmp_path):
    nowhere = tmp_path / "nowhere"
    check_refused(train, tmp_path, "--data-dir", nowhere, named=[f"--data-dir {nowhere}: "])
    check_refused(train, tmp_path, env={"DISTNET_DATA": str(nowhere)}, named=[f"--data-dir {nowhere}: "])


def test_all_mistakes_in_a_network_are_told_by_name():
    for arguments, told in [
        (([],), "sizes"),
        (([3],), "sizes"),
        (([3, 0, 2],), "sizes"),
        (([3, -1, 2],), "sizes"),
        (([3, 2.5, 2],), "sizes"),
        (([3, 2], "softplus"), "activation: .*got 'softplus'"),
        (([3, 2], "relu", 0), "learning_rate: .*got 0"),
        (([3, 2], "relu", float("nan")), "learning_rate: .*got nan"),
        (([3, 2], "relu", "0.1"), "learning_rate: .*got '0.1'"),
        (([3, 2], "relu", 0.1, -1), "seed: .*got -1"),
        (([3, 2], "relu", 0.1, 0, "int8", None, "native"), "dtype: .*got 'int8'"),
        (([3, 2], "relu", 0.1, 0, "float33", None, "native"), "dtype: .*got 'float33'"),
        (([3, 2], "relu", 0.1, 0, "int8"), "dtype: .*got 'int8'"),
        (([3, 2], "relu", 0.1, 0, "float33"), "dtype: .*got 'float33'"),
        (([3, 2], "relu", 0.1, 0, "float32"), 'dtype float32: portable arithmetic is float64; use arithmetic="native"'),
        (([3, 2], "relu", 0.1, 0, None, None, "exact"), "arithmetic: .*got 'exact'"),
        (([3, 2], "relu", 0.1, 0, None, "zeros"), "initialisation: .*got 'zeros'"),
        ((3,), "sizes: .*got 3"),
    ]:
        with pytest.raises(InputError, match=told):
            NeuralNetwork(*arguments)


def test_all_mistakes_in_its_data_are_told_by_name():
    network, portable = NeuralNetwork([3, 2], arithmetic="native"), NeuralNetwork([3, 2])
    X, Y = np.zeros((4, 3)), np.zeros((4, 2))
    for call, told in [
        (lambda: network.forward(X[:, :2]), r"X: .*\(4, 2\)"),
        (lambda: network.forward(X[0]), r"X: .*\(3,\)"),
        (lambda: network.forward(X[:0]), "X: expected one row or more"),
        (lambda: network.backprop(X, Y[:3]), r"Y: .*\(3, 2\)"),
        (lambda: network.train(X, Y[:, :1]), r"Y: .*\(4, 1\)"),
        (lambda: network.train(X, Y, epochs=0), "epochs: .*got 0"),
        (lambda: network.train(X, Y, batch_size=-1), "batch_size: .*got -1"),
        (lambda: network.train(X, Y, batch_size="32"), "batch_size: .*got '32'"),
        (lambda: network.train(X, Y, shards="4"), "shards: .*got '4'"),
        (lambda: portable.train(X, Y, shards="4"), "shards: .*got '4'"),
        (lambda: portable.train(X, Y, shards=4), "shards: portable arithmetic has .* use native arithmetic"),
        (lambda: portable.train(X + 1e76, Y), "inputs: some are 1.8e.75 or more, too large for portable arithmetic"),
        (lambda: portable.train(X + 1e307, Y), "inputs: some are 1.8e.75 or more, too large for portable arithmetic"),
        (lambda: portable.forward(X - 1e76), "X: some numbers are too large for portable arithmetic, such as 1e.76"),
        (lambda: portable.backprop(X + 1e76, Y), "X: some numbers are too large for portable arithmetic"),
        (lambda: portable.train(np.where(X == 0, np.nan, X), Y), r"X\[0, 0\]: expected a finite number of float64"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters("rmsprop")), "optimizer: .*got 'rmsprop'"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters(weight_decay="0.1")), "weight_decay: .*got '0.1'"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters(betas=(0.9, 1))), "betas: .*got 1"),
        (lambda: network.train(X, Y, schedule=Schedule("linear")), "schedule: .*got 'linear'"),
        (lambda: network.train(X, Y, schedule=Schedule("step", decay=None)), "decay: .*got None"),
        (lambda: network.train(X, Y, regularisation=Regularisation(dropout="much")), "dropout: .*got 'much'"),
        (lambda: network.train(X, Y, epochs=1.5), "epochs: .*got 1.5"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters(clip_norm=-1)), "clip_norm: .*got -1"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters(momentum=2)), "momentum: .*got 2"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters(epsilon=10**400)), "epsilon: .*got 1000"),
        (lambda: network.train(X, Y, hyperparameters=Hyperparameters(betas=0.9)), "betas: .*got 0.9"),
        (lambda: network.train(X, Y, regularisation=Regularisation(dropout=1.5)), "dropout: .*got 1.5"),
        (lambda: network.train(X, Y, regularisation=Regularisation(label_smoothing=-1)), "label_smoothing: .*got -1"),
        (
            lambda: network.train(np.where(X == 0, np.nan, X), Y),
            r"X\[0, 0\]: expected a finite number of float32, got nan",
        ),
        (lambda: network.train(X, np.where(Y == 0, np.inf, Y)), r"Y\[0, 0\]: .*got inf"),
        (lambda: network.train(X + 1e39, Y), r"X\[0, 0\]: .*got 1e\+39"),
        (
            lambda: network.forward(np.where(X == 0, np.nan, X)),
            r"X\[0, 0\]: expected a finite number of float32, got nan",
        ),
        (lambda: network.test(X, Y.argmax(axis=1)[:, None]), r"Y: .*\(4, 1\)"),
        (lambda: network.test(X, Y[:1]), r"Y: .*\(1, 2\)"),
        (lambda: network.cross_entropy(Y, Y[:1]), r"Y: .*\(1, 2\)"),
        (lambda: network.cross_entropy(Y, Y[:, :1]), r"Y: .*\(4, 1\)"),
        (lambda: network.cross_entropy(Y[:, :1], Y), r"probabilities: .*\(4, 1\)"),
    ]:
        with pytest.raises(InputError, match=told):
            call()


def test_numbers_of_numpy_mean_what_those_of_python_mean(tmp_path):
    generator = np.random.default_rng(0)
    X, Y = generator.normal(size=(40, 6)), np.eye(3)[generator.integers(0, 3, 40)]

    def trained(number, count):
        network = NeuralNetwork([6, 5, 3], "tanh", number(0.125), count(1), arithmetic="native")
        hyperparameters = Hyperparameters(
            "adamw", number(0.5), (number(0.75), number(0.5)), number(0.125), number(0.25), number(0.5)
        )
        schedule = Schedule("step", count(2), number(0.5), number(1.0), number(0.25))
        regularisation = Regularisation(number(0.25), number(0.125))
        choices = {"hyperparameters": hyperparameters, "schedule": schedule, "regularisation": regularisation}
        network.train(X, Y, count(2), count(16), shards=count(4), **choices)
        plain = NeuralNetwork([6, 5, 3], "tanh", number(0.125))
        plain.train(X, Y, 2, 16, hyperparameters=Hyperparameters("momentum", momentum=number(0.5)))
        plain.update_params(plain.weights, plain.biases, count(8))
        network.save(tmp_path / "network.pkl")
        loaded = NeuralNetwork.load(tmp_path / "network.pkl")
        return network.parameters.tobytes(), plain.parameters.tobytes(), loaded.learning_rate, loaded.seed

    expected = trained(float, int)
    for number, count in [(np.float64, np.int64), (np.float32, np.int32), (np.float16, np.uint8)]:
        assert trained(number, count) == expected


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rates_of_a_search_give_the_bits_that_the_same_rates_typed_give():
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(40, 6)).astype(np.float32), generator.integers(0, 3, 40)

    def coefficients(number):
        rates = {name: number(0.1) for name in ("learning_rate_init", "alpha", "momentum", "dropout")}
        fitted = [
            Classifier((5,), solver="sgd", max_iter=2, random_state=0, **kind).fit(X, y)
            for kind in (rates, {name: float(rate) for name, rate in rates.items()})
        ]
        return [each.network_.parameters.tobytes() for each in fitted]

    for number in (np.float64, np.float32):
        numpys, pythons = coefficients(number)
        assert numpys == pythons
