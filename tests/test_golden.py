"""Portable arithmetic has the bits of golden.json: here, on any number of ranks, and after an interruption.

matrix.py compares on other kernels, NumPys and MPIs; arm64.py on another architecture.
"""

import json
from dataclasses import fields
from itertools import combinations, product
from pathlib import Path

import pytest
from golden import is_small, note_machine, read_golden, train_small, working_directory
from matrix import APART, PARTS, PLACEMENTS, Cell, Interpreter, choose

from distnet.config.options import Config
from distnet.config.reading import read_config
from distnet.datasets.augmentation import STRENGTHS
from distnet.parallel.launched import launched_world

GOLDEN = {name: each for name, each in read_golden().items() if is_small(name)}
# These change no bits, change only which data are read, or are not for portable arithmetic.
FREE = {"preset", "data_dir", "train_samples", "header", "arithmetic", "dtype"}


@pytest.mark.parametrize("name", GOLDEN)
def test_one_process_has_the_golden_bits(name):
    run, expected = GOLDEN[name]
    with working_directory():
        assert train_small(run) == expected


@pytest.mark.mpi
@pytest.mark.parametrize("ranks_per_node", [None, 1, 2])
@pytest.mark.parametrize("name", ["one row", "csv", "interrupted", "all regularised", "regression", "class weight"])
def test_every_rank_has_the_golden_bits(name, ranks_per_node):
    world = launched_world(ranks_per_node)
    run, expected = GOLDEN[name]
    with working_directory(has_data=world.rank == 0):
        assert train_small(run, ranks_per_node) == expected


@pytest.mark.mpi
@pytest.mark.ranks(3)
def test_an_interrupted_run_has_the_golden_bits_also_where_mpi_adds_the_gradients():
    world = launched_world(2)
    run, expected = GOLDEN["interrupted"]
    with working_directory(has_data=world.rank == 0):
        assert train_small(run._replace(arguments=[*run.arguments, "--reduction", "allreduce"]), 2) == expected


@pytest.mark.parametrize("name", [name for name, (run, _) in GOLDEN.items() if run.stop])
def test_an_interrupted_run_has_the_golden_bits_of_an_uninterrupted_one(name):
    run, expected = GOLDEN[name]
    with working_directory():
        assert train_small(run._replace(stop=0)) == expected


def test_the_golden_runs_use_every_option_that_changes_bits():
    configs = [read_config(run.arguments) for run, _ in GOLDEN.values()]
    for option in fields(Config):
        if option.metadata["group"] not in ("data", "network", "training", "regularisation") or option.name in FREE:
            continue
        values = {str(getattr(config, option.name)) for config in configs}
        assert len(values) > 1, f"no run has --{option.name}"
        if choices := option.metadata.get("choices"):
            assert values >= set(choices), option.name
    assert {kind.partition("=")[0] for config in configs for kind in config.augment} == {*STRENGTHS}
    assert {config.schedule for config in configs if config.warmup_epochs} == {config.schedule for config in configs}


def test_early_stopping_ends_its_golden_run():
    run, expected = GOLDEN["early stopping"]
    with working_directory():
        assert train_small(run._replace(arguments=[*run.arguments, "--patience", "20"])) != expected


def test_a_machine_has_one_row_of_all_runs_that_were_noted_of_it_with_this_minor_version(tmp_path):
    file, machine = tmp_path / "machines.json", {"CPU": "x86_64", "SIMD": ["AVX2"], "ranks": 1}
    file.write_text(json.dumps([{"distnet": "0.0", "runs": {}}]))
    note_machine(file, machine, {"csv": True})
    note_machine(file, machine | {"ranks": 2}, {"csv": True})
    note_machine(file, machine, {"npz": False})
    rows = json.loads(file.read_text())
    assert [(row["ranks"], row["SIMD"], row["runs"]) for row in rows] == [
        (1, True, {"csv": True, "npz": False}),
        (2, True, {"csv": True}),
    ]


def test_every_two_values_of_the_matrix_meet_in_a_cell_and_there_are_few_cells():
    pythons = [Interpreter(Path("python"), "3", "2", mpi, ()) for mpi in ("MPICH", "Open MPI", "")]
    every = map(Cell._make, product(pythons, PLACEMENTS, ("Prescott", "Haswell"), (True, False), (1, 2), range(PARTS)))
    possible = [cell for cell in every if cell.is_possible()]
    chosen = choose(possible)

    def pairs(cells):
        named = [combinations(cell._asdict().items(), 2) for cell in cells]
        return {pair for each in named for pair in each if {name for name, _ in pair} != APART}

    assert pairs(chosen) == pairs(possible)
    assert len(chosen) < len(PLACEMENTS) * (PARTS + 1)
