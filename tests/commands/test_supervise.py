"""The supervisor restarts what can go on, gives up on what can't, obeys signals and leaves nothing behind."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers import alive, command, end, fault, mpirun, start

# Stands in for mpirun and what it starts: every attempt runs the next piece of code, the last one again and again.
FAKE = """
import json, mmap, os, signal, subprocess, sys, time
from pathlib import Path

arguments = sys.argv[1:]
if "--version" in arguments:
    print(os.environ.get("FAKE_VERSION", "HYDRA"))
    sys.exit()
if arguments[-1] == "true":  # a probe
    time.sleep(60 if "silent" in arguments[1] else 0)
    sys.exit("gone" in arguments[1])
folder = Path(arguments[arguments.index("--checkpoint-dir") + 1])
folder.mkdir(exist_ok=True)
log = folder.parent / "attempts"
with log.open("a") as file:
    print(*arguments, file=file)

def checkpoint(step):
    (folder / f"checkpoint-{step:010}.npz").touch()

def complete():
    (folder / "completed.json").unlink(missing_ok=True)
    (folder / "completed.json").write_text("{}")

def leave(code, *words):
    "Start a process that nobody waits for, in a session of its own."
    subprocess.Popen([sys.executable, "-c", code, *words], start_new_session=True)
    time.sleep(0.5)

pieces = json.loads(os.environ["FAKE_ATTEMPTS"])
exec(pieces[min(len(log.read_text().splitlines()), len(pieces)) - 1])
"""
OBEY = "signal.signal(signal.SIGUSR1, lambda *_: (print('told'), sys.exit(75))); checkpoint(1); time.sleep(60)"


@pytest.fixture
def supervise(tmp_path):
    """Starts a supervisor whose attempts run these pieces of code."""
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)

    def run(*pieces, options=(), train=(), **env):
        return start(
            *("-n", 4, "--mpirun", f"{sys.executable} {fake}", *options),
            *("--", "--checkpoint-dir", tmp_path / "checkpoints", *train),
            module="distnet.supervise",
            env={"FAKE_ATTEMPTS": json.dumps(pieces), "TMPDIR": str(tmp_path), **env},
        )

    return run


@pytest.fixture
def attempts(tmp_path):
    """What mpirun was started with, time after time."""
    log = tmp_path / "attempts"
    return lambda: log.read_text().splitlines() if log.exists() else []


def wait_for(what, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.02)
    return found


def test_a_training_that_completes_is_run_once(supervise, attempts):
    ended = end(supervise("print('trained'); complete()", train=["--epochs", "3"]), 20)
    assert (ended.status, ended.out, ended.err) == (0, "trained\n", "")
    assert len(attempts()) == 1
    assert attempts()[0].startswith(f"-n 4 {sys.executable} -m distnet.train")
    assert attempts()[0].endswith("--epochs 3")


def test_a_failure_is_followed_by_a_restart_from_the_newest_checkpoint(supervise, attempts):
    ended = end(supervise("checkpoint(10); sys.exit(9)", "complete()"), 20)
    assert ended.status == 0
    assert [each.endswith("--resume") for each in attempts()] == [False, True]
    assert "attempt 1: 4 ranks" in ended.err
    assert "status 9; the newest checkpoint is of step 10; once more\n" in ended.err


def test_as_long_as_there_is_no_newer_checkpoint_it_starts_as_it_was_told(supervise, attempts):
    ended = end(supervise("sys.exit(9)", "complete()", train=["--resume", "mine.npz"]), 20)
    assert ended.status == 0
    assert [each.endswith("--resume mine.npz") for each in attempts()] == [True, True]


def test_after_restarts_without_progress_it_gives_up_and_reports(supervise, attempts, tmp_path):
    failure = "(folder / f'failure-host-0-{os.getpid()}.txt').touch(); sys.exit(7)"
    ended = end(supervise(failure, f"checkpoint(5); {failure}", failure, options=["--max-restarts", 1]), 30)
    assert ended.status == 7
    assert len(attempts()) == 3  # the second got further, the third was the one restart that may not
    report = ended.err[ended.err.index("gave up after 3 attempts") :]
    assert all(f"attempt {number}: 4 ranks" in report for number in (1, 2, 3))
    assert f"checkpoint {tmp_path}/checkpoints/checkpoint-0000000005.npz" in report
    assert report.count(f"failure {tmp_path}/checkpoints/failure-host-0-") == 3


def test_restarts_that_get_further_are_not_counted_and_not_waited_for(supervise, attempts):
    further = "checkpoint(len(log.read_text().splitlines())); sys.exit(1)"
    ended = end(supervise(*[further] * 8, "complete()", options=["--max-restarts", 1]), 30)
    assert (ended.status, len(attempts())) == (0, 9)
    assert " in " not in ended.err


def test_the_wait_doubles_while_restarts_get_nowhere(supervise):
    ended = end(supervise("sys.exit(1)", options=["--max-restarts", 2]), 30)
    waits = [line.rpartition(" in ")[2] for line in ended.err.splitlines() if "once more" in line]
    assert waits == ["1 s", "2 s"]


@pytest.mark.parametrize("status", [2, 65, 70], ids=["bad input", "another sha256", "a loss that is NaN"])
def test_what_would_only_come_again_is_not_tried_again(supervise, attempts, status):
    ended = end(supervise(f"sys.stderr.write('distnet: no such thing\\n'); sys.exit({status})"), 20)
    assert (ended.status, ended.err, len(attempts())) == (status, "distnet: no such thing\n", 1)


def test_a_job_that_somebody_else_stopped_goes_on(supervise, attempts):
    ended = end(supervise("checkpoint(3); sys.exit(75)", "complete()"), 20)
    assert (ended.status, len(attempts())) == (0, 2)


def test_status_0_without_a_completion_record_of_its_own_is_a_failure(supervise, attempts, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "completed.json").write_text("an older one")
    ended = end(supervise("checkpoint(1)", "complete()"), 20)
    assert (ended.status, len(attempts())) == (0, 2)
    assert "status 0 without a completion record" in ended.err
    ended = end(supervise("pass", options=["--max-restarts", 0]), 20)
    assert ended.status == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_the_outcome_is_the_jobs(supervise, attempts, tmp_path, number):
    supervisor = supervise(OBEY)
    wait_for(lambda: list(tmp_path.glob("checkpoints/checkpoint-*")))
    supervisor.send_signal(number)
    ended = end(supervisor, 20)
    assert (ended.status, ended.out, len(attempts())) == (75, "told\n", 1)


def test_a_request_to_stop_that_got_lost_is_repeated(supervise, tmp_path):
    late = "told = []; signal.signal(signal.SIGUSR1, lambda *_: (told.append(1), len(told) == 3 and sys.exit(75)))"
    supervisor = supervise(f"{late}; checkpoint(1); time.sleep(60); time.sleep(60); time.sleep(60)")
    wait_for(lambda: list(tmp_path.glob("checkpoints/checkpoint-*")))
    supervisor.send_signal(signal.SIGTERM)
    assert end(supervisor, 20).status == 75


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ("sys.exit(11)", 75),
        ("os.kill(os.getpid(), signal.SIGUSR1)", 75),
        ("sys.exit(0)", 75),
        ("complete(); sys.exit(0)", 0),
        ("sys.exit(2)", 2),
        ("sys.exit(74)", 74),
    ],
)
def test_a_job_that_was_asked_to_stop_can_be_resumed_whatever_the_statuses_of_its_ranks_add_up_to(
    supervise, attempts, tmp_path, ends, status
):
    """Unless that is final: complete, bad input, a checkpoint that can't be written."""
    obey = f"def told(*_):\n    signal.signal(signal.SIGUSR1, signal.SIG_DFL); {ends}\n"
    supervisor = supervise(f"{obey}signal.signal(signal.SIGUSR1, told); checkpoint(1); time.sleep(60)")
    wait_for(lambda: list(tmp_path.glob("checkpoints/checkpoint-*")))
    supervisor.send_signal(signal.SIGTERM)
    ended = end(supervisor, 20)
    assert (ended.status, len(attempts())) == (status, 1)
    assert ("run it again with --checkpoint-dir" in ended.err) == (status == 75)


def test_a_signal_before_the_ranks_listen_leaves_a_run_that_can_be_resumed(supervise, attempts):
    supervisor = supervise("time.sleep(60)")
    wait_for(attempts)
    supervisor.send_signal(signal.SIGTERM)
    assert end(supervisor, 20).status == 75


def test_a_signal_between_two_attempts_ends_the_wait(supervise, attempts):
    supervisor = supervise("sys.exit(1)", "time.sleep(60)", options=["--max-restarts", 9])
    wait_for(lambda: len(attempts()) == 1)
    time.sleep(0.5)
    supervisor.send_signal(signal.SIGTERM)
    assert end(supervisor, 20).status == 75


def test_a_second_ctrl_c_ends_all_at_once(supervise, tmp_path):
    deaf = "signal.signal(signal.SIGUSR1, signal.SIG_IGN); leave('import time; time.sleep(60)'); checkpoint(1)"
    supervisor = supervise(f"{deaf}; time.sleep(60)")
    wait_for(lambda: list(tmp_path.glob("checkpoints/checkpoint-*")))
    supervisor.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGINT)
    assert end(supervisor, 20).status == 130


def test_ranks_are_told_to_stop_when_the_supervisor_itself_is_killed(supervise, tmp_path):
    supervisor = supervise(OBEY)
    wait_for(lambda: list(tmp_path.glob("checkpoints/checkpoint-*")))
    supervisor.kill()
    assert end(supervisor, 20).out == "told\n"


@pytest.mark.parametrize(
    "sign",
    [
        "(folder / 'failure-host-1-2.txt').touch()",
        "leave('import time; time.sleep(4)', 'distnet.train'); leave('import time; time.sleep(60)', 'distnet.train')",
    ],
    ids=["a rank reported its failure", "a rank is gone"],
)
def test_an_mpirun_that_waits_for_a_lost_host_is_ended(supervise, attempts, sign):
    ended = end(supervise(f"checkpoint(1); {sign}; time.sleep(60)", "complete()"), 40)
    assert (ended.status, len(attempts())) == (0, 2)
    assert "a rank ended, and mpirun didn't" in ended.err


def test_nothing_is_left_behind_and_nothing_of_others_is_removed(supervise, tmp_path):
    """Of what a rank has mapped, only an MPI's segments go that were not there before it started."""
    memory = Path("/dev/shm")
    segment, older = (memory / f"mpich_shm_distnet-{os.getpid()}-{name}" for name in ("new", "older"))
    environment = memory / f"distnet-test-{os.getpid()}"
    library = environment / "lib" / "mpich_shm_library.so"
    library.parent.mkdir(parents=True)
    for path in (older, library):
        path.write_bytes(bytes(4096))
    paths = [str(segment), str(older), str(library)]
    map_them = "import mmap, sys, time; files = [open(path, 'a+b') for path in sys.argv[1:]]; files[0].truncate(4096); "
    map_them += "maps = [mmap.mmap(file.fileno(), 4096) for file in files]; time.sleep(60)"
    piece = f"leave({map_them!r}, *{paths}); (folder / '.checkpoint-0000000001.npz.x').touch()"
    piece += f"; assert Path({str(segment)!r}).exists(); import tempfile; tempfile.mkstemp(); sys.exit(2)"
    try:
        assert end(supervise(piece), 20).status == 2
        assert not segment.exists()
        assert older.exists()
        assert library.exists()
        assert alive() == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["attempts", "checkpoints", "fake.py"]
        assert list((tmp_path / "checkpoints").iterdir()) == []
    finally:
        segment.unlink(missing_ok=True)
        older.unlink()
        shutil.rmtree(environment)


@pytest.mark.parametrize(("version", "option"), [("HYDRA", "-hosts"), ("mpirun (Open MPI) 5.0.11", "--host")])
def test_hosts_that_do_not_answer_are_left_out(supervise, attempts, version, option):
    ended = end(supervise("complete()", options=["--hosts", "a:2,silent:1,gone:9,b:1"], FAKE_VERSION=version), 30)
    assert ended.status == 0
    assert ended.err == "distnet: host silent doesn't answer\ndistnet: host gone doesn't answer\n"
    assert attempts()[0].startswith(f"{option} a:2,b:1 -n 3 ")


@pytest.mark.parametrize(
    ("train", "shards"),
    [
        ([], ""),
        (["--arithmetic", "portable"], ""),
        (["--arithmetic", "native"], " --shards 6"),
        (["--arithmetic", "native", "--shards", "8"], ""),
    ],
    ids=" ".join,
)
def test_fewer_ranks_compute_what_all_would_have(supervise, attempts, train, shards):
    """Only native arithmetic needs a number of shards for it."""
    options = ["-n", 6, "--hosts", "a:4,gone:2"]
    assert end(supervise("complete()", options=options, train=train), 30).status == 0
    assert attempts()[0].startswith("-hosts a:4 -n 4 ")
    assert attempts()[0].endswith(" ".join(["checkpoints", *train]) + shards)


# Stands in for an mpirun whose host b is lost after the first attempt, in which rank 1 dies.
FEWER = """
import os, sys
from pathlib import Path

places, hosts, n, count, *command = sys.argv[1:]
log = Path({log!r})
if command == ["true"]:  # a probe
    sys.exit(log.exists() and hosts.startswith("b"))
if log.exists():
    del os.environ["DISTNET_FAULT"]
with log.open("a") as file:
    print(count, file=file)
os.execvp({mpirun!r}, [{mpirun!r}, n, count, *command])
"""


@pytest.mark.parametrize("arithmetic", ["portable", "native"])
def test_a_run_that_loses_ranks_goes_on_with_the_same_bits(digits, tmp_path, arithmetic):
    train = ["--data-dir", digits, "--batch-size", 50, "--epochs", 2, "--quiet", "--arithmetic", arithmetic]
    launcher = tmp_path / "launcher.py"
    launcher.write_text(FEWER.format(mpirun=mpirun(), log=str(tmp_path / "ranks")))
    options = ["-n", 3, "--hosts", "a:2,b:1", "--mpirun", f"{sys.executable} {launcher}", "--max-restarts", 1, "--"]
    keep = ["--checkpoint-dir", tmp_path / "run", "--checkpoint-every", 3, "steps"]
    ended = command(*options, *train, *keep, module="distnet.supervise", env=fault("SIGKILL", 1, 9))
    assert ended.status == 0, ended.err
    assert (tmp_path / "ranks").read_text().split() == ["3", "2"]
    assert "the newest checkpoint is of step" in ended.err
    shards = [] if arithmetic == "portable" else ["--shards", 3]
    assert ended.sha256 == command(*train, *shards).sha256


def test_it_does_not_start_with_fewer_ranks_than_will_do(supervise, attempts):
    options = ["--hosts", "a:2,gone:2", "--min-ranks", 3, "--max-restarts", 0]
    ended = end(supervise("complete()", options=options), 30)
    assert (ended.status, attempts()) == (1, [])
    assert "2 ranks" in ended.err
    assert "not started, since --min-ranks is 3" in ended.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-n", "2", "--"], "--checkpoint-dir"),
        (["-n", "2"], "--checkpoint-dir"),
        (
            ["-n", "2", "--", "--checkpoint-dir", "x", "--epochs", "many"],
            "--epochs: expected a positive integer, got 'many'",
        ),
        (["-n", "2", "--epochs", "5"], "--epochs: is an option of distnet.train; put it after `--`"),
        (["-n", "2", "--epochs=5"], "--epochs: is an option of distnet.train; put it after `--`"),
        (["-n", "2", "--max-restart", "5"], "there is no such option; did you mean --max-restarts?"),
        (["-n", "0", "--", "--checkpoint-dir", "x"], "-n: expected a positive integer, got '0'"),
        (["--", "--checkpoint-dir", "x"], "-n"),
        (["-n", "2", "--hosts", "a", "--", "--checkpoint-dir", "x"], "--hosts: 'a'"),
        (["-n", "2", "--min-ranks", "3", "--", "--checkpoint-dir", "x"], "--min-ranks 3"),
        (["-n", "2", "--mpirun", "/no/such", "--", "--checkpoint-dir", "x"], "--mpirun /no/such"),
        (["-n", "2", "--hosts", "a:1", "--mpirun", "/no/such", "--", "--checkpoint-dir", "x"], "--mpirun /no/such"),
    ],
)
def test_bad_options_are_one_line(arguments, told, tmp_path):
    ended = command(*arguments, module="distnet.supervise", cwd=tmp_path)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith("distnet: ")
    assert told in ended.err
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_option():
    ended = command("--help", module="distnet.supervise")
    assert ended.status == 0
    assert all(option in ended.out for option in ("-n", "--max-restarts", "--min-ranks", "--hosts", "--mpirun"))


def test_help_after_the_dashes_is_that_of_training():
    ended = command("-n", "2", "--", "--checkpoint-dir", "x", "--help", module="distnet.supervise")
    assert (ended.status, ended.out) == (0, command("--help").out)


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(digits, tmp_path):
    train = ["--data-dir", digits, "--batch-size", "20", "--epochs", "20"]
    supervised = ["-n", 3, "--", *train, "--checkpoint-dir", tmp_path, "--checkpoint-every", "10", "steps", "--resume"]
    supervisor = start(*supervised, module="distnet.supervise")
    wait_for(lambda: list(tmp_path.glob("checkpoint-*")))
    supervisor.send_signal(signal.SIGTERM)
    stopped = end(supervisor, 60)
    assert stopped.status == 75, stopped.err
    assert not (tmp_path / "completed.json").exists()
    ended = command(*supervised, module="distnet.supervise")
    assert ended.status == 0, ended.err
    assert ended.sha256 == command(*train).sha256
    assert json.loads((tmp_path / "completed.json").read_text())["parameters_sha256"] == ended.sha256


ONE_TASK = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}


def test_one_task_of_slurm_is_no_launcher(supervise, attempts):
    """An interactive `srun --pty bash`, on a cluster whose srun gives its tasks PMI, too."""
    ended = end(supervise("complete()", **ONE_TASK, PMI_SIZE="1", PMI_RANK="0"), 20)
    assert (ended.status, ended.err, len(attempts())) == (0, "", 1)


@pytest.mark.parametrize(
    "environment",
    [{"PMI_SIZE": "2", "PMI_RANK": "0"}, {"OMPI_COMM_WORLD_SIZE": "1"}, ONE_TASK | {"PMI_SIZE": "2", "PMI_RANK": "0"}],
)
def test_a_supervisor_that_mpirun_started_refuses(environment):
    ended = command("-n", 2, "--", "--checkpoint-dir", "a", module="distnet.supervise", env=environment)
    assert (ended.status, ended.out) == (2, "")
    assert "mpirun started it, and it starts mpirun itself; start it without mpirun" in ended.err


def test_a_run_that_is_complete_but_for_a_file_that_cannot_be_written_is_not_tried_again(supervise, attempts):
    ended = end(supervise("checkpoint(1); complete(); sys.exit(74)"), 20)
    assert ended.status == 74
    assert len(attempts()) == 1


def test_a_run_whose_last_checkpoint_could_not_be_written_is_tried_again(supervise, attempts):
    ended = end(supervise("checkpoint(1); sys.exit(74)", "checkpoint(2); complete()"), 20)
    assert ended.status == 0
    assert len(attempts()) == 2
