"""What all settings have in common: they are checked, and become plain types for checkpoints."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Self

from isbi_infer.errors import UsageError

LARGEST = 2**53
"""The largest number of a setting: a float and any other program count exactly up to there."""


def require(condition: bool, message: str) -> None:
    """Raise UsageError unless a condition holds."""
    if not condition:
        raise UsageError(message)


_MOST = 10_000
"""Of what is counted in pixels, nanometres or degrees, or is a factor: far beyond what can be meant."""


class Plain:
    """Conversion to and from plain types, as checkpoints store them."""

    def require_bounds(self, most: float = _MOST) -> None:
        """Raise UsageError where a fraction is larger than can be meant, so that none of its powers overflows."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, float):
                require(not abs(value) > most, f"{field.name} {value:g} is larger than {most:g}")

    def to_plain(self) -> dict[str, Any]:
        """Return the settings as a dictionary of plain types."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Read what `to_plain` gave; missing and unknown names raise UsageError, for a default would be a guess."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        missing, unknown = sorted(known - set(plain)), sorted(set(plain) - known)
        require(not missing and not unknown, f"{cls.__name__} settings missing {missing}, unknown {unknown}")
        return cls(**plain)
