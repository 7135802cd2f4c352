"""Metric networks by their names in the registry, and whether their weights are those it names."""

from pathlib import Path

import torch

from metrics import InputError, MetricNetwork, NetworkName, load_network
from metrics.networks.network import check_resize
from metrics.report.lint import LintWarning
from metrics.settings import Resize
from repa.errors import SettingError
from repa.registry import fetch, find_entry


def load_named_network(
    name: NetworkName,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    resize: Resize = "default",
    compiled: bool = False,
) -> MetricNetwork:
    """Find a metric network; its weights are downloaded if need be, and loaded at the first images.

    Arguments and errors are those of `metrics.load_network` and, for weights that are not given, of
    `repa.registry.fetch`, which compares them with the registry.

    Raises:
        SettingError: clean-fid has no such network, and its resize is asked for.
    """
    try:
        check_resize(name, resize)
    except InputError as error:
        raise SettingError("resize", str(error)) from error
    weights_path = weights_path or fetch("networks", name)
    return load_network(name, weights_path, device, resize=resize, compiled=compiled, lazy=True)


def has_registered_weights(network: MetricNetwork) -> bool:
    """Whether a network's weights are those whose hash the registry records, if it records one."""
    entry = find_entry("networks", network.name.removesuffix("-clean"))
    return network.weights_sha256.startswith(
        entry.get("sha256") or entry.get("sha256_prefix") or ""
    )


def lint_weights(network: MetricNetwork) -> list[LintWarning]:
    """Warn that a network has other weights than the registry's."""
    if has_registered_weights(network):
        return []
    return [
        LintWarning(
            "weights",
            f"the weights of {network.name} are not those that the registry names",
            "the numbers compare with none but those of the same weights",
        )
    ]
