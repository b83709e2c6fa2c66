"""Fields of the settings that have a flag of their own on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_KEY = "flag"


@dataclass(frozen=True, slots=True)
class Flag:
    """How a setting is written on the command line.

    Attributes
    ----------
    help : str
        One line.
    name : str
        Such as "--pixel-size"; empty for the name of the field.
    choices : tuple of str
        All values that are accepted; empty where others are, too.
    path : bool
        Whether the value names a file or folder, which holds wherever the settings are read again.
    released : bool
        Whether it names a released model or else a file.
    """

    help: str
    name: str = ""
    choices: tuple[str, ...] = ()
    path: bool = False
    released: bool = False


def flag(
    default: Any,
    help: str,
    *,
    name: str = "",
    choices: tuple[str, ...] = (),
    path: bool = False,
    released: bool = False,
) -> Any:
    """Return a dataclass field with this default and a `Flag`."""
    return field(default=default, metadata={_KEY: Flag(help, name, choices, path, released)})


def flag_of(metadata: Any) -> Flag | None:
    """Return the flag in the metadata of a field, or None where it has none."""
    found: Flag | None = metadata.get(_KEY)
    return found
