"""What images cost before any is made, in rows of a batch that the network computes."""

import torch
from torch import Tensor

from repa.generation.integration import solver_of
from repa.generation.settings import Protocol
from samplers import PATHS, GuidanceInterval
from samplers.ddpm import respaced_times
from samplers.names import ADAPTIVE_METHODS, DDPM_TIMES, PathName


def network_rows(protocol: Protocol, path_type: PathName = "linear") -> int | None:
    """Return how many rows the networks compute for one image, two a guided evaluation.

    None where that depends on the network, see `evaluations`.
    """
    counted = evaluations(protocol, path_type)
    return None if counted is None else rows_of(*counted)


def rows_of(plain: int, guided: int) -> int:
    """Return the rows of an image's evaluations, without guidance and with."""
    return plain + 2 * guided


def evaluations(protocol: Protocol, path_type: PathName = "linear") -> tuple[int, int] | None:
    """Return how many evaluations an image has without guidance, and how many with.

    The solver itself is run on a single number and counted, so that the count is exact. It is None
    where it depends on the network: for adaptive solvers, and for implicit_adams, which iterates.
    The path decides where the times logsnr and karras are, and so how many of them are guided.
    """
    if protocol.solver in (*ADAPTIVE_METHODS, "implicit_adams"):
        return None
    if protocol.solver == "ddpm":
        inside = GuidanceInterval(*protocol.guidance_interval)
        asked = [(k + 1) / DDPM_TIMES in inside for k in respaced_times(protocol.num_steps)]
    else:
        asked = []

        def counted(x: Tensor, t: Tensor, guided: bool) -> Tensor:
            asked.append(guided)
            return torch.zeros_like(x)

        noise = torch.zeros(1, 1)
        solver_of(protocol, PATHS[path_type], lambda step: noise)(counted, noise)
    guided = sum(asked) if protocol.cfg_scale != 1 else 0
    return len(asked) - guided, guided
