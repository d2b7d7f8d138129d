"""What tests/run.py makes of what its runs recorded."""

import json

import pytest
from run import Record, describe_progress, judge, read_records

NO_MPI = "need --with-mpi option to run"  # pytest-mpi's reason in the serial run
NOT_MPI = "test does not use mpi"  # and under MPI
TOO_FEW = "Test requires 4 MPI processes, only 1 MPI processes specified, skipping test"


def skipped(*reasons):
    return [Record("found", "test"), *(Record("skipped", "test", reason) for reason in reasons)]


@pytest.mark.parametrize("need", ["needs the extra peers", "needs Open MPI: DISTNET_TEST_OPENMPI_BIN", "needs root"])
@pytest.mark.parametrize("others", [(NO_MPI,), (NOT_MPI, NOT_MPI), (TOO_FEW, NO_MPI)])
def test_a_need_counts_whatever_another_run_skipped_the_test_for(need, others):
    for records in (skipped(need, *others), skipped(*others, need)):
        assert judge(records, strict=False) == {"test": ("skipped", need)}
        assert judge(records, strict=True) == {"test": ("NEVER RAN", need)}


def test_a_test_that_is_excluded_on_purpose_is_skipped_on_every_machine():
    for strict in (False, True):
        assert judge(skipped("excluded: private", NOT_MPI), strict) == {"test": ("skipped", "excluded: private")}


@pytest.mark.parametrize(("reasons", "shown"), [((), "in no run"), ((NO_MPI, TOO_FEW), NO_MPI), (("slow",), "slow")])
def test_a_test_that_no_run_executed_and_that_needs_nothing_never_ran(reasons, shown):
    assert judge(skipped(*reasons), strict=False) == {"test": ("NEVER RAN", shown)}


def test_one_run_is_enough_and_one_failure_too_many():
    passed = [*skipped(NO_MPI), Record("passed", "test"), *skipped("needs root")]
    assert judge(passed, strict=True) == {"test": ("passed", "")}
    assert judge([*passed, Record("failed", "test"), *passed], strict=False) == {"test": ("failed", "")}


def test_progress_is_a_line_per_failed_test_and_per_file_that_has_ended():
    found = [Record("found", test) for test in ("a.py::1", "a.py::2", "b.py::1", "b.py::2")]
    ended = [Record("passed", "a.py::1"), Record("failed", "b.py::1"), Record("skipped", "a.py::2", "needs root")]
    assert describe_progress([*found, *ended[:1]]) == []
    assert describe_progress([*found, *ended]) == ["FAILED b.py::1", "a.py: 1 passed, 1 skipped"]
    # An error when a fixture is left follows the outcome of the test itself.
    assert describe_progress([*ended, Record("passed", "b.py::1")])[0] == "FAILED b.py::1"


def test_records_of_several_processes_are_read_but_for_a_line_that_is_being_written(tmp_path):
    (tmp_path / "1").write_text(json.dumps(["found", "t", "", [2]]) + "\n" + json.dumps(["passed", "t", ""])[:9])
    (tmp_path / "2").write_text(json.dumps(["skipped", "t", "tab\tand\nline"]) + "\n")
    assert read_records(tmp_path) == [Record("found", "t", "", [2]), Record("skipped", "t", "tab\tand\nline")]
