"""Named settings to start from. Does not import torch."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from repa.errors import SettingError, UnknownNameError
from repa.training.settings.sections import DATASETS, IMAGE_SIZE, PUBLISHED_DEPTH
from repa.training.settings.train_config import TrainConfig, check_plain, whole_path

_PUBLISHED_STEPS = 400_000
_TOKENS_A_SIDE = 16  # as latents of 256 pixels have with a patch of 2

_PUBLISHED: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "flip": False,
    "qk_norm": False,
    "encoder": "dinov2-vit-b",
    "projector": "mlp",
    "projector_dim": 2048,
    "normalise_targets": "none",
    "alignment_weight": 0.5,
    "align_until": 0,
    "path_type": "linear",
    "weighting": "uniform",
    "label_dropout": 0.1,
    "num_steps": _PUBLISHED_STEPS,
    "batch_size": 256,
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "decay_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ema_decay": 0.9999,
    "precision": "bf16",
    "seed": 0,
}
"""The recipe that REPA's sizes share, in full, so that no default of ours can change it.

Source:
    REPA train.py, loss.py, utils.py and models/sit.py at 67f7145: defaults of its options, and the
    README's command. `label_dropout` is what acts there whatever --cfg-prob says (quirk 34). Ours
    is `precision`: the README's command trains in float16 with a gradient scaler, which is known to
    end in NaN (REPA issue 46); bfloat16 is as fast and needs none. 400,000 steps are the
    comparisons of the paper; its best model took 4,000,000.
"""

_DIGITS: dict[str, Any] = {
    "data": "digits",
    "image_size": 32,
    "model": "SiT-Ti/4",
    "num_steps": 5500,
    "batch_size": 64,
    "encoder_depth": 3,
    "projector_dim": 256,
    "learning_rate": 1e-3,
    "warmup_steps": 200,
    "decay_steps": 1500,
    "ema_decay": 0.999,
}

PRESETS: dict[str, Mapping[str, Any]] = {
    "digits": _DIGITS,
    "repa-xl2": {**_PUBLISHED, "model": "SiT-XL/2", "encoder_depth": 8},
    "repa-l2": {**_PUBLISHED, "model": "SiT-L/2", "encoder_depth": 8},
    "repa-b2": {**_PUBLISHED, "model": "SiT-B/2", "encoder_depth": 4},
    "repa-s2": {**_PUBLISHED, "model": "SiT-S/2", "encoder_depth": 4},
}
"""Settings by name.

`digits` trains on a laptop CPU in well under an hour. The others are REPA's, for the user's own
data, which are to be prepared latents with features of DINOv2-B. Depths of alignment: 8 for XL and
L and 4 for B are the paper's (arXiv 2410.06940, section 4; REPA issue 5 for B); the paper has no S,
and 4, as for B, which has as many blocks, is ours.
"""
_NAMED_FOR_MODEL = tuple(name for name in PRESETS if "data" not in PRESETS[name])


def settings_of(preset: str | None = None, **given: Any) -> TrainConfig:  # noqa: ANN401
    """Return the settings of a run: what is given, else what suits the data, else the preset's.

    Without a preset, data of the user's own have the published recipe, see `settings_for`, and
    nothing at all are the digits.

    Raises:
        UnknownNameError: There is no such preset.
        SettingError: A setting is out of its range, contradicts the preset, or is of a projector
            or an alignment that the run has not; or the preset is for a prepared set, and none is
            given.
        DataError: The data are not there, or are damaged.
    """
    if preset is not None and preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    own = given.get("data", DATASETS[0]) not in DATASETS
    if preset is None and not own:
        preset = DATASETS[0]
    base = PRESETS[preset] if preset else {}
    if preset in _NAMED_FOR_MODEL:
        if (model := given.get("model", base["model"])) != base["model"]:
            rule = f"is {base['model']} in the preset {preset}"
            raise SettingError("model", f"model {rule}: choose another preset for {model}.")
        if not own or not _is_prepared(given["data"]):
            reason = f"must be a prepared set of your own for the preset {preset}"
            raise SettingError("data", f"data {reason}: see repa prepare.")
    usual = base.get("projector_dim", TrainConfig.projector_dim)
    if given.get("projector") == "conv" and given.get("projector_dim", usual) != usual:
        rule = "is the width of the mlp, and conv has none: leave it out"
        raise SettingError("projector_dim", f"projector_dim {given['projector_dim']} {rule}.")
    config = settings_for(base=base or None, **given) if own else TrainConfig(**{**base, **given})
    weight = base.get("alignment_weight", TrainConfig.alignment_weight)
    check_plain(config, given, {"projector_dim": usual, "alignment_weight": weight})
    return config


def settings_going_on(before: TrainConfig, **given: Any) -> TrainConfig:  # noqa: ANN401
    """Return the settings of a run that goes on: what is given, else those that it has.

    Raises:
        SettingError: A setting is out of its range, or says how to align where nothing is.
    """
    config = replace(before, **given)
    check_plain(config, given, asdict(before))
    return config


def _is_prepared(data: str) -> bool:
    """Whether data are a prepared set, finished or not; those that are not there say so later."""
    from repa.data import open_if_prepared  # it needs torch

    path = Path(whole_path(data))
    return not path.exists() or open_if_prepared(path) is not None


def settings_for(
    data: str,
    base: Mapping[str, Any] | None = None,
    **given: Any,  # noqa: ANN401
) -> TrainConfig:
    """Return the settings of a run on a user's own data: what is given, else what suits the data.

    The size of the images is that of a prepared set, and so are the encoders unless `base` names
    some. Without `base`, the rest is the published recipe: `TrainConfig`'s defaults, XL, 400,000
    steps, features aligned after a third of the blocks and after 8 at most; the patch is 2 on
    latents, and on pixels the smallest of 2, 4 and 8 that makes no more than 16 x 16 tokens, or
    else 8.

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

    prepared = open_if_prepared(Path(whole_path(data)))
    chosen: dict[str, Any] = {**(base or {}), "data": data, **given}
    if prepared is not None:
        encoders = {"encoder": ",".join(prepared.encoders)} if prepared.encoders else {}
        chosen = {**encoders, **chosen, "image_size": prepared.image_size, **given}
    if base is None:
        side, most = chosen.get("image_size", IMAGE_SIZE), _TOKENS_A_SIDE
        if prepared is not None and not prepared.latent_space.is_pixels:
            side, most = prepared.input_size, prepared.input_size // 2
        patch = next((patch for patch in (2, 4) if side <= most * patch), 8)
        chosen = {"model": f"SiT-XL/{patch}", "num_steps": _PUBLISHED_STEPS, **chosen}
        if chosen["model"] in SIT_SIZES:
            depth = min(SIT_SIZES[chosen["model"]]["depth"] // 3, PUBLISHED_DEPTH)
            chosen = {"encoder_depth": depth, **chosen}
    return TrainConfig(**chosen)
