from itertools import pairwise, product
from math import log
from typing import get_args

import pytest
import torch

from samplers import PATHS, GuidanceInterval, grid_times, without_straddling
from samplers.names import GridName
from samplers.schedule import ode_times

GRIDS = [name for name in get_args(GridName) if name != "published"]
INTERVALS = [
    *[(0.0, 0.7), (0.2, 0.6), (0.31, 0.32), (0.0, 1.0), (0.5, 0.5), (0.001, 0.999)],
    *[(0.01, 0.03), (0.05, 0.2), (0.1, 0.3), (0.97, 0.99)],
]


def ratios(times, name="linear"):
    at = PATHS[name].coefficients(torch.tensor(times, dtype=torch.float64))
    return (at.sigma / at.alpha).tolist()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("num_steps", [2, 3, 12, 250])
@pytest.mark.parametrize("name", PATHS)
def test_times_of_every_grid_fall_from_one_to_zero(grid, num_steps, name):
    times = grid_times(grid, num_steps, shift=0.3, interpolant=PATHS[name])
    assert len(times) == num_steps + 1 and (times[0], times[-1]) == (1, 0)
    assert all(t > t_next for t, t_next in pairwise(times))


def test_uniform_is_the_ode_s_and_a_shift_of_one_leaves_it():
    assert grid_times("uniform", 12) == ode_times(12)
    assert grid_times("shifted", 12) == pytest.approx(ode_times(12), abs=1e-15)


@pytest.mark.parametrize("shift", [0.3, 3.0])
def test_a_shift_multiplies_the_ratio_of_noise_to_data(shift):
    shifted = ratios(grid_times("shifted", 8, shift=shift)[1:-1])
    assert shifted == pytest.approx([shift * s for s in ratios(ode_times(8)[1:-1])])


@pytest.mark.parametrize("name", PATHS)
def test_inner_times_are_spaced_by_the_ratio_between_the_stated_ends(name):
    found = ratios(grid_times("logsnr", 6, interpolant=PATHS[name])[1:-1], name)
    assert (found[0], found[-1]) == pytest.approx((20, 0.01))
    assert [log(a / b) for a, b in pairwise(found)] == pytest.approx([log(2000) / 4] * 4)
    found = ratios(grid_times("karras", 6, interpolant=PATHS[name])[1:-1], name)
    assert (found[0], found[-1]) == pytest.approx((20, 0.01))
    roots = [s ** (1 / 7) for s in found]
    gaps = [a - b for a, b in pairwise(roots)]
    assert gaps == pytest.approx([(20 ** (1 / 7) - 0.01 ** (1 / 7)) / 4] * 4)


def test_karras_times_are_edm_s_with_edm_s_ends():
    """Its equation 5 by hand, on t = s / (1 + s)."""
    first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = [(first + i / 17 * (last - first)) ** 7 for i in range(18)]
    times = grid_times("karras", 19, ends=(80.0, 0.002))
    assert times[1:-1] == pytest.approx([s / (1 + s) for s in sigmas], rel=1e-12)


@pytest.mark.parametrize(
    ("grid", "shift"), [*((name, 0.5) for name in GRIDS), ("shifted", 3.0), ("shifted", 8.0)]
)
def test_no_step_straddles_an_end_if_there_are_inner_times_for_the_ends(grid, shift):
    few = 1 if grid in ("uniform", "shifted") else 2
    grids = [grid_times(grid, num_steps, shift=shift) for num_steps in range(few, 26)]
    for before, interval in product(grids, INTERVALS):
        after = without_straddling(before, GuidanceInterval(*interval))
        assert len(after) == len(before) and (after[0], after[-1]) == (1, 0)
        assert all(t > t_next for t, t_next in pairwise(after))
        ends = {end for end in interval if 0 < end < 1}
        assert set(after) - set(before) <= ends
        assert len(ends & set(after)) == min(len(ends), len(before) - 2)


def test_the_nearest_time_is_the_one_that_moves():
    times = [1.0, 0.8, 0.72, 0.5, 0.2, 0.0]
    assert without_straddling(times, GuidanceInterval(0.25, 0.7)) == [1.0, 0.8, 0.7, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grid": "published"}, "grid must be uniform, shifted, logsnr or karras, got 'published'"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 1}, "num_steps must be at least 2 on the grid karras, got 1"),
        ({"shift": 0.0}, "shift must be above 0 and finite, got 0.0"),
        ({"shift": float("inf")}, "shift must be above 0 and finite, got inf"),
        ({"shift": float("nan")}, "shift must be above 0 and finite, got nan"),
        ({"grid": "shifted", "num_steps": 9, "shift": 1e300}, "times must fall"),
    ],
)
def test_wrong_argument_is_refused_with_the_rule_and_the_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        grid_times(**{"grid": "karras", "num_steps": 5, **wrong})
