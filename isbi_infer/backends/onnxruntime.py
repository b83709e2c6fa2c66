"""The one place that touches onnxruntime: its options, and the proof that a provider really runs."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.backends.base import Arithmetic, Backend, Device, Pixels, Stop
from isbi_infer.backends.cores import available_cores
from isbi_infer.backends.nvidia import list_gpus, why_not
from isbi_infer.backends.wheels import installed_wheels
from isbi_infer.errors import DependencyError, ModelError, ResourceError
from isbi_infer.headroom import is_lack_of_memory, says_lack_of_memory

_ELEMENT_TYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
_OUT_OF_MEMORY = ("bfc_arena", "bad allocation")
# A model given as bytes may name outside files; they are looked for below this file, where nothing can be.
_NOWHERE = str(Path(__file__) / "nowhere")
# Where in its own source onnxruntime found something wrong, and what it calls that.
_PLACE = re.compile(r"(\[ONNXRuntimeError\] : \d+ : \w+ : )?/\S+\.(?:h|cc|cpp|cu):\d+ .*?\) (?=[A-Z])")
_IMPORTING, _PRELOADING = threading.Lock(), threading.Lock()
_WITHOUT_TELEMETRY = "ORT_DISABLE_TELEMETRY"  # which it looks at once, while it is imported
_SHAPES_KEPT = 2  # each holds memory of the device for its inputs and its result
_Bound = tuple[Any, dict[str, Any], Any]  # a binding, and the inputs and the result that it binds


def import_onnxruntime(wheels: tuple[str, ...]) -> Any:
    """Import onnxruntime without its telemetry, or raise DependencyError with one line on why it cannot be used.

    From 1.29 on it tells its makers which models run, from a thread that makes the end of a forked process hang, unless
    a variable of the environment forbids it: that is set for as long as the import takes, where the user has not.

    Parameters
    ----------
    wheels : tuple of str
        Distributions of which only one may be installed.
    """
    installed = installed_wheels(wheels)
    if len(installed) > 1:
        keep = "gpu" if "onnxruntime-gpu" in installed else "cpu"
        raise DependencyError(
            f"{' and '.join(installed)} are both installed and overwrite each other; run: "
            f"pip uninstall -y {' '.join(installed)} && pip install 'isbi-infer[{keep}]'"
        )
    try:
        return import_silently()
    except ImportError as error:
        if is_lack_of_memory(error):
            raise ResourceError("not enough memory to load onnxruntime; free some") from error
        raise DependencyError(
            "onnxruntime is not installed; run: pip install 'isbi-infer[cpu]' (or 'isbi-infer[gpu]' for CUDA)"
        ) from error


def import_silently() -> Any:
    """Import onnxruntime without its telemetry; ImportError where it is not installed."""
    with _IMPORTING:
        ours = "onnxruntime" not in sys.modules and _WITHOUT_TELEMETRY not in os.environ
        if ours:
            os.environ[_WITHOUT_TELEMETRY] = "1"
        try:
            import onnxruntime

            return onnxruntime
        finally:
            if ours:
                del os.environ[_WITHOUT_TELEMETRY]


def preload_libraries(onnxruntime: Any) -> list[str]:
    """Load the CUDA and cuDNN libraries that pip installed; return what could not be loaded, a line each."""
    said: list[str] = []
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it misses, and standard output is the user's: only its own `print` is taken.
        with _PRELOADING:
            onnxruntime.print = lambda *parts, **_: said.append(" ".join(map(str, parts)))
            try:
                onnxruntime.preload_dlls(directory="")
            finally:
                del onnxruntime.print
    return said


class OnnxSession(Backend):
    """An ONNX model on one proved execution provider; see `Backend` for the arguments.

    One thread a call by default, since `workers` calls at once cost less than one call on all cores. Weights outside
    the file are never read.

    Raises
    ------
    DependencyError
        If onnxruntime is missing or doubled, or the provider does not really run here.
    ModelError
        If onnxruntime cannot load the model.
    """

    def __init__(
        self, content: bytes, device: Device, arithmetic: Arithmetic, threads: int | None = None
    ) -> None:
        self._onnxruntime = import_onnxruntime(device.clashes)
        available = self._onnxruntime.get_available_providers()
        if device.runtime_name not in available:
            raise DependencyError(
                f"provider {device.name!r} is not in the installed onnxruntime ({', '.join(available)}); "
                f"run: {device.remedy}"
            )
        self.device, self.arithmetic = device, arithmetic
        self.version = f"onnxruntime {self._onnxruntime.__version__}"
        self.workers = available_cores() if device.kind == "cpu" and threads in (None, 1) else 1
        self._content = content
        self._on_all_cores: OnnxSession | None = None
        self._session = self._create(threads or 1)
        active = self._session.get_providers()[0]
        if active != device.runtime_name:
            raise DependencyError(
                f"provider {device.name!r} was asked for, but onnxruntime fell back to {active}; "
                f"{self._mend()}"
            )
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]
        self.outputs = [tensor.name for tensor in self._session.get_outputs()]
        if len(self.outputs) != 1:
            raise ModelError(f"expected one output, found {self.outputs}")
        self._output_dtype = _ELEMENT_TYPES.get(self._session.get_outputs()[0].type, np.float32)
        self._bound: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()
        self._binding = threading.Lock()

    def on_all_cores(self) -> OnnxSession:
        """Return a session on all cores; see `Backend.on_all_cores`."""
        if self.workers == 1:
            return self
        if self._on_all_cores is None:
            self._on_all_cores = OnnxSession(
                self._content, self.device, self.arithmetic, threads=self.workers
            )
        return self._on_all_cores

    def new_stop(self) -> Stop:
        """Return what ends the calls that it is handed to; see `Backend.new_stop`."""
        return _OnnxStop(self._onnxruntime)

    def _create(self, threads: int) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, once
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # a third less memory at the same speed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the one that was read before
        missing: list[str] = []
        if self.device.runtime_name != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            missing = preload_libraries(self._onnxruntime)
        self._onnxruntime.set_default_logger_severity(4)
        providers = [(self.device.runtime_name, dict(self.device.options))]
        try:
            return self._onnxruntime.InferenceSession(
                self._content, options, providers=providers, enable_fallback=0
            )
        except Exception as error:
            raise self._load_error(error, missing) from error

    def _load_error(self, error: Exception, missing: list[str]) -> Exception:
        """Distinguish a missing device from a bad model; the binding's exceptions share no base but Exception."""
        kind, reason = type(error).__name__, _PLACE.sub("", " ".join(str(error).split()))
        if self._is_lack_of_memory(reason):
            return ResourceError("not enough memory to load the model; free some")
        cpu = self.device.runtime_name == "CPUExecutionProvider"
        if not cpu and kind not in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument"):
            found = missing[0] if missing else reason[:300]
            return DependencyError(f"provider {self.device.name!r} does not run here: {self._mend(found)}")
        newer = any(word in reason.lower() for word in ("opset", "ir version", "ir_version"))
        if newer and "missing opset" not in reason.lower():
            return ModelError(f"the model needs a newer onnxruntime ({reason[:300]})")
        if "not a registered function/op" in reason or "No Op registered" in reason:
            return ModelError(
                f"the model has an operator that this onnxruntime lacks, so it needs a newer onnxruntime, or is of "
                f"another program ({reason[:300]})"
            )
        return ModelError(f"onnxruntime cannot load the model ({kind}: {reason[:300]})")

    def _mend(self, found: str = "") -> str:
        """Return why a provider that is compiled in does not run, from what the machine shows, and what to do."""
        if self.device.kind == "gpu":
            return why_not(list_gpus(), getattr(self._onnxruntime, "cuda_version", ""), found)
        return f"{found}; run: {self.device.remedy}"

    def _compute(
        self,
        batch_NCYX: Pixels,
        statistics_N111: tuple[npt.NDArray[np.float32], ...],
        out: Pixels | None,
        stop: Stop | None,
    ) -> Pixels:
        feeds = dict(zip(self.inputs, (batch_NCYX, *statistics_N111), strict=True))
        options = stop.options if isinstance(stop, _OnnxStop) else self._onnxruntime.RunOptions()
        if self.device.memory_space:
            return self._run_bound(feeds, self.device.memory_space, options)
        if out is None:
            (result,) = self._session.run(self.outputs, feeds, options)
            return np.asarray(result)
        # Written in place: a new array for each batch costs its first touch, page by page.
        binding = self._session.io_binding()
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        binding.bind_output(self.outputs[0], "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(binding, options)
        return out

    def _is_lack_of_memory(self, reason: str) -> bool:
        return says_lack_of_memory(reason) or any(text in reason for text in _OUT_OF_MEMORY)

    def _run_bound(self, feeds: Mapping[str, Pixels], memory_space: str, options: Any) -> Pixels:
        """Run with inputs and output kept on the device, so that nothing is allocated from the second batch on."""
        with self._binding:  # callers share what is bound
            try:
                return self._run_in_place(feeds, memory_space, options)
            except Exception:
                self._bound.clear()  # where memory lacks, it is in the way of the smaller shape that follows
                raise

    def _run_in_place(self, feeds: Mapping[str, Pixels], memory_space: str, options: Any) -> Pixels:
        shape = feeds[self.inputs[0]].shape
        if shape not in self._bound:
            while len(self._bound) >= _SHAPES_KEPT:
                self._bound.popitem(last=False)
            self._bound[shape] = self._bind(feeds, memory_space)
        self._bound.move_to_end(shape)
        binding, values, y = self._bound[shape]
        for name, x in feeds.items():
            values[name].update_inplace(x)
        self._session.run_with_iobinding(binding, options)
        return np.array(y.numpy())  # a copy: the next batch overwrites what is bound

    def _bind(self, feeds: Mapping[str, Pixels], memory_space: str) -> _Bound:
        """Allocate what a shape of a batch needs on the device."""
        make = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
        values = {name: make(list(x.shape), x.dtype.type, memory_space, 0) for name, x in feeds.items()}
        # Whatever the network sees, it says one thing of a pixel.
        count, _, *size = feeds[self.inputs[0]].shape
        y = make([count, 1, *size], self._output_dtype, memory_space, 0)
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self.outputs[0], y)
        return binding, values, y


class _OnnxStop(Stop):
    def __init__(self, onnxruntime: Any) -> None:
        super().__init__()
        self.options = onnxruntime.RunOptions()

    def set(self) -> None:
        super().set()
        self.options.terminate = True
