"""A checkpoint is whole or not there, and one that isn't good is named and passed over; a run goes on from it."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
import tracemalloc
import warnings
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import command, end, fault, read_metrics, start, wait_for

from distnet import NeuralNetwork
from distnet.config.options import Config
from distnet.config.resuming import MAY_CHANGE, check_same_run
from distnet.datasets.dataset import shared_split
from distnet.datasets.idx import FILES
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.train import train
from distnet.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    checkpoints,
    digest,
    newest_good,
    read_checkpoint,
    sweep,
    write_checkpoint,
)
from distnet.training.checkpointer import Checkpointer, CheckpointPlan
from distnet.training.configuration import TrainingConfig
from distnet.training.lock import FolderLock
from distnet.training.provenance import Sessions
from distnet.training.trainer import Splits, Trainer

SMALL = ("--hidden", 20, "--epochs", 3)  # of 600 digits: five steps an epoch, the last of 88 rows
SOON = 20


def state(steps_done=2):
    """A checkpoint of a small network, after one epoch and some steps."""
    header = {
        "epochs_done": 1,
        "steps_done": steps_done,
        "optimizer_steps": 5 + steps_done,
        "shards": 4,
        "config": json.loads(json.dumps(Config().to_dict())),
        "fingerprint": "0123",
        "history": [{"epoch": 1, "test_accuracy": 0.5}],
    }
    draw = np.random.default_rng(steps_done)
    parameters = draw.normal(size=50).astype(np.float32)
    return Checkpoint(header, {"parameters": parameters, "losses": draw.random(20)})


def written(folder, step=7, keep=3):
    path = checkpoint_path(folder, step)
    write_checkpoint(path, state(step - 5), keep)
    return path


def same(one, other):
    return one.arrays.keys() == other.arrays.keys() and all(
        one.arrays[name].dtype == other.arrays[name].dtype and one.arrays[name].tobytes() == array.tobytes()
        for name, array in other.arrays.items()
    )


def refusal(path):
    """What is said of a file that isn't good; nothing may take more memory than a little and the file's size."""
    tracemalloc.start()
    with pytest.raises(InputError) as refused:
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 + 20 * (path.stat().st_size if path.exists() else 0)
    message = str(refused.value)
    assert message.startswith(f"checkpoint {path}: ")
    assert "\n" not in message
    return message


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    read = read_checkpoint(written(tmp_path))
    assert same(read, state())
    assert state().header.items() <= read.header.items()


def test_a_truncated_checkpoint_is_refused_wherever_it_ends(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    for count in [*range(0, len(content), 20), len(content) - 1]:
        path.write_bytes(content[:count])
        refusal(path)


def test_a_flipped_bit_anywhere_is_seen_or_changes_nothing(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    seen = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.unlink()  # to write over it would wait for the disk
        path.write_bytes(flipped)
        try:
            assert same(read_checkpoint(path), state())
        except InputError:
            seen += 1
    assert seen > 0.9 * len(content)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"PK", b"PK\x05\x06" + bytes(18), b"words\n" * 500, b"\x93NUMPY\x01\0"]
)
def test_foreign_bytes_are_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert "is damaged or not a checkpoint of distnet" in refusal(path)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "it is a pipe" in refusal(tmp_path / "pipe")
    assert "can't be read (Is a directory)" in refusal(tmp_path)
    assert "can't be read (No such file or directory)" in refusal(tmp_path / "missing")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_it_is_not_run(tmp_path):
    path = written(tmp_path)
    for name in ("parameters", "header", "another"):
        np.savez(path, **{"header": "{}", "sha256": "", name: np.array([Trap(tmp_path / "trap")], object)})
        assert "it holds other arrays than ours" in refusal(path)
    assert not (tmp_path / "trap").exists()


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, parameters=np.zeros(20_000_000))
    assert path.stat().st_size < 200_000
    assert "it is compressed" in refusal(path)


def npy(header, data=bytes(200)):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def zipped(path, *members):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members:
            archive.writestr(name, content)
    return path


FORM = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }"
ABSURD = {
    "more than there is": FORM % ("'<f4'", False, "(100000000000,)"),
    "more than memory": FORM % ("'<f4'", False, "(999999999999999,)"),
    "more than any number": FORM % ("'<f4'", False, "(%s,)" % ("9" * 4000)),
    "fewer than there are": FORM % ("'<f4'", False, "(3,)"),
    "negative": FORM % ("'<f4'", False, "(-1,)"),
    "two dimensions": FORM % ("'<f4'", False, "(10, 5)"),
    "many dimensions": FORM % ("'<f4'", False, "(%s)" % ("1," * 500)),
    "a long string": FORM % ("'<U999999999'", False, "()"),
    "strings": FORM % ("'<U5'", False, "(10,)"),
    "objects": FORM % ("'|O'", False, "(25,)"),
    "whole numbers": FORM % ("'<i4'", False, "(50,)"),
    "numbers of other machines": FORM % ("'>f4'", False, "(50,)"),
    "records": FORM % ("[('a', '<f4', (1000000000,))]", False, "(50,)"),
    "columns": FORM % ("'<f4'", True, "(50,)"),
    "of Python 2": FORM % ("'<f4'", False, "(50L,)"),  # at which NumPy warns
    "an escape": FORM % ("'\\d'", False, "(50,)"),  # at which Python warns
    "deep": "(" * 5000,
    "code": "__import__('os').abort()",
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_array_that_promises_what_it_has_not_is_refused(tmp_path, name):
    good = zipfile.ZipFile(written(tmp_path))
    members = [(each, good.read(each)) for each in ("header.npy", "sha256.npy")]
    path = zipped(tmp_path / "a.npz", *members, ("parameters.npy", npy(ABSURD[name])))
    assert "is damaged or not a checkpoint of distnet" in refusal(path)


def test_a_member_that_claims_to_be_longer_in_the_file_than_it_is_takes_no_memory(tmp_path):
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 23] = 1  # the highest byte of the compressed size: 16 MB more
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match="is compressed, which ours never are"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_zip_with_an_array_before_it_or_a_name_twice_is_refused(tmp_path):
    content = written(tmp_path).read_bytes()
    path = tmp_path / "a.npz"
    path.write_bytes(npy(ABSURD["more than there is"], b"") + content)
    try:  # the array is not looked at; the zip behind it may be
        assert same(read_checkpoint(path), state())
    except InputError:
        refusal(path)
    array = npy(FORM % ("'<f4'", False, "(50,)"))
    assert "twice" in refusal(zipped(path, ("parameters.npy", array), ("parameters.npy", array)))


def sealed(path, header, arrays=None):
    """A file with a right sha256 and whatever else."""
    arrays = state().arrays if arrays is None else arrays
    np.savez(path, header=np.array(header), sha256=np.array(digest(header, arrays)), **arrays)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"format": "distnet model"},
        {"version": 3},
        {"version": None},
        {"epochs_done": -1},
        {"epochs_done": 0},
        {"steps_done": 0.5},
        {"steps_done": True},
        {"optimizer_steps": 2**70},
        {"shards": None},
        {"config": []},
        {"fingerprint": None},
        {"history": [7]},
        {"history": [{}]},
        {"history": [{"test_accuracy": "high"}]},
        {"history": None},
    ],
    ids=str,
)
def test_a_header_that_is_not_ours_is_refused_however_well_it_is_sealed(tmp_path, change):
    header = {"format": "distnet checkpoint", "version": 2} | state().header
    assert same(read_checkpoint(sealed(tmp_path / "a.npz", json.dumps(header))), state())
    refusal(sealed(tmp_path / "a.npz", json.dumps(header | change)))
    for name in change:
        refusal(sealed(tmp_path / "a.npz", json.dumps({key: header[key] for key in header if key != name})))


def test_a_checkpoint_of_version_1_is_refused_in_one_line_and_none_before_it_is_tried(tmp_path):
    for step in (7, 8):
        header = {"format": "distnet checkpoint", "version": 1} | state().header
        path = sealed(checkpoint_path(tmp_path, step), json.dumps(header))
    told = []
    with pytest.raises(InputError) as refused:
        newest_good(tmp_path, told.append)
    assert (
        str(refused.value)
        == refusal(path)
        == (
            f"checkpoint {path}: is of version 1, and this distnet resumes from version 2; "
            "resume with the distnet that wrote it, or start over with another --checkpoint-dir"
        )
    )
    assert told == []


@pytest.mark.parametrize("header", ["", "[]", "3", "{", "[" * 100_000, "9" * 10_000, '"\\ud800"', "{}" * 9])
def test_a_header_that_is_no_json_object_is_refused(tmp_path, header):
    refusal(sealed(tmp_path / "a.npz", header))


def test_the_newest_good_one_is_taken_and_those_before_it_are_named(tmp_path):
    told = []
    assert newest_good(tmp_path, told.append) is None
    paths = [written(tmp_path, step) for step in (7, 8, 9)]
    (tmp_path / "checkpoint-99.npz").write_bytes(b"somebody else's")
    assert newest_good(tmp_path, told.append)[0] == paths[2]
    assert told == []
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[1].write_bytes(b"")
    assert newest_good(tmp_path, told.append)[0] == paths[0]
    assert [line.split(": ")[0] for line in told] == [f"checkpoint {paths[2]}", f"checkpoint {paths[1]}"]
    paths[0].unlink()
    with pytest.raises(InputError, match=r"none of the 2 checkpoints in .* is good"):
        newest_good(tmp_path, told.append)


def test_the_newest_are_kept_and_the_one_just_written_is_never_removed(tmp_path):
    for step in range(7, 13):
        written(tmp_path, step, keep=2)
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (12, 11)]
    written(tmp_path, 8, keep=1)  # by one who went back to an older one, for those two are bad
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (12, 11, 8)]
    written(tmp_path, 20, keep=1)
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 20)]


@pytest.mark.parametrize("refuses", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_what_was_there_and_no_more(tmp_path, monkeypatch, refuses):
    path = written(tmp_path)

    def full(*ignored):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, refuses, full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path, 8, keep=1)
    assert list(tmp_path.iterdir()) == [path]
    assert same(read_checkpoint(path), state())


def test_what_an_interrupted_write_left_is_swept_and_nothing_else(tmp_path):
    left = [".checkpoint-0000000007.npz.abc", ".completed.json.abc"]
    others = ["checkpoint-0000000007.npz", "mine.txt", ".checkpoint-mine", "failure-host-0-1.txt"]
    for name in left + others:
        (tmp_path / name).touch()
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    sweep(tmp_path)  # a run is writing there
    lock.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left + others)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


OTHERS = {
    "expect_sha256": "0" * 64,
    "preset": "tutorial",
    "dataset": "synthetic",
    "data_dir": Path("elsewhere"),
    "train_limit": 100,
    "train_samples": 100,
    "label": "species",
    "header": "no",
    "ignore": ("id",),
    "test_share": 0.3,
    "split_seed": 1,
    "raw_inputs": True,
    "hidden": (256,),
    "activation": "tanh",
    "task": "regression",
    "target": ("price",),
    "weight": "weight",
    "class_weight": "balanced",
    "split_column": "part",
    "validation_data": Path("validation.csv"),
    "initialisation": "xavier",
    "scale_learning_rate": 64,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "decay": 0.5,
    "decay_epochs": 3.0,
    "dropout": 0.5,
    "label_smoothing": 0.1,
    "augment": ("shift=1",),
    "validation": 100,
    "patience": 3,
    "stack": 1,
    "arithmetic": "native",
    "dtype": "float32",
    "learning_rate": 0.2,
    "batch_size": 64,
    "optimizer": "adam",
    "momentum": 0.8,
    "betas": (0.9, 0.99),
    "epsilon": 1e-7,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "epochs": 20,
    "seed": 1,
    "shards": 4,
    "reduction": "allreduce",
    "ranks_per_node": 2,
    "model": Path("a.npz"),
    "metrics": Path("a.jsonl"),
    "tensorboard": Path("board"),
    "profile": "",
    "timeline": Path("trace.json"),
    "verbose": True,
    "log_dir": Path("logs"),
    "report": Path("a.html"),
    "tutorial_loss": True,
    "checkpoint_dir": Path("there"),
    "checkpoint_every": (3, "s"),
    "keep": 1,
    "resume": "",
    "stall_timeout": 1.0,
    "quiet": True,
}


@pytest.mark.parametrize("name", [field.name for field in fields(Config)])
def test_every_option_that_decides_what_is_computed_has_to_be_the_same_and_all_others_may_change(name):
    """Also how many ranks, nodes and shards there are: portable arithmetic has the same bits on any."""
    assert getattr(Config(), name) != OTHERS[name]
    changed = replace(Config(), **{name: OTHERS[name]})
    if name in MAY_CHANGE:
        check_same_run(Path("a"), state().header, changed, ranks=4)
    else:
        with pytest.raises(InputError, match=f"^--{name.replace('_', '-')}: got .*, but a was made with "):
            check_same_run(Path("a"), state().header, changed, ranks=4)


def test_half_a_cosine_wave_is_as_long_as_the_run_and_epochs_may_not_change():
    header = state().header
    header["config"]["schedule"] = "cosine"
    with pytest.raises(InputError, match="--epochs: got 99, but a was made with"):
        check_same_run(Path("a"), header, Config(schedule="cosine", epochs=99), ranks=4)


def test_fewer_epochs_are_refused_and_in_native_arithmetic_other_shards_and_too_many_ranks():
    native = Config(arithmetic="native")
    in_native = state().header | {"config": json.loads(json.dumps(native.to_dict()))}
    for header, config, ranks, told in [
        (state().header, Config(epochs=1), 1, "--epochs: got 1, but a is in epoch 2; use more epochs"),
        (in_native, replace(native, shards=5), 1, "--shards: got 5, but a was made with 4; use --shards 4"),
        (in_native, native, 5, "a: was made with 4 shards, and 5 ranks need one each; use 4 ranks or fewer"),
    ]:
        with pytest.raises(InputError, match=told):
            check_same_run(Path("a"), header, config, ranks)
    check_same_run(Path("a"), state(0).header, Config(epochs=1), ranks=1)
    check_same_run(Path("a"), in_native, native, ranks=4)
    check_same_run(Path("a"), state().header, Config(), ranks=99)


# From here on by the command, in one process; tests/training/test_resume.py has the same on ranks.


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """How the run ends that nobody disturbs: its last lines and its metrics."""
    path = tmp_path_factory.mktemp("undisturbed") / "metrics.jsonl"
    ended = command("--data-dir", digits, *SMALL, "--metrics", path, "--quiet")
    assert ended.status == 0
    return ended.out, read_metrics(path)


@pytest.fixture(scope="module")
def stopped(digits, tmp_path_factory):
    """The checkpoints of that run, stopped in the middle of its second epoch: after steps 3, 6 and 8."""
    folder = tmp_path_factory.mktemp("stopped")
    options = ("--checkpoint-dir", folder, "--checkpoint-every", "3", "steps")
    ended = command("--data-dir", digits, *SMALL, *options, env=fault("SIGTERM", step=8))
    assert ended.status == 75
    assert ended.err == (
        "distnet: stopped in epoch 2, after step 3 of 5, checkpoint written; "
        f"run it again with --checkpoint-dir {folder} --resume\n"
    )
    assert names(folder) == steps(3, 6, 8)
    return folder


@pytest.fixture
def halfway(stopped, tmp_path):
    """A copy of them."""
    return shutil.copytree(stopped, tmp_path / "checkpoints")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(*numbers):
    return [f"checkpoint-{number:010}.npz" for number in numbers]


def resumed(digits, folder, *more, **how):
    return command("--data-dir", digits, *SMALL, "--checkpoint-dir", folder, "--resume", *more, "--quiet", **how)


def test_a_resumed_run_ends_as_one_that_nobody_disturbed_and_says_so(digits, halfway, undisturbed):
    ended = resumed(digits, halfway, "--metrics", halfway / "metrics.jsonl")
    assert (ended.status, ended.err, ended.out) == (0, "", undisturbed[0])
    assert read_metrics(halfway / "metrics.jsonl") == undisturbed[1]
    record = json.loads((halfway / "completed.json").read_text())
    assert record == {"epoch": 3, "step": 15, "parameters_sha256": ended.sha256}


def test_the_record_of_an_epoch_has_the_sha256_of_the_parameters_after_its_last_step(digits, tmp_path, undisturbed):
    folder = tmp_path / "checkpoints"
    options = ("--validation", 550, "--batch-size", 10, "--learning-rate", 0.2, "--epochs", 5, "--keep", "all")
    ended = resumed(digits, folder, *options, "--metrics", tmp_path / "a.jsonl")
    records = read_metrics(tmp_path / "a.jsonl")
    states = [read_checkpoint(folder / name) for name in steps(5, 10, 15, 20, 25)]
    assert [each["parameters_sha256"] for each in records] == [
        parameters_sha256(each.arrays["parameters"]) for each in states
    ]
    kept = min(records, key=lambda record: record["validation_loss"])
    assert kept != records[-1]
    assert kept["parameters_sha256"] == ended.sha256
    assert undisturbed[1][-1]["parameters_sha256"] == undisturbed[0].split()[-1]


def test_a_run_resumes_from_a_checkpoint_whose_records_have_no_sha256(digits, halfway, undisturbed):
    path = halfway / steps(8)[0]
    before = read_checkpoint(path)
    del before.header["history"][0]["parameters_sha256"]
    write_checkpoint(path, before, 3)
    ended = resumed(digits, halfway, "--metrics", halfway / "metrics.jsonl")
    assert (ended.status, ended.err, ended.out) == (0, "", undisturbed[0])
    records = [{**each} for each in undisturbed[1]]
    del records[0]["parameters_sha256"]
    assert read_metrics(halfway / "metrics.jsonl") == records


def damage(path, harm):
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-100],
            "flipped": content[: len(content) // 2] + b"!" + content[len(content) // 2 + 1 :],
            "empty": b"",
            "foreign": b"something else\n" * 1000,
        }[harm]
    )


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(digits, halfway, undisturbed, harm):
    damage(halfway / steps(8)[0], harm)
    ended = resumed(digits, halfway)
    assert (ended.status, ended.out) == (0, undisturbed[0])
    assert ended.err.startswith(
        f"distnet: checkpoint {halfway / steps(8)[0]}: is damaged or not a checkpoint of distnet ("
    )
    assert ended.err.endswith("; trying the one before it\n")
    assert ended.err.count("\n") == 1


def test_where_none_is_good_nothing_is_started_over(digits, halfway):
    for name in names(halfway):
        damage(halfway / name, "truncated")
    before = {path: path.read_bytes() for path in halfway.iterdir()}
    ended = resumed(digits, halfway)
    assert (ended.status, ended.out) == (2, "")
    assert f"--resume: none of the 3 checkpoints in {halfway} is good" in ended.err.splitlines()[-1]
    assert {path: path.read_bytes() for path in halfway.iterdir()} == before


def test_with_no_checkpoint_a_resumed_run_starts_fresh_and_says_so(digits, tmp_path, undisturbed):
    ended = resumed(digits, tmp_path / "new" / "folder")
    assert (ended.status, ended.out) == (0, undisturbed[0])
    assert ended.err == f"distnet: no checkpoint in {tmp_path / 'new' / 'folder'}: starting fresh\n"


def test_a_fresh_run_does_not_mix_its_checkpoints_with_anothers(digits, halfway, undisturbed):
    before = sorted(path.name for path in halfway.iterdir())
    ended = command("--data-dir", digits, *SMALL, "--checkpoint-dir", halfway)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        f"distnet: --checkpoint-dir {halfway}: there are checkpoints in it; "
        "continue from them with --resume, or name another folder\n"
    )
    assert sorted(path.name for path in halfway.iterdir()) == before


def test_a_checkpoint_that_is_named_is_the_one_used(digits, halfway, undisturbed):
    path = halfway / steps(3)[0]
    ended = command("--data-dir", digits, *SMALL, "--checkpoint-dir", halfway, "--resume", path)
    assert f"resumed from {path}, in epoch 1, after step 3 of 5\n" in ended.out
    assert ended.out.endswith(undisturbed[0])


def test_a_checkpoint_that_is_named_and_not_good_is_told_and_no_other_used(digits, halfway):
    damage(halfway / steps(8)[0], "truncated")
    for name, told in [(steps(8)[0], "is damaged"), ("nowhere", "can't be read")]:
        ended = command("--data-dir", digits, *SMALL, "--checkpoint-dir", halfway, "--resume", halfway / name)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith(f"distnet: checkpoint {halfway / name}: {told}")


@pytest.mark.parametrize(
    ("every", "keep", "left"),
    [
        (["1", "epoch"], 3, steps(5, 10, 15)),
        (["2", "epochs"], 3, steps(10)),
        (["4", "steps"], 3, steps(4, 8, 12)),
        (["4 steps"], 2, steps(8, 12)),
        (["5", "steps"], 1, steps(15)),
        (["2", "steps"], "all", steps(2, 4, 6, 8, 10, 12, 14)),
        (["9", "s"], 1, []),
    ],
    ids=str,
)
def test_so_often_and_so_many(digits, tmp_path, undisturbed, every, keep, left):
    options = ("--checkpoint-dir", tmp_path, "--checkpoint-every", *every, "--keep", keep)
    ended = command("--data-dir", digits, *SMALL, *options, "--quiet")
    assert (ended.status, ended.err, ended.out) == (0, "", undisturbed[0])
    assert names(tmp_path) == [*left, "completed.json"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden", 30),
        ("learning-rate", 0.2),
        ("seed", 5),
        ("optimizer", "adam"),
        ("schedule", "constant"),
        ("arithmetic", "native"),
        ("batch-size", 100),
    ],
)
def test_a_resumed_run_with_another_option_says_which(digits, halfway, option, value):
    before = names(halfway)
    ended = resumed(digits, halfway, f"--{option}", value)
    assert (ended.status, ended.out) == (2, "")
    shown = f"[{value}]" if option == "hidden" else value
    assert ended.err.startswith(f"distnet: --{option}: got {shown}, but {halfway / steps(8)[0]} was made with ")
    assert ended.err.count("\n") == 1
    assert names(halfway) == before


def test_a_resumed_run_with_other_data_says_so(digits, halfway, tmp_path):
    data = shutil.copytree(digits, tmp_path / "data")
    assert resumed(data, halfway, "--epochs", 2).status == 0
    content = bytearray((data / FILES[0]).read_bytes())
    content[1000] ^= 1
    (data / FILES[0]).write_bytes(content)
    (tmp_path / "metrics.jsonl").write_text("of epochs before\n")
    ended = resumed(data, halfway, "--metrics", tmp_path / "metrics.jsonl")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("distnet: --dataset mnist: ")
    assert "was made with other data" in ended.err
    assert (tmp_path / "metrics.jsonl").read_text() == "of epochs before\n"


def test_a_sealed_checkpoint_whose_arrays_do_not_fit_is_refused(digits, halfway):
    good = read_checkpoint(halfway / steps(8)[0])
    for change in [
        {"parameters": good.arrays["parameters"][1:]},
        {"parameters": good.arrays["parameters"].astype(np.float32)},
        {"velocity": good.arrays["parameters"]},
        {"losses": np.zeros(3)},
    ]:
        write_checkpoint(halfway / steps(9)[0], good._replace(arrays=good.arrays | change), 9)
        ended = resumed(digits, halfway)
        assert (ended.status, ended.out) == (2, "")
        told = "its arrays are not those of this network"
        assert ended.err.startswith(f"distnet: checkpoint {halfway / steps(9)[0]}: {told}")


def test_a_finished_run_goes_on_with_more_epochs_and_one_beyond_is_not_taken_for_finished(
    digits, halfway, undisturbed, tmp_path
):
    two = tmp_path / "two"
    first = command("--data-dir", digits, *SMALL, "--epochs", 2, "--checkpoint-dir", two)
    assert resumed(digits, two).out == undisturbed[0]
    ended = resumed(digits, halfway, "--epochs", 1)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"distnet: --epochs: got 1, but {halfway / steps(8)[0]} is in epoch 2; use more epochs")
    assert (two / "completed.json").read_text() != json.dumps({"parameters_sha256": first.sha256})


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file", "is a file; name a folder"),
        ("file/below", "can't be written (Not a directory)"),
        ("/proc/below", "can't be written (No such file or directory)"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_at_the_start(digits, tmp_path, place, why):
    (tmp_path / "file").touch()
    ended = command("--data-dir", digits, *SMALL, "--checkpoint-dir", tmp_path / place)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"distnet: --checkpoint-dir {tmp_path / place}: {why}")
    assert ended.err.count("\n") == 1


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs root to make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


NO_ROOM = "can't be written (No space left on device); training goes on, the next one is tried\n"


def test_a_run_whose_disk_stays_full_trains_to_the_end_and_its_status_is_74(digits, small_disk, undisturbed):
    checkpoint = 135_000
    (small_disk / "filler").write_bytes(bytes(2 * 2**20 - 2 * checkpoint))
    ended = command("--data-dir", digits, *SMALL, "--checkpoint-dir", small_disk, "--quiet")
    assert (ended.status, ended.out) == (74, undisturbed[0])
    assert ended.err.count(NO_ROOM) == 2
    assert ended.err.endswith(f"distnet: --checkpoint-dir {small_disk}: the last checkpoint could not be written\n")
    assert names(small_disk)[0] == steps(5)[0]
    assert not [name for name in names(small_disk) if name.startswith(".")]


def test_a_run_whose_disk_gets_room_again_writes_the_next_checkpoint_and_its_status_is_0(digits, small_disk, tmp_path):
    (small_disk / "filler").write_bytes(bytes(2 * 2**20 - 20_000))
    told, options = tmp_path / "metrics.jsonl", ("--epochs", 200, "--keep", 1, "--quiet")
    running = start("--data-dir", digits, *SMALL, "--checkpoint-dir", small_disk, *options, "--metrics", told)
    wait_for(lambda: lines(told) > 3, running)
    assert not list(small_disk.glob("checkpoint-*"))  # the next one may just be tried
    (small_disk / "filler").unlink()
    ended = end(running, SOON)
    assert ended.status == 0
    assert ended.err.replace(NO_ROOM, "").startswith(f"distnet: checkpoint {small_disk}/")
    assert names(small_disk) == [*steps(1000), "completed.json"]
    assert resumed(digits, small_disk, "--epochs", 200).sha256 == ended.sha256


def test_metrics_that_the_disk_refuses_come_later_whole_and_the_training_goes_on(digits, small_disk):
    path, options = small_disk / "metrics.jsonl", ("--epochs", 400, "--quiet")
    (small_disk / "filler").write_bytes(bytes(2 * 2**20 - 2 * 4096))
    running = start("--data-dir", digits, *SMALL, *options, "--metrics", path)

    def is_refused():
        before = lines(path)
        time.sleep(0.3)  # in which many epochs end
        return before == lines(path) > 3 and not shutil.disk_usage(small_disk).free

    wait_for(is_refused, running)
    (small_disk / "filler").unlink()
    ended = end(running, SOON)
    assert ended.status == 0
    assert [record["epoch"] for record in read_metrics(path)] == list(range(1, 401))
    refused = f"distnet: --metrics {path}: can't be written (No space left on device); training goes on, "
    assert ended.err.startswith(refused)
    assert set(ended.err.splitlines()) == {f"{refused}the next epoch tries again"}


def test_a_log_that_the_disk_refuses_is_one_line_and_the_training_goes_on(digits, small_disk, undisturbed):
    (small_disk / "filler").write_bytes(bytes(2 * 2**20))
    ended = command("--data-dir", digits, *SMALL, "--quiet", "--log-dir", small_disk / "logs", ranks=2)
    assert (ended.status, ended.out) == (0, undisturbed[0])
    told = [f"distnet: --log-dir {small_disk}/logs/rank-{k}.log: can't be written (" for k in range(2)]
    assert sorted(line.partition("[")[0] for line in ended.err.splitlines()) == told


def test_a_folder_that_is_gone_in_the_middle_is_told_tried_again_and_told_by_the_status(digits, tmp_path):
    there, gone, told = tmp_path / "there", tmp_path / "gone", tmp_path / "metrics.jsonl"
    options = ("--epochs", 100_000, "--checkpoint-dir", there, "--metrics", told, "--quiet")
    running = start("--data-dir", digits, *SMALL, *options)
    wait_for(lambda: checkpoints(there), running)
    there.rename(gone)
    before = lines(told)
    wait_for(lambda: lines(told) > before + 3, running)
    gone.rename(there)
    newest = checkpoints(there)[0]
    wait_for(lambda: checkpoints(there)[0] > newest, running)
    there.rename(gone)
    running.send_signal(signal.SIGTERM)
    ended = end(running, SOON)
    assert (ended.status, ended.out) == (74, "")
    assert "can't be written (No such file or directory); training goes on, the next one is tried\n" in ended.err
    assert ended.err.endswith("; its checkpoint could not be written\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_stops_a_process_between_two_steps_and_nothing_is_lost(digits, tmp_path, undisturbed, name):
    ended = resumed(digits, tmp_path, env=fault(name, step=4))
    assert (ended.status, ended.out) == (75, "")
    assert ended.err.splitlines()[1:] == [
        "distnet: stopped in epoch 1, after step 4 of 5, checkpoint written; "
        f"run it again with --checkpoint-dir {tmp_path} --resume"
    ]
    assert names(tmp_path) == steps(4)
    assert resumed(digits, tmp_path).out == undisturbed[0]


def test_a_second_interrupt_does_not_wait_for_the_disk(digits, tmp_path):
    running = start(
        "--data-dir", digits, *SMALL, "--checkpoint-dir", tmp_path, "--epochs", 10**6, env=fault("slow disk")
    )
    wait_for(lambda: list(tmp_path.glob(".checkpoint-*")), running)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        assert running.poll() is None
        running.send_signal(name)
        time.sleep(0.3)
    ended = end(running, 5)
    assert (ended.status, ended.err) == (130, "distnet: interrupted\n")


def test_a_run_that_is_not_complete_has_no_completion_record(digits, halfway, tmp_path):
    assert resumed(digits, halfway).status == 0
    assert (halfway / "completed.json").exists()
    ended = command("--data-dir", digits, *SMALL, "--checkpoint-dir", halfway, "--resume", env=fault("error", step=0))
    assert ended.status == 0  # nothing was left to do
    ended = resumed(digits, halfway, "--epochs", 4, env=fault("error", step=2))
    assert ended.status == 1
    assert not (halfway / "completed.json").exists()


def test_a_record_of_completion_that_cannot_be_written_is_one_line_and_status_74(digits, tmp_path, capsys):
    completed = tmp_path / "completed.json"
    options = ("--data-dir", digits, "--hidden", 8, "--epochs", 1, "--quiet", "--checkpoint-dir", tmp_path)
    # A folder of that name can't be replaced by a file.
    assert train(list(map(str, options)), on_epoch=lambda epoch: completed.mkdir()).status == 74
    printed = capsys.readouterr().err
    assert printed.startswith(f"distnet: --checkpoint-dir {tmp_path}: completed.json: can't be written (")
    assert printed.count("\n") == 1
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 5)]


def test_parameters_that_differ_between_nodes_are_found_before_a_checkpoint_is_written(tmp_path):
    data = shared_split(World(), np.eye(4), np.eye(4), np.float64)
    trainer = Trainer(World(), NeuralNetwork([4, 4]).model, Splits(data), TrainingConfig(0.1, 2))
    trainer.run(1, lambda epoch: None)
    own = parameters_sha256(trainer.exchange.parameters)
    for other in ("f" * 64, own):
        digests = [(0, own), (0, ""), (1, other), (1, "")]  # of two ranks on each of two nodes
        comm = SimpleNamespace(allgather=lambda mine, digests=digests: digests if mine == digests[0] else [])
        world = SimpleNamespace(comm=comm, nodes=2, node=0, node_rank=0, rank=0)
        plan = CheckpointPlan(tmp_path, (1, "epoch"), 1)
        checkpointer = Checkpointer(world, plan, {}, "", Sessions(World()))
        if other == own:
            checkpointer.save(trainer)
            checkpointer._thread.shutdown()
        else:
            with pytest.raises(RuntimeError, match=rf"^node 1 holds parameters f{{8}}\.\.\., node 0 {own[:8]}\.\.\.$"):
                checkpointer.save(trainer)
        assert len(checkpoints(tmp_path)) == (other == own)
