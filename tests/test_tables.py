"""A person's own tables: the same bits on any ranks, what the model remembers, and bad files in one line."""

import csv
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_bad_input import check_refused
from test_command import check_same_bits

from distnet import NeuralNetwork, tables
from distnet.datasets import load
from distnet.errors import InputError
from distnet.tables import read_table
from distnet.world import World

SMALL = ("--hidden", 8, "--epochs", 3, "--batch-size", 16)
SPECIES = ("setosa", "virginica", "versicolor")


def drawn(rows=150, columns=4):
    """Numbers around three middles, one column of which never varies, and which middle each row has."""
    draw = np.random.default_rng(3)
    kinds = np.arange(rows) % 3
    X = draw.normal(size=(rows, columns), scale=0.3) + kinds[:, None]
    X[:, 1] = 0.1
    X[:, 2] *= 1e6
    return X, kinds


@pytest.fixture
def iris(tmp_path):
    X, kinds = drawn()
    path = tmp_path / "iris.csv"
    rows = [[*x, SPECIES[kind]] for x, kind in zip(X.tolist(), kinds, strict=True)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["length", "same", "width", "height", "species"], *rows])
    return path


@pytest.fixture
def arrays(tmp_path):
    X, kinds = drawn()
    path = tmp_path / "arrays.npz"
    np.savez(path, X=X[:120].astype(np.float32), y=kinds[:120], X_test=X[120:], y_test=kinds[120:])
    return path


def loaded(path, dtype="float64", **options):
    return load(World(), f"{path.suffix[1:]}:{path}", Path(), dtype, **options)


def table(text, folder, label=None):
    path = folder / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table("csv", path, label, 0.2, 0)


def refusal(path, label=None):
    with pytest.raises(InputError) as refused:
        read_table(path.suffix[1:], path, label, 0.2, 0)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_csv_file_gives_the_same_bits_on_1_2_and_3_ranks_and_without_mpirun(train, iris):
    check_same_bits(train, [None, 1, 2, 3], "--dataset", f"csv:{iris}", *SMALL)


def test_an_npz_file_gives_the_same_bits_on_1_2_and_3_ranks_and_without_mpirun(train, arrays):
    check_same_bits(train, [None, 1, 2, 3], "--dataset", f"npz:{arrays}", *SMALL)


def test_a_table_gives_the_same_bits_on_pretended_nodes(train, iris):
    ended = [
        train("--dataset", f"csv:{iris}", *SMALL, "--quiet", *nodes, ranks=3) for nodes in ((), ("--ranks-per-node", 2))
    ]
    assert ended[0].sha256 == ended[1].sha256


def test_the_model_remembers_classes_and_how_columns_were_standardised_and_its_file_trains_it_again(
    train, iris, tmp_path
):
    model = tmp_path / "model.npz"
    ended = train("--dataset", f"csv:{iris}", *SMALL, "--epochs", 20, "--model", model, ranks=2)
    assert ended.out.splitlines()[1] == f"data: csv ({iris}), 120 training and 30 test samples"
    network = NeuralNetwork.load(model)
    X, kinds = drawn()
    about = network.about
    assert (network.sizes, about["classes"]) == ((4, 8, 3), sorted(SPECIES))
    guesses = network.forward((X - about["mean"]) / about["deviation"]).argmax(axis=1)
    right = np.array([about["classes"][guess] for guess in guesses]) == np.array(SPECIES)[kinds]
    assert right.mean() > 0.95
    assert train("--config", tmp_path / "model.toml", ranks=3).sha256 == ended.sha256


def test_columns_are_standardised_over_the_training_rows_and_those_that_never_vary_are_zero(iris):
    data = loaded(iris)
    inputs = data.train.inputs[:, :4]
    assert data.deviation[1] == 1
    assert not inputs[:, 1].any()
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(inputs[:, [0, 2, 3]].std(axis=0), 1)
    assert (data.train.inputs[:, 4] == 1).all()
    assert (data.test.inputs[:, 4] == 1).all()


def test_raw_inputs_are_as_they_stand_in_the_file(iris):
    data = loaded(iris, raw_inputs=True)
    X, _ = drawn()
    together = np.concatenate([data.train.inputs, data.test.inputs])[:, :4]
    assert sorted(together.tolist()) == sorted(X.tolist())
    assert (data.mean, data.deviation) == ([0] * 4, [1] * 4)


def test_raw_images_are_their_pixels(digits):
    data = load(World(), "mnist", digits, "float32", raw_inputs=True)
    assert (data.mean, data.deviation) == (0, 1)
    pixels = data.train.inputs[:, :784]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels == pixels.astype(np.uint8)).all()


def test_the_seed_draws_the_rows_held_out_each_of_them_once(iris):
    first, again, other = (loaded(iris, seed=seed, test_share=0.3) for seed in (1, 1, 2))
    assert (len(first.train.inputs), len(first.test.inputs)) == (105, 45)
    assert first.test.inputs.tobytes() == again.test.inputs.tobytes()
    assert first.test.inputs.tobytes() != other.test.inputs.tobytes()
    read = read_table("csv", iris, None, 0.3, 1)
    assert sorted([*read.train, *read.test]) == list(range(150))
    assert {len(part) for part in (np.unique(read.codes[read.train[:30]]), read.classes)} == {3}  # not as in the file


def test_a_share_of_few_rows_leaves_one_on_either_side(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,a\n2,b\n")
    for share in (0.01, 0.99):
        read = read_table("csv", path, None, share, 0)
        assert (len(read.train), len(read.test)) == (1, 1)


def test_the_training_limit_takes_the_first_of_the_training_rows(iris):
    whole, part = loaded(iris, raw_inputs=True), loaded(iris, raw_inputs=True, train_limit=7)
    assert part.train.inputs.tobytes() == whole.train.inputs[:7].tobytes()
    assert len(part.test.inputs) == 30


def test_a_test_part_in_an_npz_file_is_the_test_set(arrays):
    data = loaded(arrays, raw_inputs=True)
    X, kinds = drawn()
    assert data.test.inputs[:, :4].tobytes() == X[120:].tobytes()
    assert data.test.targets.argmax(axis=1).tolist() == kinds[120:].tolist()
    assert len(data.train.inputs) == 120
    assert data.classes == (0, 1, 2)


def test_an_npz_file_without_a_test_part_is_split_and_pictures_in_it_are_rows(tmp_path):
    path = tmp_path / "pictures.npz"
    X = np.random.default_rng(0).integers(0, 256, (40, 4, 3), np.uint8)
    np.savez_compressed(path, X=X, y=np.array(["cat", "dog"] * 20))
    data = loaded(path)
    assert (data.train.features, len(data.train.inputs), len(data.test.inputs)) == (12, 32, 8)
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ("b a b", ["a", "b"]),
        ("10 9 10", [9, 10]),
        ("1.5 -2 1.5", [-2.0, 1.5]),
        ("1 x 1", ["1", "x"]),
        ("nan 1 1", ["1", "nan"]),
        (f"{10**400} 1 1", [1, 10**400]),
    ],
)
def test_classes_are_sorted_as_numbers_where_all_are_numbers(tmp_path, labels, classes):
    read = table("".join(f"0,{label}\n" for label in labels.split()), tmp_path)
    assert read.classes == classes
    assert [str(read.classes[code]).removesuffix(".0") for code in read.codes] == labels.split()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1,2,a\n3,4,b\n5,6,b\n", None),
        ("x,y,kind\n1,2,a\n3,4,b\n5,6,b\n", None),
        ("x,y,kind\n1,2,a\n3,4,b\n5,6,b\n", "kind"),
        ("kind,x,y\na,1,2\nb,3,4\nb,5,6\n", "kind"),
        ("x,kind,y\n1,a,2\n3,b,4\n5,b,6\n", "2"),
        ("a,1,2\nb,3,4\nb,5,6\n", "1"),
        ("1;2;a\n3;4;b\n5;6;b\n", None),
        ("x\ty\tkind\n1\t2\ta\n3\t4\tb\n5\t6\tb\n", None),
        ("\ufeff1,2,a\r\n\r\n 3 , 4 , b \r\n5,6,b", None),
        ('"x","y, too","kind"\n"1","2","a"\n3,4,b\n5,6,b\n', None),
    ],
)
def test_a_header_is_optional_and_the_label_is_the_last_column_or_the_one_named(tmp_path, text, label):
    read = table(text, tmp_path, label)
    assert read.values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (read.classes, read.codes.tolist()) == (["a", "b"], [0, 1, 1])


BAD_CSV = {
    "an empty file": ("", "it is empty"),
    "a header alone": ("x,kind\n", "there is no row below its header"),
    "one column": ("a\nb\n", "its first line has one value"),
    "a short line": ("1,2,a\n\n3,b\n", "line 3 has 2 values, and the first one 3"),
    "a long line": ("1,a\n3,4,b\n", "line 2 has 3 values, and the first one 2"),
    "text for a number": ("x,kind\n1,a\nfast,b\n", "line 3, column 1 (x): 'fast' is no finite number"),
    "text in the first line": ("1,fast,a\n1,2,b\n", "line 1, column 2: 'fast' is no finite number"),
    "a missing number": ("1,2,a\n1,,b\n", "line 2, column 2: '' is no finite number"),
    "not a number": ("1,2,a\n\n1,nan,b\n", "line 3, column 2: 'nan' is no finite number"),
    "infinity": ("1,2,a\n1,-1e999,b\n", "line 2, column 2: '-inf' is no finite number"),
    "a missing label": ("1,2,a\n1,2,\n", "line 2 has no label"),
    "one class": ("1,a\n2,a\n", "all rows are of class 'a'"),
    "measurements for labels": ("1,2.5\n2,2.6\n3,2.7\n", "every row is of a class of its own"),
    "an open quote": ('1,a\n"2,b\n', "it is no CSV (unexpected end of data)"),
    "bytes of another code": (b"1,\xe9\n", "it isn't UTF-8 text"),
    "a binary file": (b"\0\1\2\xff" * 9, "it is"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_a_bad_csv_file_is_refused_in_one_line(tmp_path, name):
    text, told = BAD_CSV[name]
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert refusal(path).startswith(f"{path}: {told}")


@pytest.mark.parametrize(
    ("text", "label", "told"),
    [
        ("x,kind\n1,a\n", "sort", "no such column; name one of x, kind, or 1 to 2"),
        ("x,kind\n1,a\n", "3", "no such column"),
        ("x,kind\n1,a\n", "0", "no such column"),
        ("1,a\n2,b\n", "a", "no such column; name 1 to 2, for it has no header"),
    ],
)
def test_a_label_that_is_no_column_is_refused_with_the_columns_that_are(tmp_path, text, label, told):
    path = tmp_path / "a.csv"
    path.write_text(text)
    message = refusal(path, label)
    assert message.startswith(f"--label {label}: {path} has ")
    assert told in message


X, Y = np.eye(4), np.array([0, 1, 0, 1])
BAD_NPZ = {
    "no labels": ({"X": X}, "y is missing; it has X"),
    "neither": ({"a": X}, "X is missing; it has none of its arrays"),
    "half a test part": ({"X": X, "y": Y, "X_test": X}, "y_test is missing"),
    "the other half": ({"X": X, "y": Y, "y_test": Y}, "X_test is missing"),
    "a flat X": ({"X": X[0], "y": Y}, "X is of shape (4,) and y of (4,)"),
    "no columns": ({"X": X[:, :0], "y": Y}, "X is of shape (4, 0)"),
    "no rows": ({"X": X[:0], "y": Y[:0]}, "X is of shape (0, 4)"),
    "too few labels": ({"X": X, "y": Y[:3]}, "X is of shape (4, 4) and y of (3,)"),
    "labels as rows": ({"X": X, "y": Y[:, None]}, "X is of shape (4, 4) and y of (4, 1)"),
    "other columns": ({"X": X, "y": Y, "X_test": X[:, :3], "y_test": Y}, "rows of X are (4,), and of X_test (3,)"),
    "other classes": ({"X": X, "y": Y, "X_test": X, "y_test": Y.astype(str)}, "one of y and y_test is text"),
    "text for numbers": ({"X": X.astype(str), "y": Y}, "X is of <U32; it has to be of numbers"),
    "complex numbers": ({"X": X + 1j, "y": Y}, "X is of complex128"),
    "objects": ({"X": X, "y": Y.astype(object)}, "is damaged or no file of numpy.savez (Object arrays"),
    "not a number": ({"X": np.where(X, np.nan, 0), "y": Y}, "X[0, 0] is nan"),
    "a label that is none": ({"X": X, "y": np.array([0, 1, np.nan, 1])}, "y[2] is nan"),
    "one class": ({"X": X, "y": Y * 0}, "all rows are of class 0"),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_bad_npz_file_is_refused_in_one_line(tmp_path, name):
    content, told = BAD_NPZ[name]
    path = tmp_path / "a.npz"
    np.savez(path, **content)
    assert refusal(path).startswith(f"{path}: {told}")


def test_other_bytes_than_npz_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=X, y=Y)
    good = path.read_bytes()
    for content in (b"", b"x,y\n", good[:-30], good[:100], b"PK" + good[:9]):
        path.write_bytes(content)
        assert refusal(path).startswith(f"{path}: is damaged or no file of numpy.savez (")
    with path.open("wb") as file:
        np.save(file, X)
    assert "it is no zip file" in refusal(path)


@pytest.mark.parametrize("scale", [1e308, 1e-200])
def test_a_column_that_cannot_be_standardised_is_named_with_its_range(tmp_path, scale):
    path = tmp_path / "a.npz"
    numbers = np.array([[0, -1], [0, 1], [0, -1], [0, 1.0]]) * scale
    np.savez(path, X=numbers, y=Y, X_test=numbers, y_test=Y)
    with pytest.raises(InputError, match=re.escape(f"feature 2 runs from {-scale:g} to {scale:g}")):
        loaded(path)


def test_raw_numbers_that_a_float32_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=X * 1e39, y=Y)
    with pytest.raises(InputError, match="too large for float32; use --dtype float64"):
        loaded(path, "float32", raw_inputs=True)
    assert loaded(path, "float64", raw_inputs=True).train.features == 4


def test_large_offsets_do_not_hide_what_varies(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "VALUES_AT_ONCE", 7)  # many blocks
    path = tmp_path / "a.npz"
    X = 1e9 + np.random.default_rng(0).normal(size=(200, 2))
    np.savez(path, X=X, y=np.arange(200) % 2, X_test=X, y_test=np.arange(200) % 2)
    data = loaded(path)
    np.testing.assert_allclose(data.mean, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.deviation, X.std(axis=0), rtol=1e-6)


def test_the_fingerprint_tells_tables_apart(iris, tmp_path):
    text = iris.read_text()
    first = loaded(iris).fingerprint
    iris.write_text(text.replace("setosa", "Setosa"))
    assert loaded(iris).fingerprint != first
    iris.write_text(text + "1,2,3,4,setosa\n")
    assert loaded(iris).fingerprint != first
    iris.write_text(text)
    assert loaded(iris, seed=9).fingerprint != first
    assert loaded(iris).fingerprint == first


def test_reading_csv_takes_little_more_memory_than_its_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{'0.5,' * 200}{row % 2}\n" for row in range(2000)))
    tracemalloc.start()
    read = read_table("csv", path, None, 0.2, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * read.values.nbytes


def test_a_bad_table_ends_all_ranks_with_one_line(train, tmp_path):
    (tmp_path / "a.csv").write_text("1,a\nx,b\n")
    check_refused(train, tmp_path, "--dataset", "csv:a.csv", ranks=3, named=["a.csv: line 2, column 1: 'x'"])
    np.savez(tmp_path / "b.npz", X=np.eye(4) * 1e39, y=[0, 1, 0, 1])
    told = ["b.npz: some numbers are too large for float32"]
    check_refused(train, tmp_path, "--dataset", "npz:b.npz", "--raw-inputs", ranks=3, named=told)


def test_a_table_is_resumed_to_the_same_bits_wherever_it_is_now_and_no_other_one(train, iris, tmp_path):
    job = ("--dataset", f"csv:{iris}", *SMALL, "--checkpoint-dir", tmp_path / "run", "--quiet")
    whole = train(*job, ranks=2)
    (tmp_path / "run" / "completed.json").unlink()
    for path in sorted((tmp_path / "run").glob("checkpoint-*"))[1:]:
        path.unlink()
    moved = ("--dataset", f"csv:{iris.rename(iris.with_name('moved.csv'))}", *job[2:])
    assert train(*moved, "--resume", ranks=3).out == whole.out
    iris.with_name("moved.csv").rename(iris)
    iris.write_text(iris.read_text() + "1,2,3,4,setosa\n")
    refused = train(*job, "--epochs", 4, "--resume")
    assert refused.status == 2
    assert "was made with other data" in refused.err
