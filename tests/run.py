"""Every test, serial and under MPI at 1, 2, 3, 4 and 6 ranks: python tests/run.py [arguments for pytest].

A test that no run executed is a failure, unless it says that it needs what this machine lacks; with
DISTNET_TEST_ALL=1 in the environment that is a failure, too.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDS = ("needs the extra ", "real MNIST is not at hand", "needs root", "needs Open MPI")
NO_TESTS = 5  # the status of a pytest that found none
SERIAL_LIMIT, MPI_LIMIT = 1200, 300  # seconds


def run(name: str, command: list[str], limit: int, record: Path, some: bool) -> bool:
    """One run of pytest under a time limit. Shows its output if it failed.

    some: not all tests are wanted, so that there may be none for this run.
    """
    begin = time.monotonic()
    env = os.environ | {
        "DISTNET_TEST_RECORD": str(record),
        "MPIEXEC_TIMEOUT": str(limit),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            timeout=limit + 30,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as expired:
        status, output = -1, (expired.stdout or b"").decode(errors="replace") + f"\nended after {limit} s"
    if some and status == NO_TESTS:
        print(f"no test {name}", flush=True)
        return True
    print(f"{'passed' if status == 0 else 'FAILED'}  {name}  ({time.monotonic() - begin:.0f} s)", flush=True)
    if status != 0:
        print(output, flush=True)
    return status == 0


def main() -> int:
    """Run all, count, and say what never ran."""
    arguments = sys.argv[1:]
    outcomes: dict[str, set[str]] = {}
    reasons: dict[str, str] = {}
    good = True
    pytest = ["-m", "pytest", *arguments]
    watchdog = ["-x", "-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"]
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    runs = [("serial", [sys.executable, *pytest], SERIAL_LIMIT)]
    for ranks in (1, 2, 3, 4, 6):
        command = [mpirun, "-n", str(ranks), sys.executable, "-m", "mpi4py", *pytest, "--only-mpi", *watchdog]
        if ranks == 6:
            command += ["tests/test_exchange.py"]  # on few cores the others would take long, and tell nothing new
        runs.append((f"mpirun -n {ranks}", command, MPI_LIMIT))
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, command, limit) in enumerate(runs):
            record = Path(folder, str(number))
            good &= run(name, command, limit, record, bool(arguments))
            for line in record.read_text().splitlines() if record.exists() else ():
                outcome, test, reason = line.split("\t", 2)
                outcomes.setdefault(test, set()).add(outcome)
                if reason and "MPI" not in reason:
                    reasons[test] = reason.removeprefix("Skipped: ")
    failed = [test for test, seen in outcomes.items() if "failed" in seen]
    passed = [test for test, seen in outcomes.items() if "passed" in seen and "failed" not in seen]
    never = [test for test, seen in outcomes.items() if not seen & {"passed", "failed"}]
    strict = os.environ.get("DISTNET_TEST_ALL") == "1"
    excused = [test for test in never if reasons.get(test, "").startswith(NEEDS) and not strict]
    for test in never:
        print(f"{'skipped' if test in excused else 'NEVER RAN'}  {test}  {reasons.get(test, 'in no run')}")
    lost = len(never) - len(excused)
    print(f"{len(passed)} passed, {len(failed) + lost} failed, {len(excused)} skipped")
    return 0 if good and passed and not failed and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
