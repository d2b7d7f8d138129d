"""Train on 1, 2, 4 ... ranks and compare their speed: python -m distnet.speedup --ranks 1 2 4 --epochs 3."""

from distnet.runtime import failure

if __name__ == "__main__":
    failure.install_hooks()  # before any import that can fail

import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import partial

from distnet.config.options import Config, to_flag
from distnet.config.parser import Parser
from distnet.config.reading import read_config
from distnet.config.values import path_ending_in, read_counts
from distnet.doctor.machine import cpu_quota
from distnet.reporting.pages.speedup import render_speedup
from distnet.reporting.speedup import Measurement, compare_bits, read_measurement, tabulate_shares, tabulate_speed
from distnet.runtime import slurm
from distnet.runtime.command import run
from distnet.runtime.errors import InputError
from distnet.runtime.failure import EXIT_BAD_INPUT, EXIT_DIFFERENT
from distnet.runtime.files import check_writable, write_content
from distnet.runtime.logs import warn
from distnet.runtime.numbers import doubled
from distnet.runtime.proc import usable_cores
from distnet.runtime.ranks import build_launcher, refuse_launcher, run_training
from distnet.runtime.text import format_count, format_table, json_line, to_printable
from distnet.training.trainer import check_shards

NAME = "distnet.speedup"
MEASURED = ["--quiet", "--metrics", "/dev/stdout", "--profile", "/dev/stdout"]  # what `read_measurement` reads
ALLOWED = {"quiet", "verbose", "tutorial_loss", "expect_sha256", "stall_timeout"}  # outputs that may be requested


def build_parser() -> Parser:
    """The parser of the options that training doesn't have."""
    parser = Parser(
        prog="python -m distnet.speedup",
        usage="python -m distnet.speedup [options] [options of distnet.train]",
        description="Train on several numbers of ranks, and compare their speed and their bits.",
        allow_abbrev=False,
    )
    parser.add_argument("--ranks", type=read_counts, nargs="+", metavar="N",
                        help="numbers of ranks (default: 1, 2, 4 ... and one per core)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--output", type=partial(path_ending_in, (".html",)), metavar="FILE",
                        help="HTML page to write (default: none)")  # fmt: skip
    return parser


def main() -> int:
    """Run the command; returns the exit status."""
    refuse_launcher(NAME)
    typed, arguments = build_parser().parse_known_args()
    config = read_config(arguments)
    check_results(config)
    counts = sum(typed.ranks, ()) if typed.ranks else doubled(min(filter(None, (count_cores(), config.shards))))
    most = max(counts)
    check_shards(config.arithmetic, config.shards, most)
    build_launcher(most)
    if typed.output:
        check_writable(typed.output, "--output")
    status, runs = measure(sorted(set(counts)), arguments, is_shown=not typed.json)
    if status:
        return status
    notes = [line for line in runs[-1].header if line.startswith("note: ")]
    agree = len({each.sha256 for each in runs}) == 1
    if typed.output:
        page = render_speedup(runs, arguments, notes)
        write_content(typed.output, page.encode(errors="replace"), f"--output {typed.output}")
    if typed.json:
        about = {"arguments": arguments, "run": runs[0].header, "same_bits": agree}
        print(json_line(about | {"measurements": [each.to_dict(runs[0]) for each in runs]}))
    else:
        print(f"\n{format_table(tabulate_shares(runs))}\n")
        print("\n".join([compare_bits(runs), *map(to_printable, notes)]))
        if typed.output:
            print(f"wrote {to_printable(typed.output)}")
    has_fixed_tree = config.shards is not None and config.reduction == "tree"
    if not agree and (config.arithmetic == "portable" or has_fixed_tree):
        warn(f"the bits must not differ with these options; python -m distnet.doctor mpirun -n {most} checks why")
        return EXIT_DIFFERENT
    return 0


def measure(counts: Sequence[int], arguments: Sequence[str], is_shown: bool) -> tuple[int, list[Measurement]]:
    """Train on each of these numbers of ranks. Returns the status of the last training, and what was measured.

    The first training that fails is the last. is_shown: whether to print each measurement at once.
    """
    runs: list[Measurement] = []
    for ranks in counts:
        begin = time.perf_counter()
        status, output = run_training([*arguments, *MEASURED], ranks)
        if status:
            if status != EXIT_BAD_INPUT:  # which the training has reported in one line
                warn(f"the training on {format_count(ranks, 'rank')} exited with status {status}")
            return status, runs
        runs.append(read_measurement(ranks, output, time.perf_counter() - begin))
        if is_shown:
            print_speed(runs)
    return 0, runs


def count_cores() -> int:
    """How many ranks can have a core each: in a SLURM job those that it has room for, else on this machine."""
    if slurm.is_allocated():
        return slurm.count_ranks()
    cores, quota = len(usable_cores()), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def check_results(config: Config) -> None:
    """Raise InputError for an option that would write a file: each training would replace it."""
    for each in fields(Config):
        is_result = each.metadata["group"] in ("output", "recovery") and each.name not in ALLOWED
        if is_result and getattr(config, each.name) != each.default:
            raise InputError(to_flag(each.name), f"{NAME} keeps nothing of its trainings", "leave it out")


def print_speed(runs: Sequence[Measurement]) -> None:
    """Print the newest measurement as a row of a table; before the first, what is trained, and the table's head."""
    columns = tabulate_speed(runs[-1], runs[0])
    widths = [max(len(name), len("1,000.00")) for name in columns][1:]
    rows: list[Iterable[str]] = [columns.values()]
    if len(runs) == 1:
        for line in runs[0].header:
            if not line.startswith(("distnet ", "note: ")):
                print(to_printable(line))
        rows.insert(0, columns)
        print()
    for row in rows:
        ranks, *words = row
        print(ranks.ljust(len("ranks")), *(f" {w.rjust(k)}" for w, k in zip(words, widths, strict=True)), flush=True)


if __name__ == "__main__":
    run(main)
