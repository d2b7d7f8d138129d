"""A model or an epoch that is trained again has the same bits, and one that was tampered with is found."""

import json
import math
import re
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from helpers import ROOT, command, read_metrics, write_digits

from distnet import NeuralNetwork
from distnet.config.options import Config
from distnet.config.stored import read_stored
from distnet.models.model_file import load_model, save_model
from distnet.nn.parameters import parameters_sha256
from distnet.runtime.errors import InputError
from distnet.train import train
from distnet.training.audit import draw_epochs
from distnet.training.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from distnet.verify import main

EPOCHS, STEPS = 5, 5  # of 50 digits in mini-batches of 10
DIFFERENT = 65


def verify(*arguments):
    """Run the command in this process; returns its status and its lines."""
    out = StringIO()
    with redirect_stdout(out), patch.object(sys, "argv", ["verify", *map(str, arguments)]):
        status = main()
    return status, out.getvalue().splitlines()


def refusal(*arguments):
    """The line with which the command refuses these arguments."""
    with pytest.raises(InputError) as refused:
        verify(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A training whose third epoch is the best: its model, checkpoints and metrics."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["--data-dir", digits, "--hidden", 20, "--epochs", EPOCHS, "--batch-size", 10, "--validation", 550]
    arguments += ["--optimizer", "momentum", "--learning-rate", 0.1, "--quiet", "--keep", "all"]
    arguments += ["--model", folder / "model.npz", "--metrics", folder / "a.jsonl", "--checkpoint-dir", folder / "run"]
    with redirect_stdout(StringIO()):
        assert train(list(map(str, arguments))).status == 0
    records = read_metrics(folder / "a.jsonl")
    assert min(records, key=lambda record: record["validation_loss"])["epoch"] == 3
    return SimpleNamespace(
        data=digits,
        model=folder / "model.npz",
        run=folder / "run",
        sha256=[each["parameters_sha256"] for each in records],
    )


@pytest.fixture
def tampered(trained, tmp_path):
    """A function that changes a copy of the checkpoint after an epoch, with a right sha256; returns the copy."""
    folder = shutil.copytree(trained.run, tmp_path / "run")

    def tamper(epoch, change):
        path = checkpoint_path(folder, epoch * STEPS)
        checkpoint = read_checkpoint(path)
        arrays = {name: array.copy() for name, array in checkpoint.arrays.items()}
        change(checkpoint.header, arrays)
        write_checkpoint(path, checkpoint._replace(arrays=arrays), "all")
        return folder

    return tamper


# A whole model.


def test_a_model_trained_again_has_the_same_bits(trained):
    line = f"{trained.model}: the bits agree, parameters sha256 {trained.sha256[2]}"
    assert verify(trained.model, "--data-dir", trained.data) == (0, [line])


def test_a_model_with_one_other_bit_differs(trained, tmp_path):
    model = load_model(trained.model)
    parameters = model.parameters.copy()
    parameters.view(np.uint64)[7] ^= 1
    save_model(tmp_path / "model.npz", replace(model, parameters=parameters))
    status, lines = verify(tmp_path / "model.npz", "--data-dir", trained.data)
    assert status == DIFFERENT
    assert lines == [
        f"{tmp_path / 'model.npz'}: the bits differ: its parameters have sha256 {parameters_sha256(parameters)}, "
        f"and {trained.sha256[2]} when it is trained again",
        f"there is no {tmp_path / 'model.run.json'} to compare the environment with",
    ]


def test_a_model_whose_notes_on_its_data_were_changed_differs(trained, tmp_path):
    model = load_model(trained.model)
    about = model.about | {"mean": model.about["mean"] + 1, "classes": model.about["classes"][::-1]}
    save_model(tmp_path / "model.npz", replace(model, about=about))
    status, (line, *_) = verify(tmp_path / "model.npz", "--data-dir", trained.data)
    assert (status, line) == (DIFFERENT, f"{tmp_path / 'model.npz'}: the bits differ: mean, classes")


def test_a_model_whose_training_diverges_when_it_is_trained_again_differs(trained, tmp_path):
    model = load_model(trained.model)
    config = model.about["config"] | {"learning_rate": 1e300}
    save_model(tmp_path / "model.npz", replace(model, about=model.about | {"config": config}))
    status, (line, *_) = verify(tmp_path / "model.npz", "--data-dir", trained.data)
    problem = "the bits differ: the loss is NaN in epoch 1, when it is trained again"
    assert (status, line) == (DIFFERENT, f"{tmp_path / 'model.npz'}: {problem}")


@pytest.fixture
def provenance(trained, tmp_path):
    """The path of a copy of the model, and the content of the provenance file, which the test writes beside it."""
    shutil.copy(trained.model, tmp_path)
    return tmp_path / "model.npz", json.loads((trained.run.parent / "model.run.json").read_text())


def test_if_the_bits_differ_so_do_these_options_versions_and_ranks(trained, provenance):
    path, content = provenance
    content["parameters_sha256"] = "0" * 64
    path.with_suffix(".run.json").write_text(json.dumps(content))
    status, lines = verify(path, "--data-dir", trained.data)
    first = f"{path}: the bits differ: its parameters have sha256 {trained.sha256[2]}, and {'0' * 64} in model.run.json"
    assert (status, lines) == (DIFFERENT, [first, "the environment is the same"])
    content["options"]["seed"] = 5
    content["sessions"][0]["ranks"] = 4
    content["sessions"][0]["versions"]["numpy"] = "1.0"
    path.with_suffix(".run.json").write_text(json.dumps(content))
    now = ["--seed: 5 then, 0 now", "ranks: 4 then, 1 now", f"numpy: 1.0 then, {np.__version__} now"]
    assert verify(path, "--data-dir", trained.data) == (DIFFERENT, [first, *now])


def test_with_other_data_than_the_provenance_names_nothing_is_trained(trained, provenance, tmp_path):
    path, content = provenance
    path.with_suffix(".run.json").write_text(json.dumps(content))
    other = write_digits(tmp_path / "other", 600, 101)
    with patch("distnet.training.trainer.Trainer.step", side_effect=AssertionError):
        status, (first, second) = verify(path, "--data-dir", other)
    assert (status, first) == (DIFFERENT, f"{path}: the bits differ: other data, so it was not trained again")
    assert re.fullmatch(r"data: mnist, sha256 \w{64} then, mnist, sha256 \w{64} now", second)


def test_a_native_training_on_several_ranks_is_verified_on_one_and_a_table_may_have_moved(tmp_path):
    draw = np.random.default_rng(0)
    rows = np.column_stack([draw.normal(size=(90, 4)), np.arange(90) % 3])
    np.savetxt(tmp_path / "a.csv", rows, "%g", ",")
    options = ("--dataset", "csv:a.csv", "--arithmetic", "native", "--epochs", 2, "--model", "a.npz", "--quiet")
    ended = command(*options, "--checkpoint-dir", "run", "--keep", "all", ranks=3, cwd=tmp_path)
    assert ended.status == 0
    shutil.move(tmp_path / "a.csv", tmp_path / "b.csv")
    model, moved = tmp_path / "a.npz", ("--dataset", f"csv:{tmp_path / 'b.csv'}")
    assert verify(model, *moved) == (0, [f"{model}: the bits agree, parameters sha256 {ended.sha256}"])
    status, lines = verify("--checkpoint-dir", tmp_path / "run", "--epochs", 1, 2, *moved)
    assert (status, lines[1]) == (0, f"epoch 2: the bits agree, parameters sha256 {ended.sha256}")
    assert "a.csv: can't be read" in refusal(model)


def test_what_cannot_be_verified_is_one_line(trained, tmp_path):
    path = tmp_path / "model.npz"
    NeuralNetwork([4, 3]).save(path)
    assert refusal(path) == (
        f"model {path}: does not store how it was trained, as models from Python don't; "
        "name one that python -m distnet.train wrote"
    )
    model = load_model(trained.model)
    config = {name: value for name, value in model.about["config"].items() if name != "arithmetic"}
    save_model(path, replace(model, about={"config": config}))
    assert refusal(path) == (f"model {path}: is of distnet 0.1, whose bits are others; train it again with distnet 0.1")
    save_model(path, replace(model, about={"config": model.about["config"] | {"epochs": 0}}))
    assert refusal(path) == (
        f"model {path}: its option epochs is damaged (expected a positive integer, got '0'); "
        "restore it, or name another file"
    )
    save_model(path, replace(model, about={"config": model.about["config"] | {"magic": 1}}))
    assert "its option magic is unknown to this distnet" in refusal(path)
    (tmp_path / "empty").mkdir()
    assert "--data-dir" in refusal(trained.model, "--data-dir", tmp_path / "empty")


def test_a_stored_configuration_is_read_back(trained):
    stored = load_model(trained.model).about["config"]
    assert json.loads(json.dumps(read_stored(stored, "").to_dict())) | {"data_dir": None} == {
        **json.loads(json.dumps(Config().to_dict())),
        **stored,
    } | {"data_dir": None}


# Epochs of a training.


def test_every_epoch_of_a_training_agrees_on_one_rank_and_on_two(trained):
    lines = [f"epoch {k + 1}: the bits agree, parameters sha256 {sha256}" for k, sha256 in enumerate(trained.sha256)]
    lines.append(f"{trained.model}: the parameters after epoch 3, which the training keeps")
    lines.append("5 of 5 epochs trained again: all agree")
    options = (trained.model, "--checkpoint-dir", trained.run, "--epochs", 5, 3, 1, 2, 4, 4)
    assert verify(*options) == (0, lines)
    ended = command(*options, "--ranks", 2, module="distnet.verify")
    assert (ended.status, ended.out.splitlines(), ended.err) == (0, lines, "")


def test_a_sample_is_drawn_alike_everywhere_and_a_smaller_one_is_part_of_it(trained):
    assert draw_epochs(40, 5, 7) == [5, 6, 8, 24, 27]
    assert all(set(draw_epochs(40, k, 7)) < set(draw_epochs(40, k + 1, 7)) for k in range(40))
    assert draw_epochs(40, 40, 7) == list(range(1, 41))
    drawn = [draw_epochs(10, 3, seed) for seed in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=11)[1:]
    assert abs(counts - 600).max() < 5 * math.sqrt(2000 * 0.3 * 0.7)
    status, lines = verify("--checkpoint-dir", trained.run, "--sample", 2, "--audit-seed", 7)
    first, second = draw_epochs(EPOCHS, 2, 7)
    assert status == 0
    assert lines[0] == f"--audit-seed 7 draws of 5 epochs: {first} and {second}"
    assert [line.partition(":")[0] for line in lines[1:3]] == [f"epoch {first}", f"epoch {second}"]


def add(name, place=3):
    """A change of the last bit of a number."""

    def change(header, arrays):
        arrays[name].view(np.uint64)[place] ^= 1

    return change


def record(place, **values):
    return lambda header, arrays: header["history"][place].update(values)


def header(**values):
    return lambda header, arrays: header.update(values)


FILE = "checkpoint-0000000010.npz"  # after epoch 2, of which the audit trains 2 and 3
RECORDS = f"the records in {FILE} and in the newest checkpoint"
TAMPERED = {  # a change, and what then differs in epoch 2 and in epoch 3
    "parameters": (add("parameters"), ["parameters", f"the parameters in {FILE} and the sha256 of their record"]),
    "state of the optimizer": (add("velocity"), ["velocity"]),
    "best parameters": (add("best_parameters"), ["best parameters"]),
    "steps of the optimizer": (header(optimizer_steps=9), ["the number of steps"]),
    "loss": (record(-1, loss=0.5), [RECORDS, "loss in the record"]),
    "sha256": (record(-1, parameters_sha256="0" * 64), [RECORDS, "parameters sha256 in the record"]),
    "record of another epoch": (record(0, test_loss=0.5), [RECORDS]),
    "data": (header(fingerprint=""), [f"the data of {FILE}"]),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_checkpoint_that_was_tampered_with_is_found(trained, tampered, name):
    change, expected = TAMPERED[name]
    folder = tampered(2, change)
    status, (second, third, last, *_) = verify("--checkpoint-dir", folder, "--epochs", 2, 3)
    assert (status, last) == (DIFFERENT, f"2 of 5 epochs trained again: {1 + ('differ' in third)} differ")
    verdict, _, what = second.removeprefix("epoch 2: ").partition(": ")
    assert verdict == "the bits differ"
    assert sorted(what.split(", ")) == sorted(expected)
    assert ("differ" in third) == (name != "best parameters")  # which epoch 3 replaces
    assert verify("--checkpoint-dir", folder, "--epochs", 4)[0] == 0


def test_if_an_epoch_differs_so_do_these_versions(tampered):
    def change(header, arrays):
        header["sessions"][0]["versions"]["numpy"] = "1.0"
        arrays["velocity"][0] += 1

    status, (_, _, *lines) = verify("--checkpoint-dir", tampered(EPOCHS, change), "--epochs", 5)
    assert (status, lines) == (DIFFERENT, [f"numpy: 1.0 then, {np.__version__} now"])


def test_an_option_that_was_changed_for_one_epoch_is_found(tampered):
    def change(header, arrays):
        header["config"]["learning_rate"] = 0.2

    folder = tampered(2, change)
    status, (line, *_) = verify("--checkpoint-dir", folder, "--epochs", 2)
    problem = f"got 0.1, but {folder / FILE} was made with 0.2"
    assert (status, line) == (DIFFERENT, f"epoch 2: the bits differ: --learning-rate {problem}")


def test_an_epoch_that_diverges_when_it_is_trained_again_differs(tampered):
    folder = tampered(EPOCHS, lambda header, arrays: header["config"].update(learning_rate=1e300))
    status, (line, *_) = verify("--checkpoint-dir", folder, "--epochs", 1)
    assert status == DIFFERENT
    assert line.startswith("epoch 1: the bits differ: ")
    assert line.endswith(", the loss is NaN in epoch 1")


def test_an_option_that_may_change_when_a_run_resumes_is_no_difference(trained, tampered):
    # After epoch 2, this patience would have ended the run.
    folder = tampered(EPOCHS, lambda header, arrays: header["config"].update(patience=1, metrics="b.jsonl", keep=2))
    line = f"epoch 3: the bits agree, parameters sha256 {trained.sha256[2]}"
    assert verify("--checkpoint-dir", folder, "--epochs", 3)[1][0] == line


def test_a_record_that_is_false_in_every_checkpoint_is_found(trained, tampered):
    for epoch in range(2, EPOCHS + 1):
        folder = tampered(epoch, record(1, parameters_sha256="0" * 64, test_accuracy=0.99))
    status, (line, *_) = verify("--checkpoint-dir", folder, "--epochs", 2)
    assert status == DIFFERENT
    assert line == (
        f"epoch 2: the bits differ: the parameters in {FILE} and the sha256 of their record, "
        "test accuracy in the record, parameters sha256 in the record"
    )


def test_another_model_than_the_one_that_the_training_kept_is_found(trained, tmp_path):
    model = load_model(trained.model)
    last = read_checkpoint(checkpoint_path(trained.run, EPOCHS * STEPS)).arrays["parameters"]
    save_model(tmp_path / "last.npz", replace(model, parameters=last))
    status, lines = verify(tmp_path / "last.npz", "--checkpoint-dir", trained.run, "--epochs", 5)
    assert status == DIFFERENT
    assert lines[1] == f"{tmp_path / 'last.npz'}: not the parameters after epoch 3, which the training keeps"
    assert lines[2] == "1 of 5 epochs trained again: all agree"


def test_records_without_a_sha256_are_told_and_the_states_are_compared(trained, tampered):
    def change(header, arrays):
        for each in header["history"]:
            del each["parameters_sha256"]

    for epoch in range(1, EPOCHS + 1):
        folder = tampered(epoch, change)
    line = f"epoch 4: the bits agree, parameters sha256 {trained.sha256[3]}; its record has no sha256"
    kept = f"{trained.model}: the parameters after epoch 3, which the training keeps"
    last = "1 of 5 epochs trained again: all agree"
    assert verify(trained.model, "--checkpoint-dir", folder, "--epochs", 4) == (0, [line, kept, last])
    tampered(4, add("velocity"))
    assert verify("--checkpoint-dir", folder, "--epochs", 4)[0] == DIFFERENT


def test_other_data_are_found_before_anything_is_trained(trained, tmp_path):
    other = write_digits(tmp_path / "other", 600, 101)
    status, (line,) = verify("--checkpoint-dir", trained.run, "--epochs", 1, "--data-dir", other)
    assert status == DIFFERENT
    assert re.fullmatch(rf"{trained.run}: \S+ was made with data of sha256 \w{{64}}, and {other} has \w{{64}}", line)


def test_what_cannot_be_audited_is_one_line(trained, tampered, tmp_path):
    folder, dir_ = tampered(2, lambda header, arrays: None), "--checkpoint-dir"
    path = checkpoint_path(folder, 2 * STEPS)
    path.write_bytes(path.read_bytes()[:-100])
    assert f"checkpoint {path}: is damaged" in refusal(dir_, folder, "--epochs", 3)
    path.unlink()
    assert refusal(dir_, folder, "--epochs", 2) == (
        f"checkpoint {path}: is missing, which epoch 2 ended with; "
        "audit a run with --keep all and a checkpoint per epoch"
    )
    assert "--epochs: got 6, and there are 5 epochs" in refusal(dir_, folder, "--epochs", 6)
    assert "--sample: got 6, and there are 5 epochs" in refusal(dir_, folder, "--sample", 6, "--audit-seed", 1)
    assert "there is no checkpoint; name" in refusal(dir_, tmp_path, "--epochs", 1)
    assert "MODEL: is missing" in refusal()
    assert "--epochs: chooses epochs to audit, which need checkpoints" in refusal(trained.model, "--epochs", 1)
    assert f"{dir_} {folder}: no epochs to audit are named" in refusal(dir_, folder)
    assert f"{dir_} {folder}: got --sample; add --epochs, or" in refusal(dir_, folder, "--sample", 1)
    assert "got --epochs and --audit-seed" in refusal(dir_, folder, "--epochs", 1, "--audit-seed", 1)


def test_a_checkpoint_within_an_epoch_is_not_taken_for_its_end(tampered):
    def change(header, arrays):  # as --checkpoint-every 5 steps leaves it
        header.update(epochs_done=1, steps_done=STEPS, history=header["history"][:1])
        arrays["losses"] = np.zeros(4)

    folder = tampered(2, change)
    told = f"checkpoint {folder / FILE}: is not of the end of epoch 2; audit a run with --keep all and a checkpoint"
    for epoch in (2, 3):
        assert refusal("--checkpoint-dir", folder, "--epochs", epoch) == f"{told} per epoch"


def test_a_training_that_stopped_in_its_first_epoch_has_none_to_audit(tampered):
    folder = tampered(1, header(epochs_done=0, steps_done=3, history=[]))
    for epoch in range(2, EPOCHS + 1):
        checkpoint_path(folder, epoch * STEPS).unlink()
    told = f"--checkpoint-dir {folder}: no epoch is complete; wait for one"
    assert refusal("--checkpoint-dir", folder, "--epochs", 1) == told


def test_the_table_of_the_page_is_what_its_code_prints():
    page = (ROOT / "docs" / "verify.md").read_text()
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    out = StringIO()
    with redirect_stdout(out):
        exec(code, {})
    assert out.getvalue() == shown
