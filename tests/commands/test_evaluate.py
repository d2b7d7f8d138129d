"""Evaluating a model: the numbers of a plain computation, the same on any ranks, and misfits in one line."""

import csv
import json
import re
import sys

import numpy as np
import pytest
from helpers import command, fault, write_idx

from distnet import NeuralNetwork
from distnet.datasets.dataset import Split
from distnet.datasets.idx import FILES, read_idx_pair
from distnet.evaluate import main
from distnet.nn.arithmetic import prepare
from distnet.nn.model import Model
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.training.evaluation import Evaluation

SPECIES = ("setosa", "versicolor", "virginica")
DAMAGED = {
    "mean that is text": {"mean": "grey", "deviation": 1.0},
    "mean without a deviation": {"mean": 1.0},
    "deviation of zero": {"mean": 1.0, "deviation": 0.0},
    "mean of too few columns": {"mean": [0.0, 1.0], "deviation": [1.0, 1.0]},
    "mean that is not finite": {"mean": float("nan"), "deviation": 1.0},
    "too few classes": {"classes": [0, 1, 2]},
    "a class that is there twice": {"classes": [0, 0, 2, 3, 4, 5, 6, 7, 8, 9]},
    "names of too few columns": {"columns": ["a"]},
    "a column that is no name": {"columns": [1] * 784},
    "a class that is no name": {"classes": [[], 1, 2, 3, 4, 5, 6, 7, 8, 9]},
}


def evaluate(*arguments, **how):
    return command(*arguments, module="distnet.evaluate", **how)


def found(*arguments, **how):
    """The object that --json prints."""
    ended = evaluate(*arguments, "--json", **how)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("\n") == 1
    return json.loads(ended.out)


def check_refused(*arguments, named, **how):
    ended = evaluate(*arguments, **how)
    ours = [line for line in ended.err.splitlines() if line.startswith("distnet: ")]
    assert (ended.status, ended.out, len(ours)) == (2, "", 1), ended.err
    assert all(part in ours[0] for part in named), (named, ours)
    assert "Traceback" not in ended.err


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    """A network that knows digits somewhat, so that it makes mistakes."""
    path = tmp_path_factory.mktemp("model") / "model.pkl"
    options = ("--data-dir", digits, "--epochs", 3, "--hidden", 20, "--model", path)
    assert command(*options).status == 0
    return path


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A table of three kinds of flowers, and a model of it, which holds out other rows than by default."""
    folder = tmp_path_factory.mktemp("flowers")
    draw = np.random.default_rng(5)
    kinds = np.arange(150) % 3
    rows = [[SPECIES[kind], *(draw.normal(size=4) + kind).tolist()] for kind in kinds]
    with (folder / "flowers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["kind", "a", "b", "c", "d"], *rows])
    options = ("--dataset", f"csv:{folder / 'flowers.csv'}", "--target", "kind", "--test-share", 0.3, "--seed", 4)
    assert command(*options, "--epochs", 3, "--hidden", 5, "--model", folder / "flowers.npz").status == 0
    return folder


def test_the_numbers_are_those_of_a_plain_computation(model, digits):
    told = found(model, "--data-dir", digits, "--mistakes", 1000)
    network = NeuralNetwork.load(model)
    images, labels = read_idx_pair(digits / FILES[2], digits / FILES[3], 10)
    X = (images.reshape(100, -1).astype(np.float64) - network.about["mean"]) / network.about["deviation"]
    probabilities = network.forward(X)
    guesses = probabilities.argmax(axis=1)
    losses = -np.log(probabilities[np.arange(100), labels])
    assert told["samples"] == 100
    assert told["accuracy"] == np.mean(guesses == labels)
    assert told["loss"] == pytest.approx(losses.mean(), rel=1e-12)
    for true, of_class in enumerate(told["classes"]):
        rows = labels == true
        wrong = int((guesses[rows] != true).sum())
        counts = {"class": true, "samples": rows.sum(), "wrong": wrong, "error": wrong / rows.sum()}
        assert of_class.items() >= counts.items()
        assert of_class["log_loss"] == pytest.approx(losses[rows].mean(), rel=1e-12)
        assert told["confusion"][true] == [int((guesses[rows] == place).sum()) for place in range(10)]
    worst = sorted(np.flatnonzero(guesses != labels), key=lambda row: -losses[row])
    assert [each["index"] for each in told["mistakes"]] == worst
    assert worst  # or nothing was tested
    for each in told["mistakes"]:
        row = each["index"]
        assert (each["class"], each["predicted"]) == (labels[row], guesses[row])
        assert each["probability"] == probabilities[row].max()
        assert each["loss"] == pytest.approx(losses[row], rel=1e-12)


def test_accuracy_and_loss_are_those_that_training_ended_with(digits, tmp_path):
    path, metrics = tmp_path / "model.npz", tmp_path / "metrics.jsonl"
    command("--data-dir", digits, "--epochs", 2, "--model", path, "--metrics", metrics)
    last = json.loads(metrics.read_text().splitlines()[-1])
    told = found(path, "--data-dir", digits)
    assert (told["accuracy"], told["loss"]) == (last["test_accuracy"], last["test_loss"])


@pytest.mark.parametrize("form", ["--json", "--mistakes=3"])
def test_what_is_printed_is_the_same_on_1_2_and_3_ranks_and_without_mpirun(model, digits, tmp_path, form):
    for name in FILES[:2]:
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    for name, train in zip(FILES[2:], FILES[:2], strict=True):  # 600 samples: three blocks, the last one shorter
        (tmp_path / name).write_bytes((digits / train).read_bytes())
    ended = [evaluate(model, "--data-dir", tmp_path, form, ranks=ranks) for ranks in (None, 1, 2, 3)]
    assert [(each.status, each.err) for each in ended] == [(0, "")] * 4
    assert len({each.out for each in ended}) == 1


def test_people_get_accuracy_loss_a_line_a_class_and_the_worst_mistakes(model, digits):
    told = found(model, "--data-dir", digits, "--mistakes", 2)
    lines = evaluate(model, "--data-dir", digits, "--mistakes", 2).out.splitlines()
    assert lines[0] == f"model: {model}, 784-20-10 relu, portable float64"
    assert lines[1] == f"data: mnist ({digits}), 100 test samples"
    assert lines[2:4] == [f"accuracy {told['accuracy']:.4f}", f"loss {told['loss']:.4f}"]
    assert lines[4] == f"balanced accuracy {told['balanced_accuracy']:.4f}"
    assert lines[7].split() == ["class", "samples", "wrong", "error", *map(str, range(10))]
    for line, of_class, row in zip(lines[8:18], told["classes"], told["confusion"], strict=True):
        counts = [of_class["class"], of_class["samples"], of_class["wrong"]]
        assert line.split() == [*map(str, counts), f"{of_class['error']:.4f}", *map(str, row)]
    assert lines[20].split() == ["class", "precision", "recall", "F1", "log", "loss", "ROC", "AUC"]
    for line, of_class in zip(lines[21:31], told["classes"], strict=True):
        scores = [f"{of_class[name]:.4f}" for name in ("precision", "recall", "f1", "log_loss", "roc_auc")]
        assert line.split() == [str(of_class["class"]), *scores]
    mean = [f"{told['mean'][name]:.4f}" for name in ("precision", "recall", "f1")]
    assert lines[31].split() == ["mean", *mean, "-", f"{told['mean']['roc_auc']:.4f}"]
    assert lines[33:35] == ["worst mistakes", "index  class  predicted  probability    loss"]
    assert [int(line.split()[0]) for line in lines[35:-1]] == [each["index"] for each in told["mistakes"]]


def test_inputs_are_standardised_by_what_the_model_remembers_not_by_the_data(model, digits, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    write_idx(tmp_path / FILES[0], np.full((600, 28, 28), 200))  # another mean, no deviation
    assert found(model, "--data-dir", tmp_path)["loss"] == found(model, "--data-dir", digits)["loss"]


def test_a_model_trained_from_python_is_evaluated_with_the_data_sets_own_and_that_is_said(model, digits, tmp_path):
    network = NeuralNetwork.load(model)
    network.about = {}
    network.save(tmp_path / "plain.npz")
    options = (tmp_path / "plain.npz", "--dataset", "mnist", "--data-dir", digits)
    told, usual = found(*options, ranks=2), found(model, "--data-dir", digits)
    assert (told["standardised_by"], usual["standardised_by"]) == ("data set", "model")
    assert (told["confusion"], told["loss"]) == (usual["confusion"], usual["loss"])
    lines = evaluate(*options).out.splitlines()
    assert re.fullmatch(
        r"inputs: standardised by the data set's own .*\(mean \d.*for the model has no moments", lines[2]
    )
    assert lines[3] == "classes: the data set's own, for the model has none"


def test_the_training_part_and_all_of_it_can_be_evaluated_too(model, digits):
    told = {part: found(model, "--data-dir", digits, "--part", part) for part in ("test", "train", "all")}
    assert {part: each["samples"] for part, each in told.items()} == {"test": 100, "train": 600, "all": 700}
    added = np.add(told["test"]["confusion"], told["train"]["confusion"])
    assert told["all"]["confusion"] == added.tolist()


def test_a_table_is_evaluated_on_the_rows_that_training_held_out(flowers):
    metrics = flowers / "metrics.jsonl"
    data = f"csv:{flowers / 'flowers.csv'}"
    options = ("--dataset", data, "--target", "kind", "--test-share", 0.3, "--seed", 4, "--epochs", 3, "--hidden", 5)
    command(*options, "--metrics", metrics)
    last = json.loads(metrics.read_text().splitlines()[-1])
    for told in (found(flowers / "flowers.npz"), found(flowers / "flowers.npz", "--dataset", data, ranks=3)):
        assert (told["samples"], told["accuracy"], told["loss"]) == (45, last["test_accuracy"], last["test_loss"])
        assert [each["class"] for each in told["classes"]] == list(SPECIES)


def test_a_model_of_distnet_0_1_is_not_evaluated_on_rows_that_another_version_held_out(flowers, tmp_path):
    network = NeuralNetwork.load(flowers / "flowers.npz")
    del network.about["config"]["arithmetic"]
    network.save(tmp_path / "old.npz")
    for part in ("test", "train"):
        named = ("flowers.csv: the model is of distnet 0.1, which held out other rows", "evaluate --part all, or train")
        check_refused(tmp_path / "old.npz", "--part", part, named=named, ranks=2 if part == "test" else None)
    told = [found(folder, "--part", "all") for folder in (tmp_path / "old.npz", flowers / "flowers.npz")]
    assert told[0]["confusion"] == told[1]["confusion"]
    assert told[0]["samples"] == 150


def test_a_model_of_distnet_0_1_is_evaluated_on_the_test_rows_that_a_table_names(tmp_path):
    draw = np.random.default_rng(5)
    arrays = {f"X_{part}": draw.normal(size=(40, 3)) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(40) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "table.npz", **arrays)
    options = ("--dataset", f"npz:{tmp_path / 'table.npz'}", "--epochs", 1, "--hidden", 5)
    assert command(*options, "--model", tmp_path / "model.npz").status == 0
    usual = found(tmp_path / "model.npz")
    network = NeuralNetwork.load(tmp_path / "model.npz")
    del network.about["config"]["arithmetic"]
    network.save(tmp_path / "old.npz")
    assert found(tmp_path / "old.npz")["loss"] == usual["loss"]


def test_a_tables_classes_are_matched_by_name(flowers, tmp_path):
    rows = list(csv.reader((flowers / "flowers.csv").read_text().splitlines()))
    fewer = tmp_path / "fewer.csv"
    with fewer.open("w", newline="") as file:
        csv.writer(file).writerows([row for row in rows if row[0] != "setosa"])
    whole = found(flowers / "flowers.npz", "--part", "all")
    told = found(flowers / "flowers.npz", "--dataset", f"csv:{fewer}", "--part", "all")
    assert told["confusion"] == [[0, 0, 0], *whole["confusion"][1:]]
    absent = {"class": "setosa", "samples": 0, "wrong": 0, "error": None, "log_loss": None, "roc_auc": None}
    assert told["classes"][0].items() >= absent.items()
    for name in ("class", "samples", "wrong", "error", "recall", "log_loss"):
        assert [each[name] for each in told["classes"][1:]] == [each[name] for each in whole["classes"][1:]]


def test_a_tables_columns_are_matched_by_name(flowers, tmp_path):
    rows = list(csv.reader((flowers / "flowers.csv").read_text().splitlines()))
    other = tmp_path / "other.csv"
    with other.open("w", newline="") as file:
        csv.writer(file).writerows(
            [[row[3], "note" * (row[0] == "kind"), row[4], row[1], row[0], row[2]] for row in rows]
        )
    whole = found(flowers / "flowers.npz", "--part", "all")
    ended = evaluate(flowers / "flowers.npz", "--dataset", f"csv:{other}", "--part", "all", "--json", ranks=2)
    told = json.loads(ended.out)
    assert [told[name] for name in ("confusion", "loss")] == [whole[name] for name in ("confusion", "loss")]
    assert ended.err == f"distnet: {other}: ignored 1 column that the model does not use: note\n"
    network = NeuralNetwork.load(flowers / "flowers.npz")
    for ignored in (["note"], ["2"]):
        network.about["config"]["ignore"] = ignored
        network.save(tmp_path / "left_out.npz")
        assert evaluate(tmp_path / "left_out.npz", "--dataset", f"csv:{other}", "--part", "all").err == ""
    other.write_text("kind,a,b,d\nsetosa,1,2,3\n")
    named = ("1 column of the model is missing (c)", "its header has kind, a, b, d")
    check_refused(flowers / "flowers.npz", "--dataset", f"csv:{other}", named=named)
    other.write_text("species,a,b,c,d\nsetosa,1,2,3,4\n")
    named = ("target column, kind, is missing", "--target")
    check_refused(flowers / "flowers.npz", "--dataset", f"csv:{other}", named=named)


def test_new_rows_of_one_class_or_without_a_header_are_evaluated(flowers, tmp_path):
    new = tmp_path / "new.csv"
    rows = [f"setosa,{row % 3},0.5,{row},1\n" for row in range(5)]
    counts = []
    for header in ("kind,a,b,c,d\n", ""):
        new.write_text(header + "".join(rows))
        for part in ("test", "all"):
            options = ("--dataset", f"csv:{new}", "--target", 1, "--part", part, "--json")
            ended = evaluate(flowers / "flowers.npz", *options)
            assert (ended.status, "has no header" in ended.err) == (0, not header)
            counts.append(json.loads(ended.out)["samples"])
    assert counts == [2, 5, 2, 5]  # a share of 0.3
    new.write_text("kind,a,b,c,d\n" + "".join(rows) + "virginica,1,2,3,4\n")
    named = ("class 'virginica' has one sample", "--part all")
    check_refused(flowers / "flowers.npz", "--dataset", f"csv:{new}", named=named)
    assert found(flowers / "flowers.npz", "--dataset", f"csv:{new}", "--part", "all")["samples"] == 6


def test_a_model_of_distnet_0_2_which_stored_a_label_is_evaluated_as_it_was_trained(flowers, tmp_path):
    network = NeuralNetwork.load(flowers / "flowers.npz")
    about = network.about
    about["label"], about["config"]["label"] = about.pop("targets")[0], about["config"].pop("target")[0]
    for name in ("task", "weight", "class_weight", "split_column", "validation_data"):
        about["config"].pop(name)
    network.save(tmp_path / "old.npz")
    assert found(tmp_path / "old.npz")["confusion"] == found(flowers / "flowers.npz")["confusion"]
    del about["label"], about["columns"]  # as if the table had no header
    network.save(tmp_path / "old.npz")
    assert found(tmp_path / "old.npz")["confusion"] == found(flowers / "flowers.npz")["confusion"]


def test_a_model_without_names_of_columns_takes_them_in_order(flowers, tmp_path):
    network = NeuralNetwork.load(flowers / "flowers.npz")
    for name in ("columns", "targets"):
        del network.about[name]
    network.save(tmp_path / "plain.npz")
    swapped = (flowers / "flowers.csv").read_text().replace("kind,a,b,c,d", "kind,d,c,b,a")
    (tmp_path / "swapped.csv").write_text(swapped)
    told = found(tmp_path / "plain.npz", "--dataset", f"csv:{tmp_path / 'swapped.csv'}", "--part", "all")
    assert told["confusion"] == found(flowers / "flowers.npz", "--part", "all")["confusion"]


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_class_that_the_model_does_not_know_is_named(flowers, tmp_path, ranks):
    strange = tmp_path / "strange.csv"
    strange.write_text((flowers / "flowers.csv").read_text().replace("setosa", "rose"))
    named = ("flowers.npz", "no class 'rose'", "setosa, versicolor, virginica")
    check_refused(flowers / "flowers.npz", "--dataset", f"csv:{strange}", named=named, ranks=ranks)


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_model_of_other_inputs_or_outputs_is_named(flowers, digits, tmp_path, ranks):
    named = ("flowers.npz", "has 4 inputs", "a row of mnist has 784 numbers", "what it was trained on")
    check_refused(flowers / "flowers.npz", "--dataset", "mnist", "--data-dir", digits, named=named, ranks=ranks)
    NeuralNetwork([784, 7]).save(tmp_path / "seven.pkl")
    named = ("seven.pkl", "has 7 outputs", "mnist has 10 classes")
    check_refused(tmp_path / "seven.pkl", "--dataset", "mnist", "--data-dir", digits, named=named, ranks=ranks)


TARGETS = {"regression": ["price", "share"], "multilabel": ["cat", "dog", "eel"]}


@pytest.fixture(scope="module", params=TARGETS)
def other_task(request, tmp_path_factory):
    """A task, and a folder with a table of it, a model, and the metrics of its training, in which rows have weights."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    draw = np.random.default_rng(8)
    X = draw.normal(size=(300, 3))
    if task == "regression":
        Y = X @ draw.normal(size=(3, 2)) * [3e4, 0.01] + [1e5, 0.5] + draw.normal(size=(300, 2)) * [3e3, 0.002]
    else:
        Y = (X + 0.3 * draw.normal(size=X.shape) > [-0.5, 0, 1]).astype(int)
    table = np.column_stack([X, Y, draw.integers(1, 4, size=300)])
    names = ["a", "b", "c", *TARGETS[task], "weight"]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *table.tolist()])
    options = ("--dataset", f"csv:{folder / 'table.csv'}", "--target", *TARGETS[task], "--task", task, "--seed", 4)
    options += ("--weight", "weight", "--epochs", 10, "--hidden", 8, "--validation", 60)
    ended = command(*options, "--model", folder / "model.npz", "--metrics", folder / "metrics.jsonl")
    assert (ended.status, ended.err) == (0, "")
    return task, folder


def test_the_scores_of_other_tasks_are_those_that_training_ended_with(other_task):
    task, folder = other_task
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = min(records, key=lambda record: record["validation_loss"])
    told = found(folder / "model.npz")
    score = {"regression": "r2", "multilabel": "subset_accuracy"}[task]
    assert (told["task"], told["samples"]) == (task, 60)
    assert (told[score], told["loss"]) == (kept[f"test_{score}"], kept["test_loss"])


def test_all_rows_of_other_tasks_have_the_scores_of_a_plain_computation_on_any_ranks(other_task):
    task, folder = other_task
    ended = [evaluate(folder / "model.npz", "--part", "all", "--json", ranks=ranks) for ranks in (None, 2, 3)]
    assert len({each.out for each in ended}) == 1
    told = json.loads(ended[0].out)
    network = NeuralNetwork.load(folder / "model.npz")
    table = np.loadtxt(folder / "table.csv", delimiter=",", skiprows=1)
    X, Y, weights = table[:, :3], table[:, 3:-1], table[:, -1]
    outputs = network.forward((X - network.about["mean"]) / network.about["deviation"])
    if task == "regression":
        mean, deviation = network.about["target_mean"], network.about["target_deviation"]
        losses = ((outputs - (Y - mean) / deviation) ** 2).sum(axis=1) / 2
        errors = Y - outputs * deviation - mean
        assert [each["target"] for each in told["targets"]] == TARGETS[task]
        assert [each["rmse"] for each in told["targets"]] == pytest.approx(np.sqrt((errors**2).mean(axis=0)))
        assert [each["mae"] for each in told["targets"]] == pytest.approx(np.abs(errors).mean(axis=0))
        assert [each["r2"] for each in told["targets"]] == pytest.approx(1 - (errors**2).mean(axis=0) / Y.var(axis=0))
    else:
        losses = -np.log(np.where(Y, outputs, 1 - outputs)).sum(axis=1)
        guesses = outputs >= 0.5
        assert [each["label"] for each in told["labels"]] == TARGETS[task]
        assert [each["missed"] for each in told["labels"]] == ((Y == 1) & ~guesses).sum(axis=0).tolist()
        assert [each["extra"] for each in told["labels"]] == ((Y == 0) & guesses).sum(axis=0).tolist()
        assert told["subset_accuracy"] == (guesses == Y).all(axis=1).mean()
    assert sum(losses) != pytest.approx(np.average(losses, weights=weights) * len(losses))  # or weights aren't tested
    assert told["loss"] == pytest.approx(np.average(losses, weights=weights))


def test_people_get_the_scores_of_each_label_or_target_and_the_worst_rows(other_task):
    task, folder = other_task
    told = found(folder / "model.npz", "--mistakes", 3)
    lines = evaluate(folder / "model.npz", "--mistakes", 3).out.splitlines()
    network = f"3-8-{len(TARGETS[task])} gelu"  # of the preset for tables
    assert lines[0] == f"model: {folder / 'model.npz'}, {network}, {task}, portable float64"
    if task == "regression":
        assert lines[2:4] == [f"R2 {told['r2']:.4f}", f"loss {told['loss']:.4f}"]
        assert lines[6].split() == ["target", "RMSE", "MAE", "R2"]
        for line, each in zip(lines[7:9], told["targets"], strict=True):
            assert line.split() == [each["target"], f"{each['rmse']:.6g}", f"{each['mae']:.6g}", f"{each['r2']:.4f}"]
        assert lines[9].split() == ["mean", "-", "-", f"{told['r2']:.4f}"]
        assert lines[11:13] == ["largest residuals", lines[12]]
        assert lines[12].split() == ["index", "target", "true", "predicted", "residual"]
        for line, each in zip(lines[13:-1], told["residuals"], strict=True):
            numbers = [f"{each[name]:.6g}" for name in ("true", "predicted", "residual")]
            assert line.split() == [str(each["index"]), each["target"], *numbers]
        return
    assert lines[2:4] == [f"subset accuracy {told['subset_accuracy']:.4f}", f"loss {told['loss']:.4f}"]
    for line, each in zip(lines[7:10], told["labels"], strict=True):
        counts = [str(each[name]) for name in ("samples", "missed", "extra")]
        assert line.split() == [each["label"], *counts, f"{each['accuracy']:.4f}", f"{each['balanced_accuracy']:.4f}"]
    for line, each in zip(lines[13:16], told["labels"], strict=True):
        names = ("precision", "recall", "f1", "log_loss", "roc_auc")
        assert line.split() == [each["label"], *(f"{each[name]:.4f}" for name in names)]
    assert [line.split()[0] for line in lines[16:18]] == ["mean", "total"]
    assert lines[19] == "worst mistakes"
    for line, each in zip(lines[21:-1], told["mistakes"], strict=True):
        words = [", ".join(each[name]) or "-" for name in ("labels", "predicted")]
        assert re.split("  +", line) == [str(each["index"]), *words, f"{each['loss']:.4f}"]


def test_a_model_of_another_task_than_the_images_is_named(digits, tmp_path):
    NeuralNetwork([784, 10], task="regression").save(tmp_path / "model.npz")
    named = ("model.npz", "is of regression, but mnist is of classification")
    check_refused(tmp_path / "model.npz", "--dataset", "mnist", "--data-dir", digits, named=named)


def refusal(monkeypatch, *arguments):
    """The line with which the command, in this process, refuses these arguments."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    with pytest.raises(InputError) as refused:
        main()
    return str(refused.value)


def test_a_regression_model_with_another_number_of_targets_is_named(tmp_path, monkeypatch):
    model, table = tmp_path / "model.npz", tmp_path / "table.csv"
    NeuralNetwork([2, 3], task="regression").save(model)
    table.write_text("1,2,3\n4,5,6\n7,8,9\n")
    assert refusal(monkeypatch, model, "--dataset", f"csv:{table}") == (
        f"model {model}: has 3 outputs, but a row of csv:{table} has 1 target; evaluate it on what it was trained on"
    )


def test_numbers_too_large_for_the_models_dtype_are_refused(tmp_path, monkeypatch):
    model, table = tmp_path / "model.npz", tmp_path / "table.csv"
    for dtype in ("float32", "float64"):
        network = NeuralNetwork([2, 2], dtype=dtype, arithmetic="native")
        network.about = {"mean": 0.0, "deviation": 1.0, "classes": ["a", "b"]}
        network.save(model)
        for number in ("1e38", "1e39"):
            table.write_text(f"1,2,a\n2,1,b\n3,{number},a\n1,3,b\n")
            options = (model, "--dataset", f"csv:{table}", "--part", "all")
            if (dtype, number) == ("float32", "1e39"):
                told = f"{table}: some numbers are too large for model {model} of float32; scale them"
                assert refusal(monkeypatch, *options) == told
            else:
                monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, options)])
                assert main() == 0


@pytest.mark.parametrize("classes", [["no", "yes"], ["yes", "no"]])
def test_a_model_with_one_output_is_evaluated_on_two_classes(tmp_path, classes):
    draw = np.random.default_rng(9)
    X = draw.normal(size=(80, 2))
    network = NeuralNetwork([2, 1], "relu", seed=3)
    network.about = {"mean": 0.0, "deviation": 1.0, "classes": classes}
    network.save(tmp_path / "model.npz")
    second = network.forward(X)[:, 0]
    truths = [classes[place] for place in (second + 0.3 * draw.normal(size=80) >= 0.5).astype(int)]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*X[row].tolist(), truths[row]] for row in range(80))
    told = found(tmp_path / "model.npz", "--dataset", f"csv:{tmp_path / 'table.csv'}", "--part", "all")
    is_second = np.array(truths) == classes[1]
    assert told["loss"] == pytest.approx(-np.log(np.where(is_second, second, 1 - second)).mean(), rel=1e-12)
    assert told["confusion"] == [
        [int(((is_second == true) & ((second >= 0.5) == guess)).sum()) for guess in (False, True)]
        for true in (False, True)
    ]
    assert [each["class"] for each in told["classes"]] == classes


@pytest.mark.parametrize("name", DAMAGED)
def test_a_model_whose_memory_is_damaged_is_named(digits, tmp_path, name):
    network = NeuralNetwork([784, 10])
    network.about = DAMAGED[name]
    network.save(tmp_path / "model.pkl")
    options = (tmp_path / "model.pkl", "--dataset", "mnist", "--data-dir", digits)
    check_refused(*options, named=(f"model {tmp_path / 'model.pkl'}", "damaged"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--dataset", "cifar"), ("--dataset", "'cifar'", "mnist")),
        (("--part", "half"), ("--part", "'half'", "train")),
        (("--mistakes", 0), ("--mistakes", "'0'")),
        (("--dataset", "mnist", "--target", "kind"), ("--target", "mnist", "csv:FILE")),
        (("--dataset", "csv:nowhere.csv"), ("csv:nowhere.csv", "can't be read")),
        (("--data-dir", "nowhere"), ("--data-dir nowhere", "train-images", "download")),
        (("--datset", "mnist"), ("--datset", "--dataset")),
    ],
)
def test_a_bad_option_is_one_line(model, tmp_path, options, named):
    check_refused(model, *options, named=named, cwd=tmp_path)


@pytest.mark.parametrize("ranks", [None, 2])
def test_help_is_printed_once(ranks):
    ended = evaluate("--help", ranks=ranks)
    assert (ended.status, ended.err, ended.out.count("usage: ")) == (0, "", 1)
    assert "--mistakes K" in ended.out


def test_a_rank_that_never_comes_ends_all_and_the_others_tell_where_they_wait(model, digits):
    options = ("--data-dir", digits, "--stall-timeout", 2)
    ended = evaluate(model, *options, ranks=2, env=fault("late", 1), timeout=20)
    assert (ended.out, ended.status == 0) == ("", False)
    assert "in launched_world" in ended.err


def test_an_evaluation_that_goes_on_is_at_another_place_with_every_block():
    made = Split(np.ones((501, 16), np.float32), np.eye(2, dtype=np.float32)[[0] * 501], 3)
    evaluation = Evaluation(World(), prepare(Model((3, 2), "relu", np.zeros(8, np.float32))), made)
    places = [evaluation.position(), *(evaluation.position() for _ in evaluation._passes())]
    assert places == [f"at block {number} of its 3" for number in range(4)]


def test_a_model_that_is_not_there_or_no_model_is_one_line_on_all_ranks(tmp_path):
    (tmp_path / "foreign.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for name, why in (("nowhere.pkl", "No such file"), ("foreign.pkl", "not a model of distnet's")):
        for ranks in (None, 2):
            check_refused(tmp_path / name, "--dataset", "mnist", named=(name, why), ranks=ranks, cwd=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_does_not_say_what_it_learned_wants_a_data_set_named(tmp_path):
    NeuralNetwork([784, 10]).save(tmp_path / "model.pkl")
    check_refused(tmp_path / "model.pkl", named=("--dataset", "model.pkl", "name a data set"))
