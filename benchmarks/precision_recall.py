"""Time `metrics.formulas.precision_recall` at ADM's size against plain blocked torch, side by side.

Claims, at 10,000 x 10,000 x 2048 on 2 cores: 7.5 s with exact distances, and ADM's float16
arithmetic in at most 1.3 times that. Recorded earlier on another 2-core machine, and so no baseline
of this run: ADM's TensorFlow evaluator 11.2 s, plain blocked torch 9.4 s, its products 4.8 s.
"""

import argparse

import torch
from timing import print_machine, print_ratio, seconds

from metrics.formulas.precision_recall import precision_recall


def plain_radii(features, block, kept=4):
    norms = features.square().sum(1)
    radii = []
    for start in range(0, len(features), block):
        rows = slice(start, start + block)
        distances = norms[rows, None] - 2 * features[rows] @ features.T + norms
        radii.append(distances.topk(kept, largest=False).values.amax(1))
    return torch.cat(radii)


def plain_precision_recall(real, generated, block):
    """Multiply everything, sort every block: what one writes first."""
    real_radii, generated_radii = plain_radii(real, block), plain_radii(generated, block)
    norms, generated_norms = real.square().sum(1), generated.square().sum(1)
    real_inside = []
    generated_inside = torch.zeros(len(generated), dtype=torch.bool)
    for start in range(0, len(real), block):
        rows = slice(start, start + block)
        distances = norms[rows, None] - 2 * real[rows] @ generated.T + generated_norms
        real_inside.append((distances <= generated_radii).any(1))
        generated_inside |= (distances <= real_radii[rows, None]).any(0)
    recall = torch.cat(real_inside).double().mean().item()
    return generated_inside.double().mean().item(), recall


def multiply_all(real, generated, block):
    for left, right in ((real, real), (generated, generated), (real, generated)):
        for rows in left.split(block):
            rows @ right.T


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print_machine()

    torch.manual_seed(0)
    real = torch.rand(options.count, options.dim) ** 2
    generated = 1.01 * torch.rand(options.count, options.dim) ** 2
    actions = {
        "plain torch": lambda: plain_precision_recall(real, generated, block=2000),
        "products alone": lambda: multiply_all(real, generated, block=2000),
        "exact": lambda: precision_recall(real, generated),
        "adm": lambda: precision_recall(real, generated, distances="adm"),
    }
    times, results = {name: [] for name in actions}, {}
    for _ in range(options.repeats):
        for name, action in actions.items():
            time, results[name] = seconds(action)
            times[name].append(time)
    exact = results["exact"]
    print(
        f"precision, recall: {results['plain torch']} plain, {exact.precision, exact.recall} exact"
    )
    print_ratio("plain torch", times["plain torch"], "exact", times["exact"])
    print_ratio("products alone", times["products alone"], "exact", times["exact"])
    print_ratio("adm", times["adm"], "exact", times["exact"])


if __name__ == "__main__":
    main()
