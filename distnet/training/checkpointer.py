"""When a run is checkpointed, how it resumes, and how a request stops it between two steps."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from distnet.parallel.world import World
from distnet.runtime.arrays import Array
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_RESUMABLE, EXIT_UNWRITTEN
from distnet.runtime.files import write_content
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
from distnet.training.provenance import Sessions
from distnet.training.signals import stop_requests
from distnet.training.trainer import Trainer

Result = TypeVar("Result")

# Requests from each rank, summed at every step.
SAVE, STOP = 1, 1024


class Found(NamedTuple):
    """A checkpoint to resume from: its path, its header, and, on rank 0 only, its arrays."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, Array]


@dataclass(frozen=True)
class CheckpointPlan:
    """Where checkpoints are written, how often, and how many of the newest are kept.

    every: a number and its unit, "epoch", "steps" or "s". keep: a number, or ALL.
    """

    directory: Path
    every: tuple[int, str]
    keep: int | str


class Checkpointer(Callback):
    """Writes checkpoints of one run, and stops it on request.

    options: of the run, as JSON; fingerprint: sha256 of the data. A checkpoint holds both, and the sessions.
    on_checkpoint: called with the path of each checkpoint that is on the disk. Rank 0 writes in a thread, so that
    training does not wait for the disk. on_checkpoint runs in that thread, and what it raises is raised again by the
    next method that saves or ends.
    Collective: every method.
    """

    phase = "checkpoint"

    def __init__(
        self,
        world: World,
        plan: CheckpointPlan,
        options: dict[str, Any],
        fingerprint: str,
        sessions: Sessions,
        on_checkpoint: Callable[[Path], object] | None = None,
    ) -> None:
        self.world, self.options, self.fingerprint, self.on_checkpoint = world, options, fingerprint, on_checkpoint
        self.sessions = sessions
        self.directory, self.keep = plan.directory, plan.keep
        self.number, self.unit = plan.every
        self._next = time.monotonic() + self.number
        self._is_due = False
        self._saved: tuple[int, int] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint writer")
        self._last: Future[bool] | None = None

    def resume(self, trainer: Trainer, found: Found) -> None:
        """Continue from a checkpoint. Raises InputError, on every rank, if it is of other data or another network."""
        header = found.header
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
        self.sessions.resume(header.get("sessions", []), trainer.global_step)
        self._saved = trainer.epochs_done, trainer.steps_done

    def prepare(self) -> None:
        """Remove an earlier run's temporary files and its record of completion. Call it when nothing can be refused."""

        def clear() -> None:
            try:
                remove_temporaries(self.directory)
                (self.directory / COMPLETED).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(
                    f"--checkpoint-dir {self.directory}", f"can't be written ({error.strerror})", "name another folder"
                ) from None

        self.world.on_root(clear)

    def start(self, trainer: Trainer) -> None:
        """Request from every rank, at every step, what this one needs."""
        trainer.exchange.request = lambda: SAVE * self._is_due + STOP * stop_requests.pending

    def wants_steps(self) -> bool:
        """Always: a request to stop may come at any step."""
        return True

    def after_step(self, trainer: Trainer) -> bool:
        """Save if it is time to. Returns whether to stop here."""
        requests = trainer.exchange.requests
        if self.unit == "steps" and trainer.global_step % self.number == 0:
            self.save(trainer)
        elif self.unit == "s":
            if requests % STOP:
                self._is_due = False
                self.save(trainer)
                self._next = time.monotonic() + self.number
            elif self.world.rank == 0 and time.monotonic() >= self._next:
                self._is_due = True
        if requests < STOP:
            return False
        self.save(trainer)
        return True

    def after_epoch(self, trainer: Trainer, epoch: Epoch) -> bool:
        """Save if it is time to."""
        if self.unit == "epoch" and trainer.epochs_done % self.number == 0:
            self.save(trainer)
        return False

    def save(self, trainer: Trainer) -> None:
        """Gather the state and start to write it, unless training has diverged. Waits for the checkpoint before."""
        if trainer.diverged or not trainer.is_finite():
            return
        if self._saved == (trainer.epochs_done, trainer.steps_done):
            return
        self._saved = trainer.epochs_done, trainer.steps_done
        check_replicas(self.world, trainer.exchange.parameters)
        arrays = trainer.state()
        if self.world.rank:
            return
        header = {
            "epochs_done": trainer.epochs_done,
            "steps_done": trainer.steps_done,
            "optimizer_steps": trainer.optimizer.steps,
            "shards": trainer.shards,
            "config": self.options,
            "fingerprint": self.fingerprint,
            "history": [*trainer.history.records],  # which grow while the thread writes
            "sessions": self.sessions.until(trainer.global_step),
        }
        self._wait()
        path = checkpoint_path(self.directory, trainer.global_step)
        self._last = self._thread.submit(self._write, path, Checkpoint(header, arrays))

    def finish_stopped(self, trainer: Trainer) -> int:
        """Print where training stopped; returns the exit status. For a run that `after_step` stopped."""

        def report(is_written: bool) -> int:
            stopped = f"stopped {trainer.position()}"
            if not is_written:
                warn(f"{stopped}; its checkpoint could not be written")
                return EXIT_UNWRITTEN
            warn(f"{stopped}, checkpoint written; run it again with --checkpoint-dir {self.directory} --resume")
            return EXIT_RESUMABLE

        return self._finish(report)

    def finish_diverged(self) -> str | None:
        """The path of the newest checkpoint, which is from before training diverged; None if there is none."""
        return self._finish(lambda _: next(map(str, checkpoints(self.directory)), None))

    def finish_complete(self, trainer: Trainer, parameters_sha256: str) -> int:
        """Record that the run is complete; returns the exit status."""

        def record(is_written: bool) -> int:
            position = {"epoch": trainer.epochs_done, "step": trainer.global_step}
            content = json.dumps(position | {"parameters_sha256": parameters_sha256})
            subject = f"--checkpoint-dir {self.directory}"
            try:
                write_content(self.directory / COMPLETED, content.encode(), f"{subject}: {COMPLETED}")
            except InputError as error:
                warn(str(error))
                return EXIT_UNWRITTEN
            if not is_written:
                warn(f"{subject}: the last checkpoint could not be written")
                return EXIT_UNWRITTEN
            return 0

        return self._finish(record)

    def _write(self, path: Path, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, in the thread. Returns False, after a message, if the disk refuses it."""
        try:
            write_checkpoint(path, checkpoint, self.keep)
        except OSError as error:
            warn(f"checkpoint {path}: can't be written ({error.strerror}); training goes on, the next one is tried")
            return False
        logger.info(f"checkpoint {path} is on the disk")
        if self.on_checkpoint is not None:
            self.on_checkpoint(path)
        return True

    def _wait(self) -> bool:
        """Wait for the last checkpoint; returns False if it could not be written. Raises what on_checkpoint raised."""
        return self._last is None or self._last.result()

    def _finish(self, report: Callable[[bool], Result]) -> Result:
        """Wait for the last checkpoint, ignore signals from then on, and return what rank 0's `report` returns.

        report: called with whether the checkpoint was written.
        """

        def finish() -> Result:
            is_written = self._wait()
            self._thread.shutdown()
            return report(is_written)

        result = self.world.on_root(finish)
        stop_requests.ignore()
        return result


def check_directory(directory: Path, resume: bool) -> None:
    """Raise InputError if a run that does not resume would mix its checkpoints with another's. For rank 0."""
    if not resume and checkpoints(directory):
        raise InputError(
            f"--checkpoint-dir {directory}",
            "there are checkpoints in it",
            "continue from them with --resume, or name another folder",
        )


def check_arrays(found: Found, trainer: Trainer) -> None:
    """Raise InputError if a checkpoint's arrays are not those of this network. For rank 0."""
    parameters, steps_done = trainer.exchange.parameters, found.header["steps_done"]
    expected = dict.fromkeys(["parameters", *trainer.parts()], (parameters.size, parameters.dtype))
    if steps_done:
        expected["losses"] = (trainer.loss_parts.size, trainer.loss_parts.dtype)
    sizes = {name: (array.size, array.dtype) for name, array in found.arrays.items()}
    if sizes != expected or steps_done > trainer.steps_per_epoch:
        raise InputError(f"checkpoint {found.path}", "its arrays are not those of this network", "use another one")


def check_replicas(world: World, parameters: Array) -> None:
    """Raise RuntimeError, which names the node, if two nodes' parameters differ in any bit. Collective."""
    if world.nodes == 1 or world.comm is None:
        return
    own = hashlib.sha256(parameters.data).hexdigest() if world.node_rank == 0 else ""
    digests = world.comm.allgather((world.node, own))
    first = digests[0][1]
    for node, other in digests:
        if other and other != first:
            raise RuntimeError(f"node {node} holds parameters {other[:8]}..., node 0 {first[:8]}...")
