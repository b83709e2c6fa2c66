"""The one place that touches onnxruntime: providers, options, and the proof that a provider really runs."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import DependencyError, ModelError, ResourceError, UsageError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_REMEDY = {
    "cuda": "pip uninstall -y onnxruntime && pip install 'isbi-infer[gpu]'",
    "tensorrt": "pip uninstall -y onnxruntime && pip install 'isbi-infer[gpu]' tensorrt",
    "openvino": "pip uninstall -y onnxruntime && pip install onnxruntime-openvino",
}
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def _onnxruntime() -> Any:
    """Import onnxruntime, or say in one line why it cannot be used."""
    installed = [wheel for wheel in _WHEELS if _is_installed(wheel)]
    if len(installed) > 1:
        keep = "gpu" if "onnxruntime-gpu" in installed else "cpu"
        raise DependencyError(
            f"{' and '.join(installed)} are both installed and overwrite each other; run: "
            f"pip uninstall -y {' '.join(installed)} && pip install 'isbi-infer[{keep}]'"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "onnxruntime is not installed; run: pip install 'isbi-infer[cpu]' (or 'isbi-infer[gpu]' for CUDA)"
        ) from error
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def available_cores() -> int:
    """Count the processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxSession:
    """An ONNX model on one proved execution provider.

    Parameters
    ----------
    model : bytes
        The whole file; weights outside it are never read.
    provider : str
        A key of `PROVIDERS`.

    Raises
    ------
    UsageError
        If the provider's name is unknown.
    DependencyError
        If onnxruntime is missing or doubled, or the provider does not really run here.
    ModelError
        If onnxruntime cannot load the model.
    """

    def __init__(self, model: bytes, provider: str) -> None:
        if provider not in PROVIDERS:
            raise UsageError(f"unknown provider {provider!r}; choose auto, {', '.join(PROVIDERS)}")
        onnxruntime = _onnxruntime()
        name = PROVIDERS[provider]
        if name not in onnxruntime.get_available_providers():
            raise DependencyError(
                f"provider {provider!r} is not in the installed onnxruntime "
                f"({', '.join(onnxruntime.get_available_providers())}); run: {_REMEDY[provider]}"
            )
        self.provider = provider
        self._session = self._create(onnxruntime, model, name)
        active = self._session.get_providers()[0]
        if active != name:
            raise DependencyError(
                f"provider {provider!r} was asked for, but onnxruntime fell back to {active}; "
                f"check the driver and run: {_REMEDY[provider]}"
            )

    def _create(self, onnxruntime: Any, model: bytes, name: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, once
        options.intra_op_num_threads = available_cores()
        options.enable_mem_pattern = False  # a third less memory at the same speed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider_options: dict[str, str] = {}
        if name != PROVIDERS["cpu"]:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls(directory="")
        if name == PROVIDERS["cuda"]:
            provider_options = {
                "use_tf32": "0",
                "cudnn_conv_algo_search": "HEURISTIC",
                "cudnn_conv_use_max_workspace": "1",
            }
        onnxruntime.set_default_logger_severity(4)
        with tempfile.TemporaryDirectory() as nowhere:
            # A model given as bytes may name outside files; they are looked for in this empty folder.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", nowhere)
            try:
                return onnxruntime.InferenceSession(model, options, providers=[(name, provider_options)])
            except Exception as error:
                raise self._load_error(error) from error

    def _load_error(self, error: Exception) -> Exception:
        """Tell a missing device from a bad model; the binding's exceptions share no base but Exception."""
        kind, reason = type(error).__name__, " ".join(str(error).split())
        if self.provider != "cpu" and kind not in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument"):
            return DependencyError(
                f"provider {self.provider!r} does not run here ({reason[:300]}); run: {_REMEDY[self.provider]}"
            )
        if "opset" in reason.lower() or "ir version" in reason.lower() or "ir_version" in reason.lower():
            return ModelError(f"the model needs a newer onnxruntime ({reason[:300]})")
        return ModelError(f"onnxruntime cannot load the model ({kind}: {reason[:300]})")

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's ``metadata_props``."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [tensor.name for tensor in self._session.get_inputs()]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [tensor.name for tensor in self._session.get_outputs()]

    def run(self, batch_NCYX: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run one batch.

        Parameters
        ----------
        batch_NCYX : ndarray of float32, shape (N, 1, Y, X)
            Normalised grey values.

        Returns
        -------
        ndarray of float32, shape (N, 1, Y, X)
            Probabilities of cell interior.

        Raises
        ------
        ResourceError
            If the device's memory does not suffice.
        ModelError
            If the model refuses the batch.
        """
        try:
            (result,) = self._session.run(self.outputs[:1], {self.inputs[0]: batch_NCYX})
        except Exception as error:
            reason = " ".join(str(error).split())
            if (
                "bfc_arena" in reason
                or "Failed to allocate memory" in reason
                or isinstance(error, MemoryError)
            ):
                raise ResourceError(
                    f"not enough memory on {self.provider} for a batch of shape {batch_NCYX.shape}; "
                    "use a smaller --batch or --tile"
                ) from error
            raise ModelError(
                f"the model failed on a batch of shape {batch_NCYX.shape} ({reason[:300]})"
            ) from error
        return np.asarray(result)


def open_session(model: bytes, provider: str) -> OnnxSession:
    """Open a model on a provider; "auto" takes CUDA where a CUDA session really runs, and the CPU otherwise.

    Parameters
    ----------
    model : bytes
        The whole ONNX file.
    provider : str
        "auto" or a key of `PROVIDERS`.

    Returns
    -------
    OnnxSession
        Its ``provider`` says which one it is.
    """
    if provider != "auto":
        return OnnxSession(model, provider)
    if PROVIDERS["cuda"] in _onnxruntime().get_available_providers():
        try:
            return OnnxSession(model, "cuda")
        except DependencyError:
            pass  # the GPU wheel on a machine without a working GPU
    return OnnxSession(model, "cpu")
