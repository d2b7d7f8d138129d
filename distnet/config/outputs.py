"""Check, before a run, whether its results can be written, and that they overwrite nothing."""

from contextlib import suppress
from pathlib import Path

from distnet.config.options import Config
from distnet.config.reading import WRITTEN, to_toml
from distnet.datasets.folders import find_files
from distnet.datasets.names import DATA_FOLDER, DEFAULT, TABLES
from distnet.reporting.tensorboard import Board
from distnet.runtime.errors import InputError
from distnet.runtime.files import check_folder, check_writable, is_same_file
from distnet.runtime.logs import log_path
from distnet.training.checkpoint import OURS
from distnet.training.checkpointer import check_directory


def check_outputs(config: Config, ranks: int) -> None:
    """Find out before the training whether its results can be written, and over what. For rank 0."""
    check_distinct(config, ranks)
    for name, path in config.outputs.items():
        check_writable(path, name)
    if config.model:
        check_config_file(config, config.model.with_suffix(".toml"))
    if config.log_dir:
        check_folder(config.log_dir, "--log-dir")
    if config.tensorboard:
        Board(config.tensorboard)
    if config.checkpoint_dir:
        check_directory(config.checkpoint_dir, config.resume is not None)


def check_distinct(config: Config, ranks: int) -> None:
    """Raise InputError where two outputs are one file, or an output is a file that the run reads or keeps.

    For rank 0.
    """
    taken = {f"the file of {name}": path for name, path in inputs(config).items()}
    if config.log_dir:
        taken |= {f"a log of --log-dir (rank {rank})": log_path(config.log_dir, rank, ranks) for rank in range(ranks)}
    for name, path in config.outputs.items():
        for what, other in taken.items():
            if is_same_file(path, other):
                raise InputError(f"{name} {path}", f"is {what}", "name another file")
        folder = config.checkpoint_dir
        if folder and OURS.fullmatch(path.name) and path.parent.resolve() == folder.resolve():
            raise InputError(f"{name} {path}", "such files in --checkpoint-dir are the run's own", "name another file")
        taken[f"the file of {name}"] = path


def inputs(config: Config) -> dict[str, Path]:
    """The files that a run reads, by what names them; --config's is known to `read_config`."""
    dataset = config.dataset or DEFAULT
    kind, _, table = dataset.partition(":")
    found: dict[str, Path] = {"--resume": Path(config.resume)} if config.resume else {}
    if kind in TABLES:
        return found | {"--dataset": Path(table)}
    with suppress(InputError):  # that files are missing is told when they are read
        files = find_files(dataset, config.data_dir or DATA_FOLDER) if dataset != "synthetic" else None
        found |= {f"--dataset ({path.name})": path for path in files or []}
    return found


def check_config_file(config: Config, path: Path) -> None:
    """Raise InputError where the configuration can't be written to `path`, or what is there isn't ours."""
    if path.is_file() and not path.read_bytes().startswith(WRITTEN.encode()):
        raise InputError(
            f"--model {config.model}",
            f"its configuration would replace {path}, which distnet didn't write",
            "name another model",
        )
    try:
        to_toml(config).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"--model {config.model}",
            "its configuration can't be written, for a path in it isn't text",
            "name other files",
        ) from None
