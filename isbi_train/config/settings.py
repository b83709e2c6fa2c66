"""A run's settings from defaults, a recipe, a TOML file and flags, each laid over the one before."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from isbi_infer.errors import UsageError
from isbi_infer.files import replacing
from isbi_infer.terminal import did_you_mean, nearest_file
from isbi_train.config import ARCHITECTURES, AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.plain import LARGEST

STORED = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files may be any bytes
_SHOWN = 80  # characters of a value in a message

Layer = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of a run's settings.

    Attributes
    ----------
    network, augment, train : NetworkConfig, AugmentConfig, TrainConfig
        As in their documentation.
    inputs : Inputs
        The files.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    inputs: Inputs = field(default_factory=Inputs)

    def overlaid(self, layer: Layer, origin: str) -> Settings:
        """Lay some settings over these.

        Parameters
        ----------
        layer : mapping of str to mapping
            By section ("network", "augment", "train", "inputs") and name.
        origin : str
            Where they come from, for messages.

        Returns
        -------
        Settings

        Raises
        ------
        UsageError
            Naming origin and key, if a section or a key is unknown, or a value has another type or is invalid.
        """
        changed = {}
        known = [part.name for part in fields(self)]
        for section, values in layer.items():
            if section not in known:
                raise UsageError(
                    f"{origin}: unknown section [{section}]{did_you_mean(section, known)}; expected {', '.join(known)}"
                )
            if not isinstance(values, Mapping):
                raise UsageError(f"{origin}: {section} is no section; write [{section}] on a line of its own")
            before = getattr(self, section)
            kinds = get_type_hints(type(before))
            for key in values:
                if key not in kinds:
                    expected = f"expected {', '.join(kinds)}{did_you_mean(key, kinds)}"
                    raise UsageError(f"{origin}: unknown key {section}.{key}; {expected}")
            if section == "inputs" and "sha256" not in values:
                before = replace(before, sha256={})  # other files have other contents
            given = {
                key: typed(value, kinds[key], f"{origin}: {section}.{key}") for key, value in values.items()
            }
            try:
                changed[section] = replace(before, **given)
            except UsageError as error:
                raise UsageError(f"{origin}: [{section}] {error}") from error
        return replace(self, **changed)


def typed(value: Any, kind: Any, where: str) -> Any:
    """Return a value of a TOML file as its field wants it; whole numbers pass for fractions, and nothing else.

    Raises
    ------
    UsageError
        Naming `where` it stands, if it has another type, or is a number that its field cannot hold.
    """
    if isinstance(kind, types.UnionType):  # "int | None"; TOML knows no None, which is what absence means
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    if kind is float and type(value) in (int, float) and abs(value) <= LARGEST:
        return float(value)
    if get_origin(kind) is tuple and isinstance(value, list) and all(type(part) is str for part in value):
        return tuple(value)
    if get_origin(kind) is dict and isinstance(value, dict) and all(type(v) is str for v in value.values()):
        return dict(value)
    too_large = kind is int and type(value) is int and abs(value) > LARGEST
    if kind is not float and type(value) is kind and not too_large:  # also keeps True from passing for 1
        return value
    whole = "a whole number of at most 53 bits" if too_large else "a whole number"
    names = {int: whole, float: "a finite number of at most 53 bits", str: "a string", bool: "true or false"}
    wanted = names.get(kind) or ("a list of strings" if get_origin(kind) is tuple else "a table of strings")
    raise UsageError(f"{where} is {_in_short(value)}; expected {wanted}")


def _in_short(value: Any) -> str:
    """Return a value as a message shows it, its beginning where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # of tables within tables, or of more digits than Python writes
        return "larger than can be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _parsed(text: str, where: str) -> dict[str, Any]:
    """Read TOML; UsageError where more is nested, or a number longer, than Python reads."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        raise UsageError(
            f"{where}: brackets are nested too deeply to be read; expected a plain value or a list of them"
        ) from error
    except ValueError as error:  # of digits, which Python limits
        raise UsageError(
            f"{where}: a number has more digits than can be read; expected at most 19 for a whole number"
        ) from error


def read_layer(path: Path) -> Layer:
    """Read a TOML file of settings.

    Raises
    ------
    UsageError
        If it cannot be read or is no TOML.
    """
    try:
        return _parsed(path.read_text(**STORED), str(path))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot read the settings ({error.strerror}){nearest_file(path)}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not a TOML file ({error})") from error


def parse_assignment(text: str) -> Layer:
    """Read one setting such as "augment.noise=0.2", whose value is TOML; a bare word is a string.

    Raises
    ------
    UsageError
        If it is none, or its value is nested more deeply, or longer, than can be read.
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set {text}: expected SECTION.KEY=VALUE, such as augment.noise=0.2")
    try:
        return {section: {key: _parsed(f"value = {value}", f"--set {name.strip()}")["value"]}}
    except tomllib.TOMLDecodeError:
        return {section: {key: value.strip()}}


@cache
def recipe_names() -> tuple[str, ...]:
    """Name the recipes that are shipped."""
    folder = resources.files("isbi_train.config") / "recipes"
    return tuple(
        sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))
    )


def recipe_layer(name: str) -> Layer:
    """Read a shipped recipe.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    if name not in recipe_names():
        choices = ", ".join(recipe_names())
        raise UsageError(f"no recipe {name!r}; choose from {choices}{did_you_mean(name, recipe_names())}")
    text = (resources.files("isbi_train.config") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def resolve(layers: Iterable[tuple[str, Layer]]) -> Settings:
    """Lay settings over the defaults, each one over those before it.

    The network's defaults are those of the architecture that the last layer with an ``arch`` names, so that
    ``--arch valid-unet`` alone is the classic network; what a layer sets and that architecture cannot have is an error.

    Parameters
    ----------
    layers : iterable of (str, Layer)
        Where each comes from, and its settings.

    Returns
    -------
    Settings

    Raises
    ------
    UsageError
        See `Settings.overlaid`.
    """
    known = list(layers)
    arch = next((arch for _, layer in reversed(known) if (arch := _arch(layer))), None)
    settings = Settings(network=NetworkConfig.of(arch)) if arch else Settings()
    for origin, layer in known:
        if _arch(layer):
            layer = {**layer, "network": {**layer["network"], "arch": arch}}  # earlier ones are not laid over
        settings = settings.overlaid(layer, origin)
    return settings


def _arch(layer: Layer) -> str | None:
    """Return the architecture that a layer names, if it is one that there is."""
    network = layer.get("network")
    arch = network.get("arch") if isinstance(network, Mapping) else None
    return arch if arch in ARCHITECTURES else None


def write_settings(path: Path, settings: Settings) -> None:
    """Write settings as a TOML file that gives them again, whatever the defaults become.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    import tomli_w

    plain = {
        section: {key: value for key, value in values.items() if value not in (None, "", (), {})}
        for section, values in asdict(settings).items()
    }
    with replacing(path) as temporary:
        temporary.write_text(tomli_w.dumps({k: v for k, v in plain.items() if v}), **STORED)
