"""The same bits with every BLAS: golden.py's runs with each library that can be had, as a table.

`python benchmarks/blas_libraries.py [--folder DIR] [--mkl] [--build] [--note FILE]`. Needs Debian, apt-get, pip
and a network, not root. Debian's NumPy takes any libblas.so.3: reference BLAS, ATLAS, BLIS, OpenBLAS, and with --mkl
Intel's from PyPI. --build compiles this Python's NumPy without any BLAS, which takes minutes. Exit status 1 if any
sha256 differs.
"""

import argparse
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from debian import UnavailableError, python_variables, run, unpack  # noqa: E402
from golden import is_small, read_golden  # noqa: E402

GOLDEN = ROOT / "tests" / "golden.py"
PACKAGES = (
    *("python3-numpy", "python3-threadpoolctl", "libblas3", "liblapack3"),
    *("libopenblas0-serial", "libopenblas0-pthread", "libblis4-serial", "libblis4-pthread"),
)
SINGLE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "BLIS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MKL_MODES = ("AVX512", "AVX2", "COMPATIBLE")  # of MKL_CBWR: other kernels

Command = list[str | Path]


def debian_python(root: Path, triple: str, blas: Path) -> tuple[Command, dict[str, str]]:
    """The command that starts Debian's Python with the libblas.so.3 of the folder `blas`, and its environment."""
    libraries = root / "usr" / "lib" / triple
    lapack = [libraries / "lapack"] if (libraries / "lapack").exists() else []
    path = ":".join(map(str, (blas, *lapack, libraries, blas.parent)))
    loader = next((root / "usr").glob("lib*/ld-linux*.so.*"))
    return [loader, "--library-path", path, root / "usr/bin/python3"], {"PYTHONHOME": str(root / "usr")}


def unpack_wheels(folder: Path, packages: tuple[str, ...]) -> Path:
    """A folder that has the files of packages from PyPI."""
    target = folder / "-".join(packages)
    if not target.exists():
        wheels = folder / "wheels"
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, *packages])
        for wheel in wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(target)
    return target


def find_mkl(folder: Path) -> Path:
    """A folder in which MKL has the name libblas.so.3."""
    unpacked = unpack_wheels(folder, ("mkl",))
    library = next(unpacked.glob("**/libmkl_rt.so.*"), None)
    if library is None:
        raise UnavailableError("the package mkl has no libmkl_rt.so")
    for name in ("libblas.so.3", "liblapack.so.3"):
        link = library.parent / name
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)
    return library.parent


def build_without_blas(folder: Path) -> Command:
    """A Python of its own, whose NumPy has no BLAS; its version is this one's."""
    python = folder / "no-blas" / "bin" / "python"
    if not (folder / "no-blas" / "built").exists():
        run([sys.executable, "-m", "venv", "--clear", folder / "no-blas"])
        options = ("-Csetup-args=-Dallow-noblas=true", "-Csetup-args=-Dblas=none", "-Csetup-args=-Dlapack=none")
        packages = (f"numpy=={np.__version__}", "threadpoolctl")
        run([python, "-m", "pip", "install", "--quiet", "--no-binary", "numpy", *options, *packages])
        (folder / "no-blas" / "built").touch()
    return [python]


def environments(folder: Path, mkl: bool, build: bool) -> Iterator[tuple[str, Command, dict[str, str]]]:
    """Name, Python and environment of each BLAS; prints which can't be had."""
    yield "this Python's", [sys.executable], {}
    if build:
        try:
            yield "none", build_without_blas(folder), {}
        except UnavailableError as error:
            print(f"no NumPy without BLAS: {error}", file=sys.stderr)
    try:
        architecture = run(["dpkg", "--print-architecture"]).strip()
        root = unpack(folder, architecture, PACKAGES)
    except UnavailableError as error:
        print(f"no libraries of Debian: {error}", file=sys.stderr)
        return
    folders = sorted(path.parent for path in root.glob("usr/lib/*/*/libblas.so.3"))
    triple = folders[0].parent.name
    try:
        atlas = unpack(folder / "atlas", architecture, ("libatlas3-base",), suites=("oldstable",))
        folders += [path.parent for path in atlas.glob("usr/lib/*/atlas/libblas.so.3")]
    except UnavailableError as error:
        print(f"no ATLAS: {error}", file=sys.stderr)
    for each in folders:
        yield each.name, *debian_python(root, triple, each)
    if mkl:
        try:
            command, environment = debian_python(root, triple, find_mkl(folder))
        except UnavailableError as error:
            print(f"no MKL: {error}", file=sys.stderr)
            return
        for mode in MKL_MODES:
            yield f"mkl {mode}", command, environment | {"MKL_CBWR": mode, "MKL_THREADING_LAYER": "SEQUENTIAL"}


def main() -> int:
    """Train with each library and print a table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    parser.add_argument("--folder", type=Path, default=cache / "distnet-blas", help="where packages stay unpacked")
    parser.add_argument("--mkl", action="store_true", help="fetch Intel's MKL, about 220 MB")
    parser.add_argument("--build", action="store_true", help="compile NumPy without any BLAS")
    parser.add_argument("--note", type=Path, help="file for docs/machines.py", metavar="FILE")
    options = parser.parse_args()
    noted = ["--note", options.note.absolute()] if options.note else []
    folder, status = options.folder.absolute(), 0
    names = [name for name in read_golden() if is_small(name)]
    print(f"{'library':20} {'NumPy':8} {'same sha256':12} BLAS, or that of NumPy's build if unknown", flush=True)
    for name, python, extra in environments(folder, options.mkl, options.build):
        ended = subprocess.run(
            [*python, GOLDEN, *noted, *(("--blas", name) if extra else ())],
            env=os.environ | SINGLE_THREAD | python_variables(folder) | extra,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = ended.stdout.splitlines()
        machine = json.loads(lines[0]) if lines else {"NumPy": "", "BLAS": ""}
        same = sum(f"{each}: same" in lines for each in names)
        status |= ended.returncode
        trouble = ended.stderr.splitlines()[-1:] if ended.returncode else []
        numpy = machine["NumPy"].partition(" ")[0]
        print(f"{name:20} {numpy:8} {f'{same} of {len(names)}':12}", machine["BLAS"], *trouble, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
