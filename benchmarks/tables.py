"""distnet's estimators beside scikit-learn's, on tables: python benchmarks/tables.py [TASK ...] [--again].

Trains MLPClassifier or MLPRegressor and distnet's Classifier or Regressor, all with their defaults, on five folds of
each task: in one process by turns, fold by fold, and distnet on two ranks in another. Inputs, and targets of
regression, are standardised over the training rows for all alike. Every process uses one BLAS thread per rank.

Each task is noted in docs/results/tables.json when it is complete, and is not trained a second time, unless it is named
or with --again. Then writes the table of docs/estimators.md, and prints where it falls short of what is wanted. Needs
scikit-learn and mpirun beside this Python; takes less than ten minutes on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from numpy.typing import NDArray
from results import fill

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "docs" / "results" / "tables.json"
PAGE = ROOT / "docs" / "estimators.md"
FOLDS, SEED, PREDICTIONS = 5, 0, 5
REFERENCE, NATIVE, PORTABLE, TWO = "scikit-learn", "native", "portable", "native, 2 ranks"
Estimators = dict[str, Callable[[], Any]]


class Task(NamedTuple):
    """load: returns X and y. regression: whether y are numbers to predict."""

    load: Callable[[], tuple[NDArray[Any], NDArray[Any]]]
    regression: bool = False


class Fold(NamedTuple):
    """What is measured of a fold. fit: seconds. predict: µs for all test rows."""

    score: float
    fit: float
    predict: float


def tasks() -> dict[str, Task]:
    """The tables, by their names."""
    from sklearn import datasets

    named: dict[str, Task] = {
        name: Task(partial(getattr(datasets, f"load_{name}"), return_X_y=True), name == "diabetes")
        for name in ("iris", "wine", "breast_cancer", "digits", "diabetes")
    }
    return named | {
        "make_classification": Task(
            lambda: datasets.make_classification(20_000, 50, n_informative=10, random_state=SEED)
        ),
        "make_regression": Task(lambda: datasets.make_regression(20_000, 50, noise=10, random_state=SEED), True),
    }


def estimators(regression: bool, ranks: int) -> Estimators:
    """What is compared in a process of so many ranks."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    from distnet import Classifier, Regressor

    ours = Regressor if regression else Classifier
    if ranks > 1:
        return {TWO: lambda: ours(random_state=SEED)}
    theirs = MLPRegressor if regression else MLPClassifier
    return {
        REFERENCE: lambda: theirs(random_state=SEED),
        NATIVE: lambda: ours(random_state=SEED),
        PORTABLE: lambda: ours(random_state=SEED, arithmetic="portable"),
    }


def standardise(values: NDArray[Any], train: NDArray[np.int64]) -> NDArray[Any]:
    """Columns with mean 0 and deviation 1 over the training rows; constant ones are 0."""
    deviation = values[train].std(axis=0)
    scaled: NDArray[Any] = (values - values[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled


def measure(build: Callable[[], Any], train: list[NDArray[Any]], test: list[NDArray[Any]]) -> Fold:
    """Fit an estimator on X and y, and test it. Collective."""
    estimator = build()
    begin = time.perf_counter()
    estimator.fit(*train)
    fit = time.perf_counter() - begin
    times = []
    for _ in range(PREDICTIONS):
        begin = time.perf_counter()
        estimator.predict(test[0])
        times.append(time.perf_counter() - begin)
    return Fold(estimator.score(*test), fit, 1e6 * statistics.median(times))


def measure_task(task: Task, ranks: int) -> dict[str, list[Fold]]:
    """Every estimator on every fold; who is first changes from fold to fold. Collective."""
    from sklearn.model_selection import KFold, StratifiedKFold

    X, y = task.load()
    folds = (KFold if task.regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=SEED)
    compared = estimators(task.regression, ranks)
    names = list(compared)
    found: dict[str, list[Fold]] = {name: [] for name in names}
    for number, (train, test) in enumerate(folds.split(X, y)):
        inputs = standardise(X, train)
        targets = standardise(y, train) if task.regression else y
        for name in names if number % 2 == 0 else names[::-1]:
            sides = [[array[rows] for array in (inputs, targets)] for rows in (train, test)]
            found[name].append(measure(compared[name], *sides))
    return found


def run(name: str, ranks: int) -> dict[str, list[Any]]:
    """The measurements of a task in new processes. Raises CalledProcessError if they fail."""
    command = [sys.executable, __file__, name, "--ranks", str(ranks)]
    if ranks > 1:
        command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), *command]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


def median_of(folds: list[list[float]], place: int) -> float:
    """The median over the folds of one of the measurements."""
    return statistics.median(fold[place] for fold in folds)


def table(notes: dict[str, dict[str, list[list[float]]]]) -> str:
    """A row per task and estimator."""
    lines = ["| table | estimator | score | fit, s | predict, µs |", "| --- | --- | ---: | ---: | ---: |"]
    for task, found in notes.items():
        for name, folds in found.items():
            scores = [fold[0] for fold in folds]
            score = f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f}"
            shown = f"`{task}`" if name == REFERENCE else ""
            lines.append(f"| {shown} | {name} | {score} | {median_of(folds, 1):.3g} | {median_of(folds, 2):,.0f} |")
    return "\n".join(lines)


def shortfalls(task: str, found: dict[str, list[list[float]]]) -> list[str]:
    """Where distnet is worse than what is wanted, one line each."""
    lines = []
    mean = {name: statistics.mean(fold[0] for fold in folds) for name, folds in found.items()}
    fit = {name: median_of(folds, 1) for name, folds in found.items()}
    for name in (NATIVE, PORTABLE, TWO):
        if mean[name] < mean[REFERENCE]:
            lines.append(f"{task}: {name}: score {mean[name]:.4f}, scikit-learn {mean[REFERENCE]:.4f}")
    for name, wanted in ((NATIVE, 2), (TWO, 2), (PORTABLE, 1)):
        if (ratio := fit[REFERENCE] / fit[name]) < wanted:
            lines.append(f"{task}: {name}: fits {ratio:.2f} times as fast as scikit-learn, wanted {wanted}")
    return lines


def main() -> None:
    """Measure what is missing or named, note it, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = tasks()
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(known))
    parser.add_argument("--again", action="store_true", help="measure all tasks anew")
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)  # of a process that this script starts
    options = parser.parse_args()
    if options.ranks:
        warnings.simplefilter("ignore")  # both warn where they stop before they converge
        found = measure_task(known[options.tasks[0]], options.ranks)
        from distnet import launched_world

        if launched_world().rank == 0:
            print(json.dumps(found))
        return
    notes = json.loads(NOTES.read_text()) if NOTES.exists() and not options.again else {}
    for name in known:
        if name in options.tasks or name not in notes:
            notes[name] = run(name, 1) | run(name, 2)
            notes = {task: notes[task] for task in known if task in notes}
            lines = ",\n".join(f"{json.dumps(task)}: {json.dumps(each)}" for task, each in notes.items())
            NOTES.write_text(f"{{\n{lines}\n}}\n")
            print(f"{name}: measured", flush=True)
    fill(PAGE, {"tables": table(notes)}, "tables.py")
    print("\n".join(chain.from_iterable(shortfalls(name, found) for name, found in notes.items())) or "as wanted")


if __name__ == "__main__":
    main()
