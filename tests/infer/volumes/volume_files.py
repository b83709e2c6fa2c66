"""Volumes as other programs write them, and what zarr-python reads of results."""

import numpy as np
import zarr


def write_omezarr(
    path,
    levels,
    axes="zyx",
    scale=(50, 4, 4),
    unit="nanometer",
    version="0.5",
    transforms=(),
    names=(),
    **array,
):
    """Write an OME-Zarr image as its specification says; each level is half of the one before along Y and X.

    `names` are those of the levels; s0, s1 ... when not given.
    """
    names = names or [f"s{number}" for number in range(len(levels))]
    group = zarr.open_group(path, mode="w", zarr_format=3 if version >= "0.5" else 2)
    datasets = []
    for number, data in enumerate(levels):
        chunks = tuple(min(64, size) for size in data.shape)
        made = group.create_array(names[number], shape=data.shape, dtype=data.dtype, chunks=chunks, **array)
        made[...] = data
        factors = [2**number if axis in "yx" else 1 for axis in axes]
        steps = [
            {"type": "scale", "scale": [s * f for s, f in zip(scale, factors, strict=True)]},
            *transforms,
        ]
        datasets.append({"path": names[number], "coordinateTransformations": steps})
    kinds = {"t": "time", "c": "channel"}
    named = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "zyx" and unit else {})}
        for a in axes
    ]
    image = {"axes": named, "datasets": datasets, "name": "sections"}
    if version >= "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image | {"version": version}]
    return path


def write_named(path, stored, names, form):
    """Write an array whose dimensions have names.

    `form` is "ome", "zarr3" (its own names), or "zarr2" or "zarr3 of xarray" (the attribute of xarray).
    """
    if form == "ome":
        return write_omezarr(path, [stored], list(names), [1] * stored.ndim, unit=None)
    if form == "zarr3":
        zarr.create_array(path, data=stored, dimension_names=names and list(names))
    else:
        named = {"_ARRAY_DIMENSIONS": names} if names else {}
        zarr.create_array(path, data=stored, zarr_format=int(form[4]), attributes=named)
    return path


def halved(stack_ZYX):
    """Return means of 2 x 2 pixels of each section."""
    z, y, x = stack_ZYX.shape
    return stack_ZYX.reshape(z, y // 2, 2, x // 2, 2).mean(axis=(2, 4)).astype(stack_ZYX.dtype)


def pixels(path):
    """Return all pixels of an OME-Zarr result, as zarr-python reads them."""
    return np.asarray(zarr.open_group(path, mode="r")["0"][...])
