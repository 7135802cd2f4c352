from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repa import SiT
from samplers import (
    LinearInterpolant,
    Stream,
    classifier_free_velocity,
    draw_labels,
    initial_noise,
    keyed_generator,
    sample_sde,
    step_noise,
)

SHAPE = (4, 3, 2)
NUM_IMAGES = 64
BATCH_SIZES = (1, 7, 64)

IMAGE_DRAWS = {
    "initial": lambda indices: initial_noise(5, indices, SHAPE),
    "labels": lambda indices: draw_labels(5, indices, 10),
    "step 0": lambda indices: step_noise(5, indices, 0, SHAPE),
    "step 249": lambda indices: step_noise(5, indices, 249, SHAPE),
}


def in_batches(draw, batch_size):
    """All images' draws, made batch by batch in reverse order, back in the images' order."""
    starts = reversed(range(0, NUM_IMAGES, batch_size))
    batches = [draw(range(i, min(i + batch_size, NUM_IMAGES))) for i in starts]
    return torch.cat(batches[::-1])


@pytest.mark.parametrize("draw", IMAGE_DRAWS.values(), ids=IMAGE_DRAWS.keys())
def test_draws_are_the_same_for_every_batch_size_and_order(draw):
    first, *others = (in_batches(draw, batch_size) for batch_size in BATCH_SIZES)
    for other in others:
        assert torch.equal(first, other)


def test_images_steps_streams_and_seeds_differ():
    """All outputs of many short sequences are distinct: a shared one would be a collision."""
    seeds, indices, steps = (0, 1, 2**63 - 1), (0, 1, 2**32, 2**48 - 1), (0, 1, 249)
    sequences = [
        keyed_generator(seed, stream, index, step).bit_generator.random_raw(64)
        for seed, stream, index, step in product(seeds, Stream, indices, steps)
    ]
    assert len(np.unique(np.concatenate(sequences))) == 3 * len(Stream) * 4 * 3 * 64


def test_each_kind_of_draw_has_its_own_stream():
    def normals(stream, step):
        return torch.from_numpy(keyed_generator(5, stream, 8, step).standard_normal(SHAPE))[None]

    assert torch.equal(initial_noise(5, [8], SHAPE), normals(Stream.INITIAL, 0).float())
    assert torch.equal(step_noise(5, [8], 0, SHAPE), normals(Stream.INCREMENTS, 0))
    assert torch.equal(step_noise(5, [8], 3, SHAPE), normals(Stream.INCREMENTS, 3))
    labels = [keyed_generator(5, Stream.LABELS, i).integers(1000) for i in range(20)]
    assert draw_labels(5, range(20), 1000).tolist() == labels


@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from(Stream),
    st.integers(0, 2**48 - 1),
    st.integers(0, 2**31 - 1),
)
def test_key_and_counter_hold_every_number_unmixed(seed, stream, index, step):
    """So the map from (seed, stream, index, step) to sequences is one to one."""
    state = keyed_generator(seed, stream, index, step).bit_generator.state["state"]
    assert state["key"].tolist() == [seed, stream]
    assert state["counter"].tolist() == [0, 0, step, index]


def test_generator_is_philox_as_numpy_documents_it():
    draws = keyed_generator(7, Stream.TRAINING, 11, 13).integers(2**63, size=5)
    whole = np.random.Philox(key=(Stream.TRAINING << 64) + 7, counter=(11 << 192) + (13 << 128))
    assert draws.tolist() == np.random.Generator(whole).integers(2**63, size=5).tolist()


@pytest.mark.parametrize(
    "normals",
    [initial_noise(0, range(500), (100,)), step_noise(0, range(500), 3, (100,))],
    ids=["initial", "step"],
)
def test_normals_are_standard_within_and_across_images(normals):
    size = normals.numel()
    # Five standard errors: of a mean 1 / sqrt(n), of a variance sqrt(2 / n), of a correlation of
    # neighbouring images 1 / sqrt(n).
    assert abs(normals.mean()) < 5 / size**0.5
    assert abs(normals.var() - 1) < 5 * (2 / size) ** 0.5
    assert abs((normals[1:] * normals[:-1]).mean()) < 5 / size**0.5


def test_labels_are_uniform_over_the_classes():
    labels = draw_labels(0, range(20_000), 10)
    counts = torch.bincount(labels, minlength=10)
    assert len(counts) == 10
    # Five standard deviations of a count, sqrt(n p (1 - p)) = 42.
    assert (counts - 2000).abs().max() < 212


def test_dtypes_and_shapes_are_those_the_samplers_take():
    assert (initial_noise(1, [3, 4], SHAPE).dtype, draw_labels(1, [3], 5).dtype) == (
        torch.float32,
        torch.int64,
    )
    assert step_noise(1, [3, 4], 0, SHAPE).dtype == torch.float64
    assert step_noise(1, [3, 4], 0, SHAPE).shape == (2, *SHAPE)
    assert draw_labels(1, [], 5).shape == (0,)
    assert initial_noise(1, [], SHAPE).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"seed": -1}, r"seed must be in \[0, 2\*\*63\), got -1\."),
        ({"seed": 2**63}, rf"seed must be in \[0, 2\*\*63\), got {2**63}\."),
        ({"index": -1}, r"index must be in \[0, 2\*\*48\), got -1\."),
        ({"index": 2**48}, r"index must be in \[0, 2\*\*48\)"),
        ({"step": -1}, r"step must be in \[0, 2\*\*31\), got -1\."),
        ({"step": 2**31}, r"step must be in \[0, 2\*\*31\)"),
    ],
)
def test_number_out_of_range_is_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        keyed_generator(**{"seed": 0, "stream": Stream.INITIAL, **numbers})


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match=r"num_classes must be at least 1, got 0\."):
        draw_labels(0, [0], 0)


def random_sit():
    """A small SiT whose output depends on image, time and label (zero-initialised parts too)."""
    model = SiT(
        input_size=8,
        patch_size=2,
        in_channels=3,
        hidden_size=32,
        depth=2,
        num_heads=2,
        num_classes=10,
        encoder_depth=1,
        target_dims=[],
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.12, generator=generator)
    return model.eval()


def sampled_images(model, indices):
    velocity = classifier_free_velocity(model, draw_labels(2, indices, 10), 10, 1.8)
    x = sample_sde(
        velocity,
        initial_noise(2, indices, (3, 8, 8)),
        num_steps=6,
        interpolant=LinearInterpolant(),
        guidance_interval=(0.0, 0.7),
        normal=lambda step: step_noise(2, indices, step, (3, 8, 8)),
    )
    return ((x + 1) / 2 * 255).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_images_differ_by_at_most_one_grey_level_between_batch_sizes():
    """Float32 sums depend on the batch in their last bits, which may cross a grey level."""
    model = random_sit()
    first, *others = (
        in_batches(lambda indices: sampled_images(model, indices), size).int()
        for size in BATCH_SIZES
    )
    assert len(first.unique()) > 200  # The images are not empty.
    for other in others:
        assert (first - other).abs().max() <= 1
