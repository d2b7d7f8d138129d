"""`NeuralNetwork`: the public network class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from distnet.datasets.dataset import shared_split
from distnet.models.inference import Inference, check_inputs
from distnet.models.model_file import load_model, save_model
from distnet.nn.arithmetic import prepare
from distnet.nn.functional import cross_entropy
from distnet.nn.model import ARITHMETICS, TASKS, Model, check_sizes, choose_dtype
from distnet.nn.optimizers import DEFAULTS, LEARNING_RATES, Hyperparameters
from distnet.nn.parameters import initial_parameters, layer_stacks, layer_views
from distnet.nn.schedules import Schedule
from distnet.parallel.launched import collective, launched_world
from distnet.parallel.world import World
from distnet.portable.grids import exponent_above
from distnet.runtime.arrays import Array, aligned_zeros
from distnet.runtime.blas import single_blas_thread
from distnet.runtime.errors import RESTORE, InputError
from distnet.runtime.numbers import check_choice, positive_count, positive_rate, seed_number
from distnet.training.configuration import Regularisation, TrainingConfig
from distnet.training.evaluation import compute_score
from distnet.training.history import Epoch
from distnet.training.trainer import Splits, Trainer

if TYPE_CHECKING:
    from mpi4py import MPI

DERIVED = ("weights", "biases", "_inference")  # attributes that follow from the others


class NeuralNetwork:
    """A multilayer perceptron.

    task: "classification", softmax outputs and the categorical cross-entropy (with a single output, a sigmoid and the
    binary cross-entropy); "regression", plain outputs and half the squared error; or "multilabel", sigmoids and the
    binary cross-entropy of each output.

    sizes: neurons per layer, including inputs and outputs. activation: of the hidden layers, "sigmoid", "tanh", "relu",
    "leaky-relu", "gelu" or "identity". learning_rate: None for the optimizer's default, see `LEARNING_RATES`. seed:
    random seed of initial weights, order of samples and dropout. initialisation: see `initial_parameters`.
    arithmetic: "portable", whose results have the same bits on every machine and any number of ranks, or "native", as
    fast as this machine can. dtype: float32 or float64; None for float64 in portable arithmetic, which has no other,
    and float32 in native.

    parameters: the flat vector (N,). weights[l], biases[l]: views into it, (inputs, outputs) and (outputs,).
    about: notes for the model file, as JSON represents them. Rows are samples everywhere.
    Raises InputError for invalid sizes, rates and names.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        learning_rate: float | None = None,
        seed: int = 0,
        dtype: DTypeLike | None = None,
        initialisation: str | None = None,
        arithmetic: str = "portable",
        task: str = "classification",
    ) -> None:
        check_choice("arithmetic", arithmetic, ARITHMETICS)
        check_choice("task", task, TASKS)
        self.arithmetic, self.task = arithmetic, task
        self.input_exponent: int | None = None
        dtype = choose_dtype(arithmetic, dtype)
        self.sizes, self.activation = check_sizes(sizes), activation
        self.learning_rate = None if learning_rate is None else positive_rate.check("learning_rate", learning_rate)
        self.seed = seed_number.check("seed", seed)
        self.about: dict[str, Any] = {}
        self._hold(initial_parameters(self.sizes, activation, self.seed, dtype, initialisation))

    @property
    def model(self) -> Model:
        """The network as one value. The parameters are the network's own array."""
        return Model(
            self.sizes, self.activation, self.parameters, self.about, self.arithmetic, self.input_exponent, self.task
        )

    def _hold(self, parameters: Array) -> None:
        """Copy parameters (N,), and create the views of the copy."""
        self._inference: Inference | None = None
        self.parameters = aligned_zeros(parameters.shape, parameters.dtype)
        self.parameters[:] = parameters
        layers = layer_views(self.parameters, self.sizes)
        self.weights = [layer[:-1] for layer in layers]
        self.biases = [layer[-1] for layer in layers]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copied or unpickled arrays are no longer views of each other, and may start at any address.
        vars(self).update(state)
        self._hold(self.parameters)

    def _rows(self, name: str, values: ArrayLike, columns: int, rows: int | None = None) -> Array:
        """`values` as an array of (rows, columns), checked. Raises InputError."""
        array: Array = np.asarray(values)
        if array.ndim != 2 or array.shape[1] != columns or array.shape[0] != (rows or array.shape[0]):
            raise InputError(name, f"expected shape ({rows or 'rows'}, {columns}), got {array.shape}")
        if len(array) == 0:
            raise InputError(name, f"expected one row or more, got shape {array.shape}")
        return array

    def forward(self, X: ArrayLike) -> Array:
        """Outputs (rows, outputs) for X (rows, inputs): probabilities, or the predicted numbers of a regression.

        The same X gives the same bits with any number of BLAS threads. In portable arithmetic, a row has the same bits
        in any X; in native, they may depend on how many rows X has, and where this one is.
        Python threads may call it at the same time. It keeps its memory for the next call.
        """
        X = self._rows("X", X, self.sizes[0])
        inference = self._inference
        if inference is None or not inference.is_for(self):
            inference = self._inference = Inference(self.model)
        return inference.find_outputs(X)

    def backprop(self, X: ArrayLike, Y: ArrayLike) -> tuple[list[Array], list[Array]]:
        """Gradients of the loss *summed* over the rows: those of the weights, and of the biases, per layer.

        X: (rows, inputs). Y: (rows, outputs).
        """
        model = self.model
        X, largest = check_inputs(model, self._rows("X", X, self.sizes[0]))
        if self.arithmetic == "portable":
            exponent = exponent_above(largest)
            kept = exponent if self.input_exponent is None else self.input_exponent
            model = replace(model, input_exponent=max(exponent, kept))
        work = prepare(model).workspace(len(X), (len(X),), len(X), has_masks=False)
        work.inputs[:, : self.sizes[0]] = X
        work.inputs[:, self.sizes[0]] = 1
        work.infer()
        work.targets[:] = self._rows("Y", Y, self.sizes[-1], len(work.targets))
        vectors = np.empty_like(self.parameters)[None]
        gradients = layer_stacks(vectors, self.sizes)
        with np.errstate(all="ignore"), single_blas_thread:  # of a network that has diverged
            work.backprop(gradients)
            work.finish(gradients, work.exponents)
        layers = layer_views(vectors[0], self.sizes)
        return [layer[:-1] for layer in layers], [layer[-1] for layer in layers]

    def update_params(
        self, weight_gradients: Sequence[Array], bias_gradients: Sequence[Array], batch_size: int
    ) -> None:
        """θ ← θ - (α / batch_size) Σ∇, with gradients summed over a mini-batch of batch_size rows."""
        rate = self._learning_rate(DEFAULTS.optimizer)
        for weights, biases, dw, db in zip(self.weights, self.biases, weight_gradients, bias_gradients, strict=True):
            weights -= rate / batch_size * dw
            biases -= rate / batch_size * db

    def _learning_rate(self, optimizer: str) -> float:
        """The network's learning rate, else the optimizer's default."""
        return LEARNING_RATES[optimizer] if self.learning_rate is None else self.learning_rate

    def cross_entropy(self, probabilities: ArrayLike, Y: ArrayLike) -> float:
        """Mean categorical cross-entropy of probabilities (rows, classes) and targets Y (rows, classes), in nats."""
        probabilities = self._rows("probabilities", probabilities, self.sizes[-1])
        return cross_entropy(probabilities, self._rows("Y", Y, self.sizes[-1], len(probabilities)))

    @collective
    def train(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        epochs: int = 10,
        batch_size: int = 128,
        *,
        hyperparameters: Hyperparameters = Hyperparameters(),
        schedule: Schedule = Schedule(),
        regularisation: Regularisation = Regularisation(),
        sample_weight: ArrayLike | None = None,
        shards: int | None = None,
        comm: MPI.Intracomm | None = None,
        on_step: Callable[[Trainer], object] | None = None,
        on_epoch: Callable[[Epoch], object] = lambda epoch: None,
    ) -> None:
        """Train on X (samples, inputs) and Y (samples, outputs) with mini-batch gradient descent.

        Under mpirun, all ranks call it with the same arguments, and get the same parameters to the bit.
        hyperparameters: the optimizer and its constants. schedule: of the learning rate. regularisation: dropout, label
        smoothing, augmentation. sample_weight: (samples,), by which each sample's loss is multiplied; an update divides
        by the weights of its mini-batch. shards: parts of every mini-batch in native arithmetic, see docs/design.md;
        None for one per rank. comm: the ranks; None for all ranks.
        on_step: called on every rank after every update; it must not change the trainer, whose arrays are views.
        on_epoch: called on every rank after every epoch; if it returns True on all ranks, training ends.
        In one process, Ctrl-C ends training with a warning, and an exception in a callback propagates; the network
        keeps the parameters of the last complete step. Under mpirun, both abort all ranks.
        Raises InputError after an epoch whose loss is NaN or infinite; the network is then unchanged.
        Collective.
        """
        epochs = positive_count.check("epochs", epochs)
        config = TrainingConfig(
            self._learning_rate(hyperparameters.optimizer),
            batch_size,
            hyperparameters,
            schedule if schedule.epochs else replace(schedule, epochs=epochs),
            regularisation,
            self.seed,
            shards,
        )
        with nullcontext(launched_world()) if comm is None else closing(World(comm)) as world:
            X = self._rows("X", X, self.sizes[0])
            Y = self._rows("Y", Y, self.sizes[-1], len(X))
            split = shared_split(world, X, Y, self.parameters.dtype, sample_weight)
            trainer = Trainer(world, self.model, Splits(split), config)

            def after_step() -> bool:
                assert on_step is not None
                on_step(trainer)
                return False

            try:
                trainer.run(epochs, on_epoch, after_step if on_step else None)
            except KeyboardInterrupt:
                warnings.warn(
                    f"training interrupted {trainer.position()}; the network keeps its parameters", stacklevel=2
                )
            finally:
                parameters = trainer.close()
                if not trainer.diverged:
                    self.parameters[:] = parameters
                    self.input_exponent = trainer.model.input_exponent
        if trainer.diverged:
            raise InputError(
                "learning_rate",
                f"{trainer.diverged}, with {config.learning_rate:g}",
                "use a smaller one, or scale X",
                on_every_rank=True,
            )

    def test(self, X: ArrayLike, Y: ArrayLike) -> float:
        """The score on X (samples, inputs) and Y (samples, outputs): accuracy for one-hot Y, R2 or subset accuracy."""
        outputs = self.forward(X)
        Y = self._rows("Y", Y, self.sizes[-1], len(outputs))
        return compute_score(self.task, Y, outputs)

    def save(self, path: str | Path) -> None:
        """Write the network to a .pkl or .npz file."""
        about = self.about | {"learning_rate": self.learning_rate, "seed": self.seed}
        save_model(Path(path), replace(self.model, about=about))

    @classmethod
    def load(cls, path: str | Path) -> NeuralNetwork:
        """Read a file of `save`. Nothing in it is executed.

        Raises InputError if the file is missing, damaged, or of another version or program.
        """
        model = load_model(Path(path))
        about = dict(model.about)
        rate, seed = about.pop("learning_rate", None), about.pop("seed", 0)
        try:
            network = cls(
                model.sizes,
                model.activation,
                rate,
                seed,
                model.parameters.dtype,
                arithmetic=model.arithmetic,
                task=model.task,
            )
        except (TypeError, ValueError):
            problem = f"its description is damaged (learning rate {rate!r}, seed {seed!r})"
            raise InputError(f"model {path}", problem, RESTORE) from None
        network.parameters[:] = model.parameters
        network.about, network.input_exponent = about, model.input_exponent
        return network
