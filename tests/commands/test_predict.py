"""Predicting: pictures as the data set would have them, rows as they are, what is printed, bad input in one line."""

import csv
import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, command, fault, write_idx
from PIL import Image
from threadpoolctl import threadpool_limits

from distnet import NeuralNetwork
from distnet.datasets.dataset import shared_split
from distnet.datasets.pictures import centre_digit, extract_digit, prepare_garment, read_picture
from distnet.datasets.synthetic import synthetic_digits
from distnet.models.trained import Trained
from distnet.nn.arithmetic import prepare
from distnet.nn.model import Model
from distnet.nn.schedules import Schedule
from distnet.parallel.world import World
from distnet.predict import Bad, Source, predict_rows, read
from distnet.predict import predict as predict_here
from distnet.runtime.errors import InputError
from distnet.training.evaluation import BLOCK_ROWS, Evaluation

SEEN = 300  # digits that the network is asked about


def predict(*arguments, **how):
    return command(*arguments, module="distnet.predict", **how)


def found(*arguments, **how):
    """The objects that --json prints, a line each."""
    ended = predict(*arguments, "--json", **how)
    assert (ended.status, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


def check_refused(*arguments, named, **how):
    ended = predict(*arguments, **how)
    ours = [line for line in ended.err.splitlines() if line.startswith("distnet: ")]
    assert (ended.status, ended.out, len(ours)) == (2, "", 1), ended.err
    assert all(part in ours[0] for part in named), (named, ours)
    assert "Traceback" not in ended.err
    assert "abort" not in ended.err.lower()


def digits_as_mnists(count, seed):
    """Drawn digits, each centred as MNIST's are, and their labels."""
    images, labels = synthetic_digits(count, seed)
    return np.array([centre_digit(extract_digit(image.astype(np.float64)), 28) for image in images]), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of drawn digits, model.pkl, and one of a table with four columns, table.npz."""
    folder = tmp_path_factory.mktemp("models")
    for prefix, count, seed in (("train", 6000, 5), ("t10k", 100, 6)):
        images, labels = digits_as_mnists(count, seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    options = ("--data-dir", folder, "--epochs", 12, "--hidden", 128, "--model", folder / "model.pkl")
    assert command(*options).status == 0
    draw = np.random.default_rng(5)
    rows = [[*(draw.normal(size=4) + 3 * (row % 3)).tolist(), "abc"[row % 3]] for row in range(90)]
    (folder / "table.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    options = ("--dataset", f"csv:{folder / 'table.csv'}", "--epochs", 20, "--hidden", 8)
    assert command(*options, "--model", folder / "table.npz").status == 0
    return folder


@pytest.fixture(scope="module")
def drawn():
    """Digits that the network hasn't seen, and their labels."""
    return digits_as_mnists(SEEN, 7)


def enlarged(image, times):
    big = Image.fromarray(image).resize((image.shape[1] * times, image.shape[0] * times), Image.Resampling.BICUBIC)
    return np.asarray(big)


def shifted(image, row, column, side=150):
    paper = np.zeros((side, side), np.uint8)
    paper[row : row + image.shape[0], column : column + image.shape[1]] = image
    return paper


CHANGES = {
    "none": lambda image: image,
    "inverted": lambda image: 255 - image,
    "five times as large": lambda image: enlarged(image, 5),
    "in the corner of a large sheet": lambda image: shifted(enlarged(image, 3), 3, 60),
    "dark ink at the foot of white paper": lambda image: 255 - shifted(enlarged(image, 3), 63, 5),
    "cut out without a margin": lambda image: 255 - image[image.any(axis=1)][:, image.any(axis=0)],
    "grey ink on grey paper with grain": lambda image: (
        180 - shifted(enlarged(image, 3), 20, 20) * 0.4 + np.random.default_rng(0).normal(scale=2, size=(150, 150))
    ).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_digit_is_recognised_however_it_was_drawn(folder, drawn, tmp_path, change):
    network = NeuralNetwork.load(folder / "model.pkl")
    images, labels = drawn
    pictures = []
    for image in images:
        Image.fromarray(CHANGES[change](image)).save(tmp_path / "digit.png")
        pictures.append(read_picture(tmp_path / "digit.png", 784, "mnist"))
    X = (np.reshape(pictures, (SEEN, -1)).astype(np.float64) - network.about["mean"]) / network.about["deviation"]
    right = network.forward(X.astype(np.float32)).argmax(axis=1) == labels
    assert right.mean() > 0.9


def test_images_of_real_mnist_come_back_as_they_were(mnist):
    from distnet.datasets.idx import FILES, read_idx

    path = next(mnist.glob(f"{FILES[2]}*"))
    images = read_idx(path, dimensions=3)[:500].astype(np.float64)
    differ = [np.abs(centre_digit(extract_digit(image), 28) - image).max() for image in images]
    assert np.quantile(differ, 0.85) == 0
    # The others' brightest pixel isn't 255, or their centre of mass lies half-way between two pixels.
    inverted = [np.abs(centre_digit(extract_digit(255 - image), 28) - image).max() for image in images]
    assert inverted == differ


def test_a_digit_is_scaled_to_20_pixels_and_its_centre_of_mass_is_pixel_14():
    draw = np.random.default_rng(0)
    for height, width in ((400, 100), (30, 200), (20, 20), (7, 5), (1, 1)):
        placed = centre_digit(draw.random((height, width)) + 0.1, 28)
        rows, columns = np.flatnonzero(placed.any(axis=1)), np.flatnonzero(placed.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) == 19
        assert (np.ptp(rows) + 1) / (np.ptp(columns) + 1) == pytest.approx(height / width, rel=0.2)
        for axis in (0, 1):
            centre = (placed.sum(axis=1 - axis) * np.arange(28)).sum() / placed.sum()
            assert abs(centre - 14) <= 0.5
        assert placed.max() == 255


def test_the_whole_digit_stays_in_the_picture_wherever_its_mass_is():
    heavy = np.zeros((200, 200))
    heavy[:, :10] = 1
    heavy[:20] = 0.1
    placed = centre_digit(heavy, 28)
    assert np.flatnonzero(placed.any(axis=0))[-1] - np.flatnonzero(placed.any(axis=0))[0] == 19


def clothes(count):
    """Pictures as Fashion-MNIST's: light on black, with shades, the longer side all of 28 pixels, in the middle."""
    draw = np.random.default_rng(9)
    images = np.zeros((count, 28, 28), np.uint8)
    for image in images:
        height, width = [(28, draw.integers(6, 29)), (draw.integers(6, 29), 28)][draw.integers(2)]
        top, left = (28 - height) // 2, (28 - width) // 2
        shades = np.linspace(draw.integers(40, 255), draw.integers(40, 255), width)
        image[top : top + height, left : left + width] = shades
        image[[0, 0, -1, -1], [0, -1, 0, -1]] = 0
    return images


def test_a_network_of_garments_sees_a_picture_of_28_pixels_as_it_is_and_light_on_dark(tmp_path):
    for image in clothes(50):
        for pixels in (image, 255 - image):
            Image.fromarray(pixels).save(tmp_path / "garment.png")
            np.testing.assert_array_equal(read_picture(tmp_path / "garment.png", 784, "fashion-mnist"), image.ravel())


@pytest.mark.parametrize("paper", [0, 20, 255, 230])
def test_a_garment_is_trimmed_scaled_to_all_of_28_pixels_and_put_in_the_middle(paper):
    for image in clothes(20):
        sheet = np.full((400, 350), float(paper))
        strength = np.kron(image, np.ones((10, 10))) / 255
        sheet[30:310, 60:340] += strength * ((255 if paper < 128 else 0) - paper)
        placed = prepare_garment(sheet, 28)
        assert np.abs(placed - image.astype(np.float64)).mean() < 5  # which antialiasing takes at the edges
        for axis in (0, 1):
            assert (placed.any(axis=axis) == image.any(axis=axis)).all()


def test_the_model_remembers_what_it_learned_and_pictures_are_made_like_that(tmp_path):
    seen = {"fashion-mnist": clothes(1)[0], "npz:own.npz": 255 - clothes(1)[0], "synthetic": None}
    Image.fromarray(255 - clothes(1)[0]).save(tmp_path / "0.png")
    seen["synthetic"] = centre_digit(extract_digit(clothes(1)[0].astype(np.float64)), 28)
    network = NeuralNetwork([784, 10])
    for dataset, pixels in seen.items():
        network.about = {"mean": 100.0, "deviation": 50.0, "config": {"dataset": dataset}}
        network.save(tmp_path / "model.npz")
        [told] = found(tmp_path / "model.npz", tmp_path / "0.png")
        plain = network.forward((pixels.reshape(1, -1).astype(np.float32) - 100) / 50)[0]
        np.testing.assert_allclose(list(told["probabilities"].values()), plain, atol=1e-5)


def test_a_picture_for_a_network_that_learned_a_table_needs_a_pixel_an_input(folder, tmp_path):
    Image.fromarray(np.array([[1, 2, 3, 4]], np.uint8)).save(tmp_path / "row.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "row.png", 4, "csv"), [1, 2, 3, 4])
    Image.new("L", (5, 3)).save(tmp_path / "large.png")
    named = ("large.png: it has 5 x 3 pixels", "4 inputs", ".csv")
    check_refused(folder / "table.npz", tmp_path / "large.png", named=named)


def test_a_picture_gets_the_same_answer_whatever_is_asked_beside_it(folder, drawn, tmp_path):
    for number in range(3):
        Image.fromarray(drawn[0][number]).save(tmp_path / f"{number}.png")
    write_idx(tmp_path / "some-images", drawn[0][:260])
    names = ["1.png", "some-images", "0.png", "some-images", "2.png"]
    together = found(folder / "model.pkl", *names, cwd=tmp_path)
    assert together == [told for name in names for told in found(folder / "model.pkl", name, cwd=tmp_path)]


@pytest.mark.parametrize(
    "form", ["transparent, dark", "transparent, light", "16 bits", "two colours", "palette", "JPEG", "turned"]
)
def test_every_kind_of_image_is_read(drawn, tmp_path, form):
    image = drawn[0][0]
    clear = np.zeros((28, 28, 4), np.uint8)
    clear[..., 3] = image
    path = tmp_path / "digit.png"
    if form == "transparent, light":
        clear[..., :3] = 255
    if form.startswith("transparent"):
        Image.fromarray(clear).save(path)
    elif form == "16 bits":
        Image.fromarray(image.astype(np.uint16) * 257).save(path)
    elif form == "two colours":
        image = (image > 127) * np.uint8(255)
        Image.fromarray(255 - image).convert("1").save(path)
        image = centre_digit(extract_digit(image.astype(np.float64)), 28)
    elif form == "palette":
        Image.fromarray(255 - image).convert("P").save(path)
    elif form == "JPEG":
        path = tmp_path / "digit.jpg"
        Image.fromarray(enlarged(image, 10)).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, clockwise
        path = tmp_path / "digit.jpg"
        Image.fromarray(np.rot90(enlarged(image, 10))).save(path, exif=exif)
    far = np.abs(read_picture(path, 784, "mnist").reshape(28, 28) - image.astype(np.float64))
    assert far.mean() < (10 if path.suffix == ".jpg" else 0.01)


def test_the_table_names_file_class_probability_and_runner_up(folder, drawn, tmp_path):
    images, labels = drawn
    for number in range(3):
        Image.fromarray(255 - enlarged(images[number], 4)).save(tmp_path / f"{number}.png")
    names = [str(tmp_path / f"{number}.png") for number in range(3)]
    lines = predict(folder / "model.pkl", *names).out.splitlines()
    assert lines[0].split() == ["file", "class", "probability", "runner-up", "probability"]
    for line, name, told in zip(lines[1:], names, found(folder / "model.pkl", *names), strict=True):
        first, second = sorted(told["probabilities"].items(), key=lambda each: -each[1])[:2]
        assert line.split() == [name, first[0], f"{first[1]:.4f}", second[0], f"{second[1]:.4f}"]
        assert (told["file"], str(told["class"]), told["probability"]) == (name, *first)
        assert str(told["runner_up"]) == second[0]
        assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert [line.split()[1] for line in lines[1:]] == [str(label) for label in labels[:3]]


@pytest.mark.parametrize("zipped", [False, True])
def test_images_in_an_idx_file_are_taken_as_they_are(folder, tmp_path, zipped):
    images, _ = synthetic_digits(260, seed=8)  # more than a block
    path = tmp_path / "some-images"
    write_idx(path, images)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    network = NeuralNetwork.load(folder / "model.pkl")
    X = (images.reshape(260, -1).astype(np.float64) - network.about["mean"]) / network.about["deviation"]
    plain = network.forward(X.astype(np.float32))
    told = found(folder / "model.pkl", path)
    assert [each["file"] for each in told] == [f"{path}:{row}" for row in range(260)]
    np.testing.assert_allclose([list(each["probabilities"].values()) for each in told], plain, atol=1e-5)


def test_rows_of_a_table_are_standardised_by_column_and_named_by_the_models_classes(folder, tmp_path):
    rows = [[0.1, -0.2, 0.3, 0.1], [3.1, 2.9, 3.0, 3.2], [6.0, 6.5, 5.8, 6.1]]
    path = tmp_path / "new.csv"
    path.write_text("w,x,y,z\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    told = found(folder / "table.npz", path)
    assert [each["class"] for each in told] == ["a", "b", "c"]
    assert [each["file"] for each in told] == [f"{path}:{row}" for row in (1, 2, 3)]
    network = NeuralNetwork.load(folder / "table.npz")
    plain = network.forward((np.array(rows) - network.about["mean"]) / network.about["deviation"])
    np.testing.assert_allclose([list(each["probabilities"].values()) for each in told], plain, rtol=1e-4)


@pytest.mark.parametrize("between", [",", ";", "\t", " ", "  "])
def test_standard_input_has_a_row_of_numbers_a_line(folder, between):
    text = f"{between.join(['0.1'] * 4)}\n\n{between.join(['6', '6e0', '6.5', '5.5'])}\n"
    options = [sys.executable, "-m", "distnet.predict", str(folder / "table.npz"), "-"]
    done = subprocess.run(options, input=text, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[:3] for line in lines] == [["standard", "input:1", "a"], ["standard", "input:2", "c"]]


def test_emnists_images_are_set_upright_as_training_did(tmp_path):
    images, _ = synthetic_digits(3, seed=1)
    write_idx(tmp_path / "emnist-digits-test-images-idx3-ubyte", images.transpose(0, 2, 1))
    trained = Trained(tmp_path, Model((784, 10), "relu", np.zeros(0), {}), None, None, None)
    rows = read(str(tmp_path / "emnist-digits-test-images-idx3-ubyte"), trained, None, Bad()).values
    np.testing.assert_array_equal(rows, images.reshape(3, -1))


def test_under_mpirun_one_rank_predicts_and_prints(folder, drawn, tmp_path):
    Image.fromarray(drawn[0][0]).save(tmp_path / "0.png")
    alone = predict(folder / "model.pkl", tmp_path / "0.png")
    assert alone.status == 0
    assert predict(folder / "model.pkl", tmp_path / "0.png", ranks=2) == alone


def image(path, pixels):
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


BAD_FILES = {  # how it is made, for which model, and what is told
    "none.png": (None, "model.pkl", ("none.png", "No such file")),
    "foreign.png": (b"seven", "model.pkl", ("foreign.png", "not an image")),
    "empty.png": (b"", "model.pkl", ("empty.png", "not an image")),
    "blank.png": (lambda path: image(path, np.full((50, 50), 255)), "model.pkl", ("blank.png", "one shade")),
    "white.png": (lambda path: image(path, np.full((28, 28), 250)), "garments.npz", ("white.png", "one shade")),
    "square.png": (
        lambda path: image(path, np.eye(9) * 255),
        "wide.npz",
        ("square.png", "5 inputs", "not those of a square"),
    ),
    "labels-idx1": (lambda path: write_idx(path, np.arange(5)), "model.pkl", ("labels-idx1", "00000801")),
    "small-idx3": (lambda path: write_idx(path, np.ones((2, 8, 8))), "model.pkl", ("small-idx3", "64 pixels", "784")),
    "few.csv": (b"1,2,3\n1,2,3,x\n", "table.npz", ("few.csv", "row 1: has 3 numbers", "4 inputs")),
    "underscore.csv": (b"1,2,1_000,4\n", "table.npz", ("underscore.csv", "row 1, column 3", "'1_000'")),
    "cut.csv.gz": (gzip.compress(b"1,2,3,4\n")[:-9], "table.npz", ("cut.csv.gz", "gzip wrapper is damaged")),
    "labelled.csv": (b"1,2,3,4,a\n", "table.npz", ("labelled.csv", "row 1: has 5 numbers", "without their targets")),
    "words.csv": (b"1,2,three,4\n", "table.npz", ("words.csv", "row 1, column 3", "'three'")),
    "endless.csv": (b"1,2,3,1e999\n", "table.npz", ("endless.csv", "row 1, column 4", "'1e999'")),
    "large.csv": (b"1,2,3,1e300\n", "table.npz", ("too large", "float64")),
    "header.csv": (b"a,b,c,d\n", "table.npz", ("header.csv", "no row")),
    "binary.csv": (b"\xff\xfe1,2", "table.npz", ("binary.csv", "UTF-8")),
    "quoted.csv": (b'1,"2', "table.npz", ("quoted.csv", "not CSV")),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line(folder, tmp_path, name):
    make, model, named = BAD_FILES[name]
    if callable(make):
        path = tmp_path / "made"
        make(path if name.endswith(("idx1", "idx3")) else path.with_suffix(".png"))
        next(tmp_path.iterdir()).rename(tmp_path / name)
    elif make is not None:
        (tmp_path / name).write_bytes(make)
    if model in ("wide.npz", "garments.npz"):
        network = NeuralNetwork([5 if model == "wide.npz" else 784, 2])
        network.about = {"mean": 0.0, "deviation": 1.0, "config": {"dataset": "fashion-mnist"}}
        network.save(folder / model)
    check_refused(folder / model, name, named=named, cwd=tmp_path)


def test_bad_files_and_rows_among_good_ones_are_a_line_each_and_the_good_ones_are_predicted(
    folder, drawn, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        Image.fromarray(drawn[0][number]).save(f"{number}.png")
    image(tmp_path / "blank.png", np.full((50, 50), 255))
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:100])
    good = [f"{number}.png" for number in range(5)]
    assert predict_here(folder / "model.pkl", good, True, None) == 0
    alone = capsys.readouterr().out
    assert alone.count("\n") == 5
    assert predict_here(folder / "model.pkl", [*good[:2], "blank.png", *good[2:], "cut.png", "none"], True, None) == 3
    told = capsys.readouterr()
    assert told.out == alone
    lines = told.err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["distnet", f" {name}"] for name in ("blank.png", "cut.png", "none")
    ]
    (tmp_path / "rows.csv").write_text("w,x,y,z\n1,2,3,4\n1,NA,3,4\n1,2,3\n1,2,3,1e300\n5,6,7,8\n")
    assert predict_here(folder / "table.npz", ["rows.csv"], True, None) == 3
    told = capsys.readouterr()
    assert [json.loads(line)["file"] for line in told.out.splitlines()] == ["rows.csv:1", "rows.csv:5"]
    assert [line.split(",")[0].split(" has")[0] for line in told.err.splitlines()] == [
        "distnet: rows.csv: row 2",
        "distnet: rows.csv: row 3:",
        "distnet: rows.csv:4: some numbers are too large for this network of float64; give smaller ones",
    ]
    ended = predict(folder / "model.pkl", "0.png", "blank.png", cwd=tmp_path)
    assert (ended.status, len(ended.out.splitlines()), len(ended.err.splitlines())) == (2, 2, 1)


def test_a_row_too_large_for_portable_arithmetic_is_refused_and_the_others_are_not(tmp_path, monkeypatch, capsys):
    network = NeuralNetwork([2, 3, 2], arithmetic="portable")
    network.about = {"mean": 0.0, "deviation": 1.0}
    network.save(tmp_path / "portable.npz")
    (tmp_path / "rows.csv").write_text("1,2\n1e80,2\n-1e75,2\n")  # 2^250 is 1.8e75
    monkeypatch.chdir(tmp_path)
    assert predict_here(tmp_path / "portable.npz", ["rows.csv"], True, None) == 1
    told = capsys.readouterr()
    assert [json.loads(line)["file"] for line in told.out.splitlines()] == ["rows.csv:1", "rows.csv:3"]
    assert told.err.splitlines() == [
        "distnet: rows.csv:2: some numbers are too large for this network of float64; give smaller ones"
    ]


def test_rows_are_matched_with_the_models_columns_by_name(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    network = NeuralNetwork.load(folder / "table.npz")
    network.about |= {"columns": ["w", "x", "0", "w"], "label": "kind"}
    network.save(tmp_path / "named.npz")

    def found(text, header=None, name="~/new.csv"):
        content = text.encode()
        (tmp_path / name[2:]).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        bad = predict_here(tmp_path / "named.npz", [name], True, header)
        told = capsys.readouterr()
        rows = [json.loads(line) for line in told.out.splitlines()]
        return bad, [each["probabilities"] for each in rows], told.err

    _, plain, told = found("0.1,0.2,0.3,0.4\n6,5,6.5,7\n")
    assert told == ""
    other = "kind,w,0,,w,x\na,0.1,0.3,,0.4,0.2\nb,6,6.5,7,7,5\n"
    ignored = "distnet: ~/new.csv: ignored 2 columns that the model does not use: kind, (unnamed)\n"
    assert found(other) == (0, plain, ignored)
    assert found(other, name="~/new.csv.gz") == (0, plain, ignored.replace(".csv", ".csv.gz"))
    bad, rows, told = found("w,x,y,w\n1,2,3,4\n")
    assert (bad, rows) == (1, [])
    assert told.startswith("distnet: ~/new.csv: 1 column of the model is missing (0), and its header has w, x, y, w")
    bad, rows, told = found("0,1,2,3\n0.1,0.2,0.3,0.4\n", "no")
    assert (bad, len(rows), told) == (0, 2, "")
    assert found("0.1,0.2,0.3,0.4\n6,5,6.5,7\n", "yes")[0] == 1


def test_a_first_row_that_may_be_a_header_is_told_of(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text, why in (("0,1,2,3\n5,2,6,1\n", "its cells count from 0"), ("1,x,3,4\n5,2,6,1\n", "text stands over")):
        (tmp_path / "new.csv").write_text(text)
        assert predict_here(folder / "table.npz", ["new.csv"], True, None) == 0
        told = capsys.readouterr()
        assert told.out.count("\n") == 1
        assert why in told.err
        assert predict_here(folder / "table.npz", ["new.csv"], True, "no") == ("x" in text)
        capsys.readouterr()


ROWS = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -2.0], [-1.0, 1.0, 0.0]])


def saved(path, task, outputs, **about):
    """A network of three raw inputs; the notes `about` what it predicts are saved with it."""
    network = NeuralNetwork([3, 4, outputs], "tanh", seed=5, task=task, arithmetic="native", dtype="float64")
    network.biases[-1][:] = np.linspace(-0.3, 0.3, outputs)
    network.about = {"mean": [1.0, 0.0, -1.0], "deviation": [2.0, 1.0, 0.5], **about}
    network.save(path)
    (path.parent / "rows.csv").write_text("\n".join(",".join(map(str, row)) for row in ROWS))
    return network.forward((ROWS - network.about["mean"]) / network.about["deviation"])


def test_a_regression_predicts_numbers_in_the_targets_own_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = saved(
        tmp_path / "m.npz", "regression", 2, targets=["price", "b"], target_mean=[-500.0, 3], target_deviation=[20.0, 1]
    )
    expected = outputs * [20, 1] + [-500, 3]
    for told, row in zip(found("m.npz", "rows.csv", cwd=tmp_path), expected, strict=True):
        assert list(told) == ["file", "predicted"]
        assert told["predicted"] == {"price": pytest.approx(row[0]), "b": pytest.approx(row[1])}
    lines = predict("m.npz", "rows.csv", cwd=tmp_path).out.splitlines()
    assert lines[0].split() == ["file", "price", "b"]
    assert [line.split() for line in lines[1:]] == [
        [f"rows.csv:{place}", *(f"{value:.6g}" for value in row)] for place, row in enumerate(expected, 1)
    ]


def test_a_regression_without_notes_on_its_targets_predicts_its_outputs_by_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [[value], *_] = saved(tmp_path / "m.npz", "regression", 1)
    assert found("m.npz", "rows.csv", cwd=tmp_path)[0] == {"file": "rows.csv:1", "predicted": {"0": value}}


def test_several_labels_are_predicted_each_with_its_probability(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = saved(tmp_path / "m.npz", "multilabel", 3, targets=["cat", "dog", "eel"])
    assert len({tuple(row) for row in outputs >= 0.5}) > 1  # or nothing is tested
    lines = predict("m.npz", "rows.csv", cwd=tmp_path).out.splitlines()
    assert lines[0].split() == ["file", "labels"]
    told = found("m.npz", "rows.csv", cwd=tmp_path)
    for line, each, row in zip(lines[1:], told, outputs, strict=True):
        present = {name: p for name, p in zip(("cat", "dog", "eel"), row, strict=True) if p >= 0.5}
        assert each["labels"] == list(present)
        assert each["probabilities"] == dict(zip(("cat", "dog", "eel"), row, strict=True))
        assert line.partition("  ")[2].strip() == (", ".join(f"{k} {v:.4f}" for k, v in present.items()) or "-")


def test_one_output_is_the_probability_of_the_second_of_two_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = saved(tmp_path / "m.npz", "classification", 1, classes=["no", "yes"])[:, 0]
    told = found("m.npz", "rows.csv", cwd=tmp_path)
    assert [each["probabilities"]["yes"] for each in told] == outputs.tolist()
    assert [each["class"] for each in told] == ["yes" if p >= 0.5 else "no" for p in outputs]
    assert {each["class"] for each in told} == {"no", "yes"}
    assert [each["probability"] for each in told] == np.maximum(outputs, 1 - outputs).tolist()
    assert all({each["class"], each["runner_up"]} == {"no", "yes"} for each in told)


def test_a_network_of_an_estimator_predicts_what_the_estimator_does(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="needs the extra test")
    from distnet import Classifier, Regressor

    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).normal(size=(60, 3)).round(2)
    np.savetxt(tmp_path / "new.csv", X, "%g", ",")
    for estimator, y in (
        (Classifier(hidden_layer_sizes=8, max_iter=300, tol=0.01, random_state=0), np.where(X[:, 0] > 0, "yes", "no")),
        (Regressor(hidden_layer_sizes=8, max_iter=300, tol=0.01, random_state=0), X @ [1, 2, 3]),
        (Classifier(hidden_layer_sizes=8, max_iter=300, tol=0.01, random_state=0), (X > 0).astype(int)),
    ):
        estimator.fit(X, y)
        estimator.network_.about |= {"mean": 0.0, "deviation": 1.0}
        estimator.network_.save("m.npz")
        told = found("m.npz", "new.csv", cwd=tmp_path)
        predicted = estimator.predict(X)
        if y.dtype.kind == "U":
            assert [each["class"] for each in told] == predicted.tolist()
        elif y.ndim == 1:
            assert [each["predicted"]["0"] for each in told] == pytest.approx(predicted)
        else:
            assert [each["labels"] for each in told] == [np.flatnonzero(row).tolist() for row in predicted]


OUTPUTS = {
    "regression": (2, {"targets": ["price", "size, in m"]}, ["price", "size, in m"]),
    "multilabel": (2, {"targets": ["a", "b"]}, ["a", "b"]),
    "classification": (3, {"classes": ["a", "b", "c"]}, ["class", "a", "b", "c"]),
}


@pytest.mark.parametrize("task", OUTPUTS)
def test_output_is_a_csv_file_with_a_row_per_input_and_all_digits(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    count, about, columns = OUTPUTS[task]
    outputs = saved(tmp_path / "m.npz", task, count, **about)
    (tmp_path / "more.csv").write_text("0.5,-1,2\n1,2,x\n")
    bad = predict_here(tmp_path / "m.npz", ["rows.csv", "more.csv"], output=tmp_path / "p.csv")
    told = capsys.readouterr()
    assert (bad, told.out) == (1, f"wrote {tmp_path / 'p.csv'}\n")
    assert told.err.startswith("distnet: more.csv: row 2, column 3")
    with (tmp_path / "p.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", *columns]
    assert [row[0] for row in rows] == ["rows.csv:1", "rows.csv:2", "rows.csv:3", "more.csv:1"]
    numbers = [list(map(float, row[-count:])) for row in rows]
    assert numbers == [pytest.approx(row, rel=1e-13) for row in (*outputs, outputs[0])]
    if task == "classification":
        assert [row[1] for row in rows[:3]] == ["abc"[place] for place in outputs.argmax(axis=1)]


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("m.npz", "is a file to read"),
        ("link.csv", "is a file to read"),
        ("none/p.csv", "there is no folder none"),
        (".", "is a folder"),
    ],
)
def test_an_output_that_is_an_input_or_cannot_be_written_is_one_line_and_changes_nothing(tmp_path, output, why, ranks):
    saved(tmp_path / "m.npz", "regression", 1)
    (tmp_path / "link.csv").symlink_to("rows.csv")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    check_refused("m.npz", "rows.csv", "--output", output, named=(f"--output {output}", why), cwd=tmp_path, ranks=ranks)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_output_that_cannot_be_completed_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    saved(tmp_path / "m.npz", "regression", 1)
    (tmp_path / "p.csv").write_text("of an older run")
    monkeypatch.chdir(tmp_path)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distnet.predict.Form.cells", fail)
    with pytest.raises(InputError, match=r"--output p\.csv: can't be written"):
        predict_here(tmp_path / "m.npz", ["rows.csv"], output=Path("p.csv"))
    assert (tmp_path / "p.csv").read_text() == "of an older run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.npz", "p.csv", "rows.csv"]


def test_an_output_may_be_a_stream_and_then_nothing_else_is_printed(tmp_path):
    saved(tmp_path / "m.npz", "multilabel", 2, targets=["a", "b"])
    ended = predict("m.npz", "rows.csv", "--output", "/dev/stdout", cwd=tmp_path)
    lines = ended.out.splitlines()
    assert (ended.status, lines[0], len(lines)) == (0, "file,a,b", 4)


def test_a_damaged_image_is_one_line(folder, drawn, tmp_path):
    Image.fromarray(enlarged(drawn[0][0], 5)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    check_refused(folder / "model.pkl", tmp_path / "cut.png", named=("cut.png", "can't be read"))


def test_an_image_of_more_pixels_than_memory_should_have_is_one_line(folder, tmp_path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    check_refused(folder / "model.pkl", tmp_path / "huge.png", named=("huge.png", "144000000 pixels"))


def test_without_pillow_one_line_says_what_to_install(folder, drawn, tmp_path):
    Image.fromarray(drawn[0][0]).save(tmp_path / "0.png")
    named = ("0.png", "pip install Pillow")
    check_refused(folder / "model.pkl", tmp_path / "0.png", named=named, env=fault("no Pillow"))
    ended = predict(folder / "table.npz", tmp_path / "rows.csv", env=fault("no Pillow"))
    assert "PIL was imported" not in ended.err  # rows don't need it


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_model_that_does_not_know_how_its_inputs_were_standardised_is_one_line(drawn, tmp_path, ranks):
    NeuralNetwork([784, 10]).save(tmp_path / "plain.pkl")
    Image.fromarray(drawn[0][0]).save(tmp_path / "0.png")
    named = ("plain.pkl", "has no mean and deviation of its inputs", 'network.about["mean"]')
    check_refused(tmp_path / "plain.pkl", tmp_path / "0.png", named=named, ranks=ranks)


def test_a_model_that_would_run_something_runs_nothing(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    check_refused("evil.pkl", "0.png", named=("evil.pkl", "not a model of distnet's"), cwd=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ranks", [None, 2])
def test_help_is_printed_once(ranks):
    ended = predict("--help", ranks=ranks)
    assert (ended.status, ended.err, ended.out.count("usage: ")) == (0, "", 1)
    assert "--json" in ended.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), ("MODEL", "FILE")),
        (("model.pkl",), ("FILE",)),
        (("model.pkl", "0.png", "--jsn"), ("--jsn", "--json")),
        (("model.pkl", "0.png", "--json", "--output", "p.csv"), ("--output", "--json")),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, named):
    check_refused(*arguments, named=named, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arithmetic", "dtype"), [("portable", "float64"), ("native", "float32"), ("native", "float64")]
)
def test_forward_prediction_and_evaluation_of_the_same_rows_have_the_same_bits(arithmetic, dtype):
    X = np.random.default_rng(0).normal(size=(BLOCK_ROWS + 63, 19)).astype(dtype)
    network = NeuralNetwork([19, 23, 7], "tanh", dtype=dtype, arithmetic=arithmetic)
    expected = [network.forward(rows).tobytes() for rows in (X[:BLOCK_ROWS], X[BLOCK_ROWS:])]
    trained = Trained(Path("model.pkl"), network.model, None, None, None)
    rows = predict_rows(trained, [Source(list(map(str, range(len(X)))), X)], Bad())
    assert b"".join(row.tobytes() for _, row in rows) == b"".join(expected)
    evaluation = Evaluation(World(), prepare(network.model), shared_split(World(), X, np.eye(7)[[0] * len(X)], dtype))
    assert [np.ascontiguousarray(block).tobytes() for _, block, _ in evaluation._passes()] == expected


def bits_of_rows(network, X):
    """The bits of each row's probabilities, from every way to get them."""
    trained = Trained(Path("model.pkl"), network.model, None, None, None)
    rows = predict_rows(trained, [Source(list(map(str, range(len(X)))), X)], Bad())
    split = shared_split(World(), X, np.eye(network.sizes[-1])[[0] * len(X)], np.float64)
    blocks = Evaluation(World(), prepare(network.model), split)._passes()
    return {
        "alone": [network.forward(row[None]).tobytes() for row in X],
        "in a batch": [row.tobytes() for row in network.forward(X)],
        "in another order": [row.tobytes() for row in network.forward(X[::-1])[::-1]],
        "predicted": [row.tobytes() for _, row in rows],
        "evaluated": [row.tobytes() for _, block, _ in blocks for row in np.array(block)],
    }


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_in_portable_arithmetic_a_row_has_the_same_bits_in_any_company_and_with_any_number_of_blas_threads(activation):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(BLOCK_ROWS + 63, 300)) * np.exp(draw.normal(size=(BLOCK_ROWS + 63, 1)) * 3)
    network = NeuralNetwork([300, 400, 60, 7], activation)
    untrained = network.forward(X).tobytes()
    network.train(X[:200] / 64, np.eye(7)[np.arange(200) % 7], 1, 50, schedule=Schedule(warmup_epochs=9))
    assert network.forward(X).tobytes() != untrained
    assert network.input_exponent < np.frexp(np.abs(X).max())[1]  # so that some rows have a grid of their own
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            found += bits_of_rows(network, X).items()
    assert [(name, rows == found[0][1]) for name, rows in found] == [(name, True) for name, _ in found]
