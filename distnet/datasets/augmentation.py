"""Augmentation: every image shifted, turned, scaled and bent, in another way in every epoch.

Each pixel of the new image is looked up at a place (y, x) of the old one. Both coordinates are sums of
(function of the row) x (coefficient) x (function of the column): constants and straight lines give any affine
map, Gaussian bumps an elastic one. So a random matrix per image says all, and two products make its places.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnet.nn.draws import Draws
from distnet.runtime.arrays import Array, aligned_zeros, pad_count

# Kinds of augmentation with the strengths that they have where none is given; sigma is elastic's.
STRENGTHS = {"shift": 1.0, "rotate": 10.0, "scale": 10.0, "elastic": 36.0, "sigma": 6.0}

PIXELS_AT_ONCE = 50_176  # 64 images of 28 x 28; 32 take 15 % longer, 128 a tenth less, but twice the memory
AFFINE_DRAWS = 5  # shift down and to the right, turn, scale down and across
MARGIN = 2  # sigmas that elastic noise reaches beyond the image


class Strengths(NamedTuple):
    """How far an image may be changed; 0 is not at all.

    Source of elastic and sigma: Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural
    networks applied to visual document analysis", section 2, with alpha 34 and sigma 4. Ciresan et al. 2010,
    "Deep, big, simple neural nets for handwritten digit recognition", took alpha 36 to 38, sigma 5 to 6,
    15 degrees (7.5 for 1 and 7) and 15 to 20 %.
    """

    shift: float = 0  # pixels, along each axis
    rotate: float = 0  # degrees, either way
    scale: float = 0  # percent, below 100; larger or smaller, along each axis by itself
    elastic: float = 0  # alpha, by which smoothed noise from -1 to 1 is multiplied to give pixels
    sigma: float = 4  # pixels, above 0; standard deviation of the Gaussian that smoothes it


def bumps(size: int, sigma: float) -> Array:
    """Gaussians of deviation `sigma` at each of `size` pixels, (size, how many); the squares of a row add up to 1.

    Their centres lie a sigma apart, but not closer than pixels do.
    """
    spacing = max(sigma, 1)
    count = int(np.ceil((size - 1 + 2 * MARGIN * sigma) / spacing)) + 1
    centre = (np.arange(count) - (count - 1) / 2) * spacing
    values: Array = np.exp(-0.5 * ((from_the_middle(size)[:, None] - centre) / sigma) ** 2)
    values /= np.sqrt(np.sum(values**2, axis=1, keepdims=True))
    return values


def from_the_middle(size: int) -> Array:
    """Where each pixel of a line of `size` lies."""
    return np.arange(size, dtype=np.float64) - (size - 1) / 2


def smoothed(sigma: float) -> float:
    """What smoothing by a Gaussian, whose weights sum to 1, leaves of the deviation of noise in two dimensions."""
    reach = int(np.ceil(6 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return float(np.sum(weights**2))


class Augmentation:
    """Workspace to change images of `shape` (rows, columns), as much as `strengths` says.

    background: what is outside of an image, and comes in from there; for standardised images that of their
    data set, (0 - mean) / deviation. dtype: of the images.

    A new pixel p from the middle is the old one at t + S⁻¹ R⁻¹ p + d(p), bilinear between four: t the shift,
    R the turn, S the scales, each uniform within its strength, d the elastic displacement.

    Where d differs from Simard et al.: they draw noise, uniform from -1 to 1, for every pixel, and smooth it.
    Here the noise lies on a grid, a sigma apart (a pixel, where sigma is less), and d is its sum with Gaussian
    weights, scaled to the deviation of theirs. Two pixels' correlation is that of theirs within 0.0003. Large
    displacements are a little rarer: the kurtosis is 2.8, theirs 3. And the grid goes on beyond the image, so
    that pixels at its border move no less than others.

    Everything about a row depends on (seed, epoch, its sample) and its image alone: each product has the
    shapes of one image, the rest goes element by element.
    """

    def __init__(
        self, shape: tuple[int, int], strengths: Strengths, background: float, dtype: DTypeLike = np.float32
    ) -> None:
        height, width = shape
        self.shape, self.strengths = shape, strengths
        self.block = rows = max(1, PIXELS_AT_ONCE // (height * width))
        functions = [[np.ones(size), from_the_middle(size)] for size in shape]
        if strengths.elastic:
            for axis, size in zip(functions, shape, strict=True):
                axis.extend(bumps(size, strengths.sigma).T)
        self.elastic = strengths.elastic * smoothed(strengths.sigma) if strengths.elastic else 0.0
        down, across = map(len, functions)
        self.draws = Draws(AFFINE_DRAWS + 2 * (down - 2) * (across - 2), rows)

        def lines(*shape: int) -> Array:
            """Matrices (..., rows, columns), each from the start of a cache line."""
            count = shape[-2] * shape[-1]
            whole = aligned_zeros((*shape[:-2], pad_count(count, dtype)), dtype)
            return whole[..., :count].reshape(shape, copy=False)

        self.down, self.across = lines(height, down), lines(across, width)
        self.down[:], self.across[:] = np.transpose(functions[0]), functions[1]
        self.coefficients = lines(2, rows, down, across)  # axis, row; [0, 0] the constant, [1, 0] and [0, 1] linear
        self.half = lines(2, rows, down, width)
        self.places = lines(2, rows, height, width)
        self.angles = aligned_zeros((3, pad_count(rows, np.float64)), np.float64)  # with cosine and sine

        # Images with a border of one pixel. Behind the last, a line and a pixel that are looked at, and weigh nothing.
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

    def apply(self, images: Array, seed: int, epoch: int, samples: NDArray[np.int64], out: Array) -> None:
        """Write the changed images to `out`, (n, pixels), which may be `images` itself.

        images: (n, pixels). samples: (n,), the number of each in its data set. Rows of images and of out may
        lie apart. Where all strengths are 0 it copies.
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
        angle, cosine, sine = self.angles
        np.multiply(turn, np.deg2rad(strengths.rotate), out=angle[:count])
        # All of them, whatever the count: vector code must meet a row with the same instructions everywhere.
        np.cos(angle, out=cosine)
        np.sin(angle, out=sine)
        scale = 1 + scale * (strengths.scale / 100)
        coefficients = self.coefficients[:, :count]
        coefficients[..., 0, 0] = shift * strengths.shift + (np.array(self.shape)[:, None] + 1) / 2
        y, x = coefficients
        y[:, 1, 0], y[:, 0, 1] = cosine[:count] / scale[0], sine[:count] / scale[0]
        x[:, 1, 0], x[:, 0, 1] = -sine[:count] / scale[1], cosine[:count] / scale[1]
        bent = coefficients[..., 2:, 2:]
        noise = noise.reshape(2, *bent.shape[2:], count).transpose(0, 3, 1, 2)
        np.multiply(noise, self.elastic, out=bent)
        half, places = self.half[:, :count], self.places[:, :count]
        np.matmul(coefficients, self.across, out=half)
        return np.matmul(self.down, half, out=places)

    def look_up(self, images: Array, places: Array, out: Array) -> None:
        """Write to `out`, (n, pixels), what `images`, (n, pixels), have at `places`, which are overwritten."""
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
        np.copyto(index32, line, casting="unsafe")  # to int64 at once takes twice as long as by this detour
        np.copyto(index, index32)
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
