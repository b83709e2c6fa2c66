"""Networks that people have, as files of ours and as torch modules, and who runs them: bytes in, bytes out, in memory.

Weights are random: nobody's speed depends on them. The files are written without the proofs of `isbi_export.publish`,
which would take longer than the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from isbi_infer import Segmenter
from isbi_infer.run.tissue import Tissue

from .layerwise import Layer
from .limits import device_of
from .network_layers import layers_of
from .peers.task import need
from .peers.with_torch import compiled, first_call, require_torch_on

Run = Callable[[], Any]
_LONG = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
_NO_LIMIT = 1 << 44  # bytes of memory: a tile is a section, whatever it takes
_ROI, _OVERLAP = 0.5, 0.25  # of MONAI: the window as a share of the section


class Case:
    """One network and the sections it is run on.

    Parameters
    ----------
    config : NetworkConfig
        The architecture.
    stack_ZYX : ndarray of uint8
        As many sections as the largest batch takes.
    folder : Path
        For the files.
    provider : str
        Where all compute.
    quick : bool
        A smoke run.
    """

    def __init__(self, config: Any, stack_ZYX: Any, folder: Path, provider: str, quick: bool) -> None:
        self.config, self.stack_ZYX, self.folder, self.quick = config, stack_ZYX, folder, quick
        self.provider = provider
        self.device = device_of(provider)
        self._files: dict[str, Path] = {}

    @cached_property
    def _weights(self) -> Any:
        import torch

        from isbi_train.networks.checkpoint import Weights
        from isbi_train.networks.network import UNet

        torch.manual_seed(0)
        network = UNet(self.config)
        with torch.no_grad():
            network.head.weight.normal_(0, 0.5)  # so that results differ from pixel to pixel
        return Weights(network=self.config, state_dict=network.state_dict())

    def module(self) -> Any:
        """Return the network as torch runs it best: BatchNorm folded; from normalised sections to probabilities."""
        from isbi_export.formats.deployable import Deployable

        return Deployable(self._weights.load_network())

    @cached_property
    def _exported(self) -> Any:
        from isbi_export.formats.calibration import Calibration
        from isbi_export.formats.exported import Exported
        from isbi_export.formats.onnx_export import OPSET

        calibration = Calibration(
            sections=((Tissue.of(self.stack_ZYX[0]),),), source={"data": "synthetic sample"}
        )
        return Exported(self.module(), OPSET, self._weights.border, calibration)

    def file(self, precision: str) -> Path:
        """Write the ONNX file that takes and returns bytes, once; return its path."""
        if precision not in self._files:
            from isbi_export.contracts import contract_for
            from isbi_export.formats.exported import WRITERS
            from isbi_export.graph.analysis.analyse import analyse
            from isbi_export.variants import Variant

            variant = Variant(file_format="onnx", precision=_LONG[precision], io="uint8")
            graph = analyse(self._exported.graph("float32").SerializeToString())
            contract = contract_for(self._weights, "0" * 64, graph, variant)
            path = self.folder / f"network{variant.suffix}"
            WRITERS["onnx"](path, self._exported, variant, contract)
            self._files[precision] = path
        return self._files[precision]

    def layers(self) -> list[Layer]:
        """Return the layers of one section."""
        return layers_of(self.module(), self.stack_ZYX.shape[1:])


@dataclass(frozen=True, slots=True)
class Contender:
    """Who runs a case, and in what arithmetic; `build` takes a case, a batch and the number of sections."""

    precision: str
    build: Callable[[Case, int, int], Run]


def ours(precision: str) -> Contender:
    """Return this project as a user calls it: a stack of bytes in memory to a stack of bytes in memory."""

    def build(case: Case, batch: int, sections: int) -> Run:
        segmenter = Segmenter(
            case.file(precision), provider=case.provider, precision=precision, batch=batch, memory=_NO_LIMIT
        )
        stack_ZYX = case.stack_ZYX[:sections]
        assert len(segmenter.plan(stack_ZYX.shape).section.tiles) == 1
        return partial(segmenter, stack_ZYX, dtype="uint8")

    return Contender(precision, build)


def torch_eager(precision: str, *, compile_it: bool = False, windows: bool = False) -> Contender:
    """Torch with channels last, each batch normalised and rounded on the device.

    Parameters
    ----------
    precision : {"fp32", "bf16", "fp16"}
        bf16 by autocast, fp16 by weights of it.
    compile_it : bool
        By torch.compile; the first call, which compiles, does not count.
    windows : bool
        By MONAI's sliding windows, of half a section's side and with its default overlap, as many at once as a batch
        has pixels.
    """

    def build(case: Case, batch: int, sections: int) -> Run:
        require_torch_on(case.device, case.quick)
        if windows:
            need("monai")
        import torch

        dtype = torch.float16 if precision == "fp16" else torch.float32
        model = case.module().to(case.device, dtype, memory_format=torch.channels_last)
        predict = _windowed(model.network, batch) if windows else model
        predict = compiled(predict, case.quick) if compile_it else predict
        stack_ZYX = case.stack_ZYX[:sections]
        out_ZYX = np.empty_like(stack_ZYX)

        def run():
            lower = torch.autocast(case.device, torch.bfloat16) if precision == "bf16" else nullcontext()
            with torch.inference_mode(), lower:
                for first in range(0, sections, batch):
                    grey_NYX = torch.from_numpy(stack_ZYX[first : first + batch]).to(case.device)
                    pixels_NCYX = grey_NYX[:, None].float()
                    std, mean = torch.std_mean(pixels_NCYX, (1, 2, 3), correction=0, keepdim=True)
                    found_NCYX = predict(((pixels_NCYX - mean) / std).to(dtype)).float()
                    bytes_NCYX = (255 * found_NCYX).round().to(torch.uint8)
                    out_ZYX[first : first + batch] = bytes_NCYX[:, 0].cpu().numpy()
            return out_ZYX

        first_call(run)
        return run

    return Contender(precision, build)


def _windowed(network: Any, batch: int) -> Any:
    import torch
    from monai.inferers import sliding_window_inference

    def predict(batch_NCYX):
        roi = int(batch_NCYX.shape[-1] * _ROI)
        at_once = int(batch / _ROI**2)
        return torch.sigmoid(sliding_window_inference(batch_NCYX, roi, at_once, network, overlap=_OVERLAP))

    return predict


def contenders(provider: str, full: bool) -> tuple[str, dict[str, Contender]]:
    """Return to whom the others are compared, and all who take part; on a CPU torch.compile with `full` only."""
    on_gpu = device_of(provider) == "cuda"
    low = "fp16" if on_gpu else "bf16"
    kind = low if on_gpu else "fp32"
    ours_in = ("fp16", "fp32") if on_gpu else ("fp32", "int8")
    found = {f"isbi-infer {precision}": ours(precision) for precision in ours_in}
    if not on_gpu:
        found["torch fp32"] = torch_eager("fp32")
    found[f"torch {low}"] = torch_eager(low)
    if full or on_gpu:
        found[f"torch.compile {kind}"] = torch_eager(kind, compile_it=True)
    found[f"MONAI, torch {kind}"] = torch_eager(kind, windows=True)
    return next(iter(found)), found
