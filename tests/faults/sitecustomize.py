"""Things that go wrong, for tests: with this folder on PYTHONPATH every Python imports this file at its start.

DISTNET_FAULT names the fault, DISTNET_FAULT_RANK the one rank that has it (all of them where it isn't set),
DISTNET_FAULT_STEP the step of the training in which it happens.
"""

import os
import signal
import socket
import sys
import threading
import time
from importlib.util import find_spec

STEP = int(os.environ.get("DISTNET_FAULT_STEP") or 5)


class AtImport:
    """Calls `act` when somebody imports the module `name`, with a function that really loads it."""

    def __init__(self, name, act):
        self.name, self.act = name, act
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: self.act(module, load)
        return spec


def in_training(trouble):
    """Let `trouble` happen in step STEP."""

    def spoil(module, load):
        load(module)
        step, steps = module.Trainer.step, []

        def spoiled(*arguments):
            steps.append(None)
            if len(steps) == STEP:
                trouble()
            return step(*arguments)

        module.Trainer.step = spoiled

    AtImport("distnet.training.trainer", spoil)


def error(kind):
    def trouble(*ignored):
        raise kind("a fault for a test")

    return trouble


def in_thread():
    thread = threading.Thread(target=error(RuntimeError), name="helper")
    thread.start()
    thread.join()


def before_mpi(module, load):
    load(module)
    module.library_name = error(RuntimeError)  # of the MPI that is loaded, and not yet started


def other_sums(module, load):
    """Ranks that train together add up something else than one process does."""
    load(module)
    reduce_scatter = module.Exchange.reduce_scatter

    def spoiled(exchange):
        total = reduce_scatter(exchange)
        total += 1e-4 * (exchange.world.rank > 0)
        return total

    module.Exchange.reduce_scatter = spoiled


def no_subnormals(module, load):
    """A processor that flushes subnormal numbers to zero, to the self-test of portable arithmetic."""
    load(module)
    module.find_deviation = lambda: "subnormal numbers are flushed to zero"


def stop_while_loading(module, load):
    """Requests to stop that come before MPI is started, or after that and before the data is there."""
    load(module)
    read, number = module.load, getattr(signal, os.environ["DISTNET_FAULT_SIGNAL"])
    if os.environ["DISTNET_FAULT_MOMENT"] == "before MPI":
        os.kill(os.getpid(), number)

    def spoiled(*arguments, **options):
        if os.environ["DISTNET_FAULT_MOMENT"] == "loading":
            os.kill(os.getpid(), number)
        return read(*arguments, **options)

    module.load = spoiled


def missing(module, load):
    print(f"{module.__name__} was imported", file=sys.stderr)
    raise ImportError("a fault for a test")


def not_there(module, load):
    raise ModuleNotFoundError(f"No module named {module.__name__!r}", name=module.__name__)


def no_network(name, *arguments, **options):
    print(f"rank {rank} looked for {name}", file=sys.stderr)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def silent_network(name, *arguments, **options):
    time.sleep(60)


rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
if os.environ.get("DISTNET_FAULT_RANK", rank) == rank:
    match os.environ.get("DISTNET_FAULT"):
        case "error":
            in_training(error(RuntimeError))
        case "memory":
            in_training(error(MemoryError))
        case "exit":
            in_training(lambda: sys.exit(0))
        case "thread":
            in_training(in_thread)
        case "leave":
            in_training(lambda: os._exit(0))
        case "sleep":
            in_training(lambda: time.sleep(1000))
        case "pause":
            in_training(lambda: time.sleep(1))
        case "SIGKILL" | "SIGSEGV" | "SIGTERM" | "SIGINT" | "SIGUSR1" as name:
            in_training(lambda: signal.raise_signal(signal.Signals[name]))
        case "stop while loading":
            AtImport("distnet.datasets.loading", stop_while_loading)
        case "import":
            AtImport("threadpoolctl", missing)
        case "not activated":
            for name in ("numpy", "threadpoolctl"):
                AtImport(name, not_there)
        case "late":
            AtImport("distnet.datasets.loading", lambda module, load: time.sleep(1000))
        case "before MPI":
            AtImport("distnet.parallel.world", before_mpi)
        case "other sums":
            AtImport("distnet.parallel.exchange", other_sums)
        case "no subnormals":
            AtImport("distnet.portable.environment", no_subnormals)
        case "no mpi4py":
            AtImport("mpi4py", missing)
        case "no Pillow":
            AtImport("PIL", missing)
        case "no tensorboardX":
            AtImport("tensorboardX", missing)
        case "no tqdm":
            AtImport("tqdm", missing)
        case "slow disk":
            os.fsync = lambda file: time.sleep(60)
        case "no network":
            socket.getaddrinfo = no_network
        case "silent network":
            socket.getaddrinfo = silent_network
