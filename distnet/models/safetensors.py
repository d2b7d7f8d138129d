"""Import from and export to .safetensors files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnet.models.model_file import FORMAT, VERSION, build_model, describe
from distnet.nn.model import Model
from distnet.nn.parameters import layer_views
from distnet.runtime.arrays import Array
from distnet.runtime.errors import RESTORE, InputError, first_line


def metadata(model: Model) -> dict[str, str]:
    """The metadata of an exported file: a single string, because safetensors reorders several."""
    return {"distnet": json.dumps(describe(model))}


def name_tensors(model: Model) -> dict[str, Array]:
    """Weights (inputs, outputs) and biases (outputs,), by their names in a torch.nn.Sequential with activations."""
    named = {}
    for number, layer in enumerate(layer_views(model.parameters, model.sizes)):
        named[f"{2 * number}.weight"], named[f"{2 * number}.bias"] = layer[:-1], layer[-1]
    return named


def to_safetensors(model: Model) -> bytes:
    """The content of a .safetensors file; weights are (outputs, inputs), as in torch."""
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(array.T) for name, array in name_tensors(model).items()}
    content: bytes = save(tensors, metadata(model))
    return content


def load_safetensors(path: Path, activation: str | None, task: str | None = None) -> Model:
    """Read a .safetensors file of `to_safetensors`, or of a torch.nn.Sequential of linear layers and activations.

    activation, task: for a file that doesn't contain them; without a task, it is a classification. Raises InputError if
    the file is missing, damaged or contains anything else. Nothing in it is executed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {}).get("distnet", "{}"))
            tensors: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = {"format": FORMAT, "version": VERSION, "activation": activation, "about": {}} | described
        header.setdefault("task", "classification" if described or task is None else task)
    except OSError as error:
        raise InputError(f"model {path}", f"can't be read ({error.strerror or error})", "name a model") from None
    except (SafetensorError, TypeError, ValueError, RecursionError) as error:
        problem = f"is damaged, or doesn't contain a network ({first_line(error)})"
        raise InputError(f"model {path}", problem, RESTORE) from None
    if header["activation"] is None:
        raise InputError(f"model {path}", "doesn't contain the activation", "name it with --activation")
    sizes: list[int] = []
    pieces: list[Array] = []
    for number in range(0, len(tensors), 2):
        names = f"{number}.weight", f"{number}.bias"
        weights, biases = (tensors.get(name, np.zeros(0)) for name in names)
        fits = weights.ndim == 2 and biases.shape == weights.shape[:1] and sizes[-1:] in ([], [weights.shape[1]])
        if not fits or not weights.dtype == biases.dtype in (np.float32, np.float64):
            raise InputError(
                f"model {path}",
                "is not a network of distnet's",
                f"save {' and '.join(names)}, float32 or float64, of shapes (outputs, inputs) and (outputs,), "
                "with as many inputs as the layer before has outputs",
            )
        sizes = [*(sizes or [weights.shape[1]]), weights.shape[0]]
        pieces += [weights.T.reshape(-1), biases]
    return build_model(path, header | {"sizes": sizes, "parameters": np.concatenate(pieces) if pieces else None})
