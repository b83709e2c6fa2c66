"""Sample data of the plugin: the synthetic stack, nobody's tissue, with its labels."""

from __future__ import annotations

from typing import Any

from isbi_infer.sample import PIXEL_NM, SECTION_NM, synthetic_stack


def synthetic() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the synthetic stack of 8 sections and its labels as napari takes layers."""
    image_ZYX, label_ZYX = synthetic_stack()
    placed = {
        "scale": (SECTION_NM, PIXEL_NM, PIXEL_NM),
        "units": ("nm", "nm", "nm"),
        "axis_labels": ("z", "y", "x"),
    }
    labels = (label_ZYX > 0).astype("uint8")
    return [
        (image_ZYX, {**placed, "name": "synthetic"}, "image"),
        (labels, {**placed, "name": "synthetic cells", "visible": False}, "labels"),
    ]
