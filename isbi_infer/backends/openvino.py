"""ONNX models, run by OpenVINO on the processor; the one place that touches it.

OpenVINO is imported when a model is opened on it and not before.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import logging
import os
import re
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from isbi_infer.backends.base import CONTRACT_KEY, Arithmetic, Backend, Device, Pixels, Stop
from isbi_infer.backends.compiled_cache import read_compiled, write_compiled
from isbi_infer.backends.cores import available_cores, processor_kind, processor_name
from isbi_infer.backends.forks import leave_to_this_process
from isbi_infer.backends.wheels import installed_wheels
from isbi_infer.errors import DependencyError, ModelError, ResourceError
from isbi_infer.headroom import check_headroom, has_headroom, is_lack_of_memory, says_lack_of_memory

_OLDEST = (
    2025,
    2,
)  # the oldest one that the tests pass with; before it, compiled models are exported otherwise
_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()
_DEVICE = "CPU"
# What it calls the precisions, where it lists those that the processor has instructions for, and in its graphs.
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_INTEGERS = frozenset({"u8", "i8"})
_CONVOLUTIONS = ("Convolution", "Deconvolution")
_SHAPES_KEPT = 2  # each holds the memory of its activations
_POLL_MS = 100
# Of oneDNN, which does not say why.
_OUT_OF_MEMORY = re.compile(r"could not (create|execute) a (memory|primitive)(?! descriptor)", re.I)
_AT_ITS_END = 2**25  # bytes; where no more can be had, that is why a call failed, whatever it says
_WHERE = re.compile(r"(Exception from \S+|Check '.*?' failed at \S+?):(\d+:)?\s*")
_LACKING = re.compile(
    r"(?:No conversion rule found for|does not support the following ONNX) operations: ([^\n]*)"
)

log = logging.getLogger(__name__)


def import_openvino(device: Device) -> Any:
    """Import OpenVINO without its telemetry, or raise DependencyError that says in one line why it cannot be used.

    By itself, ``import openvino`` reports the import to Google Analytics from a child process, and writes a client's
    id into the user's home folder. It does so through the package ``openvino_telemetry``; while that cannot be
    imported, OpenVINO takes an empty one of its own, and keeps it. Afterwards ``sys.modules`` is as it was, so that
    others in this process find that package as they would without us. Where they imported openvino first, that import
    was theirs.

    Parameters
    ----------
    device : Device
        The row of the table: what provides it, and what clashes.
    """
    installed = installed_wheels(device.clashes)
    if len(installed) > 1:
        raise DependencyError(
            f"{' and '.join(installed)} are both installed and overwrite each other; run: "
            f"pip uninstall -y {' '.join(installed)} && {device.remedy}"
        )
    try:
        openvino = _import_silently()
        version = str(openvino.get_version())
    except ModuleNotFoundError as error:
        if error.name == "openvino":
            raise DependencyError(f"openvino is not installed; run: {device.remedy}") from error
        raise _damaged(device, error) from error
    except (
        ImportError,
        OSError,
        AttributeError,
        SystemExit,
    ) as error:  # SystemExit: on Windows, without its libraries
        raise _damaged(device, error) from error
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        raise DependencyError(
            f"openvino {version} is too old; expected {'.'.join(map(str, _OLDEST))} or newer; "
            f"run: {device.remedy.replace('install', 'install --upgrade', 1)}"
        )
    return openvino


def native_precisions(device: Device) -> tuple[str, ...]:
    """Return the row's precisions that this processor has instructions for, in the row's order; others are emulated.

    Raises
    ------
    DependencyError
        If OpenVINO cannot be used here.
    """
    capabilities = set(
        _core(import_openvino(device), device).get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    )
    return tuple(a.name for a in device.arithmetic if _CAPABILITIES[a.name] in capabilities)


class OpenVinoModel(Backend):
    """An ONNX model on OpenVINO's CPU plugin, in one proved precision; see `Backend` for the arguments.

    Each shape of a batch is compiled on its own, since fixed shapes are faster and have had fewer bugs than dynamic
    ones; the last two are held. `workers` calls at once run as many streams of one thread, and results are the same to
    the bit for every tile, batch, number of threads and of workers. int8 models compute what is not quantised in
    bfloat16 where the processor has it, else in float32.

    The precision is proved by what OpenVINO reports of each compiled model: the precision hint that it kept, and the
    one in which each convolution runs. One that the processor would emulate is refused. Compiled models are kept in the
    user's cache folder; see `isbi_infer.backends.compiled_cache`.

    Attributes
    ----------
    convolutions : mapping of str to int
        How many convolutions run in which precision, as OpenVINO calls it, in the shape compiled last.

    Raises
    ------
    DependencyError
        If OpenVINO is missing, doubled, damaged or too old, or the precision is not native here.
    ModelError
        If OpenVINO cannot load the model.
    ResourceError
        If memory does not suffice to compile it.
    """

    def __init__(
        self, content: bytes, device: Device, arithmetic: Arithmetic, threads: int | None = None
    ) -> None:
        self._openvino = import_openvino(device)
        self._core = _core(self._openvino, device)
        self._capabilities = _capabilities(self._core)
        native = native_precisions(device)
        if arithmetic.name not in native:
            raise DependencyError(
                f"precision {arithmetic.name!r} was asked for, but {processor_name()} would emulate it; "
                f"use --precision {', '.join(native)}, or --provider cpu"
            )
        self.device, self.arithmetic = device, arithmetic
        self.version = f"openvino {self._openvino.get_version()}"
        self.workers = available_cores() if threads in (None, 1) else 1
        self.convolutions: Counter[str] = Counter()
        rest = "bf16" if "bf16" in native else "fp32"
        self._hint = _HINTS[rest if arithmetic.name == "int8" else arithmetic.name]
        self._settings = _settings(self._hint, self.workers, threads or self.workers)
        self._on_all_cores: OpenVinoModel | None = None
        self._model = self._read(content)
        self.inputs = [port.get_any_name() for port in self._model.inputs]
        self.outputs = [port.get_any_name() for port in self._model.outputs]
        if len(self.outputs) != 1:
            raise ModelError(f"expected one output, found {self.outputs}")
        self._fixed: OrderedDict[tuple[int, ...], _FixedShape] = OrderedDict()
        self._compiling = threading.Lock()  # also of `on_all_cores`, which has the same model
        self._digest = hashlib.sha256(content).hexdigest()
        if smallest := self._smallest():
            self._for_shape(smallest)

    def on_all_cores(self) -> OpenVinoModel:
        """Return the model with one stream on all cores; see `Backend.on_all_cores`."""
        if self.workers == 1:
            return self
        if self._on_all_cores is None:
            one = copy.copy(self)
            one.workers, one._settings = 1, _settings(self._hint, 1, self.workers)
            one._fixed = OrderedDict()
            self._on_all_cores = one
        return self._on_all_cores

    def new_stop(self) -> Stop:
        """Return what ends the calls that it is handed to; see `Backend.new_stop`."""
        return _OpenVinoStop()

    def _read(self, content: bytes) -> Any:
        try:
            return self._core.read_model(content)
        except RuntimeError as error:
            if lacking := _LACKING.search(str(error)):
                raise ModelError(
                    f"OpenVINO lacks the operator {lacking[1].strip()}; use --provider cpu"
                ) from error
            raise self._failure(error, "read the model") from error

    def _smallest(self) -> tuple[int, ...] | None:
        """Return the shape of the tile that a model is probed with; None where it does not say its stride."""
        try:
            contract = json.loads(self._model.get_rt_info(["framework", CONTRACT_KEY]).value)
            stride, channels = int(contract["stride"]), int(contract["input_channels"])
        except (RuntimeError, ValueError, TypeError, LookupError):
            return None
        return (1, channels, stride, 2 * stride)

    def _compute(
        self,
        batch_NCYX: Pixels,
        statistics_N111: tuple[npt.NDArray[np.float32], ...],
        out: Pixels | None,
        stop: Stop | None,
    ) -> Pixels:
        fixed = self._for_shape(batch_NCYX.shape)
        result = np.empty(fixed.output_shape, fixed.output_dtype) if out is None else out
        # OpenVINO reads and writes these buffers themselves, and does not keep them from being freed.
        feeds = [np.require(values, requirements=["C", "W"]) for values in (batch_NCYX, *statistics_N111)]
        with fixed.request() as request:
            for index, values in enumerate(feeds):
                request.set_input_tensor(index, self._shared(values))
            request.set_output_tensor(0, self._shared(result))
            with stop.running(request) if isinstance(stop, _OpenVinoStop) else _running(request):
                while not request.wait_for(_POLL_MS):  # so that Ctrl-C is heard
                    pass
        return result

    def _shared(self, values: Pixels) -> Any:
        return self._openvino.Tensor(values, shared_memory=True)

    def _for_shape(self, shape: tuple[int, ...]) -> _FixedShape:
        with self._compiling:
            if shape not in self._fixed:
                while len(self._fixed) >= _SHAPES_KEPT:
                    self._fixed.popitem(last=False)
                try:
                    self._fixed[shape] = _FixedShape(self._compiled(shape), self.workers)
                except ResourceError:
                    # A smaller shape comes next; what is larger is in its way.
                    for larger in [s for s in self._fixed if prod(s) >= prod(shape)]:
                        del self._fixed[larger]
                    raise
            self._fixed.move_to_end(shape)
            return self._fixed[shape]

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        threads = _threads_of(self._core, self._openvino, self._settings)
        threads.free()
        statistics = [(*shape[:2], 1, 1)] * (len(self.inputs) - 1)
        key = {
            "model": self._digest,
            "runtime": self.version,
            "processor": [processor_kind(), processor_name(), *self._capabilities],
            "settings": self._settings,
            "shape": shape,
            "statistics": statistics,
        }
        kept = read_compiled(key)
        if kept is not None:
            try:
                compiled = self._core.import_model(kept, _DEVICE, self._settings)
                threads.used_by(compiled)
                self._prove(compiled)
            except (RuntimeError, DependencyError) as error:  # of another processor
                log.debug("a compiled model from the cache cannot be used: %s", error)
            else:
                return compiled
        try:
            self._model.reshape(dict(zip(range(len(self.inputs)), [shape, *statistics], strict=True)))
            compiled = self._core.compile_model(self._model, _DEVICE, self._settings)
        except RuntimeError as error:
            raise self._failure(error, f"compile the model for a batch of shape {shape}") from error
        threads.used_by(compiled)
        self._prove(compiled)
        write_compiled(key, compiled.export_model().getvalue())
        return compiled

    def _prove(self, compiled: Any) -> None:
        """Raise DependencyError unless the compiled model computes in the precision that was asked for."""
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        self.convolutions = Counter(
            node["runtimePrecision"].value for node in nodes if node["layerType"].value in _CONVOLUTIONS
        )
        integers = _INTEGERS if self.arithmetic.name == "int8" else frozenset()
        wanted = integers or {self._hint}
        beside = wanted | {self._hint, "f32"}
        if hint != self._hint or not (wanted & set(self.convolutions) and set(self.convolutions) <= beside):
            found = ", ".join(f"{count} in {kind}" for kind, count in self.convolutions.items()) or "none"
            raise DependencyError(
                f"precision {self.arithmetic.name!r} was asked for, but {self.version} computes in {hint} "
                f"(convolutions: {found}); use another --precision, or --provider cpu"
            )

    def _failure(self, error: RuntimeError, what: str) -> ModelError | ResourceError:
        reason = self._shortened(" ".join(str(error).split()))
        if self._is_lack_of_memory(reason) or not has_headroom(_AT_ITS_END):
            return ResourceError(f"not enough memory to {what}; use a smaller --batch or --tile")
        return ModelError(f"OpenVINO cannot {what} ({reason[:300]})")

    def _is_lack_of_memory(self, reason: str) -> bool:
        return says_lack_of_memory(reason) or _OUT_OF_MEMORY.search(reason) is not None

    def _shortened(self, reason: str) -> str:
        # It puts the lines of its sources before what happened.
        return _WHERE.sub("", reason).strip()


class _FixedShape:
    """A model compiled for one shape, and its requests, of which no more are made than compute at once."""

    def __init__(self, compiled: Any, workers: int) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []
        self._slots = threading.BoundedSemaphore(workers)
        (output,) = compiled.outputs
        self.output_shape = tuple(output.shape)
        self.output_dtype = output.get_element_type().to_dtype()

    @contextmanager
    def request(self) -> Iterator[Any]:
        """Wait for a request that is free, and hold it."""
        with self._slots:
            try:
                request = self._idle.pop()
            except IndexError:
                request = self._compiled.create_infer_request()
            try:
                yield request
            finally:
                self._idle.append(request)


class _Threads:
    """The threads that OpenVINO makes for compiled models of some settings, and keeps for later ones.

    A forked process would be handed them for a model of its own, where they are no more, and wait for ever. So none is
    left over at the moment of a fork: what no model uses any more is taken by models that do nothing.
    """

    def __init__(self, core: Any, openvino: Any, settings: dict[str, Any]) -> None:
        self._core, self._openvino, self._settings = core, openvino, settings
        self._users: WeakSet[Any] = WeakSet()
        self._most = 0
        self._taken: list[Any] = []

    def used_by(self, compiled: Any) -> None:
        """Note a compiled model that has threads."""
        self._users.add(compiled)
        self._most = max(self._most, len(self._users))

    def take(self) -> None:
        """Take what is left over."""
        operators = self._openvino.opset8
        for _ in range(self._most - len(self._users)):
            x = operators.parameter([1])
            nothing = self._core.compile_model(
                self._openvino.Model([operators.relu(x)], [x]), _DEVICE, self._settings
            )
            leave_to_this_process(nothing)
            self._taken.append(nothing)
            self.used_by(nothing)

    def free(self) -> None:
        """Leave it to the model that comes next."""
        self._taken.clear()


_threads: dict[tuple[Any, ...], _Threads] = {}


def _threads_of(core: Any, openvino: Any, settings: dict[str, Any]) -> _Threads:
    return _threads.setdefault(tuple(settings.values()), _Threads(core, openvino, settings))


def _take_all_threads() -> None:
    for threads in list(_threads.values()):
        with contextlib.suppress(RuntimeError):  # for lack of memory
            threads.take()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_take_all_threads)


@contextmanager
def _running(request: Any) -> Iterator[None]:
    """Start a request, and leave it at rest whatever happens."""
    request.start_async()
    try:
        yield
    except BaseException:
        request.cancel()
        with contextlib.suppress(RuntimeError):
            request.wait()
        raise


class _OpenVinoStop(Stop):
    def __init__(self) -> None:
        super().__init__()
        self._requests: list[Any] = []
        self._guard = threading.Lock()

    def set(self) -> None:
        with self._guard:
            super().set()
            for request in self._requests:
                request.cancel()

    @contextmanager
    def running(self, request: Any) -> Iterator[None]:
        """Start a request unless the stop is set, and cancel it when it is."""
        with contextlib.ExitStack() as stack:
            with self._guard:
                if self.is_set:
                    raise ModelError("stopped")
                stack.enter_context(_running(request))
                self._requests.append(request)
            try:
                yield
            finally:
                with self._guard:
                    self._requests.remove(request)


def _settings(hint: str, streams: int, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
        "ENABLE_HYPER_THREADING": True,
    }


def _import_silently() -> Any:
    with _IMPORTING:
        if loaded := sys.modules.get("openvino"):
            return loaded
        before = {name: sys.modules[name] for name in (_TELEMETRY,) if name in sys.modules}
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # which makes its import fail
        try:
            import openvino

            return openvino
        finally:
            del sys.modules[_TELEMETRY]
            sys.modules.update(before)


@functools.cache
def _core_of(openvino: Any) -> Any:
    core = openvino.Core()
    leave_to_this_process(core)
    core.get_property(_DEVICE, "FULL_DEVICE_NAME")  # which loads the plugin
    check_headroom("the threads of openvino; use --provider cpu, which takes less")
    return core


def _core(openvino: Any, device: Device) -> Any:
    try:
        return _core_of(openvino)
    except RuntimeError as error:
        raise _damaged(device, error) from error


def _capabilities(core: Any) -> list[str]:
    return sorted(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _damaged(device: Device, error: BaseException) -> DependencyError | ResourceError:
    if is_lack_of_memory(error) or not has_headroom(_AT_ITS_END):
        return ResourceError("not enough memory to load openvino; use --provider cpu, which takes less")
    reason = _WHERE.sub("", " ".join(f"{error}".split()))[:200]
    return DependencyError(
        f"openvino is installed, but does not run here ({reason}): it is damaged, lacks its CPU plugin, or was built "
        f"for another processor or system; run: {device.remedy.replace('install', 'install --force-reinstall', 1)}"
    )
