"""Portable gradients are exact sums of rounded products: no split, order or neighbour of a row changes a bit."""

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from distnet.datasets.dataset import Split
from distnet.network import NeuralNetwork
from distnet.nn import portable
from distnet.nn.arithmetic import prepare
from distnet.nn.functional import ACTIVATIONS, build_activations
from distnet.nn.model import Model
from distnet.nn.native import NativeArithmetic
from distnet.nn.optimizers import Hyperparameters, Optimizer, clip_scale
from distnet.nn.parameters import BLOCK, initial_parameters, layer_stacks, layer_views, parameter_count
from distnet.nn.portable import PortableArithmetic, layer_bits
from distnet.parallel.exchange import Exchange
from distnet.parallel.shards import share
from distnet.parallel.world import World
from distnet.portable import elementary
from distnet.portable.grids import LEAST, MOST_BITS, NOT_FINITE, exponent_above, powers_above, product_bits
from distnet.runtime.arrays import Sharing, aligned_zeros
from distnet.runtime.errors import InputError
from distnet.training.trainer import find_exponent

SIZES = {
    "three layers": (6, 5, 4, 3),
    "equal layers": (4, 4, 4, 4, 4),
    "no hidden layers": (6, 3),
    "layers of one neuron": (1, 1, 1, 1),
    "a narrow layer": (7, 9, 1, 2),
}
every_activation = pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
every_shape = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def data(sizes, rows, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, sizes[0])), np.eye(sizes[-1])[generator.integers(0, sizes[-1], rows)]


def build_model(sizes, activation="relu", X=None, parameters=None, seed=0):
    if parameters is None:
        parameters = initial_parameters(sizes, activation, seed, np.float64)
    exponent = None if X is None else exponent_above(float(np.max(np.abs(X), initial=0)))
    return Model(sizes, activation, parameters, arithmetic="portable", input_exponent=exponent)


def pass_rows(arithmetic, X, Y, rows, batch, masks=(), scale=1.0, padding=0):
    """A workspace after forward and backprop of some rows, and its gradients (N,) as stacks of layers."""
    sizes = arithmetic.model.sizes
    workspace = arithmetic.workspace(len(rows) + padding, (len(rows),), batch, bool(masks))
    workspace.inputs[: len(rows), : sizes[0]] = X[rows]
    workspace.inputs[: len(rows), sizes[0]] = 1
    workspace.targets[: len(rows)] = Y[rows]
    arithmetic.round_inputs(workspace.inputs[:, : sizes[0]])
    workspace.forward([mask[rows] for mask in masks])
    flat = np.full((1, parameter_count(sizes)), np.nan)  # every element has to be overwritten
    stacks = layer_stacks(flat, sizes)
    workspace.backprop(stacks, scale)
    return workspace, flat[0], stacks


def gradient(arithmetic, X, Y, parts=None, masks=(), scale=1.0, padding=0):
    """Σ∇ over all rows, as ranks compute it that have these rows each."""
    parts = [np.arange(len(X))] if parts is None else parts
    passes = [pass_rows(arithmetic, X, Y, rows, len(X), masks, scale, padding) for rows in parts]
    exponents = np.maximum.reduce([workspace.exponents for workspace, _, _ in passes])
    with np.errstate(over="ignore", invalid="ignore"):
        for workspace, _, stacks in passes:
            workspace.finish(stacks, exponents)
        total = np.zeros(parameter_count(arithmetic.model.sizes))
        for _, flat, _ in passes:
            total += flat
    return total


def splits(rows, seed=0):
    """Parts of any number, size and order; some have no rows."""
    generator = np.random.default_rng(seed)
    yield [np.array([], int), np.arange(rows)]
    yield [np.array([row]) for row in range(rows)][::-1]
    for parts in (2, 3, 5, rows + 2):
        order, cuts = generator.permutation(rows), np.sort(generator.integers(0, rows + 1, parts - 1))
        yield np.split(order, cuts)


def assert_no_split_matters(model, X, Y, **options):
    """Returns the gradient, which has the same bits however the rows are split."""
    with np.errstate(all="ignore"):
        arithmetic = prepare(model)
        expected = gradient(arithmetic, X, Y, **options)
        for number, parts in enumerate(splits(len(X))):
            found = gradient(arithmetic, X, Y, parts, padding=number % 2, **options)
            assert np.array_equal(found, expected, equal_nan=True)
    return expected


@every_activation
@every_shape
def test_any_split_of_the_rows_in_any_order_gives_the_same_gradient(sizes, activation):
    X, Y = data(sizes, 11)
    assert np.isfinite(assert_no_split_matters(build_model(sizes, activation, X), X, Y)).all()


@pytest.mark.parametrize("rows", [1, 2, 64, 65])
def test_mini_batches_of_one_row_and_of_more(rows):
    X, Y = data((6, 5, 4, 3), rows)
    assert_no_split_matters(build_model((6, 5, 4, 3), "relu", X), X, Y)


@every_activation
def test_dropout_and_a_scale_split_like_all_else(activation):
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 9)
    generator = np.random.default_rng(1)
    masks = [generator.integers(0, 2, (9, size)) * 2.0 for size in sizes[1:-1]]
    assert np.isfinite(assert_no_split_matters(build_model(sizes, activation, X), X, Y, masks=masks, scale=0.3)).all()


@every_activation
@pytest.mark.parametrize("magnitude", [1e-30, 1e-9, 1e9, 1e30])
def test_weights_of_all_magnitudes(activation, magnitude):
    sizes = (6, 5, 3)
    X, Y = data(sizes, 8)
    model = build_model(sizes, activation, X)
    model.parameters[:] *= magnitude
    assert np.isfinite(assert_no_split_matters(model, X, Y)).all()
    model.parameters[::2] /= magnitude
    assert np.isfinite(assert_no_split_matters(model, X, Y)).all()


def outliers(case, X, model):
    weights = layer_views(model.parameters, model.sizes)
    if case == "weight":
        weights[0][2, 1] = -1e20
    elif case == "weight of the output":
        weights[-1][0, 0] = 1e20
    elif case == "bias":
        weights[1][-1, 2] = 1e15
    elif case == "row":
        X[4] *= 1e12
    elif case == "column":
        X[:, 1] *= 1e12
    elif case == "rows of zeros":
        X[2:7] = 0
    elif case == "only zeros":
        X[:] = 0
    elif case == "dead neurons":
        for layer in weights[:-1]:
            layer[-1] = -1e3
    elif case == "a dead part":
        X[:4] = -np.abs(X[:4])
        weights[0][:-1] = np.abs(weights[0][:-1]) * 1e-3
        weights[0][-1] = 0
    elif case == "certain and right":
        weights[-1][-1, 0] = 1e4
    elif case == "subnormal":
        model.parameters[::3] = 5e-324
        X[1] = 5e-324
    else:
        raise ValueError(case)


@every_activation
@pytest.mark.parametrize(
    "case",
    [
        "weight",
        "weight of the output",
        "bias",
        "row",
        "column",
        "rows of zeros",
        "only zeros",
        "dead neurons",
        "a dead part",
        "certain and right",
        "subnormal",
    ],
)
def test_outliers_and_zeros(case, activation):
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 10)
    model = build_model(sizes, activation)
    outliers(case, X, model)
    if case == "certain and right":
        Y[:5] = np.eye(3)[0]
    model = build_model(sizes, activation, X, model.parameters)
    assert np.isfinite(assert_no_split_matters(model, X, Y)).all()


NO_GRID = [np.nan, np.inf, -np.inf, 2.0**250, -1e300]


@every_activation
@pytest.mark.parametrize("sizes", [SIZES["three layers"], SIZES["no hidden layers"]], ids=["deep", "flat"])
@pytest.mark.parametrize("place", ["input", "first layer", "last layer"])
@pytest.mark.parametrize("value", NO_GRID)
def test_a_weight_or_an_input_that_no_grid_holds_makes_every_element_of_the_gradient_nan(
    sizes, place, value, activation
):
    X, Y = data(sizes, 6)
    parameters = initial_parameters(sizes, activation, 0, np.float64)
    if place == "input":
        X[3, 2] = value
    else:
        layer_views(parameters, sizes)[0 if place == "first layer" else -1][1, 0] = value
    model = build_model(sizes, activation, X, parameters)
    assert np.isnan(assert_no_split_matters(model, X, Y)).all()


@every_activation
@pytest.mark.parametrize("place", ["first layer", "last layer"])
@pytest.mark.parametrize("value", NO_GRID)
def test_a_bias_that_no_grid_holds_saturates_or_makes_every_element_of_a_layers_gradient_nan(place, value, activation):
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 6)
    parameters = initial_parameters(sizes, activation, 0, np.float64)
    layer_views(parameters, sizes)[0 if place == "first layer" else -1][-1, 0] = value
    found = np.isnan(assert_no_split_matters(build_model(sizes, activation, X, parameters), X, Y))
    assert found.all() or not np.isnan(value)
    assert all(layer.all() or not layer.any() for layer in layer_views(found, sizes))


as_fractions = np.vectorize(Fraction, otypes=[object])


def to_grid(x, exponent, bits):
    """The nearest multiples of 2^(exponent - bits), as Fractions of Fractions or floats."""
    unit = Fraction(2) ** (exponent - min(bits, MOST_BITS))
    return np.vectorize(lambda each: round(Fraction(each) / unit) * unit, otypes=[object])(x)


def exponent_of(x):
    return exponent_above(float(max(abs(each) for each in np.ravel(x))))


def by_row(x, bits, exponent=None):
    return np.stack([to_grid(row, exponent_of(row) if exponent is None else exponent, bits) for row in x])


def to_floats(x):
    """Fractions as float64, which hold all of them exactly."""
    result = x.astype(np.float64)
    assert (as_fractions(result) == x).all()
    return result


def exact_gradient(model, X, Y, scale):
    """Σ∇ as docs/portable.md defines it, with every product and sum in Fractions."""
    sizes, layers = model.sizes, layer_views(model.parameters, model.sizes)
    count, classes, batch = len(layers), sizes[-1], product_bits(len(X))
    bits = [layer_bits(*layer[:-1].shape) for layer in [np.empty((a + 1, b)) for a, b in itertools.pairwise(sizes)]]
    activation = build_activations(elementary.sigmoid, elementary.tanh)[model.activation]
    bounded = model.activation in ("sigmoid", "tanh")
    exponents = [[exponent_of(column) for column in layer[:-1].T] for layer in layers]
    weights = [
        np.stack([to_grid(column, e, bit.weights) for column, e in zip(layer[:-1].T, each, strict=True)], 1)
        for layer, each, bit in zip(layers, exponents, bits, strict=True)
    ]
    below, slopes = [to_grid(X, model.input_exponent, bits[0].inputs)], []
    for number in range(count - 1):
        z = to_floats(below[-1] @ weights[number]) + layers[number][-1]
        a = activation.function(z, None)
        below.append(by_row(a, bits[number + 1].inputs, 0 if bounded else None))
        slopes.append((a, z))
    slopes = [
        activation.derivative(to_floats(rounded), z, None) for rounded, (_, z) in zip(below[1:], slopes, strict=True)
    ]
    logits = to_floats(below[-1] @ weights[-1]) + layers[-1][-1]
    if model.output == "sigmoid":
        powers = elementary.exp(-np.abs(logits))
        outputs = np.where(logits >= 0, 1.0, powers) / (1.0 + powers)
    else:
        powers = elementary.exp(logits - logits.max(axis=1, keepdims=True))
        outputs = powers / to_floats(to_grid(powers, 0, product_bits(classes)).sum(axis=1))[:, None]
    deltas = [(outputs - Y) * scale]
    for number in range(count - 1, 0, -1):
        powers = np.ldexp(1.0, exponents[number])
        scaled = by_row(deltas[0] * powers, bits[number].deltas) / as_fractions(powers)
        deltas.insert(0, to_floats(scaled @ weights[number].T) * slopes[number - 1])
    found = []
    for number, (a, delta) in enumerate(zip(below, deltas, strict=True)):
        kept = bits[number].inputs
        if number and not (bounded and batch - kept >= 20):
            kept = batch // 2
            a = to_grid(a, 0 if bounded else exponent_of(a), kept)
        delta = to_grid(delta, exponent_of(delta), batch - kept)
        found += [to_floats(a.T @ delta).reshape(-1), to_floats(delta.sum(axis=0))]
    return np.concatenate(found)


@every_activation
@every_shape
@pytest.mark.parametrize(("rows", "scale"), [(1, 1.0), (5, 0.3)])
def test_a_gradient_is_that_of_exact_arithmetic_on_the_rounded_factors(sizes, activation, rows, scale):
    X, Y = data(sizes, rows)
    X[-1] = np.floor(X[-1])  # zeros among them, and as large as can be
    model = build_model(sizes, activation, X)
    model.parameters[:] *= 2
    assert np.array_equal(gradient(prepare(model), X, Y, scale=scale), exact_gradient(model, X, Y, scale))


@every_activation
def test_a_gradient_of_adversarial_numbers_is_exact(activation):
    """All ones and almost twos: every rounded factor is as large as its grid allows, and every sum, too."""
    sizes = (8, 16, 4)
    for value in (1.0, np.nextafter(1, 2), np.nextafter(2, 1), 1 / 3):
        X, Y = np.full((8, 8), value), np.eye(4)[np.zeros(8, int)]
        X[::2, ::2] = np.nextafter(value, 0)
        for signs in (1, np.resize([1, -1, 1], parameter_count(sizes))):
            model = build_model(sizes, activation, X, np.full(parameter_count(sizes), value / 7) * signs)
            assert np.array_equal(gradient(prepare(model), X, Y), exact_gradient(model, X, Y, 1.0))


@every_activation
@pytest.mark.parametrize("sizes", [(30, 20, 20, 5), (30, 5), (784, 50, 10)], ids=str)
def test_a_gradient_is_that_of_float64_within_one_in_a_hundred_thousand(sizes, activation):
    X, Y = data(sizes, 128)
    model = build_model(sizes, activation, X)
    native = NativeArithmetic(Model(sizes, activation, model.parameters)).workspace(len(X), (len(X),), len(X), False)
    native.inputs[:, : sizes[0]], native.inputs[:, sizes[0]], native.targets[:] = X, 1, Y
    native.forward()
    flat = np.zeros((1, parameter_count(sizes)))
    native.backprop(layer_stacks(flat, sizes))
    found = gradient(prepare(model), X, Y)
    for ours, theirs in zip(layer_views(found, sizes), layer_views(flat[0], sizes), strict=True):
        assert 0 < np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("ranks", [2, 3, 7])
@every_shape
def test_ranks_that_round_shares_of_the_weights_round_them_as_one_rank_does(sizes, ranks):
    generator = np.random.default_rng(0)
    parameters = np.ldexp(generator.normal(size=parameter_count(sizes)), generator.integers(-90, 90))
    model, shared = build_model(sizes, parameters=parameters), []

    def allocate(shape, dtype):
        if len(shared) < 2:
            shared.append(aligned_zeros(shape, dtype))
        return shared[next(places) % 2]

    places = itertools.count()
    together = [PortableArithmetic(model, Sharing(rank, ranks, allocate)) for rank in range(ranks)]
    alone = PortableArithmetic(model, Sharing())
    for step in range(2):
        parameters += step
        for stages in zip(*(arithmetic.stages for arithmetic in [alone, *together]), strict=True):
            for stage in stages:
                stage()
        for ours, theirs in zip(together[-1].layers + together[-1].powers, alone.layers + alone.powers, strict=True):
            assert np.array_equal(ours, theirs)


@every_shape
def test_a_weight_is_rounded_to_the_bits_of_its_neurons_largest_weight(sizes):
    model = build_model(sizes)
    model.parameters[::5] *= 1e6
    arithmetic = prepare(model)
    layers = layer_views(model.parameters, sizes)
    for bits, rounded, layer in zip(arithmetic.bits, arithmetic.layers, layers, strict=True):
        for ours, weights in zip(rounded.T, layer[:-1].T, strict=True):
            expected = to_grid(weights, exponent_of(weights), bits.weights)
            assert (as_fractions(ours) == expected).all()


@every_activation
@every_shape
def test_a_rows_probabilities_have_the_same_bits_alone_and_among_any_others(sizes, activation):
    X, Y = data(sizes, 13)
    X[3], X[5], X[7] = 0, X[5] * 1e20, X[7] * 1e-20  # beyond the grid of the training set, and far below it
    model = build_model(sizes, activation, X[[0, 1, 2]])
    arithmetic, order = prepare(model), np.random.default_rng(0).permutation(13)

    def infer(rows):
        workspace = arithmetic.workspace(len(rows), (len(rows),), len(rows), False)
        workspace.targets[:] = Y[rows]
        memory = np.ones((1, len(rows), workspace.inputs.shape[1]))[..., : sizes[0] + 1]
        memory[0, :, : sizes[0]] = X[rows]
        return np.hstack([workspace.infer(memory), workspace.losses().T])

    together = infer(np.arange(13))
    assert np.isfinite(together).all()
    for rows in (*np.arange(13)[:, None], order, order[:4], order[4:], np.arange(13)[::-1], np.zeros(300, int)):
        assert np.array_equal(infer(rows), together[rows])


def test_a_row_has_the_same_probabilities_in_training_and_inference():
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 7)
    arithmetic = prepare(build_model(sizes, "relu", X))
    workspace, _, _ = pass_rows(arithmetic, X, Y, np.arange(7), 7)
    trained = workspace.outputs[0].T.copy()
    workspace.inputs[:, : sizes[0]] = X
    assert np.array_equal(workspace.infer(), trained)


def test_a_row_that_no_grid_holds_has_probabilities_of_nan_and_its_neighbours_have_theirs():
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 5)
    arithmetic = prepare(build_model(sizes, "relu", X))
    workspace, _, _ = pass_rows(arithmetic, X, Y, np.arange(5), 5)
    expected = workspace.outputs[0].T.copy()
    for value in NO_GRID:
        workspace.inputs[:, : sizes[0]] = X
        workspace.inputs[2, 3] = value
        found = workspace.infer()
        assert np.isnan(found[2]).all()
        assert np.array_equal(np.delete(found, 2, 0), np.delete(expected, 2, 0))


def refresh(arithmetic):
    for stage in arithmetic.stages:
        stage()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@every_activation
def test_training_in_any_number_of_parts_gives_the_same_parameters(activation, optimizer):
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 40)

    def train(parts):
        model = build_model(sizes, activation, X)
        arithmetic, generator = prepare(model), np.random.default_rng(parts)
        rule = Optimizer(model.parameters, [slice(0, 30)], Hyperparameters(optimizer, weight_decay=0.01))
        for step in range(10):
            rows = np.arange(40)[step % 4 :: 4]
            cuts = np.sort(generator.integers(0, 11, parts - 1))
            total = gradient(arithmetic, X[rows], Y[rows], np.split(generator.permutation(10), cuts))
            rule.update(total, 1 / 10, 0.5)
            refresh(arithmetic)
        return (model.parameters + 0.0).tobytes()

    assert len({train(parts) for parts in (1, 2, 3, 5, 13)}) == 1


def test_a_diverged_run_has_nan_parameters_in_any_number_of_parts():
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 12)
    for parts in ([np.arange(12)], np.split(np.arange(12), [0, 5, 6])):
        model = build_model(sizes, "relu", X)
        arithmetic = prepare(model)
        with np.errstate(all="ignore"):
            for _ in range(12):
                model.parameters[:] -= 1e40 * gradient(arithmetic, X, Y, parts)
                refresh(arithmetic)
        assert np.isnan(model.parameters).all()


def test_a_rank_without_rows_has_the_least_exponents_and_a_gradient_of_zeros():
    sizes = SIZES["three layers"]
    X, Y = data(sizes, 4)
    arithmetic = prepare(build_model(sizes, "relu", X))
    workspace, flat, stacks = pass_rows(arithmetic, X, Y, np.array([], int), 4, padding=2)
    assert powers_above().take(workspace.exponents).tolist() == [2.0**LEAST] * 5
    assert workspace.exponents.max() <= np.zeros(1).view(np.int64)
    workspace.finish(stacks, np.full(5, 1022))
    assert not flat.any()


@pytest.mark.parametrize("value", NO_GRID)
def test_an_input_that_no_grid_holds_is_found_by_the_rank_that_looks_at_it(value):
    X, Y = data((3, 2), 9)
    X[2, 1] = value
    for ranks in (1, 2, 5, 9):
        split = Split(X, Y, 3)
        worlds = [SimpleNamespace(rank=rank, size=ranks, comm=None) for rank in range(ranks)]
        owner = next(rank for rank in range(ranks) if 2 in share(9, rank, ranks))
        assert find_exponent(worlds.pop(owner), split, 0.0) == NOT_FINITE
        assert all(find_exponent(world, split, 0.0) < 10 for world in worlds)


def test_clipping_by_a_norm_of_nan_gives_nan_and_by_an_infinite_one_zero():
    assert np.isnan(clip_scale(np.nan, 0.1, 1.0))
    assert clip_scale(np.inf, 0.1, 1.0) == 0
    assert clip_scale(4.0, 0.5, 2.0) == 0.5


def test_the_norm_that_clips_is_exact_but_for_its_grids_and_nan_where_a_square_fits_none():
    count = 2 * BLOCK + 17
    exchange = Exchange(World(None), np.zeros(count), 1)
    gradient_sum = np.random.default_rng(0).normal(size=len(exchange.slice)) * 1e-3
    gradient_sum[:BLOCK] *= 1e9
    exact = sum(Fraction(each) ** 2 for each in gradient_sum.tolist())
    assert abs(Fraction(exchange.squared_norm(gradient_sum)) - exact) <= exact * Fraction(1, 1 << 31)
    assert not exchange.squared_norm(gradient_sum * 0)
    gradient_sum[5] = 2.0**125
    with np.errstate(all="ignore"):
        assert np.isnan(exchange.squared_norm(gradient_sum))


def test_the_sums_over_the_classes_of_a_rows_loss_are_exact():
    sizes, classes = (4, 10), 10
    X, Y = data(sizes, 20)
    Y = Y * 0.9 + 0.01
    workspace, _, _ = pass_rows(prepare(build_model(sizes, "relu", X)), X, Y, np.arange(20), 20)
    logits, bits = workspace._output_logits.T, product_bits(classes)
    totals = to_grid(elementary.exp(logits), 0, bits).sum(axis=1)
    assert (as_fractions(workspace.losses()) == np.stack([totals, by_row(logits * Y, bits).sum(axis=1)])).all()


def test_a_mini_batch_of_more_rows_than_the_grids_have_bits_for_is_refused(monkeypatch):
    monkeypatch.setattr(portable, "MOST_ROWS", 10)
    X, Y = data((3, 2), 20)
    network = NeuralNetwork((3, 2))
    network.train(X, Y, epochs=1, batch_size=10)
    told = "--batch-size: portable arithmetic has no bits left for 11 rows; use 10 or fewer, or --arithmetic native"
    with pytest.raises(InputError, match=f"^{told}$"):
        network.train(X, Y, epochs=1, batch_size=11)
