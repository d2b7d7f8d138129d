"""What an evaluation found, as text for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distnet.runtime.text import format_table

SHOWN_CLASSES = 30  # the largest confusion matrix that is printed
HEADS = {"f1": "F1", "log_loss": "log loss", "roc_auc": "ROC AUC", "rmse": "RMSE", "mae": "MAE", "r2": "R2"}
HEADS |= {"balanced_accuracy": "balanced accuracy"}
MEANT = ("precision", "recall", "f1", "log_loss", "roc_auc")


def format_summary(summary: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a summary, see `training.summary.summarise`."""
    formats = {"classification": format_classes, "multilabel": format_labels, "regression": format_targets}
    yield from formats[summary["task"]](summary)


def format_classes(summary: Mapping[str, Any]) -> Iterator[str]:
    """Totals, scores and confusion matrix of the classes, and mistakes."""
    classes, mean = summary["classes"], summary["mean"]
    yield f"accuracy {summary['accuracy']:.4f}"
    yield f"loss {summary['loss']:.4f}"
    yield f"balanced accuracy {format_score(summary['balanced_accuracy'])}"
    names = [str(each["class"]) for each in classes]
    matrix = summary["confusion"] if len(names) <= SHOWN_CLASSES else [[] for _ in names]
    yield f"\nerror per class{', and predicted classes' * bool(matrix[0])}"
    table = [["class", "samples", "wrong", "error", *names[: len(matrix[0])]]]
    for name, each, row in zip(names, classes, matrix, strict=True):
        table.append([name, f"{each['samples']:,}", f"{each['wrong']:,}", format_score(each["error"]), *map(str, row)])
    yield format_table(table)
    yield "\nscores per class"
    yield format_scores("class", MEANT, classes, {"mean": mean})
    yield from format_mistakes(summary["mistakes"])


def format_labels(summary: Mapping[str, Any]) -> Iterator[str]:
    """Totals, errors and scores of the labels, and mistakes."""
    yield f"subset accuracy {summary['subset_accuracy']:.4f}"
    yield f"loss {summary['loss']:.4f}"
    yield "\nerrors per label"
    table = [["label", "samples", "missed", "extra", "accuracy", "balanced accuracy"]]
    for each in summary["labels"]:
        counts = [f"{each[name]:,}" for name in ("samples", "missed", "extra")]
        table.append(
            [str(each["label"]), *counts, *(format_score(each[name]) for name in ("accuracy", "balanced_accuracy"))]
        )
    yield format_table(table)
    yield "\nscores per label"
    yield format_scores("label", MEANT, summary["labels"], {"mean": summary["mean"], "total": summary["total"]})
    yield from format_mistakes(summary["mistakes"])


def format_targets(summary: Mapping[str, Any]) -> Iterator[str]:
    """Scores of the targets, and the largest residuals."""
    targets = summary["targets"]
    yield f"R2 {summary['r2']:.4f}"
    yield f"loss {summary['loss']:.4f}"
    yield "\nerrors per target"
    mean = {"mean": {"r2": summary["r2"]}} if targets[1:] else {}  # errors of several targets have several units
    yield format_scores("target", ("rmse", "mae", "r2"), targets, mean)
    if summary["residuals"]:
        yield "\nlargest residuals"
        table = [list(summary["residuals"][0])]
        for each in summary["residuals"]:
            numbers = [f"{each[name]:.6g}" for name in ("true", "predicted", "residual")]
            table.append([str(each["index"]), str(each["target"]), *numbers])
        yield format_table(table)


def format_scores(
    what: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]]
) -> str:
    """A table of scores. names: of the scores. rows: each with its own name under `what`. last: rows below them."""
    table = [[what, *(HEADS.get(name, name) for name in names)]]
    for name, scores in [*((str(row[what]), row) for row in rows), *last.items()]:
        table.append([name, *(format_score(scores.get(each), each) for each in names)])
    return format_table(table)


def format_score(value: float | None, name: str = "") -> str:
    """A score with four decimals, an error in a target's units with six digits; "-" if it is not defined."""
    if value is None:
        return "-"
    return f"{value:.6g}" if name in ("rmse", "mae") else f"{value:.4f}"


def format_mistakes(mistakes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The worst mistakes, if there are any."""
    if mistakes:
        yield "\nworst mistakes"
        table = [list(mistakes[0])]
        for each in mistakes:
            table.append([f"{v:.4f}" if k in ("probability", "loss") else format_names(v) for k, v in each.items()])
        yield format_table(table)


def format_names(value: object) -> str:
    """A name, or several with commas between them; "-" for none."""
    return (", ".join(map(str, value)) or "-") if isinstance(value, list) else str(value)
