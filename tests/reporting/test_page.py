"""The page about a run: one file that needs no other, whose numbers are the run's, whatever names it has to show."""

import csv
import json
import math
import re
import resource
from base64 import b64decode
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from helpers import Page, check_self_contained, command, fault
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distnet import NeuralNetwork
from distnet.datasets.dataset import VALIDATION, draw_held_out
from distnet.datasets.idx import FILES, read_idx_pair
from distnet.reporting.pages.charts import (
    DARK,
    DARK_BASE,
    LIGHT,
    LIGHT_BASE,
    Curve,
    draw_line_chart,
    find_log_ticks,
    find_ticks,
    thin,
)
from distnet.reporting.pages.png import encode_png
from distnet.reporting.pages.run import MISTAKES, Run, render_matrix, render_run
from distnet.training.evaluation import Scores
from distnet.training.history import History

SMALL = ("--hidden", 20, "--epochs", 3)
SECTIONS = [
    "Learning",
    "Errors by class",
    "Most confident errors",
    "First layer",
    "Time per step",
    "Command",
    "Effective configuration",
    "Provenance",
    "Sessions",
]
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "&amp; 'quoted'\x07", "Ωmega " + "m" * 200)


@contextmanager
def files_up_to(size):
    """No file of this process, or of those that it starts, can be longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """The same run without mpirun, on one rank and on two: what it printed, and the folder with what it wrote."""
    made = {}
    for ranks in (None, 1, 2):
        folder = tmp_path_factory.mktemp("run")
        options = ("--data-dir", digits, *SMALL, "--report", "report.html", "--model", "model.npz")
        ended = command(*options, "--metrics", "metrics.jsonl", ranks=ranks, cwd=folder)
        assert (ended.status, ended.err) == (0, "")
        made[ranks] = ended, folder
    return made


@pytest.fixture(scope="module")
def run(runs):
    """The page of that run, its folder and what it printed."""
    ended, folder = runs[2]
    return Page((folder / "report.html").read_text()), folder, ended


def test_the_page_is_well_formed_has_all_sections_and_needs_no_other_file(run):
    page, _, _ = run
    assert page.headings == SECTIONS
    check_self_contained(page)


def test_the_curves_are_those_of_the_metrics(run):
    page, folder, _ = run
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = {"training": "loss", "learning rate": "learning_rate"}
    for curve, name in wanted.items():
        assert page.points(curve) == {r["epoch"]: pytest.approx(r[name], rel=1e-5) for r in records}
    tests = [title for title in page.titles if title.startswith("test, epoch 3: ")]
    assert [float(title.split()[-1]) for title in tests] == [
        pytest.approx(records[-1][name], rel=1e-5) for name in ("test_loss", "test_accuracy")
    ]


def test_the_findings_are_those_of_evaluate_and_the_sha256_is_the_printed_one(run, digits):
    page, folder, ended = run
    options = ("--data-dir", digits, "--mistakes", MISTAKES, "--json")
    told = json.loads(command(folder / "model.npz", *options, module="distnet.evaluate").out)
    assert ended.sha256 in page.texts
    for number in (f"{told['accuracy']:.4f}", f"{told['loss']:.4f}"):
        assert number in page.texts
    counts = {title for title in page.titles if " predicted as " in title}
    assert counts == {
        f"{true} predicted as {guess}: {count:,} of {sum(row):,}"
        for true, row in enumerate(told["confusion"])
        for guess, count in enumerate(row)
        if count
    }
    captions = [text for text in page.texts if " → " in text]
    assert captions == [f"{each['class']} → {each['predicted']}" for each in told["mistakes"]]
    assert captions  # or nothing was tested
    indices = [int(text.removeprefix("no. ").replace(",", "")) for text in page.texts if text.startswith("no. ")]
    assert indices == [each["index"] for each in told["mistakes"]]


def test_the_pictures_of_mistakes_are_the_files_pixels(run, digits):
    page, _, _ = run
    images, _ = read_idx_pair(digits / FILES[2], digits / FILES[3], 10)
    indices = [int(text.removeprefix("no. ").replace(",", "")) for text in page.texts if text.startswith("no. ")]
    pictures, _ = page.pictures()
    for place, picture in zip(indices, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), images[place])


def test_the_pictures_of_weights_are_the_first_layers(run):
    page, folder, _ = run
    _, pictures = page.pictures()
    weights = NeuralNetwork.load(folder / "model.npz").weights[0]
    assert len(pictures) == weights.shape[1]
    for picture, column in zip(pictures, weights.T, strict=True):
        red, _, blue, opacity = np.asarray(picture.convert("RGBA")).reshape(-1, 4).astype(float).T
        shown = np.sign(blue - red) * opacity / 255
        np.testing.assert_allclose(shown, column / np.abs(column).max(), atol=0.02)


def test_the_page_is_the_same_on_any_ranks_but_for_times_and_the_world(runs):
    pages = []
    for ended, folder in runs.values():
        text = (folder / "report.html").read_text()
        text = re.sub(r"<section>\n<h2>Time per step</h2>.*?</section>", "", text, flags=re.DOTALL)
        text = re.sub(r"<section>\n<h2>Sessions</h2>.*?</section>", "", text, flags=re.DOTALL)
        text = re.sub(r"<tr><th[^>]*>(distnet [\d.]+|mpi|ranks|nodes)</th><td>[^<]*</td></tr>", "", text)
        text = re.sub(r'<b>[^<]*</b>(<span class="small">(training time|samples/s)</span>)', r"\1", text)
        pages.append((ended.sha256, text))
    assert pages[0] == pages[1] == pages[2]
    assert len({(folder / "report.html").read_text() for _, folder in runs.values()}) == 3


def test_time_per_step_has_a_bar_for_each_rank_and_names_the_slowest(run, runs):
    page, _, _ = run
    assert len([1 for tag, attributes in page.tags if attributes.get("class") == "bar"]) == 2
    # By less than a little none is the slowest, and the page says that; test_profile.py has one that is.
    assert re.search(
        r"(Rank [01] on \S+ was the slowest: it|No rank was slower than the others; they) waited", page.text
    )
    alone = Page((runs[None][1] / "report.html").read_text())
    assert len([1 for tag, attributes in alone.tags if attributes.get("class") == "bar"]) == 1
    assert "slowest" not in alone.text


def test_a_table_has_a_list_of_mistakes_and_names_that_are_markup_stay_text(tmp_path):
    draw = np.random.default_rng(3)
    path = tmp_path / "<b>&'\".csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[HOSTILE[k % 4], *draw.normal(size=3)] for k in range(200)])
    options = (
        "--dataset",
        f"csv:{path}",
        "--target",
        "1",
        "--hidden",
        3,
        "--epochs",
        2,
        "--report",
        tmp_path / "r.html",
    )
    ended = command(*options)
    assert (ended.status, ended.err) == (0, "")
    page = Page((tmp_path / "r.html").read_text())
    check_self_contained(page)
    assert page.headings == [each for each in SECTIONS if each != "First layer"]
    assert "img" not in {tag for tag, _ in page.tags}
    shown = [name.replace("\x07", "?") for name in HOSTILE]
    assert set(shown) <= set(page.texts)
    assert any(str(path) in text for text in page.texts)
    assert any(title.startswith(f"{shown[0]} predicted as ") for title in page.titles)


def report_of(folder, task, rows=100):
    """The page of a run on a table of this task, and what evaluate prints of its model. Names are hostile."""
    draw = np.random.default_rng(3)
    X = draw.normal(size=(rows, 3))
    Y = X @ draw.normal(size=(3, 2)) * [1000, 0.01] + [-5000, 0] + draw.normal(size=(rows, 2)) * [10, 0.001]
    if task == "multilabel":
        Y = (Y.mean(axis=0) < Y).astype(int)
    names = HOSTILE[:2]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", *names], *np.column_stack([X, Y]).tolist()])
    options = ("--dataset", f"csv:{folder / 'table.csv'}", "--target", *names, "--task", task, "--hidden", 3)
    options += ("--epochs", 4, "--report", folder / "r.html", "--model", folder / "m.npz")
    ended = command(*options, ranks=2)
    assert (ended.status, ended.err) == (0, "")
    page = Page((folder / "r.html").read_text())
    check_self_contained(page)
    told = command(folder / "m.npz", "--json", "--mistakes", 10**6, module="distnet.evaluate").out
    return page, json.loads(told), ended


def test_the_page_of_a_regression_has_predictions_and_residuals_of_each_target(tmp_path):
    page, told, ended = report_of(tmp_path, "regression")
    middle = ["Predictions by target", "Largest residuals"]
    assert page.headings == ["Learning", *middle, *SECTIONS[4:]]
    assert page.texts[page.texts.index("test R2") - 1] == f"{told['r2']:.4f}"
    assert ended.out.splitlines()[-2] == f"test R2 {told['r2']:.4f}"
    assert page.points("test").keys() == {1, 2, 3, 4}
    of_rows = [re.fullmatch(r"row (\d+), (\w+) (\S+), (\w+) (\S+)", title) for title in page.titles]
    shown = {}
    for each in filter(None, of_rows):
        shown.setdefault((each[2], each[4]), []).append((int(each[1]), float(each[3]), float(each[5])))
    assert {name: len(points) for name, points in shown.items()} == {
        ("true", "predicted"): 40,
        ("predicted", "residual"): 40,
    }
    for (along, upwards), points in shown.items():
        wanted = [(each["index"], each[along], each[upwards]) for each in told["residuals"]]
        np.testing.assert_allclose(sorted(points), sorted(wanted), rtol=1e-5)
    for each in told["targets"]:
        assert each["target"] in page.texts
        assert {f"{each['rmse']:.6g}", f"{each['mae']:.6g}", f"{each['r2']:.4f}"} <= set(page.texts)
    paths = [attributes["d"] for tag, attributes in page.tags if attributes.get("class") == "points c0"]
    assert [path.count("M") for path in paths] == [20] * 4


def test_the_page_of_several_labels_has_the_errors_of_each(tmp_path):
    page, told, ended = report_of(tmp_path, "multilabel")
    assert page.headings == ["Learning", "Errors by label", "Worst mistakes", *SECTIONS[4:]]
    assert page.texts[page.texts.index("test subset accuracy") - 1] == f"{told['subset_accuracy']:.4f}"
    assert ended.out.splitlines()[-2] == f"test subset accuracy {told['subset_accuracy']:.4f}"
    wrong = len(told["mistakes"])
    assert wrong == round((1 - told["subset_accuracy"]) * 20) > 0
    assert page.texts[page.texts.index("errors in 20") - 1] == str(wrong)
    bars = [title for title in page.titles if re.match("missed|extra", title)]
    assert bars == [f"{kind}: {each[kind]} of 20" for each in told["labels"] for kind in ("missed", "extra")]
    for each in told["mistakes"]:
        assert f"{each['loss']:.4f}" in page.texts
    assert set(HOSTILE[:2]) <= set(page.texts)


def test_charts_of_many_samples_and_targets_show_some_of_them():
    count, targets = 4500, 20
    draw = np.random.default_rng(0)
    true = draw.normal(size=(count, targets))
    predicted = true + np.arange(targets)
    scores = [{"target": f"t{k}", "rmse": k, "mae": k, "r2": -float(k)} for k in range(targets)]
    found = {"task": "regression", "samples": count, "loss": 1.0, "r2": 0.5, "targets": scores, "residuals": []}
    text = render_run(plain_run(findings=found | {"mean": {"r2": 0.5}}, true=true, predicted=predicted))
    page = Page(text)
    assert "The charts are of the 12 targets with the lowest R2. The charts show one of 3 test samples." in page.text
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert [label for label in labels if "predicted against true" in label] == [
        f"t{k}, predicted against true: 1,500 points" for k in range(8, 20)
    ]
    assert len(text) < 1_000_000


def test_predictions_that_are_not_finite_are_left_out_of_the_charts():
    scores = [{"target": "t", "rmse": math.nan, "mae": math.nan, "r2": math.nan}]
    found = {"task": "regression", "samples": 4, "loss": math.nan, "r2": math.nan, "targets": scores, "residuals": []}
    true, predicted = np.zeros((4, 1)), np.array([[1.0], [np.nan], [np.inf], [2.0]])
    page = Page(render_run(plain_run(findings=found | {"mean": scores[0]}, true=true, predicted=predicted)))
    assert [title for title in page.titles if title.startswith("row")] == [
        "row 0, true 0, predicted 1",
        "row 3, true 0, predicted 2",
        "row 0, predicted 1, residual -1",
        "row 3, predicted 2, residual -2",
    ]
    lost = Page(render_run(plain_run(findings=found | {"mean": scores[0]}, true=true, predicted=true * np.nan)))
    assert lost.texts.count("no finite values") == 2


def test_after_going_on_from_a_checkpoint_the_curves_are_whole(run, digits, tmp_path):
    undisturbed, _, _ = run
    options = ("--data-dir", digits, *SMALL, "--checkpoint-dir", tmp_path / "run", "--report", tmp_path / "report.html")
    stopped = command(*options, env=fault("SIGTERM", step=8))
    assert stopped.status == 75
    assert not (tmp_path / "report.html").exists()
    assert command(*options, "--resume", ranks=2).status == 0
    page = Page((tmp_path / "report.html").read_text())
    assert page.points("training").keys() == {1, 2, 3}
    assert page.points("training") == undisturbed.points("training")
    again = command(*options, "--resume")  # of a run that is complete, so that no step is taken
    assert again.status == 0
    page = Page((tmp_path / "report.html").read_text())
    assert page.points("training") == undisturbed.points("training")
    assert "Time per step" not in page.headings


def test_with_a_validation_set_its_curve_is_there_and_the_epoch_that_was_kept_is_marked(digits, tmp_path):
    options = ("--data-dir", digits, "--hidden", 20, "--epochs", 12, "--learning-rate", 1, "--schedule", "constant")
    files = ("--report", tmp_path / "report.html", "--metrics", tmp_path / "metrics.jsonl")
    ended = command(*options, *files, "--validation", 60)
    assert ended.status == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [record["validation_loss"] for record in records]
    kept = losses.index(min(losses)) + 1
    assert kept < 12  # or nothing is tested
    page = Page((tmp_path / "report.html").read_text())
    assert page.texts[page.texts.index("best epoch of 12") - 1] == str(kept)
    assert f"{records[kept - 1]['test_accuracy']:.4f}" in page.texts
    assert len([1 for _, attributes in page.tags if attributes.get("class") == "mark"]) == 4
    assert [title for title in page.titles if title.startswith("validation, epoch 12: ")]


@pytest.mark.parametrize("there", [True, False])
def test_where_the_disk_refuses_the_page_the_file_that_was_there_stays_and_the_run_ends_in_one_line(
    digits, tmp_path, there, monkeypatch
):
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # make coverage: its data would be refused, too
    path = tmp_path / "report.html"
    if there:
        path.write_text("of an older run")
    with files_up_to(10_000):
        ended = command("--data-dir", digits, *SMALL, "--report", path)
    assert (ended.status, len(ended.sha256)) == (74, 64)
    remedy = "free some space, or choose another folder"
    assert ended.err == f"distnet: --report {path}: can't be written (File too large); {remedy}\n"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"] * there
    assert not there or path.read_text() == "of an older run"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("report.txt", "expected a name that ends in .html"),
        ("missing/report.html", "there is no folder"),
        ("folder.html", "is a folder"),
        ("/proc/report.html", "can't be written"),
    ],
)
def test_a_page_that_could_not_be_written_is_found_before_the_training(digits, tmp_path, place, why):
    (tmp_path / "folder.html").mkdir()
    ended = command("--data-dir", digits, "--report", tmp_path / place, ranks=2)
    assert (ended.status, ended.out) == (2, "")
    lines = [line for line in ended.err.splitlines() if line.startswith("distnet: ")]
    assert len(lines) == 1
    assert lines[0].startswith("distnet: --report")
    assert place in lines[0]
    assert why in lines[0]


def plain_run(**changes):
    """A run with few numbers."""
    classes = [{"class": k, "samples": 2, "wrong": 1, "error": 0.5} for k in range(2)]
    found = {
        "task": "classification",
        "samples": 4,
        "accuracy": 0.5,
        "loss": 1.0,
        "classes": classes,
        "confusion": [[1, 1], [1, 1]],
        "mistakes": [],
    }
    epoch = {"epoch": 1, "loss": 1.0, "learning_rate": 0.1, "seconds": 1.0, "samples_per_second": 4.0}
    history = History([epoch | {"test_loss": 1.0, "test_accuracy": 0.5}])
    run = Run(
        "a run",
        ["data: some"],
        "python -m distnet.train",
        history,
        0.0,
        Scores(1.0, 0.5, None),
        found,
        [],
        np.ones((3, 2, 2)),
        np.zeros((4, 2)),
        np.zeros((4, 2)),
        "",
        {},
        [],
        "0" * 64,
        [],
    )
    return run._replace(**changes)


def test_a_run_that_diverged_still_gets_its_page():
    first = plain_run().history.records[0]
    lost = [
        first | {"epoch": k, "loss": loss, "test_loss": loss} for k, loss in enumerate((1.0, 1e308, np.inf, np.nan))
    ]
    weights = np.array([np.nan, np.inf, -1, 0.0, *[np.nan] * 4, *[0.0] * 4]).reshape(3, 2, 2)
    page = Page(render_run(plain_run(history=History(lost), weights=weights)))
    assert page.points("training") == {0: 1.0}
    _, pictures = page.pictures()
    assert [np.asarray(each.convert("RGBA"))[..., 3].tolist() for each in pictures] == [
        [[0, 0], [255, 0]],
        [[0, 0], [0, 0]],
        [[0, 0], [0, 0]],
    ]
    page = Page(
        render_run(
            plain_run(
                history=History([each | {"loss": np.nan, "test_loss": np.nan} for each in lost]),
                training=Scores(0.1, np.nan, None),
            )
        )
    )
    assert "no finite values" in page.texts


def test_a_run_without_mistakes_says_so_and_one_of_a_thousand_classes_lists_the_worst():
    assert "None." in Page(render_run(plain_run())).texts
    classes = [{"class": k, "samples": 10, "wrong": k % 10, "error": k % 10 / 10} for k in range(1000)]
    confusion = (np.diag([10 - k % 10 for k in range(1000)]) + np.diag([k % 10 for k in range(999)], 1)).tolist()
    found = plain_run().findings | {"classes": classes, "confusion": confusion}
    text = render_run(plain_run(findings=found))
    page = Page(text)
    assert "The 100 of 1,000 classes with most errors. The confusion matrix would be too big." in page.texts
    assert "19" in page.texts
    assert "20 (9)" in page.texts
    assert len(text) < 100_000


def test_losses_against_smoothed_labels_have_a_chart_of_their_own_and_their_lower_bound():
    loss = plain_run().history.records[0]["loss"]
    plain, smoothed = (Page(render_run(plain_run(label_smoothing=epsilon))) for epsilon in (0.0, 0.2))
    assert [page.points("training") for page in (plain, smoothed)] == [{1: loss}, {1: loss}]
    assert [sum(tag == "svg" for tag, _ in page.tags) for page in (plain, smoothed)] == [3, 4]
    assert "can't fall below" not in plain.text
    lowest = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))  # two classes
    assert f"With labels smoothed by 0.2 the training loss can't fall below {lowest:.4f}." in smoothed.text


@pytest.mark.parametrize("held_out", [0, 60])
def test_the_scores_of_the_training_set_are_measured_as_those_of_the_test_set(held_out, digits, tmp_path):
    options = ("--data-dir", digits, *SMALL, "--dropout", 0.5, "--report", tmp_path / "report.html")
    ended = command(*options, "--model", tmp_path / "model.npz", "--validation", held_out, ranks=2)
    assert (ended.status, ended.err) == (0, "")
    images, labels = read_idx_pair(digits / FILES[0], digits / FILES[1], 10)
    network = NeuralNetwork.load(tmp_path / "model.npz")
    inputs = (images.reshape(len(images), -1) - network.about["mean"]) / network.about["deviation"]
    _, chosen = draw_held_out(labels.astype(int), held_out, [0, *VALIDATION])
    Y = np.eye(10)[labels[chosen]]
    probabilities = network.forward(inputs[chosen])
    page = Page((tmp_path / "report.html").read_text())
    accuracy, loss = (float(page.texts[page.texts.index(f"training {what}") - 1]) for what in ("accuracy", "loss"))
    assert accuracy == pytest.approx((probabilities.argmax(axis=1) == labels[chosen]).mean(), abs=1e-4)
    assert loss == pytest.approx(network.cross_entropy(probabilities, Y), abs=1e-3)


def test_the_command_is_shown_as_typed_beside_the_cpu_and_all_notes_of_the_header(run):
    page, _, _ = run
    assert "python -m distnet.train --data-dir " in "".join(page.texts)
    assert {"cpu", "numpy", "blas", "kernels", "python", "mpi", "distnet", "commit", "data_sha256"} <= set(page.texts)
    command_line = "python -m distnet.train --model 'a b.npz'"
    page = Page(render_run(plain_run(command=command_line, header=["note: one", "note: two"])))
    assert "python -m distnet.train --model 'a b.npz'" in "".join(page.texts)
    assert {"one", "two"} <= set(page.texts)


def test_a_confusion_matrix_has_cells_for_its_classes():
    for classes in (2, 10, 50):
        page = Page(render_matrix(range(classes), np.eye(classes, dtype=int).tolist()))
        (table,) = (attributes for tag, attributes in page.tags if tag == "table")
        assert table["class"].split() == ["matrix", *["turned", "dense"] * (classes > 14)]
        assert table["style"] == f"--n:{classes};--digits:1"
        assert sum(tag == "td" for tag, _ in page.tags) == classes**2
        assert page.texts.count("1") == 2 + classes * (classes <= 14)  # two labels, and the counts


def test_of_many_neurons_those_with_the_largest_weights_are_shown():
    strong = np.random.default_rng(0).permutation(100)[:64]
    weights = np.full((100, 2, 2), 0.1)
    weights[strong] = 2
    page = Page(render_run(plain_run(weights=weights)))
    shown = [int(attributes["title"].split()[1]) for tag, attributes in page.tags if tag == "img"]
    assert shown == sorted(strong)


def test_of_many_ranks_those_that_waited_least_are_shown():
    phases = [
        {"rank": k, "node": 0, "host": "h", "steps": 10, "seconds": {"forward": 0.5, "waiting": (k * 37) % 100 / 100}}
        for k in range(100)
    ]
    page = Page(render_run(plain_run(phases=phases)))
    shown = {int(each[1]) for each in (re.fullmatch(r"rank (\d+), h", text) for text in page.texts) if each}
    assert shown == {k for k in range(100) if (k * 37) % 100 < 64}


def test_a_hundred_thousand_epochs_make_a_page_of_no_more_than_a_megabyte():
    record = plain_run().history.records[0]
    history = [record | {"epoch": k, "loss": 1 + (k * 7919 % 1000) / 1000} for k in range(1, 100_001)]
    assert len(render_run(plain_run(history=History(history)))) < 1_000_000


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats()), max_size=30),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_chart_can_be_drawn_of_any_numbers_and_stays_within_its_frame(points, zero, logarithmic, whole):
    drawn = draw_line_chart("any", "x", [Curve("a", points)], zero=zero, logarithmic=logarithmic, whole=whole)
    page = Page(drawn)
    for _, attributes in page.tags:
        for name, most in (("cx", 360), ("cy", 210), ("x", 360), ("y", 210)):
            assert 0 <= float(attributes.get(name, 0)) <= most


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9), st.booleans())
def test_ticks_are_few_evenly_spaced_and_within_the_range(low, length, whole):
    found = find_ticks(low, low + length, whole=whole)
    room = 1e-6 * (abs(low) + length)
    assert all(low - room <= each <= low + length + room for each in found)
    assert len(found) <= 7
    assert whole or len(found) >= 2
    assert not whole or all(each == int(each) for each in found)


@given(st.floats(1e-30, 1e30), st.floats(20, 1e20))
def test_logarithmic_ticks_are_few_and_within_the_range(low, ratio):
    found = find_log_ticks(low, low * ratio)
    assert 1 <= len(found) <= 7
    assert all(low <= each <= low * ratio for each in found)


def test_thinning_keeps_the_lowest_and_the_highest_place_of_each_column():
    draw = np.random.default_rng(1)
    places = [(x, y) for x, y in zip(np.linspace(0, 50, 5000).tolist(), draw.normal(size=5000).tolist(), strict=True)]
    kept = thin(places)
    assert len(kept) <= 2 * 51
    assert kept == sorted(kept)
    for column in range(51):
        inside = [y for x, y in places if round(x) == column]
        assert {min(inside), max(inside)} == {y for x, y in kept if round(x) == column}


def read_png(url):
    return Image.open(BytesIO(b64decode(url.removeprefix("data:image/png;base64,"))))


def test_a_png_file_holds_the_pixels_for_a_reader_that_is_not_ours():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 7)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_png(encode_png(pixels))), pixels)
    palette = np.array([[1, 2, 3, 0], [4, 5, 6, 128], [7, 8, 9, 255]], np.uint8)
    numbers = pixels % 3
    shown = read_png(encode_png(numbers, palette)).convert("RGBA")
    np.testing.assert_array_equal(np.asarray(shown), palette[numbers])


def test_names_too_long_for_the_matrix_are_whole_where_one_points():
    page = Page(render_matrix(["short", "m" * 100], [[3, 1], [0, 2]]))
    assert {"short", "m" * 100, f"short predicted as {'m' * 100}: 1 of 4"} <= set(page.titles)


@pytest.mark.parametrize(("colours", "named"), [(LIGHT, LIGHT_BASE), (DARK, DARK_BASE)], ids=["light", "dark"])
def test_every_colour_stands_out_from_its_background(colours, named):
    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in (*colours, named["ink"], named["soft"]):
        for ground in (named["page"], named["card"]):
            light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (colour, ground)
