"""Provenance: where, when and with which versions a run was computed, for checkpoints, reports and `model.run.json`."""

import hashlib
import json
import os
import platform
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict, get_origin, get_type_hints

import numpy as np

from distnet import __version__
from distnet.datasets.dataset import Dataset
from distnet.parallel.world import World
from distnet.runtime.blas import describe_blas
from distnet.runtime.errors import InputError, first_line
from distnet.runtime.files import write_content
from distnet.runtime.proc import cpu_model

FORMAT, VERSION = "distnet run", 1
BEGINNING = f'{{\n "format": "{FORMAT}"'  # of the files that `write_provenance` makes
PACKAGE = Path(__file__).parents[1]
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LARGEST_FILE = 1 << 24  # bytes of a provenance file; ours have some thousands


class Session(TypedDict):
    """A launch that trained, until it ended or until a checkpoint was written.

    start, end: UTC. from_step, to_step: counted over the whole run. host: of rank 0. versions: see
    `describe_versions`. If the nodes differ in their CPUs or versions, the values are joined by "; ".
    """

    start: str
    end: str
    from_step: int
    to_step: int
    ranks: int
    nodes: int
    host: str
    cpu: str
    versions: dict[str, str]


class Provenance(TypedDict):
    """What produced a model.

    command: as typed, without a launcher. options: all but those of output and recovery, with the values that were
    used, as JSON. data: "name", "source" and "sha256". sessions: several if the run was resumed.
    """

    format: str
    version: int
    command: str
    options: dict[str, Any]
    data: dict[str, str]
    sessions: list[Session]
    parameters_sha256: str
    exit_status: int


class Sessions:
    """The sessions of a run: those before this launch, and this one, which starts now. Collective: the constructor."""

    def __init__(self, world: World) -> None:
        self._ranks, self._nodes, self._host, self._start = world.size, world.nodes, socket.gethostname(), format_time()
        own = {"cpu": cpu_model() or "unknown"} | describe_versions(world) if world.node_rank == 0 else {}
        everyone = [each for each in (world.comm.allgather(own) if world.comm else [own]) if each]
        names = list(dict.fromkeys(name for each in everyone for name in each))
        self._versions = {name: join(each.get(name, "unknown") for each in everyone) for name in names}
        self._cpu = self._versions.pop("cpu")
        self._earlier: list[Session] = []
        self._first_step = 0

    def resume(self, earlier: Sequence[Session], step: int) -> None:
        """Continue after other sessions. step: at which this one starts."""
        self._earlier, self._first_step = list(earlier), step

    def until(self, step: int) -> list[Session]:
        """All sessions, of which this one ends now, after this step."""
        return [
            *self._earlier,
            Session(
                start=self._start,
                end=format_time(),
                from_step=self._first_step,
                to_step=step,
                ranks=self._ranks,
                nodes=self._nodes,
                host=self._host,
                cpu=self._cpu,
                versions=self._versions,
            ),
        ]


def describe_versions(world: World) -> dict[str, str]:
    """The versions of all that the bits depend on, or could; "unknown" for those that can't be found.

    commit: of distnet's source, see `find_commit`. source_sha256: of the files that are used, see `hash_source`.
    simd: extensions that NumPy uses.
    """
    configuration: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    simd = configuration.get("SIMD Extensions", {})
    blas = describe_blas()
    return {
        "distnet": __version__,
        "commit": find_commit(PACKAGE),
        "source_sha256": hash_source(PACKAGE),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "simd": " ".join((*simd.get("baseline", ()), *simd.get("found", ()))) or "unknown",
        "blas": join(name for name, _ in blas),
        "kernels": join(kernels for _, kernels in blas),
        "mpi": world.library,
        "processor": os.uname().machine,
    }


def hash_source(package: Path) -> str:
    """sha256 of the names and contents of a package's .py and .toml files."""
    total = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".toml")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode(errors="surrogateescape"))
        total.update(content)
    return total.hexdigest()


def find_commit(package: Path) -> str:
    """The commit of the checkout with this package, or of the one that pip installed it from; "unknown" without one.

    The checkout may have other changes: `hash_source` shows them. Starts no process, since a fork is unsafe under MPI.
    """
    found = ""
    with suppress(OSError, ValueError):
        found = read_head(package.parent / ".git")
    if not found:
        from importlib.metadata import distributions  # slow, and checkouts don't need it

        with suppress(OSError, ValueError, KeyError, TypeError):  # PEP 610
            for each in distributions(name=package.name, path=[str(package.parent)]):
                found = json.loads(each.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"]
    return found if isinstance(found, str) and COMMIT.fullmatch(found) else "unknown"


def read_head(git: Path) -> str:
    """The commit of HEAD. git: the folder .git, or the file of that name in a worktree. Raises OSError, ValueError."""
    if git.is_file():
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    for folder in (git, shared):
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
    lines = (line.split() for line in (shared / "packed-refs").read_text().splitlines())
    return next((words[0] for words in lines if words[1:] == [name]), "")


def build_provenance(
    command: str,
    options: Mapping[str, Any],
    data: Dataset,
    sessions: Sequence[Session],
    parameters_sha256: str,
    exit_status: int,
) -> Provenance:
    """The provenance of a model. Arguments: see `Provenance`."""
    return Provenance(
        format=FORMAT,
        version=VERSION,
        command=command,
        options=json.loads(json.dumps(options)),
        data={"name": data.name, "source": data.source, "sha256": data.fingerprint},
        sessions=list(sessions),
        parameters_sha256=parameters_sha256,
        exit_status=exit_status,
    )


def provenance_path(model: Path) -> Path:
    """The file of a model's provenance, beside the model."""
    return model.with_suffix(".run.json")


def write_provenance(path: Path, provenance: Provenance, subject: str) -> None:
    """Write a provenance file atomically. Raises InputError with this subject. For rank 0."""
    write_content(path, f"{json.dumps(provenance, indent=1)}\n".encode(), subject)


def read_provenance(path: Path) -> Provenance:
    """Read a provenance file. Raises InputError if it is missing, damaged, or of another program. For rank 0."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError("it is a device or a pipe")  # and might never end
        with path.open("rb") as file:
            content = json.loads(file.read(LARGEST_FILE))
        check_provenance(content)
    except OSError as error:
        raise InputError(
            path, f"can't be read ({error.strerror or error})", "name a model with its .run.json beside it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            path, f"is damaged or not a provenance file of distnet's ({first_line(error)})", "restore it"
        ) from None
    return content  # type: ignore[no-any-return]


def check_provenance(content: Any) -> None:
    """Raise ValueError if the content of a file isn't a `Provenance` of this version."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("it is of another program")
    if content.get("version") != VERSION:
        raise ValueError(f"it is of version {content.get('version')!r}, and this distnet reads version {VERSION}")
    if not (has_fields(content, Provenance) and content["sessions"] and are_sessions(content["sessions"])):
        raise ValueError("its content is invalid")


def are_sessions(value: Any) -> bool:
    """Whether a value from a file is a list of sessions."""
    return isinstance(value, list) and all(has_fields(each, Session) for each in value)


def has_fields(value: Any, kind: Any) -> bool:
    """Whether a value from a file is an object with the fields of a TypedDict, each of its type."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), get_origin(hint) or hint) for name, hint in get_type_hints(kind).items()
    )


def describe_environment(sessions: Sequence[Session]) -> dict[str, str]:
    """Ranks, nodes, CPU and versions of all sessions, name -> text. If sessions differ, in their order, with commas."""
    everyone = [
        {"ranks": str(each["ranks"]), "nodes": str(each["nodes"]), "cpu": each["cpu"]} | each["versions"]
        for each in sessions
    ]
    names = dict.fromkeys(name for each in everyone for name in each)
    return {name: join((str(each.get(name, "unknown")) for each in everyone), ", then ") for name in names}


def compare_provenance(then: Provenance, now: Provenance) -> dict[str, tuple[str, str]]:
    """In what two runs differ that could explain other bits: name -> (then, now).

    The names are those of options, such as "--seed", "data", "ranks", "nodes", "cpu", and those of versions.
    """
    left, right = ({**describe_options(each), **describe_environment(each["sessions"])} for each in (then, now))
    names = dict.fromkeys([*left, *right])
    pairs = {name: (left.get(name, "none"), right.get(name, "none")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def describe_options(provenance: Provenance) -> dict[str, str]:
    """The options of a run and its data, name -> text. Other data are other bytes, wherever they are."""
    options = {f"--{name.replace('_', '-')}": json.dumps(value) for name, value in provenance["options"].items()}
    return options | {"data": f"{provenance['data'].get('name')}, sha256 {provenance['data'].get('sha256')}"}


def describe_difference(expected: str | None, found: str, remedy: str) -> str:
    """The line of a command that found other parameters than --expect-sha256 names."""
    return str(InputError(f"--expect-sha256 {expected}", f"the parameters have sha256 {found}", remedy))


def format_time() -> str:
    """Now, as in "2026-11-27T02:54:09Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def join(texts: Any, separator: str = "; ") -> str:
    """The distinct ones of some texts, in their order."""
    return separator.join(dict.fromkeys(texts))
