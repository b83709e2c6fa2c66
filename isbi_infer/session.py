"""The one place that touches onnxruntime: providers, options, and the proof that a provider really runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.backend import Backend, Pixels
from isbi_infer.errors import DependencyError, ModelError, UsageError

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
_ELEMENT_TYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
_OPTIONS = {
    "cuda": {
        "use_tf32": "0",
        "prefer_nhwc": "1",
        "fuse_conv_bias": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
}
_DEVICES = {"cuda": "cuda", "tensorrt": "cuda"}  # where inputs and outputs stay between runs
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


_OUT_OF_MEMORY = (
    "bfc_arena",
    "Failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "CUDA out of memory",
)


def import_onnxruntime() -> Any:
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


class OnnxSession(Backend):
    """An ONNX model on one proved execution provider.

    Parameters
    ----------
    model : bytes
        The whole file; weights outside it are never read.
    provider : str
        A key of `PROVIDERS`.
    threads : int, optional
        Processor threads of one call of `run`. One by default, since `lanes` calls at once cost less than one call on
        all cores.

    Raises
    ------
    UsageError
        If the provider's name is unknown.
    DependencyError
        If onnxruntime is missing or doubled, or the provider does not really run here.
    ModelError
        If onnxruntime cannot load the model.
    """

    def __init__(self, model: bytes, provider: str, threads: int = 1) -> None:
        if provider not in PROVIDERS:
            raise UsageError(f"unknown provider {provider!r}; choose auto, {', '.join(PROVIDERS)}")
        self._onnxruntime = import_onnxruntime()
        available = self._onnxruntime.get_available_providers()
        if PROVIDERS[provider] not in available:
            raise DependencyError(
                f"provider {provider!r} is not in the installed onnxruntime ({', '.join(available)}); "
                f"run: {_REMEDY[provider]}"
            )
        self.provider = provider
        self.lanes = available_cores() if provider == "cpu" and threads == 1 else 1
        self._model = model
        self._alone: OnnxSession | None = None
        self._session = self._create(threads)
        active = self._session.get_providers()[0]
        if active != PROVIDERS[provider]:
            raise DependencyError(
                f"provider {provider!r} was asked for, but onnxruntime fell back to {active}; "
                f"check the driver and run: {_REMEDY[provider]}"
            )
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]
        self.outputs = [tensor.name for tensor in self._session.get_outputs()]
        if len(self.outputs) != 1:
            raise ModelError(f"expected one output, found {self.outputs}")
        self._output_dtype = _ELEMENT_TYPES.get(self._session.get_outputs()[0].type, np.float32)
        self._run_options = self._onnxruntime.RunOptions()
        self._device = _DEVICES.get(provider)
        self._bound: dict[tuple[int, ...], tuple[Any, dict[str, Any], Any]] = {}

    def alone(self) -> OnnxSession:
        """Give a session on all cores; see `Backend.alone`."""
        if self.lanes == 1:
            return self
        self._alone = self._alone or OnnxSession(self._model, self.provider, threads=self.lanes)
        return self._alone

    def _create(self, threads: int) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, once
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # a third less memory at the same speed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.provider != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            if hasattr(self._onnxruntime, "preload_dlls"):
                with contextlib.redirect_stdout(
                    io.StringIO()
                ):  # what is missing is said by the session's failure
                    self._onnxruntime.preload_dlls(directory="")
        self._onnxruntime.set_default_logger_severity(4)
        providers = [(PROVIDERS[self.provider], _OPTIONS.get(self.provider, {}))]
        with tempfile.TemporaryDirectory() as nowhere:
            # A model given as bytes may name outside files; they are looked for in this empty folder.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", nowhere)
            try:
                # Where a provider fails, the binding prints and tries others; standard output is the user's.
                with contextlib.redirect_stdout(io.StringIO()):
                    return self._onnxruntime.InferenceSession(
                        self._model, options, providers=providers, enable_fallback=0
                    )
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

    def _compute(
        self, batch_NCYX: Pixels, statistics_N111: tuple[npt.NDArray[np.float32], ...], out: Pixels | None
    ) -> Pixels:
        feeds = dict(zip(self.inputs, (batch_NCYX, *statistics_N111), strict=True))
        if self._device:
            return self._run_bound(feeds, self._device)
        if out is None:
            (result,) = self._session.run(self.outputs, feeds, self._run_options)
            return np.asarray(result)
        # Written in place: a new array for each batch costs its first touch, page by page.
        binding = self._session.io_binding()
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        binding.bind_output(self.outputs[0], "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(binding, self._run_options)
        return out

    def _is_lack_of_memory(self, reason: str) -> bool:
        return any(text in reason for text in _OUT_OF_MEMORY)

    def _run_bound(self, feeds: Mapping[str, Pixels], device: str) -> Pixels:
        """Run with inputs and output kept on the device, so that nothing is allocated from the second batch on."""
        batch_NCYX = feeds[self.inputs[0]]
        if batch_NCYX.shape not in self._bound:
            make = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
            values = {name: make(list(x.shape), x.dtype.type, device, 0) for name, x in feeds.items()}
            y = make(list(batch_NCYX.shape), self._output_dtype, device, 0)
            binding = self._session.io_binding()
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(self.outputs[0], y)
            self._bound[batch_NCYX.shape] = binding, values, y
        binding, values, y = self._bound[batch_NCYX.shape]
        for name, x in feeds.items():
            values[name].update_inplace(x)
        self._session.run_with_iobinding(binding, self._run_options)
        return np.array(y.numpy())  # a copy: the next batch overwrites what is bound

    def stop(self) -> None:
        """End running calls; see `Backend.stop`."""
        options, self._run_options = self._run_options, self._onnxruntime.RunOptions()
        options.terminate = True


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
    if cuda_is_compiled_in():
        try:
            return OnnxSession(model, "cuda")
        except DependencyError:
            pass  # the GPU wheel on a machine without a working GPU
    return OnnxSession(model, "cpu")


def cuda_is_compiled_in() -> bool:
    """Say whether the installed onnxruntime knows CUDA; whether it runs, only a session tells."""
    return PROVIDERS["cuda"] in import_onnxruntime().get_available_providers()
