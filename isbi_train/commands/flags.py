"""Flags out of the fields of the settings, so that a setting is described in one place.

A field made with `isbi_train.config.flags.flag` becomes an option of its section: named and typed by the field, absent
unless the user writes it, and shown under the section's heading.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import wraps
from pathlib import Path
from types import GenericAlias, NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from isbi_train.config.flags import Flag, flag_of
from isbi_train.config.inputs import located
from isbi_train.config.settings import Settings

_HEADINGS = {"inputs": "Data", "network": "Network", "train": "Training", "augment": "Augmentation"}


def with_setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags of all settings to a command.

    Parameters
    ----------
    command : callable
        Its last parameter is ``flags``: what the user wrote, as `Settings.overlaid` takes it.

    Returns
    -------
    callable
        What Typer turns into a command.
    """
    found = {name: (section, flag, kind) for section, name, flag, kind, _ in _setting_flags()}
    defaults = {name: default for _, name, _, _, default in _setting_flags()}
    own = inspect.signature(command, eval_str=True).parameters
    assert not set(own) & set(found), "a setting and a parameter of the command have one name"

    @wraps(command)
    def with_flags(**values: Any) -> None:
        flags: dict[str, dict[str, Any]] = {}
        for name, (section, flag, _) in found.items():
            value = values.pop(name)
            if value is not None and value != []:
                flags.setdefault(section, {})[name] = _located(value, flag)
        command(**values, flags=flags)

    parameters = [
        *(parameter for name, parameter in own.items() if name != "flags"),
        *(
            _parameter(name, section, flag, kind, defaults[name])
            for name, (section, flag, kind) in found.items()
        ),
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def _setting_flags() -> Iterator[tuple[str, str, Flag, Any, Any]]:
    """Yield section, name, flag, type and default of each setting that has a flag, in the order of the headings."""
    sections = get_type_hints(Settings)
    for section in _HEADINGS:
        kinds = get_type_hints(sections[section])
        for field in fields(sections[section]):
            flag = flag_of(field.metadata)
            if flag:
                yield section, field.name, flag, kinds[field.name], field.default


def _parameter(name: str, section: str, flag: Flag, kind: Any, default: Any) -> inspect.Parameter:
    names = (flag.name,) if flag.name else ()
    metavar = "<path>" if flag.path else None  # of a repeatable one it would be <list[Path]>
    known = default is not None and default is not False and default not in ("", ())
    help = f"{flag.help}  [default: {default}]" if known else flag.help
    option = typer.Option(*names, help=help, metavar=metavar, rich_help_panel=_HEADINGS[section])
    optional = _option_type(flag, kind) | None  # None: the user did not write it
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[optional, option]
    )


def _option_type(flag: Flag, kind: Any) -> Any:
    if flag.choices:
        return Literal[flag.choices]
    if get_origin(kind) is tuple:
        return GenericAlias(list, (Path if flag.path else get_args(kind)[0],))
    if flag.path:
        return Path
    (scalar,) = (part for part in get_args(kind) or (kind,) if part is not NoneType)
    return scalar


def _located(value: Any, flag: Flag) -> Any:
    """Return a value as it holds wherever the settings are read again: files by their whole paths."""
    if isinstance(value, list):
        return [_located(part, flag) for part in value]
    if flag.released:
        return located(value, Path())
    return str(value.absolute()) if flag.path else value
