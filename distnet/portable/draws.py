"""Random numbers: a hash of what they are for, with the same bits on every machine.

There is no generator with a state. A sample gets the same numbers on any rank, in any mini-batch and order; and no
change of NumPy's generators (NEP 19) changes them.
"""

import numpy as np
from numpy.typing import NDArray

from distnet.portable.elementary import cos_sin, log
from distnet.portable.grids import Floats

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
ROUNDS = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)  # of `mix`: shift, and factor
LAST_SHIFT = 31
ALL_BITS = (1 << 64) - 1

Words = NDArray[np.uint64]


def mix(words: Words, scratch: Words) -> None:
    """Scramble each word, in place and one to one. scratch: as large, overwritten.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators": splitmix64, whose
    output function this is (variant 13 of Stafford's).
    """
    for shift, factor in ROUNDS:
        np.right_shift(words, shift, out=scratch)
        np.bitwise_xor(words, scratch, out=words)
        np.multiply(words, factor, out=words)
    np.right_shift(words, LAST_SHIFT, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


def mix_one(word: int) -> int:
    """What `mix` makes of a word; far faster for a single one."""
    for shift, factor in ROUNDS:
        word = (word ^ word >> shift) * factor & ALL_BITS
    return word ^ word >> LAST_SHIFT


def draw_words(count: int, *key: int) -> Words:
    """`count` random words for a key of whole numbers: a splitmix64 sequence from the hash of the key."""
    state = GOLDEN_GAMMA
    for part in (len(key), *key):
        state = mix_one(state + int(part) & ALL_BITS)
    words: Words = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA) + np.uint64(state)
    mix(words, np.empty_like(words))
    return words


def draw_fractions(count: int, *key: int) -> Floats:
    """`count` numbers in [0, 1), multiples of 2^-53."""
    fractions: Floats = np.multiply(draw_words(count, *key) >> np.uint64(11), 1 / (1 << 53))
    return fractions


def draw_normals(count: int, *key: int) -> Floats:
    """`count` numbers from the standard normal distribution. Source: Box and Muller 1958."""
    pairs = -(-count // 2)
    fractions = draw_fractions(2 * pairs, *key)
    radius = np.sqrt(-2.0 * log(1.0 - fractions[:pairs]))  # of a number in (0, 1]
    cosine, sine = cos_sin(fractions[pairs:])
    return np.concatenate([radius * cosine, radius * sine])[:count]


def draw_order(count: int, *key: int) -> NDArray[np.int64]:
    """A random order of 0 ... count - 1: that of `count` random words, earlier ones first where two are equal."""
    return draw_words(count, *key).argsort(kind="stable").astype(np.int64, copy=False)  # portable: integers


class Draws:
    """Memory for `count` words for each of up to `rows` samples. purpose: selects an independent stream."""

    def __init__(self, count: int, rows: int, purpose: int = 0) -> None:
        self.stream = np.uint64(purpose * GOLDEN_GAMMA % (1 << 64))
        self.keys = np.empty((2, rows), np.uint64)
        self.memory = np.empty((2, rows, count), np.uint64)
        self.numbers = np.empty((count, rows))
        self.steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)

    def words(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> Words:
        """Random words (len(samples), count), overwritten by the next call.

        Row i is the start of a splitmix64 sequence, seeded by (purpose, seed, epoch, samples[i]), which are mixed in
        one after the other.
        """
        count = len(samples)
        keys, memory = self.keys[:, :count], self.memory[:, :count]
        keys[0] = GOLDEN_GAMMA  # zero would stay zero
        numbers = samples.astype(np.uint64)  # portable: integers
        for part in (np.uint64(int(seed) % (1 << 64)), np.uint64(epoch), numbers):
            np.add(keys[0], part, out=keys[0])
            np.add(keys[0], self.stream, out=keys[0])
            mix(keys[0], keys[1])
        np.add(keys[0, :, None], self.steps, out=memory[0])
        mix(memory[0], memory[1])
        words: Words = memory[0]
        return words

    def uniform(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> Floats:
        """Numbers in [-1, 1), (count, len(samples)), overwritten by the next call."""
        words, numbers = self.words(seed, epoch, samples), self.numbers[:, : len(samples)]
        np.right_shift(words, 11, out=words)  # as many bits as a float64 holds
        np.multiply(words.T, 1 / (1 << 52), out=numbers)
        np.subtract(numbers, 1, out=numbers)
        return numbers
