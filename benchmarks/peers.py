"""The same training by distnet and its peers, one `Peer` each: plain SGD on the same numbers, in float32 by default.

Each is written as its own documentation writes it, in its fastest form that still is that. compare.py runs each
in processes of its own, with one thread.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distnet.datasets.dataset import shared_split
from distnet.nn.model import Model
from distnet.nn.parameters import initial_parameters
from distnet.parallel.launched import launched_world
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

SAMPLES, FEATURES, CLASSES = 20_480, 784, 10
LEARNING_RATE = 0.002


class Case(NamedTuple):
    """What is trained. activation: "sigmoid" or "relu"."""

    sizes: tuple[int, ...]
    activation: str
    batch_size: int


class Peer(NamedTuple):
    """steps: takes so many steps and returns µs a step; every rank calls it. agree: gives every rank what a
    function gives on rank 0, and keeps no core busy on the others meanwhile.
    """

    steps: Callable[[int], float]
    agree: Callable[[Callable[[], int]], int] = lambda read: read()


def samples() -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Inputs and labels in the shape of MNIST; random, since no time depends on what they are."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((SAMPLES, FEATURES), np.float32), generator.integers(0, CLASSES, SAMPLES)


def timed(step: Callable[[int], None], case: Case) -> Callable[[int], float]:
    """`step(first)` is called for mini-batches that begin at row `first` of the shuffled epoch."""
    places = range(0, SAMPLES - case.batch_size + 1, case.batch_size)

    def steps(count: int) -> float:
        begin = time.perf_counter()
        for number in range(count):
            step(places[number % len(places)])
        return (time.perf_counter() - begin) / count * 1e6

    return steps


def distnet(case: Case, arithmetic: str, dtype: str, shards: int | None = None) -> Peer:
    """The trainer's own step, on all ranks that mpirun started."""
    world = launched_world()
    X, y = samples()
    split = shared_split(world, X, np.eye(CLASSES, dtype=dtype)[y], dtype)
    initialisation = {"sigmoid": "tutorial", "relu": "he"}[case.activation]
    initial = initial_parameters(case.sizes, case.activation, 0, dtype, initialisation)
    model = Model(case.sizes, case.activation, initial, arithmetic=arithmetic)
    trainer = Trainer(world, model, Splits(split), TrainingConfig(LEARNING_RATE, case.batch_size, shards=shards))
    order = np.random.default_rng(1).permutation(SAMPLES)
    loop = timed(lambda first: trainer.step(order[first : first + case.batch_size], first), case)

    def steps(count: int) -> float:
        with np.errstate(over="ignore", divide="ignore"), threadpool_limits(1, user_api="blas"):
            world.node_barrier()
            return loop(count)

    return Peer(steps, world.on_root)


def torch_network(case: Case, seed: int = 0) -> Any:
    """The network as torch.nn.Sequential."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    hidden = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}[case.activation]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(case.sizes):
        layers += [torch.nn.Linear(inputs, outputs), hidden()]
    return torch.nn.Sequential(*layers[:-1])


def eager_torch(case: Case) -> Peer:
    """PyTorch as its tutorials write it."""
    import torch

    model = torch_network(case)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_function = torch.nn.CrossEntropyLoss()
    X, y = map(torch.from_numpy, samples())
    order = torch.randperm(SAMPLES)

    def step(first: int) -> None:
        rows = order[first : first + case.batch_size]
        optimizer.zero_grad()
        loss_function(model(X[rows]), y[rows]).backward()
        optimizer.step()

    return Peer(timed(step, case))


def torch_ddp(case: Case) -> Peer:
    """DistributedDataParallel over gloo; torch.distributed.run starts the ranks. Each has its part of the rows."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model = torch.nn.parallel.DistributedDataParallel(torch_network(case))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_function = torch.nn.CrossEntropyLoss()
    X, y = map(torch.from_numpy, samples())
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(1))

    def step(first: int) -> None:
        rows = order[first + rank : first + case.batch_size : size]
        optimizer.zero_grad()
        loss_function(model(X[rows]), y[rows]).backward()
        optimizer.step()

    def agree(read: Callable[[], int]) -> int:
        answer = torch.tensor([read() if rank == 0 else 0])
        dist.broadcast(answer, 0)
        if not answer:
            dist.destroy_process_group()
        return int(answer)

    return Peer(timed(step, case), agree)


def jax_scan(case: Case) -> Peer:
    """JAX with all steps of a round in one compiled lax.scan, its fastest form."""
    import jax
    import jax.numpy as jnp

    hidden = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}[case.activation]
    generator = np.random.default_rng(0)
    network = [
        (jnp.asarray(generator.standard_normal(shape, np.float32) / shape[0] ** 0.5), jnp.zeros(shape[1]))
        for shape in pairwise(case.sizes)
    ]
    X, y = map(jnp.asarray, samples())
    order = np.random.default_rng(1).permutation(SAMPLES)
    batches = jnp.asarray(order[: SAMPLES // case.batch_size * case.batch_size].reshape(-1, case.batch_size))

    def loss(network: Any, rows: Any, labels: Any) -> Any:
        for weights, biases in network[:-1]:
            rows = hidden(rows @ weights + biases)
        logits = rows @ network[-1][0] + network[-1][1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))

    def step(network: Any, batch: Any) -> Any:
        gradients = jax.grad(loss)(network, X[batch], y[batch])
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, network, gradients), None

    run = jax.jit(lambda network, batches: jax.lax.scan(step, network, batches)[0], donate_argnums=0)
    at_once = min(len(batches), max(1, 10_000 // case.batch_size))  # so that another count compiles nothing anew

    def steps(count: int) -> float:
        nonlocal network
        begin = time.perf_counter()
        calls = max(1, count // at_once)
        for number in range(calls):
            first = number * at_once % (len(batches) - at_once + 1)
            network = run(network, batches[first : first + at_once])
        jax.block_until_ready(network)
        return (time.perf_counter() - begin) / (calls * at_once) * 1e6

    return Peer(steps)


def scikit_learn(case: Case, dtype: str = "float32") -> Peer:
    """MLPClassifier, its fit for an epoch at a time; it computes in the dtype of the inputs."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    model = MLPClassifier(
        case.sizes[1:-1],
        activation={"sigmoid": "logistic", "relu": "relu"}[case.activation],
        solver="sgd",
        alpha=0,
        batch_size=case.batch_size,
        learning_rate_init=LEARNING_RATE,
        momentum=0,
        nesterovs_momentum=False,
        max_iter=1,
        warm_start=True,
        random_state=0,
    )
    X, y = samples()
    X = X.astype(dtype)

    def steps(count: int) -> float:
        rows = min(max(count * case.batch_size, 2 * CLASSES * 10), SAMPLES // case.batch_size * case.batch_size)
        begin = time.perf_counter()
        with threadpool_limits(1):
            model.fit(X[:rows], y[:rows])
        return (time.perf_counter() - begin) / (rows / case.batch_size) * 1e6

    return Peer(steps)


def tutorial(case: Case) -> Peer:
    """The tutorial's own way: lists of float64 matrices, samples as columns, a new array for everything."""

    def sigmoid(z: Any) -> Any:
        return 1 / (1 + np.exp(-z))

    def relu(z: Any) -> Any:
        return np.maximum(z, 0)

    function = {"sigmoid": sigmoid, "relu": relu}[case.activation]

    def sigmoid_slope(z: Any) -> Any:
        return sigmoid(z) * (1 - sigmoid(z))

    def relu_slope(z: Any) -> Any:
        return np.where(z > 0, 1.0, 0.0)

    slope = {"sigmoid": sigmoid_slope, "relu": relu_slope}[case.activation]
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal((b, a)) / a**0.5 for a, b in pairwise(case.sizes)]
    biases = [np.zeros((b, 1)) for b in case.sizes[1:]]
    X, y = samples()
    X, Y = X.astype(float), np.eye(CLASSES)[y]
    order = np.random.default_rng(1).permutation(SAMPLES)

    def step(first: int) -> None:
        rows = order[first : first + case.batch_size]
        activations, logits = [X[rows].T], []
        for w, b in zip(weights, biases, strict=True):
            logits.append(w @ activations[-1] + b)
            activations.append(function(logits[-1]))
        exponentials = np.exp(logits[-1] - np.max(logits[-1], axis=0))
        delta = exponentials / np.sum(exponentials, axis=0) - Y[rows].T
        weight_gradients: list[Any] = []
        bias_gradients: list[Any] = []
        for layer in range(len(weights) - 1, -1, -1):
            weight_gradients.insert(0, delta @ activations[layer].T)
            bias_gradients.insert(0, np.sum(delta, axis=1, keepdims=True))
            if layer:
                delta = (weights[layer].T @ delta) * slope(logits[layer - 1])
        for layer in range(len(weights)):
            weights[layer] = weights[layer] - LEARNING_RATE / case.batch_size * weight_gradients[layer]
            biases[layer] = biases[layer] - LEARNING_RATE / case.batch_size * bias_gradients[layer]

    loop = timed(step, case)

    def steps(count: int) -> float:
        with threadpool_limits(1, user_api="blas"), np.errstate(over="ignore"):
            return loop(count)

    return Peer(steps)


def limit(case: Case) -> Peer:
    """What the machine allows: the step's matrix products at this core's sgemm rate of this moment, and parameters
    and gradients once through its memory.
    """
    size = 768
    a, b, c = np.ones((size, size), np.float32), np.ones((size, size), np.float32), np.empty((size, size), np.float32)
    source, target = np.ones(16_000_000, np.float32), np.empty(16_000_000, np.float32)
    first, *others = [inputs * outputs for inputs, outputs in pairwise(case.sizes)]
    flops = case.batch_size * (4 * first + 6 * sum(others))
    moved = 4 * 2 * sum((inputs + 1) * outputs for inputs, outputs in pairwise(case.sizes))

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    def steps(count: int) -> float:
        with threadpool_limits(1, user_api="blas"):
            rate = 2 * size**3 / fastest(lambda: np.matmul(a, b, out=c))
        bandwidth = 2 * source.nbytes / fastest(lambda: np.copyto(target, source))
        return (flops / rate + moved / bandwidth) * 1e6

    return Peer(steps)
