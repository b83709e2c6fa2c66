"""Open bioimage.io packages with bioimageio.core, in a process that knows nothing of this project.

``python stranger.py JOBS.json RESULTS.npz``; a process of its own, since bioimageio.spec 0.5.12 leaves files open,
which is a warning and so an error in the tests.
"""

import json
import sys
from pathlib import Path

import numpy as np
from bioimageio.core import create_prediction_pipeline
from bioimageio.core.digest_spec import create_sample_for_model
from bioimageio.core.tensor import Tensor
from bioimageio.spec import load_model_description
from loguru import logger


def tensor(stack_ZYX):
    return {"image": Tensor(stack_ZYX[:, None], dims=("batch", "channel", "y", "x"))}


def tiled(model, image_YX, block):
    """Predict in square blocks, of which the described halo is dropped."""
    shape = {"image": {"batch": 1, "channel": 1, "y": block, "x": block}}
    with create_prediction_pipeline(model, weight_format="onnx") as pipeline:
        sample = create_sample_for_model(model, inputs=tensor(image_YX[None]))
        done = pipeline.predict_sample_with_fixed_blocking(sample, input_block_shape=shape)
    return np.asarray(done.members["probability"].data)[0, 0]


def preprocessed(model, stack_ZYX):
    with create_prediction_pipeline(model, weight_format="onnx") as pipeline:
        sample = create_sample_for_model(model, inputs=tensor(stack_ZYX))
        pipeline.apply_preprocessing(sample)
    return np.asarray(sample.members["image"].data)[:, 0]


def main(jobs, results):
    logger.remove()
    found = {}
    for name, job in json.loads(Path(jobs).read_text()).items():
        model = load_model_description(job["package"])
        summary = model.validation_summary
        found[f"{name} name"] = np.array(model.name)
        found[f"{name} warnings"] = np.array([w.msg for detail in summary.details for w in detail.warnings])
        if "tile" in job:
            found[f"{name} tiled"] = tiled(model, np.load(job["tile"]), job["block"])
        for file in job.get("preprocess", ()):
            found[f"{name} {file}"] = preprocessed(model, np.load(file))
    np.savez(results, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
