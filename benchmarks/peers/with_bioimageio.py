"""A bioimage.io package of the released model, and bioimageio.core's tiled prediction with it."""

from __future__ import annotations

import shutil
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isbi_infer import Segmenter
from isbi_infer.sample import synthetic_stack
from isbi_models import default_model

from .task import Peer, Task

_OPSET = 20


def tiled_prediction(task: Task, block: int) -> Peer:
    """Predict a section in blocks of `block` pixels, of which the model's halo is dropped on each side."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from loguru import logger

    logger.remove()  # it would log every block
    halo, stride = task.reference.contract.halo, task.reference.contract.stride
    fitting = min(block, min(task.image_YX.shape) // stride * stride)
    block = max(fitting, 2 * halo + 16)
    model = _described(task.folder, halo)
    pipeline = create_prediction_pipeline(model)
    pipeline.load()
    shape = {"image": {"batch": 1, "channel": 1, "y": block, "x": block}}

    def run():
        sample = create_sample_for_model(model, inputs=task.image_YX[None, None])
        done = pipeline.predict_sample_with_fixed_blocking(sample, input_block_shape=shape)
        return np.asarray(done.members["probability"].data)[0, 0]

    counts = [ceil(side / (block - 2 * halo)) for side in task.image_YX.shape]
    return Peer(
        run=run,
        does=f"{counts[0]} x {counts[1]} blocks of {block} with the exact halo, the section's edges mirrored",
        precision="fp32",
        overhead=counts[0] * counts[1] * block**2 / task.image_YX.size,
    )


def _described(folder: Path, halo: int) -> Any:
    """Describe the released ONNX file; normalisation by the whole sample's statistics, as ours."""
    import pydantic
    from bioimageio.spec.model import v0_5

    shutil.copy(default_model().path, folder / "model.onnx")
    (folder / "README.md").write_text("# A package made for one benchmark run\n", encoding="utf-8")
    image_YX = synthetic_stack(1, 256, 256)[0][0]
    np.save(folder / "input.npy", image_YX[None, None])
    np.save(folder / "output.npy", Segmenter(provider="cpu")(image_YX)[None, None])
    try:
        return v0_5.ModelDescr(
            name="benchmark",
            description="the released model",
            authors=[v0_5.Author(name="isbi-infer")],
            cite=[v0_5.CiteEntry(text="none", url="https://example.com")],
            license="MIT",
            documentation=v0_5.FileDescr(source=folder / "README.md"),
            inputs=[_input(v0_5, folder)],
            outputs=[_output(v0_5, folder, halo)],
            weights=v0_5.WeightsDescr(
                onnx=v0_5.OnnxWeightsDescr(source=folder / "model.onnx", opset_version=_OPSET)
            ),
        )
    except pydantic.ValidationError as error:  # bioimageio.spec 0.5.12 under pydantic 2.14
        last = str(error).splitlines()[1].strip()
        pytest.skip(f"bioimageio.spec cannot describe a model with pydantic {pydantic.VERSION}: {last[:160]}")


def _input(v0_5: Any, folder: Path) -> Any:
    space = [v0_5.SpaceInputAxis(id=a, size=v0_5.ParameterizedSize(min=208, step=16)) for a in "yx"]
    normalised = v0_5.ZeroMeanUnitVarianceKwargs(axes=["channel", "y", "x"])
    return v0_5.InputTensorDescr(
        id="image",
        axes=[v0_5.BatchAxis(), v0_5.ChannelAxis(channel_names=["grey"]), *space],
        data=v0_5.IntervalOrRatioDataDescr(type="uint8"),
        test_tensor=v0_5.FileDescr(source=folder / "input.npy"),
        preprocessing=[
            v0_5.ZeroMeanUnitVarianceDescr(kwargs=normalised),
            v0_5.EnsureDtypeDescr(kwargs=v0_5.EnsureDtypeKwargs(dtype="float32")),
        ],
    )


def _output(v0_5: Any, folder: Path, halo: int) -> Any:
    space = [
        v0_5.SpaceOutputAxisWithHalo(id=a, halo=halo, size=v0_5.SizeReference(tensor_id="image", axis_id=a))
        for a in "yx"
    ]
    return v0_5.OutputTensorDescr(
        id="probability",
        axes=[v0_5.BatchAxis(), v0_5.ChannelAxis(channel_names=["cell"]), *space],
        test_tensor=v0_5.FileDescr(source=folder / "output.npy"),
    )
