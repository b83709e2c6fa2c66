"""A volume whose metadata says that its pixels lie elsewhere.

OME-Zarr names its resolutions by paths. One with ``..``, or an absolute one, lets whoever wrote the metadata choose
which array of the reader's is opened, segmented, and handed back as a result. A level has to lie within its image.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import zarr

from attacks.attempt import Attempt

_REFUSED = "leads out of the image"


def _omezarr(folder: Path, path: str) -> Attempt:
    zarr.create_array(folder / "secret.zarr", data=np.full((2, 64, 80), 7, np.uint8))
    bait = folder / "bait.zarr"
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    transforms = [{"type": "scale", "scale": [40, 4, 4]}]
    path = str(folder / "secret.zarr") if path == "absolute" else path
    image = {"axes": axes, "datasets": [{"path": path, "coordinateTransformations": transforms}]}
    zarr.open_group(bait, mode="w").attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return Attempt(program="isbi-infer", arguments=[str(bait)], code=4, says=_REFUSED)


def _precomputed(folder: Path) -> Attempt:
    scale = {"key": "../elsewhere", "size": [80, 64, 2], "resolution": [4, 4, 40], "voxel_offset": [0, 0, 0]}
    scale |= {"chunk_sizes": [[80, 64, 2]], "encoding": "raw"}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale]}
    (folder / "bait").mkdir()
    (folder / "bait" / "info").write_text(json.dumps(info))
    return Attempt(program="isbi-infer", arguments=[str(folder / "bait")], code=4, says=_REFUSED)


ATTEMPTS = {
    "..": functools.partial(_omezarr, path="../secret.zarr"),
    ".. within": functools.partial(_omezarr, path="a/../../secret.zarr"),
    "an absolute path": functools.partial(_omezarr, path="absolute"),
    "an address": functools.partial(_omezarr, path="file:///etc"),
    "a precomputed volume": _precomputed,
}
