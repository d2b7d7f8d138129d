"""The supervisor on real hosts, in network namespaces: one is cut off, and the run goes on with the other."""

import hosts
import pytest
from conftest import command, end, start

if missing := hosts.usable():
    pytest.skip(missing, allow_module_level=True)

SETTINGS = ["--batch-size", "20", "--epochs", "20"]  # 30 steps each


def test_a_host_that_is_cut_off_is_left_out_and_the_bits_are_the_same(digits, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    train = [*SETTINGS, "--data-dir", digits]
    with hosts.launcher(2, 2) as start_on_hosts:
        split = start_on_hosts.index("-hosts")
        mpirun, places = start_on_hosts[:split], start_on_hosts[split + 1]
        second = mpirun[3].removesuffix("-1") + "-2"
        supervisor = start(
            *("-n", 4, "--min-ranks", 2, "--hosts", places, "--mpirun", " ".join(mpirun), "--", *train),
            *("--checkpoint-dir", checkpoints, "--checkpoint-every", "10", "steps", "--stall-timeout", "5"),
            module="distnet.supervise",
        )
        wait_for(lambda: len(list(checkpoints.glob("checkpoint-*"))) == 3, supervisor)
        hosts.ip("-n", second, "link", "set", "eth0", "down")
        ended = end(supervisor, 120)
    assert ended.status == 0, ended.err
    print(ended.err)
    assert ended.sha256 == command(*train).sha256
