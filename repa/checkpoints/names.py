"""Names of dialects, and how each is sampled as published. Does not import torch."""

from typing import Any, Literal

DialectName = Literal[
    "ours",
    "repa",
    "irepa",
    "repa-e",
    "sit",
    "dit",
    "sra",
    "internal-guidance",
    "haste",
    "self-flow",
]

SAMPLED = (
    "solver",
    "num_steps",
    "order",
    "times",
    "shift",
    "cfg_scale",
    "guidance_interval",
    "guidance",
    "apg_parallel",
    "apg_bound",
    "apg_momentum",
    "internal_scale",
    "internal_interval",
    "labels",
    "quantizer",
)
"""Settings of sampling that may come with a checkpoint: those of `repa.generation.Protocol` that
say how images are made, rather than which."""

SAMPLING: dict[str, dict[str, Any]] = {
    "sit": {"cfg_scale": 1.5, "guidance_interval": (0.0, 1.0), "quantizer": "round"},
    "dit": {
        "solver": "ddpm",
        "cfg_scale": 1.5,
        "guidance_interval": (0.0, 1.0),
        "quantizer": "round",
    },
    "haste": {"cfg_scale": 1.65, "guidance_interval": (0.0, 0.72)},
    "internal-guidance": {"cfg_scale": 1.35, "internal_scale": 1.4},
    "self-flow": {"cfg_scale": 1.0},
}
"""Settings of sampling that a dialect's authors publish otherwise than REPA's; docs/checkpoints.md
has the sources."""

SAMPLING_AT_512: dict[str, dict[str, Any]] = {"dit": {}, "sra": {"cfg_scale": 2.5}}
"""How they differ at 512 pixels, of the dialects of which that is known."""


def sampling_as_published(dialect: str, dataset: str | None) -> dict[str, Any]:
    """Return the settings of sampling of a dialect's authors that are not REPA's."""
    at_512 = SAMPLING_AT_512.get(dialect, {}) if dataset == "imagenet-512" else {}
    return {**SAMPLING.get(dialect, {}), **at_512}
