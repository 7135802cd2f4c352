"""repa fid."""


def fid() -> None:
    """Not written yet."""
