"""How far ONNX Runtime should optimise the graph: all that it can, or without what changes the layout of arrays.

All is reported to be slower on some processors; the results stored here say on which of ours.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_models import default_model

LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED"}
PRECISIONS = {"fp32": "float32", "int8": "int8"}
SECTIONS = 8


def test_graph_optimisation_ratio(compare, keep, small_ZYX, options):
    import onnxruntime

    section_YX = small_ZYX[0]
    batch_NCYX = normalise(section_YX, intensity_statistics(section_YX))[None, None]

    def session(precision, level):
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
        settings.intra_op_num_threads = 1
        path = default_model().files[PRECISIONS[precision]].path
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def run(opened):
        name = opened.get_inputs()[0].name
        return [opened.run(None, {name: batch_NCYX})[0] for _ in range(SECTIONS)][-1]

    contenders = {
        f"{precision}, {level}": partial(run, session(precision, level))
        for precision in PRECISIONS
        for level in LEVELS
    }
    found, results = compare("graph-optimisation", contenders, "fp32, all")
    for precision in PRECISIONS:
        apart = np.abs(results[f"{precision}, all"] - results[f"{precision}, extended"]).max()
        assert apart < 0.01  # it is the same model
    keep("graph-optimisation", found, shape=section_YX.shape, sections=SECTIONS, threads=1)
