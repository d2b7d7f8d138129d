"""What an evaluation found: scores of each class, label or target, and the worst rows. The same bits on any machine."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnet.models.trained import Class, Trained
from distnet.nn.functional import HALF, class_probabilities, classify
from distnet.portable.elementary import log
from distnet.portable.grids import Floats, exact_sum
from distnet.training.evaluation import Outputs, mean, r2_of_targets

LEAST_PROBABILITY = float(np.finfo(np.float64).eps)  # in log losses of labels, as in scikit-learn
Score = float | None


def summarise(trained: Trained, found: Outputs, worst: int) -> dict[str, Any]:
    """Summarise as JSON. Losses are weighted if the rows have weights, all else counts every row once.

    trained: the network and the names of its outputs. found: see `Evaluation.outputs`. worst: how many of the worst
    mistakes or residuals to list. A score that is not defined is None, and left out of the mean over the classes,
    labels or targets.
    """
    task = trained.model.task
    summary = {"task": task, "samples": len(found.losses), "loss": mean(found.losses, found.weights)}
    if task == "regression":
        return summary | summarise_targets(trained, found, worst)
    if task == "multilabel":
        return summary | summarise_labels(trained.names, found, worst)
    return summary | summarise_classes(trained.names, found, worst)


def summarise_classes(classes: Sequence[Class], found: Outputs, worst: int) -> dict[str, Any]:
    """Of classification: accuracy, scores and errors of each class, confusion matrix, and mistakes of highest loss.

    The log loss of a class is the mean over its own samples. Its other scores set it against all other classes; they
    are None if it is neither present nor predicted.
    """
    truths, guesses = classify(found.targets), classify(found.outputs)
    probabilities, count = class_probabilities(found.outputs), len(classes)
    confusion = np.bincount(truths * count + guesses, minlength=count * count).reshape(count, count)
    predicted = np.bincount(guesses, minlength=count)
    by_class, hits = [], []
    for place, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        rows = truths == place
        samples, right = count_true(rows), int(row[place])
        wrong = samples - right
        hits.append((right, samples))
        by_class.append(
            {
                "class": name,
                "samples": samples,
                "wrong": wrong,
                "error": wrong / samples if samples else None,
                **score_positives(right, int(predicted[place]), samples),
                "log_loss": mean_of(found.losses, found.weights, rows),
                "roc_auc": roc_auc(rows, probabilities[:, place]),
            }
        )
    wrong_rows = np.flatnonzero(truths != guesses)
    return {
        "accuracy": (len(truths) - len(wrong_rows)) / len(truths),
        "balanced_accuracy": average([right / samples for right, samples in hits if samples]),
        "classes": by_class,
        "mean": average_scores(by_class, ("precision", "recall", "f1", "roc_auc")),
        "confusion": confusion.tolist(),
        "mistakes": [
            {
                "index": int(row),
                "class": classes[truths[row]],
                "predicted": classes[guesses[row]],
                "probability": float(probabilities[row, guesses[row]]),
                "loss": float(found.losses[row]),
            }
            for row in highest(found.losses, wrong_rows, worst)
        ],
    }


def summarise_labels(labels: Sequence[Class], found: Outputs, worst: int) -> dict[str, Any]:
    """Of multilabel: subset accuracy, scores and errors of each label, and the rows of highest loss with a mistake.

    The log loss of a label is its binary cross-entropy. "total" counts all labels of all rows together.
    """
    truths, guesses = found.targets >= HALF, found.outputs >= HALF
    count = len(truths)
    by_label = []
    for place, name in enumerate(labels):
        true, guess, probabilities = truths[:, place], guesses[:, place], found.outputs[:, place]
        samples, predicted, right = map(count_true, (true, guess, true & guess))
        extra, missed = predicted - right, samples - right
        rates = [1 - missed / samples] if samples else []
        rates += [1 - extra / (count - samples)] if samples < count else []
        by_label.append(
            {
                "label": name,
                "samples": samples,
                "missed": missed,
                "extra": extra,
                "accuracy": (count - missed - extra) / count,
                "balanced_accuracy": average(rates),
                **score_positives(right, predicted, samples),
                "log_loss": mean_of(log_losses(true, probabilities), found.weights, np.full(count, True)),
                "roc_auc": roc_auc(true, probabilities),
            }
        )
    wrong = (truths != guesses).max(axis=1)
    totals = [count_true(each) for each in (truths & guesses, guesses, truths)]
    names = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "log_loss", "roc_auc")
    return {
        "subset_accuracy": count_true(~wrong) / count,
        "labels": by_label,
        "mean": average_scores(by_label, names),
        "total": score_positives(*totals),
        "mistakes": [
            {
                "index": int(row),
                "labels": [labels[int(place)] for place in np.flatnonzero(truths[row])],
                "predicted": [labels[int(place)] for place in np.flatnonzero(guesses[row])],
                "loss": float(found.losses[row]),
            }
            for row in highest(found.losses, np.flatnonzero(wrong), worst)
        ],
    }


def summarise_targets(trained: Trained, found: Outputs, worst: int) -> dict[str, Any]:
    """Of regression, in the targets' own units: RMSE, MAE and R2 of each target, and the largest residuals.

    Residuals of several targets are compared in the network's units.
    """
    targets = np.asarray(found.targets, np.float64)
    residuals = targets - found.outputs
    in_units = residuals if trained.target_deviation is None else residuals * trained.target_deviation
    squares, sizes = exact_sum(in_units * in_units) / len(targets), exact_sum(np.abs(in_units)) / len(targets)
    by_target = [
        {"target": name, "rmse": math.sqrt(square), "mae": float(size), "r2": float(score)}
        for name, square, size, score in zip(
            trained.names, squares, sizes, r2_of_targets(targets, found.outputs), strict=True
        )
    ]
    means = average_scores(by_target, ("rmse", "mae", "r2"))
    true, predicted = trained.in_own_units(targets), trained.in_own_units(found.outputs)
    largest = highest(np.abs(residuals).reshape(-1), np.arange(residuals.size), worst)
    return {
        "r2": means["r2"],
        "targets": by_target,
        "mean": means,
        "residuals": [
            {
                "index": int(row),
                "target": trained.names[column],
                "true": float(true[row, column]),
                "predicted": float(predicted[row, column]),
                "residual": float(in_units[row, column]),
            }
            for row, column in (divmod(int(place), len(by_target)) for place in largest)
        ],
    }


def score_positives(right: int, predicted: int, actual: int) -> dict[str, Score]:
    """Precision, recall and F1 of `right` true positives among so many predicted and actual ones.

    A ratio of nothing counts as 0, as in scikit-learn; all are None if there is neither a predicted nor an actual one.
    """
    if not predicted and not actual:
        return dict.fromkeys(("precision", "recall", "f1"))
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / actual if actual else 0.0,
        "f1": 2 * right / (predicted + actual),
    }


def roc_auc(positives: NDArray[np.bool_], scores: Floats) -> Score:
    """The area under the ROC curve: the share of pairs whose positive row scores higher, ties counted as a half.

    positives: (rows,), which rows are positive. scores: (rows,). None without positive or without negative rows.
    """
    others = scores[~positives]
    pairs = count_true(positives) * len(others)
    if not pairs:
        return None
    others, own = others[np.argsort(others)], scores[positives]
    wins = [np.searchsorted(others, own, side) for side in ("left", "right")]
    return int(wins[0].sum() + wins[1].sum()) / (2 * pairs)  # portable: integers


def log_losses(true: NDArray[np.bool_], probabilities: Floats) -> Floats:
    """The binary cross-entropy of each row, (rows,), from probabilities of at least LEAST_PROBABILITY."""
    own = np.where(true, probabilities, 1 - probabilities)
    losses: Floats = np.negative(log(np.clip(own, LEAST_PROBABILITY, 1)))
    return losses


def mean_of(losses: Floats, weights: Floats | None, rows: NDArray[np.bool_]) -> Score:
    """The mean of the losses of some rows, weighted; None if there are none, or none with a weight."""
    chosen = rows if weights is None else rows & (weights > 0)
    if not count_true(chosen):
        return None
    return mean(losses[chosen], None if weights is None else weights[chosen])


def count_true(values: NDArray[np.bool_]) -> int:
    """How many are true."""
    return int(np.count_nonzero(values))


def average(values: Sequence[float]) -> Score:
    """The mean; None of no values."""
    return math.fsum(values) / len(values) if values else None


def average_scores(each: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Score]:
    """The mean of each of these scores, where it is defined."""
    return {name: average([one[name] for one in each if one[name] is not None]) for name in names}


def highest(values: Floats, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Those `count` of the rows with the highest values, the highest first."""
    return rows[np.argsort(-values[rows], kind="stable")][:count]
