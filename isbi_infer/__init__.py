"""Find membranes in electron-microscopy stacks: overlap-tile inference that equals the whole-image result.

>>> from isbi_infer import Segmenter
>>> from isbi_infer.sample import synthetic_stack
>>> stack_ZYX, _ = synthetic_stack(sections=2, height=128, width=128)
>>> probability_ZYX = Segmenter()(stack_ZYX)
"""

from typing import TYPE_CHECKING, Any

from isbi_infer._version import __version__
from isbi_infer.errors import (
    BusyError,
    DependencyError,
    ImageError,
    IsbiError,
    ModelError,
    OutputError,
    ResourceError,
    UsageError,
)

if TYPE_CHECKING:
    from isbi_infer.report.shown import show
    from isbi_infer.segmenter import Segmenter

__all__ = [
    "BusyError",
    "DependencyError",
    "ImageError",
    "IsbiError",
    "ModelError",
    "OutputError",
    "ResourceError",
    "Segmenter",
    "UsageError",
    "__version__",
    "show",
]


def __getattr__(name: str) -> Any:
    # NumPy and tifffile take a quarter of a second to import, which `isbi-infer --help` need not wait for.
    if name == "Segmenter":
        from isbi_infer.segmenter import Segmenter

        return Segmenter
    if name == "show":
        from isbi_infer.report.shown import show

        return show
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
