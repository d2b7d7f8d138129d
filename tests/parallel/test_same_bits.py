"""Parameters are byte-identical at every rank count. Run under mpirun."""

import itertools
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from distnet.datasets.augmentation import Augmentation, Strengths
from distnet.datasets.dataset import hold_out, shared_split
from distnet.network import NeuralNetwork
from distnet.nn.functional import ACTIVATIONS
from distnet.nn.model import ARITHMETICS, Model
from distnet.nn.optimizers import RULES, Hyperparameters
from distnet.nn.parameters import initial_parameters
from distnet.nn.schedules import Schedule
from distnet.parallel.exchange import REDUCTIONS
from distnet.parallel.launched import launched_world
from distnet.parallel.world import World
from distnet.runtime.errors import InputError
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.trainer import Splits, Trainer

pytestmark = [pytest.mark.mpi, pytest.mark.ranks(4)]  # of which most tests take the first 1, 2, 3 and all
EVERY_SIZE = pytest.mark.ranks(1, 2, 3, 4)
BOTH = pytest.mark.parametrize("arithmetic", ARITHMETICS)


def trained(
    world,
    *,
    sizes,
    arithmetic="native",
    activation="relu",
    dtype="float32",
    rows=61,
    batch_size=16,
    shards=4,
    epochs=2,
    stack=None,
    schedule=Schedule(),
    dropout=0.0,
    label_smoothing=0.0,
    augment=None,
    validation=0,
    task="classification",
    is_weighted=False,
    reduction="tree",
    **hyper,
):
    """The parameters after a short training, and the reported values. Portable is float64, and has no shards."""
    if arithmetic == "portable":
        dtype, shards = "float64", None
    generator = np.random.default_rng(9)
    X = generator.normal(size=(rows, sizes[0]))
    Y = np.eye(sizes[-1])[generator.integers(0, sizes[-1], rows)]
    if task == "regression":
        Y = generator.normal(size=Y.shape)
    elif task == "multilabel" or sizes[-1] == 1:
        Y = generator.integers(0, 2, Y.shape).astype(float)
    weights = generator.integers(0, 3, rows) / 7 if is_weighted else None
    split = shared_split(world, X, Y, dtype, weights)
    names = range(99) if task == "classification" else ()
    held, chosen = hold_out(world, split, validation, 0, names, "--validation") if validation else (None, None)
    augmentation = augment and Augmentation((7, 7), augment, -0.5, dtype)
    regularisation = Regularisation(dropout, label_smoothing, augmentation)
    initial = initial_parameters(sizes, activation, 0, dtype)
    model = Model(sizes, activation, initial, arithmetic=arithmetic, task=task)
    config = TrainingConfig(
        0.1,
        batch_size,
        Hyperparameters(**hyper),
        schedule,
        regularisation,
        shards=shards,
        stack=stack,
        reduction=reduction,
    )
    trainer = Trainer(world, model, Splits(split, split, held, chosen), config)
    epochs_told = []
    trainer.run(epochs, epochs_told.append)
    if held:
        trainer.snapshot_best()
        trainer.run(epochs + 1, lambda epoch: None)
        trainer.restore_best()
    parameters = trainer.close()
    told = [(epoch.loss, epoch.test.score, epoch.test.loss, epoch.validation) for epoch in epochs_told]
    return parameters, told


def check_every_rank_count(fewest=1, **case):
    """Train alone, then on the first 1, 2, ... ranks, on one node and on simulated nodes; every rank compares.

    In portable arithmetic on all ranks there are; in native on as many as there are shards.
    """
    from mpi4py import MPI

    alone, told_alone = trained(World(), **case)
    assert np.isfinite(alone).all()
    different = []
    most = case.get("shards", 4) if case.get("arithmetic") != "portable" else MPI.COMM_WORLD.size
    for ranks in range(fewest, min(MPI.COMM_WORLD.size, most) + 1):
        comm = MPI.COMM_WORLD.Split(0 if MPI.COMM_WORLD.rank < ranks else MPI.UNDEFINED)
        if comm != MPI.COMM_NULL:
            for ranks_per_node in [None, *range(1, ranks)]:
                world = World(comm, ranks_per_node)
                together, told = trained(world, **case)
                where = f"{ranks} ranks, {ranks_per_node or 'all'} a node"
                if together.tobytes() != alone.tobytes():
                    different.append(f"{where}: {np.count_nonzero(together != alone)} parameters differ")
                if told != told_alone:
                    different.append(f"{where}: reported {told}, alone {told_alone}")
                world.close()
            comm.Free()
    assert not any(MPI.COMM_WORLD.allgather(different)), different


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_gives_the_same_bits_on_any_ranks(activation, arithmetic):
    check_every_rank_count(sizes=(19, 23, 11, 7), arithmetic=arithmetic, activation=activation)


@BOTH
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(
    ("task", "outputs"), [("regression", 3), ("multilabel", 5), ("classification", 1), ("classification", 4)]
)
def test_every_task_weighted_or_not_gives_the_same_bits_on_any_ranks(task, outputs, is_weighted, arithmetic):
    check_every_rank_count(
        sizes=(19, 23, outputs),
        arithmetic=arithmetic,
        task=task,
        is_weighted=is_weighted,
        validation=9,
        optimizer="momentum",
        penalty=0.1,
    )


def test_native_arithmetic_in_float64_gives_the_same_bits_on_any_ranks():
    check_every_rank_count(sizes=(19, 23, 11, 7), activation="gelu", dtype="float64")


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5, 6, 7, 8, 13])
def test_any_number_of_shards_gives_the_same_bits_on_any_ranks(shards):
    check_every_rank_count(sizes=(19, 23, 7), shards=shards)


@pytest.mark.parametrize(
    ("batch_size", "arithmetic"),
    [
        *((size, "portable") for size in (1, 2, 3, 5, 10, 17, 60, 61, 1000)),
        *((size, "native") for size in (3, 17, 61, 1000)),
    ],
)
def test_a_mini_batch_that_ranks_do_not_divide_or_fill_gives_the_same_bits_on_any_ranks(batch_size, arithmetic):
    check_every_rank_count(sizes=(19, 23, 7), batch_size=batch_size, arithmetic=arithmetic)


@BOTH
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 33, 64])
def test_a_last_partial_mini_batch_gives_the_same_bits_on_any_ranks(rows, arithmetic):
    check_every_rank_count(sizes=(19, 23, 7), rows=rows, arithmetic=arithmetic)


@BOTH
@pytest.mark.parametrize("sizes", [(5, 3), (1, 1, 2), (784, 50, 50, 10), (100, 300, 16, 10), (17, 15, 16, 31, 32, 2)])
def test_networks_of_any_shape_give_the_same_bits_on_any_ranks(sizes, arithmetic):
    check_every_rank_count(sizes=sizes, arithmetic=arithmetic)


@BOTH
@pytest.mark.parametrize("optimizer", RULES)
def test_every_optimizer_gives_the_same_bits_on_any_ranks(optimizer, arithmetic):
    case = {"optimizer": optimizer, "weight_decay": 0.01, "clip_norm": 0.7}
    check_every_rank_count(sizes=(90, 40, 7), arithmetic=arithmetic, **case)


EVERYTHING = {
    "activation": "gelu",
    "schedule": Schedule("cosine", epochs=2, warmup_epochs=0.5),
    "dropout": 0.3,
    "label_smoothing": 0.1,
    "augment": Strengths(shift=1, rotate=20, scale=10, elastic=20, sigma=2),
    "validation": 11,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip_norm": 0.7,
}


@pytest.mark.parametrize(
    "part",
    [
        *({name: EVERYTHING[name]} for name in ("dropout", "label_smoothing", "augment", "validation")),
        {"dropout": 0.3, "activation": "tanh"},
        *({"schedule": Schedule(kind, 2, 0.5, 0.7, 0.3)} for kind in ("step", "exponential", "cosine")),
        EVERYTHING,
    ],
    ids=lambda part: "everything" if part is EVERYTHING else "-".join(map(str, part.values())),
)
@BOTH
def test_every_part_of_learning_well_gives_the_same_bits_on_any_ranks(part, arithmetic):
    check_every_rank_count(sizes=(49, 23, 11, 7), arithmetic=arithmetic, **part)


def test_in_portable_arithmetic_allreduce_gives_the_bits_of_the_tree_on_any_ranks():
    case = {"sizes": (90, 40, 7), "arithmetic": "portable", "optimizer": "adam", "clip_norm": 0.7}
    check_every_rank_count(**case, reduction="allreduce")
    by_tree, by_allreduce = (trained(World(), **case, reduction=each)[0] for each in REDUCTIONS)
    assert by_tree.tobytes() == by_allreduce.tobytes()


@pytest.mark.mpi(min_size=3)
def test_in_native_arithmetic_allreduce_gives_other_bits_on_three_ranks_than_on_one_and_on_two_those_of_the_tree():
    """Of four shards, one rank adds ((a + b) + c) + d, two (a + b) + (c + d), and three have a, b and c + d."""
    from mpi4py import MPI

    tree, alone = (trained(World(), sizes=(90, 40, 7), reduction=each)[0] for each in REDUCTIONS)
    wrong = []
    for ranks in (2, 3):
        comm = MPI.COMM_WORLD.Split(0 if MPI.COMM_WORLD.rank < ranks else MPI.UNDEFINED)
        if comm != MPI.COMM_NULL:
            world = World(comm)
            together, _ = trained(world, sizes=(90, 40, 7), reduction="allreduce")
            wrong += [f"{ranks} ranks: as one"] * np.array_equal(together, alone)
            wrong += [f"{ranks} ranks: not as the tree"] * (ranks == 2 and not np.array_equal(together, tree))
            wrong += [f"{ranks} ranks: far from the tree"] * (not np.allclose(together, tree, atol=1e-4))
            world.close()
            comm.Free()
    assert not any(MPI.COMM_WORLD.allgather(wrong)), wrong


def test_shards_one_at_a_time_give_the_same_bits_on_any_ranks():
    check_every_rank_count(sizes=(49, 23, 11, 7), stack=1, **EVERYTHING)


@pytest.mark.parametrize("shards", [4, 7])
def test_no_bit_depends_on_how_many_shards_are_worked_through_at_once(shards):
    alone = [trained(World(), sizes=(49, 23, 7), shards=shards, stack=stack, dropout=0.5) for stack in (1, 2, 3, 99)]
    assert len({parameters.tobytes() for parameters, _ in alone}) == 1
    assert len({str(told) for _, told in alone}) == 1


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_drawn_configurations_give_the_same_bits_on_any_ranks(seed, arithmetic):
    draw = np.random.default_rng(seed)
    sizes = (*draw.integers(1, 130, size=draw.integers(1, 5)), draw.integers(2, 30))
    check_every_rank_count(
        sizes=tuple(map(int, sizes)),
        arithmetic=arithmetic,
        activation=draw.choice(list(ACTIVATIONS)).item(),
        dtype=draw.choice(["float32", "float64"]).item(),
        rows=int(draw.integers(1, 300)),
        batch_size=int(draw.integers(1, 200)),
        shards=int(draw.integers(1, 20)),
    )


@EVERY_SIZE
def test_native_arithmetic_without_a_number_of_shards_has_one_per_rank():
    from mpi4py import MPI

    world = launched_world()
    rows, targets = np.ones((9, 3)), np.eye(2)[np.arange(9) % 2]
    counts = []
    network = NeuralNetwork([3, 2], arithmetic="native")
    network.train(rows, targets, epochs=1, on_step=lambda trainer: counts.append(trainer.shards))
    assert MPI.COMM_WORLD.allgather(counts) == [[world.size]] * world.size


@pytest.mark.mpi(min_size=2)
@EVERY_SIZE
def test_ranks_of_a_node_hold_one_array_of_parameters_between_them():
    from mpi4py import MPI

    world = World(MPI.COMM_WORLD)
    array = world.shared((3,), np.float64)
    if world.rank == 0:
        array[:] = 1, 2, 3
    world.node_barrier()
    seen = array.tolist()
    world.node_barrier()
    world.close()
    assert MPI.COMM_WORLD.allgather(seen == [1, 2, 3]) == [True] * world.size


@EVERY_SIZE
def test_shared_arrays_start_on_a_cache_line_and_zeroed():
    from mpi4py import MPI

    world = World(MPI.COMM_WORLD)
    found = []
    for size, dtype in itertools.product((1, 7, 1000), (np.uint8, np.float32, np.float64)):
        array = world.shared((size,), dtype)
        found.append(array.ctypes.data % 64 == 0 and not array.any())
    world.close()
    assert MPI.COMM_WORLD.allgather(all(found)) == [True] * world.size


def shared_mappings():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted(line.split(maxsplit=5)[5] for line in lines if "/distnet-" in line)


@pytest.mark.mpi(min_size=2)
@EVERY_SIZE
def test_shared_memory_lives_as_long_as_a_view_of_it_and_has_no_name():
    from mpi4py import MPI

    before = shared_mappings()
    world = World(MPI.COMM_WORLD)
    view = world.shared((5, 1000), np.int64)[3, 10:12]
    if world.rank == 0:
        view[:] = 7, 8
    world.node_barrier()
    world.close()
    del world
    during, seen = shared_mappings(), view.tolist()
    del view
    checks = (
        seen == [7, 8],
        len(during) == len(before) + 1,
        all(name.endswith(" (deleted)") for name in during),
        shared_mappings() == before,
    )
    assert MPI.COMM_WORLD.allgather(checks) == [(True,) * 4] * MPI.COMM_WORLD.size


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_never_comes_leaves_no_file_of_shared_memory(monkeypatch, tmp_path):
    from mpi4py import MPI

    from distnet.parallel import shared_memory

    world = World(MPI.COMM_WORLD)
    folder = Path(MPI.COMM_WORLD.bcast(str(tmp_path)))
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", folder)
    if late := world.rank == world.size - 1:
        time.sleep(0.3)
    seen = late and list(folder.iterdir())
    world.shared((10,), np.uint8)
    checks = not seen, not list(folder.iterdir())
    world.close()
    assert MPI.COMM_WORLD.allgather(checks) == [(True, True)] * MPI.COMM_WORLD.size


@pytest.mark.ranks(2)
@pytest.mark.mpi(min_size=2)
def test_ranks_share_reserved_memory_also_where_the_system_has_no_folder_and_no_call_for_it(monkeypatch, tmp_path):
    """As on macOS."""
    from mpi4py import MPI

    from distnet.parallel import shared_memory

    monkeypatch.setattr(shared_memory, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", Path(MPI.COMM_WORLD.bcast(str(tmp_path))))
    world = World(MPI.COMM_WORLD)
    array = world.shared((5 << 19,), np.uint8)
    array[world.rank :: 2] = world.rank + 1
    world.node_barrier()
    seen = array[:4].tolist()
    world.close()
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(array.nbytes)
        shared_memory.reserve(file.fileno(), 0, array.nbytes)
        seen.append(os.fstat(file.fileno()).st_blocks * 512)
    assert MPI.COMM_WORLD.allgather(seen) == [[1, 2, 1, 2, array.nbytes]] * 2


@pytest.mark.mpi(min_size=3)
@EVERY_SIZE
@pytest.mark.parametrize("small", [0, 1])
def test_a_node_without_room_for_shared_memory_is_every_ranks_error(small, monkeypatch, tmp_path):
    from mpi4py import MPI

    from distnet.parallel import shared_memory
    from distnet.runtime.errors import InputError

    world = World(MPI.COMM_WORLD, 2)
    if world.node == small:
        monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path / "none")
    said = ""
    try:
        world.shared((1 << 20,), np.uint8)
    except InputError as error:
        said = str(error) * error.on_every_rank
    world.close()
    first = 2 * small
    wanted = "" if world.node_sizes[small] == 1 else f"shared memory on the node of rank {first}: "
    assert all(each.startswith(wanted) and bool(each) == bool(wanted) for each in MPI.COMM_WORLD.allgather(said))


@EVERY_SIZE
def test_an_error_on_rank_0_is_every_ranks_error():
    from mpi4py import MPI

    from distnet.runtime.errors import InputError

    world = World(MPI.COMM_WORLD)

    def bad():
        raise InputError("it", "no such thing")

    try:
        world.on_root(bad)
        seen = "nothing"
    except InputError as error:
        seen = str(error)
    assert MPI.COMM_WORLD.allgather(seen) == ["it: no such thing"] * world.size
    assert world.on_root(lambda: 7) == 7
    world.close()


@EVERY_SIZE
def test_the_launched_world_is_one_however_it_is_asked_for():
    assert launched_world() is launched_world(None) is launched_world(ranks_per_node=None)


def test_a_training_that_is_refused_on_a_communicator_gives_back_what_it_took(monkeypatch):
    from mpi4py import MPI

    closed, close = [], World.close
    monkeypatch.setattr(World, "close", lambda self: closed.append(self) or close(self))
    refused = 0
    for _ in range(3):
        try:
            NeuralNetwork([3, 2]).train(np.ones((4, 3)), np.ones((4, 5)), comm=MPI.COMM_WORLD)
        except InputError:
            refused += 1
    assert MPI.COMM_WORLD.allgather((refused, len(closed))) == [(3, 3)] * MPI.COMM_WORLD.size
