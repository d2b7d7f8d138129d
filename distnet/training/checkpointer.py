"""When a run is checkpointed, how it goes on from there, and how a request stops it between two steps."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distnet import __version__
from distnet.config.conflicts import without_effect
from distnet.config.options import Config
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError, input_error_on_every_rank
from distnet.runtime.failure import COME_AGAIN, UNWRITTEN
from distnet.runtime.files import check_folder, write_content
from distnet.runtime.logs import log
from distnet.runtime.streams import say
from distnet.training.checkpoint import (
    COMPLETED,
    Checkpoint,
    checkpoint_path,
    checkpoints,
    newest_good,
    read_checkpoint,
    remove_temporaries,
    write_checkpoint,
)
from distnet.training.lock import FolderLock
from distnet.training.stop_requests import stop_requests
from distnet.training.trainer import Trainer

# What ranks ask of each other at every step: these numbers are added up.
SAVE, STOP = 1, 1024
PATIENCE = 3.0  # seconds for a run that has just been ended to be gone
# Options that a resumed run may give anew; all others are part of what is computed.
MAY_CHANGE = {each.name for each in fields(Config) if each.metadata["group"] in ("output", "recovery")}
MAY_CHANGE |= {"data_dir", "epochs", "patience", "preset", "ranks_per_node", "shards", "stack"}


class Writer:
    """A thread of rank 0 that writes checkpoints, so that training doesn't wait for the disk.

    on_checkpoint: told, in that thread, of each that is on the disk; what it raises, `write` and `finish` do.
    """

    def __init__(self, keep: int, on_checkpoint: Callable[[Path], object] | None) -> None:
        self.keep, self.on_checkpoint = keep, on_checkpoint
        self.error: OSError | None = None
        self._trouble: BaseException | None = None
        self._jobs: queue.Queue[tuple[Path, Checkpoint] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._work, name="checkpoint writer", daemon=True)
        self._thread.start()

    def write(self, path: Path, checkpoint: Checkpoint) -> None:
        """Write soon; waits only where the one before the last isn't written yet."""
        self._jobs.put((path, checkpoint))
        self._check()

    def finish(self) -> None:
        """Wait until everything is written, or has failed. Nothing can be written afterwards."""
        self._jobs.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        """Raise in the thread that trains, where MPI can end the others, what went wrong in this one's."""
        if self._trouble is not None:
            raise self._trouble

    def _work(self) -> None:
        while job := self._jobs.get():
            path, checkpoint = job
            try:
                self.error = self._written(path, checkpoint)
                if self.error is None:
                    log(f"checkpoint {path} is on the disk")
                    if self.on_checkpoint is not None:
                        self.on_checkpoint(path)
            except SystemExit as trouble:
                self._trouble = RuntimeError("sys.exit in on_checkpoint")
                self._trouble.__cause__ = trouble
            except BaseException as trouble:
                self._trouble = trouble

    def _written(self, path: Path, checkpoint: Checkpoint) -> OSError | None:
        """Write; returns what the disk had against it."""
        try:
            write_checkpoint(path, checkpoint, self.keep)
        except OSError as error:
            say(f"checkpoint {path}: can't be written ({error.strerror}); training goes on, the next one is tried")
            return error
        return None


class Found(NamedTuple):
    """A checkpoint to go on from: where it was, its header, and, on rank 0 alone, its arrays."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, Array]


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
        elif good := newest_good(config.checkpoint_dir, say):
            path, checkpoint = good
        else:
            say(f"no checkpoint in {config.checkpoint_dir}: starting fresh")
            return None
        check_same_run(path, checkpoint.header, config, world.size)
        arrays.update(checkpoint.arrays)
        return path, checkpoint.header

    found = world.on_root(find)
    return found and Found(*found, arrays)


def check_same_run(path: Path, header: dict[str, Any], config: Config, ranks: int) -> None:
    """Raise InputError where a checkpoint is of another run than `config`'s, naming what differs."""
    now, default = (json.loads(json.dumps(each.described())) for each in (config, Config()))
    then = default | header["config"]  # an option that is newer than the checkpoint
    # Half a cosine wave is as long as the run.
    decisive = set(now) - MAY_CHANGE | ({"epochs"} if config.schedule == "cosine" else set())
    follows = {"learning_rate", *without_effect(config)}  # reset or chosen by another option, which is named first
    for name in sorted(decisive, key=lambda name: (name in follows, name)):
        # A table may have moved: its sha256 is compared once it is read.
        is_moved = name == "dataset" and without_path(now[name]) == without_path(then[name])
        if now[name] != then[name] and not is_moved:
            raise InputError(
                f"--{name.replace('_', '-')} {now[name]}: {path} was made with {then[name]}; "
                "give it the same, or start over with another --checkpoint-dir"
            )
    if config.validation and "split_seed" not in header["config"]:
        raise InputError(
            f"--validation {config.validation}: {path} was made by a distnet that held out other samples; "
            "start over with another --checkpoint-dir"
        )
    done = header["epochs_done"]
    if (done, header["steps_done"]) > (config.epochs, 0):
        raise InputError(f"--epochs {config.epochs}: {path} is beyond that, in epoch {done + 1}; use more epochs")
    if config.shards not in (None, header["shards"]):
        raise InputError(
            f"--shards {config.shards}: {path} was made with {header['shards']}; use --shards {header['shards']}"
        )
    if header["shards"] < ranks:
        raise InputError(
            f"{path} was made with {header['shards']} shards, and {ranks} ranks need one each; "
            f"use {header['shards']} ranks or fewer"
        )


def without_path(dataset: object) -> str:
    """What is to be learned, as --dataset has it, but for where a table is: "csv:" of "csv:FILE"."""
    kind, colon, _ = str(dataset).partition(":")
    return kind + colon


def check_arrays(found: Found, trainer: Trainer) -> None:
    """Raise InputError where a checkpoint's arrays aren't those of this network. Collective: no, for rank 0."""
    parameters, steps_done = trainer.exchange.parameters, found.header["steps_done"]
    right = dict.fromkeys(["parameters", *trainer.parts()], (parameters.size, parameters.dtype))
    if steps_done:
        right["losses"] = (trainer.losses.size, trainer.losses.dtype)
    there = {name: (array.size, array.dtype) for name, array in found.arrays.items()}
    if there != right or steps_done > trainer.steps_per_epoch:
        raise InputError(f"checkpoint {found.path}: its arrays are not those of this network; use another one")


class Requests:
    """What this rank asks of all at a step. save: whether it is time to; to stop, where that was requested of it."""

    def __init__(self) -> None:
        self.save = False

    def __call__(self) -> int:
        """The number that all ranks' are added to. Collective: no."""
        return SAVE * self.save + STOP * stop_requests.pending


class Checkpointing:
    """Checkpoints of one run, into config.checkpoint_dir.

    fingerprint: sha256 of the data. history: the metrics of every epoch so far, which a checkpoint keeps.
    on_checkpoint: see Writer.
    Collective: yes, every method that doesn't say otherwise.
    """

    def __init__(
        self,
        world: World,
        trainer: Trainer,
        config: Config,
        fingerprint: str,
        history: list[dict[str, Any]],
        on_checkpoint: Callable[[Path], object] | None = None,
    ) -> None:
        assert config.checkpoint_dir is not None
        self.world, self.trainer, self.config = world, trainer, config
        self.directory, self.fingerprint, self.history = config.checkpoint_dir, fingerprint, history
        self.number, self.unit = config.checkpoint_every
        self._writer = Writer(config.keep, on_checkpoint) if world.rank == 0 else None
        self._next = time.monotonic() + self.number
        self._requests = trainer.exchange.ask = Requests()
        self._saved: tuple[int, int] | None = None

    def resume(self, found: Found) -> str:
        """Go on from a checkpoint that `find_checkpoint` gave; returns what to tell."""
        trainer, header = self.trainer, found.header
        if header["fingerprint"] != self.fingerprint:
            raise input_error_on_every_rank(
                f"--dataset {self.config.dataset}: {found.path} was made with other data; use the same files"
            )
        self.world.on_root(lambda: check_arrays(found, trainer))
        trainer.restore(header["epochs_done"], header["steps_done"], header["optimizer_steps"], found.arrays)
        self.history[:] = header["history"]
        self._saved = trainer.epochs_done, trainer.steps_done
        return f"resumed from {found.path}"

    def start(self) -> None:
        """Remove what an earlier run left that isn't true any more; to be called once nothing is left to refuse."""

        def clear() -> None:
            try:
                remove_temporaries(self.directory)
                (self.directory / COMPLETED).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(
                    f"--checkpoint-dir {self.directory}: can't be written ({error.strerror}); name another folder"
                ) from None

        self.world.on_root(clear)

    def after_step(self) -> bool:
        """To be called after every step: save where it is time to. Returns whether to stop here."""
        trainer = self.trainer
        asked = trainer.exchange.asked
        if self.unit == "steps" and trainer.global_step % self.number == 0:
            self.save()
        elif self.unit == "s":
            if asked % STOP:
                self._requests.save = False
                self.save()
                self._next = time.monotonic() + self.number
            elif self.world.rank == 0 and time.monotonic() >= self._next:
                self._requests.save = True
        if asked < STOP:
            return False
        self.save()
        return True

    def after_epoch(self) -> None:
        """To be called after every epoch: save where it is time to."""
        if self.unit == "epoch" and self.trainer.epochs_done % self.number == 0:
            self.save()

    def save(self) -> None:
        """Gather the state and have it written, unless training has diverged."""
        trainer = self.trainer
        if trainer.diverged or not trainer.is_finite():
            return
        if self._saved == (trainer.epochs_done, trainer.steps_done):
            return
        self._saved = trainer.epochs_done, trainer.steps_done
        check_replicas(self.world, trainer.exchange.parameters)
        arrays = trainer.state()
        if self._writer is None:
            return
        header = {
            "epochs_done": trainer.epochs_done,
            "steps_done": trainer.steps_done,
            "optimizer_steps": trainer.optimizer.steps,
            "shards": trainer.shards,
            "config": self.config.described(),
            "fingerprint": self.fingerprint,
            "history": self.history,
            "versions": versions(),
        }
        # By its own text: the history grows while the thread writes.
        header = json.loads(json.dumps(header))
        self._writer.write(checkpoint_path(self.directory, trainer.global_step), Checkpoint(header, arrays))

    def stopped(self) -> int:
        """Wait for the last checkpoint, tell what happened, and return the status. After `after_step` said so."""

        def tell() -> int:
            assert self._writer is not None
            self._writer.finish()
            trainer = self.trainer
            if self._writer.error is not None:
                say(f"stopped {trainer.position()}; its checkpoint could not be written")
                return UNWRITTEN
            say(
                f"stopped {trainer.position()}, checkpoint written; "
                f"run it again with --checkpoint-dir {self.directory} --resume"
            )
            return COME_AGAIN

        status = self.world.on_root(tell)
        stop_requests.ignore()
        return status

    def diverged(self) -> str | None:
        """Wait for the last checkpoint, and return the newest one, from before training diverged, if there is one."""

        def newest() -> str | None:
            assert self._writer is not None
            self._writer.finish()
            found = checkpoints(self.directory)
            return str(found[0]) if found else None

        path = self.world.on_root(newest)
        stop_requests.ignore()
        return path

    def completed(self, parameters_sha256: str) -> int:
        """Wait for the last checkpoint and record that the run is complete. Returns the status."""

        def record() -> int:
            assert self._writer is not None
            self._writer.finish()
            trainer = self.trainer
            content = {
                "epoch": trainer.epochs_done,
                "step": trainer.global_step,
                "parameters_sha256": parameters_sha256,
            }

            path = self.directory / COMPLETED
            try:
                write_content(path, json.dumps(content).encode(), f"--checkpoint-dir {self.directory}: {COMPLETED}")
            except InputError as error:
                say(str(error))
                return UNWRITTEN
            if self._writer.error is not None:
                say(f"--checkpoint-dir {self.directory}: the last checkpoint could not be written")
                return UNWRITTEN
            return 0

        status = self.world.on_root(record)
        stop_requests.ignore()
        return status


@contextmanager
def locked(world: World, directory: Path | None) -> Iterator[None]:
    """Keep other runs out of the checkpoint directory, where there is one. Collective.

    Raises InputError where another run is there, or the directory can't be made.
    """
    lock = FolderLock(directory) if directory and world.rank == 0 else None

    def acquire() -> None:
        if lock is None:
            return
        assert directory is not None
        check_folder(directory, "--checkpoint-dir")
        try:
            free = lock.acquire(PATIENCE)
        except OSError as error:
            say(f"--checkpoint-dir {directory}: can't be locked ({error.strerror}); let no other run write there")
            return
        if not free:
            raise InputError(
                f"--checkpoint-dir {directory}: another run writes there ({lock.holder()}); "
                "wait for its end, or name another folder"
            )

    world.on_root(acquire)
    try:
        yield
    finally:
        if lock:
            lock.release()


def check_directory(directory: Path, resume: bool) -> None:
    """Raise InputError where a run that doesn't resume would mix its checkpoints with another's.

    Collective: no, for rank 0.
    """
    if not resume and checkpoints(directory):
        raise InputError(
            f"--checkpoint-dir {directory}: there are checkpoints in it; go on from them with --resume, "
            "or name another folder"
        )


def check_replicas(world: World, parameters: Array) -> None:
    """Raise RuntimeError, naming the node, where nodes don't hold the same parameters to the bit. Collective."""
    if world.nodes == 1 or world.comm is None:
        return
    mine = hashlib.sha256(parameters.data).hexdigest() if world.node_rank == 0 else ""
    everyone = world.comm.allgather((world.node, mine))
    for node, theirs in everyone:
        if theirs and theirs != everyone[0][1]:
            raise RuntimeError(f"node {node} holds parameters {theirs[:8]}..., node 0 {everyone[0][1][:8]}...")


def versions() -> dict[str, str]:
    """What the bits depend on beside the configuration."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "distnet": __version__,
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "processor": os.uname().machine,
    }
