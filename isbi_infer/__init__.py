"""Find membranes in electron-microscopy stacks: overlap-tile inference that equals the whole-image result.

>>> from isbi_infer import Segmenter
>>> probability_ZYX = Segmenter()(stack_ZYX)  # doctest: +SKIP
"""

from isbi_infer._version import __version__
from isbi_infer.errors import (
    BusyError,
    DependencyError,
    ImageError,
    Interrupted,
    IsbiError,
    ModelError,
    OutputError,
    ResourceError,
    UsageError,
)
from isbi_infer.segmenter import Segmenter

__all__ = [
    "BusyError",
    "DependencyError",
    "ImageError",
    "Interrupted",
    "IsbiError",
    "ModelError",
    "OutputError",
    "ResourceError",
    "Segmenter",
    "UsageError",
    "__version__",
]
