"""Precision and recall by nearest-neighbour manifolds, in exact or in ADM's arithmetic.

A feature set covers the union of balls around its rows; the ball of a row reaches its k-th nearest
neighbour in the same set. Precision is the share of generated rows that the real set covers, recall
the share of real rows that the generated set covers. All distances are squared Euclidean.

Distances are computed in tiles and only the k + 1 smallest of a row are kept, so memory is bounded
by the tile. Within one set a tile of products serves its rows and its columns, except where ADM's
blocks may overflow and each of them chooses its precision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32, Real
from torch import Tensor

from metrics.errors import InputError
from metrics.settings import Distances
from repa_base.memory_map import release_pages
from repa_base.progress import Steps

# Rows of a matrix; the sizes have no names, because two sets in one call may differ in them.
Features = Real[np.ndarray, "_ _"] | Real[Tensor, "_ _"]

# Large enough for full matrix speed, small enough that a tile of distances (17 MB) stays in cache.
_TILE = 2048
# Rows whose norms are computed at once.
_NORM_ROWS = 256
# Columns of which one minimum stands for all while the smallest distances are searched.
_GROUP = 32
# If two squared norms add up to less, twice their sum, the largest distance, is finite in float16
# however it is rounded.
_HALF_SAFE = 0.45 * torch.finfo(torch.float16).max


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall with the flags that they are the means of.

    Attributes:
        precision: Share of generated rows inside the real manifold, in [0, 1].
        recall: Share of real rows inside the generated manifold, in [0, 1].
        generated_in_real: The flag of each generated row.
        real_in_generated: The flag of each real row.
    """

    precision: float
    recall: float
    generated_in_real: Bool[np.ndarray, " generated"]
    real_in_generated: Bool[np.ndarray, " real"]


def precision_recall(
    real: Features,
    generated: Features,
    num_neighbors: int = 3,
    *,
    distances: Distances = "exact",
    block_size: int | tuple[int, int] = 10_000,
    progress: Steps | None = None,
) -> PrecisionRecall:
    """Compute improved precision and recall of generated features against real ones.

    Args:
        real: Features of real images; a tensor's device is used, an array may be a memory map.
        generated: Features of generated images, of the same width; the counts may differ.
        num_neighbors: The neighbour that sets a radius, the row itself not counted.
        distances: "exact" is float32. "adm" repeats ADM's evaluator: features, norms, products and
            sums rounded to float16, and float32 for every block in which that overflows. Its
            numbers depend on the order of summation and so on hardware.
        block_size: Rows and columns of ADM's blocks (one number for both); decides which pairs
            share a fallback to float32, and nothing else.
        progress: Called with pairs of rows: those done, and all of the three comparisons.

    Raises:
        InputError: Features are not finite, differ in width, or are not more than `num_neighbors`.
        ValueError: `num_neighbors` or `block_size` is below 1.

    Source:
        Kynkäänniemi et al., arXiv 1904.06991, and guided-diffusion evaluations/evaluator.py
        (ManifoldEstimator, DistanceBlock): squared distances, the row itself among the neighbours,
        inside means `<=`.
    """
    grid = _grid(block_size)
    reals, fakes = _Points(real), _Points(generated)
    if reals.dim != fakes.dim:
        raise InputError(
            f"Real and generated features must have the same width, got {reals.dim} "
            f"and {fakes.dim}."
        )
    counted = _counting(progress, reals.count**2 + fakes.count**2 + reals.count * fakes.count)
    real_radii = _radii(reals, num_neighbors, distances, grid, counted)
    fake_radii = _radii(fakes, num_neighbors, distances, grid, counted)
    real_inside = torch.zeros(reals.count, dtype=torch.bool, device=reals.device)
    fake_inside = torch.zeros(fakes.count, dtype=torch.bool, device=reals.device)
    for tile in counted(_tiles(reals, fakes, distances, grid)):
        real_inside[tile.rows] |= (tile.squared <= fake_radii[tile.columns]).any(dim=1)
        fake_inside[tile.columns] |= (tile.squared <= real_radii[tile.rows, None]).any(dim=0)
    generated_in_real, real_in_generated = fake_inside.cpu().numpy(), real_inside.cpu().numpy()
    return PrecisionRecall(
        precision=float(generated_in_real.mean()),
        recall=float(real_in_generated.mean()),
        generated_in_real=generated_in_real,
        real_in_generated=real_in_generated,
    )


def manifold_radii(
    features: Features,
    num_neighbors: int = 3,
    *,
    distances: Distances = "exact",
    block_size: int | tuple[int, int] = 10_000,
) -> Float32[np.ndarray, " count"]:
    """Return the squared distance of every row to its k-th nearest neighbour in the same set.

    A row is its own neighbour at distance 0, so the radius is the smallest but `num_neighbors`.
    Arguments and errors are those of `precision_recall`.
    """
    radii = _radii(_Points(features), num_neighbors, distances, _grid(block_size))
    return radii.cpu().numpy()


@dataclass(frozen=True)
class _Tile:
    """Squared distances of some rows of one set to some of another, possibly below 0 by rounding.

    `mirrored` holds the same pairs seen from the other side, where the tile stands for both. The
    memory of a tile is the next one's.
    """

    rows: slice
    columns: slice
    squared: Float[Tensor, "rows columns"]
    mirrored: Float[Tensor, "columns rows"] | None = None


class _Points:
    """A feature set, handed out in float32 tiles, with its squared norms in both precisions."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self.count, self.dim = features.shape
        self.device = features.device if isinstance(features, Tensor) else torch.device("cpu")
        if not self.norms.isfinite().all():
            raise InputError("Features must be finite in float32, got NaN, infinity or overflow.")

    def tile(self, rows: slice, out: Tensor, *, half: bool) -> Float32[Tensor, "rows dim"]:
        """Copy some rows into the beginning of `out`, rounded to float16 if so asked."""
        taken = self._features[rows]
        out = out[: len(taken)]
        if isinstance(taken, np.ndarray):
            np.copyto(out.numpy(), taken, casting="same_kind")
            release_pages(taken)
        else:
            out.copy_(taken)
        return out.copy_(out.half()) if half else out

    def buffer(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return memory on the features' device, unfilled."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    @cached_property
    def norms(self) -> Float32[Tensor, " count"]:
        norms, tile = self.buffer(self.count), self.buffer(_NORM_ROWS, self.dim)
        for rows in _slices(slice(0, self.count), _NORM_ROWS):
            torch.sum(self.tile(rows, tile, half=False).square_(), dim=1, out=norms[rows])
        return norms

    @cached_property
    def half_norms(self) -> Float16[Tensor, " count"]:
        """Squares rounded to float16, summed in float32, the sums rounded."""
        norms = self.buffer(self.count, dtype=torch.float16)
        tile = self.buffer(_NORM_ROWS, self.dim)
        for rows in _slices(slice(0, self.count), _NORM_ROWS):
            squares = self.tile(rows, tile, half=True).square_()
            norms[rows] = squares.copy_(squares.half()).sum(dim=1)
        return norms


def _radii(
    points: _Points,
    num_neighbors: int,
    distances: Distances,
    grid: tuple[int, int],
    counted: Callable[[Iterator[_Tile]], Iterator[_Tile]] = iter,
) -> Float32[Tensor, " count"]:
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
    if points.count <= num_neighbors:
        raise InputError(
            f"Manifolds of {num_neighbors} neighbours need more than {num_neighbors} feature "
            f"rows, got {points.count}."
        )
    kept = num_neighbors + 1
    nearest = torch.full((points.count, kept), torch.inf, device=points.device)
    for tile in counted(_tiles(points, points, distances, grid)):
        _keep_smallest(nearest[tile.rows], tile.squared)
        if tile.mirrored is not None:
            _keep_smallest(nearest[tile.columns], tile.mirrored)
    return nearest.amax(dim=1).clamp_(min=0)


def _counting(progress: Steps | None, total: int) -> Callable[[Iterator[_Tile]], Iterator[_Tile]]:
    """Return what hands tiles through and reports how many pairs of rows they stood for so far."""
    if progress is None:
        return iter
    done = 0

    def counted(tiles: Iterator[_Tile]) -> Iterator[_Tile]:
        nonlocal done
        for tile in tiles:
            yield tile
            done += tile.squared.numel() * (1 if tile.mirrored is None else 2)
            progress(done, total)

    return counted


def _keep_smallest(
    kept: Float32[Tensor, "rows kept"], candidates: Float[Tensor, "rows columns"]
) -> None:
    """Replace the kept values of each row, in place, by the smallest of them and the candidates."""
    found = _smallest(candidates, kept.shape[1])
    kept.copy_(torch.cat([kept, found], dim=1).topk(kept.shape[1], largest=False).values)


def _smallest(values: Float[Tensor, "rows columns"], kept: int) -> Float32[Tensor, "rows kept"]:
    """Return the smallest values of each row, unordered; at most as many as there are columns.

    The wanted values lie in the groups whose minima are smallest; a minimum costs far less than a
    partial sort.
    """
    groups = values.shape[1] // _GROUP
    if groups > kept:
        grouped = values[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
        chosen = grouped.amin(dim=1).float().topk(kept, largest=False, sorted=False).indices
        members = grouped.gather(2, chosen[:, None].expand(-1, _GROUP, -1)).flatten(1)
        values = torch.cat([members, values[:, groups * _GROUP :]], dim=1)
    kept = min(kept, values.shape[1])
    return values.float().topk(kept, largest=False, sorted=False).values


def _tiles(u: _Points, v: _Points, distances: Distances, grid: tuple[int, int]) -> Iterator[_Tile]:
    """Cover all pairs of rows, each pair once if `u` is `v` and the arithmetic allows it."""
    everything = slice(0, u.count), slice(0, v.count)
    if distances == "exact":
        yield from _block_tiles(u, v, *everything, half=False, fold=u is v)
    elif u.half_norms.amax().item() + v.half_norms.amax().item() <= _HALF_SAFE:
        yield from _block_tiles(u, v, *everything, half=True, fold=u is v)
    else:
        for rows in _slices(everything[0], grid[0]):
            for columns in _slices(everything[1], grid[1]):
                attempt = _block_tiles(u, v, rows, columns, half=True)
                # The evaluator clamps at 0 before it looks, so negative infinity counts as finite.
                finite = all(bool((tile.squared < torch.inf).all()) for tile in attempt)
                yield from _block_tiles(u, v, rows, columns, half=finite)


def _block_tiles(
    u: _Points, v: _Points, rows: slice, columns: slice, *, half: bool, fold: bool = False
) -> Iterator[_Tile]:
    """Cover one block in one precision; folded, leave out the tiles below the diagonal.

    Memory is taken once for all tiles: an allocator that is asked for megabytes again and again
    keeps several times what is in use.
    """
    height, width = (min(_TILE, points.count) for points in (u, v))
    left_rows, right_rows = u.buffer(height, u.dim), v.buffer(width, v.dim)
    results = u.buffer(height, width)
    halves = u.buffer(3 if half else 0, height, width, dtype=torch.float16)
    for part in _slices(rows, _TILE):
        left = u.tile(part, left_rows, half=half)
        for other in _slices(slice(part.start, columns.stop) if fold else columns, _TILE):
            same = fold and other == part
            right = left if same else v.tile(other, right_rows, half=half)
            here = slice(len(left)), slice(len(right))
            squared, mirrored = results[here], None
            if half:
                norms = u.half_norms[part], v.half_norms[other]
                twice = halves[0][here].copy_(torch.mm(left, right.T, out=squared)).mul_(2)
                squared = _half_squares(twice, *norms, out=halves[1][here])
                if fold and not same:
                    mirrored = _half_squares(twice.T, *norms[::-1], out=halves[2][here].T)
            else:
                torch.add(u.norms[part, None], v.norms[other], out=squared)
                squared.addmm_(left, right.T, alpha=-2)
                if fold and not same:
                    mirrored = squared.T
            yield _Tile(part, other, squared, mirrored)


def _half_squares(
    twice_products: Float16[Tensor, "rows columns"],
    row_norms: Float16[Tensor, " rows"],
    column_norms: Float16[Tensor, " columns"],
    out: Float16[Tensor, "rows columns"],
) -> Float16[Tensor, "rows columns"]:
    """Add in the evaluator's order, which the rounding to float16 makes asymmetric."""
    return torch.sub(row_norms[:, None], twice_products, out=out).add_(column_norms)


def _slices(whole: slice, size: int) -> Iterator[slice]:
    for start in range(whole.start, whole.stop, size):
        yield slice(start, min(start + size, whole.stop))


def _grid(block_size: int | tuple[int, int]) -> tuple[int, int]:
    grid = (block_size, block_size) if isinstance(block_size, int) else block_size
    if min(grid) < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")
    return grid
