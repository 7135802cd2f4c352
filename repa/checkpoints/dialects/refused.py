"""Known networks that are not supported: what they are, and why not.

Source:
    The keys are those of REG 021ea2e, MeanFlow (PyTorch) 04d183c, SPRINT 12c5fc9, SR-DiT c24c2ff
    and DDT 1d1b4d2.
"""

from repa.tensor_file import Tensors

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


def refusal(tensors: Tensors) -> str | None:
    """Return why the file of a known network is not read, or None."""
    for name, (marks, reason) in _KNOWN.items():
        for tensor in tensors:
            if any(f".{tensor}".find(f".{mark}") >= 0 for mark in marks):
                return f"is {name}'s (it holds {tensor[:80]}), which is not supported: {reason}"
    return None
