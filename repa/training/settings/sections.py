"""Settings of a training run by sections, each a dataclass whose fields say their help and range.

The sections are those of config.json and of a file for `--config`. Names are unique among all of
them, and so are options. Does not import torch.
"""

from dataclasses import dataclass
from typing import Literal

from repa.encoders.names import Precision, encoder_list
from repa.models.names import ProjectorKind
from repa_base.settings import setting
from samplers.names import InterpolantName

Weighting = Literal["uniform", "lognormal"]
Normalisation = Literal["none", "spatial"]
DATASETS = ("digits",)
"""Those that come with a package; all others are folders and files of the user's."""
IMAGE_SIZE, PUBLISHED_DEPTH = 256, 8


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is trained on."""

    data: str = setting(
        f"Data set: {', '.join(DATASETS)}, or the path of a prepared set, a folder or a zip of "
        "images.",
        value="NAME|PATH",
    )
    image_size: int = setting("Side of the training images in pixels.", IMAGE_SIZE, low=1)
    flip: bool = setting(
        "Mirror every second sample, by a draw of its own; prepared latents and features must have "
        "been prepared with --flip.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network and what its weights start from.

    `init_sha256` is the hash of the file that `init` names; a run finds it out, or refuses another
    file.
    """

    model: str = setting("Size of the network, e.g. SiT-Ti/4 or SiT-XL/2.", value="NAME")
    qk_norm: bool = setting("Normalise queries and keys.", False)
    init: str | None = setting(
        "Checkpoint to start from, by name, file or folder of a run: label table, position "
        "embedding and projectors that do not fit are made anew.",
        None,
        value="CHECKPOINT",
    )
    init_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long it goes, and what its draws come from."""

    num_steps: int = setting("Optimizer steps.", low=1, flag="--steps")
    seed: int = setting(
        "Decides initial weights, order of images, times, noise and dropped labels.",
        0,
        low=0,
        high=(1 << 63) - 1,
    )


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """What hidden states are aligned with, and how strongly."""

    encoder: str = setting(
        "Frozen encoder to align with, several with commas, or none for plain SiT: "
        f"{encoder_list()}; timm:NAME for any other of timm; NAME=PATH for weights in a file.",
        "efficientnet-lite1",
        value="NAME",
    )
    encoder_precision: Precision = setting(
        "Compute dtype of the encoder, which the run's precision leaves as it is: {choices}.",
        "fp32",
        choices=Precision,
    )
    encoder_depth: int = setting(
        "Block, counted from 1, whose output is aligned.", PUBLISHED_DEPTH, low=1
    )
    projector: ProjectorKind = setting(
        "Tokens to features: {choices}; mlp has three layers, conv is iREPA's 3 x 3 convolution.",
        "mlp",
        choices=ProjectorKind,
    )
    projector_dim: int = setting("Hidden width of the mlp projector.", 2048, low=1)
    normalise_targets: Normalisation = setting(
        "What is done to the encoder's features: {choices}; spatial is iREPA's: over an image's "
        "tokens, less 0.6 of the mean and divided by the deviation.",
        "none",
        choices=Normalisation,
    )
    alignment_weight: float = setting(
        "Weight of the alignment loss (the reference's proj_coeff).", 0.5, low=0
    )
    align_until: int = setting(
        "Last step with the alignment loss (HASTE's early stop); 0 for all steps.",
        0,
        low=0,
        value="STEP",
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What the network learns: the path, its times, and labels that are dropped."""

    path_type: InterpolantName = setting(
        "Interpolant: {choices}.", "linear", choices=InterpolantName, flag="--path"
    )
    weighting: Weighting = setting(
        "Distribution of training times: {choices}.", "uniform", choices=Weighting
    )
    label_dropout: float = setting(
        "Share of labels replaced by the null label, which guidance needs.", 0.1, low=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights move."""

    batch_size: int = setting("Images a step, of all processes together.", 256, low=1)
    accumulate: int = setting(
        "Parts of a batch, whose gradients are added one after another: less memory, same losses.",
        1,
        low=1,
        value="PARTS",
    )
    learning_rate: float = setting("Step size of AdamW between warm-up and decay.", 1e-4, above=0)
    warmup_steps: int = setting(
        "Steps over which the learning rate rises linearly from zero.", 0, low=0
    )
    decay_steps: int = setting(
        "Last steps over which the learning rate falls linearly to zero.", 0, low=0
    )
    weight_decay: float = setting("Weight decay of AdamW.", 0.0, low=0)
    max_grad_norm: float = setting("Gradients are scaled down to this norm.", 1.0, above=0)
    ema_decay: float = setting(
        "Decay of the moving average of the weights, from the first step on.", 0.9999, low=0, high=1
    )
    patience: int = setting(
        "Steps that are left out, as their loss or gradient is not finite, before a run stops.",
        10,
        low=1,
        value="STEPS",
    )


@dataclass(frozen=True, kw_only=True)
class PrecisionSettings:
    """What a step is computed in."""

    precision: Precision = setting(
        "Compute dtype of the network: {choices}; weights, losses and optimizer stay float32.",
        "fp32",
        choices=Precision,
    )
    compile: bool = setting(
        "Compile the blocks: faster steps after a minute, of other last digits.", False
    )
    recompute: bool = setting(
        "Activation checkpointing: keep nothing inside of blocks, and compute it again for the "
        "gradient; less memory, about a third more work.",
        False,
    )


SECTIONS = {
    "data": DataSettings,
    "model": ModelSettings,
    "run": RunSettings,
    "alignment": AlignmentSettings,
    "objective": ObjectiveSettings,
    "optimizer": OptimizerSettings,
    "precision": PrecisionSettings,
}
"""By the names that files know them by, in the order in which they are told."""
