"""How far work is: a bar that moves on a terminal, and plain lines where there is none.

Both are told the same: `begin`, `update`, `set_postfix`, `close`. Commands get them from
`repa_cli.output`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Self

from tqdm import tqdm

_QUIET = 2.0
"""Seconds within which work that is done leaves no line."""
_PAUSE, _LONGEST, _SHARE = 5.0, 60.0, 0.05
"""Seconds between lines, at least and at most, and the share of the work that is worth a line."""


class Bar(tqdm):
    """A tqdm bar."""

    def begin(self, done: float, total: float | None) -> None:
        """Count from here what is done, and the time: the rest is an earlier run's."""
        self.reset(total)
        self.n = self.initial = self.last_print_n = done


class Lines:
    """Lines for a log: when 5 % more are done or a minute has passed, with rate and time left.

    The first comes after two seconds, so that quick work has none, and at least five seconds lie
    between the others.
    """

    def __init__(
        self,
        total: float | None,
        unit: str,
        description: str,
        *,
        write: Callable[[str], object],
    ) -> None:
        self._unit, self._description, self._in_bytes = unit, description, unit == "B"
        self._write, self._details = write, ""
        self.begin(0, total)

    def begin(self, done: float, total: float | None) -> None:
        """Count from here what is done, and the time: the rest is an earlier run's."""
        self.n = self._first = self._told = done
        self.total = total
        self._started = time.monotonic()
        self._told_at = self._started - _PAUSE
        self._any = False

    def update(self, more: float) -> None:
        """Count more, and print a line if it is time for one."""
        self.n += more
        now = time.monotonic()
        since, finished = now - self._told_at, self.total is not None and self.n >= self.total
        share = (self.n - self._told) / self.total if self.total else 0
        due = since >= _PAUSE and (share >= _SHARE or since >= _LONGEST or not self._any)
        if now - self._started >= _QUIET and due and not finished:
            self._told, self._told_at, self._any = self.n, now, True
            self._write(self._line(now - self._started))

    def set_postfix(self, values: Mapping[str, str]) -> None:
        """Add named values to the lines that follow."""
        self._details = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        """Print the last line if the work is done, and took long enough to have others."""
        seconds = time.monotonic() - self._started
        if self._any and self.total is not None and self.n >= self.total:
            total = f"{self._amount(self.total)}{self._suffix}"
            self._write(f"{self._description}: {total} in {duration(seconds)}{self._details}.")
        self._any = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _suffix(self) -> str:
        return f" {self._unit}" if self._unit and not self._in_bytes else ""

    def _amount(self, count: float) -> str:
        return tqdm.format_sizeof(count, "B") if self._in_bytes else f"{int(count):,}"

    def _line(self, seconds: float) -> str:
        done, rate = self._amount(self.n), (self.n - self._first) / seconds
        number = f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}"
        speed = f"{self._amount(rate)}/s" if self._in_bytes else f"{number}{self._suffix}/s"
        parts = [f"{self._description}: {done}"]
        if self.total:
            share = f"{100 * self.n / self.total:.0f} %"
            parts = [f"{parts[0]} of {self._amount(self.total)}{self._suffix} ({share})"]
        if rate > 0:
            parts.append(speed)
            if self.total:
                parts.append(f"about {duration((self.total - self.n) / rate)} left")
        return ", ".join(parts) + self._details


def duration(seconds: float) -> str:
    """Return a time in words: 40 s, 12 min, 3 h 20 min, 2 d 5 h."""
    seconds = max(round(seconds), 1)
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
