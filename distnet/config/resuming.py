"""Find the checkpoint to resume from, and check that it belongs to the same run."""

import json
from pathlib import Path
from typing import Any

from distnet.config.building import UNCOMPUTED
from distnet.config.conflicts import find_ineffective
from distnet.config.options import Config, to_flag
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn
from distnet.runtime.text import format_count
from distnet.training.checkpoint import newest_good, read_checkpoint
from distnet.training.checkpointer import Found

# Options that may change when a run is resumed. All others decide what is computed.
MAY_CHANGE = UNCOMPUTED | {"data_dir", "epochs", "patience", "preset", "ranks_per_node", "shards", "stack"}


def find_checkpoint(world: World, config: Config) -> Found | None:
    """The checkpoint that --resume requests; None if there is none at all. Collective.

    Raises InputError if no checkpoint is good, or it belongs to another run.
    """
    arrays: dict[str, Array] = {}

    def find() -> tuple[Path, dict[str, Any]] | None:
        assert config.checkpoint_dir is not None
        if config.resume:
            path = Path(config.resume)
            checkpoint = read_checkpoint(path)
        elif good := newest_good(config.checkpoint_dir, warn):
            path, checkpoint = good
        else:
            warn(f"no checkpoint in {config.checkpoint_dir}: starting fresh")
            return None
        check_same_run(path, checkpoint.header, config, world.size)
        arrays.update(checkpoint.arrays)
        return path, checkpoint.header

    found = world.on_root(find)
    return found and Found(*found, arrays)


def check_same_run(path: Path, header: dict[str, Any], config: Config, ranks: int) -> None:
    """Raise InputError, which names what differs, if a checkpoint belongs to another run than `config`'s."""
    now = json.loads(json.dumps(config.to_dict()))
    then = json.loads(json.dumps(Config().to_dict())) | header["config"]  # of a version with fewer options
    if label := then.pop("label", None):  # of a version before --target
        then["target"] = [label]
    # Half a cosine wave is as long as the run.
    decisive = set(now) - MAY_CHANGE | ({"epochs"} if config.schedule == "cosine" else set())
    follows = {"learning_rate", *find_ineffective(config)}  # changed by another option, which is named first
    for name in sorted(decisive, key=lambda name: (name in follows, name)):
        # A table may have moved: its sha256 is compared when it is read.
        kind, colon, _ = str(now[name]).partition(":")
        is_moved = bool(name == "dataset" and colon and str(then[name]).startswith(f"{kind}:"))
        is_moved |= name == "validation_data" and None not in (now[name], then[name])
        if now[name] != then[name] and not is_moved:
            problem = f"got {now[name]}, but {path} was made with {then[name]}"
            raise InputError(to_flag(name), problem, "use the same value, or start over with another --checkpoint-dir")
    done = header["epochs_done"]
    if (done, header["steps_done"]) > (config.epochs, 0):
        raise InputError("--epochs", f"got {config.epochs}, but {path} is in epoch {done + 1}", "use more epochs")
    if config.arithmetic == "portable":
        return
    if config.shards not in (None, header["shards"]):
        problem = f"got {config.shards}, but {path} was made with {header['shards']}"
        raise InputError("--shards", problem, f"use --shards {header['shards']}")
    if header["shards"] < ranks:
        problem = f"was made with {format_count(header['shards'], 'shard')}, and {ranks} ranks need one each"
        raise InputError(path, problem, f"use {format_count(header['shards'], 'rank')} or fewer")
