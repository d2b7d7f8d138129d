"""Prediction beside scikit-learn's MLPClassifier: python benchmarks/predict.py [--rounds 7] [--rows 100000].

Times `predict_proba` of `Classifier`, and `forward` of its network alone, in turn with MLPClassifier's in one process,
and compares within a round. Memory is by how much the largest resident set during the call exceeds that before it, each
in a process of its own (on Linux only). Prints µs, MiB, and ratios to MLPClassifier.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blas_kernel  # noqa: F401 - so that every way has the same
import numpy as np
from sklearn.neural_network import MLPClassifier

from distnet import Classifier

NETWORKS = {"784-256-128-10": (784, 256, 128, 10), "30-100-2": (30, 100, 2)}
PEER = "MLPClassifier"
WAYS = (PEER, "native", "native network", "portable", "portable network")
LEAST_SECONDS = 0.05  # per way and round
MIB = 1 << 20
LEAST_MIB = 0.1  # that memory is compared with: few rows may need no new page


def build(way: str, sizes: tuple[int, ...], dtype: str) -> Callable[[Any], Any]:
    """What computes the probabilities of rows."""
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(200, sizes[0])).astype(dtype), np.arange(200) % sizes[-1]
    settings: dict[str, Any] = {"hidden_layer_sizes": sizes[1:-1], "max_iter": 1, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch does not converge
        if way == PEER:
            return MLPClassifier(**settings).fit(X, y).predict_proba  # type: ignore[no-any-return]
        classifier = Classifier(arithmetic=way.split()[0], **settings).fit(X, y)
    return classifier.network_.forward if "network" in way else classifier.predict_proba


def draw_rows(rows: int, inputs: int, dtype: str) -> Any:
    """Rows to predict."""
    return np.random.default_rng(1).standard_normal((rows, inputs), np.dtype(dtype))


def time_calls(name: str, rows: int, dtype: str, rounds: int) -> dict[str, list[float]]:
    """µs per call of each way, round by round in turn."""
    X = draw_rows(rows, NETWORKS[name][0], dtype)
    calls = {way: build(way, NETWORKS[name], dtype) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    counts = {}
    for way, call in calls.items():
        call(X)
        begin = time.perf_counter()
        call(X)
        counts[way] = max(1, int(LEAST_SECONDS / (time.perf_counter() - begin)))
    for _ in range(rounds):
        for way, call in calls.items():
            begin = time.perf_counter()
            for _ in range(counts[way]):
                call(X)
            times[way].append((time.perf_counter() - begin) / counts[way] * 1e6)
    return times


def print_growth(way: str, name: str, rows: str, dtype: str) -> None:
    """Print the bytes by which the largest resident set grows in the second call; the first one is of one row."""
    call, X = build(way, NETWORKS[name], dtype), draw_rows(int(rows), NETWORKS[name][0], dtype)
    call(X[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the largest one so far becomes the present one
    before = largest_resident_set()
    call(X)
    print((largest_resident_set() - before) * 1024)


def largest_resident_set() -> int:
    """KiB of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])


def measure_growth(way: str, name: str, rows: int, dtype: str) -> float:
    """MiB, see `print_growth`."""
    command = [sys.executable, __file__, "--memory", way, name, str(rows), dtype]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / MIB


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000, help="of the largest case")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_growth(*options.memory)
        return
    for name in NETWORKS:
        for dtype in ("float32", "float64"):
            for rows in (1, 100, options.rows):
                print(f"{name}, {dtype}, {rows:,} rows:")
                times = time_calls(name, rows, dtype, options.rounds)
                for way, each in times.items():
                    ratio = statistics.median(a / b for a, b in zip(each, times[PEER], strict=True))
                    print(f"  {way:17} {statistics.median(each):11,.0f} µs, {ratio:.2f} of {PEER}'s", flush=True)
            memory = {way: measure_growth(way, name, options.rows, dtype) for way in WAYS}
            for way, mib in memory.items():
                print(f"  {way:17} {mib:11,.1f} MiB, {mib / max(memory[PEER], LEAST_MIB):.2f} of {PEER}'s", flush=True)


if __name__ == "__main__":
    main()
