"""Half precision: the weights and all arithmetic up to the logits as float16, input and output as float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.metadata import INPUT, OUTPUT


def half_precision(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a float32 graph, with one cast behind its input and one before its sigmoid.

    The same as exporting the network after ``.half()``, except that the sigmoid is computed in float32, where
    probabilities near 1 keep their digits.

    Parameters
    ----------
    graph : onnx.ModelProto
        From `isbi_export.formats.onnx_export.graph_of`; not changed.

    Returns
    -------
    onnx.ModelProto
        Weights beyond 65504 become infinite, which no gate lets pass.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    nodes = model.graph.node
    (sigmoid,) = (node for node in nodes if OUTPUT in node.output)
    assert sigmoid.op_type == "Sigmoid"
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):
                halved = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    for node in nodes:
        node.input[:] = [f"{INPUT}_half" if name == INPUT else name for name in node.input]
    logits = sigmoid.input[0]
    sigmoid.input[0] = f"{logits}_float"
    nodes.insert(0, helper.make_node("Cast", [INPUT], [f"{INPUT}_half"], to=TensorProto.FLOAT16))
    at = list(nodes).index(sigmoid)
    nodes.insert(at, helper.make_node("Cast", [logits], [sigmoid.input[0]], to=TensorProto.FLOAT))
    del model.graph.value_info[:]  # of types that are no longer so
    return model
