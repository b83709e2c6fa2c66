"""TorchScript models, run by torch; the one place in the core that touches it.

torch is imported when a model is opened and not before, so that the light path never pays for it.
"""

from __future__ import annotations

import io
import json
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isbi_infer.backends.base import CONTRACT_KEY, Arithmetic, Backend, Device, Pixels, Stop
from isbi_infer.backends.cores import available_cores, reduced_float32
from isbi_infer.errors import DependencyError, ModelError, ResourceError
from isbi_infer.headroom import check_headroom_of_torch, is_lack_of_memory, says_lack_of_memory
from isbi_infer.surroundings import some_working_folder

if TYPE_CHECKING:
    import torch

_INSTALL = "run: pip install torch (or pip install 'isbi-infer[train]')"
_ONE_AT_A_TIME = threading.Lock()
_NATIVE_BELOW = 20480  # elements of an input of one image; torch convolves no more than these without oneDNN


class TorchScriptSession(Backend):
    """A TorchScript model on one proved device.

    On the CPU, tiled results equal the whole-image result bit for bit, for every tile, batch and number of workers.
    torch promises nothing of the kind: this was measured, with torch 2.13 on processors with AVX2 and with AVX-512,
    where none of 5,000 tiles of six networks differed; older processors differed by up to 3e-6. It takes three things:

    - One call of `run` computes in one thread. oneDNN and MKL divide some sums among threads depending on the shape
      (differences of up to 2e-7 with three threads). `workers` calls at once use all cores, and torch's own number of
      threads is put back after each.
    - The graph goes through ``torch.jit.optimize_for_inference``, which hands every convolution to oneDNN; otherwise
      torch convolves small images by other means than large ones (2.5e-6). It is also a sixth faster.
    - A lone image that is so small that torch would compute a transposed convolution without oneDNN goes in twice
      (1e-7).

    On CUDA nothing of this is so, and results differ in the last digits. TensorFloat-32 is off on all devices.

    TorchScript is a program, and torch's documentation calls it no sandbox: open files from people you trust. The other
    arguments are those of `Backend`; the number of threads is not taken, see above.

    Raises
    ------
    DependencyError
        If torch is missing, CUDA does not really run here, or the environment makes torch compute float32 in less.
    ModelError
        If the file is damaged or is no TorchScript.
    """

    def __init__(
        self, content: bytes, device: Device, arithmetic: Arithmetic, threads: int | None = None
    ) -> None:
        _require_torch()
        import torch

        if device.kind == "gpu":
            _prove_cuda()
        elif lowered := reduced_float32():
            raise DependencyError(
                f"{lowered} makes torch compute float32 in less, which {arithmetic.name} would not be; unset it, "
                "or run the ONNX file of the model"
            )
        self.device, self.arithmetic = device, arithmetic
        self.version = f"torch {torch.__version__}"
        self.workers = available_cores() if device.kind == "cpu" else 1
        module, document = load_script(content, device.runtime_name)
        self.inputs, self.outputs = [], []
        self._module, self._twice_below = module, 0.0
        stride, channels = _stride_and_channels(document)
        if device.kind == "cpu":
            with _loading():
                self._module = torch.jit.optimize_for_inference(module)
            self._twice_below = _NATIVE_BELOW * stride**2 / _fewest_upsampled(self._module)
        else:
            blank_NCYX = np.zeros((1, channels, stride, stride), np.float32)
            self.run(blank_NCYX)  # first, since it says what is wrong
            _, found = self._run(blank_NCYX)
            if found != device.runtime_name:
                raise ModelError(
                    f"the script returns its result on {found} when it runs on {device.name}; export it again"
                )

    def _compute(
        self,
        batch_NCYX: Pixels,
        statistics_N111: tuple[npt.NDArray[np.float32], ...],
        out: Pixels | None,
        stop: Stop | None,
    ) -> Pixels:
        count = len(batch_NCYX)
        if count == 1 and batch_NCYX[0, 0].size <= self._twice_below:
            batch_NCYX = np.concatenate([batch_NCYX, batch_NCYX])
        result_NCYX, _ = self._run(batch_NCYX)
        return result_NCYX[:count]

    def _is_lack_of_memory(self, reason: str) -> bool:
        return says_lack_of_memory(self._shortened(reason))

    def _shortened(self, reason: str) -> str:
        # The interpreter puts the place in the graph before what happened.
        return reason.rpartition("RuntimeError: ")[2]

    def on_all_cores(self) -> TorchScriptSession:
        """Return this one: a call on several threads would not be exact."""
        return self

    def _run(self, batch_NCYX: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], str]:
        """Return the result, and the device that it was computed on."""
        import torch

        settings = _one_thread() if self.device.kind == "cpu" else _full_precision()
        with torch.inference_mode(), settings:
            image_NCYX = torch.from_numpy(np.require(batch_NCYX, requirements=["C", "W"]))
            result_NCYX = self._module(image_NCYX.to(self.device.runtime_name))
            if not isinstance(result_NCYX, torch.Tensor):
                raise ModelError(f"the script returns a {type(result_NCYX).__name__}, expected one tensor")
            return result_NCYX.cpu().numpy(), result_NCYX.device.type


def load_script(model: bytes, device: str = "cpu") -> tuple[torch.jit.ScriptModule, str]:
    """Load a TorchScript file and the contract in it.

    Parameters
    ----------
    model : bytes
        The whole file.
    device : str
        Where its weights go.

    Returns
    -------
    (ScriptModule, str)
        The model, in evaluation mode, and its contract's JSON document, empty where there is none.

    Raises
    ------
    ModelError
        If the file is no TorchScript, or its checksums are wrong.
    """
    _require_torch()
    import torch

    extra: dict[str, Any] = {CONTRACT_KEY: ""}
    with _loading():
        # torch does not compare the archive's checksums, so a flipped bit would pass for a weight.
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
        module = torch.jit.load(io.BytesIO(model), map_location=device, _extra_files=extra)
        document = extra[CONTRACT_KEY]
        return module.eval(), document.decode() if isinstance(document, bytes) else document


def _stride_and_channels(document: str) -> tuple[int, int]:
    """Read stride and channels off a script's contract, which is checked elsewhere; 1 where there is none."""
    try:
        contract = json.loads(document)
        return max(1, int(contract["stride"])), max(1, int(contract["input_channels"]))
    except (ValueError, TypeError, LookupError):
        return 1, 1


def _require_torch() -> None:
    """Raise DependencyError or ResourceError with one line on why torch cannot be used, if it cannot."""
    check_headroom_of_torch()
    try:
        with some_working_folder():
            import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
        if is_lack_of_memory(error):
            raise ResourceError("not enough memory to load torch; free some") from error
        reason = (
            "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        )
        raise DependencyError(f"a TorchScript model needs torch, which {reason}; {_INSTALL}") from error


def _prove_cuda() -> None:
    """Raise DependencyError unless torch computes a convolution on a CUDA device."""
    _require_torch()
    import torch

    if torch.version.cuda is None:
        raise DependencyError(
            f"CUDA was asked for, but torch {torch.__version__} was built without it; run: pip uninstall -y torch && "
            "pip install torch --index-url https://download.pytorch.org/whl/cu130 (or use --provider cpu)"
        )
    try:
        ones_NCYX = torch.ones(1, 1, 8, 8, device="cuda")
        with torch.inference_mode():
            found = torch.nn.functional.conv2d(ones_NCYX, ones_NCYX[:, :, :3, :3]).cpu()
        reason = "" if bool((found == 9).all()) else "it computes wrong values"
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
    if reason:
        raise DependencyError(
            f"CUDA was asked for, but torch {torch.__version__} does not run on it here ({reason}); "
            "check the driver with nvidia-smi, or use --provider cpu"
        )


@contextmanager
def _loading() -> Iterator[None]:
    """Make errors ours, and keep back that TorchScript is deprecated: our user chose the file only.

    In one thread, too: where a process has had several of OpenMP's, one that is forked off waits for them for ever.
    """
    try:
        with warnings.catch_warnings(), _one_thread():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except Exception as error:
        # Damaged files make zipfile and torch raise nearly anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if isinstance(error, MemoryError) or says_lack_of_memory(reason):
            raise ResourceError(f"not enough memory to load the model ({reason})") from error
        raise ModelError(f"not a readable TorchScript file ({reason}); export it again") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in the calling thread alone; torch keeps this setting for each thread."""
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute without TensorFloat-32; one at a time, since the setting is for all threads."""
    import torch

    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)
    with _ONE_AT_A_TIME, flags:
        yield


def _fewest_upsampled(module: torch.jit.ScriptModule) -> float:
    """Return the fewest input channels of a transposed convolution; infinity where there is none."""
    channels = [inf]
    graph: Any = module.graph  # whose methods torch does not declare
    for node in graph.findAllNodes("aten::conv_transpose2d"):
        weight = node.inputsAt(1).toIValue()
        channels.append(weight.shape[0] if weight is not None else 1)
    return min(channels)
