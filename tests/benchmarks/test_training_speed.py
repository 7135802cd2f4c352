"""A training step is timed against the published one, and both precisions are compared in full."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training

    return training


class Encoder(torch.nn.Module):
    """What stands for one of DINOv2-B's size: features of that form at once."""

    def forward_features(self, images):
        return torch.ones(len(images), 1 + 256, 768)


def test_all_kinds_of_steps_are_timed_and_end_with_a_ratio(training, monkeypatch, capsys):
    monkeypatch.setattr(training.timm, "create_model", lambda name, **options: Encoder())
    monkeypatch.setattr(training, "computes_bf16", lambda device: True)
    monkeypatch.setattr(training, "PROJECTOR", 8)
    monkeypatch.setattr("sys.argv", ["training.py", "--size", "SiT-Pico/2", "--steps", "1"])
    training.main()
    printed = capsys.readouterr().out
    for first, second, goal in training.RATIOS:
        assert f"ratio of {first} to {second}: median" in printed
        assert f"goal {goal:g}" in printed


def test_both_precisions_train_at_the_whole_learning_rate_and_are_compared(
    training, monkeypatch, capsys
):
    found = []

    def train(config, out, reporting):
        found.append(config)
        for step, velocity in ((1, 1.0), (2, 2.0 if config.precision == "fp32" else 2.03)):
            reporting.on_step(step, {"velocity": velocity, "alignment": -0.25})

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "speed", lambda *arguments, **options: None)
    monkeypatch.setattr(training, "print_machine", SimpleNamespace)
    monkeypatch.setattr("sys.argv", ["training.py", "--digits", "200"])
    training.main()
    assert [config.precision for config in found] == ["fp32", "bf16"]
    for config in found:
        assert config.highest_learning_rate == config.learning_rate == 1e-3
        assert config.learning_rate_at(config.num_steps - 1) == config.learning_rate
    printed = capsys.readouterr().out
    assert "velocity: +1.000% in bf16" in printed and "alignment: +0.0000 in bf16" in printed
