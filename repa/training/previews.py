"""Contact sheets of samples, drawn as a run goes on, and given up when the run shall end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from repa.autoencoders.autoencoder import Autoencoder
from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import NoMemoryError, RepaError
from repa.generation import Protocol, images_of
from repa.generation.images import InMemory
from repa.generation.manifests.writing import in_words
from repa.models.sit import SiT
from repa.sheets.contact_sheet import contact_sheet, save_png, stacked_sheets
from repa.sheets.titles import class_namer
from repa.training.run.state import TrainState
from repa.training.settings import Reporting, TrainConfig
from repa.training.stopping import GivenUpError
from repa.training.watching.decoder import SharedAutoencoder

_COLUMNS, _ROWS, _STEPS = 10, 10, 25
_YOUNG = 0.05
"""Share of the initial weights in a moving average, above which it does not show what is learnt."""


@dataclass(frozen=True)
class Previews:
    """The contact sheets of a run in the folder `out`: ten images of up to ten classes.

    They are samples of the moving average by Heun in 25 steps, guided in the published interval,
    from the noise of the run's seed. While the average still holds more than 5 % of the initial
    weights (decay ** steps; the first 3,000 steps at a decay of 0.999), those of the raw weights
    stand below.
    """

    config: TrainConfig
    out: Path
    settings: CheckpointSettings
    reporting: Reporting
    autoencoder: Autoencoder | None = None

    @property
    def are_possible(self) -> bool:
        """Whether there can be sheets; latents that nothing decodes have none."""
        return self.settings.latent_space.is_pixels or self.autoencoder is not None

    def path(self, step: int) -> Path:
        """Return where the sheet of a step is."""
        return self.out / "previews" / f"step-{step:07d}.png"

    def draw(self, state: TrainState, is_stopped: Callable[[], bool]) -> bool:
        """Write the sheet of a state; return False if it is given up, within a step of the solver.

        A network that overflows, or does not fit into the memory, has none, and the run goes on.
        """
        models = {"moving average": state.ema}
        if self.config.ema_decay**state.step > _YOUNG:
            models["raw weights (the average is young)"] = state.model
        try:
            sheets = []
            for number, (name, model) in enumerate(models.items()):

                def tell(done: float, total: int, number: int = number) -> None:
                    if is_stopped():
                        raise GivenUpError
                    share = (number + done / total) / len(models)
                    self.reporting.on_preview(state.step, share)

                sheets.append(self._sheet(model, f"{name} · step {state.step}", tell))
        except GivenUpError:
            return False
        except NoMemoryError:  # whose remedy is of repa sample
            reason = "out of memory beside the run; --preview-every 0 leaves previews out."
            self.reporting.on_note(f"no preview of step {state.step}: {reason}")
        except RepaError as error:
            self.reporting.on_note(f"no preview of step {state.step}: {error}")
        else:
            save_png(stacked_sheets(sheets), self.path(state.step))
        return True

    def _sheet(self, model: SiT, title: str, tell: Callable[[float, int], None]) -> Image.Image:
        protocol = Protocol(
            solver="heun",
            num_steps=_STEPS,
            cfg_scale=self.reporting.preview_cfg_scale,
            seed=self.config.seed,
            labels=tuple(model.num_classes * column // _COLUMNS for column in range(_COLUMNS)),
            batch_size=_COLUMNS * _ROWS,
        )
        indices = range(_COLUMNS * _ROWS)
        training = model.training
        try:
            network = InMemory(model.eval(), self.settings)
            decoder = self.autoencoder
            (batch,) = images_of(network, indices, protocol, autoencoder=decoder, progress=tell)
        finally:
            model.train(training)
        title = " · ".join((title, *in_words(protocol), f"seed {protocol.seed}"))
        name = class_namer(None, [each.words[0] for each in self.settings.classes])
        captions = [name(label) for label in batch.labels.tolist()]
        return contact_sheet(batch.images, captions, title=title)


def decoder_of(
    space: LatentSpace, shared: SharedAutoencoder, reporting: Reporting
) -> Autoencoder | None:
    """Return what decodes latents for previews, if they are asked for and it is on this machine.

    None for pixels. Where it is missing, a note says that there will be no previews.
    """
    if space.is_pixels or not reporting.preview_every:
        return None
    try:
        if found := shared(space, download=False):
            return found
        reason = "the data do not name their autoencoder"
    except RepaError as error:
        reason = f"the autoencoder {space.autoencoder} is not on this machine ({error})"
    reporting.on_note(f"no previews: {reason}.")
    return None
