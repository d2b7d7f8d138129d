"""Synthetic handwritten digits in MNIST's format, drawn by NumPy.

A digit is a list of pen points along its strokes. Each sample bends, slants, scales and rotates these points at
random, and draws them with a round Gaussian pen. Such a pen is separable, exp(-x^2 - y^2) = exp(-x^2) exp(-y^2),
so an image is a sum over pen points of (profile down) x (profile across), and one contraction draws a block.
"""

import math
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from distnet.portable.draws import draw_fractions, draw_order, draw_words
from distnet.portable.elementary import TAU, cos_sin, exp
from distnet.portable.grids import Floats, product_bits, round_to, rounding_constant

SIDE: Final = 28  # pixels
BLOCK: Final = 1000  # samples that share a generator: sample i is number i % BLOCK of block i // BLOCK
PURPOSE: Final = 4  # of the random numbers; the order of samples has 3
NUMBERS: Final = 24  # random numbers per sample
PEN_POINTS: Final = 64  # per digit, so about a pixel apart or less: closer than the pen is wide

Stroke = tuple[tuple[float, float], ...]

# The ways to write each digit: strokes of (x right, y down) in the unit square. A stroke is a smooth curve through its
# points; a corner is where one stroke ends and the next begins.
# fmt: off
STYLES: Final[tuple[tuple[int, tuple[Stroke, ...]], ...]] = (
    (0, (((.55, 0), (.3, .1), (.15, .5), (.27, .88), (.5, 1), (.75, .86), (.85, .5), (.75, .12),
          (.5, .01)),)),
    (0, (((.72, .1), (.5, 0), (.27, .25), (.22, .7), (.42, 1), (.68, .82), (.76, .4), (.62, .08),
          (.4, .06)),)),
    (1, (((.5, 0), (.5, 1)),)),
    (1, (((.28, .25), (.42, .14), (.53, 0)), ((.53, 0), (.52, 1)))),
    (1, (((.3, .2), (.52, 0)), ((.52, 0), (.52, 1)), ((.25, 1), (.8, 1)))),
    (2, (((.2, .25), (.3, .06), (.55, 0), (.78, .15), (.74, .4), (.5, .7), (.18, 1)),
         ((.18, 1), (.86, .97)))),
    (2, (((.2, .2), (.45, 0), (.74, .14), (.72, .42), (.5, .72), (.27, .96), (.13, .92), (.2, .78),
          (.42, .84), (.65, .97), (.92, .9)),)),
    (3, (((.2, .12), (.5, 0), (.74, .13), (.7, .34), (.42, .47)),
         ((.42, .47), (.73, .57), (.8, .8), (.52, 1), (.17, .9)))),
    (3, (((.2, .04), (.78, .02)), ((.78, .02), (.45, .4)),
         ((.45, .4), (.74, .5), (.8, .76), (.55, 1), (.2, .93)))),
    (4, (((.22, 0), (.17, .3), (.22, .5), (.5, .53), (.8, .44)), ((.8, 0), (.77, .5), (.72, 1)))),
    (4, (((.65, 0), (.15, .65)), ((.15, .65), (.9, .63)), ((.65, 0), (.63, 1)))),
    (5, (((.8, .02), (.32, .03)), ((.32, .03), (.25, .45)),
         ((.25, .45), (.52, .37), (.77, .53), (.75, .82), (.47, 1), (.17, .92)))),
    (5, (((.88, 0), (.5, .06)),
         ((.5, .06), (.34, .2), (.38, .4), (.62, .56), (.68, .77), (.48, .97), (.12, .95)))),
    (6, (((.7, .02), (.42, .2), (.22, .52), (.22, .83), (.45, 1), (.72, .9), (.74, .66), (.53, .54),
          (.22, .75)),)),
    (6, (((.5, 0), (.3, .35), (.2, .74), (.38, 1), (.66, .93), (.7, .74), (.5, .65), (.25, .85)),)),
    (7, (((.15, .05), (.5, .06), (.8, .03)), ((.8, .03), (.58, .48), (.45, 1)))),
    (7, (((.13, .2), (.17, .05)), ((.17, .05), (.82, .03)), ((.82, .03), (.55, .55), (.47, 1)))),
    (7, (((.15, .05), (.8, .03)), ((.8, .03), (.56, .48), (.42, 1)), ((.32, .53), (.78, .48)))),
    (8, (((.75, .13), (.5, 0), (.25, .15), (.3, .35), (.52, .48), (.74, .68), (.7, .91), (.46, 1), (.22, .88),
          (.27, .65), (.52, .48), (.72, .32), (.75, .13)),)),
    (8, (((.5, .46), (.28, .33), (.27, .12), (.5, 0), (.73, .12), (.72, .33), (.5, .46)),
         ((.5, .46), (.22, .62), (.23, .88), (.5, 1), (.77, .88), (.78, .62), (.5, .46)))),
    (9, (((.76, .2), (.52, .01), (.26, .15), (.23, .4), (.45, .52), (.7, .38), (.76, .2)),
         ((.76, .2), (.72, .6), (.64, 1)))),
    (9, (((.76, .15), (.5, 0), (.24, .18), (.27, .43), (.52, .48), (.74, .3), (.76, .15)),
         ((.76, .15), (.79, .6), (.6, .94), (.25, .95)))),
)
# fmt: on


def _smooth(stroke: Stroke, steps: int = 16) -> Floats:
    """Points ((len(stroke) - 1) * steps + 1, 2) on the Catmull-Rom spline through a stroke's points."""
    p = np.array(stroke)
    start, end = p[:-1], p[1:]
    slope = np.concatenate([p[1:2] - p[:1], (p[2:] - p[:-2]) / 2, p[-1:] - p[-2:-1]])
    t = (np.arange(steps) / steps)[:, None, None]
    ease = t * t * (3 - 2 * t)
    spline = start + ease * (end - start) + t * (1 - t) * ((1 - t) * slope[:-1] - t * slope[1:])
    return np.concatenate([spline.swapaxes(0, 1).reshape(-1, 2), p[-1:]])


def _pen_path(strokes: tuple[Stroke, ...]) -> tuple[Floats, float]:
    """Pen points (2, PEN_POINTS), x and y, at equal distances along the strokes; and that distance."""
    curves = [_smooth(stroke) for stroke in strokes]
    points = np.concatenate(curves)
    # The way from one stroke to the next counts as 0, so no pen point falls on it.
    steps = [np.concatenate([curve[:1] * 0, curve[1:] - curve[:-1]]) for curve in curves]
    along = np.concatenate(steps)
    walked = np.array(list(accumulate(np.sqrt(along[:, 0] * along[:, 0] + along[:, 1] * along[:, 1]).tolist())))
    spacing = walked[-1] / PEN_POINTS
    stops = (np.arange(PEN_POINTS) + 0.5) * spacing
    after = np.searchsorted(walked, stops, side="right")
    part = (stops - walked[after - 1]) / (walked[after] - walked[after - 1])
    return (points[after - 1] + part[:, None] * (points[after] - points[after - 1])).T, float(spacing)


_PATHS: Final = [_pen_path(strokes) for _, strokes in STYLES]
PEN_PATH: Final = np.stack([path for path, _ in _PATHS], axis=1)  # (2, styles, PEN_POINTS)
SPACING: Final = np.array([spacing for _, spacing in _PATHS])  # (styles,)
STYLE_COUNT: Final = np.bincount([digit for digit, _ in STYLES])  # (10,)
FIRST_STYLE: Final = np.array([0, *accumulate(STYLE_COUNT.tolist())][:-1])  # (10,)


def _profiles(points: Floats, pen: Floats) -> Floats:
    """exp(-(i - p)² / 2 s²) for every pixel i, (BLOCK, SIDE, PEN_POINTS), on a grid on which products add exactly.

    points: p, (BLOCK, PEN_POINTS), from the middle of the image. pen: s, (BLOCK, 1).
    It is exp(-i² / 2 s²) exp(-p² / 2 s²) exp(p / s²)^i, so all pixels of a point need two exponentials.
    """
    narrowness = 1 / (pen * pen)
    pixel = np.arange(SIDE) - (SIDE - 1) / 2
    of_pixel = exp(pixel * pixel * narrowness * -0.5)
    of_point = exp(points * points * narrowness * -0.5)
    ratio = exp(points * narrowness)
    power = exp(points * narrowness * pixel[0])
    profiles = np.empty((len(points), SIDE, PEN_POINTS))
    for place in range(SIDE):
        np.multiply(of_point, of_pixel[:, place, None], out=profiles[:, place])
        np.multiply(profiles[:, place], power, out=profiles[:, place])
        np.multiply(power, ratio, out=power)
    return round_to(profiles, rounding_constant(0, product_bits(PEN_POINTS) // 2), profiles)


def _draw_block(seed: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (BLOCK, SIDE, SIDE) and labels (BLOCK,) of one block, every digit equally often."""
    numbers = draw_fractions(NUMBERS * BLOCK, seed, PURPOSE, block, 0).reshape(NUMBERS, BLOCK, 1)
    rows = iter(numbers)

    def between(low: float, high: float) -> Floats:
        """One number per sample, (BLOCK, 1), to go with its pen points (BLOCK, PEN_POINTS)."""
        return low + (high - low) * next(rows)

    labels = (draw_order(BLOCK, seed, PURPOSE, block, 1) % 10).astype(np.uint8)  # portable: 0 to 9
    chosen = np.floor(next(rows)[:, 0] * STYLE_COUNT[labels])
    style = FIRST_STYLE[labels] + chosen.astype(np.int64)  # portable: less than 3
    x, y = PEN_PATH[:, style]

    # Bend the paper, not single points: its waves are long, so strokes stay smooth and connected.
    for _ in range(3):
        wave = cos_sin(between(-0.95, 0.95) * x + between(-0.95, 0.95) * y + between(0, 1))[1]
        x, y = x + between(-0.09, 0.09) * wave, y + between(-0.08, 0.08) * wave
    # Centre the box, not the mass, so that hardly any digit is cut off at the border.
    x -= (x.min(axis=1, keepdims=True) + x.max(axis=1, keepdims=True)) / 2
    y -= (y.min(axis=1, keepdims=True) + y.max(axis=1, keepdims=True)) / 2
    x -= between(-0.15, 0.5) * y  # slant, mostly to the right
    height, width = between(16, 20), between(0.65, 1.05)  # pixels, ratio
    cosine, sine = cos_sin(between(-0.032, 0.032))  # turns
    x, y = x * height * width, y * height
    x, y = x * cosine - y * sine, x * sine + y * cosine
    x += between(-1, 1)
    y += between(-1, 1)

    pen = between(0.7, 1.3)  # standard deviation of its profile, pixels
    ink = np.matmul(_profiles(y, pen), _profiles(x, pen).swapaxes(1, 2))  # portable: profiles lie on grids
    # A stroke is the integral of the pen along it: this makes its middle about 1, however long the digit.
    # Too much ink, cut off at white and at black, is a stroke with a flat middle and an edge of a pixel.
    ink *= (between(1.5, 2.5) * SPACING[style, None] * height / (pen * math.sqrt(TAU)))[:, :, None]
    ink -= 0.25
    words = draw_words(ink.size // 4, seed, PURPOSE, block, 2)
    grain = words.astype("<u8", copy=False).view("<u2").reshape(ink.shape)  # portable: little-endian
    ink *= 1 - 0.3 / 65536 * grain  # of the paper
    np.minimum(np.maximum(ink, 0, out=ink), 1, out=ink)
    ink *= 255
    return ink.astype(np.uint8), labels  # portable: 0 to 255


def synthetic_digits(count: int, seed: int, first: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Samples first to first + count - 1 of the infinite sequence of digits for `seed`; count > 0.

    Returns images (count, 28, 28) uint8, white ink (255) on black (0), and labels (count,) uint8, 0 to 9 in
    random order, each equally often in every BLOCK samples. Sample i depends on (seed, i) alone, so disjoint
    index ranges of one seed are disjoint data sets. The pixels are the same on every machine.
    """
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
    images = np.empty((len(blocks), BLOCK, SIDE, SIDE), np.uint8)
    labels = np.empty((len(blocks), BLOCK), np.uint8)
    for row, block in enumerate(blocks):
        images[row], labels[row] = _draw_block(seed, block)
    wanted = slice(first % BLOCK, first % BLOCK + count)
    return images.reshape(-1, SIDE, SIDE)[wanted], labels.reshape(-1)[wanted]
