"""Debian's packages of any architecture, unpacked into a folder.

Nothing of the system changes, and root is not needed: apt-get gets lists, a cache and an architecture of its own.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CONFIGURATION = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "{user}";
Acquire::Languages "none";
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Debug::NoLocking "true";
"""


class UnavailableError(Exception):
    """Something that can't be had on this machine; its message is one line."""


def run(command: Sequence[str | Path], configuration: Path | None = None, folder: Path | None = None) -> str:
    """The standard output of a command in a folder. Raises UnavailableError with the reason if it fails.

    configuration: of apt-get.
    """
    environment = os.environ | {"LC_ALL": "C"} | ({"APT_CONFIG": str(configuration)} if configuration else {})
    try:
        ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnavailableError(f"{command[0]}: {error.strerror}") from None
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("E:")] or ended.stderr.splitlines()
        raise UnavailableError(f"{command[0]} {command[1]}: {lines[0] if lines else f'status {ended.returncode}'}")
    return ended.stdout


def find_mirror() -> str:
    """The address of the Debian archive that this machine uses."""
    addresses = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"])
    for address in addresses.split():
        if "debian" in address and "security" not in address:
            return address
    raise UnavailableError("apt-get: its sources name no archive of Debian")


def unpack(
    folder: Path,
    architecture: str,
    packages: Sequence[str],
    dependencies: bool = True,
    suites: Sequence[str] = ("stable", "testing"),
) -> Path:
    """A folder that has the files of these packages, below `folder`, where it stays for the next call.

    suites: of Debian; the first that has all packages is taken.

    Raises UnavailableError if they can't be had.
    """
    root, done = folder / architecture, folder / f"{architecture}.packages"
    request = " ".join(packages)
    if done.exists() and done.read_text() == request:
        return root
    if not KEYRING.exists():
        raise UnavailableError(f"{KEYRING} is missing, the keys of Debian's archive")
    mirror, problem = find_mirror(), UnavailableError("")
    for suite in suites:
        try:
            place = folder.absolute() / "apt" / architecture / suite
            archives = download(place, mirror, suite, architecture, packages, dependencies)
            break
        except UnavailableError as error:
            problem = error
    else:
        raise problem
    done.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "lib", "lib64", "sbin"):  # links, since Debian 12
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        run(["dpkg-deb", "--extract", archive, root])
    done.write_text(request)
    return root


def download(
    folder: Path, mirror: str, suite: str, architecture: str, packages: Sequence[str], dependencies: bool
) -> list[Path]:
    """The files of packages of a suite, and with `dependencies` of all that they depend on."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # no package is installed
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    configuration, user = folder / "apt.conf", "root" if os.geteuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(architecture=architecture, folder=folder, user=user))
    run(["apt-get", "update", "-o", "APT::Update::Error-Mode=any"], configuration)
    archives = folder / "cache" / "archives"
    for old in archives.glob("*.deb"):
        old.unlink()
    command = ["install", "--download-only", "--yes"] if dependencies else ["download"]  # to the working folder
    run(["apt-get", *command, *packages], configuration, archives)
    return sorted(archives.glob("*.deb"))


def python_variables(folder: Path) -> dict[str, str]:
    """The environment in which another Python imports distnet, and what it needs that has no compiled code."""
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    spec = find_spec("mnist")
    assert spec is not None
    assert spec.origin is not None
    link = packages / "mnist"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(spec.origin).parent)
    root = Path(__file__).resolve().parents[1]
    return {"PYTHONPATH": f"{root}:{packages}", "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
