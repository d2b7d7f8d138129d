"""Accuracy of `Classifier` with each kind of initial weights, and of MLPClassifier: benchmarks/initialisation.py.

Prints the table and writes it into docs/mathematics.md; with an argument, another activation than relu, it only prints
it.

Both have their default parameters. Seed k splits the rows (a quarter to test on, stratified), draws those of circles
and moons, and is the random_state. "difference" is the mean over the seeds of the default's accuracy less that of
scikit-learn, and its standard error.
"""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from results import fill
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_circles, make_moons
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from distnet import Classifier
from distnet.nn.parameters import INITIALISATIONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "mathematics.md"
SEEDS = 20
KINDS = (None, *INITIALISATIONS)
FIXED = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
DRAWN = {
    "circles": lambda seed: make_circles(300, noise=0.1, factor=0.5, random_state=seed),
    "moons": lambda seed: make_moons(300, noise=0.2, random_state=seed),
}


def parts(name: str, scaled: bool, seed: int) -> list[np.ndarray]:
    """Rows to learn and to test on, and their classes."""
    X, y = DRAWN[name](seed) if name in DRAWN else FIXED[name](return_X_y=True)
    learn, test, *classes = train_test_split(X, y, random_state=seed, stratify=y)
    if scaled:
        scaler = StandardScaler().fit(learn)
        learn, test = scaler.transform(learn), scaler.transform(test)
    return [learn, test, *classes]


def accuracies(name: str, scaled: bool, activation: str) -> dict[str, np.ndarray]:
    """Of each model, by seed."""
    theirs = {"sigmoid": "logistic"}.get(activation, activation)
    models = {"sklearn": MLPClassifier(activation=theirs)}
    models |= {kind or "default": Classifier(activation=activation, initialisation=kind) for kind in KINDS}
    found: dict[str, list[float]] = {model: [] for model in models}
    for seed in range(SEEDS):
        learn, test, classes, test_classes = parts(name, scaled, seed)
        for model, estimator in models.items():
            estimator.set_params(random_state=seed).fit(learn, classes)
            found[model].append(estimator.score(test, test_classes))
    return {model: np.array(values) for model, values in found.items()}


def lines(activation: str) -> Iterator[str]:
    """The lines of the table: one per data set, raw and scaled."""
    models = ("sklearn", "default", *INITIALISATIONS)
    yield f"| {activation} | inputs | {' | '.join(models)} | difference |"
    yield "| --- | --- |" + " ---: |" * (len(models) + 1)
    for name in (*FIXED, *DRAWN):
        for scaled in (False, True):
            found = accuracies(name, scaled, activation)
            gain = found["default"] - found["sklearn"]
            means = " | ".join(f"{found[model].mean():.3f}" for model in models)
            error = gain.std(ddof=1) / SEEDS**0.5
            yield f"| {name} | {'scaled' if scaled else 'raw'} | {means} | {gain.mean():+.3f} ± {error:.3f} |"


def main() -> None:
    """Print the table, and write it."""
    table = []
    for line in lines(sys.argv[1] if len(sys.argv) > 1 else "relu"):
        print(line, flush=True)
        table.append(line)
    if len(sys.argv) == 1:
        fill(PAGE, {"initialisation": "\n".join(table)}, "initialisation.py")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # that 200 epochs aren't enough
    main()
