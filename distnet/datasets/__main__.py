"""Download a data set: python -m distnet.datasets mnist."""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import sys
from pathlib import Path

from distnet.config.parser import Parser
from distnet.config.values import file_path
from distnet.datasets.folders import NAMES, home
from distnet.runtime.command import run


def build_parser() -> Parser:
    """The parser of `python -m distnet.datasets`."""
    made = Parser(prog="python -m distnet.datasets", description="Download a data set and check every byte of it.")
    made.add_argument("dataset", choices=NAMES, help="which one")
    made.add_argument("--data-dir", type=file_path, default=Path("data"), help="where to put it (default: data)")
    made.add_argument(
        "--mirror", action="append", default=[], metavar="URL", help="a folder to try first; may be repeated"
    )
    return made


def main() -> None:
    """Download a data set."""
    from distnet.datasets import mirrors

    options = build_parser().parse_args()
    bases = [*options.mirror, *mirrors.DATASETS[options.dataset].mirrors]
    mirrors.download(options.dataset, home(options.dataset, options.data_dir), bases, sys.stdout)


if __name__ == "__main__":
    run(main)
