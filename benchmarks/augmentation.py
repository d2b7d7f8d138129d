"""What augmentation costs beside forward and backprop: python benchmarks/augmentation.py [--rounds 15] [--rows 128].

µs a row on one thread of a mini-batch of 28 x 28 pixels that one rank has alone: each kind of change, all together, and
forward and backprop of two networks; in float64 for portable arithmetic and in float32 for native. Alternating rounds
in one process, medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import blas_kernel  # noqa: F401 - before NumPy
import numpy as np
from threadpoolctl import threadpool_limits

from distnet.datasets.augmentation import Augmentation, Strengths
from distnet.datasets.synthetic import synthetic_digits
from distnet.nn.arithmetic import prepare
from distnet.nn.model import Model
from distnet.nn.parameters import initial_parameters, layer_stacks, parameter_count
from distnet.runtime.arrays import aligned_zeros, pad_count

DTYPES = {"portable": "float64", "native": "float32"}
NETWORKS = [(784, 800, 10), (784, 256, 128, 10)]
KINDS = {
    "shift": Strengths(shift=2),
    "shift, rotate, scale": Strengths(shift=2, rotate=15, scale=15),
    "elastic, sigma 4": Strengths(elastic=34, sigma=4),
    "elastic, sigma 6": Strengths(elastic=36, sigma=6),
    "all, sigma 4": Strengths(shift=2, rotate=15, scale=15, elastic=34, sigma=4),
    "all, sigma 6": Strengths(shift=2, rotate=15, scale=15, elastic=36, sigma=6),
}
CALLS = 10  # a round


def change(strengths: Strengths, rows: int, dtype: str) -> Callable[[], None]:
    """A function that changes a mini-batch in place, where it lies in the memory of the forward pass."""
    digits, _ = synthetic_digits(rows, 0)
    inputs = aligned_zeros((rows, pad_count(785, dtype)), dtype)[:, :784]
    inputs[:] = digits.reshape(rows, -1)
    original = inputs.copy()
    augmentation = Augmentation((28, 28), strengths, 0, dtype)
    samples = np.random.default_rng(0).permutation(60_000)[:rows]
    return lambda: augmentation.apply(original, 0, 1, samples, inputs)


def pass_over(sizes: tuple[int, ...], rows: int, arithmetic: str) -> Callable[[], None]:
    """A function that goes forward and back through a network."""
    dtype = DTYPES[arithmetic]
    parameters = aligned_zeros((parameter_count(sizes),), dtype)
    parameters[:] = initial_parameters(sizes, "relu", 0, dtype)
    weights = prepare(Model(sizes, "relu", parameters, arithmetic=arithmetic, input_exponent=3))
    propagation = weights.workspace(rows, (rows,), rows, has_masks=False)
    propagation.inputs[:] = np.random.default_rng(0).standard_normal(propagation.inputs.shape)
    propagation.targets[:, 0] = 1
    weights.round_inputs(propagation.inputs[:, : sizes[0]])
    gradients = layer_stacks(aligned_zeros((1, len(parameters)), dtype), sizes)

    def both() -> None:
        propagation.forward()
        propagation.backprop(gradients)
        propagation.finish(gradients, propagation.exponents)

    return both


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=128)
    options = parser.parse_args()
    functions: dict[str, Callable[[], None]] = {}
    for arithmetic, dtype in DTYPES.items():
        functions |= {f"{arithmetic}, {name}": change(each, options.rows, dtype) for name, each in KINDS.items()}
        functions |= {
            f"{arithmetic}, {'-'.join(map(str, sizes))}": pass_over(sizes, options.rows, arithmetic)
            for sizes in NETWORKS
        }
    times: dict[str, list[float]] = {name: [] for name in functions}
    with threadpool_limits(1, user_api="blas"):
        for number in range(options.rounds + 1):
            for name, function in functions.items():
                begin = time.perf_counter()
                for _ in range(CALLS):
                    function()
                if number:
                    times[name].append((time.perf_counter() - begin) / CALLS / options.rows * 1e6)
    print(f"µs a row of {options.rows}, medians (spread)")
    for name, taken in times.items():
        print(f"{name:32}{statistics.median(taken):6.1f} ({min(taken):.1f} to {max(taken):.1f})")


if __name__ == "__main__":
    main()
