"""Known networks that are not supported: what they are, and why not.

Source:
    The keys are those of REG 021ea2e, MeanFlow (PyTorch) 04d183c, SPRINT 12c5fc9, SR-DiT c24c2ff
    and DDT 1d1b4d2.
"""

from repa.tensor_file import Tensors

_OWN = ("x_embedder.", "final_layer.")  # of every transformer of SiT's kind
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
        ("encoder_blocks.", "middle_blocks.", "mask_token"),
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

_OTHERS = {
    "an autoencoder of images; it goes to --autoencoder": (
        "decoder.mid.block_1.",
        "decoder.mid_block.",
        "first_stage_model.",
    ),
    "statistics of latents; they go to --latents": ("latents_scale", "latents_bias"),
    "a network of text and image": ("context_embedder.", "joint_blocks.", "text_encoder.", "cap_"),
    "a U-Net": ("input_blocks.", "mid_block.", "middle_block.", "down_blocks."),
    "a language model": ("lm_head.", "model.layers.", "transformer.h.", "bert."),
    "an encoder of images": (
        "cls_token",
        "patch_embed.proj.",
        "visual.",
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
    if any(tensor.startswith(_OWN) for tensor in tensors):
        return None
    for what, marks in _OTHERS.items():
        for tensor in tensors:
            if tensor.removeprefix("module.").removeprefix("model.").startswith(marks):
                return f"holds {what} (it has {tensor[:80]}), and no SiT"
    return None
