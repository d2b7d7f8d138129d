"""Files and hashes are little-endian: of arrays in the other byte order they have the same bytes."""

import hashlib

import numpy as np
import pytest

from distnet.models.model_file import load_model, save_model
from distnet.nn.model import Model
from distnet.nn.parameters import initial_parameters, parameters_sha256
from distnet.training.checkpoint import Checkpoint, checkpoint_path, read_checkpoint, write_checkpoint

SIZES = (5, 4, 3)
ORDERS = ("<", ">")


def parameters(order: str, dtype: str = "f8") -> np.ndarray:
    """The same numbers in either byte order."""
    return initial_parameters(SIZES, "relu", 0, np.dtype(dtype)).astype(order + dtype)


def model(order: str, arithmetic: str = "portable", dtype: str = "f8") -> Model:
    return Model(
        SIZES, "relu", parameters(order, dtype), {"seed": 3}, arithmetic, 2 if arithmetic == "portable" else None
    )


def checkpoint(order: str) -> Checkpoint:
    header = {"epochs_done": 0, "steps_done": 2, "optimizer_steps": 2, "shards": 1}
    header |= {"config": {}, "fingerprint": "f", "history": []}
    return Checkpoint(header, {"parameters": parameters(order), "losses": np.arange(6.0).astype(order + "f8")})


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_hash_is_of_little_endian_bytes(dtype):
    expected = hashlib.sha256(parameters("<", dtype).tobytes()).hexdigest()
    assert parameters("<", dtype).tobytes() != parameters(">", dtype).tobytes()
    assert [parameters_sha256(parameters(order, dtype)) for order in ORDERS] == [expected] * 2


@pytest.mark.parametrize("ending", [".pkl", ".npz"])
@pytest.mark.parametrize(("arithmetic", "dtype"), [("portable", "f8"), ("native", "f4")])
def test_model_files_have_the_same_bytes(tmp_path, ending, arithmetic, dtype):
    files = []
    for name, order in zip("ab", ORDERS, strict=True):
        save_model(tmp_path / (name + ending), model(order, arithmetic, dtype))
        files.append((tmp_path / (name + ending)).read_bytes())
    assert files[0] == files[1]
    loaded = load_model(tmp_path / f"b{ending}")
    assert loaded.parameters.dtype == np.dtype(dtype)
    assert loaded.parameters.dtype.isnative
    assert loaded.parameters.tobytes() == model("=", arithmetic, dtype).parameters.tobytes()


def test_checkpoints_have_the_same_bytes(tmp_path):
    files = []
    for name, order in zip("ab", ORDERS, strict=True):
        path = checkpoint_path(tmp_path / name, 2)
        path.parent.mkdir()
        write_checkpoint(path, checkpoint(order), keep=1)
        files.append(path.read_bytes())
        arrays = read_checkpoint(path).arrays
        assert {key: (value.dtype.isnative, value.tobytes()) for key, value in arrays.items()} == {
            key: (True, value.tobytes()) for key, value in checkpoint("=").arrays.items()
        }
    assert files[0] == files[1]


def write_swapped(path):
    """Write an .npz again, each array in the byte order that is not this machine's."""
    with np.load(path) as arrays:
        swapped = {name: array.astype(array.dtype.newbyteorder("S")) for name, array in arrays.items()}
    np.savez(path, **swapped)


def test_models_in_the_other_byte_order_are_read(tmp_path):
    """What a machine of the other byte order reads are the files of this one."""
    path = tmp_path / "a.npz"
    save_model(path, model("="))
    write_swapped(path)
    loaded = load_model(path)
    assert loaded.parameters.dtype.isnative
    assert loaded.parameters.tobytes() == parameters("=").tobytes()


def test_checkpoints_in_the_other_byte_order_are_read(tmp_path):
    path = checkpoint_path(tmp_path, 2)
    write_checkpoint(path, checkpoint("="), keep=1)
    write_swapped(path)
    arrays = read_checkpoint(path).arrays
    assert all(array.dtype.isnative for array in arrays.values())
    assert {key: array.tobytes() for key, array in arrays.items()} == {
        key: array.tobytes() for key, array in checkpoint("=").arrays.items()
    }
