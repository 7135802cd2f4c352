import numpy as np
import pytest
import torch

from repa.data import load_digits, open_training_data
from repa.errors import DataError


def test_halves_of_the_digits_are_disjoint_stratified_and_together_the_whole():
    from sklearn.datasets import load_digits as whole

    train, train_labels = load_digits("train", 8)
    held, held_labels = load_digits("heldout", 8)
    assert len(train) + len(held) == 1797
    counts = np.bincount(train_labels) - np.bincount(held_labels)
    assert set(counts.tolist()) <= {0, 1}
    both = np.concatenate([train, held])[..., 0]
    original = np.rint(whole().images * (255 / 16)).astype(np.uint8)
    as_rows = [sorted(map(bytes, images)) for images in (both, original)]
    assert as_rows[0] == as_rows[1]


def test_digits_are_grey_rgb_of_the_asked_size_with_their_own_labels():
    images, labels = load_digits("train", 32)
    assert images.shape == (901, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(images[..., 0], images[..., 2])
    # In the file's order the digits count up; halves take turns within a class, so the training
    # half begins with the first of each.
    assert labels[:10].tolist() == list(range(10))


def test_batches_are_pixels_of_the_images_asked_for():
    data = open_training_data("digits", 16)
    batch = data.batch(np.array([3, 0]), np.random.default_rng)
    pixels, images = batch.inputs, data.images(np.array([3, 0]))
    assert pixels.shape == (2, 3, 16, 16)
    assert batch.indices.tolist() == batch.labels.tolist() == [3, 0]
    restored = ((pixels + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)
    assert torch.equal(restored, images)
    assert pixels.min() == -1  # black background


def test_unknown_data_is_refused():
    with pytest.raises(DataError, match="digitz"):
        open_training_data("digitz", 16)
