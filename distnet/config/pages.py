"""Write the page of a run, for --report."""

import platform
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distnet.config.options import Config
from distnet.config.reading import to_toml
from distnet.datasets.dataset import Dataset
from distnet.network import NeuralNetwork
from distnet.nn.parameters import parameters_sha256
from distnet.parallel.world import World
from distnet.runtime.files import write_content
from distnet.runtime.proc import cpu_model
from distnet.training.checkpointer import versions
from distnet.training.evaluation import Predictions, Scores, summarise
from distnet.training.history import History


def write_page(
    path: Path,
    effective: Config,
    data: Dataset,
    network: NeuralNetwork,
    predictions: Predictions,
    training: Scores,
    history: History,
    header: list[str],
    arguments: Sequence[str],
    phases: list[dict[str, Any]],
    environment: dict[str, str],
) -> None:
    """Write the page, for rank 0. predictions: for the test set. arguments: of the command. Raises InputError."""
    from distnet.reporting.pages.run import MISTAKES, Run, render_run, restore_pixels  # few runs need it

    found = summarise(predictions, data.classes, MISTAKES)
    images, weights, name = None, None, Path(data.source).name
    if data.shape is not None and not isinstance(data.mean, list) and not isinstance(data.deviation, list):
        rows = data.test.inputs[[each["index"] for each in found["mistakes"]], : data.test.features]
        name = data.name
        images = [restore_pixels(row, data.mean, data.deviation, data.shape) for row in rows]
        weights = network.weights[0].T.reshape(-1, *data.shape)
    run = Run(
        title=f"{name}, {'-'.join(map(str, network.sizes))} {network.activation}",
        header=header,
        arguments=arguments,
        history=history,
        label_smoothing=effective.label_smoothing,
        training=training,
        findings=found,
        images=images,
        weights=weights,
        configuration=to_toml(effective),
        environment=versions() | environment,
        sha256=parameters_sha256(network.parameters),
        phases=phases,
    )
    write_content(path, render_run(run).encode(errors="replace"), f"--report {path}")


def describe_environment(world: World) -> dict[str, str]:
    """Where a run was, and when it ended: what its result does not depend on."""
    return ({"cpu": model} if (model := cpu_model()) else {}) | {
        "python": platform.python_version(),
        "mpi": world.library,
        "ranks": str(world.size),
        "nodes": str(world.nodes),
        "host of rank 0": socket.gethostname(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
