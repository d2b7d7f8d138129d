"""The training command: what it prints and writes, and the same sha256 however it is started."""

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers import LAST_LINES, ROOT, check_same_bits, command, fault, mpirun

from distnet import NeuralNetwork
from distnet.config.reading import read_config
from distnet.config.results import check_outputs
from distnet.datasets.idx import FILES
from distnet.datasets.loading import load
from distnet.datasets.options import DataOptions
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.world import World
from distnet.reporting.console import find_overload
from distnet.runtime.errors import InputError
from distnet.train import train as train_here
from distnet.training.checkpoint import checkpoints, read_checkpoint

SYNTHETIC = ("--dataset", "synthetic", "--train-samples", 600, "--epochs", 1)
EPOCH = re.compile(
    r"epoch +(\d+)/\d+  loss (\d+\.\d{4})  (?:tutorial loss \(test\) (\d+\.\d{4})  )?test accuracy (\d\.\d{4})  "
    r"[\d,]+ samples/s  \d+\.\d\d s"
)


def test_synthetic_digits_give_the_same_bits_on_1_2_3_and_4_ranks_and_without_mpirun(train):
    check_same_bits(train, [None, 1, 2, 3, 4], *SYNTHETIC)


def test_real_mnist_gives_the_same_bits_on_1_2_3_and_4_ranks_and_without_mpirun(train, mnist):
    limits = ("--train-limit", 1001, "--epochs", 1)
    check_same_bits(train, [None, 1, 2, 3, 4], "--data-dir", mnist, *limits)


NATIVE = ("--arithmetic", "native")


def test_four_native_shards_of_real_mnist_give_the_same_bits_on_1_2_3_and_4_ranks_and_without_mpirun(train, mnist):
    limits = ("--train-limit", 1001, "--epochs", 1)
    check_same_bits(train, [None, 1, 2, 3, 4], "--data-dir", mnist, *NATIVE, "--shards", 4, *limits)


def test_six_native_shards_give_the_same_bits_on_1_4_and_5_ranks(train, digits):
    options = ("--shards", 6, "--batch-size", 50, "--epochs", 2, "--dtype", "float64")
    check_same_bits(train, [1, 4, 5], "--data-dir", digits, *NATIVE, *options)


def test_arithmetic_seed_and_dtype_decide_the_bits_and_in_native_the_number_of_shards(train, digits):
    variants = [(), ("--seed", 1), NATIVE, (*NATIVE, "--dtype", "float64"), (*NATIVE, "--shards", 4)]
    equal = [("--arithmetic", "portable", "--dtype", "float64"), (*NATIVE, "--dtype", "float32", "--shards", 1)]
    options = ("--data-dir", digits, "--epochs", 1, "--quiet")
    digests = [train(*options, *variant).sha256 for variant in (*variants, *equal)]
    assert len(set(digests[: len(variants)])) == len(variants)
    assert digests[len(variants) :] == [digests[0], digests[2]]


def find_bits_notes(ended):
    return [line for line in ended.out.splitlines() if "bits depend" in line]


def test_native_without_shards_has_one_per_rank_and_notes_that_the_bits_follow_the_ranks(train, digits):
    options = ("--data-dir", digits, "--epochs", 1, *NATIVE)
    runs = [train(*options, ranks=2), train(*options, "--shards", 2), train(*options, "--arithmetic", "portable")]
    assert list(map(find_bits_notes, runs)) == [
        ["note: the bits depend on the number of ranks, 2 here; with --shards S, they are the same on up to S ranks"],
        [],
        [],
    ]
    assert "2 shards per mini-batch" in runs[0].out.splitlines()[0]
    assert runs[0].sha256 == runs[1].sha256


class Ranks:
    """As many ranks as there are entries, each with its host and the cores that it may use."""

    def __init__(self, *ranks):
        self.size, self.comm = len(ranks), self
        self.allgather = lambda mine: [(host, frozenset(cores)) for host, cores in ranks]


def test_the_header_says_where_ranks_outnumber_cores_by_what_each_may_use_on_its_host():
    enough = Ranks(("a", {0}), ("a", {1}), ("b", {0, 1}), ("b", {0, 1}))
    assert find_overload(enough) == []
    bound = Ranks(("a", {0}), ("a", {0}), ("b", {0, 1}), ("b", {0, 1}))
    assert find_overload(bound) == ["note: more ranks than cores, which is slower: 2 ranks on 1 core of a"]
    assert find_overload(Ranks(*[(host, {0, 1}) for host in "aaabbb"])) == [
        "note: more ranks than cores, which is slower: 3 ranks on 2 cores of a and on 1 other host"
    ]


def test_one_process_needs_no_mpi4py_and_does_not_import_it(train, digits):
    usual = train("--data-dir", digits, "--epochs", 2)
    without = train("--data-dir", digits, "--epochs", 2, env=fault("no mpi4py"))
    assert (without.status, without.err) == (0, "")
    assert without.sha256 == usual.sha256


def test_rank_0_alone_prints_a_header_an_epoch_a_line_and_the_two_last_lines(train, digits):
    ended = train("--data-dir", digits, "--epochs", 3, ranks=3)
    assert (ended.status, ended.err) == (0, "")
    lines = [line for line in ended.out.splitlines() if not line.startswith("note: ")]
    header, epochs, last = lines[:4], lines[4:7], lines[7:]
    assert re.fullmatch(r"distnet \S+: 3 ranks on 1 node, 1 BLAS thread per rank; MPI: .*\d.*", header[0])
    assert header[1] == f"data: mnist ({digits}), 600 training and 100 test samples"
    assert header[2] == "network: 784-256-128-10 relu, portable float64, 235,146 parameters"
    assert re.fullmatch("training: 3 epochs, mini-batches of 128, .*learning rate 0.3 exponential, seed 0", header[3])
    assert [int(EPOCH.fullmatch(line)[1]) for line in epochs] == [1, 2, 3]
    assert LAST_LINES.fullmatch("\n".join([*last, ""]))
    assert EPOCH.fullmatch(epochs[-1])[4] == last[0].removeprefix("test accuracy ")


def test_without_mpirun_the_header_says_that_there_is_no_mpi_and_names_shards_and_another_reduction(train, digits):
    native = (*NATIVE, "--shards", 4, "--reduction", "allreduce")
    note = "the bits depend on the number of ranks, 1 here; with --reduction tree, they are the same on up to 4 ranks"
    for options, more, notes in [
        ((), "", []),
        (native, ", 4 shards per mini-batch, reduction allreduce", [f"note: {note}"]),
    ]:
        ended = train("--data-dir", digits, "--epochs", 1, *options)
        header = ended.out.splitlines()[0]
        assert re.fullmatch(rf"distnet \S+: 1 rank on 1 node, 1 BLAS thread per rank{more}; MPI: none", header)
        assert find_bits_notes(ended) == notes


def test_quiet_leaves_the_two_last_lines_alone(train, digits):
    ended = train("--data-dir", digits, "--epochs", 1, "--quiet", ranks=2)
    assert (ended.status, ended.err) == (0, "")
    assert LAST_LINES.fullmatch(ended.out)


def test_the_metrics_file_gets_one_json_object_an_epoch_and_nothing_of_an_older_run(train, digits, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("of an older run\n")
    ended = train("--data-dir", digits, "--epochs", 2, "--metrics", path, ranks=2)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert {"loss", "test_loss", "test_accuracy", "samples_per_second", "seconds"} <= records[0].keys()
    printed = [EPOCH.fullmatch(line) for line in ended.out.splitlines() if line.startswith("epoch ")]
    assert [f"{record['loss']:.4f}" for record in records] == [line[2] for line in printed]
    assert [f"{record['test_accuracy']:.4f}" for record in records] == [line[4] for line in printed]


def test_what_tells_programs_of_a_network_that_diverged_is_json(digits, tmp_path):
    model = tmp_path / "model.npz"
    network = NeuralNetwork((784, 10))
    network.parameters.fill(np.nan)
    network.save(model)
    options = ("--dataset", "mnist", "--data-dir", digits, "--json")
    evaluated = command(model, *options, module="distnet.evaluate")
    assert json.loads(evaluated.out, parse_constant=pytest.fail)["loss"] is None


@pytest.mark.parametrize("ending", [".pkl", ".npz"])
@pytest.mark.parametrize(("arithmetic", "dtype"), [("portable", "float64"), ("native", "float32")])
def test_the_model_file_holds_the_parameters_of_the_printed_digest_and_tests_as_printed(
    train, digits, tmp_path, ending, arithmetic, dtype
):
    path = tmp_path / f"model{ending}"
    ended = train("--data-dir", digits, "--epochs", 2, "--arithmetic", arithmetic, "--model", path, ranks=2)
    network = NeuralNetwork.load(path)
    little_endian = network.parameters.astype(network.parameters.dtype.newbyteorder("<"))
    assert hashlib.sha256(little_endian.tobytes()).hexdigest() == ended.sha256 == parameters_sha256(network.parameters)
    assert (network.arithmetic, network.parameters.dtype) == (arithmetic, dtype)
    data = load(World(), DataOptions("mnist", digits), dtype)
    accuracy = network.test(data.test.inputs[:, : data.test.features], data.test.targets)
    assert ended.out.splitlines()[-2] == f"test accuracy {accuracy:.4f}"
    assert (network.about["mean"], network.about["deviation"]) == (data.mean, data.deviation)
    assert network.about["config"]["epochs"] == 2
    assert network.about["classes"] == list(range(10))
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "model.toml", "model.run.json"}


def test_the_configuration_beside_the_model_trains_it_again_and_writes_over_nothing(train, digits, tmp_path):
    model = tmp_path / "model.pkl"
    options = ("--data-dir", digits, "--epochs", 2, "--hidden", 9, "--optimizer", "adam", "--model", model)
    first = train(*options, ranks=2)
    told = read_config(["--config", str(tmp_path / "model.toml")])
    typed = {"dataset": "mnist", "epochs": 2, "hidden": (9,), "optimizer": "adam", "learning_rate": 0.001}
    assert told == replace(read_config([]), **typed)
    kept = NeuralNetwork.load(model).about["config"]
    assert json.loads(json.dumps(told.to_dict())) == kept | {"data_dir": None, "expect_sha256": None}
    before = model.stat()
    assert train("--config", tmp_path / "model.toml", "--data-dir", digits, ranks=3).sha256 == first.sha256
    assert model.stat() == before


def test_the_configuration_beside_a_native_model_keeps_the_shards_of_its_run(train, digits, tmp_path):
    options = ("--data-dir", digits, "--epochs", 1, "--hidden", 9, *NATIVE, "--model", tmp_path / "model.npz")
    first = train(*options, ranks=3)
    told = read_config(["--config", str(tmp_path / "model.toml")])
    assert (told.arithmetic, told.dtype, told.shards) == ("native", "float32", 3)
    assert train("--config", tmp_path / "model.toml", "--data-dir", digits).sha256 == first.sha256


def test_a_configuration_names_a_folder_of_data_by_a_relative_path_alone(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, "digits")
    for folder, told in [("digits", {"data_dir": "digits"}), (str(digits), {})]:
        options = ["--data-dir", folder, "--hidden", "9", "--epochs", "1", "--model", "m.npz", "--quiet"]
        assert train_here(options).status == 0
        written = tomllib.loads(Path("m.toml").read_text())
        assert {name: value for name, value in written.items() if name == "data_dir"} == told
        assert str(digits).encode() not in Path("m.npz").read_bytes().replace(b"\0", b"")


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["aloud", "quiet"])
def test_a_run_prints_which_files_it_wrote_before_the_last_two_lines(digits, tmp_path, monkeypatch, quiet):
    monkeypatch.chdir(tmp_path)
    options = ["--data-dir", str(digits), "--hidden", "9", "--epochs", "1", *quiet]
    with redirect_stdout(StringIO()) as printed:
        train_here([*options, "--model", "m.npz", "--report", "r.html", "--timeline", "t.json"])
    lines = printed.getvalue().splitlines()
    assert [line for line in lines if line.startswith("wrote ")] == (
        [] if quiet else [f"wrote {name}" for name in ("m.npz", "m.toml", "t.json", "r.html", "m.run.json")]
    )
    assert [line.split()[:2] for line in lines[-2:]] == [["test", "accuracy"], ["parameters", "sha256"]]


def test_without_a_model_no_configuration_is_written(train, digits, tmp_path):
    assert train("--data-dir", digits, "--epochs", 1, cwd=tmp_path).status == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "what", "content"),
    [("run.toml", "configuration", "# mine\nepochs = 1\n"), ("run.run.json", "provenance", '{"format": "mine"}\n')],
)
def test_a_file_that_distnet_did_not_write_is_not_replaced_by_one_beside_the_model(
    train, digits, tmp_path, name, what, content
):
    mine = tmp_path / name
    mine.write_text(content)
    ended = train("--data-dir", digits, "--model", tmp_path / "run.pkl", ranks=2)
    assert (ended.status, ended.out) == (2, "")
    assert f"its {what} would replace {mine}, which distnet didn't write" in ended.err
    assert mine.read_text() == content


@pytest.mark.parametrize("ranks", [None, 3])
def test_help_is_printed_once_with_status_0(train, ranks):
    ended = train("--help", "--epochs", 3, ranks=ranks)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("usage: ") == ended.out.count("--learning-rate ") == 1


def test_the_tutorial_preset_trains_the_tutorials_network_and_reports_its_loss(train, digits, tmp_path):
    path = tmp_path / "metrics.jsonl"
    ended = train("--preset", "tutorial", "--epochs", 1, "--data-dir", digits, "--metrics", path, ranks=2)
    lines = ended.out.splitlines()
    assert lines[2] == "network: 784-50-50-50-50-50-50-10 sigmoid, portable float64, 52,510 parameters"
    assert re.fullmatch("training: 1 epoch, mini-batches of 10, .*learning rate 0.002.*", lines[3])
    record = json.loads(path.read_text())
    assert EPOCH.fullmatch(lines[4])[3] == f"{record['test_tutorial_loss']:.4f}"
    assert record["test_tutorial_loss"] > record["test_loss"]  # the other classes' terms are added


def test_the_mnist_preset_sees_93_percent_after_one_epoch_and_98_1_after_all(train, mnist, tmp_path):
    path = tmp_path / "metrics.jsonl"
    ended = train("--data-dir", mnist, "--metrics", path, ranks=2, timeout=120)
    accuracies = [json.loads(line)["test_accuracy"] for line in path.read_text().splitlines()]
    assert len(accuracies) == 17
    assert accuracies[0] > 0.93
    assert accuracies[-1] >= 0.981
    assert ended.out.splitlines()[-2] == f"test accuracy {accuracies[-1]:.4f}"


@pytest.mark.parametrize("ranks", [None, 2])
def test_without_mnist_and_network_the_main_job_goes_on_with_synthetic_digits_and_says_so(train, tmp_path, ranks):
    nowhere = fault("no network") | {"DISTNET_DATA": ""}
    options = ("--train-samples", 600, "--epochs", 1, "--model", "model.pkl")
    ended = train(*options, ranks=ranks, env=nowhere, cwd=tmp_path)
    assert ended.status == 0
    asked, told = ended.err.splitlines()[:-1], ended.err.splitlines()[-1]
    assert asked  # rank 0 alone, and by name, so that no public host was reached
    assert all(line.startswith("rank 0 looked for ") for line in asked)
    assert told.startswith("distnet: mnist is not in data/")
    assert "using synthetic digits" in told
    assert ended.out.splitlines()[1] == "data: synthetic (drawn), 600 training and 10,000 test samples"
    assert ended.sha256 == train(*SYNTHETIC).sha256
    assert train("--config", "model.toml", cwd=tmp_path).sha256 == ended.sha256


def test_a_network_that_never_answers_is_given_up_after_five_seconds(train, tmp_path):
    silent = fault("silent network") | {"DISTNET_DATA": ""}
    ended = train("--train-samples", 600, "--epochs", 1, env=silent, cwd=tmp_path, timeout=30)
    assert ended.status == 0
    assert ended.err.startswith("distnet: mnist is not in data/, and could not be downloaded; ")
    assert ended.err.count("\n") == 1


def test_who_typed_a_data_set_that_cannot_be_had_gets_no_other_one(train, tmp_path):
    nowhere = fault("no network") | {"DISTNET_DATA": ""}
    ended = train("--dataset", "mnist", "--epochs", 1, env=nowhere, cwd=tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.splitlines()[-1].startswith("distnet: train-images-idx3-ubyte.gz: could not be downloaded (")


def test_the_folder_in_the_environment_is_where_data_are_looked_for(train, digits, tmp_path):
    ended = train("--epochs", 1, env={"DISTNET_DATA": str(digits)}, cwd=tmp_path)
    assert ended.out.splitlines()[1].startswith(f"data: mnist ({digits}), 600 ")
    assert not list(Path(tmp_path).iterdir())


def test_a_download_goes_where_data_are_looked_for(train, tmp_path):
    env = fault("no network") | {"DISTNET_DATA": str(tmp_path / "there")}
    ended = train("mnist", module="distnet.datasets", env=env, cwd=tmp_path)
    assert ended.status == 2
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_zipped_files_give_the_same_bits_as_plain_ones(train, digits, tmp_path):
    for path in digits.iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    digests = [train("--data-dir", folder, "--epochs", 1).sha256 for folder in (digits, tmp_path)]
    assert digests[0] == digests[1]


def test_python_m_distnet_lists_every_command(train):
    listed = set(re.findall(r"python -m distnet\.(\w+)", train(module="distnet").out))
    options = (ROOT / "docs" / "options.md").read_text()
    assert listed == set(re.findall(r"python -m distnet\.(\w+)", options))


@pytest.mark.parametrize(
    "module", ["train", "evaluate", "predict", "compare", "supervise", "plan", "doctor", "datasets"]
)
def test_h_is_help(train, module):
    ended = [train(word, module=f"distnet.{module}") for word in ("-h", "--help")]
    assert [each.status for each in ended] == [0, 0]
    assert ended[0].out == ended[1].out
    assert "usage: " in ended[0].out


DIVERGING = ("--hidden", 20, "--epochs", 9, "--optimizer", "sgd", "--learning-rate", 1e6)


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_run_whose_loss_is_nan_stops_with_that_epoch_and_writes_nothing_of_it_but_its_metrics(
    train, digits, tmp_path, ranks
):
    metrics, run = tmp_path / "metrics.jsonl", tmp_path / "run"
    options = ("--data-dir", digits, *DIVERGING, "--metrics", metrics, "--model", tmp_path / "m.npz")
    ended = train(*options, "--checkpoint-dir", run, "--checkpoint-every", 1, "steps", ranks=ranks)
    assert ended.status == 70
    told = re.search(
        r"distnet: training stopped: the loss is NaN in epoch (\d) \(the last good checkpoint is (.*)\); "
        r"start over with a lower --learning-rate than 1e\+06, or with --clip-norm 1\n",
        ended.err,
    )
    assert ended.err.count("distnet: ") == 1
    losses = [json.loads(line, parse_constant=pytest.fail)["loss"] for line in metrics.read_text().splitlines()]
    assert len(losses) == int(told[1]) < 9
    assert None not in losses[:-1]
    assert losses[-1] is None
    assert "parameters sha256" not in ended.out
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "run"}
    assert checkpoints(run)[0] == Path(told[2])
    assert {path.name for path in run.iterdir()} == {path.name for path in checkpoints(run)}
    for path in checkpoints(run):
        assert np.isfinite(read_checkpoint(path).arrays["parameters"]).all()


def test_a_run_that_is_stopped_with_parameters_that_are_no_numbers_writes_no_checkpoint_of_them(digits, tmp_path):
    def spoil_and_stop(trainer):
        if trainer.global_step == 3:
            trainer.exchange.parameters[0] = np.inf
            os.kill(os.getpid(), signal.SIGTERM)

    options = ["--data-dir", str(digits), "--hidden", "9", "--quiet", "--checkpoint-dir", str(tmp_path)]
    outcome = train_here([*options, "--checkpoint-every", "2", "steps"], on_step=spoil_and_stop)
    assert (outcome.status, outcome.network) == (70, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0000000002.npz"]


def test_no_output_goes_over_another_one_or_over_what_the_run_reads_or_keeps(digits, tmp_path, monkeypatch):
    """Whatever leads there: the configuration beside the model, a link, a hard link, another spelling."""
    data = shutil.copytree(digits, tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("table.csv").write_text("1,a\n2,b\n")
    Path("link.json").symlink_to("table.csv")
    os.link("table.csv", "hard.json")
    Path("options.toml").write_text("epochs = 1\n")
    Path("checkpoint.npz").write_bytes(b"")
    table = ("--dataset", "csv:table.csv")
    for arguments, told in [
        (
            ("--model", "w.npz", "--metrics", "w.toml"),
            "--model: its configuration w.toml: is the file of --metrics",
        ),
        (
            ("--model", "w.npz", "--metrics", "w.run.json"),
            "--model: its provenance w.run.json: is the file of --metrics",
        ),
        (("--metrics", "a.html", "--report", "./run/../a.html"), "a.html: is the file of --metrics"),
        (("--metrics", "a", "--timeline", "a"), "--timeline a: is the file of --metrics"),
        ((*table, "--metrics", "table.csv"), "--metrics table.csv: is the file of --dataset"),
        ((*table, "--timeline", "link.json"), "--timeline link.json: is the file of --dataset"),
        ((*table, "--metrics", "hard.json"), "--metrics hard.json: is the file of --dataset"),
        (("--timeline", data / FILES[3]), f"is the file of --dataset ({FILES[3]})"),
        (
            ("--config", "options.toml", "--metrics", "options.toml"),
            "--metrics options.toml: is the file of --config",
        ),
        (
            ("--config", "options.toml", "--model", "options.pkl"),
            "configuration options.toml: is the file of --config",
        ),
        (("--log-dir", "run", "--metrics", "run/rank-0.log"), "is a log of --log-dir (rank 0)"),
        (
            ("--checkpoint-dir", "run", "--resume", "checkpoint.npz", "--model", "checkpoint.npz"),
            "--model checkpoint.npz: is the file of --resume",
        ),
        *(
            (
                ("--checkpoint-dir", "run", "--metrics", f"run/{name}"),
                "has the name of a checkpoint in --checkpoint-dir",
            )
            for name in ("completed.json", "checkpoint-0000000001.npz", "failure-host-0-1.txt", ".lock")
        ),
    ]:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=re.escape(f"{told}") + ".*name another file"):
            train_here([*(() if "--dataset" in arguments else ("--data-dir", str(data))), *map(str, arguments)])
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_devices_have_room_for_two_results(digits):
    config = read_config(["--data-dir", str(digits), "--metrics", "/dev/null", "--timeline", "/dev/null"])
    check_outputs(config, ranks=1)


def test_an_output_that_cannot_show_a_letter_ends_no_run(train, digits):
    options = ("--data-dir", digits, "--epochs", 1, "--hidden", 20, "--profile")
    ended = train(*options, env={"PYTHONIOENCODING": "ascii"})
    assert (ended.status, ended.err) == (0, "")
    assert "\\xb5s" in ended.out


@pytest.mark.parametrize("ranks", [None, 2])
def test_what_cannot_be_written_at_the_end_costs_nothing_else(train, digits, tmp_path, ranks):
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a disk that is full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        (small / "taken").write_bytes(bytes(60_000))
        options = ("--data-dir", digits, "--epochs", 3, "--hidden", 20, "--checkpoint-dir", tmp_path / "run")
        outputs = ("--timeline", small / "trace.json", "--report", small / "page.html", "--model", tmp_path / "m.npz")
        ended = train(*options, *outputs, ranks=ranks)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert ended.status == 74
    assert LAST_LINES.fullmatch("".join(ended.out.splitlines(keepends=True)[-2:]))
    ours = [line.split()[1] for line in ended.err.splitlines() if line.startswith("distnet: ")]
    assert ours == ["--timeline", "--report"]
    assert NeuralNetwork.load(tmp_path / "m.npz").sizes == (784, 20, 10)
    assert json.loads((tmp_path / "m.run.json").read_text())["exit_status"] == 74
    assert json.loads((tmp_path / "run" / "completed.json").read_text())["parameters_sha256"] == ended.sha256


def test_shared_memory_that_is_too_small_is_told_before_a_rank_dies_of_it(train, digits):
    if os.geteuid() != 0:
        pytest.skip("needs root, to make /dev/shm small")
    # Each array alone would find room, all of them don't.
    run = [sys.executable, "-m", "distnet.train", "--dataset", "synthetic", "--quiet"]
    run += ["--train-samples", "2000", "--hidden", "1200"]
    script = f"mount -t tmpfs -o size=64m tmpfs /dev/shm && exec {mpirun()} -n 2 {' '.join(run)}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, env=environment, timeout=60
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("distnet: ")]
    assert re.fullmatch(
        r"distnet: shared memory on the node of rank 0: it has no room for \d+ MiB "
        r"\(/dev/shm has \d+ MiB left\); use .*",
        line,
    )
