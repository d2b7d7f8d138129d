"""Hosts in network namespaces, connected by TCP, compute the same bits as one process."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import hosts
import pytest
from helpers import MNIST, ROOT, command

missing = hosts.usable()
pytestmark = pytest.mark.skipif(bool(missing), reason=missing)

SETTINGS = [
    "--dataset",
    "synthetic",
    "--train-samples",
    "3000",
    "--epochs",
    "1",
    "--batch-size",
    "100",
]
NATIVE = ("--arithmetic", "native", "--shards", "8")


@cache
def alone(*more: str) -> str:
    return command(*SETTINGS, *more).sha256


def on_hosts(count, ranks_per_host, *more):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DISTNET_DATA": str(MNIST), "MPIEXEC_TIMEOUT": "60"}
    start = [sys.executable, str(Path(hosts.__file__)), str(count), str(ranks_per_host)]
    done = subprocess.run(
        [*start, sys.executable, "-m", "distnet.train", *SETTINGS, *more],
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert f"{count * ranks_per_host} ranks on {count} nodes" in done.stdout
    return done.stdout.split()[-1]


@pytest.mark.parametrize(("count", "ranks_per_host"), [(2, 2), (3, 1), (3, 2)])
def test_hosts_end_with_the_bits_of_one_process(count, ranks_per_host):
    assert on_hosts(count, ranks_per_host) == alone()


def test_hosts_end_with_the_bits_of_one_process_with_adamw_and_clipping():
    more = ("--optimizer", "adamw", "--learning-rate", "0.001", "--weight-decay", "0.01", "--clip-norm", "0.5")
    assert on_hosts(2, 2, *more) == alone(*more)


def test_hosts_end_with_the_bits_of_one_process_in_native_arithmetic_with_shards():
    assert on_hosts(3, 2, *NATIVE) == alone(*NATIVE)


def test_nothing_of_the_hosts_is_left_behind():
    on_hosts(2, 1)
    assert f"dn{os.getpid()}" not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
