"""Words for people: numbers of things, and tables."""

from collections.abc import Sequence


def counted(number: int, what: str) -> str:
    """'1 rank', '2 ranks'."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as a table: the first column to the left, the others to the right; what can't be printed is '?'."""
    clean = [["".join(c if c.isprintable() else "?" for c in word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(w.rjust(k) for w, k in zip(row[1:], widths[1:], strict=True))])
        for row in clean
    )
