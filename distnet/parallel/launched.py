"""The world that a launcher started, and calls that all its ranks make together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import TYPE_CHECKING

from distnet.parallel.mpi import start_mpi
from distnet.parallel.rendezvous import all_raise, mailbox, meet
from distnet.parallel.world import Arguments, Result, World
from distnet.runtime import failure, watchdog

if TYPE_CHECKING:
    from mpi4py import MPI


def launched_world(ranks_per_node: int | None = None) -> World:
    """The world that mpirun or srun started; a single process where no launcher did. The same one at every call.

    ranks_per_node: see World.
    Collective: the first call with each ranks_per_node.

    Under mpirun, importing this module makes an uncaught exception abort all ranks (`failure.install_hooks`).
    Raises InputError where the launcher doesn't belong to the MPI that mpi4py loads.
    """
    return _launched_world(ranks_per_node)  # one key for `cache`, whether or not it was given


@cache
def _launched_world(ranks_per_node: int | None) -> World:
    if not start_mpi():
        return World()
    from mpi4py import MPI

    if MPI.COMM_WORLD.size > 1:
        meet("distnet.launched_world")
    return World(MPI.COMM_WORLD, ranks_per_node)


def collective(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function `together` with all ranks of its argument `comm`, or of all where it has none."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with together(function.__qualname__, kwargs.get("comm")):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return run


@contextmanager
def together(what: str, comm: MPI.Intracomm | None = None) -> Iterator[None]:
    """What all ranks of a communicator do together, of all where none is given. Whoever doesn't ends all ranks.

    An exception is raised from it only where every rank raises one; on some alone it ends all, and so does sys.exit
    within. Ranks that make no step end, unless somebody watches over that already. Collective.
    """
    if not (start_mpi() and (comm or mailbox().comm).size > 1):
        yield
        return
    meet(what, comm)
    context = failure.Context
    before = context.position, context.missing
    end_watch = watchdog.watch_progress(watchdog.stall_timeout()) if context.timeout is None else None
    try:
        yield
    except SystemExit as error:
        failure.fail(type(error), error, error.__traceback__, " by sys.exit before the end")
    except KeyboardInterrupt:
        failure.interrupted()
    except BaseException as error:
        if not all_raise(what, comm):
            failure.fail(type(error), error, error.__traceback__)
        raise
    finally:
        context.position, context.missing = before
        if end_watch:
            end_watch()
