"""Exported models compute the same in onnxruntime and torch; .safetensors files are read back to the bit."""

import json
import re
import sys

import numpy as np
import pytest
from helpers import ROOT, command

from distnet import NeuralNetwork, export
from distnet.datasets.synthetic import synthetic_digits
from distnet.models.model_file import load_model
from distnet.models.onnx import to_onnx
from distnet.models.safetensors import load_safetensors, to_safetensors
from distnet.nn.functional import ACTIVATIONS
from distnet.runtime.errors import InputError

SIZES = (7, 12, 9, 4)
X = np.random.default_rng(1).normal(size=(50, 7))
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def needs(*packages):
    for package in packages:
        extra = {"torch": "peers", "onnxruntime": "test"}.get(package, package)
        pytest.importorskip(package, reason=f"needs the extra {extra}")


def network(activation="relu", dtype="float32", sizes=SIZES, arithmetic="native"):
    made = NeuralNetwork(sizes, activation, seed=3, dtype=dtype, arithmetic=arithmetic)
    for biases in made.biases:
        biases[:] = np.random.default_rng(2).normal(size=biases.shape)
    made.about = {"mean": [1.5] * 7, "deviation": [0.5, 1, 2, 3, 4, 5, 6], "classes": ["ä", "b", "c", "d"]}
    return made


def saved(folder, *, about=None, ending=".npz", **how):
    path = folder / f"model{ending}"
    made = network(**how)
    made.about = made.about if about is None else about
    made.save(path)
    return path


def exported(*arguments):
    ended = command(*arguments, module="distnet.export")
    assert (ended.status, ended.out, ended.err) == (0, f"wrote {arguments[1]}\n", "")


def refusal(*arguments):
    ended = command(*arguments, module="distnet.export")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("distnet: ")
    assert ended.err.count("\n") == 1
    return ended.err.removeprefix("distnet: ")


def by_onnxruntime(content, inputs, output="probabilities"):
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run([output], {"inputs": inputs})[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_onnxruntime_computes_our_probabilities(tmp_path, activation, dtype):
    needs("onnx", "onnxruntime")
    model = load_model(saved(tmp_path, activation=activation, dtype=dtype))
    theirs = by_onnxruntime(to_onnx(model, standardise=False), X.astype(dtype))
    assert theirs.dtype == dtype
    np.testing.assert_allclose(theirs, network(activation, dtype).forward(X), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_onnxruntime_computes_the_probabilities_of_portable_arithmetic_but_for_its_grids(tmp_path, activation):
    needs("onnx", "onnxruntime")
    how = {"activation": activation, "dtype": "float64", "arithmetic": "portable"}
    theirs = by_onnxruntime(to_onnx(load_model(saved(tmp_path, **how)), standardise=False), X)
    np.testing.assert_allclose(theirs, network(**how).forward(X), rtol=1e-5)


@pytest.mark.parametrize("sizes", [(7, 4), (7, 1), (7, 300, 4)])
def test_onnxruntime_computes_networks_of_any_depth_one_row_or_many(tmp_path, sizes):
    needs("onnx", "onnxruntime")
    content = to_onnx(load_model(saved(tmp_path, sizes=sizes)), standardise=False)
    for rows in (X[:1], X):
        theirs = by_onnxruntime(content, rows.astype("float32"))
        np.testing.assert_allclose(theirs, network(sizes=sizes).forward(rows), rtol=1e-6)


def by_both(network, dtype, rows, arithmetic="native"):
    """Probabilities by onnxruntime and by distnet, (rows, classes) float64 each, with parameters rounded to a dtype."""
    ours = NeuralNetwork(network.sizes, "relu", dtype=dtype, arithmetic=arithmetic)
    ours.parameters[:] = network.parameters
    content = to_onnx(ours.model, standardise=False)
    return by_onnxruntime(content, rows.astype(dtype)).astype("f8"), ours.forward(rows).astype("f8")


def furthest(one, other):
    """The largest relative difference of a probability, and of a row of probabilities by its norm."""
    rows = np.linalg.norm(one - other, axis=1) / np.linalg.norm(other, axis=1)
    return (np.abs(one - other) / other).max(), rows.max()


@pytest.fixture(scope="module")
def of_digits():
    """A network of the default sizes trained on synthetic digits, and 2,000 other digits."""
    images, labels = synthetic_digits(6000, seed=0)
    X = ((images.reshape(6000, -1) - images.mean()) / images.std()).astype("float32")
    made = NeuralNetwork([784, 256, 128, 10], seed=0, arithmetic="native")
    made.train(X[:4000], np.eye(10, dtype="float32")[labels[:4000]], epochs=6)
    assert made.test(X[4000:], np.eye(10)[labels[4000:]]) > 0.9
    return made, X[4000:]


def test_in_float64_a_network_of_mnists_size_is_the_same_to_12_digits(of_digits):
    needs("onnx", "onnxruntime")
    assert furthest(*by_both(of_digits[0], "float64", of_digits[1]))[0] < 1e-12


def test_in_float32_it_differs_by_rounding_no_more_than_our_own_forward_pass_does_by_the_rows_at_once(of_digits):
    needs("onnx", "onnxruntime")
    made, rows = of_digits
    exact = by_both(made, "float64", rows)[1]
    theirs, ours = by_both(made, "float32", rows)
    alone = np.concatenate([made.forward(row[None]) for row in rows]).astype("f8")
    for theirs_apart, ours_apart in zip(furthest(theirs, ours), furthest(alone, ours), strict=True):
        assert theirs_apart < 2 * ours_apart
    for theirs_off, ours_off in zip(furthest(theirs, exact), furthest(ours, exact), strict=True):
        assert theirs_off < 2 * ours_off


def test_the_bounds_in_the_page_of_export_hold_for_a_network_of_mnists_size(of_digits):
    needs("onnx", "onnxruntime")
    page = (ROOT / "docs" / "export.md").read_text()
    bounds = re.findall(r"^\| (native|portable), (float\d\d) \| below (\S+) \|$", page, re.MULTILINE)
    assert len(bounds) == 3
    made, rows = of_digits
    for arithmetic, dtype, bound in bounds:
        theirs, ours = by_both(made, dtype, rows, arithmetic)
        assert np.abs(theirs - ours).max() < float(bound), (arithmetic, dtype)


@pytest.mark.parametrize("about", [None, {"mean": 33.25, "deviation": 78.5}])
def test_with_standardise_the_graph_takes_raw_inputs(tmp_path, about):
    needs("onnx", "onnxruntime")
    source = saved(tmp_path, about=about, ending=".pkl")
    exported(source, tmp_path / "model.onnx", "--standardise")
    raw = (10 * X).astype("float32")
    moments = about or network().about
    mean, deviation = (np.asarray(moments[name], "float32") for name in ("mean", "deviation"))
    theirs = by_onnxruntime((tmp_path / "model.onnx").read_bytes(), raw)
    np.testing.assert_allclose(theirs, network().forward((raw - mean) / deviation), rtol=1e-6)


TASKS = [("regression", 3, "outputs"), ("multilabel", 3, "probabilities"), ("classification", 1, "probabilities")]


def of_task(path, task, outputs, **about):
    """Save a network of this task, with a logistic hidden layer; return it."""
    made = NeuralNetwork([7, 5, outputs], "sigmoid", seed=3, dtype="float64", arithmetic="native", task=task)
    made.about = {"mean": [1.5] * 7, "deviation": [0.5, 1, 2, 3, 4, 5, 6], **about}
    made.save(path)
    return made


@pytest.mark.parametrize(("task", "outputs", "name"), TASKS)
def test_onnxruntime_computes_the_outputs_of_every_task(tmp_path, task, outputs, name):
    needs("onnx", "onnxruntime")
    made = of_task(tmp_path / "model.npz", task, outputs)
    exported(tmp_path / "model.npz", tmp_path / "model.onnx")
    theirs = by_onnxruntime((tmp_path / "model.onnx").read_bytes(), X, name)
    np.testing.assert_allclose(theirs, made.forward(X), rtol=1e-13)


def test_with_standardise_a_regression_gives_numbers_in_the_targets_own_units(tmp_path):
    needs("onnx", "onnxruntime")
    mean, deviation = [-500.0, 0.25, 3], [80.0, 0.001, 2]
    about = {"targets": ["price", "share", "age"], "target_mean": mean, "target_deviation": deviation}
    made = of_task(tmp_path / "model.npz", "regression", 3, **about)
    standardised = (X - made.about["mean"]) / made.about["deviation"]
    for options, rows, expected in (
        (("--standardise",), X, made.forward(standardised) * deviation + mean),
        ((), standardised, made.forward(standardised)),
    ):
        exported(tmp_path / "model.npz", tmp_path / "model.onnx", *options)
        theirs = by_onnxruntime((tmp_path / "model.onnx").read_bytes(), rows, "outputs")
        np.testing.assert_allclose(theirs, expected, rtol=1e-12)
    (tmp_path / "plain").mkdir()
    made = of_task(tmp_path / "plain/model.npz", "regression", 2)
    exported(tmp_path / "plain/model.npz", tmp_path / "model.onnx", "--standardise")
    theirs = by_onnxruntime((tmp_path / "model.onnx").read_bytes(), X, "outputs")
    np.testing.assert_allclose(theirs, made.forward(standardised), rtol=1e-12)


@pytest.mark.parametrize(("task", "outputs", "name"), TASKS)
def test_a_model_of_any_task_comes_back_from_safetensors(tmp_path, task, outputs, name):
    needs("safetensors")
    source, there, back = tmp_path / "model.npz", tmp_path / "a.safetensors", tmp_path / "back.npz"
    made = of_task(
        source, task, outputs, **({"target_mean": [1.0] * 3, "target_deviation": [2.0] * 3} if task[0] == "r" else {})
    )
    exported(source, there)
    exported(there, back)
    one, other = load_model(source), load_model(back)
    assert (other.task, other.about) == (task, one.about)
    assert NeuralNetwork.load(back).forward(X).tobytes() == made.forward(X).tobytes()


def test_the_task_of_a_network_of_torchs_is_named_by_an_option(tmp_path):
    needs("safetensors")
    from safetensors.numpy import save_file

    draw = np.random.default_rng(0)
    layers = {"0.weight": draw.normal(size=(5, 7)), "0.bias": np.zeros(5), "2.weight": draw.normal(size=(2, 5))}
    save_file(layers | {"2.bias": np.ones(2)}, tmp_path / "torch.safetensors")
    logits = np.maximum(X @ layers["0.weight"].T, 0) @ layers["2.weight"].T + 1
    for task, expected in (("regression", logits), ("multilabel", 1 / (1 + np.exp(-logits)))):
        exported(tmp_path / "torch.safetensors", tmp_path / "m.npz", "--activation", "relu", "--task", task)
        np.testing.assert_allclose(NeuralNetwork.load(tmp_path / "m.npz").forward(X), expected, rtol=1e-12)
    told = refusal(tmp_path / "m.npz", tmp_path / "m.safetensors", "--task", "regression")
    assert told.startswith(f"--task: got regression, but {tmp_path}/m.npz has multilabel")


def test_an_onnx_file_says_what_it_is(tmp_path):
    needs("onnx")
    import onnx

    exported(saved(tmp_path), tmp_path / "model.onnx")
    made = onnx.load(tmp_path / "model.onnx")
    told = json.loads(made.metadata_props[0].value)
    assert (told["sizes"], told["activation"]) == (list(SIZES), "relu")
    assert told["about"]["classes"] == ["ä", "b", "c", "d"]
    assert {each.name for each in made.graph.initializer} == {
        f"{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_torch_loads_a_safetensors_file_and_computes_our_probabilities(tmp_path, activation):
    needs("safetensors", "torch")
    import torch
    from safetensors.torch import load

    made = {
        "sigmoid": torch.nn.Sigmoid(),
        "tanh": torch.nn.Tanh(),
        "relu": torch.nn.ReLU(),
        "leaky-relu": torch.nn.LeakyReLU(0.01),
        "gelu": torch.nn.GELU("tanh"),
        "identity": torch.nn.Identity(),
    }[activation]
    linear = torch.nn.Linear
    theirs = torch.nn.Sequential(linear(7, 12), made, linear(12, 9), made, linear(9, 4), torch.nn.Softmax(-1)).double()
    theirs.load_state_dict(load(to_safetensors(load_model(saved(tmp_path, activation=activation, dtype="float64")))))
    with torch.no_grad():
        probabilities = theirs(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(probabilities, network(activation, "float64").forward(X), rtol=1e-13)


@pytest.mark.parametrize(
    ("arithmetic", "dtype"), [("native", "float32"), ("native", "float64"), ("portable", "float64")]
)
def test_a_model_comes_back_from_safetensors_to_the_bit_with_all_that_was_noted(tmp_path, arithmetic, dtype):
    needs("safetensors")
    source, there, back = tmp_path / "model.npz", tmp_path / "a.safetensors", tmp_path / "back.pkl"
    made = network(dtype=dtype, arithmetic=arithmetic)
    made.input_exponent = 3 if arithmetic == "portable" else None
    made.save(source)
    exported(source, there)
    exported(there, back)
    one, other = load_model(source), load_model(back)
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert one.parameters.dtype == other.parameters.dtype
    assert (one.sizes, one.activation, one.about) == (other.sizes, other.activation, other.about)
    assert (one.arithmetic, one.input_exponent) == (other.arithmetic, other.input_exponent)
    assert other.arithmetic == arithmetic


def test_the_same_model_gives_the_same_file(tmp_path):
    needs("safetensors", "onnx")
    source = saved(tmp_path)
    for ending in ("onnx", "safetensors"):
        for name in ("a", "b"):
            exported(source, tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_a_network_of_torchs_comes_in_once_its_activation_is_named(tmp_path):
    needs("safetensors", "torch")
    import torch
    from safetensors.torch import save_file

    theirs = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
    source = tmp_path / "torch.safetensors"
    save_file(theirs.state_dict(), source)
    assert "doesn't contain the activation; name it with --activation" in refusal(source, tmp_path / "model.npz")
    exported(source, tmp_path / "model.npz", "--activation", "tanh")
    ours = NeuralNetwork.load(tmp_path / "model.npz")
    with torch.no_grad():
        logits = theirs(torch.from_numpy(X)).numpy()
    odds = np.exp(logits)
    np.testing.assert_allclose(ours.forward(X), odds / odds.sum(1, keepdims=True), rtol=1e-13)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"0.weight": np.zeros((2, 3), "f4")},
        {"0.weight": np.zeros((2, 3), "f4"), "0.bias": np.zeros(3, "f4")},
        {"0.weight": np.zeros((2, 3), "f2"), "0.bias": np.zeros(2, "f2")},
        {"0.weight": np.zeros((2, 3), "f4"), "0.bias": np.zeros(2, "f8")},
        {"0.weight": np.zeros((2, 0), "f4"), "0.bias": np.zeros(2, "f4")},
        {"conv.weight": np.zeros((2, 3, 3), "f4"), "conv.bias": np.zeros(2, "f4")},
        {
            "0.weight": np.zeros((2, 3), "f4"),
            "0.bias": np.zeros(2, "f4"),
            "2.weight": np.zeros((2, 3), "f4"),
            "2.bias": np.zeros(2, "f4"),
        },
    ],
    ids=lambda tensors: " ".join(tensors) or "none",
)
def test_other_arrays_than_a_networks_are_refused(tmp_path, tensors):
    needs("safetensors")
    from safetensors.numpy import save_file

    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=f"^model {tmp_path}/other.safetensors: [^\n]*$"):
        load_safetensors(tmp_path / "other.safetensors", "relu")


def test_damaged_safetensors_are_refused(tmp_path):
    needs("safetensors")
    good = to_safetensors(load_model(saved(tmp_path)))
    damaged = tmp_path / "damaged.safetensors"
    for content in (b"", good[:5], good[:-1], b"\xff" * 8 + good[8:], good.replace(b'"F32"', b'"X32"', 1)):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            load_safetensors(damaged, None)


@pytest.mark.parametrize(
    ("source", "target", "options", "told"),
    [
        (
            "model.npz",
            "model.h5",
            (),
            r"target: expected a name that ends in .pkl or .npz or .onnx or .safetensors, got .*model.h5",
        ),
        (
            "model.onnx",
            "model.npz",
            (),
            r"source: expected a name that ends in .pkl or .npz or .safetensors, got .*model.onnx",
        ),
        ("missing.npz", "model.onnx", (), r"model \S+missing.npz: can't be read"),
        ("missing.safetensors", "a.npz", (), r"model \S+missing.safetensors: can't be read"),
        ("model.npz", "nowhere/model.onnx", (), r"target \S+: there is no folder \S+nowhere"),
        ("model.npz", "model.onnx", ("--standardise",), "--standardise: .* holds no mean and deviation"),
        ("model.npz", "model.safetensors", ("--standardise",), "--standardise: .* can't hold it"),
        ("model.npz", "model.onnx", ("--activation", "tanh"), "--activation: got tanh, but .* has relu"),
        (
            "model.npz",
            "model.onnx",
            ("--activation", "step"),
            "--activation: expected one of sigmoid, tanh, relu, leaky-relu, gelu, identity, got 'step'",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, source, target, options, told):
    needs("onnx", "safetensors")
    saved(tmp_path, about={})
    assert re.match(told, refusal(tmp_path / source, tmp_path / target, *options))
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_target_that_is_the_source_is_refused_and_unchanged(tmp_path, monkeypatch):
    source, target = saved(tmp_path), tmp_path / "link.npz"
    target.symlink_to(source)
    before = source.read_bytes()
    monkeypatch.setattr(sys, "argv", ["export", str(source), str(target)])
    with pytest.raises(InputError, match=rf"^target {target}: is the source; name another file$"):
        export.main()
    assert source.read_bytes() == before


def test_more_parameters_than_an_onnx_file_holds_are_refused_before_it_is_written(tmp_path, monkeypatch):
    model = load_model(saved(tmp_path))
    monkeypatch.setattr(export, "ONNX_BYTES", model.parameters.nbytes - 1)
    told = r"a.onnx: 253 parameters are more than an .onnx file holds; write .safetensors$"
    with pytest.raises(InputError, match=told):
        export.write(tmp_path / "a.onnx", model, standardise=False)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("mean", ["high", [1.0], [[1.0] * 7], None, [1, [2]]])
def test_a_mean_that_fits_no_input_is_refused(tmp_path, mean):
    needs("onnx")
    source = saved(tmp_path, about={"mean": mean, "deviation": 1.0})
    assert "its mean and deviation of inputs are damaged" in refusal(source, tmp_path / "a.onnx", "--standardise")


@pytest.mark.parametrize(("package", "ending"), [("onnx", "onnx"), ("safetensors", "safetensors")])
def test_a_package_that_is_missing_is_named(tmp_path, package, ending):
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    source = saved(tmp_path)
    ended = command(source, tmp_path / f"a.{ending}", module="distnet.export", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert ended.status == 2
    assert ended.err == (f"distnet: target {tmp_path}/a.{ending}: needs {package} (not here); pip install {package}\n")
