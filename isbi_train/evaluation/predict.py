"""Probabilities out of a model file, the way that file is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import DependencyError, ModelError, ResourceError, UsageError
from isbi_infer.headroom import check_headroom_of_torch
from isbi_infer.model.devices import ProviderName
from isbi_infer.plan.neighbours import Stacked
from isbi_infer.plan.scaling import choose_scaling
from isbi_infer.run.tissue import Tissue
from isbi_infer.segmenter import Segmenter
from isbi_infer.terminal import require_packages
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import Source

Sections = Iterator[npt.NDArray[np.float32]]

MODEL_SUFFIXES = (".onnx", ".pth", ".pt")


def is_checkpoint_file(model: Path) -> bool:
    """Return whether a model file is run by torch as a checkpoint, and not through the path that ships."""
    return model.suffix.lower() == ".pth"


def unit_of(model: Path) -> str:
    """Name the smallest unit that a model is run on, in the singular."""
    return "section" if is_checkpoint_file(model) else "tile"


def predict(
    model: Path,
    source: Source,
    *,
    provider: ProviderName = "auto",
    pixel_size: float | None = None,
    only: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Run a model over a stack and return all that is wanted; see `predict_sections`.

    Parameters
    ----------
    model, source, provider, pixel_size, only
        As for `predict_sections`.
    progress : callable, optional
        As for `predict_sections`.

    Returns
    -------
    probability_ZYX : float32 array
        Of cell, in [0, 1].
    notes : tuple of str
        How it was made.
    """
    sections, notes = predict_sections(
        model, source, provider=provider, pixel_size=pixel_size, only=only, progress=progress
    )
    count = source.info.sections if only is None else len(only)
    out_ZYX = np.empty((count, *source.info.shape[-2:]), np.float32)
    for out_YX, section_YX in zip(out_ZYX, sections, strict=True):
        out_YX[:] = section_YX
    return out_ZYX, notes


def predict_sections(
    model: Path,
    source: Source,
    *,
    provider: ProviderName = "auto",
    pixel_size: float | None = None,
    only: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> tuple[Sections, tuple[str, ...]]:
    """Run a model over a stack lazily; sections of another pixel size than the model's are resampled, and back.

    Parameters
    ----------
    model : Path
        An ONNX (``.onnx``) or TorchScript (``.pt``) file goes through :class:`isbi_infer.Segmenter`, the path that
        ships. A checkpoint (``.pth``) is run by torch once over each whole section, as training validates; neighbours
        that it sees are those of the stack, in training only those that are held out, too.
    source : Source
        An open stack. Its own pixel size is taken, as ``isbi-infer`` takes it.
    provider : str
        As for :class:`isbi_infer.Segmenter`; torch knows "auto", "cpu" and "cuda".
    pixel_size : float, optional
        Side of its pixels in nanometres, where it does not say or is wrong.
    only : sequence of int, optional
        Numbers of the sections that are wanted, ascending from 0; all when not given. A model that sees neighbouring
        sections sees those of the stack.
    progress : callable, optional
        Called with how many are done and their total: what `unit_of` says.

    Returns
    -------
    sections : iterator of float32 array, shape (Y, X)
        Probability of cell, in [0, 1].
    notes : tuple of str
        How they are made, and what was known about the source.

    Raises
    ------
    ModelError
        If the model cannot be trusted.
    DependencyError
        If torch, a runtime or the provider is not there.
    ResourceError
        If the memory does not suffice.
    UsageError
        If the pixel size is invalid, or cannot be used with this model.
    """
    if is_checkpoint_file(model):
        wanted = range(source.info.sections) if only is None else only
        sections, how, notes = _torch_sections(model, source, provider, pixel_size, wanted)
        sections = _counted(sections, len(wanted), progress) if progress else sections
    else:
        count = source.info.sections if only is None else len(only)
        pixels = count * prod(source.info.shape[-2:])
        segmenter = Segmenter(model, provider=provider, pixel_size=pixel_size, pixels=pixels)
        sections = segmenter.stream_source(source, only=only, progress=progress)
        notes = segmenter.plan_source(source).notes
        how = f"isbi_infer.Segmenter on {segmenter.provider}"
    return _checked(model, sections), (f"{model}: run by {how}", *notes)


def _counted(sections: Sections, total: int, progress: Progress) -> Sections:
    for done, section_YX in enumerate(sections, start=1):
        progress(done, total)
        yield section_YX


def _checked(model: Path, sections: Sections) -> Sections:
    for section_YX in sections:
        # a comparison with NaN is false
        if not (section_YX.min() >= 0 and section_YX.max() <= 1):
            raise ModelError(f"{model}: gives values outside [0, 1] or NaN; are the weights damaged?")
        yield section_YX


def _torch_sections(
    model: Path, source: Source, provider: ProviderName, pixel_size: float | None, wanted: Sequence[int]
) -> tuple[Sections, str, tuple[str, ...]]:
    require_packages("train", "torch")
    check_headroom_of_torch()
    import torch

    from isbi_train.networks.checkpoint import load_checkpoint
    from isbi_train.networks.whole import tissue_logits

    device, checkpoint = _device(provider), load_checkpoint(model)
    scaling, notes = choose_scaling(checkpoint.data["pixel_size_nm"], pixel_size, source.info.pixel_size)
    network = torch.nn.Sequential(checkpoint.load_network(), torch.nn.Sigmoid()).to(device).eval()
    stride, border = checkpoint.network.stride, checkpoint.train.border

    neighbours = checkpoint.network.neighbours
    stack = Stacked(lambda z: Tissue.of(source.read(z), scaling, nodata=source.nodata), neighbours)

    def whole(z: int) -> npt.NDArray[np.float32]:
        seen = stack.around(z, source.info.sections)
        assert seen is not None
        tissue = seen[neighbours]
        if tissue.found.blank:
            return np.zeros(tissue.shape, np.float32)
        try:
            # The network's last layer is a sigmoid.
            probability_YX = tissue_logits(network, seen, stride=stride, border=border)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in reason:
                raise ResourceError(
                    f"{model}: not enough memory on {device} for a whole section of {tissue.shape}; run "
                    "isbi-export and evaluate the .onnx file, which runs in tiles"
                ) from error
            raise ModelError(f"{model}: cannot be run ({reason})") from error
        return np.asarray(tissue.whole(probability_YX))

    among = " but among all sections of the stack" if neighbours else ""
    how = (
        f"torch on {device} over whole sections, as training validates{among}; isbi-infer runs the .onnx file"
    )
    return map(whole, wanted), how, (*source.notes, *notes)


def _device(provider: ProviderName) -> str:
    import torch

    if provider not in ("auto", "cpu", "cuda"):
        raise UsageError(f"provider {provider!r} is for .onnx files; torch knows auto, cpu and cuda")
    present = torch.cuda.is_available()
    if provider == "cuda" and not present:
        raise DependencyError("CUDA was asked for, but torch finds no CUDA device; use --provider cpu")
    return "cuda" if present and provider != "cpu" else "cpu"
