"""scikit-learn's examples of its networks with only the import changed: python benchmarks/examples.py FOLDER [NAME ...]

FOLDER: `examples` in scikit-learn's source. NAME: a part of the names of those to run. Each runs in a process of its
own with `Classifier` as MLPClassifier. MNIST is read from $DISTNET_DATA, or data, in place of a download; figures are
drawn, and not shown. Needs matplotlib.

Prints what they print, and the outcome of each. All must run, and without a warning of convergence that they don't
silence. Only the one that needs lbfgs must end with the line that names scikit-learn's own.
"""

import argparse
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
from sklearn.exceptions import ConvergenceWarning

from distnet.datasets.idx import FILES, read_idx
from distnet.runtime.errors import InputError

# Each with the parameter that distnet refuses.
EXAMPLES = {
    "neural_networks/plot_mlp_training_curves.py": None,
    "neural_networks/plot_mnist_filters.py": None,
    "classification/plot_classifier_comparison.py": None,
    "neural_networks/plot_mlp_alpha.py": "solver",
}
IMPORT = "from sklearn.neural_network import MLPClassifier\n"
OURS = "from distnet import Classifier as MLPClassifier\n"


def read_mnist(*ignored: Any, **options: Any) -> tuple[Any, Any]:
    """What `fetch_openml("mnist_784", return_X_y=True)` returns."""
    folder = Path(os.environ.get("DISTNET_DATA", "data"))
    arrays = [read_idx(folder / f"{name}.gz", 3 if "images" in name else 1) for name in FILES]
    images, labels = np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])
    return images.reshape(len(images), -1).astype(np.float64), labels.astype(str)


def run(path: Path, refused: str | None) -> None:
    """Run an example in this process."""
    import matplotlib

    matplotlib.use("agg")
    sklearn.datasets.fetch_openml = read_mnist
    warnings.simplefilter("error", ConvergenceWarning)
    text = path.read_text()
    if text.count(IMPORT) != 1:
        raise SystemExit(f"{path}: does not have the line {IMPORT!r}")
    try:
        exec(compile(text.replace(IMPORT, OURS), str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})
    except InputError as error:
        if error.subject != refused:
            raise
        print(error)
    else:
        if refused is not None:
            raise SystemExit(f"{path}: its {refused} was not refused")


def main() -> None:
    """Run all that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args()
    chosen = [name for name in EXAMPLES if not options.names or any(part in name for part in options.names)]
    if options.here:
        run(options.folder / chosen[0], EXAMPLES[chosen[0]])
        return
    failed = False
    for name in chosen:
        print(f"{name}:", flush=True)
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, str(options.folder), name, "--here"], check=False)
        failed |= done.returncode != 0
        outcome = "failed" if done.returncode else "as expected"
        print(f"{name}: {outcome}, {time.perf_counter() - begin:.0f} s\n", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
