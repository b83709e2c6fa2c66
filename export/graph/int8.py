"""Eight bits: static quantisation, with weights per channel and ranges from sections that were looked at.

Weights have 7 bits, so that the sums of products are the same on processors without VNNI (see `eight_bits`). Upsampling
is written as convolutions, for which ONNX Runtime has integer kernels. The ranges are the extremes of the calibration
sections, rounded outwards. What a file loses is measured whenever one is exported, and stands in the parity report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from isbi_export.graph.metadata import INPUT, finished
from isbi_infer.backends.onnxruntime import import_silently

import_silently()  # before its quantisation, which would import it with its telemetry
from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorsData,
    create_calibrator,
)

_QUANTISED = ["Conv", "Relu", "MaxPool", "Concat", "DepthToSpace", "Slice"]


def eight_bits(graph: onnx.ModelProto, batches: Sequence[npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """Quantise a graph: QuantizeLinear and DequantizeLinear around operations that ONNX Runtime then does in integers.

    The first convolution, which reads the image, and the head with all behind it stay in float32: both are cheap, and
    the head decides the class of pixels near 0.5.

    Parameters
    ----------
    graph : onnx.ModelProto
        From `isbi_export.formats.onnx_export.graph_of`; not changed.
    batches : sequence of ndarray of float32, shape (N, C, Y, X)
        Normalised grey values that show the ranges of all tensors.

    Returns
    -------
    onnx.ModelProto
        The same bytes for the same graph and batches, also from processors that differ in the last bits.
    """
    model = onnx.shape_inference.infer_shapes(_upsampling_by_convolution(graph))
    ranges = _ranges(model, batches)
    # Without VNNI, x86 adds two products of 8 x 8 bits in 16 bits, which overflow. With weights of 7 bits they fit
    # (2 x 255 x 64 < 2^15), and the result is the same on all processors.
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=_float_nodes(model),
        op_types_to_quantize=_QUANTISED,
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.graph.value_info[:]
    del result.metadata_props[:]
    return finished(result)


def _upsampling_by_convolution(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Write transposed convolutions whose kernel is their stride as 1x1 convolutions and DepthToSpace.

    Each output pixel then is the same sum of the same products. ONNX Runtime has integer kernels for these two only.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    nodes, weights = model.graph.node, {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in nodes if node.op_type == "ConvTranspose"]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kernel_IOYX = numpy_helper.to_array(weights[node.input[1]])
        inputs, outputs, *size = kernel_IOYX.shape
        plain = attributes.get("group", 1) == 1 and not any(attributes.get("pads", ()))
        if not (plain and size == list(attributes["strides"]) == [size[0]] * 2 and len(node.input) == 3):
            continue
        folded = outputs * size[0] * size[1]
        weight_OIYX = kernel_IOYX.transpose(1, 2, 3, 0).reshape(folded, inputs, 1, 1)
        bias_O = np.repeat(numpy_helper.to_array(weights[node.input[2]]), size[0] * size[1])
        names = [f"{name}_folded" for name in node.input[1:]]
        for name, values, old in zip(names, (weight_OIYX, bias_O), node.input[1:], strict=True):
            weights[old].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        (out,) = node.output
        at = list(nodes).index(node)
        nodes.remove(node)
        steps = (
            helper.make_node("Conv", [node.input[0], *names], [f"{out}_folded"], name=f"{node.name}_folded"),
            helper.make_node(
                "DepthToSpace", [f"{out}_folded"], [out], name=node.name, blocksize=size[0], mode="CRD"
            ),
        )
        for offset, step in enumerate(steps):
            nodes.insert(at + offset, step)
    del model.graph.value_info[:]
    return model


def _float_nodes(model: onnx.ModelProto) -> list[str]:
    """Name what comes up to the first convolution, and the last one with all behind it."""
    nodes = list(model.graph.node)
    convolutions = [at for at, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in (*nodes[: convolutions[0] + 1], *nodes[convolutions[-1] :])]


def _ranges(model: onnx.ModelProto, batches: Sequence[npt.NDArray[np.float32]]) -> TensorsData:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path, _QUANTISED, str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax
        )
        calibrator.collect_data(_Batches(batches))
        found = calibrator.compute_data()
    return TensorsData(
        CalibrationMethod.MinMax,
        {name: tuple(_outwards(end) for end in data.range_value) for name, data in found.items()},
    )


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Sequence[npt.NDArray[np.float32]]) -> None:
        self._left: Iterator[npt.NDArray[np.float32]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch_NCYX = next(self._left, None)
        return None if batch_NCYX is None else {INPUT: batch_NCYX}


def _outwards(end_1: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round away from 0 to three digits, which processors that differ in the last bits agree about."""
    end = float(end_1.item())
    if end == 0:
        return end_1
    unit = 10.0 ** (floor(log10(abs(end))) - 2)
    return np.full_like(end_1, np.copysign(ceil(abs(end) / unit) * unit, end))
