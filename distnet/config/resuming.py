"""Find the checkpoint to resume from, and check that it is of the same run."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from distnet.config.conflicts import find_ineffective
from distnet.config.options import Config
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.logs import warn
from distnet.training.checkpoint import newest_good, read_checkpoint
from distnet.training.checkpointer import Found

# Options that a resumed run may give anew; all others are part of what is computed.
MAY_CHANGE = {each.name for each in fields(Config) if each.metadata["group"] in ("output", "recovery")}
MAY_CHANGE |= {"data_dir", "epochs", "patience", "preset", "ranks_per_node", "shards", "stack"}


def find_checkpoint(world: World, config: Config) -> Found | None:
    """The checkpoint that config.resume asks for; None where there is none at all. Collective.

    Raises InputError where none is good, or where it is of another run, naming the option that differs.
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
    """Raise InputError where a checkpoint is of another run than `config`'s, naming what differs."""
    now, default = (json.loads(json.dumps(each.to_dict())) for each in (config, Config()))
    then = default | header["config"]  # an option that is newer than the checkpoint
    # Half a cosine wave is as long as the run.
    decisive = set(now) - MAY_CHANGE | ({"epochs"} if config.schedule == "cosine" else set())
    follows = {"learning_rate", *find_ineffective(config)}  # reset or chosen by another option, which is named first
    for name in sorted(decisive, key=lambda name: (name in follows, name)):
        # A table may have moved: its sha256 is compared once it is read.
        is_moved = name == "dataset" and without_path(now[name]) == without_path(then[name])
        if now[name] != then[name] and not is_moved:
            raise InputError(
                f"--{name.replace('_', '-')} {now[name]}",
                f"{path} was made with {then[name]}",
                "give it the same, or start over with another --checkpoint-dir",
            )
    done = header["epochs_done"]
    if (done, header["steps_done"]) > (config.epochs, 0):
        raise InputError(f"--epochs {config.epochs}", f"{path} is beyond that, in epoch {done + 1}", "use more epochs")
    if config.shards not in (None, header["shards"]):
        raise InputError(
            f"--shards {config.shards}", f"{path} was made with {header['shards']}", f"use --shards {header['shards']}"
        )
    if header["shards"] < ranks:
        raise InputError(
            path,
            f"was made with {header['shards']} shards, and {ranks} ranks need one each",
            f"use {header['shards']} ranks or fewer",
        )


def without_path(dataset: object) -> str:
    """What is to be learned, as --dataset has it, but for where a table is: "csv:" of "csv:FILE"."""
    kind, colon, _ = str(dataset).partition(":")
    return kind + colon
