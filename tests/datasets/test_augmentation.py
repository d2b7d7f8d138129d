"""Augmentation: what (seed, epoch, sample) say and nothing else, in any split; as the slow way does it."""

import math
from itertools import islice, product
from operator import mul

import numpy as np
import pytest
from scipy import ndimage

from distnet.datasets.augmentation import MARGIN, Augmentation, Strengths
from distnet.datasets.synthetic import synthetic_digits
from distnet.portable.draws import GOLDEN_GAMMA, Draws, mix

SEED, EPOCH = 11, 3
BACKGROUND = -0.424
ALL = Strengths(shift=2, rotate=15, scale=15, elastic=36, sigma=5)
KINDS = {
    "shift": Strengths(shift=3),
    "rotate": Strengths(rotate=180),
    "scale": Strengths(scale=60),
    "elastic": Strengths(elastic=34, sigma=4),
    "rough": Strengths(elastic=2, sigma=0.7),
    "all": ALL,
}
WORD = 2**64 - 1


@pytest.fixture(scope="module")
def digits():
    images, _ = synthetic_digits(200, 5)
    return (images.reshape(len(images), -1) / np.float32(80) + np.float32(BACKGROUND)).astype(np.float32)


def augmented(images, samples, strengths=ALL, shape=(28, 28), seed=SEED, epoch=EPOCH):
    out = np.empty_like(images)
    Augmentation(shape, strengths, BACKGROUND, images.dtype).apply(images, seed, epoch, samples, out)
    return out


# The slow reference: whole numbers of Python, one image, pixel by pixel.


def mixed(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def numbers(seed, epoch, sample):
    state = mixed(mixed(mixed((GOLDEN_GAMMA + seed) & WORD) + epoch & WORD) + sample & WORD)
    while True:
        state = (state + GOLDEN_GAMMA) & WORD
        yield (mixed(state) >> 11) / 2**52 - 1


def grid(size, sigma):
    """The weight of each centre for each pixel of a line."""
    spacing = max(1, sigma)
    count = math.ceil((size - 1 + 2 * MARGIN * sigma) / spacing) + 1
    lines = []
    for pixel in range(size):
        far = [(pixel - (size - 1) / 2) - (i - (count - 1) / 2) * spacing for i in range(count)]
        line = [math.exp(-((d / sigma) ** 2) / 2) for d in far]
        norm = math.sqrt(sum(w * w for w in line))
        lines.append([w / norm for w in line])
    return lines


def kernel(sigma):
    reach = math.ceil(6 * sigma)
    weights = [math.exp(-((i / sigma) ** 2) / 2) for i in range(-reach, reach + 1)]
    return [w / sum(weights) for w in weights]


def slow_places(shape, strengths, seed, epoch, sample):
    """Where each pixel of the new image lies in the old one: two arrays."""
    draw = numbers(seed, epoch, sample)
    shift = [strengths.shift * next(draw) for _ in range(2)]
    angle = math.radians(strengths.rotate) * next(draw)
    scale = [1 + strengths.scale / 100 * next(draw) for _ in range(2)]
    middle = [(size - 1) / 2 for size in shape]
    places = np.empty((2, *shape))
    for i, j in product(*map(range, shape)):
        y, x = i - middle[0], j - middle[1]
        places[0, i, j] = middle[0] + shift[0] + (math.cos(angle) * y + math.sin(angle) * x) / scale[0]
        places[1, i, j] = middle[1] + shift[1] + (-math.sin(angle) * y + math.cos(angle) * x) / scale[1]
    if strengths.elastic:
        down, across = (grid(size, strengths.sigma) for size in shape)
        factor = strengths.elastic * sum(w * w for w in kernel(strengths.sigma))
        for axis in range(2):
            noise = [[next(draw) for _ in across[0]] for _ in down[0]]
            for i, j in product(*map(range, shape)):
                lines = (w * sum(map(mul, across[j], line)) for w, line in zip(down[i], noise, strict=True))
                places[axis, i, j] += factor * sum(lines)
    return places


def slow_look_up(image, places):
    def pixel(i, j):
        return image[i, j] if 0 <= i < image.shape[0] and 0 <= j < image.shape[1] else BACKGROUND

    new = np.empty_like(image)
    for i, j in product(*map(range, image.shape)):
        y, x = places[:, i, j]
        top, left = math.floor(y), math.floor(x)
        v, u = y - top, x - left
        upper = (1 - u) * pixel(top, left) + u * pixel(top, left + 1)
        lower = (1 - u) * pixel(top + 1, left) + u * pixel(top + 1, left + 1)
        new[i, j] = (1 - v) * upper + v * lower
    return new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_image_becomes_what_the_slow_way_makes_of_it(kind, dtype, digits):
    samples = np.array([0, 7, 59_999])
    images = digits[:3].astype(dtype)
    fast = augmented(images, samples, KINDS[kind])
    for image, sample, new in zip(images, samples, fast, strict=True):
        places = slow_places((28, 28), KINDS[kind], SEED, EPOCH, int(sample))
        slow = slow_look_up(image.reshape(28, 28).astype(float), places)
        np.testing.assert_allclose(new.reshape(28, 28), slow, rtol=0, atol=2e-4)
        assert np.abs(new - image).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_exact_products_look_up_a_pixel_within_a_ten_thousandth_of_its_place(kind):
    samples = np.array([0, 7, 59_999])
    found = Augmentation((28, 28), KINDS[kind], BACKGROUND, np.float64).find(SEED, EPOCH, samples)
    for place, sample in enumerate(samples.tolist()):
        slow = slow_places((28, 28), KINDS[kind], SEED, EPOCH, sample)
        np.testing.assert_allclose(found[:, place] - 1, slow, rtol=0, atol=1e-4)


def test_images_need_not_be_square(digits):
    shape = (7, 112)
    slow = [
        slow_look_up(image.reshape(shape).astype(float), slow_places(shape, ALL, SEED, EPOCH, sample))
        for sample, image in enumerate(digits[:2])
    ]
    fast = augmented(digits[:2], np.arange(2), shape=shape)
    np.testing.assert_allclose(fast.reshape(2, *shape), slow, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scipy_finds_the_same_at_the_same_places(kind, digits):
    images, samples = digits.astype(float), np.arange(len(digits))
    augmentation = Augmentation((28, 28), KINDS[kind], BACKGROUND, np.float64)
    out = np.empty_like(images)
    augmentation.apply(images, SEED, EPOCH, samples, out)
    places = augmentation.find(SEED, EPOCH, samples[:20]).swapaxes(0, 1) - 1
    for image, where, new in zip(images, places, out, strict=False):
        theirs = ndimage.map_coordinates(image.reshape(28, 28), where, order=1, mode="grid-constant", cval=BACKGROUND)
        np.testing.assert_allclose(new.reshape(28, 28), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_a_row_depend_on_no_other_row(kind, digits):
    samples = np.random.default_rng(0).permutation(60_000)[: len(digits)]
    whole = augmented(digits, samples, KINDS[kind])
    augmentation = Augmentation((28, 28), KINDS[kind], BACKGROUND)
    for size in (1, 3, 32, 63, 64, 65, 150):
        parts = np.empty_like(whole)
        for start in range(0, len(digits), size):
            rows = slice(start, start + size)
            augmentation.apply(digits[rows], SEED, EPOCH, samples[rows], parts[rows])
        np.testing.assert_array_equal(parts, whole)
    augmentation.apply(digits[:0], SEED, EPOCH, samples[:0], parts[:0])
    order = np.random.default_rng(1).permutation(len(digits))
    np.testing.assert_array_equal(augmented(digits[order], samples[order], KINDS[kind]), whole[order])


def test_rows_may_lie_apart_and_anywhere_and_be_overwritten(digits):
    samples = np.arange(len(digits))
    whole = augmented(digits, samples)
    for width, start in ((800, 0), (787, 1), (785, 0)):
        wide = np.full((len(digits), width), 7, np.float32)
        inside = wide[:, start : start + 784]
        inside[:] = digits
        Augmentation((28, 28), ALL, BACKGROUND).apply(inside, SEED, EPOCH, samples, out=inside)
        np.testing.assert_array_equal(inside, whole)
        assert (np.delete(wide, np.s_[start : start + 784], axis=1) == 7).all()


def test_the_seed_the_epoch_and_the_sample_each_decide(digits):
    images, samples = np.tile(digits[:1], (50, 1)), np.arange(50)
    one = augmented(images, samples)
    assert len(np.unique(one, axis=0)) == 50
    for other in (augmented(images, samples, seed=SEED + 1), augmented(images, samples, epoch=EPOCH + 1)):
        assert (one != other).any(axis=1).all()


@pytest.mark.parametrize("strengths", [Strengths(), Strengths(sigma=9), Strengths(1e-30, 1e-30, 1e-30, 1e-30)])
def test_no_strength_leaves_every_bit(strengths, digits):
    np.testing.assert_array_equal(augmented(digits, np.arange(len(digits)), strengths), digits)


def test_what_comes_in_from_outside_is_background():
    ones, samples = np.ones((500, 784), np.float32), np.arange(500)
    augmentation = Augmentation((28, 28), Strengths(shift=60), BACKGROUND)
    out = np.empty_like(ones)
    augmentation.apply(ones, SEED, EPOCH, samples, out)
    gone = (np.abs(Draws(5, 500).uniform(SEED, EPOCH, samples)[:2]) > 28 / 60).any(axis=0)
    assert 100 < gone.sum() < 500
    assert (out[gone] == np.float32(BACKGROUND)).all()
    assert (out[~gone] > np.float32(BACKGROUND)).any(axis=1).all()
    assert out.max() == 1
    assert out.min() == np.float32(BACKGROUND)


# Random numbers


def test_the_hash_is_splitmix64():
    words = np.arange(1, 4, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    mix(words, np.empty_like(words))
    # What its reference implementation by Vigna gives for the seed 0.
    assert [int(word) for word in words] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_numbers_are_those_of_one_sample_at_a_time_and_any_seed_will_do():
    samples = np.array([0, 1, 2**40])
    for seed, epoch in ((0, 1), (2**63 - 1, 10**6)):
        drawn = Draws(6, 3).uniform(seed, epoch, samples)
        for column, sample in zip(drawn.T, samples, strict=True):
            assert list(column) == list(islice(numbers(seed, epoch, int(sample)), 6))


def test_numbers_are_uniform_from_minus_1_to_1():
    drawn = Draws(200, 5000).uniform(SEED, EPOCH, np.arange(5000))
    count = drawn.size
    assert drawn.min() >= -1
    assert drawn.max() < 1
    assert abs(drawn.mean()) < 4 * np.sqrt(1 / 3 / count)
    assert drawn.var() == pytest.approx(1 / 3, abs=4 * np.sqrt(4 / 45 / count))
    bins = np.histogram(drawn, 1024, (-1, 1))[0]
    chi_squared = np.sum((bins - count / 1024) ** 2) / (count / 1024)
    assert abs(chi_squared - 1023) < 4 * np.sqrt(2 * 1023)


def test_neighbours_in_anything_are_uncorrelated():
    samples = np.arange(5000)

    def draw(seed, epoch):
        return Draws(20, 5000).uniform(seed, epoch, samples).copy() * np.sqrt(3)

    one = draw(SEED, EPOCH)
    pairs = [
        (one[1:], one[:-1]),
        (one[:, 1:], one[:, :-1]),
        (one[:, 64:], one[:, :-64]),
        (one[1:, :-1], one[:-1, 1:]),
        (one, draw(SEED + 1, EPOCH)),
        (one, draw(SEED, EPOCH + 1)),
        (draw(SEED + 1, EPOCH), draw(SEED, EPOCH + 1)),
    ]
    for a, b in pairs:
        for f in (lambda x: x, lambda x: (x**2 - 1) / np.sqrt(0.8)):
            assert abs(np.mean(f(a) * f(b))) < 4 / np.sqrt(a.size)


def test_a_bit_of_the_sample_number_turns_half_of_the_bits():
    samples = np.random.default_rng(0).integers(2**40, size=2000)
    one = (Draws(3, 2000).uniform(SEED, EPOCH, samples) + 1) * 2.0**52
    for bit in range(40):
        other = (Draws(3, 2000).uniform(SEED, EPOCH, samples ^ (1 << bit)) + 1) * 2.0**52
        turned = np.bitwise_count(one.astype(np.uint64) ^ other.astype(np.uint64))
        assert turned.mean() == pytest.approx(53 / 2, abs=4 * np.sqrt(53 / 4 / turned.size))


# What the strengths promise


def found(strengths, count=4000):
    """Places (2, count, 28, 28), without the border."""
    augmentation = Augmentation((28, 28), strengths, BACKGROUND)
    starts = range(0, count, augmentation.block)
    blocks = [np.arange(start, min(start + augmentation.block, count)) for start in starts]
    return np.concatenate([augmentation.find(SEED, EPOCH, block) - 1 for block in blocks], axis=1)


def assert_uniform(values, least, most):
    assert least <= values.min() < least + 0.01 * (most - least)
    assert most - 0.01 * (most - least) < values.max() <= most
    deviation = (most - least) / np.sqrt(12)
    assert values.mean() == pytest.approx((least + most) / 2, abs=4 * deviation / np.sqrt(values.size))
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_shift_turn_and_scales_are_uniform_within_their_strengths():
    y, x = found(Strengths(shift=2, rotate=15, scale=20)).astype(float)
    assert_uniform(y[:, 13:15, 13:15].mean(axis=(1, 2)), 11.5, 15.5)
    assert_uniform(x[:, 13:15, 13:15].mean(axis=(1, 2)), 11.5, 15.5)
    y_down, y_across = (y[:, 27, 0] - y[:, 0, 0]) / 27, (y[:, 0, 27] - y[:, 0, 0]) / 27
    x_down, x_across = (x[:, 27, 0] - x[:, 0, 0]) / 27, (x[:, 0, 27] - x[:, 0, 0]) / 27
    turn = np.rad2deg(np.arctan2(y_across, y_down))
    np.testing.assert_allclose(np.rad2deg(np.arctan2(-x_down, x_across)), turn, atol=1e-3)
    assert_uniform(turn, -15.001, 15.001)
    assert_uniform(1 / np.hypot(y_down, y_across), 0.7999, 1.2001)
    assert_uniform(1 / np.hypot(x_down, x_across), 0.7999, 1.2001)


@pytest.mark.parametrize("sigma", [1, 4, 6])
def test_the_elastic_displacement_varies_as_simards_does_at_the_border_too(sigma):
    alpha, count = 34, 4000
    pixels = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij"))[:, None]
    moved = found(Strengths(elastic=alpha, sigma=sigma), count) - pixels
    # Theirs, on a canvas so large that its border is far away.
    generator = np.random.default_rng(0)
    noise = generator.uniform(-1, 1, (40, 256, 256))
    theirs = alpha * ndimage.gaussian_filter(noise, sigma, axes=(1, 2), mode="wrap", truncate=6)
    deviation = alpha / np.sqrt(3) * sum(w * w for w in kernel(sigma))
    assert theirs.std() == pytest.approx(deviation, rel=0.02)
    everywhere = moved.std(axis=1)
    assert np.abs(moved.mean(axis=1)).max() < 4.5 * deviation / np.sqrt(count)
    assert everywhere.mean() == pytest.approx(deviation, rel=0.01)
    assert np.abs(everywhere - deviation).max() < 4.5 * deviation / np.sqrt(2 * count)
    for down, across in ((0, 1), (1, 0), (2, 3), (0, 4), (6, 0), (5, 5), (10, 0)):
        expected = np.mean(theirs * np.roll(theirs, (down, across), (1, 2))) / theirs.var()
        pairs = moved[..., down:, across:] * moved[..., : 28 - down, : 28 - across]
        assert pairs.mean() / deviation**2 == pytest.approx(expected, abs=0.03)
    assert abs(np.mean(moved[0] * moved[1])) < 0.03 * deviation**2  # the two axes know nothing of each other
    kurtosis = np.mean(moved**4) / np.mean(moved**2) ** 2
    assert 2.75 < kurtosis < 3.05  # about normal
