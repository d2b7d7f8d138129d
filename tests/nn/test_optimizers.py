"""Optimizers match torch.optim at each step, and don't depend on the division into slices."""

import numpy as np
import pytest

from distnet import NeuralNetwork
from distnet.nn.optimizers import RULES, Hyperparameters, Optimizer
from distnet.nn.parameters import parameter_count, weight_runs

SIZES = (7, 6, 5, 3)
COUNT = parameter_count(SIZES)
CHOICES = [
    Hyperparameters(name, momentum=0.8, betas=(0.85, 0.97), epsilon=1e-7, weight_decay=decay)
    for name in RULES
    for decay in (0.0, 0.03)
]


def gradients(step):
    return np.random.default_rng(step).normal(size=COUNT)


def updated(choice, cuts, steps=50):
    parameters = np.random.default_rng(99).normal(size=COUNT)
    edges = [0, *cuts, COUNT]
    slices = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    optimizers = []
    for place in slices:
        runs = [slice(r.start - place.start, r.stop - place.start) for r in weight_runs(SIZES)]
        optimizers.append(Optimizer(parameters[place], runs, choice))
    for step in range(steps):
        for place, optimizer in zip(slices, optimizers, strict=True):
            optimizer.update(gradients(step)[place].copy(), 0.25, 0.01 / (1 + step))
    return parameters, optimizers


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_slices_of_any_size_give_the_same_bits(choice):
    whole, _ = updated(choice, [])
    for cuts in ([1], [40], [10, 11, 70], [0, 0, 30]):
        assert np.array_equal(updated(choice, cuts)[0], whole)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_fifty_steps_match_torch_optim(choice):
    torch = pytest.importorskip("torch", reason="needs the extra peers: torch")
    start = np.random.default_rng(99).normal(size=COUNT)
    is_weight = np.zeros(COUNT, bool)
    for run in weight_runs(SIZES):
        is_weight[run] = True
    tensors = [torch.tensor(start[mask], requires_grad=True) for mask in (is_weight, ~is_weight)]
    groups = [
        {"params": tensors[0], "weight_decay": choice.weight_decay},
        {"params": tensors[1], "weight_decay": 0.0},
    ]
    adam = {"betas": choice.betas, "eps": choice.epsilon}
    made = {
        "sgd": lambda: torch.optim.SGD(groups, lr=1),
        "momentum": lambda: torch.optim.SGD(groups, lr=1, momentum=choice.momentum),
        "nesterov": lambda: torch.optim.SGD(groups, lr=1, momentum=choice.momentum, nesterov=True),
        "adam": lambda: torch.optim.Adam(groups, lr=1, **adam),
        "adamw": lambda: torch.optim.AdamW(groups, lr=1, **adam),
    }[choice.optimizer]()
    for step in range(50):
        for group in made.param_groups:
            group["lr"] = 0.01 / (1 + step)
        for tensor, mask in zip(tensors, (is_weight, ~is_weight), strict=True):
            tensor.grad = torch.tensor(0.25 * gradients(step)[mask])
        made.step()
    ours, _ = updated(choice, [33])
    for tensor, mask in zip(tensors, (is_weight, ~is_weight), strict=True):
        assert np.abs(ours[mask] - tensor.detach().numpy()).max() <= 1e-12


@pytest.mark.parametrize("name", RULES)
def test_the_state_covers_the_own_slice_alone(name):
    _, optimizers = updated(Hyperparameters(name), [10, 40], steps=1)
    per_parameter = {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2}[name]
    sizes = [sum(state.size for state in each.state.values()) for each in optimizers]
    assert sizes == [per_parameter * size for size in (10, 30, COUNT - 40)]


@pytest.mark.parametrize("name", RULES)
def test_biases_do_not_decay(name):
    network = NeuralNetwork(SIZES, dtype=np.float64)
    network.parameters[:] = 1
    runs = weight_runs(SIZES)
    Optimizer(network.parameters, runs, Hyperparameters(name, weight_decay=0.5)).update(np.zeros(COUNT), 1.0, 0.1)
    assert all((biases == 1).all() for biases in network.biases)
    assert all((weights < 1).all() for weights in network.weights)


def test_clipping_matches_torch():
    torch = pytest.importorskip("torch", reason="needs the extra peers: torch")
    X = np.random.default_rng(3).normal(size=(12, 7)) * 3
    Y = np.eye(3)[np.arange(12) % 3]
    ours = NeuralNetwork(SIZES, learning_rate=0.5, dtype=np.float64, arithmetic="native")
    theirs = NeuralNetwork(SIZES, learning_rate=0.5, dtype=np.float64, arithmetic="native")
    dw, db = theirs.backprop(X, Y)
    pairs = list(zip([*theirs.weights, *theirs.biases], [*dw, *db], strict=True))
    tensors = [torch.tensor(p, requires_grad=True) for p, _ in pairs]
    for tensor, (_, g) in zip(tensors, pairs, strict=True):
        tensor.grad = torch.tensor(g / 12)
    torch.nn.utils.clip_grad_norm_(tensors, 0.05)
    torch.optim.SGD(tensors, lr=0.5).step()
    ours.train(X, Y, epochs=1, batch_size=12, hyperparameters=Hyperparameters(clip_norm=0.05))
    for parameter, tensor in zip([*ours.weights, *ours.biases], tensors, strict=True):
        assert np.abs(parameter - tensor.detach().numpy()).max() <= 1e-12
