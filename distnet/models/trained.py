"""A trained network and what its file contains of the data: standardisation, names of classes and columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.models.model_file import load_model
from distnet.nn.model import Model
from distnet.nn.parameters import parameter_count
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import RESTORE, InputError

Class = str | int | float


class Trained(NamedTuple):
    """A trained network. model: one copy of the parameters per node.

    mean, deviation: float64, () for all inputs together or (inputs,) for each. classes: names, in the order of the
    outputs. columns: names of a table's columns, in the order of the inputs. targets: names of its target columns, one
    for classification. target_mean, target_deviation: (outputs,), of the standardised targets of regression. Each is
    None if the file doesn't contain it.
    """

    path: Path
    model: Model
    mean: NDArray[np.float64] | None
    deviation: NDArray[np.float64] | None
    classes: list[Class] | None
    columns: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    target_mean: NDArray[np.float64] | None = None
    target_deviation: NDArray[np.float64] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The options of the run that trained it; empty if the file contains none."""
        config = self.model.about.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def names(self) -> list[Class]:
        """The names of the classes, or of the labels or targets; numbers from 0 if the file contains none."""
        outputs = self.model.sizes[-1]
        if self.model.task == "classification":
            return self.classes or list(range(max(outputs, 2)))  # one output is one of two classes
        return [*(self.targets or range(outputs))]

    def standardise(self, values: NDArray[Any], out: Array) -> None:
        """Write (values - mean) / deviation, with the bits of training.

        values: (rows, inputs), as read; copied if there is no mean. out: the same shape.
        """
        if self.mean is None or self.deviation is None:
            out[:] = values
        elif self.mean.ndim:
            with np.errstate(over="ignore"):
                out[:] = (values - self.mean) / self.deviation
        else:
            with np.errstate(over="ignore"):
                out[:] = values
            np.subtract(out, self.mean.astype(out.dtype), out=out)
            np.divide(out, self.deviation.astype(out.dtype), out=out)

    def standardise_targets(self, values: NDArray[Any], out: Array) -> None:
        """Write targets in their own units, (rows, outputs), as the network predicts them; other tasks' as they are."""
        if self.target_mean is not None and self.target_deviation is not None:
            values = (values - self.target_mean) / self.target_deviation
        with np.errstate(over="ignore"):
            out[:] = values

    def in_own_units(self, outputs: Array) -> Array:
        """The network's outputs (rows, outputs), and for regression the predicted targets in their own units."""
        if self.target_mean is None or self.target_deviation is None:
            return outputs
        return outputs * self.target_deviation + self.target_mean


def load_trained(world: World, path: Path) -> Trained:
    """Read a model on rank 0; nothing in it is executed. Raises InputError on every rank. Collective."""

    def read() -> tuple[Trained, Array]:
        model = load_model(path)
        return read_notes(path, replace(model, parameters=model.parameters[:0])), model.parameters

    trained, kept = world.keep_on_root(read)
    parameters = world.shared((parameter_count(trained.model.sizes),), trained.model.parameters.dtype)
    if kept is not None:
        parameters[:] = kept
    world.send_to_nodes(parameters)
    return trained._replace(model=replace(trained.model, parameters=parameters))


def read_notes(path: Path, model: Model) -> Trained:
    """The model with what its `about` contains of the data. Raises InputError if that is damaged."""
    names = ("mean", "deviation", "classes", "columns", "targets")
    mean, deviation, classes, columns, targets = (model.about.get(name) for name in names)
    if targets is None and (label := model.about.get("label")) is not None:  # of distnet 0.1
        targets = [label]
    inputs, outputs = model.sizes[0], model.sizes[-1]
    moments = read_moments(mean, deviation)
    target_moments = read_moments(model.about.get("target_mean"), model.about.get("target_deviation"))
    named = 2 if model.task == "classification" and outputs == 1 else outputs  # an output may be one of two classes'
    is_valid = {
        "mean and deviation of inputs": moments is None
        or (moments.shape in ((2,), (2, inputs)) and are_moments(moments)),
        "mean and deviation of targets": target_moments is None
        or (target_moments.shape == (2, outputs) and are_moments(target_moments)),
        "names of targets": targets is None
        or (are_all(targets, str) and len(targets) == (1 if model.task == "classification" else outputs)),
        "names of classes": not classes
        or (are_all(classes, Class) and len(set(map(str, classes))) == len(classes) == named),
        "names of columns": columns is None or (are_all(columns, str) and len(columns) == inputs),
    }
    for what, valid in is_valid.items():
        if not valid:
            raise InputError(f"model {path}", f"its {what} are damaged", RESTORE)
    mean, deviation = (None, None) if moments is None else map(np.asarray, moments)
    target_mean, target_deviation = (None, None) if target_moments is None else map(np.asarray, target_moments)
    return Trained(
        path,
        model,
        mean,
        deviation,
        classes or None,
        None if columns is None else tuple(columns),
        None if targets is None else tuple(targets),
        target_mean,
        target_deviation,
    )


def read_moments(mean: Any, deviation: Any) -> NDArray[np.float64] | None:
    """Mean and deviation, as one array; None if there are none, and NaN if they are not numbers."""
    try:
        return None if mean is None and deviation is None else np.array([mean, deviation], np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([np.nan])


def are_moments(moments: NDArray[np.float64]) -> bool:
    """Whether means and deviations are finite, and deviations positive."""
    return bool(np.isfinite(moments).all() and (moments[1] > 0).all())


def are_all(value: object, kind: type | UnionType) -> bool:
    """Whether `value` is a list of items of this type."""
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
