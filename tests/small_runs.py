"""Small portable trainings, whose sha256 does not depend on the machine: `python tests/small_runs.py [NAME ...]`.

Prints a line of JSON about the machine, then one line per run: its name, the sha256 of its parameters and that of
everything else that it returns (losses, accuracies, probabilities). Needs NumPy and threadpoolctl, no MPI.
"""

import json
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from distnet.datasets.augmentation import Augmentation, Strengths
from distnet.datasets.dataset import shared_split
from distnet.datasets.synthetic import BLOCK, synthetic_digits
from distnet.nn.model import Model
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.parameters import initial_parameters, parameters_sha256
from distnet.nn.schedules import Schedule
from distnet.parallel.world import World
from distnet.portable.draws import draw_normals
from distnet.portable.environment import find_deviation
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.history import Epoch
from distnet.training.trainer import Splits, Trainer

PIXEL_MEAN, PIXEL_DEVIATION = 0.125, 0.3125  # of a pixel from 0 to 1, about
TABLE_COLUMNS, TABLE_PURPOSE = 12, 99  # the purpose of its random numbers


@dataclass(frozen=True)
class Run:
    """A small training.

    data: "digits", drawn ones, or "table", columns of random numbers of very different sizes. samples: of the training
    set; half as many are for the test. hidden: layer sizes. strengths: of the augmentation.
    """

    data: str
    samples: int
    hidden: tuple[int, ...]
    activation: str
    epochs: int
    batch_size: int
    learning_rate: float
    hyperparameters: Hyperparameters = Hyperparameters()
    schedule: Schedule = Schedule()
    dropout: float = 0.0
    label_smoothing: float = 0.0
    strengths: Strengths | None = None
    initialisation: str | None = None
    seed: int = 0


RUNS = {
    "tutorial": Run("digits", 300, (50,) * 6, "sigmoid", 1, 10, 0.1),
    "relu": Run("digits", 500, (64, 32), "relu", 2, 128, 0.1, Hyperparameters(clip_norm=0.5), Schedule("cosine", 2)),
    "tanh": Run(
        *("digits", 300, (40,), "tanh", 2, 64, 0.05, Hyperparameters("momentum", weight_decay=1e-3)),
        *(Schedule("step", decay_epochs=1.0), 0.2, 0.1),
        initialisation="xavier",
        seed=3,
    ),
    "gelu": Run(
        *("digits", 300, (40, 24), "gelu", 2, 50, 0.002, Hyperparameters("adamw", weight_decay=0.01)),
        *(Schedule("exponential", warmup_epochs=0.5), 0.1, 0.0),
        initialisation="he",
    ),
    "images": Run(
        *("digits", 200, (32,), "leaky-relu", 2, 40, 0.02, Hyperparameters("nesterov"), Schedule(), 0.0, 0.1),
        strengths=Strengths(1.0, 10.0, 10.0, 36.0, 6.0),
    ),
    "table": Run(
        *("table", 500, (24, 16), "gelu", 3, 64, 0.01, Hyperparameters("adam", clip_norm=1.0)),
        *(Schedule("cosine", 3, warmup_epochs=1.0), 0.3, 0.05),
    ),
    "softmax": Run("table", 200, (), "relu", 3, 1, 0.01),
}


draw_block = cache(partial(synthetic_digits, BLOCK))  # which is as long as to draw one


def draw_digits(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised images and one-hot targets; the functions of distnet.datasets would need files."""
    images, labels = (part[:samples] for part in draw_block(seed))
    inputs = (images.reshape(samples, -1) / 255.0 - PIXEL_MEAN) / PIXEL_DEVIATION
    return inputs, np.eye(10)[labels]


def draw_table(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal columns with deviations from 2^-8 to 8, one of them zero; the class is the largest of the first three."""
    X = draw_normals(samples * TABLE_COLUMNS, seed, TABLE_PURPOSE).reshape(samples, TABLE_COLUMNS)
    X[:, -1] = 0.0
    return X * np.ldexp(1.0, TABLE_COLUMNS - 9 - np.arange(TABLE_COLUMNS)), np.eye(3)[X[:, :3].argmax(axis=1)]


def train_small(run: Run, world: World | None = None) -> tuple[str, str]:
    """The sha256 of the trained parameters, and that of all losses, accuracies and predictions. Collective."""
    world = world or World()
    draw = draw_digits if run.data == "digits" else draw_table
    train = shared_split(world, *draw(run.samples, 0), np.float64)
    test = shared_split(world, *draw(run.samples // 2, 1), np.float64)
    sizes = (train.features, *run.hidden, train.targets.shape[1])
    background = -PIXEL_MEAN / PIXEL_DEVIATION
    augmentation = Augmentation((28, 28), run.strengths, background, np.float64) if run.strengths else None
    regularisation = Regularisation(run.dropout, run.label_smoothing, augmentation)
    config = TrainingConfig(
        run.learning_rate, run.batch_size, run.hyperparameters, run.schedule, regularisation, run.seed
    )
    parameters = initial_parameters(sizes, run.activation, run.seed, np.float64, run.initialisation)
    model = Model(sizes, run.activation, parameters, arithmetic="portable")
    trainer = Trainer(world, model, Splits(train, test), config)
    numbers: list[float] = []

    def collect(epoch: Epoch) -> None:
        assert epoch.test is not None
        assert epoch.test.tutorial_loss is not None
        numbers.extend((epoch.loss, epoch.learning_rate, *epoch.test))

    trainer.run(run.epochs, collect, tutorial_loss=True)
    _, guesses, probabilities, losses = trainer.predictions()
    results = np.concatenate([numbers, guesses, probabilities, losses])
    if not np.isfinite(results).all():
        raise ValueError(f"{run} diverged, and NaN has many bits")
    return parameters_sha256(trainer.close()), parameters_sha256(results)


def loaded_libraries() -> list[str]:
    """The BLAS libraries in memory, for those that threadpoolctl does not know; "none" if there is none."""
    maps = Path("/proc/self/maps")
    paths = {Path(line.split()[-1]) for line in (maps.read_text().splitlines() if maps.exists() else ()) if "/" in line}
    names = {f"{path.parent.name}/{path.name}" for path in paths if re.search("blas|blis|mkl|atlas", path.name)}
    return sorted(names) or ["none"]


def describe_machine() -> dict[str, str]:
    """Processor, byte order, Python, NumPy, BLAS, and what `find_deviation` finds here."""
    libraries: list[str] = [
        " ".join(filter(None, (each["internal_api"], each["version"], each.get("architecture", ""))))
        for each in threadpool_info()
        if each["user_api"] == "blas"
    ]
    return {
        "processor": platform.machine(),
        "byte order": sys.byteorder,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": ", ".join(libraries or loaded_libraries()),
        "deviation": find_deviation(),
    }


def main() -> None:
    """Print as the module says."""
    print(json.dumps(describe_machine()), flush=True)
    for name in sys.argv[1:] or RUNS:
        print(name, *train_small(RUNS[name]), flush=True)


if __name__ == "__main__":
    main()
