"""Where sections come from and where results go: sources and sinks, and what describes them."""

from isbi_infer.volumes.images import ImageFolder, open_images
from isbi_infer.volumes.opening import check_output, is_chunked_output, nearest_level, open_source
from isbi_infer.volumes.pixel_size import PixelSize, with_side
from isbi_infer.volumes.protocol import Block, Kind, Section, Sink, Source, StackInfo, Window
from isbi_infer.volumes.tiff.reader import TiffSource, open_stack
from isbi_infer.volumes.tiff.writer import TiffSink, output_kind, write_stack

__all__ = [
    "Block",
    "ImageFolder",
    "Kind",
    "PixelSize",
    "Section",
    "Sink",
    "Source",
    "StackInfo",
    "TiffSink",
    "TiffSource",
    "Window",
    "check_output",
    "is_chunked_output",
    "nearest_level",
    "open_images",
    "open_source",
    "open_stack",
    "output_kind",
    "with_side",
    "write_stack",
]
