"""A warning about numbers: what was found, and what it does to them."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LintWarning:
    """One thing that moves the numbers.

    Attributes:
        check: Name of the check, for programs.
        reason: What was found.
        effect: What it does to the numbers.
    """

    check: str
    reason: str
    effect: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.effect}."

    def to_dict(self) -> dict[str, str]:
        """Return plain values for JSON."""
        return asdict(self)
