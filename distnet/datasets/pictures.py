"""Images of any size, light on dark or dark on light, in the form of MNIST or Fashion-MNIST. Needs Pillow."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnet.datasets.options import TABLES
from distnet.portable.grids import exact_sum, exponent_above, product_bits, round_to, rounding_constant
from distnet.runtime.errors import InputError, first_line

# MNIST's side, the longer side of its digits, and the pixel of their centre of mass, counted from 0.
# Source: LeCun, Cortes, Burges, The MNIST database; the pixel was measured on all its images.
SIDE, BOX, MIDDLE = 28, 20, 14
# The QUIET quantile of the border's distances from their median measures the grain of the paper. Up to NOISE times
# that is paper, but never more than FAINT of the darkest ink.
QUIET, NOISE, FAINT = 0.9, 4.0, 0.35
# Edges that differ from the corners by up to this part of white are trimmed.
# Source: Xiao, Rasul, Vollgraf 2017, Fashion-MNIST: a Novel Image Dataset.
CLOSE = 0.05


def read_picture(path: Path, inputs: int, dataset: str) -> NDArray[Any]:
    """An image file as inputs (inputs,) of a network that was trained on this data set.

    A digit or garment is prepared like MNIST's or Fashion-MNIST's. For tables, the pixels are the inputs.
    Raises InputError if Pillow is missing, or the file can't be read or doesn't fit.
    """
    grey = read_grey(path)
    if dataset in TABLES:
        if grey.size != inputs:
            raise InputError(
                path,
                f"it has {grey.shape[1]} x {grey.shape[0]} pixels, and this network of a table {inputs} inputs",
                "use an image with one pixel per input, or rows of numbers in a .csv",
            )
        return grey.ravel()
    side = math.isqrt(inputs)
    if side * side != inputs:
        raise InputError(
            path, f"this network has {inputs} inputs, not those of a square image", "use rows of numbers in a .csv"
        )
    if dataset == "fashion-mnist":
        pixels = prepare_garment(grey, side)
    else:
        found = extract_digit(grey)
        pixels = None if found is None else centre_digit(found, side)
    if pixels is None:
        raise InputError(path, "all of its pixels have one shade", "name an image of something")
    return pixels.ravel()


def read_grey(path: Path) -> NDArray[np.float64]:
    """The grey levels of an image file, (rows, columns), 0 to 255 unless it has more bits. Raises InputError."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError(path, "reading images needs Pillow", "pip install Pillow") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
                if image.mode[0] not in "IF":  # these modes have more than 8 bits, which are kept
                    image = image.convert("LA")
                pixels = np.asarray(image, np.float64)
    except Exception as error:  # damaged and foreign bytes make Pillow's decoders raise almost anything
        is_damaged = isinstance(error, OSError) and not error.strerror
        reason = "it is damaged or not an image" if is_damaged else getattr(error, "strerror", "") or first_line(error)
        raise InputError(path, f"can't be read ({reason})", "name an image, such as a PNG") from None
    if not np.isfinite(pixels).all():
        raise InputError(path, "some of its pixels are not finite numbers", "name an image, such as a PNG")
    return flatten(pixels) if pixels.ndim == 3 else pixels


def flatten(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grey and opacity, (rows, columns, 2), as grey only, over black if the opaque part is light, else over white."""
    grey, opacity = pixels[..., 0], pixels[..., 1] / 255
    light = exact_sum((grey * opacity).reshape(-1)) > 127.5 * exact_sum(opacity.reshape(-1))
    paper: NDArray[np.float64] = grey * opacity + (1 - opacity) * (0 if light else 255)
    return paper


def extract_digit(grey: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The digit, light on dark, 0 to 1, cropped to its bounding box; None if there is none.

    grey: (rows, columns). The border is taken for paper, and decides whether the digit is light or dark.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = float(np.median(border))
    strength = grey - paper
    if paper - grey.min() > grey.max() - paper:
        strength = -strength
    darkest = float(strength.max())
    if darkest <= 0:
        return None
    strength[strength <= min(NOISE * float(np.quantile(np.abs(border - paper), QUIET)), FAINT * darkest)] = 0
    rows, columns = (np.flatnonzero(strength.any(axis=axis)) for axis in (1, 0))
    digit: NDArray[np.float64] = strength[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / darkest
    return digit


def centre_digit(digit: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """A digit cropped to its bounding box, scaled and placed like MNIST's, (side, side).

    Its longer side becomes 20 of 28 pixels, antialiased. Its centre of mass moves to pixel 14 of 28, or as close as
    the image allows.
    """
    box, middle = (max(round(side * part / SIDE), 1) for part in (BOX, MIDDLE))
    scale = box / max(digit.shape)
    height, width = (min(max(round(length * scale), 1), box) for length in digit.shape)
    small = resample(resample(digit, height).T, width).T
    pixels = np.zeros((side, side))
    mass = exact_sum(small.reshape(-1))
    corner = []
    for axis, length in enumerate(small.shape):
        centre = float(exact_sum(exact_sum(small, axis=1 - axis) * np.arange(length)) / mass)
        corner.append(min(max(math.floor(middle - centre + 0.5), 0), side - length))
    pixels[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = small / small.max()
    return np.rint(pixels * 255).astype(np.uint8)


def prepare_garment(grey: NDArray[np.float64], side: int) -> NDArray[np.uint8] | None:
    """An image like Fashion-MNIST's, (side, side), light on dark; None if it is blank.

    Unless it has that size already, its edges are trimmed, its longer side becomes 28 pixels, antialiased, and it is
    centred. The background becomes black. grey: (rows, columns); the corners decide whether it is light or dark.
    """
    white = max(float(grey.max()), 255.0)
    background = float(np.median(grey[[0, 0, -1, -1], [0, -1, 0, -1]]))
    light = background > white / 2
    strength = (background - grey) / background if light else (grey - background) / (white - background)
    strength = np.maximum(strength, 0)
    if not (strength > CLOSE).any():
        return None
    if grey.shape != (side, side):
        rows, columns = (np.flatnonzero((strength > CLOSE).any(axis=axis)) for axis in (1, 0))
        strength = strength[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = side / max(strength.shape)
    height, width = (max(round(length * scale), 1) for length in strength.shape)
    top, left = (side - height) // 2, (side - width) // 2
    pixels = np.zeros((side, side))
    pixels[top : top + height, left : left + width] = resample(resample(strength, height).T, width).T
    return np.rint(pixels * 255).astype(np.uint8)


def resample(image: NDArray[Any], rows: int) -> NDArray[np.float64]:
    """The image resampled to this many rows, each a mean weighted by a triangle.

    The triangle is two rows of the smaller image wide, so that an image of the same size is not blurred.
    """
    scale = len(image) / rows
    reach = max(scale, 1.0)
    centres = (np.arange(rows) + 0.5) * scale
    weights = np.maximum(1 - np.abs(np.arange(len(image)) + 0.5 - centres[:, None]) / reach, 0)
    weights /= exact_sum(weights, axis=1)[:, None]
    # On grids on which the sums of their products are exact, as everywhere in portable arithmetic.
    bits = product_bits(len(image)) // 2
    pixels = np.array(image, np.float64)
    round_to(weights, rounding_constant(1, bits), weights)
    round_to(pixels, rounding_constant(exponent_above(float(np.max(np.abs(pixels)))), bits), pixels)
    means: NDArray[np.float64] = weights @ pixels
    return means
