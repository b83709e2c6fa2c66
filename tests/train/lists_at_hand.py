"""A list of two labelled stacks, written where a test wants it, and a run that is over soon."""

import numpy as np
import tifffile
from drawn import synthetic_stack

SHORT = {
    "epochs": 2,
    "steps": 12,
    "crop": 16,
    "membrane_width_nm": 16.0,
    "ignore_band_nm": 4.0,
    "validated_sections": 1,
}


def write(path, volume_ZYX):
    tifffile.imwrite(path, volume_ZYX, photometric="minisblack")


def cubes(sections=8, side=48, cell=12):
    """Ids of cubes in a lattice, as an isotropic volume."""
    z, y, x = np.indices((sections, side, side)) // cell
    return (1 + (z * 64 + y) * 64 + x).astype(np.uint16)


def write_list(folder):
    """Write a list: sections of 64 pixels of 4 nm with a mask, and a volume of 48 pixels of 8 nm with ids."""
    image_ZYX, label_ZYX = synthetic_stack(4, 64, 64)
    write(folder / "fly.tif", image_ZYX)
    write(folder / "fly-labels.tif", label_ZYX)
    ids_ZYX = cubes()
    noise_ZYX = np.random.default_rng(0).integers(90, 110, ids_ZYX.shape)
    write(folder / "mouse.tif", noise_ZYX.astype(np.uint8))
    write(folder / "mouse-ids.tif", ids_ZYX)
    (folder / "stacks.toml").write_text(
        """
        [[stack]]
        name = "fly"
        images = "fly.tif"
        labels = "fly-labels.tif"
        pixel_size_nm = 4.0
        hold_out = 1
        terms = "non-commercial"

        [[stack]]
        name = "mouse"
        images = "mouse.tif"
        labels = "mouse-ids.tif"
        kind = "ids"
        pixel_size_nm = 8.0
        weight = 3.0
        hold_out = 2
        hold_out_start = 6
        planes = ["xy", "xz", "yz"]
        """
    )
    return folder
