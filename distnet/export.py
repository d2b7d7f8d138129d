"""Models in the forms of others: python -m distnet.export model.npz model.onnx, or .safetensors out and in."""

from distnet import guard

if __name__ == "__main__":
    guard.watch()  # before any import that can fail

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnet.config import ACTIVATIONS, MODEL_ENDINGS, Parser, file_path
from distnet.errors import InputError
from distnet.files import check_writable, is_same_file, write_content
from distnet.functional import GELU_CUBIC, GELU_LINEAR, LEAK, Array
from distnet.guard import run
from distnet.layers import layer_views, parameter_count
from distnet.model_file import FORMAT, VERSION, Model, checked, load_model, save_model
from distnet.text import printable

SOURCES, TARGETS = (*MODEL_ENDINGS, ".safetensors"), (*MODEL_ENDINGS, ".onnx", ".safetensors")
PACKAGES = {".onnx": "onnx", ".safetensors": "safetensors"}
OPSET, IR = 13, 7  # of ONNX 1.8; what came later isn't needed
# ONNX's operators for each activation, with their second operands; z are the logits, others constants. onnxruntime's
# LeakyRelu knows no float64, and its Gelu computes it in single precision.
OPERATORS: dict[str, list[tuple[str, ...]]] = {
    "sigmoid": [("Sigmoid",)],
    "tanh": [("Tanh",)],
    "relu": [("Relu",)],
    "leaky-relu": [("Mul", "leak"), ("Max", "z")],
    "gelu": [
        *(("Mul", "z"), ("Mul", "cubic"), ("Add", "one"), ("Mul", "z"), ("Mul", "linear"), ("Tanh",)),
        *(("Add", "one"), ("Mul", "z"), ("Mul", "half")),
    ],
}
CONSTANTS = {"leak": LEAK, "one": 1.0, "half": 0.5, "cubic": GELU_CUBIC, "linear": GELU_LINEAR}
ONNX_BYTES = 2**31 - 2**20  # what one .onnx file can hold, less what names take


def description(model: Model) -> dict[str, str]:
    """What an exported file says of the model beside its numbers: as one text, since safetensors reorder several."""
    header = {"format": FORMAT, "version": VERSION, "sizes": model.sizes, "activation": model.activation}
    return {"distnet": json.dumps(header | {"about": model.about})}


def torch_names(model: Model) -> dict[str, Array]:
    """Weights (inputs, outputs) and biases (outputs,) by the names of a torch.nn.Sequential, activations between."""
    named = {}
    for number, layer in enumerate(layer_views(model.parameters, model.sizes)):
        named[f"{2 * number}.weight"], named[f"{2 * number}.bias"] = layer[:-1], layer[-1]
    return named


def safetensors_of(model: Model) -> bytes:
    """The model as a .safetensors file, whose weights are (outputs, inputs), as torch has them."""
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(array.T) for name, array in torch_names(model).items()}
    content: bytes = save(tensors, description(model))
    return content


def load_safetensors(path: Path, activation: str | None) -> Model:
    """The model in a .safetensors file of `safetensors_of`, or of a torch.nn.Sequential of such layers.

    activation: of a file that names none. Raises InputError for a file that is missing, damaged or of another kind;
    nothing that it holds is run. Collective: no.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {}).get("distnet", "{}"))
            tensors: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = {"format": FORMAT, "version": VERSION, "activation": activation, "about": {}} | described
    except OSError as error:
        raise InputError(f"model {path}: can't be read ({error.strerror or error}); name a model") from None
    except (SafetensorError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"model {path}: is damaged, or holds other arrays than a network's ({reason})") from None
    if header["activation"] is None:
        raise InputError(f"model {path}: doesn't say its activation; name it with --activation")
    sizes: list[int] = []
    pieces: list[Array] = []
    for number in range(0, len(tensors), 2):
        names = f"{number}.weight", f"{number}.bias"
        weights, biases = (tensors.get(name, np.zeros(0)) for name in names)
        fits = weights.ndim == 2 and biases.shape == weights.shape[:1] and sizes[-1:] in ([], [weights.shape[1]])
        if not fits or not weights.dtype == biases.dtype in (np.float32, np.float64):
            raise InputError(
                f"model {path}: isn't a network of distnet's; {' and '.join(names)} have to be there, float32 or "
                "float64, of shapes (outputs, inputs) and (outputs,) that fit the layer before"
            )
        sizes = [*(sizes or [weights.shape[1]]), weights.shape[0]]
        pieces += [weights.T.reshape(-1), biases]
    return checked(path, header | {"sizes": sizes, "parameters": np.concatenate(pieces) if pieces else None})


def knows_moments(model: Model) -> bool:
    """Whether it says what its inputs were standardised by."""
    try:
        moments = [np.asarray(model.about[name], np.float64) for name in ("mean", "deviation")]
    except (KeyError, TypeError, ValueError):
        return False
    return all(each.shape in ((), (model.sizes[0],)) and np.isfinite(each).all() for each in moments)


def onnx_of(model: Model, standardise: bool) -> bytes:
    """The model as an ONNX graph from "inputs" (rows, features) to "probabilities" (rows, classes), in its dtype.

    standardise: the graph itself takes the model's mean from its inputs and divides them by its deviation.
    """
    from onnx import checker, helper, numpy_helper

    steps: list[tuple[str, ...]] = []
    if standardise:
        steps += [("Sub", "mean"), ("Div", "deviation")]
    for layer in range(len(model.sizes) - 1):
        steps += [*(OPERATORS[model.activation] if layer else ()), ("Gemm", f"{2 * layer}.weight", f"{2 * layer}.bias")]
    nodes, last, logits = [], "inputs", ""
    for number, (operator, *others) in enumerate(steps):
        made = f"{operator}_{number}"
        nodes.append(helper.make_node(operator, [last, *(logits if name == "z" else name for name in others)], [made]))
        last = made
        logits = made if operator == "Gemm" else logits
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=-1))
    dtype = model.parameters.dtype
    named = torch_names(model)
    for name in {name for _, *others in steps for name in others} - named.keys() - {"z"}:
        named[name] = np.asarray(CONSTANTS[name] if name in CONSTANTS else model.about[name], dtype)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        nodes,
        "distnet",
        [helper.make_tensor_value_info("inputs", kind, ["rows", model.sizes[0]])],
        [helper.make_tensor_value_info("probabilities", kind, ["rows", model.sizes[-1]])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in sorted(named.items())],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(whole, description(model))
    checker.check_model(whole, full_check=True)
    content: bytes = whole.SerializeToString()
    return content


def read(path: Path, activation: str | None) -> Model:
    """The model in a file of any kind that is a source. Raises InputError. Collective: no."""
    return load_safetensors(path, activation) if path.suffix == ".safetensors" else load_model(path)


def write(path: Path, model: Model, standardise: bool) -> None:
    """Write the model in the form that the ending of `path` names, whole or not at all. Collective: no.

    Raises InputError for a model that this form can't hold, or a disk that refuses.
    """
    if path.suffix in MODEL_ENDINGS:
        return save_model(path, model)
    if path.suffix == ".onnx" and model.parameters.nbytes > ONNX_BYTES:
        raise InputError(f"{path}: {parameter_count(model.sizes):,} parameters are more than an .onnx file holds")
    content = onnx_of(model, standardise) if path.suffix == ".onnx" else safetensors_of(model)
    write_content(path, content, f"{path}:")


def parser() -> Parser:
    """The parser of `python -m distnet.export`."""
    made = Parser(prog="python -m distnet.export", description="Write a model in the form of another program.")
    made.add_argument("source", type=file_path, help=f"a model: {', '.join(SOURCES)}")
    made.add_argument("target", type=file_path, help=f"the file to write: {', '.join(TARGETS)}")
    made.add_argument(
        "--standardise",
        action="store_true",
        help="of .onnx: take raw inputs, and standardise them by the model's own mean and deviation",
    )
    made.add_argument(
        "--activation", choices=ACTIVATIONS, help="of a .safetensors that doesn't name it, as torch's don't"
    )
    return made


def main() -> None:
    """Read one file and write the other."""
    typed = parser().parse_args()
    for name, path, endings in (("source", typed.source, SOURCES), ("target", typed.target, TARGETS)):
        if path.suffix not in endings:
            raise InputError(f"{name} {path}: doesn't end in {', '.join(endings)}")
        if package := PACKAGES.get(path.suffix):
            try:
                import_module(package)
            except ImportError as error:
                raise InputError(f"{name} {path}: needs {package} ({error}): pip install {package}") from None
    check_writable(typed.target, "target")
    if is_same_file(typed.source, typed.target):
        raise InputError(f"target {typed.target}: that is the source; name another file")
    model = read(typed.source, typed.activation)
    if typed.activation not in (None, model.activation):
        raise InputError(f"--activation {typed.activation}: {typed.source} says {model.activation}; leave it out")
    if typed.standardise and typed.target.suffix != ".onnx":
        raise InputError(f"--standardise: {typed.target} can't hold it; write .onnx, or leave it out")
    if typed.standardise and not knows_moments(model):
        raise InputError(f"--standardise: {typed.source} holds no mean and deviation of its inputs; leave it out")
    write(typed.target, model, typed.standardise)
    print(f"wrote {printable(typed.target)}")


if __name__ == "__main__":
    run(main)
