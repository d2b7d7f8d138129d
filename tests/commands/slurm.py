"""launch/slurm.sbatch on a real SLURM: python -m pytest tests/commands/slurm.py

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge (with Open MPI libpmix-dev, too). Starts a
munge, a controller and two nodes on this machine. All that they know and write is in one folder, which goes when
they do, so that an installation that is there isn't touched. Isn't one of the tests that `make test` collects, since it
asks for daemons, and for minutes.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, command

from distnet.runtime.processes import Processes, read

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
missing = [each for each in PROGRAMS if shutil.which(each) is None] or ["root"] * (os.geteuid() != 0)
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")

CONFIGURATION = """
ClusterName=distnet
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2
"""
TRAIN = ["--batch-size", "20", "--epochs", "60"]
OFTEN = ["--checkpoint-every", "10", "steps"]


def wait_for(what, seconds=60, why=lambda: ""):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"it didn't happen\n{why()}"
        time.sleep(0.1)
    return found


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Job:
    """A job that was submitted, in a folder of its own."""

    def __init__(self, slurm, folder, number):
        self.slurm, self.folder, self.number = slurm, folder, number

    def __getitem__(self, field):
        """What SLURM says of it now, such as JobState."""
        fields = self.slurm("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(each.partition("=")[::2] for each in fields)[field]

    def log(self):
        return "".join(path.read_text() for path in self.folder.glob("slurm-*.out"))

    def checkpoints(self):
        return list(self.folder.glob("runs/*/checkpoint-*"))

    def ended(self):
        """Its state, after it won't change any more, and the last line of its log."""
        wait_for(lambda: self["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), 240)
        return self["JobState"], self.log().splitlines()[-1]

    def start_again(self):
        """Without the two minutes that SLURM gives the last of a job which was requeued, but after that."""
        wait_for(lambda: self["JobState"] == "PENDING")
        name = f"slurmstepd: [{self.number}.".encode()
        wait_for(lambda: not any(read(each / "cmdline").startswith(name) for each in Path("/proc").glob("[0-9]*")))
        self.slurm("scontrol", "update", f"JobId={self.number}", "StartTime=now")


class Slurm:
    """Runs SLURM's commands."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.jobs = folder, environment, 0

    def __call__(self, *words, cwd=ROOT):
        done = subprocess.run(
            [*map(str, words)], cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, *options, train):
        self.jobs += 1
        folder = self.folder / f"job-{self.jobs}"
        folder.mkdir()
        words = ["sbatch", "--parsable", *options, ROOT / "launch" / "slurm.sbatch", *train]
        return Job(self, folder, self(*words, cwd=folder))


@pytest.fixture(scope="module")
def slurm():
    with Processes() as processes:
        folder = Path(processes.environment["TMPDIR"])
        configuration, key = folder / "slurm.conf", folder / "key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        (folder / "state").mkdir()
        host = socket.gethostname().partition(".")[0]
        configuration.write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(3)))
        environment = {name: value for name, value in processes.environment.items() if not name.startswith("SLURM")}
        environment |= {"SLURM_CONF": str(configuration), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "seed", "log")]
        daemons = []
        for words in (
            ["munged", "--foreground", "--force", f"--socket={folder}/socket", f"--key-file={key}", *files],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "node1"],
            ["slurmd", "-D", "-N", "node2"],
        ):
            with (folder / f"{words[0]}.out").open("a") as out:
                daemons.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
            wait_for((folder / "socket").exists)
        made = Slurm(folder, environment)
        try:
            sinfo = ("sinfo", "--noheader", "--Node", "--partition=normal", "--format=%T")
            wait_for(lambda: made(*sinfo).split() == ["idle", "idle"])
            yield made
            made("scancel", "--user=root")
            wait_for(lambda: made("squeue", "--noheader") == "")
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


@pytest.fixture(scope="module")
def alone(digits):
    """The last line of one process."""
    return command("--data-dir", digits, *TRAIN).out.splitlines()[-1]


@pytest.fixture
def job(slurm, digits):
    """A job of two nodes that has written a checkpoint and still runs."""
    made = slurm.submit("--nodes=2", "--ntasks-per-node=2", train=["--data-dir", digits, *TRAIN, *OFTEN])
    wait_for(made.checkpoints, why=made.log)
    assert made["JobState"] == "RUNNING"
    assert "4 ranks on 2 nodes" in made.log()
    return made


def test_a_job_ends_with_the_bits_of_one_process(job, alone):
    assert job.ended() == ("COMPLETED", alone)
    assert job["Restarts"] == "0"


def test_a_job_that_gives_way_to_another_is_requeued_and_ends_with_the_same_bits(slurm, job, alone):
    other = slurm("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--wrap=true", cwd=job.folder)
    wait_for(lambda: job["Restarts"] == "1")
    assert "stopped in epoch" in job.log()
    wait_for(lambda: Job(slurm, job.folder, other)["JobState"] == "COMPLETED")
    job.start_again()
    assert job.ended() == ("COMPLETED", alone)
    assert "resumed from" in job.log()


def test_a_job_comes_again_when_its_time_is_over(slurm, digits):
    train = ["--data-dir", digits, "--batch-size", "20", "--epochs", "100000"]
    job = slurm.submit("--ntasks-per-node=2", "--time=2", "--signal=B:USR1@90", train=[*train, *OFTEN])
    wait_for(lambda: job["Restarts"] == "1", 120)
    assert "stopped in epoch" in job.log()
    slurm("scontrol", "update", f"JobId={job.number}", "TimeLimit=30")
    job.start_again()
    wait_for(lambda: "resumed from" in job.log())
    slurm("scancel", job.number)


def test_a_job_whose_node_goes_down_is_requeued_and_ends_with_the_same_bits(slurm, job, alone):
    slurm("scontrol", "update", "NodeName=node2", "State=down", "Reason=test")
    wait_for(lambda: job["Restarts"] == "1")
    slurm("scontrol", "update", "NodeName=node2", "State=resume")
    job.start_again()
    assert job.ended() == ("COMPLETED", alone)


def test_a_rank_that_is_killed_costs_no_requeue(job, alone):
    def is_it(process):
        environment = read(process / "environ").split(b"\0")
        return {f"SLURM_JOB_ID={job.number}".encode(), b"SLURM_PROCID=3"} <= set(environment)

    ranks = [int(each.name) for each in Path("/proc").glob("[0-9]*") if is_it(each)]
    assert len(ranks) == 1
    os.kill(ranks[0], signal.SIGKILL)
    assert job.ended() == ("COMPLETED", alone)
    assert "attempt 1: 4 ranks" in job.log()
    assert job["Restarts"] == "0"


def test_a_job_that_is_cancelled_saves_and_does_not_come_again(slurm, job):
    slurm("scancel", job.number)
    assert job.ended()[0] == "CANCELLED"
    assert "stopped in epoch" in job.log()
    assert job["Restarts"] == "0"


def test_every_task_of_an_array_trains_a_preset_in_a_folder_of_its_own(slurm, digits):
    train = ["--data-dir", digits, "--epochs", "1", "--train-limit", "200"]
    array = slurm.submit("--array=0-2", "--ntasks-per-node=1", train=train)
    wait_for(lambda: slurm("squeue", "--noheader") == "", 120)
    names = {path.name for path in array.folder.glob("runs/*") if (path / "completed.json").exists()}
    assert names == {f"{array.number}-{preset}" for preset in ("mnist", "wide", "fashion")}, array.log()


def test_the_speed_up_is_measured_on_the_nodes_of_the_job(slurm, digits, tmp_path):
    speedup = f"{sys.executable} -m distnet.speedup --json --data-dir {digits} --epochs 3"
    words = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2", f"--wrap={speedup}"]
    job = Job(slurm, tmp_path, slurm(*words, cwd=tmp_path))
    state, last = job.ended()
    assert state == "COMPLETED", job.log()
    found = json.loads(last)
    assert [(each["ranks"], each["nodes"]) for each in found["measurements"]] == [(1, 1), (2, 1), (4, 2)]
    assert found["same_bits"]


def test_ranks_have_a_core_each(slurm):
    show = "taskset -cp $$"
    out = slurm("srun", "--cpu-bind=cores", "--nodes=1", "--ntasks=2", "bash", "-c", show)
    assert sorted(line.rpartition(" ")[2] for line in out.splitlines()) == ["0", "1"]
