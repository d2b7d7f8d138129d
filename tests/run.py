"""Every test, serial and under MPI: python tests/run.py [--skipped FILE] [arguments for pytest].

Serial tests run in one process per core. A test that no run executed is a failure, unless it says that it needs what
this machine lacks; with DISTNET_TEST_ALL=1 in the environment that is a failure, too. --skipped writes the names of
the tests that were skipped to a file, and `@FILE` among the arguments runs those.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from distnet.runtime.proc import usable_cores

ROOT = Path(__file__).resolve().parents[1]
NEEDS = (
    "needs the extra ",
    "real MNIST is not at hand",
    "needs root",
    "needs Open MPI",
    "needs MPICH",
    "needs pandas",
    "needs a scikit-learn with tests",
)
EXCLUDED = "excluded: "  # on purpose, on every machine
NO_TESTS = 5  # the status of a pytest that found none
MOST_PROCESSES = 4  # of the serial run; its tests start up to 6 each
SERIAL_LIMIT, MPI_LIMIT = 3600, 900  # seconds, for hangs: far more than a slow machine needs


class Record(NamedTuple):
    """What one process of one run noted of a test: it found it, or ran it to this outcome."""

    outcome: str  # found, passed, failed or skipped
    test: str
    reason: str = ""  # of skipping it
    ranks: Sequence[int] = ()  # the numbers of them that it runs on under MPI


def read_records(folder: Path) -> list[Record]:
    """Read what conftest.py noted in a folder, where every process has its file."""
    whole = (file.read_text().rpartition("\n")[0] for file in sorted(folder.iterdir()))
    return [Record(*json.loads(line)) for text in whole for line in text.splitlines()]


def judge(records: Iterable[Record], strict: bool) -> dict[str, tuple[str, str]]:
    """The verdict on every test, from all runs, with the reason: passed, failed, skipped or NEVER RAN.

    A test may be skipped if it said in any run that it needs what is not here, unless that is strictly forbidden; or
    that it is excluded on purpose.
    """
    outcomes: dict[str, set[str]] = {}
    reasons: dict[str, list[str]] = {}
    for record in records:
        outcomes.setdefault(record.test, set()).add(record.outcome)
        reasons.setdefault(record.test, []).append(record.reason)
    verdicts = {}
    for test, seen in outcomes.items():
        ran = next((outcome for outcome in ("failed", "passed") if outcome in seen), None)
        needs = next((reason for reason in reasons[test] if reason.startswith((*NEEDS, EXCLUDED))), None)
        other = next(filter(None, reasons[test]), "in no run")
        is_right = needs is not None and (not strict or needs.startswith(EXCLUDED))
        verdicts[test] = (ran, "") if ran else ("skipped" if is_right else "NEVER RAN", needs or other)
    return verdicts


def describe_progress(records: Iterable[Record]) -> list[str]:
    """One line for every failed test, and one for every file whose tests have all ended."""
    ended: dict[str, dict[str, str]] = {}
    for record in records:
        file = ended.setdefault(record.test.partition("::")[0], {})
        if record.outcome != "found" and file.get(record.test) != "failed":
            file[record.test] = record.outcome
        else:
            file.setdefault(record.test, "")
    failed = [f"FAILED {test}" for file in ended.values() for test, outcome in file.items() if outcome == "failed"]
    whole = {name: Counter(file.values()) for name, file in ended.items() if all(file.values())}
    return failed + [
        f"{name}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        for name, counts in whole.items()
    ]


def run(name: str, command: list[str], limit: int, folder: Path) -> tuple[bool, list[Record]]:
    """One run of pytest under a time limit: whether it succeeded, and its records. Shows its output if it failed."""
    begin = time.monotonic()
    folder.mkdir()
    env = os.environ | {
        "DISTNET_TEST_RECORD": str(folder),
        "MPIEXEC_TIMEOUT": str(limit),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    shown: set[str] = set()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            ended = False
            while not ended:
                ended = running.poll() is not None
                if time.monotonic() - begin > limit + 30:
                    running.kill()
                records = read_records(folder)
                for line in describe_progress(records):
                    if line not in shown:
                        print(f"{time.monotonic() - begin:5.0f} s  {name}  {line}", flush=True)
                        shown.add(line)
                time.sleep(0 if ended else 0.5)
        except KeyboardInterrupt:
            running.wait()
            raise
        finally:
            good = running.returncode in (0, NO_TESTS)
            print(f"{time.monotonic() - begin:5.0f} s  {name}  {'passed' if good else 'FAILED'}", flush=True)
            if not good:
                output.seek(0)
                print(output.read(), flush=True)
    return good, records


def main() -> int:
    """Run all, count, and print what never ran."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--skipped", type=Path)
    options, arguments = parser.parse_known_args()
    processes = min(len(usable_cores()), MOST_PROCESSES)
    serial = [sys.executable, "-m", "pytest", "-n", str(processes), "--dist", "worksteal", *arguments]
    mpi = [sys.executable, "-m", "mpi4py", "-m", "pytest", *arguments, "--only-mpi", "-x"]
    mpi += ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"]
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    with tempfile.TemporaryDirectory() as folder:
        good, records = run("serial", serial, SERIAL_LIMIT, Path(folder, "serial"))
        for ranks in sorted({count for record in records for count in record.ranks}):
            command = [mpirun, "-n", str(ranks), *mpi]
            passed, more = run(f"mpirun -n {ranks}", command, MPI_LIMIT, Path(folder, str(ranks)))
            good &= passed
            records += more
    verdicts = judge(records, strict=os.environ.get("DISTNET_TEST_ALL") == "1")
    for test, (verdict, reason) in verdicts.items():
        if verdict == "NEVER RAN":
            print(f"NEVER RAN  {test}: {reason}")
    skipped = {test: reason for test, (verdict, reason) in verdicts.items() if verdict == "skipped"}
    for reason, count in Counter(skipped.values()).items():
        print(f"skipped {count}: {reason}")
    if options.skipped:
        options.skipped.write_text("".join(f"{test}\n" for test in skipped))
    counts = Counter(verdict for verdict, _ in verdicts.values())
    failed = counts["failed"] + counts["NEVER RAN"]
    print(f"{counts['passed']} passed, {failed} failed, {len(skipped)} skipped in {time.monotonic() - begin:.0f} s")
    return 0 if good and verdicts and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
