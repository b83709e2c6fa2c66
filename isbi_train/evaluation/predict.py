"""Probabilities out of a model file, the way that file is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import DependencyError, ModelError, ResourceError, UsageError
from isbi_infer.model.devices import ProviderName
from isbi_infer.segmenter import Segmenter
from isbi_infer.terminal import require_packages

Progress = Callable[[int, int], None]

MODEL_SUFFIXES = (".onnx", ".pth", ".pt")


def predict(
    model: Path,
    image_ZYX: npt.NDArray[Any],
    *,
    provider: ProviderName = "auto",
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float32], str]:
    """Run a model over a stack.

    Parameters
    ----------
    model : Path
        An ONNX (``.onnx``) or TorchScript (``.pt``) file goes through :class:`isbi_infer.Segmenter`, the path that
        ships. A checkpoint (``.pth``) is run by torch once over each whole section, as training validates.
    image_ZYX : array, shape (Z, Y, X)
        Grey values as stored.
    provider : str
        As for :class:`isbi_infer.Segmenter`; torch knows "auto", "cpu" and "cuda".
    progress : callable, optional
        Called with the sections done and their total.

    Returns
    -------
    probability_ZYX : float32 array
        Of cell, in [0, 1].
    note : str
        How it was made.

    Raises
    ------
    ModelError
        If the model cannot be trusted.
    DependencyError
        If torch, onnxruntime or the provider is not there.
    ResourceError
        If the memory does not suffice.
    """
    if model.suffix.lower() == ".pth":
        sections, how = _torch_sections(model, image_ZYX, provider)
    else:
        segmenter = Segmenter(model, provider=provider)
        sections, how = segmenter.stream(image_ZYX), f"isbi_infer.Segmenter on {segmenter.provider}"
    out_ZYX = np.empty(image_ZYX.shape, np.float32)
    for z, section_YX in enumerate(sections):
        out_ZYX[z] = section_YX
        if progress:
            progress(z + 1, len(out_ZYX))
    # a comparison with NaN is false
    if not (out_ZYX.min() >= 0 and out_ZYX.max() <= 1):
        raise ModelError(f"{model}: gives values outside [0, 1] or NaN; are the weights damaged?")
    return out_ZYX, f"{model}: run by {how}"


def _torch_sections(
    model: Path, image_ZYX: npt.NDArray[Any], provider: ProviderName
) -> tuple[Iterator[npt.NDArray[np.float32]], str]:
    require_packages("train", "torch")
    import torch

    from isbi_train.networks.checkpoint import load_checkpoint
    from isbi_train.networks.whole import predict_whole

    device, checkpoint = _device(provider), load_checkpoint(model)
    network = torch.nn.Sequential(checkpoint.load_network(), torch.nn.Sigmoid()).to(device).eval()
    stride, border = checkpoint.network.stride, checkpoint.train.border

    def sections() -> Iterator[npt.NDArray[np.float32]]:
        for section_YX in image_ZYX:
            try:
                (probability_YX,) = predict_whole(network, section_YX[None], stride=stride, border=border)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in reason:
                    raise ResourceError(
                        f"{model}: not enough memory on {device} for a whole section of {section_YX.shape}; run "
                        "isbi-export and evaluate the .onnx file, which runs in tiles"
                    ) from error
                raise ModelError(f"{model}: cannot be run ({reason})") from error
            yield probability_YX

    how = f"torch on {device} over whole sections, as training validates; isbi-infer runs the .onnx file"
    return sections(), how


def _device(provider: ProviderName) -> str:
    import torch

    if provider not in ("auto", "cpu", "cuda"):
        raise UsageError(f"provider {provider!r} is for .onnx files; torch knows auto, cpu and cuda")
    present = torch.cuda.is_available()
    if provider == "cuda" and not present:
        raise DependencyError("CUDA was asked for, but torch finds no CUDA device; use --provider cpu")
    return "cuda" if present and provider != "cpu" else "cpu"
