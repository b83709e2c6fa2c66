"""One network in every form that files are written from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import onnx
import torch

from isbi_export.formats.calibration import Calibration
from isbi_export.formats.deployable import Deployable
from isbi_export.formats.onnx_export import graph_of
from isbi_export.formats.program import program_of, write_program
from isbi_export.formats.torchscript import write_torchscript
from isbi_export.graph.float16 import half_precision
from isbi_export.graph.metadata import write_onnx
from isbi_export.graph.raw_io import with_raw_io
from isbi_export.variants import Variant
from isbi_infer.model.contract import ModelContract


class Exported:
    """A network, and its graphs as they are asked for.

    Parameters
    ----------
    module : Deployable
        The network.
    opset : int
        Of the graphs.
    border : int
        Mirrored pixels around a section.
    calibration : Calibration or None
        What int8 is calibrated on.
    """

    def __init__(self, module: Deployable, opset: int, border: int, calibration: Calibration | None) -> None:
        self.module = module
        self._opset, self._border, self._calibration = opset, border, calibration
        self._graphs: dict[str, onnx.ModelProto] = {}

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The network as a program of ``torch.export``."""
        return program_of(self.module)

    def graph(self, precision: str) -> onnx.ModelProto:
        """Return the graph of a precision with float32 input and output, made once."""
        if precision not in self._graphs:
            self._graphs[precision] = self._make(precision)
        return self._graphs[precision]

    def graph_for(self, variant: Variant) -> onnx.ModelProto:
        """Return the graph of an ONNX variant."""
        graph = self.graph(variant.precision)
        return with_raw_io(graph) if variant.io == "uint8" else graph

    def _make(self, precision: str) -> onnx.ModelProto:
        if precision == "float32":
            return graph_of(self.module, self._opset)
        if precision == "float16":
            return half_precision(self.graph("float32"))
        assert self._calibration is not None
        from isbi_export.graph.int8 import eight_bits  # needs onnxruntime, whose absence OnnxSession explains

        stride = self.module.network.config.stride
        batches = self._calibration.batches(stride=stride, border=self._border)
        return eight_bits(self.graph("float32"), batches)


Write = Callable[[Path, Exported, Variant, ModelContract], None]


def _write_onnx(path: Path, exported: Exported, variant: Variant, contract: ModelContract) -> None:
    write_onnx(path, exported.graph_for(variant), contract)


def _write_torchscript(path: Path, exported: Exported, _: Variant, contract: ModelContract) -> None:
    write_torchscript(path, exported.module, contract)


def _write_program(path: Path, exported: Exported, _: Variant, contract: ModelContract) -> None:
    write_program(path, exported.program, contract)


WRITERS: dict[str, Write] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "program": _write_program,
}
