"""Targets of every task, weights, a split of one's own, and Parquet: what is read, and what is refused in one line."""

import json
import math
import re
import sys

import numpy as np
import pytest
from helpers import command

from distnet.datasets import csv_tables, parquet
from distnet.datasets.dataset import hold_out
from distnet.datasets.loading import load
from distnet.datasets.options import DataOptions, TableOptions
from distnet.datasets.tables import read_table
from distnet.datasets.weights import balance_classes
from distnet.parallel.world import World
from distnet.runtime.errors import InputError

NAMES = ("a", "b", "price", "size", "red", "blue", "weight", "part")
ROWS = 60
BESIDE = {  # the other columns of a table for each target
    "price": ("size", "red", "blue", "weight", "part"),
    "red": ("price", "size", "blue", "weight", "part"),
}


def columns():
    """The columns of the table, by their names; each row has its own weight."""
    draw = np.random.default_rng(7)
    a, b = draw.normal(size=(2, ROWS))
    parts = np.array(["train", "train", "test", "validation"] * (ROWS // 4))
    price, red, blue = 1e3 * a + b, (a > 0.5).astype(int), (b > 0).astype(int)
    return dict(zip(NAMES, (a, b, price, a * b, red, blue, np.arange(ROWS) / 8, parts), strict=True))


def write_csv(path, table):
    rows = zip(*(each.tolist() for each in table.values()), strict=True)
    path.write_text("\n".join([",".join(table), *(",".join(map(str, row)) for row in rows), ""]))
    return path


@pytest.fixture
def path(tmp_path):
    return write_csv(tmp_path / "a.csv", columns())


def loaded(path, dtype="float64", validation=None, raw_targets=False, **options):
    table = TableOptions(**options)
    name = f"{path.suffix[1:]}:{path}"
    return load(World(), DataOptions(name, table=table, validation=validation, raw_targets=raw_targets), dtype)


def refusal(path, validation=None, **options):
    with pytest.raises(InputError) as refused:
        loaded(path, validation=validation, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_regression_targets_are_standardised_by_exact_sums_over_the_training_rows(path):
    read = read_table("csv", path, TableOptions(target=("price", "size"), ignore=("red", "blue", "part", "weight")))
    data = loaded(path, target=("price", "size"), ignore=("red", "blue", "part", "weight"))
    assert (data.task, data.classes, data.targets) == ("regression", (), ("price", "size"))
    for place in range(2):
        own = read.numbers[read.train, place]
        mean = math.fsum(own) / len(own)
        assert data.target_mean[place] == pytest.approx(mean, rel=1e-15)
        assert data.target_deviation[place] == pytest.approx(np.std(own), rel=1e-13)
        assert (data.train.targets[:, place] == (own - data.target_mean[place]) / data.target_deviation[place]).all()
    shuffled = {name: each[::-1] for name, each in columns().items()}
    write_csv(path, shuffled)
    parts = {"split_column": "part", "ignore": BESIDE["price"][:-1], "target": ("price",)}
    backward = loaded(path, **parts)
    write_csv(path, columns())
    assert loaded(path, **parts).target_mean == backward.target_mean  # an exact sum, in any order


def test_raw_targets_are_as_they_stand_in_the_file(path):
    data = loaded(path, target=("price",), ignore=BESIDE["price"], raw_targets=True)
    assert (data.target_mean, data.target_deviation) == (None, None)
    together = np.concatenate([data.train.targets, data.test.targets])[:, 0]
    assert sorted(together) == sorted(columns()["price"])


def test_targets_of_one_number_and_too_large_ones(tmp_path):
    table = {"a": np.arange(8.0), "y": np.full(8, 0.1)}
    data = loaded(write_csv(tmp_path / "a.csv", table))
    assert (data.target_mean, data.target_deviation) == ([0.1], [1])
    assert not data.train.targets.any()
    table["y"] = np.array([-1.5e308, 1.5e308] * 4)
    assert "target 1 ranges from -1.5e+308" in refusal(write_csv(tmp_path / "a.csv", table), task="regression")


def test_labels_are_the_columns_of_0_and_1(path):
    data = loaded(path, target=("red", "blue"), ignore=("price", "size", "weight", "part"))
    assert (data.task, data.targets, data.target_mean) == ("multilabel", ("red", "blue"), None)
    assert (
        np.concatenate([data.train.targets, data.test.targets]).sum()
        == columns()["red"].sum() + columns()["blue"].sum()
    )
    typed = loaded(path, target=("red",), ignore=BESIDE["red"], task="multilabel")
    assert typed.train.targets.shape[1] == 1


def test_without_a_header_measurements_are_not_taken_for_one(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(csv_tables, "warn", printed.append)
    few = [1.5, 2.5, 2.5, 3.5] * 4
    text = "0.5,7.25\n" + "".join(f"{row / 3},{y}\n" for row, y in enumerate(few))
    (tmp_path / "a.csv").write_text(text)
    assert len(read_table("csv", tmp_path / "a.csv", TableOptions()).values) == 17
    whole = text.replace("7.25", "7").replace(".5", "")
    (tmp_path / "a.csv").write_text(whole)
    assert len(read_table("csv", tmp_path / "a.csv", TableOptions(task="regression")).values) == 17
    (tmp_path / "a.csv").write_text("x,y\n" + text)
    assert read_table("csv", tmp_path / "a.csv", TableOptions()).targets == ("y",)
    assert printed == []


def test_weights_go_with_their_rows_into_every_set(path):
    data = loaded(path, target=("price",), ignore=BESIDE["price"][:3], weight="weight", split_column="part")
    own = columns()
    for part, split in (("train", data.train), ("test", data.test), ("validation", data.validation)):
        assert split.weights.tolist() == own["weight"][own["part"] == part].tolist()
    held, _ = hold_out(World(), data.train, 9, 0, data.classes, "--validation")
    by_input = dict(zip(data.train.inputs[:, 0], data.train.weights, strict=True))
    assert held.weights.tolist() == [by_input[each] for each in held.inputs[:, 0]]


def test_arrays_of_weights_go_with_their_rows(tmp_path):
    path, own = tmp_path / "a.npz", columns()
    X, y, weights = np.stack([own["a"], own["b"]], axis=1), own["price"], own["weight"]
    arrays = {"X": X[:40], "y": y[:40], "X_test": X[40:], "y_test": y[40:], "sample_weight": weights[:40]}
    np.savez(path, **arrays)
    assert "sample_weight_test is missing" in refusal(path)
    np.savez(path, **arrays, sample_weight_test=weights[40:])
    data = loaded(path)
    assert data.train.weights.tolist() == weights[:40].tolist()
    assert data.test.weights.tolist() == weights[40:].tolist()
    for wrong, told in ((-1.0, "of 0 or more, got -1"), (np.nan, "got nan")):
        np.savez(path, X=X, y=y, sample_weight=np.where(weights == 1, wrong, weights))
        assert f"{path}: sample_weight: expected finite numbers" in refusal(path)
        assert told in refusal(path)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("weight", "-1", "line 6, column 7 (weight): '-1' is not a finite number of 0 or more"),
        ("weight", "much", "line 6, column 7 (weight): 'much' is not a finite number of 0 or more"),
        ("weight", "1e999", "line 6, column 7 (weight): '1e999' is not a finite number of 0 or more"),
        ("weight", "", "line 6, column 7 (weight): the cell is empty"),
        ("price", "high", "line 6, column 3 (price): 'high' is not a finite number"),
        ("price", "NA", "line 6, column 3 (price): 'NA' is not a finite number"),
        ("part", "later", "line 6, column 8 (part): 'later' is none of train, validation, test"),
        ("part", "0", "line 6, column 8 (part): '0' is none of train, validation, test"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line_and_column(path, column, value, told):
    table = columns()
    table[column] = np.array([*map(str, table[column][:4]), value, *map(str, table[column][5:])])
    write_csv(path, table)
    options = {"target": ("price",), "ignore": ("size", "red", "blue"), "weight": "weight", "split_column": "part"}
    assert refusal(path, task="regression", **options).startswith(f"{path}: {told}")


def test_other_numbers_than_0_and_1_are_no_labels(path):
    options = {"target": ("red", "size"), "ignore": ("price", "blue", "weight", "part"), "task": "multilabel"}
    assert "is neither 0 nor 1; correct it, or choose another --task" in refusal(path, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": ("price", "price")}, "--target price price: names a column twice"),
        ({"target": ("price", "3")}, "--target price 3: names a column twice"),
        ({"target": ("price",), "weight": "price"}, "--weight price: column 3 is the target"),
        ({"weight": "7", "split_column": "weight"}, "--split-column weight: column 7 holds the weights"),
        ({"weight": "mass"}, "--weight mass: "),
        ({"weight": "weight", "ignore": ("weight",)}, "--ignore weight: column 7 holds the weights"),
        ({"target": ("price", "size"), "task": "classification"}, "classes stand in one column, and the targets are"),
    ],
)
def test_columns_with_two_uses_are_refused(path, options, told):
    options = {"target": ("price",), "ignore": ("part",)} | options
    assert told in refusal(path, **options)


def test_every_set_that_a_column_divides_needs_rows(path):
    options = {"target": ("price",), "ignore": BESIDE["price"][:-1], "split_column": "part"}
    for missing in ("train", "test"):
        table = columns()
        table["part"] = np.where(table["part"] == missing, "validation", table["part"])
        write_csv(path, table)
        assert f"column 8 (part) has no {missing} row" in refusal(path, **options)
    table["part"] = np.array(["train", "test"] * (ROWS // 2))
    assert loaded(write_csv(path, table), **options).validation is None


def test_balanced_classes_weigh_the_same_in_the_training_rows_and_multiply_weights(path):
    options = {"target": ("red",), "ignore": ("price", "size", "blue"), "split_column": "part"}
    data = loaded(path, **options, weight="weight")
    plain = balance_classes(World(), loaded(path, **options | {"ignore": (*options["ignore"], "weight")}))
    both = balance_classes(World(), data)
    reds = data.train.targets[:, 1] == 1
    count, red = len(reds), np.count_nonzero(reds)
    assert 0 < red < count / 2
    for name in ("train", "test", "validation"):
        targets = getattr(plain, name).targets
        expected = np.where(targets[:, 1] == 1, count / (2 * red), count / (2 * (count - red)))
        assert (getattr(plain, name).weights == expected).all()
        assert (getattr(both, name).weights == expected * getattr(data, name).weights).all()
    only = data.train._replace(targets=np.tile([1.0, 0.0], (count, 1)))
    with pytest.raises(InputError, match="--class-weight balanced: class 1 has no training row"):
        balance_classes(World(), data._replace(train=only))


def test_a_validation_file_is_matched_by_name_and_standardised_as_the_training_rows(path, tmp_path):
    own = columns()
    chosen = {name: own[name][::3] for name in ("price", "part", "weight", "b", "a")}
    other = write_csv(tmp_path / "other.csv", chosen)
    options = {"target": ("3",), "ignore": ("size", "red", "blue", "part"), "weight": "weight"}
    data = loaded(path, validation=other, **options)
    inputs = data.validation.inputs[:, :2] * data.deviation + data.mean
    np.testing.assert_allclose(inputs, np.stack([own["a"], own["b"]], axis=1)[::3])
    targets = data.validation.targets * data.target_deviation + data.target_mean
    np.testing.assert_allclose(targets[:, 0], own["price"][::3])
    assert data.validation.weights.tolist() == own["weight"][::3].tolist()
    alone = loaded(path, **options)
    assert (alone.mean, alone.target_mean) == (data.mean, data.target_mean)
    assert alone.fingerprint != data.fingerprint


def test_a_validation_file_with_fewer_classes_keeps_the_training_classes_and_new_ones_are_refused(tmp_path):
    path, other = tmp_path / "a.csv", tmp_path / "other.csv"
    path.write_text("x,kind\n" + "".join(f"{row},{'cab'[row % 3]}\n" for row in range(12)))
    other.write_text("x,kind\n1,c\n2,a\n")
    data = loaded(path, validation=other)
    assert data.validation.targets.tolist() == [[0, 0, 1], [1, 0, 0]]
    other.write_text("x,kind\n1,c\n2,d\n")
    assert f"{other}: no training row is of its class 'd'" in refusal(path, validation=other)
    other.write_text("y,kind\n1,c\n2,a\n")
    assert "1 column of the model is missing (x)" in refusal(path, validation=other, header="yes")


def test_a_validation_file_needs_the_same_numbers_of_columns_and_weights_if_the_data_set_has_them(tmp_path):
    path, other = tmp_path / "a.npz", tmp_path / "other.npz"
    X, y = np.arange(24.0).reshape(12, 2), np.arange(12) / 7
    np.savez(path, X=X, y=y)
    for arrays, told in (
        ({"X": X[:, :1], "y": y}, "has 1 inputs, and the data set 2"),
        ({"X": X, "y": X}, "has 2 targets, and the data set 1"),
        ({"X": X, "y": y, "sample_weight": y}, "it has weights of its rows, and the data set has none"),
    ):
        np.savez(other, **arrays)
        assert f"{other}: {told}" in refusal(path, validation=other)
    np.savez(path, X=X, y=y, sample_weight=y)
    np.savez(other, X=X, y=y)
    assert "the data set has weights of its rows, and it has none" in refusal(path, validation=other)
    assert "--validation-data npz:nowhere.npz: can't be read" in refusal(
        path, validation=tmp_path.__class__("nowhere.npz")
    )


def test_the_fingerprint_tells_targets_weights_and_sets_apart(path):
    base = {"target": ("price",), "ignore": BESIDE["price"]}
    options = [
        base,
        base | {"target": ("price", "size"), "ignore": BESIDE["price"][1:]},
        base | {"target": ("size",), "ignore": ("price", *BESIDE["price"][1:])},
        base | {"weight": "weight", "ignore": ("size", "red", "blue", "part")},
        base | {"split_column": "part", "ignore": BESIDE["price"][:-1]},
    ]
    found = {loaded(path, **each).fingerprint for each in options}
    table = columns()
    table["part"] = np.where(table["part"] == "validation", "train", table["part"])
    write_csv(path, table)
    assert len(found | {loaded(path, **options[-1]).fingerprint}) == len(options) + 1


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow", reason="needs the extra parquet")


@pytest.fixture
def write_parquet(pyarrow, tmp_path):
    """Writes columns to a Parquet file, and gives its path."""
    from pyarrow.parquet import write_table

    def write(table, **metadata):
        write_table(table if isinstance(table, pyarrow.Table) else pyarrow.table(table), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    return write


def test_a_parquet_file_is_read_to_the_bits_of_the_same_table_in_csv(path, write_parquet):
    stored = write_parquet(columns())
    for options in (
        {"target": ("price",), "ignore": BESIDE["price"]},
        {"target": ("red", "5"), "ignore": ()}
        | {"target": ("red", "blue"), "ignore": ("price", "size", "weight", "part")},
        {"target": ("red",), "ignore": BESIDE["red"][:3], "weight": "weight", "split_column": "part"},
        {"target": ("part",), "ignore": ("price",)},
    ):
        one, other = loaded(path, **options), loaded(stored, **options)
        assert one.fingerprint == other.fingerprint
        assert (one.columns, one.targets, one.classes) == (other.columns, other.targets, other.classes)


def test_types_of_parquet_that_are_numbers_or_categories_are_read(pyarrow, write_parquet, monkeypatch):
    table = {
        "small": pyarrow.array([1, 2, 3, 4], pyarrow.int8()),
        "single": pyarrow.array([0.5, 1.5, 2.5, 3.5], pyarrow.float32()),
        "yes": pyarrow.array([True, False, True, False]),
        "money": pyarrow.array([1, 2, 3, 4]).cast(pyarrow.decimal128(21, 2)),
        "__index_level_0__": pyarrow.array([9, 8, 7, 6]),
        "kind": pyarrow.array(["b", "a", "b", "a"]).dictionary_encode(),
    }
    read = read_table("parquet", write_parquet(table), TableOptions(test_share=None))
    assert read.columns == ("small", "single", "yes", "money")
    assert read.values.tolist() == [[1, 0.5, 1, 1], [2, 1.5, 0, 2], [3, 2.5, 1, 3], [4, 3.5, 0, 4]]
    assert (read.classes, read.codes.tolist()) == (["a", "b"], [1, 0, 1, 0])
    read = read_table("parquet", write_parquet(table), TableOptions(target=("yes",), ignore=("kind",), test_share=None))
    assert read.classes == [0, 1]


def test_what_parquet_holds_that_is_no_number_is_named_with_its_column(pyarrow, write_parquet):
    table = {
        "text": ["a", "b", "c"],
        "gap": pyarrow.array([1, None, None], pyarrow.int64()),
        "list": [[1], [2], [3]],
        "nan": [1.0, 2.0, math.nan],
        "y": [1, 2, 1],
    }
    path = write_parquet(table)
    told = refusal(path, ignore=("nan",))
    assert told.startswith(
        f"{path}: column 1 (text) is of type string, column 2 (gap) has 2 missing values, column 3 ("
    )
    assert "row 2, column 4 (nan): nan is not a finite number" in refusal(path, ignore=("text", "gap", "list"))
    assert "column 2 (gap) has 2 missing values" in refusal(path, target=("gap",), ignore=("text", "list", "nan"))
    told = refusal(path, target=("nan",), ignore=("text", "gap", "list"))
    assert "row 2, column 4 (nan): nan is not a finite number" in told
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path}: is damaged or not a Parquet file (" in refusal(path)


def test_a_parquet_file_with_two_columns_of_one_name_or_no_rows_is_refused(pyarrow, write_parquet):
    path = write_parquet(pyarrow.Table.from_arrays([pyarrow.array([1.0, 2.0])] * 3, ["a", "y", "a"]))
    assert refusal(path) == f"{path}: has two columns a; rename one"
    path = write_parquet({"a": pyarrow.array([], pyarrow.float64()), "y": pyarrow.array([], pyarrow.int64())})
    assert refusal(path) == f"{path}: has no rows; add some"


def test_columns_that_a_model_lacks_are_told_for_parquet_too(write_parquet, monkeypatch, tmp_path):
    printed = []
    monkeypatch.setattr(parquet, "warn", printed.append)
    own = columns()
    path = write_parquet(own)
    other = tmp_path / "other.parquet"
    path.rename(other)
    path = write_parquet({name: own[name] for name in ("a", "b", "price")})
    assert len(loaded(path, validation=other).validation.inputs) == ROWS
    assert printed == [f"{other}: ignored 5 columns that the model does not use: size, red, blue, weight, part"]


def test_without_pyarrow_one_line_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = refusal(path.rename(path.with_suffix(".parquet")))
    assert "a.parquet: reading Parquet needs pyarrow; pip install pyarrow" in told


SMALL = ("--preset", "mnist", "--hidden", 8, "--epochs", 3, "--batch-size", 16, "--learning-rate", 0.1)
TASKS = {
    "regression": ("--target", "price", "size", "--ignore", "red", "blue", "part", "--weight", "weight"),
    "multilabel": ("--target", "red", "blue", "--ignore", "price", "size", "weight", "--split-column", "part"),
    "weighted": ("--target", "red", "--ignore", *BESIDE["red"], "--class-weight", "balanced", "--validation", 10),
}
LAST = {"regression": r"test R2 -?\d+\.\d{4}", "multilabel": r"test subset accuracy [01]\.\d{4}"}


@pytest.mark.parametrize("arithmetic", [("portable",), ("native", "--shards", 3)])
@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_same_bits_on_every_number_of_ranks(path, tmp_path, name, arithmetic):
    arguments = ("--dataset", f"csv:{path}", *TASKS[name], *SMALL, "--arithmetic", *arithmetic, "--quiet")
    ended = [command(*arguments, ranks=ranks) for ranks in (None, 2, 3)]
    assert {(each.status, each.err) for each in ended} == {(0, "")}
    assert len({each.out for each in ended}) == 1
    last = LAST.get(name, r"test accuracy [01]\.\d{4}")
    assert re.fullmatch(rf"{last}\nparameters sha256 [0-9a-f]{{64}}\n", ended[0].out)


def test_the_header_names_the_task_and_weights_and_the_written_configuration_trains_it_again(path, tmp_path):
    arguments = ("--dataset", f"csv:{path}", *TASKS["regression"], *SMALL, "--model", tmp_path / "m.npz")
    ended = command(*arguments)
    lines = ended.out.splitlines()
    assert lines[1].endswith("48 training and 12 test samples, weighted")
    assert lines[3].startswith("training: regression, 3 epochs, ")
    assert 'task = "regression"\n' in (tmp_path / "m.toml").read_text()
    assert "label_smoothing" not in (tmp_path / "m.toml").read_text()
    assert command("--config", tmp_path / "m.toml").sha256 == ended.sha256


def test_what_is_for_classes_alone_is_refused_if_it_was_typed_and_dropped_if_a_preset_has_it(path, tmp_path):
    regression = ("--dataset", f"csv:{path}", "--target", "price", "--ignore", *BESIDE["price"], *SMALL)
    for typed, told in (
        (("--label-smoothing", 0.1), "--label-smoothing"),
        (("--tutorial-loss",), "--tutorial-loss"),
        (("--class-weight", "balanced"), "--class-weight"),
    ):
        for task in ((), ("--task", "regression")):
            ended = command(*regression, *typed, *task)
            assert (ended.status, ended.out) == (2, "")
            assert ended.err == f"distnet: {told}: the task is regression; leave it out\n"
    (tmp_path / "options.toml").write_text(f"label_smoothing = 0.1\ndataset = 'csv:{path}'\n")
    ended = command(*regression[2:], "--config", tmp_path / "options.toml", ranks=2)
    assert f"{tmp_path / 'options.toml'}: label_smoothing: the task is regression; leave it out" in ended.err
    tutorial = command(*regression[:-10], "--preset", "tutorial", "--epochs", 1, "--metrics", tmp_path / "m.jsonl")
    assert tutorial.status == 0
    assert not [key for key in json.loads((tmp_path / "m.jsonl").read_text()) if "tutorial" in key]


def test_a_run_resumes_with_the_same_targets_weights_and_validation_file_alone(path, tmp_path):
    other = write_csv(tmp_path / "other.csv", {name: each[::2] for name, each in columns().items()})
    job = ["--dataset", f"csv:{path}", *TASKS["regression"], *SMALL, "--validation-data", other]
    checkpoints = ["--checkpoint-dir", tmp_path / "run", "--quiet"]
    whole = command(*job, *checkpoints, "--checkpoint-every", 3, "steps")
    (tmp_path / "run" / "completed.json").unlink()
    for each in sorted((tmp_path / "run").glob("checkpoint-*"))[1:]:
        each.unlink()
    moved = [*job[:-1], other.rename(tmp_path / "moved.csv")]
    assert command(*moved, *checkpoints, "--resume", ranks=3).out == whole.out
    for arguments, told in (
        (["--target", "size", "price"], "--target: got ['size', 'price'], but "),
        (["--weight", "b"], "--weight: got b, but "),
        (["--task", "regression"], "--task: got regression, but "),
    ):
        assert told in command(*moved, *checkpoints, *arguments, "--resume").err
    table = columns()
    table["weight"][3] += 1
    write_csv(path, table)
    assert "was made with other data" in command(*moved, *checkpoints, "--resume").err
    write_csv(path, columns())
    (tmp_path / "moved.csv").write_text((tmp_path / "moved.csv").read_text().replace("0.25", "0.5"))
    assert "was made with other data" in command(*moved, *checkpoints, "--resume").err


def test_a_regression_that_diverges_ends_with_one_line(path):
    for arithmetic in ("portable", "native"):
        job = ("--dataset", f"csv:{path}", "--target", "price", "--ignore", *BESIDE["price"], *SMALL, "--epochs", 60)
        ended = command(*job, "--learning-rate", 30, "--arithmetic", arithmetic, "--validation", 5)
        assert re.fullmatch(
            r"distnet: training stopped: the loss is (NaN|infinite) in epoch \d+; start .*\n", ended.err
        )
        assert ended.status == 70


def test_patience_without_validation_rows_is_told_and_sets_without_weight_are_refused(path):
    base = ("--dataset", f"csv:{path}", "--target", "price", "--ignore", "size", "red", "blue", *SMALL)
    table = columns()
    table["part"] = np.where(table["part"] == "validation", "train", table["part"])
    table["weight"] = np.where(table["part"] == "test", 0, 1)
    write_csv(path, table)
    ended = command(*base, "--split-column", "part", "--patience", 2)
    assert (ended.status, ended.err) == (
        0,
        "distnet: --patience has no effect: column part has no validation row\n",
    )
    ended = command(*base, "--split-column", "part", "--weight", "weight", ranks=2)
    assert f"distnet: {path}: all test rows have weight 0; give some a weight\n" in ended.err
