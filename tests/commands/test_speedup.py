"""A speed-up is that of whole trainings on several numbers of ranks, whose bits are compared, too."""

import json
import os
import re
import signal
import sys

import pytest
from helpers import Page, check_self_contained, command, end, mpirun, start, wait_for

from distnet import speedup
from distnet.runtime import ranks as launching
from distnet.runtime.errors import InputError

TRAIN = ["--epochs", "2", "--hidden", "20", "--batch-size", "50"]
NOTE = "note: the bits depend on the number of ranks, 2 here; with --shards S, they are the same on up to S ranks"


class Job:
    """A SLURM job of two tasks, whose srun is mpirun: how the command ended in it, and what srun was asked for."""

    def __init__(self, folder, digits):
        self.folder = folder
        (folder / "srun").write_text(
            f'#!/bin/sh\necho "$@" >> {folder}/asked\nwhile [ "$1" != -n ]; do shift; done\n'
            f'{mpirun()} "$@" | tee {folder}/"$2"\n'
        )
        (folder / "srun").chmod(0o755)
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_MPI_TYPE": "pmi2"}
        environment |= {"SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "1(x2)"}
        options = ["--json", "--output", folder / "page.html", "--data-dir", digits, *TRAIN]
        self.ended = command(*options, module="distnet.speedup", env=environment)
        self.asked = (folder / "asked").read_text().splitlines()

    def output(self, ranks):
        """What the training on so many ranks printed."""
        return (self.folder / str(ranks)).read_text()


@pytest.fixture(scope="module")
def job(tmp_path_factory, digits):
    return Job(tmp_path_factory.mktemp("job"), digits)


@pytest.fixture
def speed(job, monkeypatch, capsys):
    """Runs the command here, where trainings print what those of the job printed; returns its status and its text.

    change: for the output on two ranks. status: of the training on two ranks.
    """
    monkeypatch.setattr(speedup, "build_launcher", lambda ranks: [])

    def run(*arguments, change=lambda output: output, status=0):
        def replay(options, ranks):
            return (0, job.output(1)) if ranks == 1 else (status, change(job.output(ranks)))

        monkeypatch.setattr(speedup, "run_training", replay)
        monkeypatch.setattr(sys, "argv", ["speedup", *map(str, arguments)])
        found = speedup.main()
        return found, *capsys.readouterr()

    return run


def differ(output):
    """The output of a training in native arithmetic, with other bits."""
    return re.sub(r"sha256 \w{8}", "sha256 01234567", output).replace('{"run": [', f'{{"run": ["{NOTE}", ')


def test_in_a_slurm_job_srun_starts_one_rank_then_as_many_as_the_job_has_tasks(job):
    assert (job.ended.status, job.ended.err) == (0, "")
    assert [re.findall(r"--nodes=\d|-n \d", line) for line in job.asked] == [
        ["--nodes=1", "-n 1"],
        ["--nodes=2", "-n 2"],
    ]
    assert all(" -m distnet.train " in line and " ".join(TRAIN) in line for line in job.asked)


def test_as_json_every_training_has_its_speed_its_shares_of_time_and_its_bits(job):
    found = json.loads(job.ended.out)
    one, two = found["measurements"]
    assert (one["ranks"], two["ranks"], found["same_bits"]) == (1, 2, True)
    assert (one["speed_up"], one["efficiency"]) == (1, 1)
    assert two["speed_up"] == pytest.approx(one["seconds"] / two["seconds"])
    assert two["efficiency"] == pytest.approx(two["speed_up"] / 2)
    for each in (one, two):
        *epochs, profile = (json.loads(line) for line in job.output(each["ranks"]).splitlines() if line[0] == "{")
        spent = profile["ranks"][0]["seconds"]
        in_steps = sum(spent[phase] for phase in ("data", "forward", "backward", "exchange", "waiting", "update"))
        assert each["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in epochs))
        assert each["samples_per_second"] * each["seconds"] == pytest.approx(2 * 600)
        assert each["command_seconds"] > each["seconds"] > 0
        assert each["step_seconds"] == pytest.approx(in_steps / 24)
        assert sum(each["shares"].values()) == pytest.approx(1)
        assert all(each["shares"][phase] > 0 for phase in ("data", "forward", "backward", "update", "evaluation"))
        assert job.output(each["ranks"]).endswith(f"parameters sha256 {each['parameters_sha256']}\n")
    assert one["shares"]["waiting"] < two["shares"]["waiting"]
    assert found["arguments"][-len(TRAIN) :] == TRAIN


def test_the_page_plots_what_the_json_says(job):
    page = Page((job.folder / "page.html").read_text())
    check_self_contained(page)
    two = json.loads(job.ended.out)["measurements"][1]
    speeds = page.points("measured", "ranks")
    assert speeds == {1: 1, 2: pytest.approx(two["efficiency"], rel=1e-4)}  # the chart of efficiency is the last
    assert page.headings == ["Speed", "Where the time goes", "Command"]
    assert f"backward: {two['shares']['backward']:.1%}" in page.titles
    assert f"The bits agree; parameters sha256 {two['parameters_sha256']}" in page.texts
    assert "python -m distnet.speedup --ranks 1 2 --data-dir" in page.text


def test_the_table_has_a_row_per_number_of_ranks_and_the_bits_come_last(speed, job):
    status, out, err = speed("--ranks", "2,1", "2", *TRAIN)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["data", "network", "training"]
    assert lines[4].split() == ["ranks", "seconds", "samples/s", "speed-up", "efficiency", "whole", "command"]
    one, two = json.loads(job.ended.out)["measurements"]
    assert lines[5].split()[:5] == ["1", f"{one['seconds']:.2f}", f"{one['samples_per_second']:,.0f}", "1.00", "100%"]
    assert lines[6].split()[3:5] == [f"{two['speed_up']:.2f}", f"{two['efficiency']:.0%}"]
    assert lines[8].split()[:5] == ["ranks", "step", "µs", "data", "forward"]
    assert lines[-1] == f"the bits agree; parameters sha256 {one['parameters_sha256']}"


@pytest.mark.parametrize(
    ("options", "counts"), [((), [1, 2, 4, 6]), (("--arithmetic", "native", "--shards", "4"), [1, 2, 4])]
)
def test_by_default_the_ranks_double_up_to_one_per_core_and_per_shard(monkeypatch, options, counts):
    monkeypatch.setattr(speedup, "usable_cores", lambda: frozenset(range(6)))
    monkeypatch.setattr(speedup, "cpu_quota", lambda: None)
    monkeypatch.setattr(speedup, "build_launcher", lambda ranks: [])
    measured = []
    monkeypatch.setattr(speedup, "measure", lambda counts, *_, **__: (measured.extend(counts) or 1, []))
    monkeypatch.setattr(sys, "argv", ["speedup", *options])
    assert (speedup.main(), measured) == (1, counts)


def test_without_one_rank_the_fewest_are_the_measure(speed):
    status, out, _ = speed("--ranks", "2", *TRAIN)
    assert status == 0
    assert "speed-up over 2" in out
    assert re.search(r"^2 .* 1\.00 +100%", out, re.MULTILINE)


@pytest.mark.parametrize("options", [(), ("--arithmetic", "native", "--shards", "4")])
def test_bits_that_must_not_differ_and_do_are_status_65(speed, options):
    status, out, err = speed("--ranks", "1", "2", *options, change=differ)
    assert status == 65
    assert re.search(
        r"^the bits differ; parameters sha256 \w{8}\.\.\. on 1 rank, 01234567\.\.\. on 2 ranks$", out, re.M
    )
    assert err.startswith("distnet: the bits must not differ with these options; ")


def test_bits_that_differ_in_native_arithmetic_are_explained(speed):
    status, out, err = speed("--ranks", "1", "2", "--arithmetic", "native", change=differ)
    assert (status, err) == (0, "")
    assert "the bits differ; " in out
    assert out.splitlines()[-1] == NOTE


def test_a_training_that_fails_ends_the_command_with_its_status(speed):
    status, _, err = speed("--ranks", "1", "2", status=70)
    assert (status, err) == (70, "distnet: the training on 2 ranks exited with status 70\n")
    assert speed("--ranks", "1", "2", status=2)[::2] == (2, "")  # of invalid input, training prints the one line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "m.npz"), "--model: distnet.speedup keeps nothing of its trainings; leave it out"),
        (("--checkpoint-dir", "run"), "--checkpoint-dir: distnet.speedup keeps nothing"),
        (("--profile",), "--profile: distnet.speedup keeps nothing"),
        (("--ranks", "4", "--arithmetic", "native", "--shards", "2"), "--shards: 4 ranks need one shard each, got 2"),
        (("--ranks", "0"), "--ranks: expected a positive integer, got '0'"),
        (("--output", "page.txt"), "--output: expected a name that ends in .html"),
        (("--epoch", "3"), "--epoch 3: there is no such option; did you mean --epochs?"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_training_starts(monkeypatch, arguments, message):
    monkeypatch.setattr(speedup, "run_training", None)
    monkeypatch.setattr(sys, "argv", ["speedup", *arguments])
    with pytest.raises(InputError, match=re.escape(message)):
        speedup.main()


def test_under_mpirun_or_for_ranks_without_mpirun_it_starts_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speedup", "--ranks", "1", "2"])
    monkeypatch.setattr(launching, "mpirun_beside_python", lambda: "no-such-mpirun")
    with pytest.raises(InputError, match="2 ranks: there is no mpirun beside this Python or on the PATH"):
        speedup.main()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"distnet\.speedup: mpirun started it, and it starts mpirun itself"):
        speedup.main()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_ranks_and_leaves_nothing(digits, tmp_path, number, status):
    options = ["--ranks", 2, "--data-dir", digits, "--epochs", 1_000_000, "--hidden", 5]
    running = start(*options, "--verbose", module="distnet.speedup", env={"TMPDIR": str(tmp_path)})
    log = bytearray()
    wait_for(lambda: log.extend(os.read(running.stderr.fileno(), 65536)) or b"loaded" in log, running)
    running.send_signal(number)
    ended = end(running, 20)
    assert ended.status == status
    assert ("distnet: interrupted\n" in ended.err) is (number == signal.SIGINT)
    assert list(tmp_path.iterdir()) == []
