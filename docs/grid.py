"""Draw docs/grid.svg: numbers rounded to one grid, and their exact sum. Run `python docs/grid.py` to write it."""

from pathlib import Path

NUMBERS = (0b101101011010, 0b110110101101, 0b111001100001, 0b000101110101)  # multiples of 2^-12, below 1
PLACES = 12  # bits of each number behind the point
BITS = 6  # that rounding keeps
GROWTH = (len(NUMBERS) - 1).bit_length()  # bits by which the sum may be longer
CELL, LEFT, TOP, ROW = 26, 150, 64, 34
WIDTH, HEIGHT = 720, 310

STYLE = """
    .ink { fill: #24292f } .line { stroke: #24292f; fill: none } .card { fill: #fff }
    .kept { fill: #2f66ad } .sum { fill: #2b7d57 } .lost { fill: #d0d7de } .in { fill: #fff } .dim { fill: #57606a }
    @media (prefers-color-scheme: dark) {
      .card { fill: #1b1f27 } .ink { fill: #e6edf3 } .line { stroke: #e6edf3 }
      .lost { fill: #3d444d } .dim { fill: #9da7b3 }
    }
"""


def round_number(number: int) -> int:
    """The number in multiples of the grid, 2^-BITS; ties go to even, as in IEEE 754."""
    return round(number / (1 << (PLACES - BITS)))


def draw_text(
    x: float, y: float, content: str, style: str = "ink", anchor: str = "start", weight: str = "normal"
) -> str:
    """A line of text."""
    return f'  <text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{content}</text>'


def draw_bits(y: float, place: int, bits: str, kind: str) -> list[str]:
    """Bits in cells, the first one `place` cells to the right of the first that a sum has."""
    cells = []
    for number, bit in enumerate(bits, place):
        x, colour = LEFT + number * CELL, "dim" if kind == "lost" else "in"
        cells.append(f'  <rect class="{kind}" x="{x}" y="{y:g}" width="{CELL - 2}" height="{CELL - 2}"/>')
        cells.append(draw_text(x + CELL / 2 - 1, y + 17, bit, colour, "middle"))
    return cells


def draw() -> str:
    """The picture, as SVG."""
    grid = LEFT + (GROWTH + BITS) * CELL - 1
    bottom = TOP + len(NUMBERS) * ROW
    rounded = [round_number(number) for number in NUMBERS]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f"  <title>{len(NUMBERS)} numbers of {BITS} bits on one grid, and their sum of {BITS + GROWTH} bits</title>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        draw_text(LEFT + GROWTH * CELL, 22, f"b = {BITS} bits below 2ᵉ", weight="bold"),
        draw_text(grid + 8, 22, "rounded off", weight="bold"),
        f'  <path class="line" d="M{LEFT + GROWTH * CELL} 44v-10h{BITS * CELL - 2}v10"/>',
        f'  <path class="line" stroke-dasharray="4 3" d="M{grid} 32V{bottom + 42}"/>',
    ]
    for row, (number, kept) in enumerate(zip(NUMBERS, rounded, strict=True)):
        y = TOP + row * ROW
        lines.append(draw_text(LEFT - 14, y + 17, f"x{'₁₂₃₄'[row]}", anchor="end"))
        lines += draw_bits(y, GROWTH, f"{kept:0{BITS}b}", "kept")
        lines += draw_bits(y, GROWTH + BITS, f"{number:0{PLACES}b}"[BITS:], "lost")
    y = bottom + 14
    lines += [
        f'  <path class="line" d="M{LEFT - 40} {bottom + 2}H{grid - 1}"/>',
        draw_text(LEFT - 14, y + 17, "sum", anchor="end", weight="bold"),
        *draw_bits(y, 0, f"{sum(rounded):0{BITS + GROWTH}b}", "sum"),
        draw_text(grid + 8, y + 17, "no bit lies to the right of the grid"),
        f'  <path class="line" d="M{LEFT} {y + 30}v10h{(BITS + GROWTH) * CELL - 2}v-10"/>',
        draw_text(LEFT, y + 62, f"K = {len(NUMBERS)} terms need at most b + ⌈log₂ K⌉ = {BITS + GROWTH} bits."),
        draw_text(LEFT, y + 82, "A float64 holds 53. So every partial sum is exact, in any order."),
    ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    (Path(__file__).parent / "grid.svg").write_text(draw())
