"""The same bits on ARM64: small portable trainings here and on an emulated machine, compared.

`python tests/arm64.py [--folder DIR] [--architecture arm64]`. Needs Debian, apt-get and a network, not root: it fetches
qemu-user and Debian's Python and NumPy for that architecture into a folder, once. Exit status 1 if any sha256 differs,
77 if emulator or packages can't be had.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from debian import UnavailableError, run, unpack

ROOT = Path(__file__).resolve().parents[1]
SMALL_RUNS = ROOT / "tests" / "small_runs.py"
SKIPPED = 77
PACKAGES = ("python3-numpy", "python3-threadpoolctl", "libopenblas0-serial")


class Machine(NamedTuple):
    """processor: as `platform.machine` has it. libraries: Debian's folder. options: for the emulator."""

    processor: str
    emulator: str
    libraries: str
    options: tuple[str, ...] = ()


MACHINES = {
    # Of newer kinds, OpenBLAS takes SME code, which the emulator runs extremely slowly.
    "arm64": Machine("aarch64", "qemu-aarch64", "aarch64-linux-gnu", ("-cpu", "cortex-a72")),
    "ppc64el": Machine("ppc64le", "qemu-ppc64le", "powerpc64le-linux-gnu"),
    "riscv64": Machine("riscv64", "qemu-riscv64", "riscv64-linux-gnu"),
    "s390x": Machine("s390x", "qemu-s390x", "s390x-linux-gnu"),  # big-endian
}


def emulation(folder: Path, architecture: str) -> list[str | Path]:
    """The command that starts Python on an emulated machine. Raises UnavailableError."""
    machine = MACHINES[architecture]
    if platform.machine() == machine.processor:
        raise UnavailableError(f"this machine is {architecture} itself")
    host = run(["dpkg", "--print-architecture"]).strip()
    emulator = unpack(folder / "qemu", host, ("qemu-user",), dependencies=False) / "usr" / "bin" / machine.emulator
    root = unpack(folder, architecture, PACKAGES)
    libraries = f"LD_LIBRARY_PATH=/usr/lib/{machine.libraries}/openblas-serial"
    command = [emulator, *machine.options, "-L", root, "-E", libraries, root / "usr" / "bin" / "python3"]
    run([*command, "-c", "import numpy, threadpoolctl"])
    return command


def train(python: list[str | Path], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What small_runs.py prints of its machine, and run -> sha256s. Its errors go to standard error."""
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
    }
    ended = subprocess.run([*python, SMALL_RUNS], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = ended.stdout.splitlines()
    if ended.returncode:
        sys.exit(f"small_runs.py failed after {len(lines)} lines, with status {ended.returncode}")
    return json.loads(lines[0]), dict(line.split(" ", 1) for line in lines[1:])


def main() -> int:
    """Run and compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    parser.add_argument("--folder", type=Path, default=cache / "distnet-arm64", help="where packages stay unpacked")
    parser.add_argument("--architecture", choices=MACHINES, default="arm64", help="Debian's name of the machine")
    options = parser.parse_args()
    try:
        python = emulation(options.folder.absolute(), options.architecture)
    except UnavailableError as error:
        print(f"skipped, nothing was compared: {error}", file=sys.stderr)
        return SKIPPED
    status = 0
    here, expected = train([sys.executable], options.folder)
    there, found = train(python, options.folder)
    for name, machine in (("here", here), ("emulated", there)):
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in machine.items() if value)}")
        if machine["deviation"]:
            status = 1
    for name in expected | found:
        same = expected.get(name) == found.get(name)
        print(f"{name:10} {expected.get(name, 'missing')[:64]} {'same' if same else 'DIFFERENT'}")
        if not same:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
