"""Augmentation: each image is shifted, rotated, scaled and bent at random in every epoch.

Each pixel of the new image is looked up at a place (y, x) of the old one. Both coordinates are sums of
(function of the row) x (coefficient) x (function of the column). Constant and linear functions give affine maps,
Gaussian bumps elastic ones. One random matrix per image and two products therefore determine all places.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.portable.draws import Draws
from distnet.portable.elementary import cos_sin, exp
from distnet.portable.grids import exact_sum, exponent_above, product_bits, round_to, rounding_constant
from distnet.runtime.arrays import Array, aligned_zeros, pad_count

# The default strength of each kind of augmentation; sigma belongs to elastic.
STRENGTHS = {"shift": 1.0, "rotate": 10.0, "scale": 10.0, "elastic": 36.0, "sigma": 6.0}

PIXELS_AT_ONCE = 50_176  # 64 images of 28 x 28; 32 take 15 % longer, 128 take 10 % less and twice the memory
AFFINE_DRAWS = 5  # shift down and to the right, rotation, scale down and across
MARGIN = 2  # sigmas that elastic noise reaches beyond the image


class Strengths(NamedTuple):
    """How far an image may be changed; 0 is not at all.

    Source of elastic and sigma: Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural
    networks applied to visual document analysis", section 2, with alpha 34 and sigma 4. Ciresan et al. 2010,
    "Deep, big, simple neural nets for handwritten digit recognition", used alpha 36 to 38, sigma 5 to 6.
    """

    shift: float = 0  # pixels, along each axis
    rotate: float = 0  # degrees, in either direction
    scale: float = 0  # percent, below 100; larger or smaller, independently along each axis
    elastic: float = 0  # alpha, in pixels: factor of smoothed noise from -1 to 1
    sigma: float = 4  # pixels, above 0; standard deviation of the smoothing Gaussian


def bumps(size: int, sigma: float) -> Array:
    """Gaussians of deviation `sigma` at each of `size` pixels, (size, count); the squares of each row sum to 1.

    Their centres are one sigma apart, and at least one pixel.
    """
    spacing = max(sigma, 1)  # portable: a checked number
    count = int(np.ceil((size - 1 + 2 * MARGIN * sigma) / spacing)) + 1
    centre = (np.arange(count) - (count - 1) / 2) * spacing
    distance = (from_the_middle(size)[:, None] - centre) / sigma
    values = exp(-0.5 * (distance * distance))
    values /= np.sqrt(exact_sum(values * values, axis=1))[:, None]
    return values


def from_the_middle(size: int) -> Array:
    """The position of each pixel of a line of `size`, relative to its middle."""
    return np.arange(size, dtype=np.float64) - (size - 1) / 2


def smoothed_deviation(sigma: float) -> float:
    """The deviation of two-dimensional noise of deviation 1 after smoothing by a Gaussian whose weights sum to 1."""
    reach = int(np.ceil(6 * sigma))
    distance = np.arange(-reach, reach + 1) / sigma
    weights = exp(-0.5 * (distance * distance))
    weights /= exact_sum(weights)
    return float(exact_sum(weights * weights))


class Augmentation:
    """Workspace that changes images of `shape` (rows, columns) within `strengths`.

    background: the value outside of an image; for standardised images, (0 - mean) / deviation. dtype: of the images.

    The new pixel at p, relative to the middle, is the old image at t + S⁻¹ R⁻¹ p + d(p), by bilinear interpolation.
    The shift t, rotation R and scales S are uniform within their strengths; d is the elastic displacement.

    Simard et al. draw uniform noise for every pixel, and smooth it. Here the noise is on a grid whose points are one
    sigma apart, at least one pixel. d is its sum with Gaussian weights, scaled to their deviation. The
    correlation of two pixels is theirs within 0.0003; the kurtosis of displacements is 2.8, theirs 3. The grid extends
    beyond the image, so that pixels at the border move no less than others.

    A row depends on (seed, epoch, sample) and its image only: each product has the shapes of one image, and all else
    is element-wise.
    """

    def __init__(
        self, shape: tuple[int, int], strengths: Strengths, background: float, dtype: DTypeLike = np.float32
    ) -> None:
        height, width = shape
        self.shape, self.strengths, self.background = shape, strengths, background
        self.block = rows = max(1, PIXELS_AT_ONCE // (height * width))
        functions = [[np.ones(size), from_the_middle(size)] for size in shape]
        if strengths.elastic:
            for axis, size in zip(functions, shape, strict=True):
                axis.extend(bumps(size, strengths.sigma).T)
        self.elastic = strengths.elastic * smoothed_deviation(strengths.sigma) if strengths.elastic else 0.0
        down, across = map(len, functions)
        self.draws = Draws(AFFINE_DRAWS + 2 * (down - 2) * (across - 2), rows)

        def lines(*shape: int) -> Array:
            """Matrices (..., rows, columns), each at the start of a cache line."""
            count = shape[-2] * shape[-1]
            whole = aligned_zeros((*shape[:-2], pad_count(count, dtype)), dtype)
            return whole[..., :count].reshape(shape, copy=False)

        self.down, self.across = lines(height, down), lines(across, width)
        self.down[:], self.across[:] = np.transpose(functions[0]), functions[1]
        self.grids: tuple[float, ...] = ()
        if np.dtype(dtype) == np.float64:
            self.grids = self.make_products_exact()
        self.coefficients = lines(2, rows, down, across)  # axis, row; [0, 0] the constant, [1, 0] and [0, 1] linear
        self.half = lines(2, rows, down, width)
        self.places = lines(2, rows, height, width)

        # Images with a border of one pixel. After the last one, a line and a pixel that are read with weight zero.
        self.line = width + 2
        self.bordered = (height + 2) * self.line
        self.flat = np.full(rows * self.bordered + self.line + 1, background, dtype)
        self.images = self.flat[: rows * self.bordered].reshape(rows, height + 2, self.line)[:, 1:-1, 1:-1]
        self.corners = [self.flat[start:] for start in (0, 1, self.line, self.line + 1)]
        self.last = np.array(shape, dtype)[:, None, None, None] + 1
        self.first_pixel = (np.arange(rows) * self.bordered).astype(dtype)[:, None, None]
        self.whole = np.empty((2, rows, height, width), dtype)
        self.index32 = np.empty((rows, height, width), np.int32)
        self.index = np.empty((rows, height, width), np.intp)
        self.values = np.empty((4, rows, height, width), dtype)

    def make_products_exact(self) -> tuple[float, float]:
        """Round both factors of functions; returns the constants that round coefficients and half products.

        Less than a ten thousandth of a pixel is lost.
        """
        strengths = self.strengths
        bits = product_bits(max(self.down.shape[1], len(self.across))) // 2
        for factors in (self.down, self.across):
            round_to(factors, rounding_constant(exponent_above(float(np.max(np.abs(factors)))), bits), factors)
        slope = 1 / (1 - strengths.scale / 100)
        constant = strengths.shift + (max(self.shape) + 1) / 2
        largest = max(constant, slope, self.elastic)  # portable: finite numbers
        # Of the squares of a row of bumps, the sum is one.
        bent = self.elastic * math.sqrt(len(self.across))
        largest_half = max(constant + slope * max(self.shape) / 2, bent)  # portable: finite numbers
        return rounding_constant(exponent_above(largest), bits), rounding_constant(exponent_above(largest_half), bits)

    def apply(self, images: Array, seed: int, epoch: int, samples: NDArray[np.int64], out: Array) -> None:
        """Write the changed images to `out`, (n, pixels), which may be `images` itself.

        images: (n, pixels). samples: (n,), the index of each in its data set. If all strengths are 0, it copies.
        """
        if not any(self.strengths._replace(sigma=0)):
            np.copyto(out, images)
            return
        for start in range(0, len(samples), self.block):
            rows = slice(start, start + self.block)
            self.look_up(images[rows], self.find(seed, epoch, samples[rows]), out[rows])

    def find(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> Array:
        """Places (2, n, rows, columns), y and x of each new pixel, for up to `block` samples.

        They count from the border: (1, 1) is the first pixel of the image. Overwritten by the next call.
        """
        count, strengths = len(samples), self.strengths
        numbers = self.draws.uniform(seed, epoch, samples)
        shift, turn, scale, noise = numbers[:2], numbers[2], numbers[3:AFFINE_DRAWS], numbers[AFFINE_DRAWS:]
        cosine, sine = cos_sin(turn * (strengths.rotate / 360))
        scale = 1 + scale * (strengths.scale / 100)
        coefficients = self.coefficients[:, :count]
        coefficients[..., 0, 0] = shift * strengths.shift + (np.array(self.shape)[:, None] + 1) / 2
        y, x = coefficients
        y[:, 1, 0], y[:, 0, 1] = cosine / scale[0], sine / scale[0]
        x[:, 1, 0], x[:, 0, 1] = -sine / scale[1], cosine / scale[1]
        bent = coefficients[..., 2:, 2:]
        noise = noise.reshape(2, *bent.shape[2:], count).transpose(0, 3, 1, 2)
        np.multiply(noise, self.elastic, out=bent)
        half, places = self.half[:, :count], self.places[:, :count]
        if self.grids:
            round_to(coefficients, self.grids[0], coefficients)
        np.matmul(coefficients, self.across, out=half)  # portable: factors on grids
        if self.grids:
            round_to(half, self.grids[1], half)
        return np.matmul(self.down, half, out=places)  # portable: factors on grids

    def look_up(self, images: Array, places: Array, out: Array) -> None:
        """Write the values of `images`, (n, pixels), at `places` to `out`, (n, pixels). Overwrites `places`."""
        count = len(images)
        self.images[:count] = images.reshape(count, *self.shape, copy=False)
        np.clip(places, 0, self.last, out=places)
        whole, index32, index = self.whole[:, :count], self.index32[:count], self.index[:count]
        np.floor(places, out=whole)
        np.subtract(places, whole, out=places)
        line, column = whole
        np.multiply(line, self.line, out=line)
        np.add(line, column, out=line)
        np.add(line, self.first_pixel[:count], out=line)
        np.copyto(index32, line, casting="unsafe")  # portable: clipped to the bordered images
        np.copyto(index, index32)  # a direct conversion to int64 takes twice as long
        values = self.values[:, :count]
        for corner, value in zip(self.corners, values, strict=True):
            corner.take(index, out=value, mode="clip")
        down, right = places
        upper, lower = values[0], values[2]
        for left, other in (values[:2], values[2:]):
            np.subtract(other, left, out=other)
            np.multiply(other, right, out=other)
            np.add(left, other, out=left)
        np.subtract(lower, upper, out=lower)
        np.multiply(lower, down, out=lower)
        np.add(upper, lower, out=out.reshape(count, *self.shape, copy=False))
