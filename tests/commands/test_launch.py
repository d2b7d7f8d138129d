"""launch/: every launcher starts the supervisor, and what runs here without a cluster gives the bits of one process.

The clusters' commands are stand-ins. tests/commands/slurm.py has a real SLURM.
"""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import MARK, ROOT, command, end, mpirun, read_metrics
from test_supervise import wait_for

LAUNCH = ROOT / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "pbs.sh")
TRAIN = ["--batch-size", "20", "--epochs", "20"]
OFTEN = ["--checkpoint-every", "10", "steps"]
LONG = ["--batch-size", "20", "--epochs", "100000", *OFTEN]

# What of it the job uses, from pkg/apis/kubeflow/v2beta1/types.go of github.com/kubeflow/mpi-operator.
MPI_JOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "kubeflow.org/v2beta1"},
        "kind": {"const": "MPIJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["mpiReplicaSpecs"],
            "properties": {
                "slotsPerWorker": {"type": "integer", "minimum": 1},
                "mpiImplementation": {"enum": ["OpenMPI", "Intel", "MPICH"]},
                "sshAuthMountPath": {"type": "string"},
                "launcherCreationPolicy": {"enum": ["AtStartup", "WaitForWorkersReady"]},
                "runLauncherAsWorker": {"type": "boolean"},
                "runPolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"cleanPodPolicy": {"enum": ["None", "Running", "All"]}},
                },
                "mpiReplicaSpecs": {
                    "type": "object",
                    "required": ["Launcher", "Worker"],
                    "additionalProperties": False,
                    "patternProperties": {
                        "^(Launcher|Worker)$": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "replicas": {"type": "integer"},
                                "restartPolicy": {"enum": ["Never", "OnFailure"]},
                                "template": {"type": "object"},
                            },
                        }
                    },
                },
            },
        },
    },
}


@pytest.fixture
def launch(tmp_path):
    """Starts a launcher in a folder, with stand-ins on the PATH; whatever it asks of them goes to the file `asked`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    asked = f'printf "%s " "$(basename "$0")" "$@" >> {tmp_path}/asked; echo >> {tmp_path}/asked'
    for name, code in {
        "srun": f'{asked}\nwhile [ "$1" != -n ]; do shift; done\nexec {mpirun()} "$@"',
        "scontrol": asked,
        "qsub": f'{asked}\nfor each; do echo "$each" >> {tmp_path}/qsub; done',
        "qstat": "echo '    Resource_List.walltime = 00:30:00'",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{code}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "launch").symlink_to(LAUNCH)

    def start(script, *arguments, **environment):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PMI", "MPI", "HYDRA"))},
            **{"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, MARK: str(os.getpid())},
            **{"PATH": f"{programs}:{os.environ['PATH']}", **environment},
        }
        return subprocess.Popen(
            ["bash", LAUNCH / script, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def checkpoints(tmp_path):
    """Those of all runs in the folder."""
    return lambda: list(tmp_path.glob("runs/*/checkpoint-*"))


@pytest.fixture
def asked(tmp_path):
    """What stand-ins were asked for, but for srun."""

    def read():
        lines = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
        return [line.strip() for line in lines if not line.startswith("srun")]

    return read


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_launcher_is_a_script_that_bash_can_parse(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)


@pytest.mark.parametrize("launcher", [*SCRIPTS, "kubernetes.yaml", "Dockerfile", "apptainer.def"])
def test_every_launcher_starts_the_supervisor_and_gives_a_rank_one_blas_thread(launcher):
    text = (LAUNCH / launcher).read_text()
    assert re.search(r"^[^#]*-m\W+distnet\.supervise", text, re.MULTILINE)
    assert re.search(r"--checkpoint-dir\W.*--resume", text)
    assert re.findall(r'(\w+)_NUM_THREADS(?:=|, value: ")1\b', text) == ["OMP", "OPENBLAS", "MKL"]


def test_local_sh_trains_with_the_bits_of_one_process(launch, digits, checkpoints):
    ended = end(launch("local.sh", "--data-dir", digits, *TRAIN, "--quiet", RANKS="3"), 60)
    assert ended.status == 0, ended.err
    assert ended.out == command("--data-dir", digits, *TRAIN, "--quiet").out
    assert len({path.parent for path in checkpoints()}) == 1


def test_local_sh_loses_a_rank_and_ends_with_the_same_bits(launch, digits, checkpoints, tmp_path):
    running = launch("local.sh", "--data-dir", digits, *TRAIN, *OFTEN, "--metrics", "metrics.jsonl", RANKS="3")
    wait_for(checkpoints)
    os.kill(next(ranks(running)), signal.SIGKILL)
    ended = end(running, 60)
    assert ended.status == 0, ended.err
    assert "attempt 1: 3 ranks" in ended.err
    assert ended.sha256 == command("--data-dir", digits, *TRAIN).sha256
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 20


def ranks(launcher):
    """The processes that train in a launcher's folder."""
    here = os.readlink(f"/proc/{launcher.pid}/cwd")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"python") and b"distnet.train" in words and os.readlink(process / "cwd") == here:
                yield int(process.name)
        except OSError:
            continue


def test_local_sh_goes_on_in_a_folder_that_is_named(launch, digits, tmp_path):
    arguments = ["--checkpoint-dir", tmp_path / "mine", "--data-dir", digits, *OFTEN, "--batch-size", "20"]
    running = launch("local.sh", *arguments, "--epochs", "20", RANKS="2")
    wait_for(lambda: list(tmp_path.glob("mine/checkpoint-*")))
    running.send_signal(signal.SIGINT)
    assert end(running, 60).status == 75
    ended = end(launch("local.sh", *arguments, "--epochs", "20", RANKS="3"), 60)
    assert "resumed from" in ended.out
    assert ended.sha256 == command("--data-dir", digits, *TRAIN).sha256
    assert not (tmp_path / "runs").exists()


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3"}


def test_slurm_sbatch_comes_again_when_its_time_is_over_and_ends_with_the_same_bits(launch, digits, checkpoints, asked):
    arguments = ["--data-dir", digits, *TRAIN, *OFTEN]
    running = launch("slurm.sbatch", *arguments, **SLURM)
    wait_for(checkpoints)
    running.send_signal(signal.SIGUSR1)
    assert end(running, 60).status == 0  # scontrol's
    assert asked() == ["scontrol requeue 7"]
    ended = end(launch("slurm.sbatch", *arguments, **SLURM), 60)
    assert ended.status == 0, ended.err
    assert "resumed from runs/7/" in ended.out
    assert ended.sha256 == command("--data-dir", digits, *TRAIN).sha256
    assert asked() == ["scontrol requeue 7"]


def test_slurm_sbatch_that_is_told_at_once_comes_again(launch, digits, asked):
    running = launch("slurm.sbatch", "--data-dir", digits, *LONG, **SLURM)
    wait_for(lambda: children(running.pid))
    running.send_signal(signal.SIGUSR1)
    assert end(running, 60).status == 0
    assert asked() == ["scontrol requeue 7"]


def test_slurm_sbatch_that_is_cancelled_saves_and_does_not_come_again(launch, digits, checkpoints, asked):
    running = launch("slurm.sbatch", "--data-dir", digits, *LONG, **SLURM)
    wait_for(checkpoints)
    running.send_signal(signal.SIGTERM)
    ended = end(running, 60)
    assert ended.status == 75
    assert "checkpoint written" in ended.err
    assert asked() == []


def test_slurm_sbatch_does_not_come_again_after_bad_input(launch, asked):
    ended = end(launch("slurm.sbatch", "--epochs", "many", **SLURM), 60)
    assert (ended.status, asked()) == (2, [])
    assert ended.err.startswith("distnet: --epochs: expected a positive integer, got 'many'")


def test_an_array_has_every_preset_but_that_of_tables(launch, digits):
    presets = re.search(r"^presets=\((.*)\)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)[1].split()
    assert {*presets, "table"} == {path.stem for path in (ROOT / "distnet" / "config" / "presets").glob("*.toml")}
    task = {**SLURM, "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "1"}
    ended = end(launch("slurm.sbatch", "--data-dir", digits, "--epochs", "1", **task), 60)
    assert "784-800-10 " in ended.out  # the preset wide
    assert f"no checkpoint in runs/6-{presets[1]}:" in ended.err


@pytest.mark.parametrize(
    ("task", "arguments", "told"),
    [
        ("6", [], "there are presets 0 to 5"),
        ("0", ["--preset", "best"], "--preset"),
        ("0", ["--checkpoint-dir", "x"], ""),
    ],
)
def test_a_task_of_an_array_that_cannot_be_is_one_line(launch, task, arguments, told):
    ended = end(launch("slurm.sbatch", *arguments, **SLURM, SLURM_ARRAY_JOB_ID="6", SLURM_ARRAY_TASK_ID=task), 20)
    assert (ended.status != 0, ended.err.count("\n")) == (True, 1)
    assert told in ended.err


@pytest.fixture
def pbs(tmp_path):
    """The environment of a job of three ranks on this host."""
    (tmp_path / "nodes").write_text("localhost\n" * 3)
    return {"PBS_JOBID": "7.server", "PBS_O_WORKDIR": str(tmp_path), "PBS_NODEFILE": str(tmp_path / "nodes")}


def test_pbs_sh_submits_itself_when_its_time_is_over_and_ends_with_the_same_bits(
    launch, pbs, digits, checkpoints, tmp_path
):
    arguments = " ".join(["--data-dir", str(digits), *TRAIN, *OFTEN])
    running = launch("pbs.sh", **pbs, ARGS=arguments)
    wait_for(checkpoints)
    (timeout,) = children(running.pid)
    os.kill(timeout, signal.SIGUSR1)  # which does then what it does when the time is over
    first = end(running, 60)
    assert (first.status, "checkpoint written" in first.err) == (0, True), first.err
    option, variables, script = (tmp_path / "qsub").read_text().splitlines()
    assert (option, script) == ("-v", "launch/pbs.sh")
    given = dict(each.split("=", 1) for each in variables.split(","))
    second = end(launch("pbs.sh", **pbs | {"PBS_JOBID": "8"} | given), 60)
    assert second.status == 0, second.err
    assert "3 ranks on 1 node" in second.out
    assert "resumed from runs/7.server/" in second.out
    assert second.sha256 == command("--data-dir", digits, *TRAIN).sha256
    assert len((tmp_path / "qsub").read_text().splitlines()) == 3


def test_pbs_sh_that_is_deleted_saves_and_does_not_submit_itself(launch, pbs, digits, checkpoints, asked):
    running = launch("pbs.sh", **pbs, ARGS=f"--data-dir {digits} {' '.join(LONG)}")
    wait_for(checkpoints)
    os.killpg(running.pid, signal.SIGTERM)
    for timeout in children(running.pid):  # PBS tells all processes of a job
        os.kill(timeout, signal.SIGTERM)
    ended = end(running, 60)
    assert (ended.status, asked()) == (75, [])
    assert "checkpoint written" in ended.err


def children(parent):
    """Ids of the processes that a process started and hasn't waited for."""
    return [int(each) for each in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.parametrize(("walltime", "seconds"), [({}, 1680), ({"PBS_WALLTIME": "7200"}, 7080)])
def test_pbs_sh_counts_the_ranks_of_each_host_and_the_seconds(launch, pbs, tmp_path, walltime, seconds):
    (tmp_path / "nodes").write_text("b\nb\na\nb\n")
    stand_in = tmp_path / "programs" / "timeout"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    ended = end(launch("pbs.sh", **pbs, **walltime, PYTHON="python"), 20)
    supervisor = "python -m distnet.supervise -n 4 --hosts b:3,a:1 -- --checkpoint-dir runs/7.server --resume"
    assert ended.out == f"--preserve-status --signal=USR1 {seconds} {supervisor}\n"


@pytest.fixture
def documents():
    """The documents of kubernetes.yaml: the claim and the job."""
    yaml = pytest.importorskip("yaml", reason="needs the extra test")
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


def test_the_kubernetes_job_is_what_its_schemas_say(documents):
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra test")
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra test")
    claim, job = documents
    kubernetes_validate.validate(claim, "1.30", strict=True)
    jsonschema.validate(job, MPI_JOB)
    for replica in job["spec"]["mpiReplicaSpecs"].values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, **replica["template"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)


def test_the_ranks_of_the_kubernetes_job_fit_its_workers(documents):
    claim, job = documents
    launcher, worker = (job["spec"]["mpiReplicaSpecs"][name] for name in ("Launcher", "Worker"))
    (starts,), (works,) = launcher["template"]["spec"]["containers"], worker["template"]["spec"]["containers"]
    slots = job["spec"]["slotsPerWorker"]
    assert re.search(r"-n (\d+)", starts["command"][2])[1] == str(slots * worker["replicas"])
    assert works["resources"]["limits"]["cpu"] == str(slots)
    assert {"/runs", "/dev/shm"} == {each["mountPath"] for each in works["volumeMounts"]}
    # Who runs ranks and who supervises them see the same checkpoints.
    for template in (launcher["template"], worker["template"]):
        claims = {each["name"]: each.get("persistentVolumeClaim") for each in template["spec"]["volumes"]}
        assert claims["runs"] == {"claimName": claim["metadata"]["name"]}
    assert starts["args"][:2] == ["--checkpoint-dir", "/runs/first"]


def test_the_kubernetes_launcher_takes_its_hosts_from_the_operators_file(documents, tmp_path):
    hosts = ["distnet-worker-0.distnet.default.svc:4", "distnet-worker-1.distnet.default.svc:4"]
    (tmp_path / "hostfile").write_text("".join(f"{host}\n" for host in hosts))
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (launcher,) = documents[1]["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HYDRA_HOST_FILE": str(tmp_path / "hostfile")}
    words = subprocess.check_output([*launcher["command"], *launcher["args"]], text=True, env=environment).split("\n")
    supervisor = ["-m", "distnet.supervise", "-n", "8", "--hosts", ",".join(hosts), "--"]
    assert words == [*supervisor, *launcher["args"], ""]


def test_what_the_kubernetes_job_expects_is_in_the_image(documents):
    image = (LAUNCH / "Dockerfile").read_text()
    spec = documents[1]["spec"]
    worker = spec["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    assert f"--uid {worker['securityContext']['runAsUser']} distnet" in image
    assert spec["sshAuthMountPath"] == "/home/distnet/.ssh"
    assert worker["containers"][0]["command"][-1] in image
    assert image.count(f"'Port {worker['containers'][0]['readinessProbe']['tcpSocket']['port']}'") == 2


def test_the_containers_have_all_that_packaging_reads():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"pyproject.toml", "setup.py", project["readme"], *project["license-files"], "distnet"}
    copied = re.findall(r"^COPY (.*) /", (LAUNCH / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == wanted
    files = re.search(r"%files\n(.*?)\n\n", (LAUNCH / "apptainer.def").read_text(), re.DOTALL)[1]
    assert {line.split()[0] for line in files.splitlines()} == wanted
    assert all((ROOT / name).exists() for name in wanted)
