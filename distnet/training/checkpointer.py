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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distnet import __version__
from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_RESUMABLE, EXIT_UNWRITTEN
from distnet.runtime.files import check_folder, write_content
from distnet.runtime.logs import logger, warn
from distnet.training.callbacks import Callback
from distnet.training.checkpoint import (
    COMPLETED,
    Checkpoint,
    checkpoint_path,
    checkpoints,
    remove_temporaries,
    write_checkpoint,
)
from distnet.training.history import Epoch
from distnet.training.lock import FolderLock
from distnet.training.stop_requests import stop_requests
from distnet.training.trainer import Trainer

# Requests from each rank, summed at every step.
SAVE, STOP = 1, 1024
PATIENCE = 3.0  # seconds for a run that has just been ended to be gone


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
                    logger.info(f"checkpoint {path} is on the disk")
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
            warn(f"checkpoint {path}: can't be written ({error.strerror}); training goes on, the next one is tried")
            return error
        return None


class Found(NamedTuple):
    """A checkpoint to go on from: where it was, its header, and, on rank 0 alone, its arrays."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, Array]


def check_arrays(found: Found, trainer: Trainer) -> None:
    """Raise InputError where a checkpoint's arrays aren't those of this network. For rank 0."""
    parameters, steps_done = trainer.exchange.parameters, found.header["steps_done"]
    right = dict.fromkeys(["parameters", *trainer.parts()], (parameters.size, parameters.dtype))
    if steps_done:
        right["losses"] = (trainer.losses.size, trainer.losses.dtype)
    there = {name: (array.size, array.dtype) for name, array in found.arrays.items()}
    if there != right or steps_done > trainer.steps_per_epoch:
        raise InputError(f"checkpoint {found.path}", "its arrays are not those of this network", "use another one")


class Requests:
    """What this rank asks of all at a step. save: whether it is time to; to stop, where that was requested of it."""

    def __init__(self) -> None:
        self.save = False

    def __call__(self) -> int:
        """The number that all ranks' are added to."""
        return SAVE * self.save + STOP * stop_requests.pending


@dataclass(frozen=True)
class CheckpointPlan:
    """Where checkpoints go, how often they are written, and how many of the newest are kept.

    every: a number and its unit, "epoch", "steps" or "s".
    """

    directory: Path
    every: tuple[int, str]
    keep: int


class Checkpointer(Callback):
    """Writes checkpoints of one run, and stops it where that was requested.

    options: of the run, as JSON; fingerprint: sha256 of the data. A checkpoint holds both. on_checkpoint: see Writer.
    Collective: every method.
    """

    phase = "checkpoint"

    def __init__(
        self,
        trainer: Trainer,
        plan: CheckpointPlan,
        options: dict[str, Any],
        fingerprint: str,
        on_checkpoint: Callable[[Path], object] | None = None,
    ) -> None:
        self.world, self.trainer = trainer.world, trainer
        self.directory, self.options, self.fingerprint = plan.directory, options, fingerprint
        self.number, self.unit = plan.every
        self._writer = Writer(plan.keep, on_checkpoint) if trainer.world.rank == 0 else None
        self._next = time.monotonic() + self.number
        self._requests = trainer.exchange.request = Requests()
        self._saved: tuple[int, int] | None = None

    def resume(self, found: Found) -> str:
        """Go on from a checkpoint that `find_checkpoint` gave; returns what to tell."""
        trainer, header = self.trainer, found.header
        if header["fingerprint"] != self.fingerprint:
            raise InputError(
                f"--dataset {self.options['dataset']}",
                f"{found.path} was made with other data",
                "use the same files",
                on_every_rank=True,
            )
        self.world.on_root(lambda: check_arrays(found, trainer))
        trainer.restore(header["epochs_done"], header["steps_done"], header["optimizer_steps"], found.arrays)
        trainer.history.records[:] = header["history"]
        self._saved = trainer.epochs_done, trainer.steps_done
        return f"resumed from {found.path}"

    def prepare(self) -> None:
        """Remove what an earlier run left and is no longer true. Call it once nothing is left to refuse."""

        def clear() -> None:
            try:
                remove_temporaries(self.directory)
                (self.directory / COMPLETED).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(
                    f"--checkpoint-dir {self.directory}", f"can't be written ({error.strerror})", "name another folder"
                ) from None

        self.world.on_root(clear)

    def after_step(self, trainer: Trainer) -> bool:
        """Save when it is time to. Returns whether to stop here."""
        requests = trainer.exchange.requests
        if self.unit == "steps" and trainer.global_step % self.number == 0:
            self.save()
        elif self.unit == "s":
            if requests % STOP:
                self._requests.save = False
                self.save()
                self._next = time.monotonic() + self.number
            elif self.world.rank == 0 and time.monotonic() >= self._next:
                self._requests.save = True
        if requests < STOP:
            return False
        self.save()
        return True

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Save when it is time to."""
        if self.unit == "epoch" and trainer.epochs_done % self.number == 0:
            self.save()
        return False

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
            "config": self.options,
            "fingerprint": self.fingerprint,
            "history": trainer.history.records,
            "versions": versions(),
        }
        # By its own text: the history grows while the thread writes.
        header = json.loads(json.dumps(header))
        self._writer.write(checkpoint_path(self.directory, trainer.global_step), Checkpoint(header, arrays))

    def finish_stopped(self) -> int:
        """Wait for the last checkpoint, tell what happened, and return the status. After `after_step` said so."""

        def tell() -> int:
            assert self._writer is not None
            self._writer.finish()
            trainer = self.trainer
            if self._writer.error is not None:
                warn(f"stopped {trainer.position()}; its checkpoint could not be written")
                return EXIT_UNWRITTEN
            warn(
                f"stopped {trainer.position()}, checkpoint written; "
                f"run it again with --checkpoint-dir {self.directory} --resume"
            )
            return EXIT_RESUMABLE

        status = self.world.on_root(tell)
        stop_requests.ignore()
        return status

    def finish_diverged(self) -> str | None:
        """Wait for the last checkpoint, and return the newest one, from before training diverged, if there is one."""

        def newest() -> str | None:
            assert self._writer is not None
            self._writer.finish()
            found = checkpoints(self.directory)
            return str(found[0]) if found else None

        path = self.world.on_root(newest)
        stop_requests.ignore()
        return path

    def finish_complete(self, parameters_sha256: str) -> int:
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
                warn(str(error))
                return EXIT_UNWRITTEN
            if self._writer.error is not None:
                warn(f"--checkpoint-dir {self.directory}: the last checkpoint could not be written")
                return EXIT_UNWRITTEN
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
            warn(f"--checkpoint-dir {directory}: can't be locked ({error.strerror}); let no other run write there")
            return
        if not free:
            raise InputError(
                f"--checkpoint-dir {directory}",
                f"another run writes there ({lock.holder()})",
                "wait for its end, or name another folder",
            )

    world.on_root(acquire)
    try:
        yield
    finally:
        if lock:
            lock.release()


def check_directory(directory: Path, resume: bool) -> None:
    """Raise InputError where a run that doesn't resume would mix its checkpoints with another's.

    For rank 0.
    """
    if not resume and checkpoints(directory):
        raise InputError(
            f"--checkpoint-dir {directory}",
            "there are checkpoints in it",
            "go on from them with --resume, or name another folder",
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
