"""A person's own tables: the same bits on any ranks, what the model remembers, and bad files in one line."""

import csv
import gzip
import re
import tracemalloc

import numpy as np
import pytest
from helpers import check_refused, check_same_bits, command

from distnet import NeuralNetwork
from distnet.datasets import csv_tables
from distnet.datasets.loading import load
from distnet.datasets.options import DataOptions, Learned, TableOptions
from distnet.datasets.tables import read_table
from distnet.nn.model import TASKS
from distnet.parallel import shards
from distnet.parallel.world import World
from distnet.runtime.errors import InputError

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


@pytest.fixture
def remarks(monkeypatch):
    """What reading prints."""
    printed = []
    monkeypatch.setattr(csv_tables, "warn", printed.append)
    return printed


def loaded(path, dtype="float64", raw_inputs=False, train_limit=None, **options):
    source = DataOptions(
        f"{path.suffix[1:]}:{path}", train_limit=train_limit, table=TableOptions(**options), raw_inputs=raw_inputs
    )
    return load(World(), source, dtype)


def table(text, folder, **options):
    """What is read of a CSV file; all of its rows, so that few are enough."""
    path = folder / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table("csv", path, TableOptions(**{"test_share": None} | options))


def refusal(path, **options):
    with pytest.raises(InputError) as refused:
        read_table(path.suffix[1:], path, TableOptions(**options))
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
    data = load(World(), DataOptions("mnist", digits, raw_inputs=True), "float32")
    assert (data.mean, data.deviation) == (0, 1)
    pixels = data.train.inputs[:, :784]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels == pixels.astype(np.uint8)).all()


def test_the_split_seed_draws_the_rows_held_out_each_of_them_once(iris):
    first, again, other = (loaded(iris, split_seed=seed, test_share=0.3) for seed in (1, 1, 2))
    assert (len(first.train.inputs), len(first.test.inputs)) == (105, 45)
    assert first.test.inputs.tobytes() == again.test.inputs.tobytes()
    assert first.test.inputs.tobytes() != other.test.inputs.tobytes()
    read = read_table("csv", iris, TableOptions(test_share=0.3, split_seed=1))
    assert sorted([*read.train, *read.test]) == list(range(150))
    assert {len(part) for part in (np.unique(read.codes[read.train[:30]]), read.classes)} == {3}  # not as in the file


def test_a_share_of_few_rows_leaves_one_on_either_side(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,a\n2,b\n3,a\n4,b\n")
    for share, tests in ((0.01, 1), (0.99, 3)):
        read = read_table("csv", path, TableOptions(test_share=share))
        assert (len(read.train), len(read.test)) == (4 - tests, tests)


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
        ("1.5 -2 1.5", ["-2", "1.5"]),
        ("01 1 01 1", ["01", "1"]),
        ("1_0 10 1_0", ["10", "1_0"]),
        ("+1 1 +1", ["+1", "1"]),
        ("1.0 0 1.0", ["0", "1.0"]),
        ("1 x 1", ["1", "x"]),
        ("nan 1 1", ["1", "nan"]),
        (f"{10**400} 1 1", [1, 10**400]),
    ],
)
def test_classes_are_numbers_where_all_labels_are_whole_numbers_in_plain_form_else_text(tmp_path, labels, classes):
    read = table("".join(f"0,{label}\n" for label in labels.split()), tmp_path, header="no", task="classification")
    assert read.classes == classes
    assert [str(read.classes[code]) for code in read.codes] == labels.split()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1,2,b\n3,4,a\n5,6,b\n", None),
        ("x,y,kind\n1,2,b\n3,4,a\n5,6,b\n", None),
        ("x,y,kind\n1,2,b\n3,4,a\n5,6,b\n", "kind"),
        ("kind,x,y\nb,1,2\na,3,4\nb,5,6\n", "kind"),
        ("x,kind,y\n1,b,2\n3,a,4\n5,b,6\n", "2"),
        ("b,1,2\na,3,4\nb,5,6\n", "1"),
        ("1;2;b\n3;4;a\n5;6;b\n", None),
        ("x\ty\tkind\n1\t2\tb\n3\t4\ta\n5\t6\tb\n", None),
        ("\ufeff1,2,b\r\n\r\n 3 , 4 , a \r\n5,6,b", None),
        ('"x","y, too","kind"\n"1","2","b"\n3,4,a\n5,6,b\n', None),
        ("\n \n1;2;b\n3;4;a\n5;6;b\n;;\n", None),
        ('"x, mm";"y, mm";kind\n1;2;b\n3;4;a\n5;6;b\n', None),
        ("x, mm;y, mm;kind\n1;2;b\n3;4;a\n5;6;b\n", None),
    ],
)
def test_a_header_is_optional_and_the_label_is_the_last_column_or_the_one_named(remarks, tmp_path, text, label):
    for written in (text.encode(), gzip.compress(text.encode())):
        read = table(written, tmp_path, target=(label,) * (label is not None))
        assert read.values.tolist() == [[1, 2], [3, 4], [5, 6]]
        assert (read.classes, read.codes.tolist(), remarks) == (["a", "b"], [1, 0, 1], [])


HEADERS = {  # a text, whether its first line is a header, and why, where one sign alone says so
    "text over numbers, pandas' default names": ("0,1,label\n.5,2,0\n2,1,1\n1,3,0\n2,2,1\n", True, None),
    "text over numbers alone": ("1,x,a\n1,2,b\n1,2,a\n1,3,b\n", True, "text stands over numbers"),
    "cells that count alone": ("0,1,a\n5,2,b\n3,2,a\n1,3,b\n", True, "its cells count from 0"),
    "cells that count with an index": (",0,1,b\n0,5,2,b\n1,3,2,a\n2,1,3,b\n", True, "its cells count from 0"),
    "a label that no row has": ("2019,2020,kind\n1,2,b\n3,1,a\n1,3,b\n", True, "no row has its label 'kind'"),
    "a label over many classes": (
        "5,9,x\n" + "".join(f"{row},2,c{row % 21}\n" for row in range(50)),
        False,
        None,
    ),
    "a label over labels that are all different": ("1,b\n2,a\n", False, None),
    "missing values and a label that others have": ("NA,1,a\n1.5,2,b\n0.5,1,a\n2.5,1,b\n", None, None),
    "numbers": ("5,2,b\n3,2,a\n1,3,b\n", False, None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_first_line_is_a_header_where_something_says_so_and_one_sign_alone_is_told(remarks, tmp_path, name):
    text, is_header, told = HEADERS[name]
    rows = len(text.splitlines())
    if is_header is None:
        with pytest.raises(InputError, match="line 1, column 1: 'NA' is not a finite number"):
            table(text, tmp_path)
        return
    read = table(text, tmp_path)
    assert len(read.values) == rows - is_header
    assert (read.columns is not None) == is_header
    assert [told in each for each in remarks if "header" in each] == [True] * (told is not None)
    if rows > 3:
        assert len(table(text, tmp_path, header="yes").values) == rows - 1
    if is_header and name.startswith(("cells that count a", "a label that")):
        assert len(table(text, tmp_path, header="no").values) == rows


@pytest.mark.parametrize("index", [range(12), range(1, 13), np.random.default_rng(0).permutation(12) * 3])
@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_an_unnamed_column_that_numbers_the_rows_is_left_out_and_that_is_told(remarks, tmp_path, index, name):
    rows = [f"{number},{row % 3},0.5,{'ab'[row % 2]}\n" for row, number in enumerate(index)]
    read = table(f"{name},x,y,kind\n{''.join(rows)}", tmp_path)
    assert (read.columns, read.values.tolist()) == (("x", "y"), [[row % 3, 0.5] for row in range(12)])
    [told] = remarks
    assert "column 1 has no name and numbers the rows, so it is left out" in told


def test_other_columns_that_count_the_rows_are_learned_from_and_that_is_told(remarks, tmp_path):
    rows = "".join(f"{row},{row % 3},{'ab'[row % 2]}\n" for row in range(12))
    for header, option in (("id,x,kind\n", "id"), ("", "1")):
        read = table(header + rows, tmp_path, header="yes" if header else "no")
        assert read.values.shape == (12, 2)
        assert f"counts the rows; --ignore {option} leaves it out" in remarks.pop()
    unnamed = table(",x,kind\n" + "".join(f"{row % 3},{row},{'ab'[row % 2]}\n" for row in range(6)), tmp_path)
    assert (unnamed.columns, remarks) == (("", "x"), [])


def test_columns_to_ignore_may_hold_anything(tmp_path):
    text = "name,x,kind,note\nann,1,a,\nbob,2,b,?\ncid,3,a,1\n"
    for ignore in (("name", "note"), ("1", "note"), ("4", "name")):
        read = table(text, tmp_path, ignore=ignore, target=("kind",))
        assert (read.columns, read.values.tolist(), read.targets) == (("x",), [[1], [2], [3]], ("kind",))
    path = tmp_path / "a.csv"
    for ignore, told in (
        (["age"], "--ignore age: "),
        (["kind"], "column 3 is the target"),
        (["1", "2", "4"], "no column is left"),
    ):
        assert told in refusal(path, ignore=ignore, target=("kind",))


def test_a_number_that_is_another_columns_name_is_taken_as_a_number_and_that_is_told(remarks, tmp_path):
    read = table("1,0,label\n5,2,7\n3,2,8\n1,3,7\n", tmp_path, ignore=("1",), target=("3",))
    assert read.columns == ("0",)
    assert remarks == []
    read = table("0,1,label\n5,2,7\n3,2,8\n1,3,7\n", tmp_path, ignore=("1",))
    assert read.columns == ("1",)
    assert "--ignore 1: taken as a number: column 1 (0)" in remarks[0]


def test_the_last_column_is_the_label_for_a_model_that_stores_names_of_inputs_alone(tmp_path):
    learned = Learned(("x", "y"), None, (), frozenset("ab"))
    read = table("y,x,kind\n1,2,a\n3,4,b\n", tmp_path, learned=learned)
    assert (read.columns, read.values.tolist(), read.targets) == (("x", "y"), [[2, 1], [4, 3]], ("kind",))


def test_all_text_columns_are_named_and_empty_cells_counted_in_one_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("age,job,town,label\n31,nurse,Rome,1\n,cook,Rome,0\n28,NA,Bonn,1\n2,cook,Bonn,0\n")
    told = refusal(path)
    assert "column 2 (job) in 3 of 4 rows, column 3 (town) in 4 of 4 rows, such as 'nurse' in line 2" in told
    assert "2 cells are empty, from line 3, column 1 (age) on" in told


def test_a_decimal_comma_is_named_in_features_and_targets(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,5;3;a\n2,5;4;b\n" * 5)
    assert "column 1 in 10 of 10 rows, such as '1,5' in line 1, with a decimal comma; turn" in refusal(path)
    path.write_text("1,5;a\n2,5;b\n" * 5)
    assert "column 1 in 10 of 10 rows, such as '1,5' in line 1, with a decimal comma; turn" in refusal(path)
    path.write_text("size;price\n" + "1;1,5\n2;2,5\n" * 5)
    assert "line 2, column 2 (price): '1,5' has a decimal comma; write 5.1, not 5,1" in refusal(path)


@pytest.mark.parametrize("number", ["1_000", "٣", "0x10", "1e", ".", "1,5", "--1", "in", "Infinity"])
def test_a_number_is_written_in_digits_of_ascii(tmp_path, number):
    path = tmp_path / "a.csv"
    path.write_text(f'x,kind\n"{number}",a\n+1.e-2,b\n.5,a\n-2.,b\n')
    assert f"line 2, column 1 (x): {number!r} is not a finite number" in refusal(path)


INFERRED = {  # targets, and what they are taken for
    "text": (["a", "b"] * 20, "classification"),
    "text and numbers": (["a", "1.5"] * 20, "classification"),
    "20 integers": ([*range(20)] * 2, "classification"),
    "integers with a decimal point": ([0.0, 1.0] * 20, "classification"),
    "21 integers": ([*range(21)] * 2, "y has 21 different integers; choose --task classification or --task regression"),
    "numbers": ([0.5, 1.0] * 20, "regression"),
    "columns of 0 and 1": ([[0, 1], [1, 1]] * 20, "multilabel"),
    "columns of 0.0 and 1.0": ([[0.0, 1.0], [1.0, 1.0]] * 20, "multilabel"),
    "columns of numbers": ([[0, 1.5], [1, 2.5]] * 20, "regression"),
    "columns of integers": ([[0, 1], [1, 2]] * 20, "are integers, not all 0 or 1; choose --task regression"),
    "columns of text": ([["a", "b"], ["b", "a"]] * 20, "holds text, and there are 2 target columns"),
}


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize("name", INFERRED)
def test_the_task_is_inferred_from_the_targets_or_has_to_be_typed(tmp_path, kind, name):
    targets, expected = INFERRED[name]
    path = tmp_path / f"a.{kind}"
    y = np.array(targets)
    columns = y.reshape(len(y), -1)
    if kind == "csv":
        path.write_text("".join(f"{row},{','.join(map(str, each))}\n" for row, each in enumerate(columns.tolist())))
    else:
        np.savez(path, X=np.arange(1.0 * len(y))[:, None], y=y)
    options = {"header": "no", "target": tuple(map(str, range(2, columns.shape[1] + 2)))}
    if expected in TASKS:
        read = read_table(kind, path, TableOptions(**options))
        assert read.task == expected
        if read.numbers is not None:
            assert (read.numbers == columns).all()
    else:
        assert expected.replace("y has", "column 2 has" if kind == "csv" else "y has") in refusal(path, **options)


def test_every_class_has_its_share_of_the_rows_held_out_and_one_on_either_side(tmp_path):
    path = tmp_path / "a.npz"
    y = np.repeat([0, 1, 2, 3], [200, 93, 5, 2])
    np.savez(path, X=np.arange(300.0)[:, None], y=y)
    for seed in range(20):
        read = read_table("npz", path, TableOptions(split_seed=seed))
        assert np.bincount(y[read.test]).tolist() == [40, 18, 1, 1]
        assert sorted([*read.train, *read.test]) == list(range(300))
    y[-1] = 0
    np.savez(path, X=np.arange(300.0)[:, None], y=y)
    assert "class 3 has one sample" in refusal(path)
    np.savez(path, X=np.arange(300.0)[:, None], y=y, X_test=np.ones((1, 1)), y_test=[0])
    read_table("npz", path, TableOptions())  # nothing is to be split


@pytest.mark.parametrize(
    "names", ["x_train y_train x_test y_test", "X_train y_train X_test y_test", "X Y X_TEST y_test"]
)
def test_arrays_of_an_npz_file_may_have_other_usual_names(tmp_path, names):
    path = tmp_path / "a.npz"
    np.savez(
        path, **dict(zip(names.split(), (np.eye(4), np.array([0, 1, 0, 1]), np.eye(4)[:3], [0, 1, 0]), strict=True))
    )
    read = read_table("npz", path, TableOptions())
    assert (len(read.train), len(read.test)) == (4, 3)


def test_arrays_of_objects_that_are_text_or_numbers_are_read_and_no_others(tmp_path):
    path = tmp_path / "a.npz"
    X, y = np.arange(8.0).reshape(4, 2), np.array(["no", "yes", "no", "yes"])
    np.savez(path, X=X.astype(object), y=y.astype(object))
    read = read_table("npz", path, TableOptions())
    assert (read.values.tolist(), read.classes, read.codes.tolist()) == (X.tolist(), ["no", "yes"], [0, 1, 0, 1])
    objects = np.array(["no", float("nan"), "no", "yes"], object)
    np.savez(path, X=X, y=objects)
    assert "y[1] is nan, which is not text" in refusal(path)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_objects_that_would_run_something_run_nothing(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.eye(2), y=np.array([Evil(), "a"], object))
    assert "is damaged or not a file of numpy.savez (it asks for builtins.exec)" in refusal(path)
    for objects in ([{}, 1], [[], 1], [np.float64(1), 2], [None, None]):
        y = np.empty(2, object)
        y[:] = objects
        np.savez(path, X=np.eye(2), y=y)
        refusal(path)


BAD_CSV = {
    "an empty file": ("", "is empty"),
    "a header alone": ("x,kind\n", "has no row below its header"),
    "one column": ("a\nb\n", "its first line has one value"),
    "a short line": ("1,2,a\n\n3,b\n", "line 3 has 2 values, the first line 3"),
    "a long line": ("1,a\n3,4,b\n", "line 2 has 3 values, the first line 2"),
    "text for a number": ("x,kind\n1,a\nfast,b\n", "line 3, column 1 (x): 'fast' is not a finite number"),
    "text in the first line": ("1,fast,a\n1,y,b\n1,2,a\n1,x,b\n", "there is text in column 2 in 3 of 4 rows"),
    "a missing number": ("1,2,a\n1,,b\n", "line 2, column 2: '' is not a finite number"),
    "not a number": ("1,2,a\n\n1,nan,b\n", "line 3, column 2: 'nan' is not a finite number"),
    "infinity": ("1,2,a\n1,-1e999,b\n", "line 2, column 2: '-inf' is not a finite number"),
    "a missing label": ("1,2,a\n1,2,\n", "line 2, column 3: the cell is empty"),
    "a gzip file that is cut": (gzip.compress(b"1,a\n2,b\n")[:-9], "its gzip wrapper is damaged"),
    "one class": ("1,a\n2,a\n", "all rows are of class 'a'"),
    "labels that are all different": ("1,a\n2,b\n3,c\n", "every row is of a class of its own"),
    "an open quote": ('1,a\n"2,b\n', "is not CSV (unexpected end of data)"),
    "bytes of another code": (b"1,\xe9\n", "isn't UTF-8 text"),
    "a binary file": (b"\0\1\2\xff" * 9, "is"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_a_bad_csv_file_is_refused_in_one_line(tmp_path, name):
    text, told = BAD_CSV[name]
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert refusal(path).startswith(f"{path}: {told}")


def test_one_row_alone_cannot_be_split_and_can_be_evaluated_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,2\n")
    told = "has one row, which can't be both learned and held out"
    assert refusal(path, task="regression") == f"{path}: {told}; add some"
    new = Learned(None, None, (), frozenset())
    assert refusal(path, task="regression", learned=new) == f"{path}: {told}; evaluate --part all"
    assert len(read_table("csv", path, TableOptions(task="regression", learned=new, test_share=None)).codes) == 1


def test_a_target_that_is_an_input_of_the_model_is_refused(iris):
    learned = Learned(("length", "width"), ("species",), (), frozenset(SPECIES))
    told = "--target width: is an input of the model; name the column of the targets"
    assert refusal(iris, target=("width",), learned=learned) == told


@pytest.mark.parametrize(
    ("text", "label", "told"),
    [
        ("x,kind\n1,a\n", "sort", "no such column; name one of x, kind, or 1 to 2"),
        ("x,kind\n1,a\n", "3", "no such column"),
        ("x,kind\n1,a\n", "0", "no such column"),
        ("1,a\n2,b\n", "a", "no header and no such column; name 1 to 2"),
    ],
)
def test_a_label_that_is_no_column_is_refused_with_the_columns_that_are(tmp_path, text, label, told):
    path = tmp_path / "a.csv"
    path.write_text(text)
    message = refusal(path, target=(label,))
    assert message.startswith(f"--target {label}: {path} has ")
    assert told in message


X, Y = np.eye(4), np.array([0, 1, 0, 1])
BAD_NPZ = {
    "no labels": ({"X": X}, "y is missing, it has X; save X and y"),
    "neither": ({"data": X, "labels": Y}, "X is missing, it has data, labels; save X and y"),
    "two of one kind": ({"X": X, "x_train": X, "y": Y}, "X, x_train are both there"),
    "half a test part": ({"X": X, "y": Y, "X_test": X}, "y_test is missing"),
    "the other half": ({"X": X, "y": Y, "y_test": Y}, "X_test is missing"),
    "a flat X": ({"X": X[0], "y": Y}, "X is of shape (4,) and y of (4,)"),
    "no columns": ({"X": X[:, :0], "y": Y}, "X is of shape (4, 0)"),
    "no rows": ({"X": X[:0], "y": Y[:0]}, "X is of shape (0, 4)"),
    "too few labels": ({"X": X, "y": Y[:3]}, "X is of shape (4, 4) and y of (3,)"),
    "targets as images": ({"X": X, "y": Y[:, None, None]}, "X is of shape (4, 4) and y of (4, 1, 1)"),
    "no targets": ({"X": X, "y": Y[:, None][:, :0]}, "X is of shape (4, 4) and y of (4, 0)"),
    "other targets": ({"X": X, "y": Y, "X_test": X, "y_test": X}, "rows of y are (), and of y_test (4,)"),
    "other columns": ({"X": X, "y": Y, "X_test": X[:, :3], "y_test": Y}, "rows of X are (4,), and of X_test (3,)"),
    "other classes": ({"X": X, "y": Y, "X_test": X, "y_test": Y.astype(str)}, "one of y and y_test is text"),
    "text for numbers": ({"X": X.astype(str), "y": Y}, "X is of <U32; save it as numbers"),
    "complex numbers": ({"X": X + 1j, "y": Y}, "X is of complex128"),
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
        assert refusal(path).startswith(f"{path}: is damaged or not a file of numpy.savez (")
    with path.open("wb") as file:
        np.save(file, X)
    assert "it is not a zip file" in refusal(path)


@pytest.mark.parametrize("scale", [1e308, 1e-200])
def test_a_column_that_cannot_be_standardised_is_named_with_its_range(tmp_path, scale):
    path = tmp_path / "a.npz"
    numbers = np.array([[0, -1], [0, 1], [0, -1], [0, 1.0]]) * scale
    np.savez(path, X=numbers, y=Y, X_test=numbers, y_test=Y)
    with pytest.raises(InputError, match=re.escape(f"feature 2 ranges from {-scale:g} to {scale:g}")):
        loaded(path)


def test_raw_numbers_that_a_float32_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=X * 1e39, y=Y)
    with pytest.raises(InputError, match="too large for float32; use --dtype float64"):
        loaded(path, "float32", raw_inputs=True)
    assert loaded(path, "float64", raw_inputs=True).train.features == 4


def test_large_offsets_do_not_hide_what_varies(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "VALUES_AT_ONCE", 7)  # many blocks
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
    assert loaded(iris, split_seed=9).fingerprint != first
    assert loaded(iris).fingerprint == first


def test_reading_csv_takes_little_more_memory_than_its_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{'0.5,' * 200}{row % 2}\n" for row in range(2000)))
    tracemalloc.start()
    read = read_table("csv", path, TableOptions())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * read.values.nbytes


def test_a_bad_table_ends_all_ranks_with_one_line(train, tmp_path):
    (tmp_path / "a.csv").write_text("1,a\nx,b\n")
    check_refused(train, tmp_path, "--dataset", "csv:a.csv", ranks=3, named=["a.csv: line 2, column 1: 'x'"])
    np.savez(tmp_path / "b.npz", X=np.eye(4) * 1e39, y=[0, 1, 0, 1])
    told = ["b.npz: some numbers are too large for float32"]
    native = ("--arithmetic", "native", "--dtype", "float32")
    check_refused(train, tmp_path, "--dataset", "npz:b.npz", "--raw-inputs", *native, ranks=3, named=told)


def test_a_table_is_resumed_to_the_same_bits_wherever_it_is_now_and_no_other_one(train, iris, tmp_path):
    job = (
        "--dataset",
        f"csv:{iris}",
        *SMALL,
        "--schedule",
        "constant",
        "--checkpoint-dir",
        tmp_path / "run",
        "--quiet",
    )
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


def test_what_a_file_holds_does_not_reach_the_terminal_as_control_characters(train, tmp_path):
    strange = "\x1b[31mred\x9b"
    path = tmp_path / f"{strange}.csv"
    rows = "".join(f"{row},{row % 3},{'ab'[row % 2]}\x1b\n" for row in range(12))
    path.write_text(f"{strange},y,kind\n{rows}")
    model = tmp_path / f"{strange}.npz"
    ended = [
        train("--dataset", f"csv:{path}", *SMALL, "--model", model),
        command(model, module="distnet.evaluate"),
        train("--dataset", f"csv:{path}", "--target", "y", *SMALL),
        train("--dataset", f"csv:{path}", "--target", strange, *SMALL),
    ]
    assert [each.status for each in ended] == [0, 0, 2, 2]
    for each in ended:
        assert "\\x1b[31mred\\x9b" in each.out + each.err
        assert not {c for c in each.out + each.err if not c.isprintable()} - {"\n"}
    assert "b\\x1b" in ended[1].out
