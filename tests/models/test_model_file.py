"""Saved models are loaded to the bit; any other file is refused, and nothing in it is executed."""

import json
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distnet import NeuralNetwork
from distnet.models.model_file import load_model, save_model
from distnet.nn.model import ARITHMETICS, Model
from distnet.nn.parameters import parameter_count
from distnet.runtime.errors import InputError

SIZES = (3, 4, 2)
COUNT = 3 * 4 + 4 + 4 * 2 + 2
ENDINGS = [".pkl", ".npz"]


def model(dtype="float32", arithmetic="native"):
    parameters = np.random.default_rng(0).normal(size=COUNT).astype(dtype)
    exponent = {"native": None, "portable": 3}[arithmetic]
    return Model(SIZES, "tanh", parameters, {"note": [1, 2.5, None, {"a": True}], "seed": 7}, arithmetic, exponent)


def saved(folder, ending=".pkl", *kind):
    path = Path(folder) / f"model{ending}"
    save_model(path, model(*kind))
    return path


def write(path, content):
    """Write any content as a model file, in the format of the ending of `path`."""
    header = {name: value for name, value in content.items() if name != "parameters"}
    parameters = content["parameters"]
    if path.suffix == ".npz":
        np.savez(path, header=np.array(json.dumps(header)), parameters=parameters)
    else:
        array = Call(np.frombuffer, parameters.tobytes(), parameters.dtype.str)
        path.write_bytes(pickle.dumps(header | {"parameters": array}, 4))
    return path


class Call:
    """An object whose pickle is a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def refusal(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        load_model(path)
    message = str(refused.value)
    assert message.startswith(f"model {path}: ")
    assert refused.value.remedy
    assert "\n" not in message
    return message


def same(one, other):
    return (
        (one.sizes, one.activation, one.about) == (other.sizes, other.activation, other.about)
        and (one.arithmetic, one.input_exponent) == (other.arithmetic, other.input_exponent)
        and one.parameters.dtype == other.parameters.dtype
        and one.parameters.tobytes() == other.parameters.tobytes()
    )


@pytest.mark.parametrize("kind", [("float32", "native"), ("float64", "native"), ("float64", "portable")])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_comes_back_to_the_bit(tmp_path, ending, kind):
    assert same(load_model(saved(tmp_path, ending, *kind)), model(*kind))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_of_version_1_is_native_and_predicts_as_before(tmp_path, ending):
    older = pickle.loads(saved(tmp_path).read_bytes()) | {"version": 1}
    del older["arithmetic"], older["input_exponent"]
    path = write(tmp_path / f"older{ending}", older)
    assert same(load_model(path), model())
    network, X = NeuralNetwork.load(path), np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    hidden = np.tanh(X @ network.weights[0] + network.biases[0])
    powers = np.exp(hidden @ network.weights[1] + network.biases[1])
    assert network.forward(X) == pytest.approx(powers / powers.sum(axis=1, keepdims=True), rel=1e-6)
    assert network.forward(X).dtype == np.float32


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trained_model_predicts_in_its_own_arithmetic(tmp_path, ending):
    X, Y = np.random.default_rng(1).normal(size=(9, 3)), np.eye(2)[np.arange(9) % 2]
    predictions = []
    for arithmetic in ARITHMETICS:
        network = NeuralNetwork(SIZES, "tanh", dtype="float64", arithmetic=arithmetic)
        network.train(X, Y, epochs=2)
        network.save(tmp_path / f"{arithmetic}{ending}")
        predictions.append(network.forward(X / 50))
        loaded = NeuralNetwork.load(tmp_path / f"{arithmetic}{ending}")
        assert loaded.arithmetic == arithmetic
        assert loaded.forward(X / 50).tobytes() == predictions[-1].tobytes()
    assert not np.array_equal(*predictions)
    assert predictions[0] == pytest.approx(predictions[1], rel=1e-5)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_network_comes_back_with_its_learning_rate_seed_and_whatever_else_was_noted(tmp_path, ending, arithmetic):
    network = NeuralNetwork(SIZES, "sigmoid", 0.25, 3, "float64", arithmetic=arithmetic)
    network.about = {"mean": 33.3}
    network.save(tmp_path / f"a{ending}")
    loaded = NeuralNetwork.load(str(tmp_path / f"a{ending}"))
    assert (loaded.sizes, loaded.activation, loaded.learning_rate, loaded.seed) == (SIZES, "sigmoid", 0.25, 3)
    assert loaded.about == network.about
    X = np.random.default_rng(1).normal(size=(5, 3))
    assert loaded.forward(X).tobytes() == network.forward(X).tobytes()
    loaded.train(X, np.eye(2)[[0, 1, 0, 1, 0]], epochs=1)


def test_a_saved_pickle_holds_an_array_for_those_who_trust_it(tmp_path):
    content = pickle.loads(saved(tmp_path).read_bytes())
    assert content["parameters"].tobytes() == model().parameters.tobytes()
    assert content["sizes"] == [3, 4, 2]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_refuses_leaves_the_old_file_and_no_other(tmp_path, ending, monkeypatch):
    path = saved(tmp_path, ending)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"can't be written \(No space left on device\)"):
        save_model(path, model("float64"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interruption_leaves_the_old_file_and_no_other(tmp_path, ending, monkeypatch):
    path = saved(tmp_path, ending)
    before = path.read_bytes()

    def interrupted(*ignored):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(path, model("float64"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_file_has_the_permissions_of_any_other_new_file(tmp_path):
    (tmp_path / "plain").touch()
    assert saved(tmp_path).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_another_ending_and_a_missing_folder_are_refused(tmp_path):
    for path, told in [
        (tmp_path / "model.h5", "expected a name that ends in .pkl or .npz"),
        (tmp_path / "no" / "model.pkl", "can't be written"),
    ]:
        with pytest.raises(InputError, match=told):
            save_model(path, model())


def test_the_content_tells_the_form_and_not_the_name(tmp_path):
    path = saved(tmp_path, ".npz").rename(tmp_path / "model.pkl")
    assert same(load_model(path), model())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "function_and_arguments",
    [
        lambda trap: (os.system, f"touch {trap}"),
        lambda trap: (eval, f"open({str(trap)!r}, 'w')"),
        lambda trap: (open, str(trap), "w"),
        lambda trap: (getattr, trap, "touch"),
        lambda trap: (np.load, str(trap), None, True),
        lambda trap: (np.ndarray, (4,)),
        lambda trap: (np.dtype, "f4"),
        lambda trap: (OrderedDict,),
    ],
)
def test_a_pickle_that_asks_for_anything_runs_nothing(tmp_path, function_and_arguments, protocol):
    trap = tmp_path / "trap"
    call = Call(*function_and_arguments(trap))
    for content in (call, {"format": "distnet model", "parameters": call}, {"about": [call]}):
        message = refusal(tmp_path / "a.pkl", pickle.dumps(content, protocol))
        assert "(it asks for " in message or "(it uses " in message
    assert not trap.exists()


def test_numpys_own_pickles_are_refused_for_their_state_can_reach_any_memory(tmp_path):
    content = {"format": "distnet model", "parameters": model().parameters}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        refusal(tmp_path / "a.pkl", pickle.dumps(content, protocol))


def test_objects_in_arrays_are_refused(tmp_path):
    objects = np.array([Call(os.system, f"touch {tmp_path / 'trap'}")], object)
    np.savez(tmp_path / "a.npz", header=np.array("{}"), parameters=objects)
    assert "is damaged or not a model" in refusal(tmp_path / "a.npz")
    for dtype in ("|O", "O", "V8", "<f2", ">f4", "S4", "<i4", "M8[s]"):
        refusal(tmp_path / "a.pkl", pickle.dumps(Call(np.frombuffer, bytes(8), dtype), 4))
    for arguments in [(8, "<f4"), ("text", "<f4"), (bytes(8),), (bytes(7), "<f4"), (bytes(8), "<f4", 1), ()]:
        refusal(tmp_path / "a.pkl", pickle.dumps(Call(np.frombuffer, *arguments), 4))
    assert not (tmp_path / "trap").exists()


def test_huge_claims_are_refused_and_take_no_memory(tmp_path):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "a.pkl"
    refusal(path, b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"few")
    refusal(path, b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"few")
    refusal(path, b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.")
    refusal(path, b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".")
    refusal(path, b"\x80\x02Np400000000\n.")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    np.savez(path.with_suffix(".npz"), header=np.array("{}"))
    path = path.with_suffix(".npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("parameters.npy", array)
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 100_000  # KiB


def nested(leaf, wrap, depth):
    """A container of 2 ** depth leaves, whose pickle takes a few bytes."""
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


BOMBS = {
    "lists": nested("x", lambda each: [each, each], 60),
    "dictionaries": nested("x", lambda each: {"a": each, "b": each}, 60),
    "a long text": ["x" * 50_000] * 50_000,
}


@pytest.mark.parametrize("name", [*BOMBS, "tuples as a key"])
def test_a_pickle_that_unpacks_to_more_than_it_holds_is_refused_at_once(tmp_path, name):
    if name in BOMBS:
        whole = {"format": "distnet model", "version": 1, "parameters": None, "about": BOMBS[name]}
        contents = [pickle.dumps(each, 4) for each in (BOMBS[name], whole)]
    else:  # whose hash takes for ever, so that only bytes can be written down
        pairs = b"".join(b"h" + bytes([place]) + b"\x86\x94" for place in range(60))
        contents = [b"\x80\x04}\x8c\x01x\x94" + pairs + b"K\x01s."]
    for content in contents:
        assert len(content) < 200_000
        tracemalloc.start()
        told = refusal(tmp_path / "a.pkl", content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "it repeats a container" in told or "it unpacks to more than it holds" in told
        assert peak < 3_000_000


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, header=np.array("{}"), parameters=np.zeros(20_000_000, "f4"))
    tracemalloc.start()
    assert "it is compressed, which ours never are" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_pickle_of_what_shares_lists_and_has_tuples_is_read_all_the_same(tmp_path):
    shared = [1, 2]
    path = tmp_path / "a.pkl"
    save_model(path, replace(model(), about={"a": shared, "b": shared, "c": (shared, shared)}))
    assert load_model(path).about == {"a": shared, "b": shared, "c": [shared, shared]}
    older = pickle.loads(path.read_bytes()) | {
        "about": {"hidden": (256, 128, 64, 32), "betas": (0.9, 0.999), "none": ()}
    }
    assert load_model(write(path, older)).about == {"hidden": [256, 128, 64, 32], "betas": [0.9, 0.999], "none": []}


def test_a_device_and_a_pipe_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "it is a device or a pipe" in refusal(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, ending):
    content = saved(tmp_path, ending).read_bytes()
    for count in [*range(0, len(content), 50), len(content) - 1]:
        refusal(tmp_path / f"short{ending}", content[:count])


def test_a_flipped_bit_in_an_npz_is_seen_or_changes_nothing(tmp_path):
    content = saved(tmp_path, ".npz").read_bytes()
    path = tmp_path / "flipped.npz"
    seen = 0
    for place in range(0, 8 * len(content), 11):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert same(load_model(path), model())
        except InputError:
            seen += 1
    assert seen > 300


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"PK",
        b"PK\x03\x04",
        b"some words\n" * 9,
        b"\x93NUMPY\x01\x00",
        pickle.dumps([1, 2]),
        pickle.dumps(None),
        pickle.dumps({}),
        pickle.dumps({"format": "another"}),
        pickle.dumps({"weights": [[1.0, 2.0]]}),
        pickle.dumps({1: {2: 3}}),
        pickle.dumps({"format": {3}}),
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    ],
)
def test_foreign_bytes_are_refused(tmp_path, content):
    assert "not a model of distnet's" in refusal(tmp_path / "a.pkl", content)


def test_foreign_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for arrays in [{}, {"a": np.zeros(3)}, {"header": np.zeros(3), "parameters": np.zeros(3)}]:
        np.savez(path, **arrays)
        assert "not a model of distnet's" in refusal(path)
    np.save(path, np.zeros(3))
    path = path.with_suffix(".npz.npy")
    assert "not a model of distnet's" in refusal(path)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    assert "can't be read (No such file or directory)" in refusal(tmp_path / "missing.pkl")
    assert "can't be read (Is a directory)" in refusal(tmp_path)


BROKEN = [
    ({"version": 3}, "is of version 3, and this distnet reads versions 1 to 2"),
    ({"version": None}, "is of version None"),
    ({"format": "distnet checkpoint"}, "is not a model of distnet's"),
    ({"sizes": [3, 4]}, "a network of 3-4 has 16 parameters, and the file holds (26,)"),
    ({"sizes": [3]}, "its description is damaged (sizes [3]"),
    ({"sizes": [3, 0, 2]}, "its description is damaged"),
    ({"sizes": [3, 4.0, 2]}, "its description is damaged"),
    ({"sizes": [3, True, 2]}, "its description is damaged"),
    ({"sizes": None}, "its description is damaged"),
    ({"activation": "softplus"}, "activation 'softplus'"),
    ({"activation": ["relu"]}, "its description is damaged"),
    ({"about": None}, "its description is damaged"),
    ({"arithmetic": "decimal"}, "arithmetic 'decimal'"),
    ({"arithmetic": ["native"]}, "its description is damaged"),
    ({"arithmetic": "portable"}, "parameters of portable arithmetic are float64, and the file holds float32"),
    ({"input_exponent": 1.5}, "its description is damaged"),
    ({"input_exponent": True}, "its description is damaged"),
    ({"input_exponent": 9999}, "arithmetic 'native', input exponent 9999, task 'classification')"),
    ({"parameters": np.zeros(25, "f4")}, "3-4-2 has 26 parameters, and the file holds (25,)"),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("change", "told"), BROKEN, ids=[told for _, told in BROKEN])
def test_a_model_of_another_shape_or_version_says_what_it_is(tmp_path, ending, change, told):
    content = pickle.loads(saved(tmp_path).read_bytes()) | change
    assert told in refusal(write(tmp_path / f"changed{ending}", content))


def test_a_pickle_without_parameters_or_with_endless_sizes_is_refused(tmp_path):
    content = pickle.loads(saved(tmp_path).read_bytes())
    assert "the file holds none" in refusal(tmp_path / "a.pkl", pickle.dumps(content | {"parameters": None}, 4))
    refusal(write(tmp_path / "a.pkl", content | {"sizes": [10**5000, 10**4000]}))


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_noted_has_to_make_a_network(tmp_path, ending):
    content = pickle.loads(saved(tmp_path).read_bytes())
    for about in ({"learning_rate": "fast"}, {"learning_rate": -1}, {"seed": "x"}, {"seed": -1}, {"seed": [0.5]}):
        path = write(tmp_path / f"a{ending}", content | {"about": about})
        with pytest.raises(InputError, match="its description is damaged"):
            NeuralNetwork.load(path)


def check_harmless(path, content):
    """Check that a file is either refused or a complete model."""
    path.write_bytes(content)
    with suppress(InputError):
        loaded = load_model(path)
        assert len(loaded.parameters) == parameter_count(loaded.sizes)
        assert loaded.parameters.dtype in (np.float32, np.float64)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("scratch"))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x80\x04", b"\x80\x04}", b"PK\x03\x04", b"\x93NUMPY\x01\x00"]))
@settings(max_examples=300, deadline=None, database=None)
def test_random_bytes_do_no_harm(scratch, content, start):
    check_harmless(scratch.with_name("random"), start + content)


@given(
    st.sampled_from(ENDINGS),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=4
    ),
)
@settings(max_examples=400, deadline=None, database=None)
def test_mutated_models_do_no_harm(scratch, ending, changes):
    content = bytearray(saved(scratch.parent, ending).read_bytes())
    for place, new, removed in changes:
        start = int(place * len(content))
        content[start : start + removed] = new
    check_harmless(scratch.with_name("mutated"), content)
