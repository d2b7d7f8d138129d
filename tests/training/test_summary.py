"""Scores of an evaluation are scikit-learn's, also with ties, absent classes and columns of one class."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from distnet.models.trained import Trained
from distnet.nn.model import Model
from distnet.nn.parameters import parameter_count
from distnet.training.evaluation import Outputs
from distnet.training.summary import LEAST_PROBABILITY, roc_auc, summarise

metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra test")
ROWS = 200


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of scores that are not defined
        yield


def trained(task, outputs, **more):
    """A network without hidden layers, for what its file says of the outputs."""
    model = Model((3, outputs), "relu", np.zeros(parameter_count((3, outputs))), task=task)
    return Trained(Path("model.npz"), model, None, None, None)._replace(**more)


def rounded_softmax(draw, classes):
    """Probabilities of which many are equal."""
    powers = np.exp(draw.normal(size=(ROWS, classes)).round(1))
    return powers / powers.sum(axis=1, keepdims=True)


# How many of the classes are present, and whether any of the others is predicted.
CLASSES = {"all classes": (4, 4), "a class is absent": (3, 4), "a class is absent and never predicted": (3, 3)}
CLASSES["one class"] = (1, 4)


@pytest.mark.parametrize("case", CLASSES)
def test_scores_of_classes_are_scikit_learns(case):
    present, predicted = CLASSES[case]
    draw = np.random.default_rng(3)
    truths, probabilities = draw.integers(present, size=ROWS), rounded_softmax(draw, 4)
    if predicted < 4:
        probabilities[:, 3] *= 0.01
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    guesses = probabilities.argmax(axis=1)
    losses = -np.log(probabilities[np.arange(ROWS), truths])
    found = summarise(trained("classification", 4), Outputs(np.eye(4)[truths], probabilities, losses), 5)
    assert found["accuracy"] == metrics.accuracy_score(truths, guesses)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truths, guesses), rel=1e-12)
    assert found["loss"] == pytest.approx(metrics.log_loss(truths, probabilities, labels=range(4)), rel=1e-12)
    assert found["confusion"] == metrics.confusion_matrix(truths, guesses, labels=range(4)).tolist()
    theirs = metrics.precision_recall_fscore_support(truths, guesses, labels=range(4))
    there = {*truths.tolist(), *guesses.tolist()}
    areas = []
    for place, each in enumerate(found["classes"]):
        own = truths == place
        assert each["samples"] == theirs[3][place] == own.sum()
        scores = [each[name] for name in ("precision", "recall", "f1")]
        assert scores == ([pytest.approx(column[place]) for column in theirs[:3]] if place in there else [None] * 3)
        assert each["log_loss"] == (pytest.approx(losses[own].mean()) if own.any() else None)
        area = metrics.roc_auc_score(own, probabilities[:, place])
        assert each["roc_auc"] == (None if math.isnan(area) else pytest.approx(area, rel=1e-12))
        areas.append(area)
    macro = metrics.precision_recall_fscore_support(truths, guesses, average="macro")
    assert [found["mean"][name] for name in ("precision", "recall", "f1")] == pytest.approx(macro[:3])
    assert found["mean"]["roc_auc"] == (None if present == 1 else pytest.approx(np.nanmean(areas)))
    if present == 4:
        assert found["mean"]["roc_auc"] == pytest.approx(
            metrics.roc_auc_score(truths, probabilities, multi_class="ovr")
        )


def test_one_output_for_two_classes_gives_what_two_outputs_give():
    draw = np.random.default_rng(4)
    truths, second = draw.integers(2, size=ROWS), draw.random((ROWS, 1)).round(1)
    losses = -np.log(np.where(truths == 1, second[:, 0], 1 - second[:, 0]).clip(1e-9))
    one = summarise(trained("classification", 1, classes=["no", "yes"]), Outputs(truths[:, None], second, losses), 9)
    both = np.concatenate([1 - second, second], axis=1)
    both[second[:, 0] == 0.5, 1] += 1e-16  # a half counts as the second class
    guesses = (second[:, 0] >= 0.5).astype(int)
    assert one["accuracy"] == metrics.accuracy_score(truths, guesses)
    assert one["confusion"] == metrics.confusion_matrix(truths, guesses).tolist()
    assert [each["class"] for each in one["classes"]] == ["no", "yes"]
    area = pytest.approx(metrics.roc_auc_score(truths, second[:, 0]), rel=1e-12)
    assert [each["roc_auc"] for each in one["classes"]] == [area, area]
    worst = one["mistakes"][0]
    assert worst["probability"] == max(second[worst["index"], 0], 1 - second[worst["index"], 0])


def labelled():
    """Labels and probabilities: any, all present, all absent, absent and never predicted, without a doubt."""
    draw = np.random.default_rng(5)
    true = draw.random((ROWS, 5)) < [0.3, 1, 0, 0, 0.5]
    probabilities = draw.random((ROWS, 5)).round(2)
    probabilities[:, 3] *= 0.4
    probabilities[:, 4] = true[:, 4] ^ (draw.random(ROWS) < 0.1)
    return true, probabilities


def test_scores_of_labels_are_scikit_learns():
    true, probabilities = labelled()
    guesses = probabilities >= 0.5
    found = summarise(trained("multilabel", 5), Outputs(true.astype(float), probabilities, np.ones(ROWS)), 5)
    assert found["subset_accuracy"] == metrics.accuracy_score(true, guesses)
    for place, each in enumerate(found["labels"]):
        own, guess, column = true[:, place], guesses[:, place], probabilities[:, place]
        (_, extra), (missed, _) = metrics.confusion_matrix(own, guess, labels=[False, True])
        assert (each["samples"], each["extra"], each["missed"]) == (own.sum(), extra, missed)
        assert each["accuracy"] == pytest.approx(metrics.accuracy_score(own, guess))
        assert each["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(own, guess))
        theirs = metrics.precision_recall_fscore_support(own, guess, average="binary")[:3]
        scores = [each[name] for name in ("precision", "recall", "f1")]
        assert scores == ([None] * 3 if place == 3 else pytest.approx(theirs))
        assert each["log_loss"] == pytest.approx(metrics.log_loss(own, column, labels=[False, True]), rel=1e-12)
        area = metrics.roc_auc_score(own, column)
        assert each["roc_auc"] == (None if math.isnan(area) else pytest.approx(area, rel=1e-12))
    assert [each["roc_auc"] is None for each in found["labels"]] == [False, True, True, True, False]
    total = metrics.precision_recall_fscore_support(true, guesses, average="micro")[:3]
    assert list(found["total"].values()) == pytest.approx(total)
    predicted = [0, 1, 2, 4]  # scikit-learn counts the others' scores as 0
    macro = metrics.precision_recall_fscore_support(true[:, predicted], guesses[:, predicted], average="macro")[:3]
    assert [found["mean"][name] for name in ("precision", "recall", "f1")] == pytest.approx(macro)
    both = [0, 4]
    area = metrics.roc_auc_score(true[:, both], probabilities[:, both], average="macro")
    assert found["mean"]["roc_auc"] == pytest.approx(area)
    [certain] = [each["log_loss"] for each in found["labels"] if each["label"] == 4]
    wrong = np.count_nonzero(guesses[:, 4] != true[:, 4]) / ROWS
    assert certain == pytest.approx(-wrong * math.log(LEAST_PROBABILITY))


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("is_standardised", [True, False])
def test_scores_of_targets_are_scikit_learns_in_the_targets_own_units(targets, is_standardised):
    draw = np.random.default_rng(6)
    mean, deviation = np.array([-300.0, 0.25, 7.0])[:targets], np.array([80.0, 0.001, 1.0])[:targets]
    standard = draw.normal(size=(ROWS, targets))
    standard[:, 2:] = 0  # a constant target
    outputs = standard + 0.3 * draw.normal(size=standard.shape)
    moments = {"target_mean": mean, "target_deviation": deviation} if is_standardised else {}
    true, predicted = standard, outputs
    if is_standardised:
        true, predicted = standard * deviation + mean, outputs * deviation + mean
    names = ("price", "share", "age")[:targets]
    found = summarise(
        trained("regression", targets, targets=names, **moments), Outputs(standard, outputs, np.ones(ROWS)), 600
    )
    raw = {
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }
    for name, theirs in raw.items():
        each = theirs(true, predicted, multioutput="raw_values")
        assert [one[name] for one in found["targets"]] == pytest.approx(each, rel=1e-11)
        assert found["mean"][name] == pytest.approx(theirs(true, predicted), rel=1e-11)
    assert found["r2"] == found["mean"]["r2"]
    assert [one["target"] for one in found["targets"]] == list(names)
    residuals = found["residuals"]
    assert len(residuals) == standard.size
    sizes = []
    for each in residuals:
        row, column = each["index"], names.index(each["target"])
        assert each["true"] == pytest.approx(true[row, column], rel=1e-12)
        assert each["predicted"] == pytest.approx(predicted[row, column], rel=1e-12)
        assert each["residual"] == pytest.approx(true[row, column] - predicted[row, column], abs=1e-9 * 80)
        sizes.append(abs(standard - outputs)[row, column])
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_weights_count_in_losses_alone(task):
    draw = np.random.default_rng(7)
    outputs, losses = rounded_softmax(draw, 3), draw.random(ROWS)
    truths = draw.integers(3, size=ROWS)
    weights = draw.random(ROWS) * (truths != 2)  # all of the last class have none
    targets = np.eye(3)[truths]
    plain, weighted = (
        summarise(trained(task, 3), Outputs(targets, outputs, losses, each), 5) for each in (None, weights)
    )
    assert weighted["loss"] == pytest.approx(np.average(losses, weights=weights))
    if task == "classification":
        each = [one["log_loss"] for one in weighted["classes"]]
        means = [np.average(losses[truths == place], weights=weights[truths == place]) for place in (0, 1)]
        assert each == [pytest.approx(means[0]), pytest.approx(means[1]), None]
    if task == "multilabel":
        for place, one in enumerate(weighted["labels"]):
            theirs = metrics.log_loss(targets[:, place], outputs[:, place], sample_weight=weights)
            assert one["log_loss"] == pytest.approx(theirs, rel=1e-12)
    for found in (plain, weighted):
        del found["loss"]
        for one in [*found.get("classes", []), *found.get("labels", []), found["mean"]]:
            one.pop("log_loss", None)
    assert plain == weighted


@pytest.mark.parametrize("levels", [1, 2, 5, 10**6])
def test_the_area_under_the_roc_curve_is_scikit_learns_however_many_scores_are_equal(levels):
    draw = np.random.default_rng(levels)
    for share in (0.02, 0.5, 0.98):
        positives, scores = draw.random(ROWS) < share, draw.integers(levels, size=ROWS) / levels
        positives[:2] = True, False
        assert roc_auc(positives, scores) == pytest.approx(metrics.roc_auc_score(positives, scores), rel=1e-13)
