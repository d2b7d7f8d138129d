"""The same bits on ARM64: golden.py's runs on an emulated machine.

`python tests/arm64.py [--folder DIR] [--architecture arm64] [--note FILE] [NAME ...]`. Needs Debian, apt-get and a
network, not root: it fetches qemu-user and Debian's Python and NumPy for that architecture into a folder, once. Exit
status 1 if any sha256 differs, 77 if emulator or packages can't be had.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from debian import UnavailableError, python_variables, run, unpack

GOLDEN = Path(__file__).with_name("golden.py")
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


def main() -> int:
    """Compare on an emulated machine. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    parser.add_argument("names", nargs="*", help="runs of golden.json (default: all small ones)", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=cache / "distnet-arm64", help="where packages stay unpacked")
    parser.add_argument("--architecture", choices=MACHINES, default="arm64", help="Debian's name of the machine")
    parser.add_argument("--note", type=Path, help="file for docs/machines.py", metavar="FILE")
    options = parser.parse_args()
    folder = options.folder.absolute()
    try:
        python = emulation(folder, options.architecture)
    except UnavailableError as error:
        print(f"skipped, nothing was compared: {error}", file=sys.stderr)
        return SKIPPED
    environment = os.environ | python_variables(folder) | {"OPENBLAS_NUM_THREADS": "1"}
    cpu = " ".join((*MACHINES[options.architecture].options[1:], "emulated by QEMU"))
    noted = ["--note", options.note.absolute(), "--cpu", cpu] if options.note else []
    return subprocess.run([*python, GOLDEN, *options.names, *noted], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
