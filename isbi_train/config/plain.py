"""What all settings have in common: they are checked, and become plain types for checkpoints."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Self

from isbi_infer.errors import UsageError


def require(condition: bool, message: str) -> None:
    """Raise UsageError unless a condition holds."""
    if not condition:
        raise UsageError(message)


class Plain:
    """Conversion to and from plain types, as checkpoints store them."""

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
