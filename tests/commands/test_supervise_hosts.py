"""The supervisor on real hosts, in network namespaces: one is cut off, and the run goes on with the other."""

import time

import hosts
import pytest
from helpers import command, end, start

missing = hosts.usable()
pytestmark = pytest.mark.skipif(bool(missing), reason=missing)


def test_a_host_that_is_cut_off_is_left_out_and_the_bits_are_the_same(digits, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    train = ["--data-dir", digits, "--batch-size", "20", "--epochs", "20"]
    with hosts.launcher(2, 2) as launcher:
        split = launcher.index("-hosts")
        mpirun, places = [*launcher[:split], "-iface", "eth0"], launcher[split + 1]
        supervisor = start(
            *("-n", 4, "--min-ranks", 2, "--hosts", places, "--mpirun", " ".join(mpirun), "--", *train),
            *("--checkpoint-dir", checkpoints, "--checkpoint-every", "10", "steps", "--stall-timeout", "5"),
            module="distnet.supervise",
        )
        try:
            deadline = time.monotonic() + 60
            while not list(checkpoints.glob("checkpoint-*")) and time.monotonic() < deadline:
                time.sleep(0.05)
            second = mpirun[3].removesuffix("-1") + "-2"
            hosts.ip("-n", second, "link", "set", "eth0", "down")
        finally:
            ended = end(supervisor, 90)
    assert ended.status == 0, ended.err
    assert ended.sha256 == command(*train).sha256
    assert "4 ranks on 2 nodes" in ended.out
    assert "2 ranks on 1 node," in ended.out
    assert "resumed from" in ended.out
    assert ended.err.count("doesn't answer") == 1
