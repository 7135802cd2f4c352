"""Mutate the headers of files that people hand around, and open what comes of it as commands do.

`python tests/mutated_headers.py KIND COUNT SEED` prints what became of each; any exception that is
not one line for a user, more than 2 seconds of CPU, memory that the file does not account for, or
content that is neither as written nor refused ends it with exit code 1 and the mutation's number,
which makes the same file again.
"""

import argparse
import contextlib
import io
import json
import random
import re
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from metrics import open_images, open_reference
from repa.checkpoints import read_checkpoint
from repa.models.sit import SiT
from repa_base.errors import RepaError

CPU_SECONDS = 2
SLACK_BYTES = 96 << 20  # beyond the file: arenas of the allocator and threads come and go

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 10
MANIFEST = {"settings": {"seed": 0, "num": 40, "model": "digits"}, "versions": {"torch": "2"}}
FEATURES = np.random.default_rng(1).normal(size=(60, 16))
STATISTICS = {"mu": FEATURES.mean(0), "sigma": np.cov(FEATURES.T)}
STATISTICS |= {f"{name}_s": array for name, array in STATISTICS.items()}
MODEL = {"input_size": 8, "patch_size": 4, "in_channels": 3, "hidden_size": 24, "depth": 2}
MODEL |= {"num_heads": 3, "num_classes": 5, "encoder_depth": 2, "qk_norm": True}


def samples(save):
    return _npz(save, arr_0=IMAGES, arr_1=LABELS, manifest=np.array(json.dumps(MANIFEST)))


def _npz(save, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def _tensors():
    torch.manual_seed(0)
    return SiT(**MODEL, target_dims=[7], projector_dim=9).state_dict()


def _ours():
    description = {"format": 1, "model": {**MODEL, "target_dims": [7], "projector_dim": 9}}
    description |= {"path_type": "linear", "dataset": "digits", "autoencoder": None}
    return save_safetensors(_tensors(), metadata={"repa": json.dumps(description)})


def _torch(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _trainers():
    arguments = argparse.Namespace(path_type="linear", encoder_depth=2, model="SiT", seed=0)
    return _torch({"ema": _tensors(), "args": arguments, "steps": 7, "opt": {"lr": [1e-4]}})


def _see_images(path):
    """Open images as `repa fid` does, to the last pixel; they are as written, or not there."""
    images = open_images(path)
    images.sha256()
    batches = [*images.batches(16)]
    assert sum(map(len, batches)) == images.count
    yield np.array_equal(np.concatenate(batches), IMAGES), "other images"
    yield images.labels is None or np.array_equal(images.labels, LABELS), "other labels"
    yield images.manifest in (None, MANIFEST), "another manifest"


def _see_reference(path):
    reference = open_reference(path)
    if reference.images is not None:
        yield from _see_images(path)
    if reference.statistics is not None:
        found = {k: v for k, v in reference.statistics.to_arrays().items() if k in STATISTICS}
        for name, array in found.items():
            yield np.array_equal(array, STATISTICS[name]), f"another {name}"


def _see_checkpoint(path):
    """Read a checkpoint and build its network, as sampling does."""
    checkpoint = read_checkpoint(path)
    parameters = [*checkpoint.model.parameters()]
    yield sum(p.nbytes for p in parameters) <= 8 * path.stat().st_size, "a network beyond the file"


KINDS = {
    "samples": ("x.npz", lambda: samples(np.savez), _see_images),
    "samples, deflated": ("x.npz", lambda: samples(np.savez_compressed), _see_images),
    "reference": ("x.npz", lambda: _npz(np.savez, arr_0=IMAGES, **STATISTICS), _see_reference),
    "safetensors": ("x.safetensors", _ours, _see_checkpoint),
    "torch": ("x.pt", lambda: _torch(_tensors()), _see_checkpoint),
    "torch with Namespace": ("x.pt", _trainers, _see_checkpoint),
    "torch without zip": (
        "x.pt",
        lambda: _torch(_tensors(), _use_new_zipfile_serialization=False),
        _see_checkpoint,
    ),
}
"""By name: the file's name, what makes it, and what opens it and looks at all of it."""


def mutated(content, chance):
    """Return the file with mutated headers, and whether checksums were made to fit them."""
    if chance.random() < 0.3:
        return _with_lying_part(content, chance), True
    return _mutated_in(content, _headers(content), chance), False


def _headers(content):
    """The stretches of a file that are not arrays: (start, end), shortest where two touch."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos, directory = archive.infolist(), archive.start_dir
        heads = [(info.header_offset, info.header_offset + 240) for info in infos]
        heads += [
            (info.header_offset, info.header_offset + info.compress_size + 100)
            for info in infos
            if info.filename.endswith("/data.pkl")
        ]
        return [*heads, (directory, len(content)), (len(content) - 22, len(content))]
    if content[8:9] == b"{":
        return [(0, 8), (0, 8 + int.from_bytes(content[:8], "little"))]
    return [(0, 3000), (0, len(content) - sum(t.nbytes for t in _tensors().values()))]


def _with_lying_part(content, chance):
    """Mutate what stands inside the container, and make the container anew around it."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {info: archive.read(info) for info in archive.infolist()}
        pickles = [info for info in parts if info.filename.endswith("/data.pkl")]
        chosen = chance.choice(pickles or [*parts])
        whole = bool(pickles) or "manifest" in chosen.filename
        span = (0, len(parts[chosen]) if whole else min(128, len(parts[chosen])))
        parts[chosen] = _mutated_in(parts[chosen], [span], chance)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", next(iter(parts)).compress_type) as archive:
            for info, part in parts.items():
                archive.writestr(info.filename, part)
        return stream.getvalue()
    if content[8:9] == b"{":
        end = 8 + int.from_bytes(content[:8], "little")
        header = _mutated_in(content[8:end], [(0, end - 8)], chance)
        return len(header).to_bytes(8, "little") + header + content[end:]
    return _mutated_in(content, [(0, 1000)], chance)


def _mutated_in(content, spans, chance):
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start, end = chance.choice(spans)
        if len(content):
            chance.choice(MUTATIONS)(
                content, min(chance.randrange(start, end), len(content) - 1), chance
            )
    return bytes(content)


def _flip(content, at, chance):
    content[at] ^= 1 << chance.randrange(8)


def _set(content, at, chance):
    content[at] = chance.choice((0, 255, ord("."), ord("9"), chance.randrange(256)))


def _zero(content, at, chance):
    size = min(chance.randrange(1, 65), len(content) - at)
    content[at : at + size] = bytes(size)


def _cut(content, at, chance):
    del content[at:]


def _remove(content, at, chance):
    del content[at : at + chance.randrange(1, 33)]


def _insert(content, at, chance):
    content[at:at] = chance.randbytes(chance.randrange(1, 17))


def _repeat(content, at, chance):
    size = chance.randrange(1, 40)
    content[at:at] = content[at : at + size] * chance.choice((1, 2, 50, 2000))


def _move(content, at, chance):
    size, to = chance.randrange(1, 40), chance.randrange(len(content))
    content[to : to + size] = content[at : at + size]


def _large(content, at, chance):
    size = chance.choice((2, 4, 8))
    most = 1 << 8 * size
    value = chance.choice((most - 1, most // 2 - 1, most // 2, chance.randrange(most), 1 << 30))
    content[at : at + size] = (value % most).to_bytes(size, chance.choice(("little", "big")))


def _number(content, at, chance):
    """Put another number in the place of one that is written in digits."""
    numbers = [*re.finditer(rb"[0-9]+", bytes(content[at : at + 400]))]
    if numbers:
        found = chance.choice(numbers)
        values = (0, 1, 9999, 2**31, 2**32, 2**63, 2**64, 10**30, -1, chance.randrange(99))
        number = b"%d" % chance.choice(values)
        content[at + found.start() : at + found.end()] = chance.choice(
            (number, number, b"9" * 5000)
        )


def _nest(content, at, chance):
    opening = chance.choice((b"[", b"(", b"{", b'{"a":', b"[[", b"((", b"-", b"\\\\["))
    content[at:at] = opening * chance.choice((3, 100, 3000, 60_000))


MUTATIONS = (
    _flip,
    _flip,
    _set,
    _zero,
    _cut,
    _remove,
    _insert,
    _repeat,
    _move,
    _large,
    _number,
    _nest,
)


class HangError(BaseException):
    """An opening took too long; no `except Exception` takes it for damage."""


def opened(kind, path, lying, baseline=None):
    """Open a file; return what came of it, and what is wrong with that, or None."""
    _, _, see = KINDS[kind]
    outcome, wrong = "opened", None
    try:
        differences = [text for same, text in see(path) if not same]
        if differences and not lying:
            wrong = f"silently wrong: {differences}"
    except (RepaError, OSError) as error:
        outcome = type(error).__name__
        if isinstance(error, OSError) and error.filename is None:
            wrong = f"no file is named: {error}"
        if "\n" in str(error) or len(str(error)) > 2000:
            wrong = f"not one short line: {str(error)[:300]!r}"
        cause = error
        while (cause := cause.__cause__) is not None:
            if "allocate" in str(cause):
                wrong = f"an allocation was refused: {cause}"
    except HangError:
        wrong = f"more than {CPU_SECONDS} s"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:300]}"
    size = path.stat().st_size
    if wrong is None and baseline is not None and peak_bytes() > baseline + size + SLACK_BYTES:
        wrong = f"{(peak_bytes() - baseline) / 1e6:.0f} MB for a file of {size / 1e6:.1f} MB"
    return outcome, wrong


def peak_bytes():
    """The most address space that this process has had: what was allocated, touched or not."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmPeak:\s+(\d+) kB", status)[1]) * 1024


def run(kind, numbers, seed, folder, *, limits=True):
    """Open so many mutations; yield the number, the outcome, and what is wrong or None."""
    name, make, see = KINDS[kind]
    path, content = folder / name, make()
    path.write_bytes(content)
    assert all(same for same, _ in see(path))
    baseline = peak_bytes() if limits else None
    for number in numbers:
        changed, lying = mutated(content, random.Random(f"{kind} {seed} {number}"))
        path.write_bytes(changed)
        with _limited() if limits else contextlib.nullcontext():
            outcome, wrong = opened(kind, path, lying, baseline)
        baseline = max(baseline, peak_bytes()) if wrong and limits else baseline
        yield number, outcome, wrong


@contextlib.contextmanager
def _limited():
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _hang(*arguments):
    raise HangError


def main(kind, count, seed, first="0"):
    signal.signal(signal.SIGPROF, _hang)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    outcomes, bad, began = Counter(), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(int(first), int(first) + int(count))
        for number, outcome, wrong in run(kind, numbers, seed, Path(folder)):
            outcomes[outcome] += 1
            if wrong is not None:
                bad += 1
                print(f"{kind} {seed} {number}: {wrong}", flush=True)
    counts = ", ".join(f"{n:,} {name}" for name, n in outcomes.most_common())
    print(f"{kind}: {count} in {time.monotonic() - began:.0f} s, {bad} wrong; {counts}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
