"""Known networks that are not supported: what they are, and why not.

Source:
    The keys are those of REG 021ea2e, MeanFlow (PyTorch) 04d183c, SPRINT 12c5fc9, SR-DiT c24c2ff
    and DDT 1d1b4d2; of text and image those of Stable Diffusion 3, PixArt and Flux, in their own
    files and in those of diffusers.
"""

from repa.autoencoders.ldm import find_state_dict
from repa.tensor_file import Tensors

_OWN = ("x_embedder.", "final_layer.")  # of every transformer of SiT's kind
_WRAPPERS = ("module.", "model.", "diffusion_model.")  # around a network in a file of several
_KNOWN = {
    "REG": (
        ("wg_norm.", "cls_projectors2.", "final_layer.linear_cls."),
        "it denoises a class token together with the image, a state that the samplers here lack",
    ),
    "MeanFlow": (
        ("r_embedder.",),
        "it predicts the average velocity between two times and needs a sampler of its own",
    ),
    "SPRINT": (
        ("encoder_blocks.", "middle_blocks."),
        "its blocks drop tokens on the way, which is another network than SiT",
    ),
    "SR-DiT": (
        ("fusion_proj", "v1_lambda"),
        "its blocks share their values, which is another network than SiT",
    ),
    "DDT": (
        ("ema_denoiser.", "s_embedder."),
        "its encoder and decoder are apart, which is another network than SiT",
    ),
}

_TEXT_AND_IMAGE = (
    "context_embedder.",
    "joint_blocks.",
    "y_embedder.y_proj.",
    "caption_projection.",
    "cap_",
    "txt_in.",
    "double_blocks.",
    "text_encoder",
)
"""Beginnings of names that stand beside those of SiT's kind."""

_AUTOENCODER = "an autoencoder of images"
_OTHERS = {
    "a network of text and image": _TEXT_AND_IMAGE,
    "a U-Net": ("input_blocks.", "mid_block.", "middle_block.", "down_blocks."),
    _AUTOENCODER: ("decoder.mid.block_1.", "decoder.mid_block.", "first_stage_model."),
    "statistics of latents; they go to --latents": ("latents_scale", "latents_bias"),
    "a language model": ("lm_head.", "model.layers.", "transformer.h.", "bert."),
    "an encoder of images": (
        "cls_token",
        "patch_embed.proj.",
        "embeddings.cls_token",
        "embeddings.patch_embeddings.",
        "visual.",
        "vision_model.",
        "layer1.0.conv1.",
        "Conv2d_1a_3x3.",
        "mixed_5b.",
    ),
}
"""What other files hold, by the beginnings of their tensors' names."""


def refusal(tensors: Tensors) -> str | None:
    """Return why the file of a known network, or of another task, is not read, or None."""
    for name, (marks, reason) in _KNOWN.items():
        for tensor in tensors:
            if any(f".{tensor}".find(f".{mark}") >= 0 for mark in marks):
                return f"is {name}'s (it holds {tensor[:80]}), which is not supported: {reason}"
    own = any(_unwrapped(tensor).startswith(_OWN) for tensor in tensors)
    for what, marks in _OTHERS.items():
        if own and marks is not _TEXT_AND_IMAGE:
            continue
        for tensor in tensors:
            if tensor.startswith(marks) or _unwrapped(tensor).startswith(marks):
                advice = _advice(tensors) if what == _AUTOENCODER else ""
                return f"holds {what}{advice} (it has {tensor[:80]}), and no SiT"
    return None


def _unwrapped(name: str) -> str:
    """Return a tensor's name within its network."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _advice(tensors: Tensors) -> str:
    """Say how an autoencoder is given, if it can be."""
    if find_state_dict(tensors, {}) is not None:
        return "; it goes to --autoencoder"
    if any(tensor.startswith("decoder.mid_block.") for tensor in tensors):
        return " in diffusers' names; the folder with its config.json goes to --autoencoder"
    return ""
