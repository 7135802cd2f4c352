"""Evaluation on the way: samples of the moving average, judged as `repa fid` judges a file of them.

Samples are what `repa sample` makes of the same checkpoint by its defaults: the same seed, solver,
guidance and blocks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from metrics import ArrayImages
from repa.autoencoders.autoencoder import Autoencoder
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import DataError, SettingError
from repa.evaluation import EvaluationPlan, Measuring, evaluate_file, plan_evaluation
from repa.generation import Protocol, images_of
from repa.generation.defaults import defaults_of_dataset
from repa.generation.images import InMemory, SampledImages
from repa.training.run.state import TrainState
from repa.training.settings import Reporting
from repa.training.stopping import GivenUpError
from repa.training.watching.curves import METRICS


@dataclass(frozen=True)
class Evaluations:
    """The metrics of a run's moving average, of `reporting.eval_num` samples kept in memory."""

    settings: CheckpointSettings
    reporting: Reporting
    measuring: Measuring
    autoencoder: Autoencoder | None = None

    def __call__(
        self, state: TrainState, is_stopped: Callable[[], bool]
    ) -> Mapping[str, Any] | None:
        """Return the metrics by their labels, and of how many samples they are.

        None if the run shall end before the samples are made.

        Raises:
            RepaError: They cannot be judged: the network overflows, the reference was moved, say.
        """
        count, title = self.reporting.eval_num, f"samples of step {state.step}"

        def tell(done: float, total: int) -> None:
            if is_stopped():
                raise GivenUpError
            self.reporting.on_progress(title, done, total)

        network, decoder = InMemory(state.ema, self.settings), self.autoencoder
        made = images_of(network, range(count), self.protocol, autoencoder=decoder, progress=tell)
        try:
            images = _filled(made, count)
        except GivenUpError:
            return None
        samples = ArrayImages(images, title, manifest=_manifest(self.settings))
        reference = self.reporting.eval_reference
        found = evaluate_file(samples, reference=reference, how=self.measuring)
        return {METRICS: dict(found.reports["samples"].values), f"{METRICS}_of": count}

    @property
    def protocol(self) -> Protocol:
        """How samples are made: as a checkpoint of the run is sampled by default."""
        own = defaults_of_dataset(self.settings.dataset).values
        known = {field.name for field in fields(Protocol)}
        return Protocol(**{name: value for name, value in own.items() if name in known})

    def check(self) -> None:
        """Find out before the first step whether there is a reference, and load what measures.

        Raises:
            SettingError: There is none, or latents cannot be decoded.
            RepaError: The reference or the network cannot be read, or not be downloaded.
        """
        space = self.settings.latent_space
        if self.autoencoder is None and not space.is_pixels:
            reason = f"needs the autoencoder of the latents ({space.autoencoder or 'unnamed'})"
            raise SettingError("eval_every", f"{reason} on this machine.")
        plan = reference_of(self.settings, self.reporting)
        self.measuring.load(plan.network)
        self.reporting.on_note(
            f"evaluated against {plan.reference} by {plan.network}: {plan.reason}."
        )


def reference_of(settings: CheckpointSettings, reporting: Reporting) -> EvaluationPlan:
    """Return by what the samples of a run are judged; nothing is loaded but statistics.

    Raises:
        SettingError: There is no reference.
        RepaError: It cannot be read.
    """
    one = np.zeros((1, 8, 8, 3), np.uint8)
    try:
        return plan_evaluation(
            ArrayImages(one, "samples", manifest=_manifest(settings)), reporting.eval_reference
        )
    except DataError as error:
        if reporting.eval_reference is not None:
            raise
        remedy = "name one by --eval-ref, or prepare the data with repa prepare --held-out"
        raise SettingError("eval_every", f"needs a reference: {remedy} ({error})") from error


def _manifest(settings: CheckpointSettings) -> dict[str, Any]:
    """Return what the manifest of `repa sample` says of a run's data, which tells the reference."""
    stated = settings.reference
    reference = {} if stated is None else {"reference": stated.to_dict()}
    return {"dataset": settings.dataset, **reference}


def _filled(made: Iterable[SampledImages], count: int) -> np.ndarray:
    """Return images uint8 (count, H, W, 3) in one array, filled as their batches are made."""
    images, done = np.empty(0), 0
    for batch in made:
        if not done:
            images = np.empty((count, *batch.images.shape[1:]), np.uint8)
        images[done : done + len(batch.images)] = batch.images
        done += len(batch.images)
    return images


def open_evaluations(
    settings: CheckpointSettings,
    reporting: Reporting,
    device: torch.device | str,
    autoencoder: Autoencoder | None,
) -> Evaluations:
    """Return what evaluates a run, checked; see `Evaluations.check` for errors."""
    measuring = Measuring(device=str(device), progress=reporting.on_progress)
    found = Evaluations(settings, reporting, measuring, autoencoder)
    found.check()
    return found
