import pytest
import torch

from samplers import (
    classifier_free_velocity,
    guided_velocity,
    internally_guided,
    sample_ode,
)

NULL = 9
LABELS = torch.tensor([2, 5, 7])
X = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
T = torch.tensor([1.0, 0.5, 0.25])


class RecordingModel:
    """velocity = x + labels + 10 t: depends on every argument, row by row."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, labels):
        self.calls.append((x, t, labels))
        return x + (labels + 10 * t).reshape(-1, 1, 1, 1)


def test_guided_velocity_extrapolates_from_null_through_the_label():
    velocity = classifier_free_velocity(RecordingModel(), LABELS, NULL, 1.5)
    weighted_label = NULL + 1.5 * (LABELS - NULL)
    expected = X.double() + (weighted_label + 10 * T).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(velocity(X, T, True), expected, atol=1e-5, rtol=0)


def test_guided_velocity_is_one_call_with_labels_before_null():
    model = RecordingModel()
    classifier_free_velocity(model, LABELS, NULL, 1.5)(X, T, True)
    ((x, t, labels),) = model.calls
    assert torch.equal(x, torch.cat([X, X]))
    assert torch.equal(t, torch.cat([T, T]))
    assert labels.tolist() == [2, 5, 7, NULL, NULL, NULL]


@pytest.mark.parametrize(("guided", "cfg_scale"), [(False, 4.0), (True, 1.0), (False, 1.0)])
def test_batch_is_not_doubled_without_guidance(guided, cfg_scale):
    model = RecordingModel()
    velocity = classifier_free_velocity(model, LABELS, NULL, cfg_scale)
    assert torch.equal(velocity(X, T, guided), model(X, T, LABELS).double())
    assert [len(x) for x, _, _ in model.calls] == [3, 3]


def test_guidance_is_combined_in_float64():
    velocity = classifier_free_velocity(RecordingModel(), LABELS, NULL, 1.1)
    nulls = torch.full_like(LABELS, NULL)
    conditional, null = (RecordingModel()(X, T, labels).double() for labels in (LABELS, nulls))
    assert torch.equal(velocity(X, T, True), null + 1.1 * (conditional - null))


@pytest.mark.parametrize("cfg_scale", [0.99, -1.0, float("nan"), float("inf")])
def test_scale_below_one_or_not_finite_is_refused(cfg_scale):
    with pytest.raises(ValueError, match=r"cfg_scale must be finite and at least 1, got "):
        classifier_free_velocity(RecordingModel(), LABELS, NULL, cfg_scale)


def good(x, t):
    return 3 * x + t.reshape(-1, 1, 1, 1)


def bad(x, t):
    return x - t.reshape(-1, 1, 1, 1)


def test_two_networks_are_guided_away_from_the_worse_one_in_float64():
    guided = guided_velocity(good, bad, 2.1)(X, T, True)
    worse = bad(X, T).double()
    assert guided.dtype == torch.float64
    assert torch.equal(guided, worse + 2.1 * (good(X, T).double() - worse))
    # By hand: x + 2.1 * 2 x, and -t + 2.1 * 2 t.
    expected = 5.2 * X.double() + 3.2 * T.double().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("guided", "weight"), [(False, 4.0), (True, 1.0)])
def test_worse_network_is_not_asked_without_guidance(guided, weight):
    def fail(x, t):
        raise AssertionError("the worse network was asked")

    assert torch.equal(guided_velocity(good, fail, weight)(X, T, guided), good(X, T).double())


def test_sampler_guides_two_networks_inside_its_interval_alone():
    velocity = guided_velocity(
        lambda x, t: torch.ones_like(x), lambda x, t: torch.zeros_like(x), 3.0
    )
    end = sample_ode(velocity, X, num_steps=10, method="euler", guidance_interval=(0.35, 0.65))
    # Of ten steps of 0.1 three start inside, at 0.6, 0.5 and 0.4, with velocity 3 instead of 1.
    torch.testing.assert_close(X.double() - end, torch.full_like(end, 0.7 + 0.3 * 3))


@pytest.mark.parametrize("weight", [0.99, float("nan"), float("inf")])
def test_weight_below_one_or_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight must be finite and at least 1, got "):
        guided_velocity(good, bad, weight)


def two_heads(x, t, labels):
    """The full velocity and the worse one, whose difference is not that of their digits."""
    full = RecordingModel()(x, t, labels)
    return full, 1e4 * full.sin()


def test_internal_guidance_of_weight_one_is_the_full_velocity_wherever_it_is_on():
    model = internally_guided(two_heads, 1.0)
    assert torch.equal(model(X, T, LABELS), two_heads(X, T, LABELS)[0])


def test_internal_guidance_leads_from_the_worse_velocity_within_its_closed_interval():
    model = internally_guided(two_heads, 1.5, (0.25, 0.5))
    full, worse = two_heads(X, T, LABELS)
    found = model(X, T, LABELS)
    assert torch.equal(found[0], full[0])  # at t = 1
    torch.testing.assert_close(found[1:], (worse + 1.5 * (full - worse))[1:])


def test_classifier_free_guidance_guides_what_internal_guidance_gives():
    """Both in one evaluation, the batch doubled once."""
    calls = []

    def asked(x, t, labels):
        calls.append(len(x))
        return two_heads(x, t, labels)

    velocity = classifier_free_velocity(internally_guided(asked, 1.5), LABELS, NULL, 2.0)
    found = velocity(X, T, True)
    own, null = (
        internally_guided(two_heads, 1.5)(X, T, labels).double()
        for labels in (LABELS, torch.full_like(LABELS, NULL))
    )
    torch.testing.assert_close(found, null + 2 * (own - null))
    assert calls == [6]


@pytest.mark.parametrize(
    ("weight", "interval", "message"),
    [
        (0.9, (0.0, 1.0), r"weight must be finite and at least 1, got 0\.9"),
        (float("inf"), (0.0, 1.0), "weight must be finite and at least 1, got inf"),
        (float("nan"), (0.0, 1.0), "weight must be finite and at least 1, got nan"),
        (1.5, (0.7, 0.2), "0 <= low <= high <= 1"),
        (1.5, (-0.1, 0.2), "0 <= low <= high <= 1"),
    ],
)
def test_internal_guidance_refuses_numbers_out_of_range(weight, interval, message):
    with pytest.raises(ValueError, match=message):
        internally_guided(two_heads, weight, interval)
