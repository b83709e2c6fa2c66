"""Probabilities out of a model file, the way that file is used."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isbi_infer.console import require_packages
from isbi_infer.contract import CONTRACT_KEY, ModelContract, contract_of
from isbi_infer.errors import DependencyError, ModelError, ResourceError, UsageError
from isbi_infer.segmenter import Segmenter

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]

MODEL_SUFFIXES = (".onnx", ".pth", ".pt")


def predict(
    model: Path, image_ZYX: npt.NDArray[Any], *, provider: str = "auto", progress: Progress | None = None
) -> tuple[npt.NDArray[np.float32], str]:
    """Run a model over a stack.

    Parameters
    ----------
    model : Path
        An ``.onnx`` file goes through :class:`isbi_infer.Segmenter`, the path that ships. A checkpoint (``.pth``)
        or TorchScript (``.pt``) is run by torch once over each whole section, as training validates.
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
    if model.suffix.lower() == ".onnx":
        segmenter = Segmenter(model, provider=provider)
        sections, how = segmenter.stream(image_ZYX), f"isbi_infer.Segmenter on {segmenter.provider}"
    else:
        sections, how = _torch_sections(model, image_ZYX, provider)
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
    model: Path, image_ZYX: npt.NDArray[Any], provider: str
) -> tuple[Iterator[npt.NDArray[np.float32]], str]:
    require_packages("train", "torch")
    import torch

    from isbi_train.checkpoint import load_checkpoint
    from isbi_train.validate import predict_whole

    device = _device(provider)
    network: torch.nn.Module
    if model.suffix.lower() == ".pth":
        checkpoint = load_checkpoint(model)
        network = torch.nn.Sequential(checkpoint.load_network(), torch.nn.Sigmoid()).to(device).eval()
        stride, border = checkpoint.network.stride, checkpoint.train.border
    else:
        network, contract = _torchscript(model, device)
        stride, border = contract.stride, contract.border

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


def _device(provider: str) -> torch.device:
    import torch

    if provider not in ("auto", "cpu", "cuda"):
        raise UsageError(f"provider {provider!r} is for .onnx files; torch knows auto, cpu and cuda")
    present = torch.cuda.is_available()
    if provider == "cuda" and not present:
        raise DependencyError("CUDA was asked for, but torch finds no CUDA device; use --provider cpu")
    return torch.device("cuda" if present and provider != "cpu" else "cpu")


def _torchscript(path: Path, device: torch.device) -> tuple[torch.nn.Module, ModelContract]:
    import torch

    extra: dict[str, Any] = {CONTRACT_KEY: ""}
    try:
        # torch does not compare the archive's checksums, so a flipped bit would pass for a weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ModelError(f"{damaged} has another checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted = torch.jit.load(path, map_location=device, _extra_files=extra)
    except Exception as error:
        # Damaged files make zipfile and torch raise nearly anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"{path}: not a readable TorchScript file ({reason}); export it again") from error
    found = extra[CONTRACT_KEY]
    document = found.decode() if isinstance(found, bytes) else found
    try:
        contract = contract_of({CONTRACT_KEY: document} if document else {})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    network = torch.nn.Sequential(scripted)
    # A frozen model has no parameters of its own, and theirs is what says where inputs have to go.
    network.register_parameter("device", torch.nn.Parameter(torch.empty(0, device=device)))
    return network.eval(), contract
