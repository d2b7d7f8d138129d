"""Convert models to and from the formats of other programs: python -m distnet.export model.npz model.onnx."""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

from functools import partial
from importlib import import_module
from pathlib import Path

from distnet.config.parser import Parser
from distnet.config.values import path_ending_in
from distnet.models.model_file import MODEL_ENDINGS, load_model, save_model
from distnet.models.onnx import ONNX_BYTES, to_onnx
from distnet.models.safetensors import load_safetensors, to_safetensors
from distnet.models.trained import read_notes
from distnet.nn.functional import ACTIVATIONS
from distnet.nn.model import TASKS, Model
from distnet.nn.parameters import parameter_count
from distnet.runtime.command import run
from distnet.runtime.errors import InputError
from distnet.runtime.files import check_writable, is_same_file, write_content
from distnet.runtime.text import to_printable

SOURCES, TARGETS = (*MODEL_ENDINGS, ".safetensors"), (*MODEL_ENDINGS, ".onnx", ".safetensors")
PACKAGES = {".onnx": "onnx", ".safetensors": "safetensors"}


def read(path: Path, activation: str | None, task: str | None) -> Model:
    """The model in a file of any format in SOURCES. Raises InputError."""
    return load_safetensors(path, activation, task) if path.suffix == ".safetensors" else load_model(path)


def write(path: Path, model: Model, standardise: bool) -> None:
    """Write the model atomically, in the format that the extension of `path` selects.

    Raises InputError for a model that this format can't hold, and a file that can't be written.
    """
    if path.suffix in MODEL_ENDINGS:
        return save_model(path, model)
    if path.suffix == ".onnx" and model.parameters.nbytes > ONNX_BYTES:
        problem = f"{parameter_count(model.sizes):,} parameters are more than an .onnx file holds"
        raise InputError(path, problem, "write .safetensors")
    content = to_onnx(model, standardise) if path.suffix == ".onnx" else to_safetensors(model)
    write_content(path, content, str(path))


def build_parser() -> Parser:
    """The parser of `python -m distnet.export`."""
    parser = Parser(prog="python -m distnet.export", description="Convert a model to another format.")
    parser.add_argument("source", type=partial(path_ending_in, SOURCES), help=f"model to read: {', '.join(SOURCES)}")
    parser.add_argument("target", type=partial(path_ending_in, TARGETS), help=f"file to write: {', '.join(TARGETS)}")
    parser.add_argument(
        "--standardise",
        action="store_true",
        help="raw inputs, and numbers of a regression in the targets' own units (.onnx only)",
    )
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, help="activation of a .safetensors file that doesn't name it, as PyTorch's"
    )
    parser.add_argument(
        "--task", choices=TASKS, help="task of a .safetensors file that doesn't name it (default: classification)"
    )
    return parser


def main() -> None:
    """Run the command."""
    typed = build_parser().parse_args()
    for name, path in (("source", typed.source), ("target", typed.target)):
        if package := PACKAGES.get(path.suffix):
            try:
                import_module(package)
            except ImportError as error:
                raise InputError(f"{name} {path}", f"needs {package} ({error})", f"pip install {package}") from None
    check_writable(typed.target, "target")
    if is_same_file(typed.source, typed.target):
        raise InputError(f"target {typed.target}", "is the source", "name another file")
    model = read(typed.source, typed.activation, typed.task)
    for option in ("activation", "task"):
        value, stored = getattr(typed, option), getattr(model, option)
        if value not in (None, stored):
            raise InputError(f"--{option}", f"got {value}, but {typed.source} has {stored}", "leave it out")
    if typed.standardise and typed.target.suffix != ".onnx":
        raise InputError("--standardise", f"{typed.target} can't hold it", "write .onnx, or leave it out")
    if typed.standardise and read_notes(typed.source, model).mean is None:
        raise InputError("--standardise", f"{typed.source} holds no mean and deviation of its inputs", "leave it out")
    write(typed.target, model, typed.standardise)
    print(f"wrote {to_printable(typed.target)}")


if __name__ == "__main__":
    run(main)
