"""Regression, several labels, one of two classes by a single output, and weights: the same backprop."""

import numpy as np
import pytest

from distnet.datasets.dataset import shared_split
from distnet.network import NeuralNetwork
from distnet.nn.arithmetic import prepare
from distnet.nn.model import ARITHMETICS
from distnet.nn.optimizers import Hyperparameters
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.training.configuration import TrainingConfig
from distnet.training.evaluation import losses_from, r2
from distnet.training.trainer import Splits, Trainer

BOTH = pytest.mark.parametrize("arithmetic", ARITHMETICS)
CASES = [("regression", 1), ("regression", 3), ("multilabel", 4), ("classification", 1), ("classification", 3)]
EVERY_CASE = pytest.mark.parametrize(("task", "outputs"), CASES)


def data(task, outputs, rows=11):
    generator = np.random.default_rng(5)
    X = generator.normal(size=(rows, 4))
    if task == "regression":
        return X, generator.normal(size=(rows, outputs)) * 3
    if task == "classification" and outputs > 1:
        return X, np.eye(outputs)[generator.integers(0, outputs, rows)]
    return X, generator.integers(0, 2, (rows, outputs)).astype(float)


def build(task, outputs, arithmetic="native"):
    return NeuralNetwork((4, 6, 5, outputs), "tanh", 0.25, seed=3, dtype="float64", arithmetic=arithmetic, task=task)


def formulas(task, logits, Y):
    """The loss of each row, written down plainly."""
    if task == "regression":
        return ((logits - Y) ** 2).sum(axis=1) / 2
    if task == "multilabel" or Y.shape[1] == 1:
        p = 1 / (1 + np.exp(-logits))
        return -(Y * np.log(p) + (1 - Y) * np.log(1 - p)).sum(axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -(Y * np.log(p)).sum(axis=1)


def logits_of(network, X):
    a = X
    for number, (weights, biases) in enumerate(zip(network.weights, network.biases, strict=True)):
        a = (np.tanh(a) if number else a) @ weights + biases
    return a


@EVERY_CASE
def test_the_gradient_of_every_task_is_that_of_its_loss(task, outputs):
    network = build(task, outputs)
    X, Y = data(task, outputs)
    gradient = np.concatenate([np.append(w, b) for w, b in zip(*network.backprop(X, Y), strict=True)])
    for i, value in enumerate(network.parameters.copy()):
        ends = []
        for step in (1e-6, -1e-6):
            network.parameters[i] = value + step
            ends.append(formulas(task, logits_of(network, X), Y).sum())
        network.parameters[i] = value
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-6)


@BOTH
@EVERY_CASE
def test_the_losses_of_every_task_are_their_formulas(task, outputs, arithmetic):
    network = build(task, outputs, arithmetic)
    X, Y = data(task, outputs)
    work = prepare(network.model).workspace(len(X), (len(X),), len(X), has_masks=False)
    work.inputs[:, :4], work.inputs[:, 4], work.targets[:] = X, 1, Y
    work.infer()
    rounding = 1e-12 if arithmetic == "native" else 1e-5
    assert losses_from(work.losses()) == pytest.approx(formulas(task, logits_of(network, X), Y), rel=rounding)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_saturated_label_has_its_exact_loss(arithmetic):
    network = NeuralNetwork((1, 2), task="multilabel", dtype="float64", arithmetic=arithmetic)
    network.weights[0][:] = [[800.0, -800.0]]
    network.biases[0][:] = 0
    work = prepare(network.model).workspace(1, (1,), 1, has_masks=False)
    work.inputs[:, :2], work.targets[:] = 1, [[1, 1]]
    work.infer()
    assert losses_from(work.losses()) == pytest.approx([800.0], rel=1e-6)
    assert work.outputs[0, 0, 0] == 1
    assert work.outputs[0, 1, 0] < 1e-200


@EVERY_CASE
def test_a_weight_of_two_is_the_row_twice_and_of_zero_is_no_row(task, outputs):
    X, Y = data(task, outputs)
    weights = np.arange(len(X)) % 3
    weighted, repeated = build(task, outputs, "portable"), build(task, outputs, "portable")
    weighted.train(X, Y, 3, len(X), sample_weight=weights)
    rows = np.repeat(np.arange(len(X)), weights)
    repeated.input_exponent = weighted.input_exponent
    repeated.train(X[rows], Y[rows], 3, len(rows))
    assert weighted.parameters == pytest.approx(repeated.parameters, rel=1e-5, abs=1e-7)


@BOTH
def test_weights_of_one_are_no_weights_to_the_bit(arithmetic):
    X, Y = data("classification", 3)
    plain, weighted = build("classification", 3, arithmetic), build("classification", 3, arithmetic)
    plain.train(X, Y, 4, 4)
    weighted.train(X, Y, 4, 4, sample_weight=np.ones(len(X)))
    assert plain.parameters.tobytes() == weighted.parameters.tobytes()


@BOTH
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_mini_batch_without_weight_changes_nothing(arithmetic, optimizer):
    X, Y = data("regression", 1)
    network = build("regression", 1, arithmetic)
    weights = np.zeros(len(X))
    weights[4] = 1
    seen = []
    network.train(
        X,
        Y,
        2,
        3,
        hyperparameters=Hyperparameters(optimizer, weight_decay=0.1),
        sample_weight=weights,
        on_step=lambda trainer: seen.append(trainer.exchange.parameters.tobytes()),
    )
    assert len(set(seen)) == 3, "two of eight steps have the row with a weight; before them is the initial network"


def test_reported_losses_are_weighted():
    X, Y = data("regression", 1)
    weights = np.linspace(0.5, 2, len(X))
    world = World()
    split = shared_split(world, X, Y, np.float64, weights)
    network = build("regression", 1)
    expected = np.average(formulas("regression", logits_of(network, X), Y), weights=weights)
    trainer = Trainer(world, network.model, Splits(split, split), TrainingConfig(1e-12, len(X)))
    trainer.run(1, lambda epoch: None)
    record = trainer.history.records[0]
    assert record["loss"] == pytest.approx(expected, rel=1e-9)
    assert record["test_loss"] == pytest.approx(expected, rel=1e-9)


def test_the_penalty_is_divided_by_the_weights_of_the_mini_batch():
    X, Y = data("regression", 1)
    weights = np.full(len(X), 2.0)
    penalised, decayed = build("regression", 1), build("regression", 1)
    penalised.train(X, Y, 1, len(X), hyperparameters=Hyperparameters(penalty=11.0), sample_weight=weights)
    decayed.train(X, Y, 1, len(X), hyperparameters=Hyperparameters(weight_decay=0.5), sample_weight=weights)
    assert penalised.parameters == pytest.approx(decayed.parameters, rel=1e-14)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 10, r"sample_weight: expected shape \(11,\), got \(10,\)"),
        ([-1.0] + [1.0] * 10, "sample_weight: expected finite numbers of 0 or more, got -1"),
        ([np.nan] + [1.0] * 10, "sample_weight: expected finite numbers of 0 or more, got nan"),
        ([0.0] * 11, "sample_weight: all weights are zero; give some sample a weight"),
        (["heavy"] * 11, "sample_weight: not all of its values are numbers"),
    ],
)
def test_invalid_weights_are_refused(weights, message):
    X, Y = data("regression", 1)
    with pytest.raises(InputError, match=message):
        build("regression", 1).train(X, Y, sample_weight=weights)


@BOTH
@EVERY_CASE
def test_a_saved_network_keeps_its_task(task, outputs, arithmetic, tmp_path):
    X, Y = data(task, outputs)
    network = build(task, outputs, arithmetic)
    network.train(X, Y, 2, 4)
    for path in (tmp_path / "model.pkl", tmp_path / "model.npz"):
        network.save(path)
        loaded = NeuralNetwork.load(path)
        assert loaded.task == task
        assert loaded.forward(X).tobytes() == network.forward(X).tobytes()


def test_scores_of_every_task():
    X = np.zeros((4, 4))
    for task, outputs, Y, bias, score in [
        ("regression", 1, [[1.0], [2], [3], [4]], [2.5], 0.0),
        ("regression", 2, [[1.0, 7], [1, 7], [3, 7], [3, 7]], [2, 7], 0.5),
        ("multilabel", 2, [[1.0, 0], [1, 1], [0, 0], [1, 0]], [9, -9], 0.5),
        ("classification", 1, [[1.0], [1], [0], [1]], [9], 0.75),
        ("classification", 2, [[1.0, 0], [1, 0], [0, 1], [1, 0]], [9, 0], 0.75),
    ]:
        network = NeuralNetwork((4, outputs), dtype="float64", arithmetic="native", task=task)
        network.biases[0][:] = bias
        assert network.test(X, np.array(Y)) == score


def test_r2_is_that_of_its_definition():
    generator = np.random.default_rng(1)
    targets, outputs = generator.normal(size=(2, 50, 3))
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    assert r2(targets, outputs) == pytest.approx(np.mean(1 - ((targets - outputs) ** 2).sum(axis=0) / spread))


def test_too_many_labels_for_portable_arithmetic_are_refused():
    network = NeuralNetwork((2, 1001), task="multilabel")
    with pytest.raises(InputError, match=r"targets: .* up to 1,000 labels, got 1,001; use native arithmetic"):
        network.forward(np.zeros((1, 2)))
