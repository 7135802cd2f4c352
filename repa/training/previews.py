"""Contact sheets of samples from the moving average, drawn as a run goes on."""

from dataclasses import dataclass

from PIL import Image

from repa.checkpoints.settings import CheckpointSettings
from repa.generation import Protocol, images_of
from repa.models.sit import SiT
from repa.sheets.contact_sheet import contact_sheet

_COLUMNS, _ROWS = 10, 10


@dataclass(frozen=True)
class _Average:
    """A moving average in memory, as `images_of` takes a checkpoint."""

    model: SiT
    settings: CheckpointSettings

    @property
    def velocity_model(self) -> SiT:
        return self.model


def preview(
    model: SiT, settings: CheckpointSettings, *, seed: int, cfg_scale: float
) -> Image.Image:
    """Sample a contact sheet, ten images of up to ten classes, by Heun in 25 steps.

    The network, a run's moving average, predicts the velocity, in evaluation mode. `seed` decides
    the noise that the images start from; `cfg_scale` guides in t from 0 to 0.7.
    """
    protocol = Protocol(
        solver="heun",
        num_steps=25,
        cfg_scale=cfg_scale,
        guidance_interval=(0.0, 0.7),
        seed=seed,
        labels=tuple(model.num_classes * column // _COLUMNS for column in range(_COLUMNS)),
        batch_size=_COLUMNS * _ROWS,
    )
    (batch,) = images_of(_Average(model, settings), range(_COLUMNS * _ROWS), protocol)
    return contact_sheet(batch.images, batch.labels.tolist())
