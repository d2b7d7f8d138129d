"""Where the time of every rank went: it adds up, it blames the right rank, and it costs no bit."""

import json
import time

import pytest
from helpers import command, fault

from distnet.reporting.profile import describe_slowest_rank, format_profile
from distnet.runtime.stopwatch import PHASES, Stopwatch

SMALL = ("--epochs", 2, "--hidden", 20)


def table(out):
    """The table of a run's output: rank -> phase -> seconds."""
    lines = out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("seconds per rank and phase"))
    names = lines[first + 1].split()
    rows = [line.split() for line in lines[first + 2 :] if line[:1].isdigit()]
    return {int(row[0]): dict(zip(names[2:], map(float, row[2:]), strict=True)) for row in rows}


def part(rank, node=0, **seconds):
    """What a rank tells of two steps."""
    seconds = dict.fromkeys(PHASES, 0.0) | seconds
    return {"rank": rank, "node": node, "host": "ab"[rank], "steps": 2, "seconds": seconds}


def test_laps_add_up_to_the_time_between_start_and_the_last_lap():
    watch = Stopwatch(keep=3)
    for phase in ("data", "forward", "data", "update"):
        time.sleep(0.002)
        watch.lap(phase)
    assert watch.ends.tolist() == sorted(watch.ends)
    assert bytes(watch.codes) == bytes([0, 1, 0])  # those that were to be kept
    assert sum(watch.seconds.values()) >= 4 * 0.002
    assert watch.seconds["data"] + watch.seconds["forward"] == pytest.approx(watch.ends[2])
    assert watch.seconds["data"] >= 2 * 0.002
    assert watch.seconds["forward"] >= 0.002 > 0 == watch.seconds["waiting"]


@pytest.mark.parametrize("ranks", [None, 3])
def test_a_profile_names_every_rank_and_changes_no_bit(ranks, digits):
    plain = command(*SMALL, "--data-dir", digits, "--quiet", ranks=ranks)
    profiled = command(*SMALL, "--data-dir", digits, "--profile", ranks=ranks)
    assert (profiled.status, profiled.err) == (0, "")
    assert profiled.out.splitlines()[-2:] == plain.out.splitlines()
    found = table(profiled.out)
    assert list(found) == list(range(ranks or 1))
    for seconds in found.values():
        assert seconds["sum"] == pytest.approx(sum(v for k, v in seconds.items() if k != "sum"), abs=0.01)
        assert seconds.keys() >= {"data", "backward"}
        assert ("waiting" in seconds) is (ranks is not None)


@pytest.mark.parametrize("nodes", [(), ("--ranks-per-node", 1)])
def test_the_rank_that_everybody_waits_for_is_named(nodes, digits):
    ended = command(*SMALL, "--data-dir", digits, "--profile", *nodes, ranks=3, env=fault("pause", rank=1))
    assert ended.status == 0, ended.err
    assert "rank 1 on " in ended.out
    assert " was the slowest" in ended.out.split("rank 1 on ")[1].splitlines()[0]
    if nodes:
        return
    found = table(ended.out)
    assert found[1]["waiting"] < min(found[0]["waiting"], found[2]["waiting"])
    assert found[0]["waiting"] > 0.5


def test_of_one_rank_nobody_is_blamed():
    phases = [part(0, forward=1.0)]
    assert list(format_profile(phases)) == [
        "seconds per rank and phase, 2 steps",
        "rank  host  forward    sum\n0        a    1.000  1.000",
        "a step took 500,000 µs",
    ]
    assert describe_slowest_rank([*phases, part(1, waiting=0.5)]) == (
        "rank 0 on a was the slowest: it waited 0.000 s, the others 0.500 s on average, 50 % of the time; "
        "the phase that differs most is forward, 1.000 s instead of 0.000 s"
    )


def test_between_nodes_who_is_late_shows_in_the_messages_of_the_others():
    phases = [part(0, forward=0.1, waiting=0.1, exchange=0.8), part(1, forward=0.7, waiting=0.2, exchange=0.1, node=1)]
    assert describe_slowest_rank(phases) == (
        "rank 1 on b was the slowest: it waited or exchanged 0.300 s, the others 0.900 s on average, "
        "90 % of the time; the phase that differs most is forward, 0.700 s instead of 0.100 s"
    )


def test_a_timeline_holds_every_lap_of_every_rank_one_after_another(digits, tmp_path):
    path, profile = tmp_path / "trace.json", tmp_path / "profile.json"
    options = ("--data-dir", digits, "--timeline", path, "--profile", profile, "--ranks-per-node", 2)
    ended = command(*SMALL, *options, ranks=3)
    assert (ended.status, ended.err) == (0, "")
    events = json.loads(path.read_text())["traceEvents"]
    names = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"}
    assert names == {(0, 0): "rank 0", (0, 1): "rank 1", (1, 2): "rank 2"}
    written = json.loads(profile.read_text())
    assert written["run"] == ended.out.splitlines()[: len(written["run"])]
    assert [(each["rank"], each["node"], each["steps"]) for each in written["ranks"]] == [
        (0, 0, 10),
        (1, 0, 10),
        (2, 1, 10),
    ]
    for rank, seconds in table(ended.out).items():
        laps = [each for each in events if each["ph"] == "X" and each["tid"] == rank]
        for one, next_one in zip(laps, laps[1:], strict=False):
            assert next_one["ts"] == pytest.approx(one["ts"] + one["dur"], abs=0.01)
        assert {each["name"] for each in laps} >= {"data", "forward", "backward", "exchange", "update", "evaluation"}
        for phase in seconds.keys() - {"sum"}:
            assert written["ranks"][rank]["seconds"][phase] == pytest.approx(seconds[phase], abs=0.001)
            sum_of_laps = sum(each["dur"] for each in laps if each["name"] == phase)
            assert sum_of_laps / 1e6 == pytest.approx(seconds[phase], abs=0.001)
        # Two epochs of five steps, each of which also finds the largest weights and rounds them.
        assert sum(each["name"] == "update" for each in laps) == 30


def test_a_timeline_that_cannot_be_written_is_told_before_the_training(digits, tmp_path):
    ended = command(*SMALL, "--data-dir", digits, "--timeline", tmp_path / "no" / "trace.json")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"distnet: --timeline {tmp_path}/no/trace.json: there is no folder")


def test_the_timeline_of_a_run_that_was_complete_before_is_empty(digits, tmp_path):
    path = tmp_path / "trace.json"
    options = (*SMALL, "--data-dir", digits, "--checkpoint-dir", tmp_path / "checkpoints")
    complete = command(*options)
    ended = command(*options, "--resume", "--timeline", path, "--profile", ranks=2)
    assert (ended.status, ended.err) == (0, "")
    assert ended.sha256 == complete.sha256
    assert {each["ph"] for each in json.loads(path.read_text())["traceEvents"]} == {"M"}


def test_quiet_leaves_no_room_for_a_profile(digits):
    ended = command(*SMALL, "--data-dir", digits, "--quiet", "--profile")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "distnet: --profile: --quiet prints only the last two lines; leave one of the two out\n"
