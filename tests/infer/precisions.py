"""A released network in every precision of a file; float16 is not released, and made here as isbi-export makes it."""

from functools import cache

import onnx

from isbi_export.graph.float16 import half_precision
from isbi_models import released_models

FILES = released_models()["isbi2012-unet-b32"].files


@cache
def content_of(file):
    """Return the file of a precision: "float32", "float16" or "int8"."""
    if file == "float16":
        return half_precision(onnx.load(FILES["float32"].path)).SerializeToString()
    return FILES[file].path.read_bytes()
