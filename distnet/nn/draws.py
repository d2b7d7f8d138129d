"""Random numbers per sample: a hash of (seed, epoch, sample), for many samples at once.

No generator keeps a state, so a sample gets the same numbers on any rank, in any shard and order.
"""

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = 0x9E3779B97F4A7C15

Words = NDArray[np.uint64]


def mix(words: Words, scratch: Words) -> None:
    """Apply a bijection to each word, in place: the output function of splitmix64, Stafford's variant 13.

    scratch: the same shape, overwritten.
    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(words, shift, out=scratch)
        np.bitwise_xor(words, scratch, out=words)
        np.multiply(words, factor, out=words)
    np.right_shift(words, 31, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


class Draws:
    """Workspace for `count` words per sample and up to `rows` samples. purpose: selects an independent stream."""

    def __init__(self, count: int, rows: int, purpose: int = 0) -> None:
        self.stream = np.uint64(purpose * GOLDEN_GAMMA % 2**64)
        self.keys = np.empty((2, rows), np.uint64)
        self.memory = np.empty((2, rows, count), np.uint64)
        self.numbers = np.empty((count, rows))
        self.steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)

    def words(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> Words:
        """Random words (len(samples), count), overwritten by the next call.

        Row i is the start of a splitmix64 sequence. Its seed mixes in purpose, seed, epoch and samples[i], in that
        order.
        """
        count = len(samples)
        keys, memory = self.keys[:, :count], self.memory[:, :count]
        keys[0] = GOLDEN_GAMMA  # zero would stay zero
        for part in (np.uint64(int(seed) % 2**64), np.uint64(epoch), samples.astype(np.uint64)):
            np.add(keys[0], part, out=keys[0])
            np.add(keys[0], self.stream, out=keys[0])
            mix(keys[0], keys[1])
        np.add(keys[0, :, None], self.steps, out=memory[0])
        mix(memory[0], memory[1])
        words: Words = memory[0]
        return words

    def uniform(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers in [-1, 1), (count, len(samples)), overwritten by the next call."""
        words, numbers = self.words(seed, epoch, samples), self.numbers[:, : len(samples)]
        np.right_shift(words, 11, out=words)  # as many bits as a float64 holds
        np.multiply(words.T, 2.0**-52, out=numbers)
        np.subtract(numbers, 1, out=numbers)
        return numbers
