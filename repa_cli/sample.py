"""repa sample."""


def sample() -> None:
    """Not written yet."""
