"""What is random in a batch of images: each image's own numbers, or those of REPA's processes.

An image's own depend on the seed and its index alone. In REPA a process ("rank") seeds its device's
generator once and draws from it, batch after batch, the noise, then the labels, then the normals of
each step of the SDE: what an image gets depends on all that its process drew before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from repa.generation.settings import Protocol
from samplers import NormalFn, draw_labels, initial_noise, step_noise


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch: what its rows begin from, their classes, what steps add.

    `noise` is float32 (B, C, H, W) and `labels` int64 (B,); `normal` is for `sample_sde`. Images
    `indices`, which are wanted, are in the rows `rows` of the batch; None is all in their order.
    """

    indices: Sequence[int]
    rows: list[int] | None
    noise: Tensor
    labels: Tensor
    normal: NormalFn


def draw_batches(
    indices: Sequence[int],
    protocol: Protocol,
    shape: Sequence[int],
    num_classes: int,
    device: torch.device,
    num_increments: Callable[[], int],
    on_skipped: Callable[[], object],
) -> Iterator[Draws]:
    """Yield the draws of all batches that some images are in.

    Each image's own are made on the CPU, `protocol.batch_size` images at a time in their order. The
    reference's are made on `device`, for the batches of its processes one after the other, whole
    ones, whichever of their images are wanted.

    Args:
        indices: Images.
        protocol: Seed, labels, solver and whose random numbers they are.
        shape: Of one image's state, (C, H, W).
        num_classes: Labels are below it.
        device: What the reference's generators are of: a CPU's give other numbers than a GPU's.
        num_increments: Tells how often the solver asks for normals in a batch.
        on_skipped: Called after each batch of the reference that is drawn for those behind it.
    """
    if protocol.rng == "reference":
        start = partial(_Process, protocol, tuple(shape), num_classes, device, num_increments())
        yield from _of_processes(indices, protocol, start, on_skipped)
        return
    for start in range(0, len(indices), protocol.batch_size):
        batch = indices[start : start + protocol.batch_size]
        yield own_draws(batch, protocol, shape, num_classes)


def own_draws(
    indices: Sequence[int], protocol: Protocol, shape: Sequence[int], num_classes: int
) -> Draws:
    """Return each image's own numbers, on the CPU, for a batch of these images."""
    noise = initial_noise(protocol.seed, indices, shape)
    labels = labels_of(indices, protocol, num_classes)
    return Draws(
        indices, None, noise, labels, partial(step_noise, protocol.seed, indices, shape=shape)
    )


def labels_of(indices: Sequence[int], protocol: Protocol, num_classes: int) -> Tensor:
    """Return the classes int64 (B,) of some images."""
    if protocol.labels == "random":
        return draw_labels(protocol.seed, indices, num_classes)
    cycle = range(num_classes) if protocol.labels == "balanced" else protocol.labels
    return torch.tensor([int(cycle[i % len(cycle)]) for i in indices])


def image_blocks(
    num_images: int, size: int, protocol: Protocol, share: tuple[int, int] = (0, 1)
) -> list[range]:
    """Return which images are made together, of images 0 to `num_images` - 1.

    They are `size` neighbours; of the reference's processes, every `world_size`-th of as many times
    more, process after process. The last ones can be fewer.

    Args:
        num_images: How many images there are.
        size: Images of a block.
        protocol: Whose random numbers they are.
        share: Rank and number of our processes, which take the blocks in turn, or the reference's
            processes.
    """
    rank, count = share
    step = protocol.world_size or 1
    firsts = range(0, num_images, size * step)
    ends = {first: min(first + size * step, num_images) for first in firsts}
    if step == 1:
        return [range(first, ends[first]) for first in firsts[rank::count]]
    ranks = range(step)[rank::count]
    blocks = (range(first + theirs, ends[first], step) for first in firsts for theirs in ranks)
    return [block for block in blocks if block]


@dataclass
class _Process:
    """A process of the reference: its generator, and the number of the batch it draws next.

    Source:
        REPA generate.py and samplers.py at 67f7145.
    """

    protocol: Protocol
    shape: tuple[int, ...]
    num_classes: int
    device: torch.device
    num_increments: int
    rank: int
    next: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        seed = self.protocol.seed * (self.protocol.world_size or 1) + self.rank
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def skip(self) -> None:
        """Draw a batch that is not wanted."""
        draws = self.draw((), [])
        for step in range(self.num_increments):
            draws.normal(step)

    def draw(self, indices: Sequence[int], rows: list[int]) -> Draws:
        """Draw a batch; the normals are drawn as the solver asks for them."""
        size, numbers = self.protocol.batch_size, self.generator
        shape, device = (size, *self.shape), self.device
        noise = torch.randn(shape, device=device, generator=numbers)
        labels = torch.randint(0, self.num_classes, (size,), device=device, generator=numbers)

        def normal(step: int) -> Tensor:
            # Drawn in float64, as there: float32 takes other numbers from the generator.
            return torch.randn(shape, dtype=torch.float64, device=device, generator=numbers)

        self.next += 1
        return Draws(indices, rows, noise, labels, normal)


def _of_processes(
    indices: Sequence[int],
    protocol: Protocol,
    start: Callable[[int], _Process],
    on_skipped: Callable[[], object],
) -> Iterator[Draws]:
    """Yield the batches of the reference's processes that hold some images.

    `start` returns the process of a rank before its first batch.
    """
    size, world = protocol.batch_size, protocol.world_size or 1
    wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for index in indices:
        row, rank = divmod(index % (size * world), world)
        wanted.setdefault((index // (size * world), rank), []).append((index, row))
    processes: dict[int, _Process] = {}
    for number, rank in sorted(wanted):
        if rank not in processes:
            processes[rank] = start(rank)
        process = processes[rank]
        while process.next < number:
            process.skip()
            on_skipped()
        images, rows = zip(*wanted[number, rank], strict=True)
        yield process.draw(images, list(rows))
