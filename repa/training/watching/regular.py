"""What a run does now and then beside its steps, and logs: held-out loss and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from repa.checkpoints.settings import CheckpointSettings
from repa.data import TrainingData
from repa.errors import NoMemoryError, RepaError
from repa.training.run.state import TrainState
from repa.training.settings import Reporting, TrainConfig
from repa.training.watching.curves import HELD_OUT, METRICS
from repa.training.watching.decoder import SharedAutoencoder
from repa.training.watching.evaluations import open_evaluations, reference_of
from repa.training.watching.validation import held_out_of, open_validation
from repa_base.device import out_of_memory_in_words

Work = Callable[[TrainState, Callable[[], bool]], Mapping[str, Any] | None]
"""Called with a state, and what tells whether the run shall end; returns what is logged of it, or
None if it gave up because the run shall end. What cannot be done raises RepaError or OSError."""


@dataclass(frozen=True)
class Regular:
    """Work that is due every so many steps, 0 for never, and at the last one.

    Its entries of the log have the `key`. Only the first of several processes has the `work`.
    """

    key: str
    every: int
    work: Work | None = None


def regular_work(
    config: TrainConfig,
    data: TrainingData,
    what: CheckpointSettings,
    reporting: Reporting,
    device: torch.device | str,
    shared: SharedAutoencoder,
    *,
    is_first: bool = True,
) -> Sequence[Regular]:
    """Open all that `reporting` asks for, so that what it lacks is known before the first step.

    Raises:
        SettingError: There are no held-out images, or no reference.
        RepaError: What is needed cannot be read, or not be downloaded.
    """
    validation, evaluations, note = None, None, reporting.on_note
    if is_first and (reporting.validate_every or reporting.eval_every):
        autoencoder = shared(data.latent_space)
        if reporting.validate_every:
            validation = _noted("held-out loss", open_validation(config, data, autoencoder), note)
        if reporting.eval_every:
            work = open_evaluations(what, reporting, device, autoencoder)
            evaluations = _noted("evaluation", work, note)
    return (
        Regular(HELD_OUT, reporting.validate_every, validation),
        Regular(METRICS, reporting.eval_every, evaluations),
    )


def check_regular(
    config: TrainConfig, data: TrainingData, what: CheckpointSettings, *, reporting: Reporting
) -> Sequence[Regular]:
    """Find out whether there is what `reporting` asks to judge a run by; open none of it.

    Raises:
        SettingError: There are no held-out images, or no reference.
        RepaError: These cannot be read.
    """
    if reporting.validate_every:
        held_out_of(data)
    if reporting.eval_every:
        reference_of(what, reporting)
    return ()


_BESIDE = "beside what the steps need."


def _noted(name: str, work: Work, on_note: Callable[[str], None]) -> Work:
    """Let work that cannot be done be told and have nothing to be logged: the run goes on."""

    def done(state: TrainState, is_stopped: Callable[[], bool]) -> Mapping[str, Any] | None:
        try:
            with out_of_memory_in_words(_BESIDE):
                return work(state, is_stopped)
        except NoMemoryError:  # whose remedy is no setting of the run
            on_note(f"no {name} of step {state.step}: out of memory {_BESIDE}")
        except (RepaError, OSError) as error:
            on_note(f"no {name} of step {state.step}: {error}")
        return {}

    return done
