"""Weights of classes, in the same bits on every machine."""

import numpy as np

from distnet.datasets.dataset import Dataset, Split, own_blocks
from distnet.nn.functional import classify
from distnet.parallel.world import World
from distnet.runtime.errors import InputError


def balance_classes(world: World, data: Dataset) -> Dataset:
    """The data set with weights in which all classes count the same, times its own weights if it has some.

    A row has the weight n / (classes · rows of its class), of the training rows. Raises InputError if a class has no
    training row. Collective.
    """
    counts = np.bincount(classify(data.train.targets), minlength=len(data.classes))
    if not counts.all():
        name = data.classes[int(np.argmin(counts))]
        problem = f"class {name!r} has no training row"
        raise InputError("--class-weight balanced", problem, "leave the option out", on_every_rank=True)
    weights = len(data.train.targets) / (len(counts) * counts)

    def weigh(split: Split) -> Split:
        shared = world.shared((len(split.targets),), np.float64)
        for rows in own_blocks(len(shared), world.node_rank, world.node_size):
            own = weights[classify(split.targets[rows])]
            shared[rows] = own if split.weights is None else own * split.weights[rows]
        world.node_barrier()
        return split._replace(weights=shared)

    validation = None if data.validation is None else weigh(data.validation)
    return data._replace(train=weigh(data.train), test=weigh(data.test), validation=validation)
