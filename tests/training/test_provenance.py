"""The file beside a model has what produced it and each session of a resumed run; another sha256 is status 65."""

import json
import os
import platform
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, command
from threadpoolctl import threadpool_info

from distnet import NeuralNetwork
from distnet import evaluate as evaluate_command
from distnet.config.reading import read_config
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.world import World
from distnet.runtime import blas
from distnet.runtime.errors import InputError
from distnet.runtime.failure import Watchdog
from distnet.train import train
from distnet.training.checkpoint import Checkpoint, checkpoints, read_checkpoint, write_checkpoint
from distnet.training.provenance import (
    BEGINNING,
    Sessions,
    compare_provenance,
    find_commit,
    hash_source,
    provenance_path,
    read_provenance,
)

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


def run(*arguments, **callbacks):
    """The status of a training in this process, and what it printed on standard output and standard error."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = train([*map(str, arguments)], **callbacks).status
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def small(digits):
    return ("--data-dir", digits, "--hidden", 9, "--arithmetic", "portable")


@pytest.fixture(scope="module")
def first(small, tmp_path_factory):
    """The folder of a run of one epoch, with a model and a checkpoint, and its arguments."""
    folder = tmp_path_factory.mktemp("first")
    arguments = (*small, "--epochs", 1, "--model", folder / "m.npz", "--checkpoint-dir", folder / "run", "--quiet")
    status, out, _ = run(*arguments)
    assert (status, out.count("\n")) == (0, 2)
    return folder, arguments


@pytest.fixture(scope="module")
def resumed(first):
    """That run, resumed for another epoch on two ranks."""
    folder, arguments = first
    ended = command(*arguments, "--epochs", 2, "--model", folder / "two.npz", "--resume", ranks=2)
    assert (ended.status, ended.err) == (0, "")
    return read_provenance(folder / "two.run.json"), ended.sha256


def test_the_provenance_has_command_options_data_versions_and_result(first, digits):
    folder, arguments = first
    provenance = read_provenance(folder / "m.run.json")
    assert shlex.split(provenance["command"]) == ["python", "-m", "distnet.train", *map(str, arguments)]
    options = provenance["options"]
    kept = NeuralNetwork.load(folder / "m.npz").about["config"] | {"data_dir": None}
    assert options == {name: kept[name] for name in options}
    assert (options["epochs"], options["hidden"], options["dataset"]) == (1, [9], "mnist")
    assert not {"model", "checkpoint_dir", "quiet", "expect_sha256"} & options.keys()
    fingerprint = read_checkpoint(checkpoints(folder / "run")[-1]).header["fingerprint"]
    assert provenance["data"] == {"name": "mnist", "source": str(digits), "sha256": fingerprint}
    assert provenance["parameters_sha256"] == parameters_sha256(NeuralNetwork.load(folder / "m.npz").parameters)
    assert provenance["exit_status"] == 0
    (session,) = provenance["sessions"]
    assert (session["ranks"], session["nodes"], session["from_step"], session["to_step"]) == (1, 1, 0, 5)
    assert session["start"] <= session["end"]
    versions = session["versions"]
    assert (versions["python"], versions["numpy"]) == (platform.python_version(), np.__version__)
    assert versions["source_sha256"] == hash_source(ROOT / "distnet")
    kernels = {pool.get("architecture") for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert set(versions["kernels"].split("; ")) == kernels or not kernels


def test_identical_runs_write_identical_models_and_each_its_own_provenance(small, first, tmp_path):
    folder, _ = first
    expected = read_provenance(folder / "m.run.json")["parameters_sha256"]
    arguments = (*small, "--epochs", 1, "--model", tmp_path / "m.npz", "--expect-sha256", expected.upper())
    assert run(*arguments)[0] == 0
    for name in ("m.npz", "m.toml"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "m.run.json").read_bytes() != (folder / "m.run.json").read_bytes()
    assert compare_provenance(*(read_provenance(each / "m.run.json") for each in (tmp_path, folder))) == {}


def test_parameters_other_than_expected_are_status_65_after_all_results_are_written(small, tmp_path):
    model = tmp_path / "m.npz"
    status, out, err = run(*small, "--epochs", 1, "--model", model, "--expect-sha256", "0" * 64)
    found = read_provenance(provenance_path(model))["parameters_sha256"]
    assert (status, read_provenance(provenance_path(model))["exit_status"]) == (65, 65)
    assert out.endswith(f"parameters sha256 {found}\n")
    remedy = "compare the options, data and versions of both runs"
    assert err == f"distnet: --expect-sha256 {'0' * 64}: the parameters have sha256 {found}; {remedy}\n"
    assert parameters_sha256(NeuralNetwork.load(model).parameters) == found
    assert "expect" not in (tmp_path / "m.toml").read_text()
    assert "expect_sha256" not in NeuralNetwork.load(model).about["config"]


@pytest.mark.parametrize("word", ["0" * 63, "0" * 65, "g" * 64, ""])
def test_what_is_no_sha256_is_refused_when_options_are_read(word):
    with pytest.raises(InputError, match="--expect-sha256: expected 64 hexadecimal digits, got "):
        read_config(["--expect-sha256", word])


def test_evaluate_prints_the_sha256_last_and_its_status_is_65_where_another_is_expected(first, digits, capsys):
    folder, _ = first
    found = read_provenance(folder / "m.run.json")["parameters_sha256"]
    for more, status in (((), 0), (("--expect-sha256", found.upper()), 0), (("--expect-sha256", "0" * 64), 65)):
        words = [str(folder / "m.npz"), "--data-dir", str(digits), *more]
        for form in ([], ["--json"]):
            options = evaluate_command.build_parser().parse_args(words + form)
            with Watchdog() as watchdog:
                ended = evaluate_command.evaluate(options, watchdog)
            out, err = capsys.readouterr()
            assert ended == status
            if form:
                assert json.loads(out)["parameters_sha256"] == found
            else:
                assert out.endswith(f"\nparameters sha256 {found}\n")
            line = f"distnet: --expect-sha256 {'0' * 64}: the parameters have sha256 {found}; "
            assert err.startswith(line if status else "")
            assert err.count("\n") == (status > 0)


def test_a_resumed_run_lists_where_each_session_began_and_ended(resumed):
    provenance, sha256 = resumed
    assert provenance["parameters_sha256"] == sha256
    sessions = provenance["sessions"]
    assert [(each["from_step"], each["to_step"], each["ranks"]) for each in sessions] == [(0, 5, 1), (5, 10, 2)]
    times = [time for each in sessions for time in (each["start"], each["end"])]
    assert times == sorted(times)
    assert [each["versions"]["mpi"] == "none" for each in sessions] == [True, False]


def test_a_checkpoint_has_the_session_that_wrote_it_and_those_before(first, resumed):
    newest, before = (read_checkpoint(path).header["sessions"] for path in checkpoints(first[0] / "run"))
    assert [each["to_step"] for each in newest] == [5, 10]
    assert [(each["from_step"], each["to_step"], each["ranks"]) for each in before] == [(0, 5, 1)]
    assert newest[0] == before[0]
    wanted = resumed[0]["sessions"][1]
    assert {**newest[1], "end": ""} == {**wanted, "end": ""}


def test_a_checkpoint_without_sessions_still_resumes(first, resumed, tmp_path):
    folder, arguments = first
    oldest = checkpoints(folder / "run")[-1]
    header, arrays = read_checkpoint(oldest)
    del header["sessions"]
    write_checkpoint(tmp_path / oldest.name, Checkpoint(header, arrays), 1)
    options = (*arguments, "--epochs", 2, "--model", tmp_path / "m.npz", "--checkpoint-dir", tmp_path, "--resume")
    assert run(*options)[0] == 0
    provenance = read_provenance(tmp_path / "m.run.json")
    assert provenance["parameters_sha256"] == resumed[1]
    assert [(each["from_step"], each["to_step"]) for each in provenance["sessions"]] == [(5, 10)]


@pytest.mark.parametrize("sessions", [None, {}, [1], [{"start": "today"}]])
def test_a_checkpoint_whose_sessions_are_damaged_is_refused(first, tmp_path, sessions):
    oldest = checkpoints(first[0] / "run")[-1]
    header, arrays = read_checkpoint(oldest)
    write_checkpoint(tmp_path / oldest.name, Checkpoint(header | {"sessions": sessions}, arrays), 1)
    with pytest.raises(InputError, match="its header is invalid"):
        read_checkpoint(tmp_path / oldest.name)


def test_a_model_that_cannot_be_written_keeps_the_provenance_of_the_one_before(small, first, tmp_path):
    model, path = tmp_path / "m.npz", tmp_path / "m.run.json"
    before = (first[0] / "m.run.json").read_bytes()
    path.write_bytes(before)
    status, _, err = run(*small, "--epochs", 1, "--model", model, on_epoch=lambda epoch: model.mkdir())
    assert (status, err.count("\n")) == (74, 1)
    assert path.read_bytes() == before


def test_nodes_that_differ_are_all_named():
    theirs = {"cpu": "another CPU", "numpy": "1.0"}
    comm = SimpleNamespace(allgather=lambda own: [own, {}, {**own, **theirs}])
    world = SimpleNamespace(size=3, nodes=2, node_rank=0, comm=comm, library="MPICH 5.0")
    (session,) = Sessions(world).until(1)
    assert session["cpu"].endswith("; another CPU")
    assert session["versions"]["numpy"] == f"{np.__version__}; 1.0"
    assert session["versions"]["python"] == platform.python_version()


@pytest.mark.parametrize(
    ("built", "shown"), [({"blas": {"name": "none"}}, "none"), ({"blas": {}}, "unknown"), ({}, "unknown")]
)
def test_a_numpy_that_names_no_blas_has_sessions_too(monkeypatch, built, shown):
    monkeypatch.setattr(np, "show_config", lambda mode: {"Build Dependencies": built})
    monkeypatch.setattr(blas, "find_libraries", list)
    (session,) = Sessions(World()).until(1)
    assert (session["versions"]["blas"], session["versions"]["kernels"]) == (shown, "unknown")


def test_a_comparison_names_what_differs_and_not_where_it_was_computed(first, resumed):
    then = read_provenance(first[0] / "m.run.json")
    assert compare_provenance(then, json.loads(json.dumps(then))) == {}
    now = json.loads(json.dumps(then))
    now["options"]["seed"] = 7
    now["data"] |= {"source": "elsewhere", "sha256": "0" * 64}
    now["sessions"][0] |= {"cpu": "another", "host": "elsewhere"}
    now["sessions"][0]["versions"] |= {"numpy": "9.9", "libm": "2"}
    session = then["sessions"][0]
    assert compare_provenance(then, now) == {
        "--seed": ("0", "7"),
        "data": (f"mnist, sha256 {then['data']['sha256']}", f"mnist, sha256 {'0' * 64}"),
        "cpu": (session["cpu"], "another"),
        "numpy": (session["versions"]["numpy"], "9.9"),
        "libm": ("none", "2"),
    }
    mpi = resumed[0]["sessions"][1]["versions"]["mpi"]
    expected = {"--epochs": ("1", "2"), "ranks": ("1", "1, then 2"), "mpi": ("none", f"none, then {mpi}")}
    assert compare_provenance(then, resumed[0]) == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "can't be read (No such file or directory)"),
        (b"", "is damaged or not a provenance file"),
        (b"[1]", "it is of another program"),
        (b'{"format": "mine"}', "it is of another program"),
        (b'{"format": "distnet run", "version": 2}', "it is of version 2, and this distnet reads version 1"),
        (b'{"format": "distnet run", "version": 1}', "its content is invalid"),
        (b"[" * 100_000, "is damaged or not a provenance file"),
        (b"\xff\xfe", "is damaged or not a provenance file"),
    ],
)
def test_a_file_that_is_no_provenance_is_refused_in_one_line(tmp_path, content, problem):
    path = tmp_path / "m.run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_provenance(path)
    assert problem in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_pipe_in_place_of_a_provenance_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.run.json")
    with pytest.raises(InputError, match=r"m\.run\.json: is damaged or .* \(it is a device or a pipe\); restore it$"):
        read_provenance(tmp_path / "m.run.json")


def test_a_provenance_without_one_of_its_parts_is_refused(first, tmp_path):
    content = (first[0] / "m.run.json").read_text()
    assert content.startswith(BEGINNING)
    whole = json.loads(content)
    for name in whole.keys() - {"format", "version"}:
        (tmp_path / "m.run.json").write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(InputError, match="its content is invalid"):
            read_provenance(tmp_path / "m.run.json")


def put(folder, **files):
    """Write files, whose names have __ for a slash."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


REPOSITORIES = {
    "a branch": {"HEAD": "ref: refs/heads/main\n", "refs__heads__main": f"{COMMIT}\n"},
    "a detached HEAD": {"HEAD": f"{COMMIT}\n", "refs__heads__main": f"{OTHER}\n"},
    "packed refs": {
        "HEAD": "ref: refs/heads/main\n",
        "packed_refs": f"# pack-refs with: peeled\n{OTHER} refs/heads/x\n{COMMIT} refs/heads/main\n^{OTHER}\n",
    },
}


@pytest.mark.parametrize("files", REPOSITORIES.values(), ids=REPOSITORIES)
def test_the_commit_of_a_checkout_is_read_from_its_git_files(tmp_path, files):
    put(tmp_path / ".git", **files)
    assert find_commit(tmp_path / "distnet") == COMMIT


@pytest.mark.parametrize("refs", ["refs__heads__side", "packed_refs"])
def test_a_worktree_has_its_own_head_and_the_branches_of_the_repository(tmp_path, refs):
    own, content = tmp_path / "main" / ".git" / "worktrees" / "side", f"{COMMIT}"
    put(own, HEAD="ref: refs/heads/side\n", commondir="../..\n")
    content += " refs/heads/side" if refs == "packed_refs" else ""
    put(tmp_path / "main" / ".git", HEAD="ref: refs/heads/main\n", refs__heads__main=OTHER, **{refs: content})
    put(tmp_path / "side", **{".git": f"gitdir: {own}\n"})
    assert find_commit(tmp_path / "side" / "distnet") == COMMIT


def test_the_commit_of_this_checkout_is_what_git_prints():
    expected = "unknown"
    if (ROOT / ".git").exists():
        words = ["git", "-c", "safe.directory=*", "-C", ROOT, "rev-parse", "HEAD"]
        expected = subprocess.check_output(words, text=True).strip()
    assert find_commit(ROOT / "distnet") == expected


@pytest.mark.parametrize(
    ("source", "commit"),
    [
        ({"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, COMMIT),
        ({"url": "file:///x", "dir_info": {"editable": True}}, "unknown"),
        ({"vcs_info": {"commit_id": "main"}}, "unknown"),
        ([], "unknown"),
        (None, "unknown"),
    ],
    ids=["from git", "from a folder", "no commit", "another form", "from an index"],
)
def test_the_commit_of_an_installed_package_is_the_one_that_pip_recorded(tmp_path, source, commit):
    folder = tmp_path / "distnet-0.2.0.dist-info"
    put(folder, METADATA="Metadata-Version: 2.1\nName: distnet\nVersion: 0.2.0\n")
    if source is not None:
        (folder / "direct_url.json").write_text(json.dumps(source))
    assert find_commit(tmp_path / "distnet") == commit


def test_a_damaged_checkout_has_no_commit(tmp_path):
    for head in ("", "ref: refs/heads/none\n", "ref: \n", "\xff\n"):
        put(tmp_path / ".git", HEAD=head)
        assert find_commit(tmp_path / "distnet") == "unknown"


def test_the_hash_of_the_source_is_of_the_names_and_contents_of_its_files(tmp_path):
    package = tmp_path / "distnet"
    (package / "part" / "__pycache__").mkdir(parents=True)
    (package / "a.py").write_text("1")
    (package / "part" / "b.toml").write_text("2")
    seen = [hash_source(package)]
    (package / "part" / "__pycache__" / "a.cpython.pyc").write_text("3")
    assert hash_source(package) == seen[0]
    (package / "a.py").write_text("4")
    seen.append(hash_source(package))
    Path(package / "a.py").rename(package / "c.py")
    seen.append(hash_source(package))
    assert len(set(seen)) == 3
