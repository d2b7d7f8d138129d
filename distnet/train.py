"""Train a network on all ranks: python -m distnet.train."""

from distnet.runtime import command, failure, logs
from distnet.training.signals import stop_requests

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail
    stop_requests.hold()

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from distnet.config.building import build_trainer, load_dataset
from distnet.config.options import Config
from distnet.config.reading import read_config
from distnet.config.results import Results, check_outputs
from distnet.config.resuming import find_checkpoint
from distnet.datasets.options import TABLES
from distnet.network import NeuralNetwork
from distnet.parallel.launched import launched_world, together
from distnet.parallel.world import World
from distnet.reporting.console import Console, describe_run
from distnet.reporting.metrics import MetricsFile
from distnet.reporting.profile import Profile
from distnet.reporting.tensorboard import Board
from distnet.runtime.logs import log_rank, logger
from distnet.training.callbacks import Callback, ProgramCallbacks, train_with
from distnet.training.checkpointer import Checkpointer, CheckpointPlan
from distnet.training.history import Epoch
from distnet.training.lock import lock_folder
from distnet.training.provenance import Sessions
from distnet.training.trainer import Trainer, check_shards


class Outcome(NamedTuple):
    """How a run ended. status: the exit status. network: the trained network; None unless the run is complete."""

    status: int
    network: NeuralNetwork | None


def main() -> int:
    """Run the command; returns the exit status. Collective."""
    arguments = sys.argv[1:]
    config = read_config(arguments)
    if config.checkpoint_dir is None:
        stop_requests.release()
    with failure.Watchdog(config.stall_timeout) as watchdog:
        return run(arguments, config, ProgramCallbacks(), watchdog).status


def train(
    arguments: Sequence[str],
    *,
    on_step: Callable[[Trainer], object] | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
    on_checkpoint: Callable[[Path], object] | None = None,
) -> Outcome:
    """Train from a program, as the command does with these arguments.

    on_step: called on every rank after every update; it must not change the trainer. on_epoch: called on every rank
    after every epoch, with the same values; training ends if it returns True on every rank. on_checkpoint: called on
    rank 0, in a thread of its own, with the path of each checkpoint after it was written; `train` waits for the last
    call, up to --stall-timeout.
    Raises InputError for invalid arguments and files. Collective, with the same arguments on every rank.
    """
    logs.open_streams()
    config = read_config(arguments)
    with (
        # Also while MPI starts. `together` decides about exceptions.
        failure.Watchdog(config.stall_timeout, is_failure=lambda error: False) as watchdog,
        together("distnet.train.train"),
        stop_requests.lent() if config.checkpoint_dir else nullcontext(),
    ):
        return run(arguments, config, ProgramCallbacks(on_step, on_epoch, on_checkpoint), watchdog)


def run(arguments: Sequence[str], config: Config, program: ProgramCallbacks, watchdog: failure.Watchdog) -> Outcome:
    """Train with this configuration. arguments: as typed, for the report. Collective."""
    world = launched_world(config.ranks_per_node)
    world.check_agreement(config.to_dict())
    check_shards(config.arithmetic, config.shards, world.size)
    with lock_folder(world, config.checkpoint_dir):
        world.on_root(lambda: check_outputs(config, world.size))
        with log_rank(world.rank, world.size, config.verbose, config.log_dir):
            return run_locked(world, arguments, config, program, watchdog)


def run_locked(
    world: World, arguments: Sequence[str], config: Config, program: ProgramCallbacks, watchdog: failure.Watchdog
) -> Outcome:
    """Train, while no other run writes into the checkpoint directory. Collective."""
    logger.info(f"node {world.node + 1} of {world.nodes}, MPI {world.library}")
    sessions = Sessions(world)
    found = find_checkpoint(world, config) if config.resume is not None else None
    data = load_dataset(world, config)
    logger.info(f"loaded {data.name}, sha256 {data.fingerprint}")
    typed = config  # what checkpoints store: the task is known only now
    if data.task != config.task and data.name in TABLES:
        config = read_config(arguments, data.task)
    is_profiled = config.profile is not None or bool(config.timeline or config.report)
    profile = Profile(is_profiled, config.timeline is not None)
    network, trainer = build_trainer(
        world,
        config,
        data,
        found.header["shards"] if found and config.arithmetic == "native" else config.shards,
        profile.lap,
    )
    own, columns = trainer.exchange.own, trainer.exchange.columns
    logger.info(
        f"owns shards {own.start} to {own.stop - 1}, and updates parameters {columns.start:,} to {columns.stop - 1:,}"
    )
    watchdog.position = trainer.position
    console = Console(world, config.epochs, config.quiet)
    architecture = f"{'-'.join(map(str, network.sizes))} {network.activation}"
    header = describe_run(trainer, data, architecture, config.epochs, config.shards)
    console.write(header)
    callbacks: list[Callback] = [program, console]
    if world.rank == 0 and config.metrics:
        callbacks.append(MetricsFile(config.metrics))
    if world.rank == 0 and config.tensorboard:
        callbacks.append(Board(config.tensorboard))
    checkpointer = None
    if config.checkpoint_dir:
        plan = CheckpointPlan(config.checkpoint_dir, config.checkpoint_every, config.keep)
        checkpointer = Checkpointer(world, plan, typed.to_dict(), data.fingerprint, sessions, program.on_checkpoint)
        watchdog.folder = str(config.checkpoint_dir)
        if found:
            checkpointer.resume(trainer, found)
            place = "which is complete" if trainer.is_complete(config.epochs) else trainer.position()
            console.write([f"resumed from {found.path}, {place}"])
        checkpointer.prepare()
        stop_requests.listen()
        callbacks.append(checkpointer)
    callbacks.append(profile)  # last, so that its clocks start after all preparation
    is_complete = train_with(trainer, config.epochs, callbacks, config.tutorial_loss, has_sha256=True)
    results = Results(config, arguments, data, network, trainer, profile, console, header, sessions)
    if trainer.diverged:
        outcome = Outcome(results.report_divergence(checkpointer.finish_diverged() if checkpointer else None), None)
    elif checkpointer and not is_complete:
        outcome = Outcome(checkpointer.finish_stopped(trainer), None)
        results.write_timeline()
    else:
        status = results.write()
        status = max(status, checkpointer.finish_complete(trainer, results.sha256) if checkpointer else 0)
        outcome = Outcome(results.finish(status), network)
    trainer.close()
    return outcome


if __name__ == "__main__":
    command.run(main)
