"""Download a data set: python -m distnet.datasets mnist."""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import sys

from distnet.config.parser import Parser
from distnet.config.values import file_path
from distnet.datasets.folders import home
from distnet.datasets.mirrors import DATASETS, download
from distnet.datasets.options import DATA_FOLDER
from distnet.runtime.command import run


def build_parser() -> Parser:
    """The parser of `python -m distnet.datasets`."""
    parser = Parser(prog="python -m distnet.datasets", description="Download a data set and verify every byte of it.")
    parser.add_argument("dataset", choices=sorted(DATASETS), help="data set to download")
    parser.add_argument(
        "--data-dir",
        type=file_path,
        default=DATA_FOLDER,
        metavar="DIR",
        help="folder to write to (default: $DISTNET_DATA, else data)",
    )
    parser.add_argument(
        "--mirror", action="append", default=[], metavar="URL", help="server to try first; may be repeated"
    )
    return parser


def main() -> None:
    """Download a data set."""
    options = build_parser().parse_args()
    bases = [*options.mirror, *DATASETS[options.dataset].mirrors]
    download(options.dataset, home(options.dataset, options.data_dir), bases, sys.stdout)


if __name__ == "__main__":
    run(main)
