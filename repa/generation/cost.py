"""What images cost before any is made, in rows of a batch that the network computes."""

import torch
from torch import Tensor

from repa.generation.integration import solver_of
from repa.generation.settings import Protocol
from samplers import PATHS, GuidanceInterval
from samplers.ddpm import respaced_times
from samplers.names import ADAPTIVE_METHODS, PathName


def network_rows(protocol: Protocol, path_type: PathName = "linear") -> int | None:
    """Return how many rows the network computes for one image, two a guided evaluation.

    The solver itself is run on a single number and counted, so that the count is exact. It is None
    where it depends on the network: for adaptive solvers, and for implicit_adams, which iterates.
    The path decides where the times logsnr and karras are, and so how many of them are guided.
    """
    if protocol.solver in (*ADAPTIVE_METHODS, "implicit_adams"):
        return None
    if protocol.solver == "ddpm":
        times = (k + 1 for k in respaced_times(protocol.num_steps))
        guided = GuidanceInterval(*protocol.guidance_interval)
        return sum(2 if t / 1000 in guided and protocol.cfg_scale != 1 else 1 for t in times)
    rows = 0

    def counted(x: Tensor, t: Tensor, guided: bool) -> Tensor:
        nonlocal rows
        rows += 2 if guided and protocol.cfg_scale != 1 else 1
        return torch.zeros_like(x)

    noise = torch.zeros(1, 1)
    solver_of(protocol, PATHS[path_type], lambda step: noise)(counted, noise)
    return rows
