"""Where sections come from and where results go: sources and sinks, and what describes them."""

from isbi_infer.volumes.pixel_size import Kind, PixelSize, StackInfo
from isbi_infer.volumes.tiff.reader import StackReader, open_stack
from isbi_infer.volumes.tiff.writer import output_kind, write_stack

__all__ = ["Kind", "PixelSize", "StackInfo", "StackReader", "open_stack", "output_kind", "write_stack"]
