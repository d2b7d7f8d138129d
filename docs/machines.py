"""Write docs/machines.md, golden hashes by machine, from docs/machines.json: python docs/machines.py."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = ("CPU", "BLAS", "NumPy", "Python", "MPI")  # a line of the table each; the rest is gathered in it
PAGE = """\
# Golden hashes by machine

`tests/golden.json` has the hashes of {total} small trainings in portable arithmetic: of parameters, metrics and
predictions. The table shows where version {version} computed them: {same}.

{table}

Each training counts once per line, even if several numbers of ranks computed it. *Vector code* is that of NumPy;
*off* means without any that it can leave out.

## Add your machine

Start this in a clone after `make train`. It takes a minute, and adds a line to `docs/machines.json`:

<!-- not run: it takes a minute, and changes the page -->
```sh
.venv/bin/python tests/golden.py --note docs/machines.json   # under mpirun, too, if you like
.venv/bin/python docs/machines.py                            # writes this page
```

Please send the line, also if bits differ. Other programs write lines of more environments:

| program | environments |
| --- | --- |
| `make golden ARGS="--note docs/machines.json"` | OpenBLAS kernels, ranks, nodes, with and without vector code |
| `python tests/arm64.py --note docs/machines.json` | emulated ARM64; `--architecture` names others |
| `python benchmarks/blas_libraries.py --note docs/machines.json` | other BLAS libraries |
"""


def page(rows: list[dict[str, Any]], total: int) -> str:
    """The page. rows: of machines.json. total: how many runs there are."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[name]) for name in ENVIRONMENT), []).append(row)
    lines = ["| " + " | ".join((*ENVIRONMENT, "vector code", "ranks", "runs", "same")) + " |", "| --- " * 9 + "|"]
    for group, members in sorted(groups.items()):
        values = [value.partition(" (built")[0].removeprefix("CPython ") for value in group]
        code = ", ".join(
            name for name, has in (("on", True), ("off", False)) if any(row["SIMD"] == has for row in members)
        )
        ranks = ", ".join(map(str, sorted({row["ranks"] for row in members})))
        runs = {name for row in members for name in row["runs"]}
        wrong = {name for row in members for name, is_same in row["runs"].items() if not is_same}
        same = ("**none**" if wrong == runs else f"**not {', '.join(sorted(wrong))}**") if wrong else "all"
        lines.append("| " + " | ".join((*values, code, ranks, f"{len(runs)} of {total}", same)) + " |")
    wrong_groups = sum("**" in line for line in lines)
    same = (
        f"the bits differ in {wrong_groups} of {len(groups)} lines"
        if wrong_groups
        else "the bits are the same everywhere"
    )
    return PAGE.format(total=total, version=rows[0]["distnet"], same=same, table="\n".join(lines))


def main() -> None:
    """Write the page."""
    golden = json.loads((HERE.parent / "tests" / "golden.json").read_text())
    total = sum(not name.startswith("make train") for name in golden)
    (HERE / "machines.md").write_text(page(json.loads((HERE / "machines.json").read_text()), total))


if __name__ == "__main__":
    main()
