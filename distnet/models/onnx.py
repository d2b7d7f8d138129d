"""Export to ONNX."""

import numpy as np

from distnet.models.safetensors import metadata, name_tensors
from distnet.nn.functional import GELU_CUBIC, GELU_LINEAR, LEAK
from distnet.nn.model import Model

OPSET, IR = 13, 7  # of ONNX 1.8; nothing newer is needed
# ONNX operators per activation, each with its second operand: z for the logits, else a constant. onnxruntime's
# LeakyRelu doesn't support float64, and its Gelu computes float64 in single precision.
OPERATORS: dict[str, list[tuple[str, ...]]] = {
    "sigmoid": [("Sigmoid",)],
    "tanh": [("Tanh",)],
    "relu": [("Relu",)],
    "leaky-relu": [("Mul", "leak"), ("Max", "z")],
    "identity": [],
    "gelu": [
        *(("Mul", "z"), ("Mul", "cubic"), ("Add", "one"), ("Mul", "z"), ("Mul", "linear"), ("Tanh",)),
        *(("Add", "one"), ("Mul", "z"), ("Mul", "half")),
    ],
}
# Operator, name and attributes of each output layer.
OUTPUTS: dict[str, tuple[str, str, dict[str, int]]] = {
    "softmax": ("Softmax", "probabilities", {"axis": -1}),
    "sigmoid": ("Sigmoid", "probabilities", {}),
    "identity": ("Identity", "outputs", {}),
}
CONSTANTS = {"leak": LEAK, "one": 1.0, "half": 0.5, "cubic": GELU_CUBIC, "linear": GELU_LINEAR}
ONNX_BYTES = 2**31 - 2**20  # the limit of one .onnx file, less what names take


def to_onnx(model: Model, standardise: bool) -> bytes:
    """An ONNX graph from "inputs" (rows, features) to its outputs (rows, outputs), in the model's dtype.

    The outputs are "probabilities", and "outputs" in regression. A single output of a classification is the probability
    of the second class.

    standardise: whether the graph standardises its inputs with the model's mean and deviation, and gives the outputs of
    a regression in the targets' own units; see `read_notes`.
    """
    from onnx import checker, helper, numpy_helper

    steps: list[tuple[str, ...]] = []
    if standardise:
        steps += [("Sub", "mean"), ("Div", "deviation")]
    for layer in range(len(model.sizes) - 1):
        steps += [*(OPERATORS[model.activation] if layer else ()), ("Gemm", f"{2 * layer}.weight", f"{2 * layer}.bias")]
    if standardise and model.task == "regression" and model.about.get("target_mean") is not None:
        steps += [("Mul", "target_deviation"), ("Add", "target_mean")]
    nodes, last, logits = [], "inputs", ""
    for number, (operator, *others) in enumerate(steps):
        inputs, last = [last, *(logits if other == "z" else other for other in others)], f"{operator}_{number}"
        nodes.append(helper.make_node(operator, inputs, [last]))
        logits = last if operator == "Gemm" else logits
    operator, output, attributes = OUTPUTS[model.output]
    nodes.append(helper.make_node(operator, [last], [output], **attributes))
    dtype = model.parameters.dtype
    named = name_tensors(model)
    for other in {name for _, *others in steps for name in others} - named.keys() - {"z"}:
        named[other] = np.asarray(CONSTANTS[other] if other in CONSTANTS else model.about[other], dtype)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        nodes,
        "distnet",
        [helper.make_tensor_value_info("inputs", kind, ["rows", model.sizes[0]])],
        [helper.make_tensor_value_info(output, kind, ["rows", model.sizes[-1]])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in sorted(named.items())],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(whole, metadata(model))
    checker.check_model(whole, full_check=True)
    content: bytes = whole.SerializeToString()
    return content
