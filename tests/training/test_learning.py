"""Validation, early stopping, label smoothing, augmentation and scaled rates, by the command."""

import json

import numpy as np
import pytest
from helpers import command, fault, read_metrics, write_idx

from distnet import NeuralNetwork
from distnet.config.building import build_trainer, load_dataset
from distnet.config.reading import read_config
from distnet.datasets.dataset import draw_held_out, hold_out, shared_split
from distnet.datasets.loading import load
from distnet.datasets.options import DataOptions
from distnet.nn.model import ARITHMETICS, Model
from distnet.nn.parameters import initial_parameters
from distnet.nn.schedules import Schedule
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.runtime.stopwatch import no_lap
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.history import History
from distnet.training.trainer import Splits, Trainer

OPTIONS = ("--hidden", 50, "--quiet")  # of 600 digits
HELD = ("--validation", 100, "--epochs", 12, "--batch-size", 10)  # its loss is lowest after epoch 5


def test_the_best_epoch_on_the_validation_set_is_what_is_saved_and_told(digits, tmp_path):
    model, metrics = tmp_path / "model.npz", tmp_path / "metrics.jsonl"
    ended = command("--data-dir", digits, *OPTIONS, *HELD, "--metrics", metrics, "--model", model, ranks=2)
    records = read_metrics(metrics)
    best = min(records, key=lambda record: record["validation_loss"])
    assert len(records) == 12
    assert best["epoch"] < 12, "the test needs a run that gets worse"
    assert ended.out.splitlines()[-2] == f"test accuracy {best['test_accuracy']:.4f}"
    until_best = command("--data-dir", digits, *OPTIONS, *HELD, "--epochs", best["epoch"])
    assert until_best.sha256 == ended.sha256
    assert NeuralNetwork.load(model).about["config"]["validation"] == 100


def test_all_ranks_stop_when_patience_is_at_its_end_also_when_resumed(digits, tmp_path):
    metrics, folder = tmp_path / "metrics.jsonl", tmp_path / "run"
    patient = (*OPTIONS, *HELD, "--patience", 2)
    ended = command("--data-dir", digits, *patient, "--metrics", metrics)
    losses = [record["validation_loss"] for record in read_metrics(metrics)]
    assert len(losses) < 12
    assert np.argmin(losses) == len(losses) - 3
    kept = ("--checkpoint-dir", folder, "--resume")
    assert command("--data-dir", digits, *patient, *kept, ranks=3).sha256 == ended.sha256
    again = command("--data-dir", digits, *patient, *kept, "--metrics", metrics, ranks=2)  # it is complete
    assert again.sha256 == ended.sha256
    assert len(read_metrics(metrics)) == len(losses)


def test_a_run_resumed_before_its_best_epoch_is_over_ends_with_the_same_bits(digits, tmp_path):
    folder = tmp_path / "run"
    options = (*OPTIONS, *HELD)
    undisturbed = command("--data-dir", digits, *options)
    kept = ("--checkpoint-dir", folder, "--resume")
    command("--data-dir", digits, *options, "--epochs", 9, *kept, ranks=2)
    assert command("--data-dir", digits, *options, *kept, ranks=3).sha256 == undisturbed.sha256


def split(rows=40):
    generator = np.random.default_rng(0)
    X, Y = generator.normal(size=(rows, 9)), np.eye(4)[generator.integers(0, 4, rows)]
    return shared_split(World(), X, Y, np.float64)


def test_the_samples_held_out_are_not_learned_and_none_is_lost():
    world, whole = World(), split()
    held, chosen = hold_out(world, whole, 15, 3, range(4), "--validation")
    rows = {row.tobytes() for row in whole.inputs}
    assert {row.tobytes() for row in held.inputs} | {whole.inputs[k].tobytes() for k in chosen} == rows
    assert len(held.inputs) + len(chosen) == 40
    assert not np.array_equal(chosen, hold_out(world, whole, 15, 4, range(4), "--validation")[1])
    with pytest.raises(
        InputError, match="--validation: holding out 40 of 40 training samples leaves none to learn from"
    ):
        hold_out(world, whole, 40, 0, range(4), "--validation")


def test_every_class_has_its_share_of_the_samples_held_out_and_a_class_of_one_is_refused():
    codes = np.repeat([0, 1, 2], [270, 25, 5])
    whole = shared_split(World(), np.arange(300.0)[:, None], np.eye(3)[codes], np.float64)
    for seed in range(20):
        held, chosen = hold_out(World(), whole, 60, seed, "abc", "--validation")
        assert held.targets.sum(axis=0).tolist() == [54, 5, 1]
        assert np.bincount(codes[chosen]).tolist() == [216, 20, 4]
    few, _ = hold_out(World(), whole, 2, 0, "abc", "--validation")
    assert len(few.inputs) == 2
    whole.targets[-4:] = np.eye(3)[0]
    with pytest.raises(InputError, match="--validation: class 'c' has one sample"):
        hold_out(World(), whole, 60, 0, "abc", "--validation")


@pytest.mark.parametrize("sizes", [[1, 1, 1], [2, 1, 9], [1, 5], [3], [40, 0, 2, 1, 7]])
def test_as_many_rows_as_wanted_are_held_out_whatever_the_classes(sizes):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    for count in range(len(codes) + 1):
        held, rest = draw_held_out(codes, count, [0])
        assert len(held) == count
        assert sorted([*held, *rest]) == list(range(len(codes)))


def test_the_split_seed_alone_says_which_rows_are_held_out(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("".join(f"{k * 7 % 60},{k % 3}\n" for k in range(60)))

    def held_out(*options):
        config = read_config(["--dataset", f"csv:{table}", "--validation", "12", *options])
        data = load_dataset(World(), config)
        network, trainer = build_trainer(World(), config, data, None, no_lap)
        return data.fingerprint, trainer.validation.split.inputs.tobytes(), network.parameters.tobytes()

    first, other_seed, other_split = held_out(), held_out("--seed", "1"), held_out("--split-seed", "1")
    assert first[:2] == other_seed[:2]
    assert first[2] != other_seed[2]
    assert first[2] == other_split[2]
    assert first[0] != other_split[0]
    assert first[1] != other_split[1]


def test_label_smoothing_is_torchs():
    torch = pytest.importorskip("torch", reason="needs the extra peers")
    sizes, data = (9, 4), split()
    initial = initial_parameters(sizes, "tanh", 0, np.float64)
    config = TrainingConfig(0.1, 40, regularisation=Regularisation(label_smoothing=0.2))
    trainer = Trainer(World(), Model(sizes, "tanh", initial), Splits(data), config)
    epochs = []
    trainer.run(1, epochs.append)
    matrix = torch.tensor(initial.reshape(10, 4), requires_grad=True)
    X, y = torch.tensor(data.inputs[:, :10].copy()), torch.tensor(data.targets.argmax(axis=1))
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.2)(X @ matrix, y)
    loss.backward()
    assert epochs[0].loss == pytest.approx(float(loss.detach()), rel=1e-12)
    expected = initial - 0.1 * matrix.grad.numpy().reshape(-1)
    assert trainer.close() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_a_scaled_learning_rate_is_that_for_each_row(digits):
    run = ("--data-dir", digits, *OPTIONS, "--epochs", 1, "--batch-size", 60)
    scaled = command(*run, "--learning-rate", 0.1, "--scale-learning-rate", 30)
    assert scaled.sha256 == command(*run, "--learning-rate", 0.2).sha256


def test_a_scaled_learning_rate_goes_by_the_rows_that_there_are(digits):
    run = ("--data-dir", digits, *OPTIONS, "--epochs", 1, "--batch-size", 1000)
    scaled = command(*run, "--learning-rate", 0.01, "--scale-learning-rate", 300)
    assert scaled.sha256 == command(*run, "--learning-rate", 0.02).sha256


def test_a_cosine_schedule_from_python_is_as_long_as_the_training():
    data = split()
    X, Y = data.inputs[:, :9], data.targets

    def trained(schedule):
        network = NeuralNetwork([9, 5, 4], dtype=np.float64)
        network.train(X, Y, epochs=4, batch_size=20, schedule=schedule)
        return network.parameters

    assert np.array_equal(trained(Schedule("cosine")), trained(Schedule("cosine", epochs=4)))
    with pytest.raises(InputError, match="schedule: expected one of constant, step, exponential, cosine, got 'cosin'"):
        trained(Schedule("cosin"))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_native_arithmetic_learns_what_portable_does_but_for_rounding(activation):
    """From the same start weights, in the same order, without the same neurons."""
    data, found = split(), []
    for arithmetic in ARITHMETICS:
        network = NeuralNetwork([9, 12, 7, 4], activation, 0.2, seed=5, dtype=np.float64, arithmetic=arithmetic)
        regularisation = Regularisation(dropout=0.3, label_smoothing=0.1)
        network.train(data.inputs[:, :9], data.targets, epochs=3, batch_size=8, regularisation=regularisation)
        found.append(network.parameters)
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_validation_loss_that_is_not_a_number_is_never_the_best():
    history = History([{"validation_loss": loss} for loss in (float("nan"), 0.5, 0.3, 0.4)])
    assert history.best_epoch() == 3


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_training_ends_if_the_last_step_of_an_epoch_leaves_parameters_that_are_not_finite(arithmetic):
    data, epochs = split(), []
    data.inputs[:, :9] *= 1000
    model = NeuralNetwork([9, 4], arithmetic=arithmetic, dtype=np.float64).model
    trainer = Trainer(World(), model, Splits(data), TrainingConfig(1e308, 40))  # one step per epoch
    trainer.run(3, epochs.append)
    assert [np.isfinite(each.loss) for each in epochs] == [True]
    assert trainer.diverged == "the parameters are not finite after epoch 1"


def test_images_keep_their_shape(tmp_path):
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", np.arange(10 * 32 * 8).reshape(10, 32, 8) % 256)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.arange(10))
    assert load(World(), DataOptions("mnist", tmp_path), np.float32).shape == (32, 8)
    ended = command("--data-dir", tmp_path, *OPTIONS, "--epochs", 1, "--augment", "shift,rotate")
    assert ended.status == 0


def test_a_models_configuration_trains_it_again_also_if_it_was_checkpointed(digits, tmp_path):
    run = ("--data-dir", digits, *OPTIONS, "--epochs", 2, "--checkpoint-dir", tmp_path / "run")
    ended = command(*run, "--model", tmp_path / "model.npz")
    again = command("--config", tmp_path / "model.toml", "--data-dir", digits)
    assert (again.status, again.sha256) == (0, ended.sha256)


def test_an_epoch_resumed_after_its_last_step_has_no_negative_speed(digits, tmp_path):
    metrics, folder = tmp_path / "metrics.jsonl", tmp_path / "run"
    run = ("--data-dir", digits, *OPTIONS, "--train-limit", 250, "--batch-size", 60, "--epochs", 2)
    kept = ("--checkpoint-dir", folder, "--checkpoint-every", "5", "steps", "--resume", "--metrics", metrics)
    assert command(*run, *kept, env=fault("SIGTERM", step=5)).status == 75
    assert command(*run, *kept).status == 0
    assert all(json.loads(line)["samples_per_second"] >= 0 for line in metrics.read_text().splitlines())


def test_augmentation_changes_training_alone_and_is_refused_where_rows_are_no_images(digits, tmp_path):
    run = ("--data-dir", digits, *OPTIONS, "--epochs", 1)
    nothing = command(*run, "--augment", "shift=0", "rotate=0")
    assert nothing.sha256 == command(*run).sha256
    assert command(*run, "--augment", "shift,elastic").sha256 != nothing.sha256
    table = tmp_path / "table.csv"
    table.write_text("".join(f"{k % 8},{k % 7},{k % 3},{k % 2}\n" for k in range(20)))
    ended = command("--dataset", f"csv:{table}", *OPTIONS, "--augment", "shift")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"distnet: --augment: rows of {table} are numbers, not images; ")
