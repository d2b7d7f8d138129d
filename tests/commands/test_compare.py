"""Runs over each other: the table says what the files say, the same bits are recognised, bad files are one line."""

import json
import re
import sys
from pathlib import Path

import pytest
from helpers import Page, check_self_contained, command

from distnet.compare import Run, build_table, compare_bits, main, read_metrics, shorten_labels
from distnet.runtime.errors import InputError


def compare(*arguments, **how):
    return command(*arguments, module="distnet.compare", **how)


def record(epoch, loss=0.5, accuracy=0.9, **more):
    fixed = {"learning_rate": 0.1, "test_loss": loss, "seconds": 2.0, "samples_per_second": 300.0}
    return {"epoch": epoch, "loss": loss, "test_accuracy": accuracy} | fixed | more


def write(path, *records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """The metrics of a run without mpirun, of the same on two ranks, and of one with a validation set."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("--data-dir", digits, "--hidden", 20, "--quiet")
    for name, ranks, more in [("one", None, ()), ("two", 2, ()), ("held", None, ("--validation", 100, "--epochs", 4))]:
        (folder / name).mkdir()
        more = more or ("--epochs", 3)
        assert command(*options, *more, "--metrics", folder / name / "metrics.jsonl", ranks=ranks).status == 0
    return folder


def test_runs_on_other_ranks_are_known_to_have_the_same_bits_and_others_to_differ(trained, tmp_path):
    files = [trained / name / "metrics.jsonl" for name in ("one", "two", "held")]
    ended = compare(*files, cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    head, one, two, held, last = ended.out.splitlines()
    told = "run bits epochs best test accuracy epoch kept last last loss seconds samples/s"
    assert head.split() == told.split()
    assert one.split()[:3] == ["one", "-", "3"]
    assert re.match(r"two +same bits as one +3 ", two)
    assert re.match(r"held +differ from epoch 1 +4 ", held)
    assert last == "wrote compare.html"
    records = [json.loads(line) for line in files[1].read_text().splitlines()]
    best = max(each["test_accuracy"] for each in records)
    told = [f"{best:.4f}", next(str(each["epoch"]) for each in records if each["test_accuracy"] == best), "-"]
    told += [f"{records[-1]['test_accuracy']:.4f}", f"{records[-1]['loss']:.4f}"]
    assert two.split()[5:11] == ["3", *told]
    held_records = [json.loads(line) for line in files[2].read_text().splitlines()]
    kept = min(held_records, key=lambda each: each["validation_loss"])["test_accuracy"]
    assert held.split()[8] == f"{kept:.4f}"
    page = Page((tmp_path / "compare.html").read_text())
    check_self_contained(page)
    for name in ("one", "two"):
        for each in records:
            assert f"{name}, epoch {each['epoch']}: {each['loss']:.6g}" in page.titles
    assert {"one", "two", "held", "same bits as one"} <= set(page.texts)
    assert sum(tag == "svg" for tag, _ in page.tags) == 6


def test_names_that_are_markup_stay_text(trained, tmp_path):
    hostile = write(tmp_path / "a<b>&" / "metrics.jsonl", record(1), record(2))
    assert compare(trained / "one" / "metrics.jsonl", hostile, cwd=tmp_path).status == 0
    page = Page((tmp_path / "compare.html").read_text())
    check_self_contained(page)
    assert any("a<b>&" in text for text in page.texts)


def test_the_seconds_are_those_of_training_until_the_end_of_each_epoch(tmp_path):
    path = write(tmp_path / "m.jsonl", record(1, seconds=2.0), record(2, seconds=3.0, samples_per_second=100.0))
    ended = compare(path, cwd=tmp_path)
    page = Page((tmp_path / "compare.html").read_text())
    assert page.points(str(path), "seconds of training").keys() == {2.0, 5.0}
    assert ended.out.splitlines()[1].split()[-2:] == ["5.0", "180"]  # 900 samples
    assert "bits" not in ended.out  # of one run alone


def test_files_with_and_without_validation_and_of_different_lengths_have_a_table(tmp_path):
    held = [record(k, 0.5 / k, validation_loss=abs(k - 2.0), validation_accuracy=0.8) for k in range(1, 6)]
    short = [record(k, 0.5 / k) for k in range(1, 4)]
    files = [write(tmp_path / "held.jsonl", *held), write(tmp_path / "short.jsonl", *short)]
    runs = [Run(name, read_metrics(path)) for name, path in zip(("held", "short"), files, strict=True)]
    head, *rows = build_table(runs)
    assert [row[head.index("kept")] for row in rows] == ["0.9000", "-"]
    assert [row[head.index("epochs")] for row in rows] == ["5", "3"]
    assert rows[1][head.index("bits")] == "same bits as held in 3 epochs"


def test_files_of_runs_that_were_validated_alone_are_compared_by_that(tmp_path):
    only = [{k: v for k, v in record(1, validation_accuracy=0.7).items() if k != "test_accuracy"}]
    files = [write(tmp_path / "a.jsonl", *only), write(tmp_path / "b.jsonl", record(1, validation_accuracy=0.6))]
    head, *rows = build_table([Run(path.stem, read_metrics(path)) for path in files])
    assert [row[head.index("best validation accuracy")] for row in rows] == ["0.7000", "0.6000"]
    without = [{k: v for k, v in each.items() if "accuracy" not in k} for each in only]
    with pytest.raises(InputError, match="no score is in all epochs"):
        build_table([Run("a", without)])


@pytest.mark.parametrize(("metric", "name"), [("r2", "R2"), ("subset_accuracy", "subset accuracy")])
def test_runs_of_another_task_are_compared_by_its_score(tmp_path, metric, name):
    def of_task(epoch, score):
        made = record(epoch)
        del made["test_accuracy"]
        return made | {f"test_{metric}": score}

    files = [write(tmp_path / f"{k}.jsonl", of_task(1, -k - 1.0), of_task(2, k / 4)) for k in range(2)]
    ended = compare(*files, cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert f"best test {name}" in ended.out.splitlines()[0]
    assert "0.2500" in ended.out.splitlines()[2]
    page = Page((tmp_path / "compare.html").read_text())
    assert f"Test {name}, by epoch" in page.texts
    named = "no score is in all epochs of all files; name runs of one task"
    with pytest.raises(InputError, match=named):
        build_table([Run("a", read_metrics(files[0])), Run("b", [record(1)])])


def test_equal_losses_of_different_parameters_are_not_the_same_bits(tmp_path):
    runs = [
        Run(name, read_metrics(write(tmp_path / name, record(1) | {"parameters_sha256": sha256})))
        for name, sha256 in (("a", "0" * 64), ("b", "1" * 64))
    ]
    assert compare_bits(*runs) == "differ from epoch 1"
    older = Run("older", read_metrics(write(tmp_path / "older", record(1))))
    assert compare_bits(runs[0], older) == "same bits as a"


def test_null_is_a_number_that_is_not_finite(tmp_path):
    nan = read_metrics(write(tmp_path / "nan.jsonl", record(1, float("nan"))))
    null = read_metrics(write(tmp_path / "null.jsonl", record(1, None)))
    assert compare_bits(Run("a", nan), Run("b", null)) == "same bits as a"


@pytest.mark.parametrize(
    ("first", "other", "told"),
    [
        ([1.0, 0.1 + 0.2], [1.0, 0.1 + 0.2], "same bits as a"),
        ([1.0, 0.1 + 0.2], [1.0, 0.3], "differ from epoch 2"),
        ([float("nan")], [float("nan")], "same bits as a"),
        ([0.0], [-0.0], "differ from epoch 1"),
        ([1.0, 2.0], [1.0], "same bits as a in 1 epoch"),
        ([], [1.0], "no epoch in common"),
    ],
)
def test_losses_are_compared_to_the_last_bit(tmp_path, first, other, told):
    runs = [
        Run(name, [record(k, loss) for k, loss in enumerate(losses, 1)])
        for name, losses in (("a", first), ("b", other))
    ]
    assert compare_bits(*runs) == told


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["a/metrics.jsonl", "b/metrics.jsonl"], ["a", "b"]),
        (["/runs/a/metrics.jsonl", "/runs/b/metrics.jsonl", "/runs/c/metrics.jsonl"], ["a", "b", "c"]),
        (["x/a.jsonl", "x/b.jsonl"], ["a", "b"]),
        (["x/a.jsonl", "y/a.jsonl"], ["x", "y"]),
        (["r/2024/a/m.jsonl", "r/2025/b/m.jsonl"], ["2024/a", "2025/b"]),
        (["a/metrics.jsonl", "b.jsonl"], ["a/metrics", "b"]),
        (["m.jsonl", "x/m.jsonl"], ["m.jsonl", "x"]),
        (["r/m.jsonl", "r/x/m.jsonl"], ["r", "r/x"]),
        (["a.jsonl", "a.jsonl"], ["a.jsonl", "a.jsonl (2)"]),
        (["a/m.jsonl", "b/m.jsonl", "a/m.jsonl"], ["a", "b", "a (2)"]),
        (["a/m.jsonl"], ["a/m.jsonl"]),
    ],
)
def test_labels_are_the_shortest_parts_that_tell_paths_apart(paths, told):
    assert shorten_labels([Path(path) for path in paths]) == told


GOOD = json.dumps(record(1))
BAD = {
    "": "has no epoch",
    "\n\n": "has no epoch",
    "epoch 1/3  loss 0.5\n": "line 1: is not a JSON object",
    f"{GOOD}\n{GOOD[:30]}": "line 2: is not a JSON object",
    f"{GOOD}\n[1]\n": "line 2: is not a JSON object",
    "[" * 100_000: "line 1: ",
    f"{GOOD}\n{GOOD}\n": "line 2: has epoch 1 after epoch 1",
    json.dumps(record(1) | {"loss": "small"}): "line 1: has no number loss",
    json.dumps(record(1) | {"seconds": True}): "line 1: has no number seconds",
    json.dumps(record(1) | {"seconds": -1}): "line 1: has -1 seconds",
    json.dumps(record(1) | {"seconds": float("nan")}): "line 1: has nan seconds",
    json.dumps(record(0.5)): "line 1: has epoch 0.5 after epoch 0",
    json.dumps(record(1) | {"epoch": float("inf")}): "line 1: has epoch inf after epoch 0",
    json.dumps(record(1) | {"loss": 10**400}): "line 1: ",
}


@pytest.mark.parametrize("content", BAD, ids=[str(k) for k in range(len(BAD))])
def test_a_file_that_is_no_metrics_file_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(InputError) as refused:
        read_metrics(path)
    assert str(refused.value).startswith(f"{path}: {BAD[content]}")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_and_an_output_that_cannot_be_written_are_told_in_one_line(tmp_path):
    good = write(tmp_path / "good.jsonl", record(1))
    (tmp_path / "binary.jsonl").write_bytes(b"\x93NUMPY\xff")
    for arguments, told in [
        ((tmp_path / "none.jsonl",), f"{tmp_path}/none.jsonl: can't be read (No such file or directory)"),
        ((tmp_path,), f"{tmp_path}: can't be read (Is a directory)"),
        ((tmp_path / "binary.jsonl",), f"{tmp_path}/binary.jsonl: is not text"),
        ((good, "--output", "a.png"), "--output: expected a name that ends in .html, got 'a.png'"),
        ((good, "--output", "a.svg"), "--output: expected a name that ends in .html, got 'a.svg'"),
        ((good, "--output", tmp_path / "no" / "a.html"), f"--output {tmp_path}/no/a.html: there is no folder"),
        ((), "the following arguments are required: METRICS"),
    ]:
        ended = compare(*arguments, cwd=tmp_path)
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
        assert ended.err.startswith(f"distnet: {told}")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["binary.jsonl", "good.jsonl"]


def test_an_output_that_is_a_file_to_compare_is_refused_and_that_file_is_unchanged(tmp_path, monkeypatch):
    metrics, link = write(tmp_path / "a.html", record(1)), tmp_path / "b.html"
    link.symlink_to(metrics)
    before = metrics.read_bytes()
    for output in (metrics, link):
        monkeypatch.setattr(sys, "argv", ["compare", str(metrics), "--output", str(output)])
        with pytest.raises(InputError) as refused:
            main()
        assert str(refused.value) == f"--output {output}: is one of the files to compare; name another file"
    assert metrics.read_bytes() == before


def test_runs_that_diverged_and_many_runs_are_drawn(tmp_path):
    lost = [record(1, 2.0), record(2, float("inf"), float("nan")), record(3, float("nan"), float("nan"))]
    files = [write(tmp_path / f"{k}.jsonl", *(lost if k == 1 else [record(1, k + 1.0)])) for k in range(20)]
    ended = compare(*files, cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[2].split()[-7:-4] == ["3", "0.9000", "1"]
    Page((tmp_path / "compare.html").read_text())
