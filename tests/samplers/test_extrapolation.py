"""Extrapolations of guidance: identities, diffusers' own arithmetic, and rows apart."""

from functools import partial
from math import inf

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

from samplers import (
    LinearInterpolant,
    classifier_free_velocity,
    guided_velocity,
    plain,
    projected,
    sample_adams,
    sample_exponential,
    sample_ode,
    zero_star,
)

T = torch.tensor([0.9, 0.5, 0.1])


def rows(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 2, 2, generator=generator, dtype=torch.float64)


POSITIVE, NEGATIVE = rows(0), rows(1)


def test_projection_that_keeps_everything_is_plain_guidance():
    guided = projected(parallel=1.0, bound=inf, momentum=0.0)(POSITIVE, NEGATIVE, T, 2.3)
    torch.testing.assert_close(guided, plain(POSITIVE, NEGATIVE, T, 2.3), rtol=1e-13, atol=1e-13)


def test_without_the_parallel_part_what_is_added_is_orthogonal_to_the_positive():
    added = projected(parallel=0.0)(POSITIVE, NEGATIVE, T, 2.3) - POSITIVE
    assert (added * POSITIVE).flatten(1).sum(1).abs().max() < 1e-12 < added.abs().min()


@pytest.mark.parametrize("parallel", [0.0, 0.25])
@pytest.mark.parametrize("bound", [inf, 4.0])
@pytest.mark.parametrize("momentum", [0.0, -0.75])
def test_projection_equals_diffusers_over_several_evaluations(parallel, bound, momentum):
    ours, buffer = projected(parallel, bound, momentum), MomentumBuffer(momentum)
    for seed in range(0, 6, 2):
        positive, negative = rows(seed), rows(seed + 1)
        theirs = normalized_guidance(
            positive,
            negative,
            guidance_scale=1.3,
            momentum_buffer=buffer,
            eta=parallel,
            norm_threshold=0.0 if bound == inf else bound,
            use_original_formulation=True,
        )
        torch.testing.assert_close(ours(positive, negative, T, 2.3), theirs, rtol=1e-12, atol=1e-12)


def test_difference_is_cut_to_the_bound_row_by_row():
    positive = torch.zeros(2, 3, dtype=torch.float64)
    negative = -torch.tensor([[3.0, 4.0, 0.0], [0.3, 0.4, 0.0]], dtype=torch.float64)
    guided = projected(parallel=1.0, bound=2.0)(positive, negative, T[:2], 2.0)
    expected = torch.tensor([[1.2, 1.6, 0.0], [0.3, 0.4, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(guided, expected)


def test_momentum_begins_anew_with_each_extrapolation():
    first = projected(momentum=-0.5)
    once = first(POSITIVE, NEGATIVE, T, 2.0)
    assert not torch.equal(first(POSITIVE, NEGATIVE, T, 2.0), once)
    assert torch.equal(projected(momentum=-0.5)(POSITIVE, NEGATIVE, T, 2.0), once)


def test_zero_star_scales_the_negative_as_diffusers_does():
    scale = cfg_zero_star_scale(POSITIVE.flatten(1), NEGATIVE.flatten(1)).view(-1, 1, 1, 1)
    expected = scale * NEGATIVE + 1.8 * (POSITIVE - scale * NEGATIVE)
    torch.testing.assert_close(
        zero_star()(POSITIVE, NEGATIVE, T, 1.8), expected, rtol=1e-5, atol=1e-6
    )


def test_zero_star_follows_a_positive_that_is_a_multiple_of_the_negative():
    guided = zero_star()(3.7 * NEGATIVE, NEGATIVE, T, 5.0)
    torch.testing.assert_close(guided, 3.7 * NEGATIVE)


def test_zero_star_of_no_negative_at_all_is_finite():
    guided = zero_star()(POSITIVE, torch.zeros_like(POSITIVE), T, 2.0)
    assert torch.equal(guided, 2 * POSITIVE)


@pytest.mark.parametrize(("num_steps", "still"), [(250, 10), (100, 4), (50, 2), (25, 1), (10, 1)])
def test_zero_star_stands_still_in_the_published_share_of_equal_steps(num_steps, still):
    def one(x, t):
        return torch.ones_like(x)

    velocity = guided_velocity(one, one, 2.0, extrapolation=zero_star())
    end = sample_ode(velocity, torch.zeros(1, 1), num_steps=num_steps, method="euler")
    assert end.item() == pytest.approx(-(num_steps - still) / num_steps, abs=1e-9)


def test_heun_s_corrector_sees_the_velocity_below_the_times_of_zero_star():
    def one(x, t):
        return torch.ones_like(x)

    velocity = guided_velocity(one, one, 2.0, extrapolation=zero_star())
    end = sample_ode(velocity, torch.zeros(1, 1), num_steps=25, method="heun")
    assert end.item() == pytest.approx(-0.96 - 0.04 / 2, abs=1e-9)


@pytest.mark.parametrize("num_steps", [7, 12, 100])
@pytest.mark.parametrize(
    "solve",
    [
        *(partial(sample_adams, order=order) for order in (1, 2, 4)),
        *(
            partial(sample_exponential, order=order, normal=None, interpolant=LinearInterpolant())
            for order in (1, 2, 3)
        ),
    ],
)
def test_multistep_solvers_go_on_from_where_they_stood_still_with_no_memory_of_it(solve, num_steps):
    def one(x, t):
        return torch.ones_like(x)

    velocity = guided_velocity(one, one, 2.0, extrapolation=zero_star())
    noise = torch.full((1, 1), 0.3, dtype=torch.float64)
    end = solve(velocity, noise, num_steps=num_steps, jumps=(0.96,))
    assert end.item() == pytest.approx(0.3 - 0.96, abs=1e-9)


def test_history_ends_at_a_jump_and_at_every_jump_of_several():
    asked = []

    def stairs(x, t, guided):
        asked.append(t[0].item())
        return torch.full_like(x, float((t <= 0.8).sum() + (t <= 0.25).sum()))

    noise = torch.zeros(1, 1)  # of float32, as the times that the velocity sees
    end = sample_adams(stairs, noise, num_steps=10, order=4, jumps=(0.25, 0.8))
    assert end.item() == pytest.approx(-(0.8 + 0.25), abs=1e-6)
    assert len(asked) == 10 and 0.25 in asked


@pytest.mark.parametrize("make", [lambda: plain, zero_star, projected, lambda: projected(0.5, 1.0)])
def test_rows_do_not_know_of_each_other_and_weight_one_asks_for_nothing(make):
    together = make()(POSITIVE, NEGATIVE, T, 2.0)
    for row in range(3):
        alone = make()(*(x[row : row + 1] for x in (POSITIVE, NEGATIVE, T)), 2.0)
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-13, atol=1e-13)
    velocity = guided_velocity(
        lambda x, t: x, lambda x, t: pytest.fail("asked"), 1.0, extrapolation=make()
    )
    assert torch.equal(velocity(POSITIVE, T, True), POSITIVE)


def test_only_the_guided_channels_are_extrapolated():
    def model(x, t, labels):
        return torch.cat([POSITIVE, NEGATIVE]) if len(x) == 6 else POSITIVE

    labels = torch.zeros(3, dtype=torch.int64)
    velocity = classifier_free_velocity(
        model, labels, 5, 2.0, guided_channels=3, extrapolation=projected()
    )
    guided = velocity(POSITIVE, T, True)
    expected = projected()(POSITIVE[:, :3], NEGATIVE[:, :3], T, 2.0)
    assert torch.equal(guided[:, :3], expected) and torch.equal(guided[:, 3:], POSITIVE[:, 3:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zero_star(1.0), r"zero_share must be at least 0 and below 1, got 1\.0"),
        (lambda: zero_star(-0.1), "zero_share"),
        (lambda: projected(parallel=1.1), r"parallel must be from 0 to 1, got 1\.1"),
        (lambda: projected(bound=0.0), r"bound must be above 0, got 0\.0"),
        (lambda: projected(bound=float("nan")), "bound must be above 0"),
        (lambda: projected(momentum=-1.0), r"momentum must be between -1 and 1, got -1\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
