"""The ONNX graph of a network: self-contained, for any batch, height and width."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch

from isbi_export.formats.deployable import Deployable
from isbi_export.graph.metadata import INPUT, OUTPUT, finished

OPSET = 20
OPSETS = range(18, 24)


def graph_of(model: Deployable, opset: int = OPSET) -> onnx.ModelProto:
    """Export a network as a graph with dynamic batch, height and width, and all weights inside.

    Parameters
    ----------
    model : Deployable
        What to export.
    opset : int
        Version of the operators, one of `OPSETS`.

    Returns
    -------
    onnx.ModelProto
        From `INPUT` to `OUTPUT`, without a contract.
    """
    stride = model.network.config.stride
    example_NCYX = torch.zeros(2, model.network.config.channels, 2 * stride, 3 * stride)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            (example_NCYX,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: batch, 2: stride * height, 3: stride * width},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return finished(program.model_proto)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress lines and its own libraries' deprecation warnings from our user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
