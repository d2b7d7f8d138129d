"""Draws have known words, depend on their key alone, and have the distributions that they claim."""

import math

import numpy as np
import pytest

from distnet.portable.draws import (
    GOLDEN_GAMMA,
    Draws,
    draw_fractions,
    draw_normals,
    draw_order,
    draw_words,
    mix,
)

MASK = (1 << 64) - 1
COUNT = 20_000


def splitmix(word):
    """The output function of splitmix64, in Python's integers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def plain_words(count, *key):
    state = GOLDEN_GAMMA
    for part in (len(key), *key):
        state = splitmix((state + part) & MASK)
    return [splitmix((state + (number + 1) * GOLDEN_GAMMA) & MASK) for number in range(count)]


def test_mixing_gives_the_published_sequence_of_splitmix64():
    """Java's SplittableRandom and every other splitmix64 start so from the seed 1234567."""
    words = np.arange(1, 6, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA) + np.uint64(1234567)
    mix(words, np.empty_like(words))
    assert words.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


KNOWN = {
    (): "a706dd2f4d197e6f b382a305f4414f5e",
    (0,): "6ec85f1f8547bc0c 6cf63afcc21a470a",
    (0, 0): "f80855b64d09fa94 99a8ef9251fbdc3a",
    (7, 3, 1): "4fcb73488cb70f31 8bbee75991579713",
    (2**64 - 1, 5): "9876bac58d3a63a5 35acc66f846afb2a",
}


@pytest.mark.parametrize("key", KNOWN)
def test_words_are_the_known_ones(key):
    assert [f"{word:016x}" for word in draw_words(2, *key).tolist()] == KNOWN[key].split()
    assert draw_words(50, *key).tolist() == plain_words(50, *key)


def test_no_two_keys_have_the_same_words_and_more_words_begin_with_the_fewer():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2, 3), (3, 2), (0, 0, 0), (5,), (-5,)]
    words = np.array([draw_words(100, *key) for key in keys])
    assert len(np.unique(words)) == words.size
    assert np.array_equal(draw_words(1000, 3)[:100], draw_words(100, 3))
    assert draw_words(0, 1).tolist() == draw_normals(0, 1).tolist() == draw_order(0, 1).tolist() == []


def test_fractions_are_the_first_53_bits():
    words, fractions = draw_words(1000, 4), draw_fractions(1000, 4)
    assert fractions.tolist() == [math.ldexp(word >> 11, -53) for word in words.tolist()]
    assert fractions.max() < 1


def test_fractions_are_uniform_and_do_not_follow_each_other():
    x = draw_fractions(COUNT, 11)
    assert np.abs(np.histogram(x, 20, (0, 1))[0] / COUNT - 1 / 20).max() < 5 * math.sqrt(1 / 20 / COUNT)
    for distance in (1, 2, 7):
        assert abs(np.corrcoef(x[:-distance], x[distance:])[0, 1]) < 5 / math.sqrt(COUNT)


def kolmogorov(x, distribution):
    """The largest distance of the empirical distribution from a given one, times √n: above 2 once in 1,500 samples."""
    x = np.sort(x)
    expected = np.array([distribution(each) for each in x])
    steps = np.arange(len(x) + 1) / len(x)
    return math.sqrt(len(x)) * max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())


def test_normals_have_the_normal_distribution():
    def normal(x):
        return (1 + math.erf(x / math.sqrt(2))) / 2

    for key in ((0,), (1, 2), (5, 2, 0)):
        x = draw_normals(COUNT, *key)
        assert kolmogorov(x, normal) < 2
        assert kolmogorov(x * 1.1, normal) > 2  # so much of a difference would show
        assert abs(x.mean()) < 5 / math.sqrt(COUNT)
        assert abs(np.mean(x**4) - 3) < 5 * math.sqrt(96 / COUNT)
        halves = x[: COUNT // 2], x[COUNT // 2 :]  # of one radius, with cosine and with sine
        assert abs(np.corrcoef(*halves)[0, 1]) < 5 / math.sqrt(COUNT / 2)


def test_normals_are_those_of_box_and_muller():
    for count in (1, 2, 7, 1000):
        pairs = -(-count // 2)
        first, second = draw_fractions(2 * pairs, 9).reshape(2, -1)
        radius = np.sqrt(-2 * np.log1p(-first))
        expected = np.concatenate([radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)])[:count]
        assert np.allclose(draw_normals(count, 9), expected, rtol=1e-13, atol=1e-14)


def test_the_largest_normal_is_finite(monkeypatch):
    monkeypatch.setattr("distnet.portable.draws.draw_words", lambda count, *key: np.full(count, MASK, np.uint64))
    assert np.isfinite(draw_normals(2, 0)).all()
    assert np.abs(draw_normals(2, 0)).max() < math.sqrt(2 * 53 * math.log(2)) + 1e-9


@pytest.mark.parametrize("count", [0, 1, 2, 10, 1000])
def test_an_order_is_a_permutation_and_that_of_the_words(count):
    order = draw_order(count, 3, 1)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == sorted(range(count), key=plain_words(count, 3, 1).__getitem__)


def test_equal_words_keep_their_order(monkeypatch):
    monkeypatch.setattr("distnet.portable.draws.draw_words", lambda count, *key: np.arange(count, dtype="u8") // 40 % 2)
    order = draw_order(200, 0).tolist()
    assert order == sorted(range(200), key=lambda place: place // 40 % 2)


def test_every_order_of_four_occurs_about_equally_often():
    orders = [tuple(draw_order(4, 0, epoch).tolist()) for epoch in range(4800)]
    counts = [orders.count(each) for each in sorted(set(orders))]
    assert len(counts) == 24
    assert max(abs(each - 200) for each in counts) < 5 * math.sqrt(200)


def plain_sample(count, purpose, seed, epoch, sample):
    stream, state = purpose * GOLDEN_GAMMA & MASK, GOLDEN_GAMMA
    for part in (seed, epoch, sample):
        state = splitmix((state + part + stream) & MASK)
    return [splitmix((state + (number + 1) * GOLDEN_GAMMA) & MASK) for number in range(count)]


@pytest.mark.parametrize("purpose", [0, 1, 7])
def test_a_samples_words_depend_on_purpose_seed_epoch_and_sample_alone(purpose):
    samples = np.array([5, 0, 59_999, 5])
    for seed, epoch in ((0, 1), (2**64 - 1, 3), (12, 300)):
        expected = [plain_sample(9, purpose, seed, epoch, sample) for sample in samples.tolist()]
        assert Draws(9, 4, purpose).words(seed, epoch, samples).tolist() == expected
        alone = Draws(9, 10, purpose).words(seed, epoch, samples[2:3])
        assert alone.tolist() == expected[2:3]


def test_a_samples_uniform_numbers_are_its_words_from_minus_one_to_one():
    draws, samples = Draws(6, 3), np.array([3, 1, 2])
    words = draws.words(1, 2, samples).tolist()
    expected = [[math.ldexp(word >> 11, -52) - 1 for word in row] for row in words]
    assert draws.uniform(1, 2, samples).T.tolist() == expected
