"""Rules that update a slice of the parameters from the same slice of the summed gradients."""

import numpy as np

from distnet.functional import Array


def sgd(parameters: Array, gradient_sum: Array, learning_rate: float, batch_size: int) -> None:
    """Plain stochastic gradient descent, θ ← θ - (α / B) Σ∇, in place.

    parameters: any slice of θ. gradient_sum: the same slice of Σ∇ over all rows of the global mini-batch;
    overwritten. batch_size: B, the number of samples in the *global* mini-batch.
    Collective: no.
    """
    np.multiply(gradient_sum, parameters.dtype.type(learning_rate / batch_size), out=gradient_sum)
    np.subtract(parameters, gradient_sum, out=parameters)
