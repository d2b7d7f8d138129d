"""docs/walk.md has the numbers of a step on two ranks, and NumPy computes the same. Run under mpirun."""

import runpy

import numpy as np
import pytest
from helpers import ROOT

from distnet.nn.parameters import layer_views
from distnet.parallel.world import World

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.ranks(2)]
WALK = runpy.run_path(str(ROOT / "docs" / "walk.py"))


def test_the_page_of_a_step_is_up_to_date_and_its_numpy_computes_the_same_parameters():
    from mpi4py import MPI

    world = World(MPI.COMM_WORLD)
    page, (_, printed) = WALK["page"](world), WALK["run_numpy"]()
    parameters = WALK["take_step"](world)[0]["after"]
    world.close()
    is_current = page == (ROOT / "docs" / "walk.md").read_text()
    assert all(MPI.COMM_WORLD.allgather(is_current)), "run mpirun -n 2 python docs/walk.py"
    with np.printoptions(precision=4, suppress=True):
        assert printed == "".join(f"{layer}\n" for layer in layer_views(parameters, WALK["SIZES"]))


def test_a_line_of_the_step_that_the_page_does_not_quote_is_an_error():
    for markers in (["rate ="], ["batch, weights =", "no such line"]):
        with pytest.raises(ValueError, match=r"docs/walk\.py"):
            WALK["quote"](markers)
