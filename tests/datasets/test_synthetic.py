"""Synthetic digits: reproducible by index, balanced, varied, and a task that can be learned."""

import numpy as np
import pytest

from distnet.datasets.synthetic import BLOCK, STYLES, synthetic_digits

SEED = 7


def test_images_and_labels_have_the_form_of_mnist() -> None:
    images, labels = synthetic_digits(3, SEED)
    assert images.shape == (3, 28, 28)
    assert labels.shape == (3,)
    assert images.dtype == labels.dtype == np.uint8


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    images, labels = synthetic_digits(2 * BLOCK, SEED)
    inside_a_block, across_blocks, one = (100, 50), (BLOCK - 20, 40), (2 * BLOCK - 1, 1)
    for first, count in ((0, 100), inside_a_block, across_blocks, one):
        again, labels_again = synthetic_digits(count, SEED, first=first)
        np.testing.assert_array_equal(again, images[first : first + count])
        np.testing.assert_array_equal(labels_again, labels[first : first + count])


def test_no_block_repeats_another() -> None:
    images, labels = synthetic_digits(2 * BLOCK, SEED)
    assert (labels[:BLOCK] != labels[BLOCK:]).any()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_two_seeds_give_different_digits() -> None:
    images, labels = synthetic_digits(100, SEED)
    others, other_labels = synthetic_digits(100, SEED + 1)
    assert (labels != other_labels).any()
    assert (images != others).any(axis=(1, 2)).all()


def test_every_digit_occurs_about_equally_often() -> None:
    _, labels = synthetic_digits(BLOCK + BLOCK // 2, SEED)
    shares = np.bincount(labels, minlength=10) / len(labels)
    assert shares.shape == (10,)
    np.testing.assert_allclose(shares, 0.1, atol=0.02)


def test_labels_come_in_random_order() -> None:
    _, labels = synthetic_digits(BLOCK, SEED)
    followed_by_itself = np.mean(labels[1:] == labels[:-1])
    followed_by_the_next = np.mean(labels[1:] == (labels[:-1] + 1) % 10)
    assert 0.05 < followed_by_itself < 0.15
    assert 0.05 < followed_by_the_next < 0.15


def test_digits_of_one_class_differ_from_each_other() -> None:
    images, labels = synthetic_digits(BLOCK, SEED)
    for digit in range(10):
        ink = images[labels == digit].astype(np.float32)
        assert len(ink) > 1
        # Each picture is far from the mean of its class, compared with the ink that the class has in all.
        from_the_mean = np.abs(ink - ink.mean(axis=0)).sum(axis=(1, 2))
        assert from_the_mean.min() > 0.2 * ink.sum(axis=(1, 2)).mean()


def test_a_picture_has_white_ink_on_black_paper_as_much_as_mnist() -> None:
    images, _ = synthetic_digits(BLOCK, SEED)
    assert 30 < images.mean() < 36  # MNIST: 33.3
    assert (images.max(axis=(1, 2)) > 150).all()
    assert (images == 0).mean() > 0.7


def test_a_digit_is_about_20_pixels_tall_and_in_the_middle() -> None:
    images, _ = synthetic_digits(BLOCK, SEED)
    rows = (images > 127).any(axis=2)
    assert 17 < np.median(rows.sum(axis=1)) < 23
    ink = images.sum(axis=0, dtype=np.float64)
    along = np.arange(28)
    assert ink.sum(axis=1) @ along / ink.sum() == pytest.approx(13.5, abs=0.5)
    assert ink.sum(axis=0) @ along / ink.sum() == pytest.approx(13.5, abs=0.5)


def test_a_nearest_class_mean_tells_digits_apart_far_better_than_chance() -> None:
    images, labels = synthetic_digits(3 * BLOCK, SEED)
    pixels = images.reshape(len(images), -1).astype(np.float32)
    train, test = slice(0, 2 * BLOCK), slice(2 * BLOCK, None)
    means = np.stack([pixels[train][labels[train] == digit].mean(axis=0) for digit in range(10)])
    distance = ((pixels[test][:, None] - means) ** 2).sum(axis=2)
    accuracy = np.mean(distance.argmin(axis=1) == labels[test])
    assert 0.5 < accuracy < 0.95  # chance is 0.1; a task that means alone solve would be too easy


def test_every_style_lies_in_the_unit_square_and_styles_are_in_order_of_digits() -> None:
    points = np.array([point for _, strokes in STYLES for stroke in strokes for point in stroke])
    assert points.min() >= 0
    assert points.max() <= 1
    digits = [digit for digit, _ in STYLES]
    assert digits == sorted(digits)
    assert set(digits) == set(range(10))
