"""How fast sampling is: ratios to a loop after the published protocol, all measured in one run.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --only plain rate --xl 2
    python benchmarks/sampling.py --only --digits-bf16 2000 --minutes 60

plain    SiT-B/2, 8 images at a time, in float32: the plain loop of plain_sampling.py against ours,
         by a few steps of the published protocol, whose states are compared first. Goal 1.05.
rate     The share of the machine's matrix rate, that of a large product of the same run, that the
         network reaches; its work is counted from its shapes. Goal 0.85.
half     bf16 against float32. Goal 2.4; left out on a CPU that has no instructions for bf16.
compile  --compile against float32, after the minutes that compiling takes.
whole    Seconds an image, without decoding: the published protocol in float32 (250 steps of the
         SDE, guidance 1.8 in [0, 0.7]) against --fast, and with bf16 where the CPU has it, on
         SiT-B/2 and on digits. Of the published protocol --published steps are measured instead of
         250, and the rest follows from its rows of the network. Goal 20.

--xl ROWS adds one evaluation of SiT-XL/2 (3 GB of memory): plain and rate.
--digits-bf16 N adds FD-lite0 of N digits by --fast in bf16 and in float32, of the same seed, with
standard errors: within two of float32's? A run that was stopped, or had no time left, goes on; it
keeps its images. Without instructions bf16 is float32's products, rounded (narrow_products.py).

The networks, but for digits, are untrained: the arithmetic is the same for any weights. Actions to
be compared take turns, after one of each that is not counted.
"""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from narrow_products import affordable_bf16
from plain_sampling import plain_network, plain_states
from sweep_rows import FOLDER, Rows, judged_images
from timing import in_turns, print_machine, print_ratio

from repa import SIT_SIZES, SiT
from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints import load_model
from repa.checkpoints.settings import CheckpointSettings
from repa.generation import Protocol, network_rows
from repa.generation.draws import own_draws
from repa.generation.images import InMemory, states_of
from repa.generation.solvers import FAST
from repa_base.device import computes_bf16

PUBLISHED = Protocol()
NO_BF16 = "left out, this CPU has no instructions for bf16"
PRODUCT = 2048
"""Side of the matrices of the large product."""


def untrained(size):
    """Return a network of 32 x 32 x 4 latents with a projector of DINOv2-B's width."""
    torch.manual_seed(0)
    settings = {"input_size": 32, "in_channels": 4, "num_classes": 1000, "target_dims": [768]}
    settings |= {"encoder_depth": SIT_SIZES[size]["depth"] // 3, **SIT_SIZES[size]}
    network = SiT(**settings).eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():  # what is zero before training would make the velocity zero
            torch.nn.init.normal_(parameter, std=0.05)
    torch.nn.init.normal_(network.y_embedder.embedding_table.weight)  # so that labels matter
    return InMemory(network, CheckpointSettings(model=settings, latent_space=SD_LATENTS))


def ours(model, batch, protocol):
    """Return an action: the states of a batch by a protocol."""
    return lambda: states_of(model, range(batch), protocol)


def plain(model, batch, protocol):
    """Return the same action by the plain loop, of the same random numbers."""
    network, settings = plain_network(model.model), model.settings.model
    shape = (settings["in_channels"], settings["input_size"], settings["input_size"])
    how = {"num_steps": protocol.num_steps, "cfg_scale": protocol.cfg_scale}
    how["interval"] = protocol.guidance_interval

    def sample():
        draws = own_draws(range(batch), protocol, shape, settings["num_classes"])
        return plain_states(network, draws.noise, draws.labels, draws.normal, **how)

    return sample


def check_equal(one, other):
    """Stop unless both actions give the same states but for rounding."""
    wanted, found = one().double(), other().double()
    apart = ((found - wanted).norm() / wanted.norm()).item()
    print(f"states of both differ by {apart:.1e} of their norm")
    if not apart < 1e-5:
        raise SystemExit("the plain loop and ours do not make the same states")


def forward_flops(network):
    """Return the floating-point operations of one row's matrix products, two a multiplication."""
    width, tokens = network.x_embedder.proj.out_channels, network.pos_embed.shape[1]
    inner, patch = network.blocks[0].mlp.fc1.out_features, network.patch_size**2
    of_tokens = 4 * width * width + 2 * width * inner + 2 * tokens * width
    of_block = tokens * of_tokens + width * 6 * width
    embedders = tokens * patch * network.in_channels * width
    embedders += (2 * network.t_embedder.num_frequencies + width) * width
    last = tokens * width * patch * network.out_channels + width * 2 * width
    return 2 * (embedders + len(network.blocks) * of_block + last)


def evaluation(network, rows, **asked):
    """Return an action: one evaluation of the network on so many rows."""
    x = torch.randn(rows, network.in_channels, network.input_size, network.input_size)
    t, labels = torch.full((rows,), 0.5), torch.zeros(rows, dtype=torch.long)

    def evaluate():
        with torch.no_grad():
            return network(x, t, labels, **asked)

    return evaluate


def measure_plain(model, options):
    """Time the plain loop against ours."""
    protocol = Protocol(num_steps=options.steps)
    kinds = {
        "plain loop": plain(model, options.batch, protocol),
        "ours": ours(model, options.batch, protocol),
    }
    check_equal(*kinds.values())
    times = in_turns(kinds, options.repeats)
    print_ratio("plain loop", times["plain loop"], "ours", times["ours"], 1.05)


def measure_rate(model, options):
    rate(model.model, options.batch, options.repeats)


def rate(network, rows, repeats):
    """Time an evaluation, and as many operations in large products."""
    work = rows * forward_flops(network)
    one, other = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    out, of_product = torch.empty(PRODUCT, PRODUCT), 2 * PRODUCT**3
    count = max(1, round(work / of_product))

    def products():
        for _ in range(count):
            torch.mm(one, other, out=out)

    kinds = {"products": products, "network": evaluation(network, rows)}
    times = in_turns(kinds, repeats)
    rates = [count * of_product / seconds for seconds in times["products"]]
    reached = [work / seconds for seconds in times["network"]]
    shares = [mine / most for mine, most in zip(reached, rates, strict=True)]
    print(
        f"network, {rows} rows of {work / rows / 1e9:.1f} GFLOP: {median(reached) / 1e9:.1f} "
        f"GFLOP/s; products of {PRODUCT} x {PRODUCT}: {median(rates) / 1e9:.1f} GFLOP/s"
    )
    spread = f"{min(shares):.2f} to {max(shares):.2f}"
    print(f"share of the matrix rate: median {median(shares):.2f} ({spread}); goal 0.85")


def measure_half(model, options):
    """Time float32 against bf16."""
    if not computes_bf16(torch.device("cpu")):
        print(NO_BF16)
        return
    against_float32(narrowed(model), "bf16", model, options, 2.4)


def measure_compile(model, options):
    """Time float32 against the same with compiled blocks."""
    compiled = InMemory(model.model.compiled(), model.settings)
    against_float32(compiled, "compiled", model, options, None)


def against_float32(other, name, model, options, goal):
    protocol = Protocol(num_steps=options.steps)
    kinds = {"float32": ours(model, options.batch, protocol)}
    kinds[name] = ours(other, options.batch, protocol)
    times = in_turns(kinds, options.repeats)
    print_ratio("float32", times["float32"], name, times[name], goal)


def narrowed(model):
    return InMemory(model.model.narrowed(torch.bfloat16), model.settings)


def measure_whole(model, options):
    """Time the published protocol, of which a share of the steps is made, against --fast."""
    whole(model, options.whole_batch, options)
    print("\nwhole, digits", flush=True)
    whole(load_model("digits"), options.whole_digits, options)


def whole(model, batch, options):
    share = Protocol(num_steps=options.published)
    rows, of_all = network_rows(share), network_rows(PUBLISHED)
    fast = Protocol(**FAST)
    print(
        f"published protocol: {of_all} rows an image, of which {rows} in {share.num_steps} steps "
        f"were measured and the others follow; --fast: {network_rows(fast)} rows"
    )
    published = {"published, plain loop": plain(model, batch, share)}
    published["published, ours"] = ours(model, batch, share)
    ways = {"fast, float32": ours(model, batch, fast)}
    if computes_bf16(torch.device("cpu")):
        ways["fast, bf16"] = ours(narrowed(model), batch, fast)
    else:
        print(f"fast, bf16: {NO_BF16}")
    times = in_turns({**published, **ways}, options.repeats)
    scaled = {
        name: [seconds / batch * (of_all / rows if name in published else 1) for seconds in found]
        for name, found in times.items()
    }
    for way in ways:
        for baseline in published:
            print_ratio(baseline, scaled[baseline], way, scaled[way], 20)


def measure_xl(options):
    """Time one evaluation of SiT-XL/2: the plain network, ours, and the share of the rate."""
    model = untrained(options.xl_size)
    kinds = {
        "plain": evaluation(plain_network(model.model), options.xl, return_features=True),
        "ours": evaluation(model.model, options.xl),
    }
    times = in_turns(kinds, options.repeats)
    print_ratio("plain", times["plain"], "ours", times["ours"])
    rate(model.model, options.xl, options.repeats)


def compare_digits(options):
    """Judge digits in both precisions; what is done stays, and is gone on with."""
    rows, until = Rows(options.out / "half.jsonl"), time.monotonic() + 60 * options.minutes
    found = {}
    for precision in ("fp32", "bf16"):
        key = {"precision": precision, "count": options.digits_bf16, "seed": 0, **FAST}
        if not rows.has(**key):
            keep = options.samples / f"digits-{options.digits_bf16}-{precision}.npz"
            made = {
                "num_images": options.digits_bf16,
                "seed": 0,
                "precision": precision,
                "fast": True,
            }
            emulated = precision == "bf16" and not computes_bf16(torch.device("cpu"))
            with affordable_bf16() if emulated else nullcontext():
                row = judged_images(keep=keep, until=until, **made)
            if row is None:
                print(f"no time left at {precision}: repeat the command to go on with {keep}")
                return
            rows.add(key | row | {"products emulated": emulated})
        (found[precision],) = (r for r in rows.rows if all(r[k] == v for k, v in key.items()))
        value, error = (found[precision][name] for name in ("FD-lite0", "FD-lite0 error"))
        print(f"{precision}: FD-lite0 {value:.2f} ± {error:.2f}")
    apart = found["bf16"]["FD-lite0"] - found["fp32"]["FD-lite0"]
    error = found["fp32"]["FD-lite0 error"]
    word = "within" if abs(apart) <= 2 * error else "NOT within"
    print(f"bf16 differs by {apart:+.2f}, {word} two standard errors of float32's, {2 * error:.2f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("plain", "rate", "half", "compile", "whole")
    parser.add_argument("--only", nargs="*", choices=parts, default=parts, help="only these parts")
    parser.add_argument("--xl", type=int, default=0, metavar="ROWS", help="also SiT-XL/2")
    parser.add_argument("--digits-bf16", type=int, default=0, metavar="N", help="also FD of digits")
    parser.add_argument("--repeats", type=int, default=3, help="turns that are counted")
    parser.add_argument("--steps", type=int, default=3, help="of the protocol, but for whole")
    parser.add_argument("--published", type=int, default=10, help="of whole: steps instead of 250")
    parser.add_argument("--size", default="SiT-B/2", choices=list(SIT_SIZES))
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--whole-batch", type=int, default=4, help="of whole: images at a time")
    parser.add_argument("--whole-digits", type=int, default=16, help="of whole: digits at a time")
    parser.add_argument("--xl-size", default="SiT-XL/2", choices=list(SIT_SIZES))
    parser.add_argument("--minutes", type=float, default=600, help="of digits: stop after these")
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="of digits: images")
    parser.add_argument("--out", type=Path, default=FOLDER, help="of digits: folder of half.jsonl")
    options = parser.parse_args()
    print_machine()
    if options.only:
        model = untrained(options.size)
        for part in options.only:
            print(f"\n{part}, {options.size}", flush=True)
            MEASURES[part](model, options)
    if options.xl:
        print(f"\none evaluation of {options.xl_size}", flush=True)
        measure_xl(options)
    if options.digits_bf16:
        print("\ndigits in bf16", flush=True)
        compare_digits(options)


MEASURES = {
    "plain": measure_plain,
    "rate": measure_rate,
    "half": measure_half,
    "compile": measure_compile,
    "whole": measure_whole,
}

if __name__ == "__main__":
    main()
