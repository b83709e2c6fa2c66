"""Volumes as other programs write them, and what zarr-python reads of results."""

import numpy as np
import zarr


def write_omezarr(
    path, levels, axes="zyx", scale=(50, 4, 4), unit="nanometer", version="0.5", transforms=(), **array
):
    """Write an OME-Zarr image as its specification says; each level is half of the one before along Y and X."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version >= "0.5" else 2)
    datasets = []
    for number, data in enumerate(levels):
        chunks = tuple(min(64, size) for size in data.shape)
        made = group.create_array(f"s{number}", shape=data.shape, dtype=data.dtype, chunks=chunks, **array)
        made[...] = data
        factors = [2**number if axis in "yx" else 1 for axis in axes]
        steps = [
            {"type": "scale", "scale": [s * f for s, f in zip(scale, factors, strict=True)]},
            *transforms,
        ]
        datasets.append({"path": f"s{number}", "coordinateTransformations": steps})
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


def halved(stack_ZYX):
    """Return means of 2 x 2 pixels of each section."""
    z, y, x = stack_ZYX.shape
    return stack_ZYX.reshape(z, y // 2, 2, x // 2, 2).mean(axis=(2, 4)).astype(stack_ZYX.dtype)


def pixels(path):
    """Return all pixels of an OME-Zarr result, as zarr-python reads them."""
    return np.asarray(zarr.open_group(path, mode="r")["0"][...])
