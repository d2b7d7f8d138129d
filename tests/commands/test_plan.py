"""The model of a step: what it must say in cases that are plain, and the command that prints it."""

import json
import subprocess
import sys
from math import inf

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from distnet import plan
from distnet.nn.parameters import parameter_count
from distnet.parallel.shards import roots_within, share, tree
from distnet.plan import INTERCONNECTS, MACHINE, Link, cost, ring_cost

SIZES = (784, 800, 800, 10)
BYTES = 4 * parameter_count(SIZES)
FREE = Link(0, 0, inf)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "distnet.plan", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@given(st.integers(1, 200), st.integers(1, 30), st.data())
def test_subtrees_are_counted_as_the_exchange_finds_them(shards, nodes, data):
    run = share(shards, data.draw(st.integers(0, nodes - 1)), nodes)
    assert plan.subtrees(run, shards) == len(roots_within(tree(shards), run))


@pytest.mark.parametrize("nodes", [2, 4, 64])
def test_aligned_nodes_send_what_a_ring_over_them_sends(nodes):
    link = Link(0, 0, 1e-3)  # a byte a µs
    sent = cost(SIZES, 1024, nodes, 1, link).exchange - cost(SIZES, 1024, nodes, 1, FREE).exchange
    assert sent == pytest.approx(2 * BYTES * (nodes - 1) / nodes)
    ring = ring_cost(SIZES, 1024, nodes, 1, link).exchange - ring_cost(SIZES, 1024, nodes, 1, FREE).exchange
    assert ring == pytest.approx(sent)


def test_nodes_whose_shards_are_no_subtree_send_more():
    link = Link(0, 0, 1e-3)
    sent = [cost(SIZES, 1024, 3, 2, at, shards=8).exchange for at in (link, FREE)]
    assert sent[0] - sent[1] == pytest.approx(3 * BYTES * 2 / 3)  # a node has two roots, and gathers once


def test_one_node_sends_nothing():
    assert cost(SIZES, 1024, 1, 8, Link(1e9, 1e9, 1e-9)) == cost(SIZES, 1024, 1, 8, FREE)


def test_one_rank_waits_for_nobody():
    alone = cost(SIZES, 1024, 1, 1, FREE)
    assert alone.exchange == cost(SIZES, 1024, 1, 1, FREE, MACHINE._replace(barrier=1e9, look=1e9)).exchange
    assert (alone.nodes, alone.ranks, alone.shards) == (1, 1, 4)
    assert alone.step == alone.compute + alone.exchange


@given(st.sampled_from(list(INTERCONNECTS)), st.integers(1, 40), st.integers(1, 40), st.integers(1, 100_000))
def test_a_better_link_is_never_slower(name, nodes, node_size, batch_size):
    link = INTERCONNECTS[name]
    better = Link(link.latency / 2, link.message / 2, link.bandwidth * 2)
    for model in (cost, ring_cost):
        steps = [model((784, 64, 10), batch_size, nodes, node_size, each).step for each in (link, better)]
        assert steps[1] <= steps[0]


def test_more_ranks_compute_less_each_until_a_shard_is_one_row():
    times = [cost(SIZES, 64, 1, ranks, FREE).compute for ranks in (1, 2, 4, 8, 16)]
    assert times == sorted(times, reverse=True)
    # On nodes of their own: many ranks of one node share its memory's bandwidth.
    assert cost(SIZES, 64, 64, 1, FREE).compute == cost(SIZES, 64, 128, 1, FREE).compute


@pytest.mark.parametrize(("ranks", "shards"), [(1, 4), (2, 4), (4, 4), (8, 8), (3, 3), (12, 12)])
def test_shards_are_the_default_or_as_many_as_ranks_that_would_be_unequal_otherwise(ranks, shards):
    assert cost(SIZES, 1024, 1, ranks, FREE).shards == shards


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
    costs = [plan.Cost(1, ranks, 4, step, 0) for ranks, step in ((1, 100), (2, 50), (4, 30), (8, 27), (16, 28))]
    worth, fastest = plan.advice(costs)
    assert (worth.ranks, fastest.ranks) == (4, 8)


def test_the_constants_are_those_that_were_measured():
    found = json.loads((ROOT / "docs" / "scaling.json").read_text())
    constants = found["constants"] | {"messages": Link(*(float(f"{value:.3g}") for value in found["messages"]))}
    for name, value in constants.items():
        assert getattr(MACHINE, name) == (value if name == "messages" else float(f"{value:.3g}"))


def test_the_documentation_shows_what_the_command_prints():
    text = (ROOT / "docs" / "scaling.md").read_text()
    typed = next(line for line in text.splitlines() if line.startswith("$ python -m distnet.plan"))
    ended = command(*typed.split()[4:])
    table, advice = ended.stdout.strip("\n").rsplit("\n", 1)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert table in text
    assert advice.startswith("Request ")


def test_no_hidden_layer_and_one_rank_are_a_plan_too():
    ended = command("--hidden", "--nodes", "1", "--ranks-per-node", "1")
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
