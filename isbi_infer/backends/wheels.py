"""Which distributions are installed; nothing is imported."""

from __future__ import annotations

import importlib.metadata


def installed_wheels(names: tuple[str, ...]) -> list[str]:
    """Return those of these distributions that are installed."""
    found = []
    for name in names:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found
