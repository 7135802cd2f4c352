"""InceptionV3 of 2015, ADM's metric network, on torch-fidelity's modules and computed faster.

Convolution and batch normalisation are folded and the layout is channels-last. The features are
those of ADM's evaluator: pooled 2048, the first 7 channels of `mixed_6/conv` in NHWC order, and
1008-way logits without bias. Weights are only ever given, never downloaded.
"""

import io
from collections.abc import Mapping

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from metrics.errors import InputError
from metrics.networks.folding import prepare_for_inference

INPUT_SIZE = 299
_SPATIAL_CHANNELS = 7


class Inception(nn.Module):
    """Pooled features, spatial features and unbiased logits of pixels.

    Args:
        weights: The parameters by torch-fidelity's names.

    Raises:
        InputError: The weights are not those of this network.

    Source:
        guided-diffusion evaluations/evaluator.py for the choice of layers; torch-fidelity for the
        network. TensorFlow's `mixed_6/conv` is the output, after its ReLU, of Mixed_6d.branch1x1.
    """

    spatial_weight: Tensor
    spatial_bias: Tensor
    class_weight: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        network = prepare_for_inference(_extractor(weights))
        folded = network.state_dict()
        first = slice(_SPATIAL_CHANNELS)
        self.register_buffer("spatial_weight", folded["Mixed_6d.branch1x1.conv.weight"][first])
        self.register_buffer("spatial_bias", folded["Mixed_6d.branch1x1.conv.bias"][first])
        self.register_buffer("class_weight", folded["fc.weight"])
        layers = {name: layer for name, layer in network.named_children() if name != "fc"}
        split = list(layers).index("Mixed_6d")
        self.before = nn.Sequential(*list(layers.values())[:split])
        self.after = nn.Sequential(*list(layers.values())[split:])

    def forward(
        self, pixels: Float[Tensor, "batch 3 299 299"]
    ) -> tuple[
        Float[Tensor, "batch 2048"], Float[Tensor, "batch 2023"], Float[Tensor, "batch 1008"]
    ]:
        """Return pooled features, spatial features at (h * 17 + w) * 7 + c, and logits.

        Args:
            pixels: In [0, 255].
        """
        x = self.before((pixels - 128) / 128)
        pool = self.after(x).flatten(1)
        # seven channels of a layer in `after`, again: cheaper than a hook, and compilable
        spatial = F.relu(F.conv2d(x, self.spatial_weight, self.spatial_bias))
        return pool, spatial.permute(0, 2, 3, 1).flatten(1), pool @ self.class_weight.T


def resize_like_tensorflow(
    images: Real[Tensor, "batch height width 3"], size: int = INPUT_SIZE
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Resize as TensorFlow 1 does: bilinear, corners not aligned, no half-pixel centres.

    Equal bit for bit, on a CPU, to torch-fidelity's function and to TensorFlow's
    `resize_bilinear(align_corners=False)`, at a tenth of the former's cost. Values keep their
    range; the result is laid out channels-last.
    """
    columns_first = images.transpose(1, 2).float().contiguous()  # gathers whole rows: faster
    rows_first = _interpolate(columns_first, size).transpose(1, 2).contiguous()
    return _interpolate(rows_first, size).permute(0, 3, 1, 2)


def _interpolate(
    x: Float[Tensor, "batch length others channels"], size: int
) -> Float[Tensor, "batch {size} others channels"]:
    """Interpolate along the second axis."""
    length = x.shape[1]
    position = torch.arange(size, dtype=torch.float32, device=x.device) * (length / size)
    low = position.long()
    fraction = (position - low).view(-1, 1, 1)
    start = x[:, low]
    # not lerp or addcmul: those round once less, and so differ from the reference
    return (x[:, (low + 1).clamp(max=length - 1)] - start).mul_(fraction).add_(start)


def _extractor(weights: Mapping[str, Tensor]) -> FeatureExtractorInceptionV3:
    """Build torch-fidelity's network from tensors that were loaded safely.

    Its constructor unpickles a file without restriction, so it is given a copy made here.
    """
    copy = io.BytesIO()
    torch.save(dict(weights), copy)
    copy.seek(0)
    try:
        return FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=copy
        )
    except RuntimeError as error:
        raise InputError(
            "These are not torch-fidelity's InceptionV3 weights: names or shapes differ."
        ) from error
