"""Settings of a training run, validated, and the named presets. Does not import torch."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from repa.encoders.names import encoder_list, parse_encoders
from repa.errors import RepaError, SettingError, UnknownNameError, suggestion
from repa.models.names import ProjectorKind
from repa_base.settings import check_settings, setting
from samplers.names import InterpolantName

Weighting = Literal["uniform", "lognormal"]
Precision = Literal["fp32", "bf16"]
Normalisation = Literal["none", "spatial"]
DATASETS = ("digits",)
"""Those that come with a package; all others are folders and files of the user's."""
_IMAGE_SIZE, _PUBLISHED_STEPS, _PUBLISHED_DEPTH = 256, 400_000, 8
_TOKENS_A_SIDE = 16  # as latents of 256 pixels have with a patch of 2

CHANGEABLE = ("num_steps", "alignment_weight", "label_dropout", "learning_rate", "warmup_steps")
CHANGEABLE += ("decay_steps", "weight_decay", "max_grad_norm", "ema_decay", "precision")
CHANGEABLE += ("align_until", "data")
"""Settings that a run may go on with other values of: they say how it steps, or for how long, or
where its data are by now, whose content is checked by itself. All others decide the network, the
data, the features to align with, or the draws of a step."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the weights a run ends with, unless it goes on with other settings.

    Defaults are the reference's (REPA train.py at 67f7145), except that a run says its data, model
    and length itself. `init_sha256` is that of the file that `init` names; a run finds it out, or
    refuses another file.

    Raises:
        SettingError: A value is out of its range, or of its choices.
    """

    data: str = setting(
        f"Data set: {', '.join(DATASETS)}, or the path of a prepared set, a folder or a zip of "
        "images.",
        value="NAME|PATH",
    )
    model: str = setting("Size of the network, e.g. SiT-Ti/4 or SiT-XL/2.", value="NAME")
    num_steps: int = setting("Optimizer steps.", low=1, flag="--steps")
    init: str | None = setting(
        "Checkpoint to start from, by name, file or folder of a run: label table, position "
        "embedding and projectors that do not fit are made anew.",
        None,
        value="CHECKPOINT",
    )
    init_sha256: str | None = None
    image_size: int = setting("Side of the training images in pixels.", _IMAGE_SIZE, low=1)
    flip: bool = setting(
        "Mirror every second sample, by a draw of its own; prepared latents and features must have "
        "been prepared with --flip.",
        False,
    )
    encoder: str = setting(
        "Frozen encoder to align with, several with commas, or none for plain SiT: "
        f"{encoder_list()}; timm:NAME for any other of timm; NAME=PATH for weights in a file.",
        "efficientnet-lite1",
        value="NAME",
    )
    encoder_depth: int = setting(
        "Block, counted from 1, whose output is aligned.", _PUBLISHED_DEPTH, low=1
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
    qk_norm: bool = setting("Normalise queries and keys.", False)
    path_type: InterpolantName = setting(
        "Interpolant: {choices}.", "linear", choices=InterpolantName, flag="--path"
    )
    weighting: Weighting = setting(
        "Distribution of training times: {choices}.", "uniform", choices=Weighting
    )
    label_dropout: float = setting(
        "Share of labels replaced by the null label, which guidance needs.", 0.1, low=0, high=1
    )
    batch_size: int = setting("Images a step.", 256, low=1)
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
    precision: Precision = setting(
        "Compute dtype of the network: {choices}; weights, losses and optimizer stay float32.",
        "fp32",
        choices=Precision,
    )
    seed: int = setting(
        "Decides initial weights, order of images, times, noise and dropped labels.",
        0,
        low=0,
        high=(1 << 63) - 1,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.data not in DATASETS:
            object.__setattr__(self, "data", _whole_path(self.data))
        if not parse_encoders(self.encoder):
            _check_plain(self)
        for name in ("init", "init_sha256"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise SettingError(name, f"{name} must be a name, got {value!r}.")

    def is_aligned(self, step: int) -> bool:
        """Whether the step after `step` steps has the alignment loss."""
        return not self.align_until or step < self.align_until

    def learning_rate_at(self, step: int) -> float:
        """Return the step size of the step after `step` steps."""
        warmup = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay = (self.num_steps - step) / self.decay_steps if self.decay_steps else 1.0
        return self.learning_rate * min(1.0, warmup, decay)

    @property
    def highest_learning_rate(self) -> float:
        """The largest step size of all steps: less than `learning_rate` if a run is too short."""
        warmup, decay = self.warmup_steps, self.decay_steps
        # Where rise and fall cross; without one of them, at the end that the other leads to.
        crossing = (self.num_steps * warmup - decay) // max(warmup + decay, 1)
        steps = (min(max(crossing + i, 0), self.num_steps - 1) for i in (0, 1))
        return max(self.learning_rate_at(step) for step in steps)

    def to_json(self) -> str:
        """Return all settings as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build from stored settings.

        Raises:
            RepaError: A setting is unknown, missing, of another type or out of its range.
        """
        known = [declared.name for declared in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownNameError("setting", name, known)
        if not isinstance(values.get("model", ""), str):
            raise SettingError("model", f"model must be a name, got {values['model']!r}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise RepaError(f"settings are incomplete: {error}") from error


def _check_plain(config: TrainConfig) -> None:
    """Raise SettingError for what says how to align, in settings that align with nothing."""
    for name, off in {"projector": "mlp", "normalise_targets": "none", "align_until": 0}.items():
        if (value := getattr(config, name)) != off:
            raise SettingError(name, f"{name} {value} needs an encoder to align with: see encoder.")


def settings_for(data: str, base: TrainConfig | None = None, **given: Any) -> TrainConfig:  # noqa: ANN401
    """Return the settings of a run on a user's own data: what is given, else what suits the data.

    The size of the images and the encoders are those of a prepared set. Without `base`, the rest is
    the published recipe: `TrainConfig`'s defaults, XL, 400,000 steps, features aligned after a
    third of the blocks and after 8 at most; the patch is 2 on latents, and on pixels the smallest
    of 2, 4 and 8 that makes no more than 16 x 16 tokens, or else 8.

    Args:
        data: Path of a prepared set, a folder or a zip of images.
        base: Settings to start from, such as a preset's.
        given: Other settings of `TrainConfig`.

    Raises:
        SettingError: A setting is out of its range.
        DataError: The data are not there, or are damaged.
    """
    from repa.data import open_if_prepared  # it needs torch
    from repa.models.sit import SIT_SIZES

    prepared = open_if_prepared(Path(_whole_path(data)))
    chosen: dict[str, Any] = {} if base is None else asdict(base)
    chosen |= {"data": data, **given}
    if prepared is not None:
        encoders = {"encoder": ",".join(prepared.encoders)} if prepared.encoders else {}
        chosen |= {"image_size": prepared.image_size, **encoders, **given}
    if base is None:
        side, most = chosen.get("image_size", _IMAGE_SIZE), _TOKENS_A_SIDE
        if prepared is not None and not prepared.latent_space.is_pixels:
            side, most = prepared.input_size, prepared.input_size // 2
        patch = next((patch for patch in (2, 4) if side <= most * patch), 8)
        chosen = {"model": f"SiT-XL/{patch}", "num_steps": _PUBLISHED_STEPS, **chosen}
        if chosen["model"] in SIT_SIZES:
            depth = min(SIT_SIZES[chosen["model"]]["depth"] // 3, _PUBLISHED_DEPTH)
            chosen = {"encoder_depth": depth, **chosen}
    return TrainConfig(**chosen)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a run writes beside its last weights; none of it changes them.

    `on_step` is told the number and the losses of every step that is taken, `on_preview` the step
    of a contact sheet and which share of it is drawn, 0 at first and 1 at its end, `on_note` what
    else happens; `preview_cfg_scale` is the guidance of the previews.

    Raises:
        SettingError: A value is out of its range.
    """

    log_every: int = setting("Steps between lines of log.jsonl.", 50, low=1)
    checkpoint_every: int = setting(
        "Steps between checkpoints; the last step has one too.", 1000, low=1
    )
    preview_every: int = setting(
        "Steps between contact sheets of samples, one at the last step too; 0 for none.",
        1000,
        low=0,
    )
    keep_last: int = setting("Latest checkpoints that are kept; older ones are removed.", 2, low=1)
    keep_every: int = setting(
        "Checkpoints at multiples of this step are kept as well; 0 for none.", 0, low=0
    )
    preview_cfg_scale: float = 2.0
    on_step: Callable[[int, dict[str, float]], None] = field(default=lambda step, losses: None)
    on_preview: Callable[[int, float], None] = field(default=lambda step, share: None)
    on_note: Callable[[str], None] = field(default=lambda note: None)

    __post_init__ = check_settings


def _whole_path(data: object) -> str:
    """Return the whole path of a user's data, so that a run goes on from wherever it is called."""
    if not isinstance(data, str):
        raise SettingError("data", f"data must be a name or a path, got {data!r}.")
    if os.sep not in data and not os.path.lexists(data):
        hint = suggestion(data, DATASETS)
        raise SettingError("data", f"no data set, folder or zip is called {data!r}{hint}")
    return str(Path(data).absolute())


PRESETS: dict[str, TrainConfig] = {
    "digits": TrainConfig(
        data="digits",
        image_size=32,
        model="SiT-Ti/4",
        num_steps=5500,
        batch_size=64,
        encoder_depth=3,
        projector_dim=256,
        learning_rate=1e-3,
        warmup_steps=200,
        decay_steps=1500,
        ema_decay=0.999,
    )
}
"""Settings by name: `digits` trains on a laptop CPU in well under an hour."""
