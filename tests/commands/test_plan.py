"""The model of a step: what it must say in cases that are plain, and the command that prints it."""

import json
import subprocess
import sys
from math import inf

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from distnet import plan
from distnet.datasets.dataset import shared_split
from distnet.nn.model import ARITHMETICS, Model
from distnet.nn.parameters import initial_parameters, parameter_count
from distnet.parallel.shards import roots_within, share, tree
from distnet.parallel.world import World
from distnet.plan import INTERCONNECTS, MACHINE, Link, Task, cost, ring_cost
from distnet.training.configuration import TrainingConfig
from distnet.training.trainer import Splits, Trainer

SIZES = (784, 800, 800, 10)
PARAMETERS = parameter_count(SIZES)
PORTABLE, NATIVE = Task(SIZES, 1024), Task(SIZES, 1024, "native")
FREE = Link(0, 0, inf)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "distnet.plan", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@given(st.integers(1, 200), st.integers(1, 30), st.data())
def test_subtrees_are_counted_as_the_exchange_finds_them(shards, nodes, data):
    run = share(shards, data.draw(st.integers(0, nodes - 1)), nodes)
    assert plan.subtrees(run, shards) == len(roots_within(tree(shards), run))


@pytest.mark.parametrize(("task", "number"), [(PORTABLE, 8), (NATIVE, 4)])
@pytest.mark.parametrize("nodes", [2, 4, 64])
def test_aligned_nodes_send_what_a_ring_over_them_sends(nodes, task, number):
    link = Link(0, 0, 1e-3)  # a byte a µs
    sent = cost(task, nodes, 1, link).exchange - cost(task, nodes, 1, FREE).exchange
    assert sent == pytest.approx(2 * number * PARAMETERS * (nodes - 1) / nodes)
    ring = ring_cost(task, nodes, 1, link).exchange - ring_cost(task, nodes, 1, FREE).exchange
    assert ring == pytest.approx(sent)


def test_nodes_whose_shards_are_no_subtree_send_more():
    link = Link(0, 0, 1e-3)
    sent = [cost(NATIVE, 3, 2, at, shards=8).exchange for at in (link, FREE)]
    assert sent[0] - sent[1] == pytest.approx(3 * 4 * PARAMETERS * 2 / 3)  # a node has two roots, and gathers once


def test_one_node_sends_nothing():
    for task in (PORTABLE, NATIVE):
        assert cost(task, 1, 8, Link(1e9, 1e9, 1e-9)) == cost(task, 1, 8, FREE)


def test_one_rank_waits_for_nobody():
    alone = cost(PORTABLE, 1, 1, FREE)
    assert alone.exchange == cost(PORTABLE, 1, 1, FREE, MACHINE._replace(barrier=1e9, look=1e9)).exchange
    assert (alone.nodes, alone.ranks) == (1, 1)
    assert alone.step == alone.compute + alone.exchange


@pytest.mark.mpi(min_size=2)
@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("ranks_per_node", [None, 2])
@pytest.mark.parametrize(("arithmetic", "dtype"), [("portable", np.float64), ("native", np.float32)])
def test_barriers_are_those_of_a_step(arithmetic, dtype, ranks_per_node, monkeypatch):
    from mpi4py import MPI

    sizes, world = (3, 4, 2), World(MPI.COMM_WORLD, ranks_per_node)
    X, Y = np.ones((8, 3)), np.eye(2)[np.arange(8) % 2]
    model = Model(sizes, "relu", initial_parameters(sizes, "relu", 0, dtype), arithmetic=arithmetic)
    trainer = Trainer(world, model, Splits(shared_split(world, X, Y, dtype)), TrainingConfig(0.1, 8))
    calls, meet = [], world.node_barrier
    monkeypatch.setattr(world, "node_barrier", lambda: (calls.append(1), meet()))
    trainer.step(np.arange(8), 0)
    trainer.close()
    world.close()
    assert len(calls) == plan.BARRIERS[arithmetic]


@pytest.mark.parametrize("task", [PORTABLE, NATIVE])
def test_barriers_count(task):
    longer = MACHINE._replace(barrier=MACHINE.barrier + 1000)
    waited = cost(task, 1, 2, FREE, longer).exchange - cost(task, 1, 2, FREE).exchange
    assert waited == pytest.approx(1000 * plan.BARRIERS[task.arithmetic])


def test_portable_nodes_exchange_one_more_small_message():
    late = Link(100, 0, inf)
    portable, native = (
        cost(task, 8, 1, late).exchange - cost(task, 8, 1, FREE).exchange for task in (PORTABLE, NATIVE)
    )
    assert portable - native == pytest.approx(3 * 100)


def test_ranks_of_a_node_share_the_rounding_of_weights_and_replicas_do_not():
    slow = MACHINE._replace(portable=MACHINE.portable._replace(weight=1e3))

    def extra(model, nodes, node_size):
        return sum(
            sign * model(PORTABLE, nodes, node_size, FREE, on).compute for sign, on in ((1, slow), (-1, MACHINE))
        )

    alone = extra(cost, 1, 1)
    assert extra(cost, 1, 4) == pytest.approx(alone / 4, rel=0.01)
    assert extra(cost, 4, 1) == extra(ring_cost, 1, 4) == pytest.approx(alone)


def test_more_work_per_neuron_output_or_weight_is_slower():
    free = MACHINE.portable._replace(neuron=0, output=0, weight=0)
    compute = cost(PORTABLE, 1, 1, FREE, MACHINE._replace(portable=free)).compute
    for name, count in (("neuron", 1024 * 1600), ("output", 1024 * 10)):
        more = cost(PORTABLE, 1, 1, FREE, MACHINE._replace(portable=free._replace(**{name: 1}))).compute
        assert more - compute == pytest.approx(count / 1e3)


@given(
    st.sampled_from(list(INTERCONNECTS)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 100_000),
    st.sampled_from(ARITHMETICS),
)
def test_a_better_link_is_never_slower(name, nodes, node_size, batch_size, arithmetic):
    link = INTERCONNECTS[name]
    better = Link(link.latency / 2, link.message / 2, link.bandwidth * 2)
    for model in (cost, ring_cost):
        task = Task((784, 64, 10), batch_size, arithmetic)
        steps = [model(task, nodes, node_size, each).step for each in (link, better)]
        assert steps[1] <= steps[0]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_more_ranks_compute_less_each_until_a_shard_is_one_row(arithmetic):
    task = Task(SIZES, 64, arithmetic)
    ample = MACHINE._replace(node_bandwidth=1e9)  # many ranks of one node share its memory's
    times = [cost(task, 1, ranks, FREE, ample).compute for ranks in (1, 2, 4, 8, 16)]
    assert times == sorted(times, reverse=True)
    assert cost(task, 64, 1, FREE).compute == cost(task, 128, 1, FREE).compute


def test_there_is_one_shard_per_rank_unless_more_are_requested():
    assert cost(NATIVE, 1, 3, FREE) == cost(NATIVE, 1, 3, FREE, shards=3)
    assert cost(NATIVE, 1, 3, FREE).step < cost(NATIVE, 1, 3, FREE, shards=4).step


@pytest.mark.parametrize(
    ("ranks", "total", "steps"),
    [(2, 1, 1), (8, 524_287, 3), (8, 524_288, 7), (6, 81_919, 3), (6, 81_920, 5), (1024, 1 << 30, 1023)],
)
def test_an_allgather_is_a_ring_only_where_it_is_long(ranks, total, steps):
    assert plan.allgather_steps(ranks, total) == steps


def test_worlds_are_doubled_within_a_node_and_then_by_nodes():
    assert plan.worlds(6, 6) == [(1, 1), (1, 2), (1, 4), (1, 6), (2, 6), (4, 6), (6, 6)]
    assert plan.worlds(1, 1) == [(1, 1)]


def test_the_advice_is_the_largest_efficient_world_and_the_fastest():
    costs = [plan.Cost(1, ranks, step, 0) for ranks, step in ((1, 100), (2, 50), (4, 30), (8, 27), (16, 28))]
    worth, fastest = plan.advice(costs)
    assert (worth.ranks, fastest.ranks) == (4, 8)


def test_the_constants_are_those_that_were_measured():
    found = json.loads((ROOT / "docs" / "scaling.json").read_text())
    values = {name: MACHINE.speed(name)._asdict() for name in ARITHMETICS}
    values |= {"messages": dict(enumerate(MACHINE.messages)), "constants": MACHINE._asdict()}
    for part in values:
        measured = dict(enumerate(found[part])) if part == "messages" else found[part]
        for name, value in measured.items():
            assert values[part][name] == float(f"{value:.3g}")


def test_the_documentation_shows_what_the_command_prints():
    text = (ROOT / "docs" / "scaling.md").read_text()
    typed = next(line for line in text.splitlines() if line.startswith("$ python -m distnet.plan"))
    ended = command(*typed.split()[4:])
    table, advice = ended.stdout.strip("\n").rsplit("\n", 1)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert table in text
    assert advice.startswith("Request ")


def test_portable_is_the_default_and_slower():
    outputs = [command("--nodes", "1", *more).stdout for more in ([], ["--arithmetic", "portable"])]
    assert outputs[0] == outputs[1]
    assert cost(PORTABLE, 1, 1, FREE).step > cost(NATIVE, 1, 1, FREE).step


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_no_hidden_layer_and_one_rank_are_a_plan_too(arithmetic):
    ended = command("--hidden", "--nodes", "1", "--ranks-per-node", "1", "--arithmetic", arithmetic)
    assert ended.returncode == 0
    assert "Request 1 rank on 1 node: 1.0 times" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "0"], "--nodes: expected an integer from 1 to 65536, got '0'"),
        (["--batch-size", "x"], "--batch-size: expected a positive integer, got 'x'"),
        (["--hidden", "-5"], "--hidden: expected a positive integer, got '-5'"),
        (
            ["--interconnect", "pigeon"],
            "--interconnect: expected one of ethernet-1g, ethernet-10g, ethernet-100g, infiniband-hdr, got 'pigeon'",
        ),
        (["--arithmetic", "exact"], "--arithmetic: expected one of portable, native, got 'exact'"),
        (["--node", "2"], "--node 2: there is no such option"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    ended = command(*arguments)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"distnet: {message}")


def test_help_is_no_error():
    ended = command("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--interconnect" in ended.stdout
