"""How far something is: the functions that long work calls, if it is given any."""

from collections.abc import Callable
from functools import partial

Steps = Callable[[float, int], object]
"""Called with how much is done, and how much there is to do."""

Progress = Callable[[str, float, int], object]
"""Called with the name of what is done, how much of it is done, and how much there is to do.

Images are counted under the name of their source; other names tell the unit.
"""


def steps_of(progress: Progress | None, name: str) -> Steps | None:
    """Return what reports the steps of something by its name."""
    return None if progress is None else partial(progress, name)
