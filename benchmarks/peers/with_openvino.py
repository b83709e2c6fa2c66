"""OpenVINO on the released ONNX files by hand: the whole section at once, and a stack in its throughput mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError
from isbi_infer.model.devices import rows
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_models import default_model

from .task import AT_ONCE, Build, Peer, Task

_HINT = "INFERENCE_PRECISION_HINT"
_SHORT = {"f32": "fp32"}


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, as `isbi_infer` does, or skip by name."""
    from isbi_infer.backends import openvino as backend

    try:
        return backend.import_openvino(next(rows("onnx", "openvino")))
    except DependencyError as reason:
        pytest.skip(str(reason))


def openvino(precision: str, hint: str | None = None) -> Build:
    """Return OpenVINO on a released file.

    Parameters
    ----------
    precision : {"float32", "int8"}
        Of the file.
    hint : str, optional
        The arithmetic asked for; OpenVINO's own choice when not given, which is bfloat16 where the processor has it.
    """

    def build(task: Task) -> Peer:
        if task.device != "cpu":
            pytest.skip("OpenVINO computes on the CPU, and this run is on a GPU")
        runtime, files = import_openvino(), default_model().files
        if precision not in files:
            pytest.skip(f"the model is not released in {precision}")
        whole, core = task.padded(), runtime.Core()
        model = core.read_model(files[precision].path)
        model.reshape([1, 1, *whole.plan.padded])
        settings = {"INFERENCE_NUM_THREADS": available_cores()} | ({_HINT: hint} if hint else {})
        compiled = core.compile_model(model, "CPU", settings)
        request = compiled.create_infer_request()
        kind = str(compiled.get_property(_HINT).to_string())
        computed = _SHORT.get(kind, kind)

        def run():
            (result_NCYX,) = request.infer([whole.batch(task.normalised())]).values()
            return whole.crop(result_NCYX).copy()  # the next run overwrites it

        return Peer(
            run=run,
            does=AT_ONCE,
            precision=computed if precision == "float32" else f"int8 and {computed}",
            overhead=whole.overhead,
        )

    return build


def throughput_mode(sections_NYX: Any, precision: str) -> Callable[[], Any]:
    """Return a run as OpenVINO's own guide writes one: the throughput hint, a stream a core, asynchronous requests.

    Parameters
    ----------
    sections_NYX : ndarray
        Grey values; sides are multiples of the model's stride. They are normalised in the run.
    precision : {"fp32", "bf16", "int8"}
        Of the arithmetic, as `Segmenter.precision` names it.

    Returns
    -------
    callable
        Returns float32 probabilities (N, Y, X).
    """
    runtime, files = import_openvino(), default_model().files
    model = runtime.Core().read_model(files["int8" if precision == "int8" else "float32"].path)
    model.reshape([1, 1, *sections_NYX.shape[1:]])
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": available_cores(),
        "NUM_STREAMS": available_cores(),
    }
    if precision == "fp32":
        settings[_HINT] = "f32"
    compiled = runtime.Core().compile_model(model, "CPU", settings)
    results_NYX = np.empty(sections_NYX.shape, np.float32)
    queue = runtime.AsyncInferQueue(compiled, available_cores())

    def keep(request: Any, index: int) -> None:
        results_NYX[index] = request.get_output_tensor().data[0, 0]

    queue.set_callback(keep)

    def run() -> Any:
        for index, section_YX in enumerate(sections_NYX):
            queue.start_async(normalise(section_YX, intensity_statistics(section_YX))[None, None], index)
        queue.wait_all()
        return results_NYX

    return run
