import json
from dataclasses import asdict

import pytest
import torch

from repa.models.prediction import Prediction
from samplers import INTERPOLANTS, classifier_free_velocity, sample_ode

GENERATOR = torch.Generator().manual_seed(0)
DATA, NOISE = (torch.randn(4, 3, 2, 2, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
T = torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=torch.float64)
LABELS = torch.tensor([1, 2, 3, 4])
PATHS = pytest.mark.parametrize("path", INTERPOLANTS)
EVERY = pytest.mark.parametrize(
    "prediction",
    [
        Prediction(target, reversed_time, channels)
        for target in ("velocity", "noise", "data")
        for reversed_time in (False, True)
        for channels in (None, 3)
    ],
)


def exact_network(prediction, interpolant):
    """A network that knows data and noise and answers, in its own convention, what is asked."""

    def network(x, t, labels):
        torch.testing.assert_close(t, 1 - T if prediction.reversed_time else T, atol=1e-15, rtol=0)
        assert torch.equal(labels, LABELS)
        velocity = interpolant.velocity(DATA, NOISE, T)
        # Time that runs the other way turns a derivative's sign, and nothing else.
        turned = -velocity if prediction.reversed_time else velocity
        answer = {"velocity": turned, "noise": NOISE, "data": DATA}[prediction.target]
        return answer if prediction.channels is None else torch.cat([answer, answer + 7], dim=1)

    return network


@PATHS
@EVERY
def test_every_convention_gives_the_same_velocity(prediction, path):
    interpolant = INTERPOLANTS[path]
    model = prediction.velocity_model(exact_network(prediction, interpolant), interpolant)
    x = interpolant.interpolate(DATA, NOISE, T)
    expected = interpolant.velocity(DATA, NOISE, T)
    torch.testing.assert_close(model(x, T, LABELS), expected, atol=1e-12, rtol=0)


def gaussian(prediction, path, std=0.5):
    """The best network for data ~ N(0, std^2), from its posterior means."""

    def network(x, t, labels):
        time = 1 - t if prediction.reversed_time else t
        at = INTERPOLANTS[path].coefficients(time.reshape(-1, 1))
        variance = (at.alpha * std) ** 2 + at.sigma**2
        data, noise = at.alpha * std**2 * x / variance, at.sigma * x / variance
        velocity = at.d_alpha * data + at.d_sigma * noise
        turned = -velocity if prediction.reversed_time else velocity
        return {"velocity": turned, "noise": noise, "data": data}[prediction.target]

    return network


@PATHS
@pytest.mark.parametrize(
    "prediction", [Prediction(reversed_time=True), Prediction("data"), Prediction("data", True)]
)
def test_sampling_another_convention_ends_with_the_data(prediction, path):
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).reshape(-1, 1)
    model = prediction.velocity_model(gaussian(prediction, path), INTERPOLANTS[path])
    velocity = classifier_free_velocity(model, torch.zeros(7, dtype=torch.int64), 9, 1.0)
    # The flow multiplies by the standard deviation; Heun's last step is of order one.
    end = sample_ode(velocity, x, num_steps=2000)
    torch.testing.assert_close(end, 0.5 * x, atol=2e-3, rtol=0)


def test_predicted_noise_is_sampled_from_times_below_its_pole():
    path, prediction = "linear", Prediction("noise", reversed_time=True)
    times = [0.999 * (1 - i / 2000) for i in range(2000)] + [0.0]
    model = prediction.velocity_model(gaussian(prediction, path), INTERPOLANTS[path])
    velocity = classifier_free_velocity(model, torch.zeros(7, dtype=torch.int64), 9, 1.0)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).reshape(-1, 1)
    torch.testing.assert_close(sample_ode(velocity, x, times=times), 0.5 * x, atol=5e-3, rtol=0)
    assert sample_ode(velocity, x, num_steps=5).isnan().all()


@pytest.mark.parametrize(("target", "pole"), [("noise", 1.0), ("data", 0.0)])
def test_linear_path_has_the_documented_poles(target, pole):
    model = Prediction(target).velocity_model(lambda x, t, labels: x, INTERPOLANTS["linear"])
    x, labels = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64)
    assert not model(x, torch.full((1,), pole), labels).isfinite().all()
    assert model(x, torch.full((1,), 1 - pole), labels).isfinite().all()


def test_the_toolkits_own_convention_is_the_network_itself():
    def network(x, t, labels):
        return x

    assert Prediction().velocity_model(network, INTERPOLANTS["linear"]) is network


@EVERY
def test_a_prediction_survives_json(prediction):
    assert Prediction(**json.loads(json.dumps(asdict(prediction)))) == prediction


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "score"}, "target is 'score', not velocity, noise or data"),
        ({"target": ["noise"]}, "target is"),
        ({"reversed_time": 1}, "reversed_time is 1, not true or false"),
        ({"channels": 0}, "channels is 0, not a whole number"),
        ({"channels": True}, "channels is True, not a whole number"),
        ({"channels": 4.0}, r"channels is 4\.0, not a whole number"),
    ],
)
def test_what_is_unclear_is_refused_with_its_value(values, message):
    with pytest.raises(ValueError, match=message):
        Prediction(**values)
