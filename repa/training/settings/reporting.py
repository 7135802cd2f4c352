"""What a run writes and tells beside its weights. Does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from repa.errors import SettingError
from repa_base.progress import Progress
from repa_base.settings import check_settings, setting


def nobody(*told: object) -> None:
    """Hear what is told, and do nothing; by its name it travels between processes."""


OF_EVALUATIONS = ("eval_num", "eval_reference")
_TOLD = ("on_step", "on_taken", "on_preview", "on_progress", "on_note")


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a run writes beside its last weights; none of it changes them.

    `on_taken` is told the number of every step at once, `on_step` its number and losses when they
    are read, at a log, a held-out loss, an evaluation, a preview or a checkpoint, unless the step
    was left out; `on_preview` the step of a contact sheet and which share of it is drawn, 0 at
    first and 1 at its end, `on_progress` how far an evaluation is, `on_note` what else happens.
    `preview_cfg_scale` is the guidance of the previews.

    Raises:
        SettingError: A value is out of its range, or says of evaluations how without how often.
    """

    log_every: int = setting("Steps between lines of log.jsonl.", 50, low=1)
    checkpoint_every: int = setting(
        "Steps between checkpoints; the last step has one too.", 1000, low=1
    )
    preview_every: int = setting(
        "Steps between contact sheets of samples, one at the last step too; 0 for none.",
        1000,
        low=0,
    )
    validate_every: int = setting(
        "Steps between velocity losses on held-out images, and on as many that are trained on, by "
        "fixed draws; 0 for none.",
        0,
        low=0,
    )
    eval_every: int = setting(
        "Steps between evaluations of samples, as by repa fid, one at the last step too; 0 for "
        "none.",
        0,
        low=0,
    )
    eval_num: int = setting(
        "Samples of an evaluation, which are kept in memory.", 500, low=4, value="M"
    )
    eval_reference: str | None = setting(
        "What to compare with, as for repa fid --ref.  [default: what was held out of the data]",
        None,
        flag="--eval-ref",
        value="REF",
    )
    keep_last: int = setting("Latest checkpoints that are kept; older ones are removed.", 2, low=1)
    keep_every: int = setting(
        "Checkpoints at multiples of this step are kept as well; 0 for none.", 0, low=0
    )
    preview_cfg_scale: float = 2.0
    on_step: Callable[[int, dict[str, float]], None] = nobody
    on_taken: Callable[[int], None] = nobody
    on_preview: Callable[[int, float], None] = nobody
    on_progress: Progress = nobody
    on_note: Callable[[str], None] = nobody

    def __post_init__(self) -> None:
        check_settings(self)
        for name in () if self.eval_every else OF_EVALUATIONS:
            if (value := getattr(self, name)) != getattr(Reporting, name):
                raise SettingError(name, f"{name} {value} is of evaluations: give --eval-every.")

    def plain(self) -> dict[str, Any]:
        """Return what is written and how often, without who is told, by the settings' names."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TOLD}

    @classmethod
    def going_on(cls, before: "Reporting | None", **given: Any) -> "Reporting":  # noqa: ANN401
        """Return what is given, else what a run wrote before, if it did, else the defaults.

        Without evaluations, how they were made before is left out.
        """
        values = before.plain() if before else {}
        if not given.get("eval_every", values.get("eval_every")):
            values = {name: v for name, v in values.items() if name not in OF_EVALUATIONS}
        return cls(**{**values, **given})

    def quiet(self) -> "Reporting":
        """Return the same, and nobody is told."""
        return replace(self, **{name: getattr(Reporting(), name) for name in _TOLD})
