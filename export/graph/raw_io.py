"""Grey values as stored in, bytes out: the normalisation before a graph and the rounding behind it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from isbi_export.graph.metadata import INPUT, OUTPUT

MEAN, INVERSE_STD = "mean", "inverse_std"
_NORMALISED, _PROBABILITY = "normalised", "probability_float"


def with_raw_io(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Put normalisation and rounding into a graph, so that a quarter of the bytes go to the device and come back.

    The arithmetic is that of `isbi_infer.pixels.normalise.normalise` and of results stored as uint8, operation by
    operation: (float32(image) - mean) * inverse_std before, round-half-even(255 p) behind.

    Parameters
    ----------
    graph : onnx.ModelProto
        From float32 `INPUT` to float32 `OUTPUT`, of any precision; not changed.

    Returns
    -------
    onnx.ModelProto
        From uint8 `INPUT`, and float32 `MEAN` and `INVERSE_STD` of shape (N, C, 1, 1), to uint8 `OUTPUT`.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    nodes, (image,), (result,) = model.graph.node, model.graph.input, model.graph.output
    for node in nodes:
        node.input[:] = [_NORMALISED if name == INPUT else name for name in node.input]
        node.output[:] = [_PROBABILITY if name == OUTPUT else name for name in node.output]
    for tensor in (image, result):
        tensor.type.tensor_type.elem_type = TensorProto.UINT8
    batch, channels = image.type.tensor_type.shape.dim[:2]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch.dim_param, channels.dim_value, 1, 1])
        for name in (MEAN, INVERSE_STD)
    )
    before = [
        helper.make_node("Cast", [INPUT], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["grey", MEAN], ["centred"]),
        helper.make_node("Mul", ["centred", INVERSE_STD], [_NORMALISED]),
    ]
    for at, node in enumerate(before):
        nodes.insert(at, node)
    model.graph.initializer.append(helper.make_tensor("largest_byte", TensorProto.FLOAT, [], [255.0]))
    nodes.extend(
        [
            helper.make_node("Mul", [_PROBABILITY, "largest_byte"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], [OUTPUT], to=TensorProto.UINT8),
        ]
    )
    del model.graph.value_info[:]  # the names have moved
    return model
