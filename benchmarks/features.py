"""Time our Inception against torch-fidelity's extractor, and lite0 against timm's.

Claims, for 256 x 256 images on a CPU: at least 1.45 times torch-fidelity's extractor without
compilation, at least 1.7 times with `--compiled`, and features equal within 1e-5. Both start from
uint8 images and end at pooled features and logits; ours gives the spatial features besides. The
weights are random, of He's scale: the arithmetic is the same for any.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from timing import print_machine, print_ratio, seconds
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from metrics import load_network


def random_weights(path):
    """Save seeded weights for torch-fidelity's network, whose names and shapes come from itself."""

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            return None

    torch.save({}, path)
    weights = Untrained(
        "inception", ["2048"], feature_extractor_weights_path=str(path)
    ).state_dict()
    random = torch.Generator().manual_seed(0)
    for tensor in weights.values():
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.normal_(0, (2 / fan_in) ** 0.5, generator=random)
    torch.save(weights, path)


def difference(found, wanted):
    return max(np.abs(a - b.numpy()).max() for a, b in zip(found, wanted, strict=True))


def compare_inception(images, repeats, compiled, path):
    extractor = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    network = load_network("inception", path, compiled=compiled)
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def theirs():
        with torch.no_grad():
            pool, logits = extractor(channels_first)
            return pool, logits.softmax(dim=1)

    def ours():
        features = network(images)
        return features.pool, features.probabilities

    name = "compiled" if compiled else "folded"
    race("torch-fidelity", theirs, name, ours, repeats, goal=1.7 if compiled else 1.45)


def compare_lite0(images, repeats):
    network = load_network("efficientnet-lite0")
    plain = timm.create_model("tf_efficientnet_lite0").eval()
    pixels = network.resize(torch.from_numpy(images)).contiguous()

    def theirs():
        with torch.no_grad():
            return plain(pixels)

    race("timm lite0", theirs, "folded lite0", lambda: network(images), repeats)


def race(baseline_name, theirs, our_name, ours, repeats, goal=None):
    """Warm both up, then time them by turns."""
    wanted, found = theirs(), ours()
    if isinstance(wanted, tuple):
        print(f"largest difference of the outputs: {difference(found, wanted):.1e}")
    baseline, times = [], []
    for _ in range(repeats):
        baseline.append(seconds(theirs)[0])
        times.append(seconds(ours)[0])
    print_ratio(baseline_name, baseline, our_name, times, goal=goal)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    print_machine()

    shape = (options.batch_size, options.size, options.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        random_weights(path)
        compare_inception(images, options.repeats, False, path)
        if options.compiled:
            compare_inception(images, options.repeats, True, path)
    compare_lite0(images, options.repeats)


if __name__ == "__main__":
    main()
