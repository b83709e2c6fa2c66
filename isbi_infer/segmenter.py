"""Segmenter: a contract, a plan and a session made into one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.files import check_not_input, check_writable, replacing
from isbi_infer.model.contract import ModelContract
from isbi_infer.model.opening import open_model
from isbi_infer.pixels.probability import Emit, OutputDtype, check_encoding, decode, encode
from isbi_infer.plan.scaling import choose_scaling
from isbi_infer.plan.symmetry import ALL_EIGHT, IDENTITY
from isbi_infer.plan.tiles import Plan
from isbi_infer.plan.tiling import Tiling, choose_halo
from isbi_infer.run.engine import Engine, Results
from isbi_infer.run.summary import Estimate, RunSummary
from isbi_infer.volumes import StackReader, open_stack, write_stack

Progress = Callable[[int, int], None]


class Segmenter:
    """Finds membranes in electron-microscopy sections.

    Parameters
    ----------
    model : path, optional
        An ONNX or TorchScript file exported by ``isbi-export``; the released model when not given. TorchScript needs
        torch.
    provider : {"auto", "cpu", "cuda", "tensorrt", "openvino"}
        "auto" takes CUDA where a CUDA session really runs and the CPU otherwise; any other name is proved active.
    tile : int, optional
        Longest side of a tile in pixels, a multiple of the model's stride. It changes memory and speed, never the
        result.
    batch : int, optional
        Tiles computed at once; likewise.
    memory : int, optional
        Bytes that the network's activations may take; half of what is free when not given. It bounds the tiles.
    halo : int, optional
        Pixels of context, a multiple of the stride; the model's own, which makes tiles exact, when not given. Less is
        faster and no longer exact: `notes` then gives the error that was measured when the model was exported.
    precision : {"auto", "fp32", "fp16", "int8"}
        "auto" takes the fastest file of the released model for the provider that passed its gate (int8 on CPU, fp16 on
        CUDA), and a `model` that is given as it is. Another one is looked for beside `model`.
    pixel_size : float, optional
        Side of a pixel of the sections, in nanometres: they are resampled to the model's, and results back. When not
        given, `segment_file` takes what the file says, and arrays go in as they are.
    tta : bool
        Average the results of the eight flips and rotations of each section: eight times the work.

    Attributes
    ----------
    provider : str
        The execution provider that really runs.
    contract : ModelContract
        What the model says about itself.
    model_sha256 : str
        Of the model file.
    notes : tuple of str
        What a reader of the results must know.

    Raises
    ------
    DependencyError
        If onnxruntime or the provider is missing.
    ModelError
        If the model cannot be trusted.
    UsageError
        If an argument cannot be meant.

    Examples
    --------
    >>> from isbi_infer import Segmenter
    >>> from isbi_infer.sample import synthetic_stack
    >>> image_ZYX, _ = synthetic_stack(sections=1, height=128, width=128)
    >>> probability_ZYX = Segmenter(provider="cpu")(image_ZYX)
    >>> probability_ZYX.shape, probability_ZYX.dtype
    ((1, 128, 128), dtype('float32'))
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        provider: str = "auto",
        tile: int | None = None,
        batch: int | None = None,
        memory: int | None = None,
        halo: int | None = None,
        precision: str = "auto",
        pixel_size: float | None = None,
        tta: bool = False,
    ) -> None:
        if batch is not None and batch < 1:
            raise UsageError(f"batch {batch} is below 1")
        opened = open_model(model, provider, precision)
        self.contract: ModelContract = opened.contract
        self.model_sha256 = opened.sha256
        self.provider = opened.backend.device.name
        chosen, halo_notes = choose_halo(self.contract, halo)
        self._pixel_size = pixel_size
        self._scaling, scaling_notes = choose_scaling(self.contract.pixel_size_nm, pixel_size, None)
        self.notes = (*halo_notes, *scaling_notes)
        tiling = Tiling(
            contract=self.contract,
            lanes=opened.backend.workers,
            on_cpu=self.provider == "cpu",
            halo=chosen,
            tile=tile,
            batch=batch,
            memory=memory,
        )
        self._engine = Engine(opened.backend, tiling, ALL_EIGHT if tta else IDENTITY)
        self.plan((1, 1))  # an impossible tile is said now, not after the stack was opened

    def plan(self, shape: tuple[int, int]) -> Plan:
        """Plan the tiles of a section.

        Parameters
        ----------
        shape : (int, int)
            (Y, X) in pixels.

        Returns
        -------
        Plan
            At the model's pixel size.

        Raises
        ------
        ResourceError
            If there is not enough memory for the smallest tile.
        """
        return self._engine.tiling.plan(self._scaling.inner_shape(shape) if self._scaling else shape)

    def estimate(self, shape: tuple[int, int, int]) -> Estimate:
        """Say what a stack would take; one tile is computed to time it.

        Parameters
        ----------
        shape : (int, int, int)
            (Z, Y, X) in pixels.

        Returns
        -------
        Estimate
        """
        return self._engine.estimate(shape, self._scaling, self.notes)

    def __call__(self, image: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Segment one section or a stack.

        Parameters
        ----------
        image : array_like of integer or floating dtype, shape (Y, X) or (Z, Y, X)
            Grey values, all finite; each section is normalised on its own.

        Returns
        -------
        ndarray of float32, same shape
            Probability that a pixel is cell interior, in [0, 1]; 0 is membrane.

        Raises
        ------
        ImageError
            If the array is no greyscale section or stack.
        """
        array = np.asarray(image)
        if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "iuf":
            raise ImageError(
                f"expected a greyscale section (Y, X) or stack (Z, Y, X) of integers or floats, "
                f"found shape {array.shape} of {array.dtype}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ImageError(
                f"{np.count_nonzero(~np.isfinite(array))} pixels are NaN or infinite; mask them first"
            )
        stack_ZYX = array if array.ndim == 3 else array[None]
        out_ZYX = np.empty(stack_ZYX.shape, np.float32)
        for z, section_YX in enumerate(self._engine.run(stack_ZYX, stack_ZYX.shape, self._scaling)):
            out_ZYX[z] = decode(section_YX)
        return out_ZYX.reshape(array.shape)

    def stream(self, sections: Iterable[npt.NDArray[Any]]) -> Iterator[npt.NDArray[np.float32]]:
        """Segment sections of one shape lazily, in order; tiles of neighbouring sections share batches.

        Parameters
        ----------
        sections : iterable of ndarray, shape (Y, X)
            Grey values, all finite. Iterated in a thread of its own, a few sections ahead of what is taken.

        Returns
        -------
        iterator of ndarray of float32, shape (Y, X)
            Probability of cell interior, in [0, 1].
        """
        return _decoded(self._engine.run(sections, None, self._scaling))

    def segment_file(
        self,
        stack: str | Path,
        output: str | Path,
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
        progress: Progress | None = None,
    ) -> RunSummary:
        """Segment a TIFF file into a TIFF file, section by section.

        Parameters
        ----------
        stack : path
            A greyscale TIFF: plain, ImageJ or OME; axes and pixel size are kept.
        output : path
            Replaced only when the new file is whole.
        emit : {"cell", "membrane"}
            What 1 means.
        dtype : {"float32", "uint8"}
            "uint8" stores round(255 p).
        progress : callable, optional
            Called with the sections done and their total after each section.

        Returns
        -------
        RunSummary

        Raises
        ------
        ImageError
            If the input cannot be read whole or is no greyscale stack.
        OutputError
            If the output cannot be written.
        UsageError
            If the output is the input, or an argument is unknown.
        """
        check_encoding(emit, dtype)
        source, target = Path(stack), Path(output)
        check_not_input(target, source)
        check_writable(target)
        started = time.perf_counter()
        with open_stack(source) as reader, replacing(target) as temporary:
            shape = (reader.sections, reader.height, reader.width)
            scaling, scaling_notes = choose_scaling(
                self.contract.pixel_size_nm, self._pixel_size, reader.pixel_size
            )
            results = self._engine.run(reader, shape, scaling)
            sections = (encode(result_YX, emit, dtype) for result_YX in results)
            counted = _counted(sections, reader, progress)
            kind = write_stack(temporary, counted, like=reader.info, dtype=np.dtype(dtype))
            notes = tuple(dict.fromkeys((*reader.notes, *self.notes, *scaling_notes)))
        if kind != reader.kind:
            notes = (
                *notes,
                f"stored as {kind} TIFF, since {reader.kind} TIFF cannot hold a result of this size",
            )
        seconds = time.perf_counter() - started
        return RunSummary(
            output=str(target),
            provider=self.provider,
            precision=self.contract.precision,
            sections=reader.sections,
            shape=reader.shape,
            seconds=seconds,
            megapixels_per_second=prod(shape) / seconds / 1e6,
            model_sha256=self.model_sha256,
            notes=notes,
        )


def _decoded(results: Results) -> Iterator[npt.NDArray[np.float32]]:
    with closing(results):  # so that its threads end when this one is closed
        for result_YX in results:
            yield decode(result_YX)


def _counted(
    sections: Iterator[npt.NDArray[Any]], reader: StackReader, progress: Progress | None
) -> Iterator[npt.NDArray[Any]]:
    for done, section_YX in enumerate(sections, start=1):
        yield section_YX
        if progress:
            progress(done, reader.sections)
