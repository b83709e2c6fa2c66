"""What the metadata of chunked volumes says: axes, levels, pixel sizes.

Read are OME-Zarr 0.4 and 0.5 (https://ngff.openmicroscopy.org/0.5/), plain Zarr arrays, N5 and neuroglancer's
precomputed format. Everything ends up as an `Image` of `Level`; pixels come later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from isbi_infer.errors import ImageError
from isbi_infer.volumes.pixel_size import PixelSize, in_nm

_VERSIONS = ("0.4", "0.5")
_UNNAMED = ("tczyx", "zyx", "yx")
_WORDS = {
    "t": ("t", "time"),
    "c": ("c", "channel", "channels"),
    "z": ("z", "plane", "slice", "section", "depth"),
    "y": ("y", "row", "rows", "height"),
    "x": ("x", "col", "cols", "column", "columns", "width"),
}
_LETTERS = {word: axis for axis, words in _WORDS.items() for word in words}
_EXPECTED = "expected t, c, z, y and x"
_SAID = 100  # characters of names in a message
_FEW = 4  # samples of a pixel, as `isbi_infer.pixels.greyscale` tells them from X
_DIGITS = 9  # of the number of a level


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One resolution of an image.

    Attributes
    ----------
    path : str
        Of its array within the image.
    pixel_size : PixelSize or None
        None where it is not known.
    origin_nm : tuple of float or None
        Where the first pixel's centre lies, (Z, Y, X); None where nothing says so.
    scale_index : int or None
        Its number in a precomputed volume, whose scales are opened by it.
    """

    path: str
    pixel_size: PixelSize | None = None
    origin_nm: tuple[float, float, float] | None = None
    scale_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of one or several resolutions, the largest first.

    Attributes
    ----------
    form : str
        How messages call its format.
    driver : str
        Tensorstore's.
    axes : str
        One letter per dimension, in the order of the arrays; empty where nothing names them.
    levels : tuple of Level
        At least one.
    notes : tuple of str
        What was taken for granted, and has to be said.
    segments : bool
        Whether it says that its values are ids of segments, and no grey values.
    """

    form: str
    driver: str
    axes: str
    levels: tuple[Level, ...]
    notes: tuple[str, ...] = ()
    segments: bool = False

    def index_of(self, level: str | int) -> int:
        """Return the place of a level; ImageError where there is none.

        Parameters
        ----------
        level : str or int
            Its path, or its number where no level has that path; an int is always its number.
        """
        names = [one.path for one in self.levels]
        if isinstance(level, str) and level in names:
            return names.index(level)
        said = str(level)
        if said.isdecimal() and len(said) <= _DIGITS and int(said) < len(names):
            return int(said)
        listed = ", ".join(
            f"{name} ({one.pixel_size or 'no pixel size'})"
            for name, one in zip(names, self.levels, strict=True)
        )
        raise ImageError(f"has no level {said[:_SAID]}; its levels are {listed}")

    def nearest(self, size_nm: float) -> int:
        """Return the place of the level whose pixels are nearest to a size; the finer one of two as near."""
        distances = [
            abs(log(level.pixel_size.y_nm / size_nm)) if level.pixel_size else float("inf")
            for level in self.levels
        ]
        return min(range(len(distances)), key=lambda i: (round(distances[i], 6), i))


def ome_image(attributes: dict[str, Any], driver: str) -> Image:
    """Read OME-Zarr's metadata.

    Parameters
    ----------
    attributes : dict
        Of the group: with "ome" in version 0.5, with "multiscales" in 0.4.
    driver : str
        Tensorstore's, for its arrays.

    Returns
    -------
    Image

    Raises
    ------
    ImageError
        If this is no image of a version that is understood, with scales and translations alone.
    """
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict):
        raise ImageError("its OME metadata is no object; export it again")
    scales = ome.get("multiscales")
    if not scales:
        if "plate" in ome or "well" in ome:
            raise ImageError("is a plate of wells, not one image; name an image in it, such as PLATE/A/1/0")
        raise ImageError("has no multiscales metadata, so it is no image; name the image or the array in it")
    if not isinstance(scales, list) or not all(isinstance(scale, dict) for scale in scales):
        raise ImageError("its multiscales are no list of objects; export it again")
    if len(scales) > 1:
        raise ImageError(f"holds {len(scales)} images; expected one")
    (image,) = scales
    version = str(ome.get("version", image.get("version", "0.4")))
    if version not in _VERSIONS:
        raise ImageError(f"is of OME-Zarr version {version}; expected {' or '.join(_VERSIONS)}; convert it")
    try:
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
        said = ", ".join(str(axis["name"]) for axis in axes)
        names = [axis_letter(axis["name"]) or str(axis["name"]).lower() for axis in axes]
        units = [axis.get("unit") for axis in axes]
        whole = _transform(image.get("coordinateTransformations"), len(names))
        levels = tuple(
            _level(
                str(part["path"]),
                names,
                units,
                _transform(part.get("coordinateTransformations"), len(names)),
                whole,
            )
            for part in image["datasets"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(
            f"its multiscales are not readable ({type(error).__name__}: {error}); export it again"
        ) from error
    if not levels:
        raise ImageError("has no level; export it again")
    for level in levels:
        _require_inside(level.path)
    if len(set(names)) < len(names) or any(len(name) != 1 for name in names):
        raise ImageError(f"has the axes {said}; {_EXPECTED}")
    return Image(
        form=f"OME-Zarr {version}",
        driver=driver,
        axes="".join(names),
        levels=levels,
        segments="image-label" in ome,
    )


def _require_inside(path: str) -> None:
    """Raise ImageError if the path of a level leads out of its image: whoever wrote it may not choose what is read."""
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in path:
        raise ImageError(f"the path of a level, {path!r}, leads out of the image; expected one within it")


def _transform(parts: Any, dimensions: int) -> tuple[list[float], list[float]]:
    """Return scale and translation of a list of transforms, each of them applied after the one before."""
    scale, translation = [1.0] * dimensions, [0.0] * dimensions
    for part in parts or ():
        kind = part["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in part:
            where = " by a path" if kind in ("scale", "translation") else ""
            raise ImageError(f"has a transform of type {kind!r}{where}; expected scale and translation alone")
        values = [float(value) for value in part[kind]]
        if len(values) != dimensions:
            raise ImageError(f"has a {kind} of {len(values)} numbers for {dimensions} axes; export it again")
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            translation = [a * b for a, b in zip(translation, values, strict=True)]
        else:
            translation = [a + b for a, b in zip(translation, values, strict=True)]
    return scale, translation


def _level(
    path: str,
    names: Sequence[str],
    units: Sequence[Any],
    own: tuple[list[float], list[float]],
    whole: tuple[list[float], list[float]],
) -> Level:
    scale = [a * b for a, b in zip(own[0], whole[0], strict=True)]
    start = [a * b + c for a, b, c in zip(own[1], whole[0], whole[1], strict=True)]
    size_nm, origin_nm = dict[str, float | None](), dict[str, float]()
    for axis, unit, factor, at in zip(names, units, scale, start, strict=True):
        size_nm[axis] = in_nm(factor, str(unit)) if unit else None
        one_nm = in_nm(1, str(unit)) if unit else None
        origin_nm[axis] = at * one_nm if one_nm else 0.0
    y_nm, x_nm = size_nm.get("y"), size_nm.get("x")
    if y_nm is None or x_nm is None:
        return Level(path=path)
    origin = (origin_nm.get("z", 0.0), origin_nm["y"], origin_nm["x"])
    return Level(
        path=path,
        pixel_size=PixelSize(y_nm=y_nm, x_nm=x_nm, z_nm=size_nm.get("z")),
        origin_nm=origin if any(origin) else None,
    )


def plain_image(driver: str, form: str, names: Any = None) -> Image:
    """Return an array without metadata of its own but the names of its dimensions; see `named_axes`."""
    axes, notes = named_axes(names)
    return Image(form=form, driver=driver, axes=axes, levels=(Level(path=""),), notes=notes)


def axes_of(shape: tuple[int, ...]) -> str:
    """Return what the axes of an array are that nothing names; ImageError where they cannot be known."""
    axes = _usual(len(shape))
    if not axes:
        raise ImageError(f"has {len(shape)} dimensions and nothing names them; expected (y, x) or (z, y, x)")
    if len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > _FEW:
        raise ImageError(
            f"has the shape {shape}, which looks like (y, x, c) with {shape[-1]} colour samples a pixel, and nothing "
            "names its axes; expected (y, x) or (z, y, x); name them (_ARRAY_DIMENSIONS or dimension_names), or store "
            "one channel alone"
        )
    return axes


def _usual(dimensions: int) -> str:
    return next((axes for axes in _UNNAMED if len(axes) == dimensions), "")


def axis_letter(name: object) -> str:
    """Return which of t, c, z, y and x a name means, "Z" or "row"; empty where it is not understood."""
    return _LETTERS.get(name.strip().casefold(), "") if isinstance(name, str) else ""


def names_any(names: Any) -> bool:
    """Return whether the metadata of an array names any of its axes, be it in a way that is not understood."""
    return names is not None and not (isinstance(names, list) and not any(names))


def named_axes(names: Any) -> tuple[str, tuple[str, ...]]:
    """Read Zarr 3's ``dimension_names`` or the ``_ARRAY_DIMENSIONS`` of xarray.

    Parameters
    ----------
    names : Any
        As the metadata has them; None where it has none.

    Returns
    -------
    (str, tuple of str)
        One letter per dimension, in the array's order; empty where no name is understood. And notes: names that
        are not understood are said, and count as the axes of an array without names.

    Raises
    ------
    ImageError
        If a name stands twice, or names that are understood lie elsewhere than in an array without names, so
        that the others cannot be known.
    """
    if not names_any(names):
        return "", ()
    listed = names if isinstance(names, list) else [names]
    said = ", ".join(str(name) if name else "nothing" for name in listed)[:_SAID]
    letters = [axis_letter(name) for name in listed]
    understood = [letter for letter in letters if letter]
    if isinstance(names, list) and len(set(understood)) == len(understood):
        if understood == letters:
            return "".join(letters), ()
        usual = _usual(len(letters))
        if usual and not contradict(names, usual):
            return usual if understood else "", (f"its axes are named {said}: taken for {', '.join(usual)}",)
    raise ImageError(f"has axes named {said}; {_EXPECTED}; name them so, or export it again")


def contradict(names: Sequence[object], axes: str) -> bool:
    """Return whether names of dimensions that are understood mean other axes than these."""
    letters = [axis_letter(name) for name in names]
    return any(letter not in ("", axis) for letter, axis in zip(letters, axes, strict=True))


def n5_image(attributes: dict[str, Any], children: dict[str, dict[str, Any]]) -> Image:
    """Read N5's attributes.

    Parameters
    ----------
    attributes : dict
        Of the dataset, or of the group of levels s0, s1 ...
    children : dict
        The attributes of those levels by their names; empty for a dataset.

    Returns
    -------
    Image
        N5 counts its dimensions from the fastest one: x, y, z.
    """
    own = {"": attributes} if "dimensions" in attributes else children
    if not own:
        raise ImageError("is an N5 group without levels s0, s1 ...; name the dataset in it")
    dimensions = len(next(iter(own.values())).get("dimensions", ()))
    if dimensions not in (2, 3):
        raise ImageError(f"is an N5 dataset of {dimensions} dimensions; expected x, y and z")
    levels = tuple(
        Level(path=name, pixel_size=_n5_size(attributes, level, number))
        for number, (name, level) in enumerate(own.items())
    )
    return Image(form="N5", driver="n5", axes="xyz"[:dimensions], levels=levels)


def _n5_size(group: dict[str, Any], level: dict[str, Any], number: int) -> PixelSize | None:
    found = level.get("pixelResolution", group.get("pixelResolution"))
    unit: Any = "nm"
    if isinstance(found, dict):
        own = "pixelResolution" in level
        unit, found = found.get("unit", "nm"), found.get("dimensions")
        factors = None if own else _n5_factors(group, level, number)
    else:
        own = "resolution" in level
        found = level.get("resolution", group.get("resolution"))
        factors = level.get("downsamplingFactors") if own else _n5_factors(group, level, number)
        unit = level.get("units", group.get("units", "nm"))
        unit = unit[0] if isinstance(unit, list) and unit else unit
    if number and not own and not factors:  # it is the size of the largest level
        return None
    try:
        sizes = [float(size) for size in found or ()]
        if factors:
            sizes = [size * float(factor) for size, factor in zip(sizes, factors, strict=True)]
    except (TypeError, ValueError):
        return None
    return _size_of_xyz([in_nm(size, str(unit)) for size in sizes])


def _n5_factors(group: dict[str, Any], level: dict[str, Any], number: int) -> Any:
    """Return how many times as large as the group says the pixels of a level are; None where nothing tells."""
    if "downsamplingFactors" in level:
        return level["downsamplingFactors"]
    lists = group.get("downsamplingFactors"), group.get("scales")
    by_level = (each[number] for each in lists if isinstance(each, list) and number < len(each))
    return next((factors for factors in by_level if isinstance(factors, list)), None)


def _size_of_xyz(sizes_nm: Sequence[float | None]) -> PixelSize | None:
    x_nm, y_nm, z_nm = (*sizes_nm, None, None, None)[:3]
    return None if x_nm is None or y_nm is None else PixelSize(y_nm=y_nm, x_nm=x_nm, z_nm=z_nm)


def precomputed_image(info: dict[str, Any]) -> Image:
    """Read the ``info`` of a neuroglancer precomputed volume."""
    if info.get("type") not in ("image", "segmentation"):
        raise ImageError(f"is a precomputed {info.get('type')!r}; expected an image")
    try:
        levels = tuple(
            Level(
                path=str(scale["key"]),
                pixel_size=_size_of_xyz([in_nm(float(size), "nm") for size in scale["resolution"]]),
                origin_nm=_origin_of(scale, info["scales"][0]),
                scale_index=index,
            )
            for index, scale in enumerate(info["scales"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(f"its info is not readable ({type(error).__name__}: {error})") from error
    if not levels:
        raise ImageError("has no scale")
    for level in levels:
        _require_inside(level.path)
    return Image(
        form="precomputed",
        driver="neuroglancer_precomputed",
        axes="xyzc",
        levels=levels,
        segments=info["type"] == "segmentation",
    )


def _origin_of(scale: dict[str, Any], largest: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return where the first pixel's centre lies, counted from that of the first pixel of the largest level at 0.

    Levels of a precomputed volume have their corners in common, those of OME-Zarr the centres of their pixels.
    """
    x, y, z = (
        float(start) * float(size) + (float(size) - float(finest)) / 2
        for start, size, finest in zip(
            scale.get("voxel_offset", (0, 0, 0)), scale["resolution"], largest["resolution"], strict=True
        )
    )
    return (z, y, x) if x or y or z else None
