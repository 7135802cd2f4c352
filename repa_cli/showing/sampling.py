"""What `repa sample` tells while it runs: what will be done, how far it is, how long it takes."""

import time
from typing import TYPE_CHECKING, Any

from repa_cli.output import print_note

if TYPE_CHECKING:
    from repa.generation.defaults import ModelDefaults
    from repa.generation.manifests.recorded import Recorded
    from repa.generation.settings import SampleConfig
    from repa_cli.showing.bars import Bar, Lines

_WORTH_SAYING = 10
"""Seconds left that are worth a line of their own."""


class SamplingProgress:
    """Says what will be done when it begins, feeds the bar, and measures what this run has made.

    The processes have equal shares, to within a block, so that the first one's progress is taken
    for that of all.
    """

    def __init__(
        self,
        config: "SampleConfig",
        bar: "Bar | Lines",
        *,
        shown: bool,
        recorded: "Recorded | None" = None,
    ) -> None:
        self.config, self.bar, self._shown, self._recorded = config, bar, shown, recorded
        self.made = self.seconds = 0.0
        self._first = self._started = None
        self._estimated = False

    def __call__(self, done: float, total: int) -> None:
        """Take how many images of this process are done, of how many."""
        done *= self.config.num_images / max(total, 1)
        now = time.monotonic()
        if self._first is None or self._started is None:
            self._first, self._started = done, now
            self.bar.begin(done, self.config.num_images)
            if self._shown and done < self.config.num_images:
                announce(self.config, round(done), self._recorded)
        self.made, self.seconds = done - self._first, now - self._started
        self.bar.update(done - self.bar.n)
        if self._shown and not self._estimated and self.made >= self.config.batch_size:
            self._estimated = True
            left = self.seconds / self.made * (self.config.num_images - done)
            if left >= _WORTH_SAYING:
                from repa_cli.showing.bars import duration

                took = f"{round(self.made):,} images took {duration(self.seconds)}"
                print_note(f"{took}; about {duration(left)} left.")


def announce(config: "SampleConfig", done: int = 0, recorded: "Recorded | None" = None) -> None:
    """Say in one line what will be done, and in another where an earlier run stopped."""
    from repa.generation import defaults_of, network_rows
    from repa.generation.manifests.writing import in_words

    if recorded is not None:
        by, remark = f" (as recorded in {recorded.source})", ""
        path: Any = recorded.manifest["path_type"]
    else:
        own = defaults_of(config.model, **config.hints)
        by, remark, path = whose_defaults(own), own.remark, own.path_type
    rows = network_rows(config, path)
    cost = [] if rows is None else [f"{rows:,} network rows an image"]
    images = f"{config.num_images:,} images"
    said = ", ".join((images, *in_words(config, config.guide), *cost))
    print_note(f"{config.model}{by}: {said}.")
    if remark:
        print_note(f"{remark}.")
    if done:
        print_note(f"going on at {done:,} of {config.num_images:,}.")


def whose_defaults(own: "ModelDefaults") -> str:
    """Say in brackets whose the defaults of a file's model are; empty for the published ones."""
    if own.dialect == "ours":
        return " (with the defaults that its file brings)"
    if own.dialect:
        return f" (dialect {own.dialect}, so the defaults of its authors)"
    if own.dataset:
        return f" (data set {own.dataset}, so the defaults of {own.registered})"
    return ""
