"""A trained network with what its file says of the data: standardisation, names of classes and columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnet.models.model_file import load_model
from distnet.nn.model import Model
from distnet.nn.parameters import parameter_count
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError

Class = str | int | float


class Trained(NamedTuple):
    """A trained network. model: its parameters are one copy per node.

    mean, deviation: float64, () for all inputs or (inputs,) for each. classes: names, in the order of the outputs.
    columns: names of a table's columns, in the order of the inputs. label: the name of the column of classes. Each is
    None if the file has none.
    """

    path: Path
    model: Model
    mean: NDArray[np.float64] | None
    deviation: NDArray[np.float64] | None
    classes: list[Class] | None
    columns: tuple[str, ...] | None = None
    label: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The options of the run that trained it; empty if the file has none."""
        found = self.model.about.get("config")
        return found if isinstance(found, dict) else {}

    def standardise(self, values: NDArray[Any], out: Array) -> None:
        """Write rows as training saw them, with the same bits: (values - mean) / deviation.

        values: (rows, inputs), as read; copied if the model has no mean. out: the same shape.
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


def load_trained(world: World, path: Path) -> Trained:
    """Read a model on rank 0; nothing in it is executed. Raises InputError on every rank. Collective."""
    read: list[Array] = []

    def look() -> Trained:
        model = load_model(path)
        read.append(model.parameters)
        return read_notes(path, replace(model, parameters=model.parameters[:0]))

    found = world.on_root(look)
    parameters = world.shared((parameter_count(found.model.sizes),), found.model.parameters.dtype)
    if world.rank == 0:
        parameters[:] = read[0]
    world.send_to_nodes(parameters)
    return found._replace(model=replace(found.model, parameters=parameters))


def read_notes(path: Path, model: Model) -> Trained:
    """The model with the notes in its `about`. Raises InputError if they are damaged."""
    mean, deviation, classes = (model.about.get(name) for name in ("mean", "deviation", "classes"))
    try:
        moments = None if mean is None and deviation is None else np.array([mean, deviation], np.float64)
    except (TypeError, ValueError, OverflowError):
        moments = np.array([np.nan])
    if moments is not None and not (
        moments.shape in ((2,), (2, model.sizes[0])) and np.isfinite(moments).all() and (moments[1] > 0).all()
    ):
        raise InputError(
            f"model {path}", "its mean and deviation of inputs are damaged", "take the file as it was written"
        )
    if classes is not None and not (
        isinstance(classes, list)
        and all(isinstance(name, Class) for name in classes)
        and len(set(map(str, classes))) == len(classes) == model.sizes[-1]
    ):
        raise InputError(f"model {path}", "its names of classes are damaged", "take the file as it was written")
    columns, label = model.about.get("columns"), model.about.get("label")
    if not (columns is None or (is_names(columns) and len(columns) == model.sizes[0])) or not is_names([label or ""]):
        raise InputError(f"model {path}", "its names of columns are damaged", "take the file as it was written")
    names = None if columns is None else tuple(columns), label
    if moments is None:
        return Trained(path, model, None, None, classes, *names)
    return Trained(path, model, np.asarray(moments[0]), np.asarray(moments[1]), classes, *names)


def is_names(value: object) -> bool:
    """Whether it is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
