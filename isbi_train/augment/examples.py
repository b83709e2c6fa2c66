"""Augmented pairs of image and labels as files: what training draws, to be looked at or used elsewhere.

::

    pair k: section k mod S, seed (SEED, k) -> augment.crops.random_crops -> uint8 image, 255/0 labels

So a pair depends on its number and the seed only, not on how many are made.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isbi_infer._version import __version__
from isbi_infer.errors import OutputError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import normalise
from isbi_infer.terminal import counted
from isbi_infer.terminal.progress import Progress
from isbi_infer.terminal.words import in_bytes
from isbi_infer.volumes import PixelSize, StackInfo, write_stack
from isbi_train.augment.crops import random_crops
from isbi_train.config import AugmentConfig
from isbi_train.data.folders import check_free, made_folder
from isbi_train.data.labelled import LabelledStack

log = logging.getLogger(__name__)

SETTINGS, PREVIEW = "augmented.json", "preview.png"
GREY_MEAN, GREY_PER_STD = 128, 32

_PER_FILE = 100
_FILE_BYTES = 2**26

Byte = npt.NDArray[np.uint8]
Coordinates = npt.NDArray[np.float32]


class Draw(Protocol):
    """What draws pairs into a picture."""

    def __call__(self, pairs: Sequence[ShownPair], path: Path, *, first: int) -> None:
        """Draw pairs of sections that are counted from `first`."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownPair:
    """A pair with where its pixels come from.

    Attributes
    ----------
    number, section : int
        Of the pair, and of its section in the stack it was drawn from.
    section_YX : array
        The whole section, normalised.
    image_YX, label_YX : uint8 array
        The pair.
    y_YX, x_YX : float32 array, of the pair's shape
        The pixel of the section that each pixel was taken from; mirrored at the section's border.
    """

    number: int
    section: int
    section_YX: npt.NDArray[np.float32]
    image_YX: Byte
    label_YX: Byte
    y_YX: Coordinates
    x_YX: Coordinates


class PairMaker:
    """Draws augmented pairs by their number.

    Parameters
    ----------
    stack : LabelledStack
        The sections to draw from, and no others.
    seed : int
        Not negative.
    crop : int, optional
        Side of the pairs in pixels; the shorter side of a section when not given, which leaves no room for a shift
        along it.
    config : AugmentConfig
        The ranges.

    Raises
    ------
    UsageError
        If the seed or the crop is invalid.
    """

    def __init__(
        self, stack: LabelledStack, *, seed: int, crop: int | None = None, config: AugmentConfig | None = None
    ) -> None:
        largest = min(stack.image_ZYX.shape[1:])
        self.crop = largest if crop is None else crop
        if not 16 <= self.crop <= largest:
            raise UsageError(f"a crop of {crop} pixels is invalid; expected 16 to {largest}")
        if seed < 0:
            raise UsageError(f"seed {seed} is negative; give 0 or more")
        self.seed, self.config = seed, config or AugmentConfig()
        sections = [normalise(section_YX, normalising_section(section_YX)) for section_YX in stack.image_ZYX]
        self._images_NCYX = torch.from_numpy(np.stack(sections))[:, None]
        self._labels_NCYX = torch.from_numpy(stack.cell_ZYX.astype(np.float32))[:, None]

    def __call__(self, number: int) -> tuple[Byte, Byte]:
        """Draw one pair.

        Parameters
        ----------
        number : int
            From 0; the same number gives the same pair.

        Returns
        -------
        image_YX : uint8 array, shape (crop, crop)
            128 is the mean of the section, 32 its standard deviation; clipped to 0..255.
        label_YX : uint8 array of the same shape
            255 = cell, 0 = membrane.
        """
        section = number % len(self._images_NCYX)
        image_YX, maps_KYX = self._drawn(number, self._labels_NCYX[section][None])
        return image_YX, _label(maps_KYX)

    def shown(self, number: int) -> ShownPair:
        """Draw one pair with the section's coordinates carried along by the very same resampling."""
        section = number % len(self._images_NCYX)
        label_CYX = self._labels_NCYX[section]
        _, height, width = label_CYX.shape
        y_YX, x_YX = torch.meshgrid(
            torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32), indexing="ij"
        )
        maps_NKYX = torch.cat((label_CYX, y_YX[None], x_YX[None]))[None]
        image_YX, maps_KYX = self._drawn(number, maps_NKYX)
        return ShownPair(
            number=number,
            section=section,
            section_YX=self._images_NCYX[section, 0].numpy(),
            image_YX=image_YX,
            label_YX=_label(maps_KYX),
            y_YX=maps_KYX[1].numpy(),
            x_YX=maps_KYX[2].numpy(),
        )

    def _drawn(self, number: int, maps_NKYX: Tensor) -> tuple[Byte, Tensor]:
        section = number % len(self._images_NCYX)
        (state,) = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state) >> 1)
        crops_NCYX, maps_NKYX = random_crops(
            self._images_NCYX[section][None], maps_NKYX, self.crop, self.config, generator
        )
        grey_YX = (crops_NCYX[0, 0] * GREY_PER_STD + GREY_MEAN).round().clamp(0, 255)
        image_YX: Byte = grey_YX.to(torch.uint8).numpy()
        return image_YX, maps_NKYX[0]


def _label(maps_KYX: Tensor) -> Byte:
    label_YX: Byte = (maps_KYX[0] * 255).to(torch.uint8).numpy()
    return label_YX


def write_pairs(
    stack: LabelledStack,
    folder: Path,
    *,
    count: int,
    seed: int,
    sections: range,
    crop: int | None = None,
    config: AugmentConfig | None = None,
    per_file: int = _PER_FILE,
    draw: Draw | None = None,
    shown: int = 4,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write augmented pairs into stacks of `per_file` each.

    Parameters
    ----------
    stack : LabelledStack
        All sections.
    folder : Path
        Made where it is missing. ``images-00000-00099.tif`` and ``labels-00000-00099.tif`` hold pairs 0 to 99, and so
        on; ``preview.png`` shows a few if `draw` is passed; ``augmented.json`` says how they were made and comes last,
        so that a folder without it is unfinished.
    count, seed : int
        How many pairs, and what they are drawn by.
    sections : range
        The sections of `stack` to draw from, each equally often, but those that nobody annotated.
    crop, config : int and AugmentConfig, optional
        See `PairMaker`.
    per_file : int
        Pairs in one file; fewer where a file would have more than 64 MiB.
    draw : callable, optional
        Called as ``draw(pairs, path, first=section)`` to draw the picture, see `isbi_train.plots.sheets.draw_pairs`.
    shown : int
        Number of pairs in the picture.
    overwrite : bool
        Replace such files; not others.
    progress : callable, optional
        Called with the pairs done and their total.

    Returns
    -------
    list of Path
        All files written.

    Raises
    ------
    UsageError
        If an argument is invalid, or the folder holds TIFF files that are not to be overwritten.
    OutputError
        If a file cannot be written; those before it are whole.
    """
    if count < 1:
        raise UsageError(f"cannot make {count} pairs; ask for 1 or more")
    drawn = stack[sections.start : sections.stop].annotated()
    if not len(drawn):
        raise UsageError(
            f"nobody annotated any of the sections {sections.start}:{sections.stop}; choose others"
        )
    make = PairMaker(drawn, seed=seed, crop=crop, config=config)
    size = _size_that_fits(folder, count, make.crop)
    per_file = max(1, min(per_file, _FILE_BYTES // make.crop**2))
    digits = max(5, len(str(count - 1)))
    spans = [range(start, min(start + per_file, count)) for start in range(0, count, per_file)]
    names = [f"{span.start:0{digits}d}-{span.stop - 1:0{digits}d}.tif" for span in spans]
    files = [(folder / f"images-{name}", folder / f"labels-{name}") for name in names]
    check_free([path for pair in files for path in pair], overwrite=overwrite)
    log.info("%s of %d x %d pixels: %s in %s", counted(count, "pair"), make.crop, make.crop, size, folder)
    side = stack.pixel_size_nm
    pixel_size = PixelSize(y_nm=side, x_nm=side) if side else None
    with made_folder(folder), _one_thread_each() as pool:
        check_writable(folder / SETTINGS)
        (folder / SETTINGS).unlink(missing_ok=True)
        (folder / PREVIEW).unlink(missing_ok=True)
        if draw:
            step = max(1, len(drawn) // min(shown, count))  # of different sections, spread over all of them
            pairs_shown = [make.shown(number * step) for number in range(min(shown, count))]
            draw(pairs_shown, folder / PREVIEW, first=sections.start)
        for span, (images, labels) in zip(spans, files, strict=True):
            info = StackInfo(shape=(len(span), make.crop, make.crop), pixel_size=pixel_size)
            pairs = []
            for pair in pool.map(make, span):
                pairs.append(pair)
                if progress:
                    progress(span.start + len(pairs), count)
            for path, part in ((images, 0), (labels, 1)):
                with replacing(path) as temporary:
                    write_stack(temporary, (pair[part] for pair in pairs), like=info, dtype=np.uint8)
        with replacing(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(_settings(make, stack, count, sections), indent=1))
    preview = [folder / PREVIEW] if draw else []
    return [*(path for pair in files for path in pair), *preview, folder / SETTINGS]


def _size_that_fits(folder: Path, count: int, crop: int) -> str:
    """Return how much will be written; OutputError where the disk has no room for it."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    needed, free = 2 * count * crop**2, shutil.disk_usage(there).free
    size = in_bytes(needed)
    if needed > free:
        raise OutputError(
            f"{folder}: {counted(count, 'pair')} need {size}, there are {in_bytes(free)} free; ask for fewer with "
            "--count, or choose another folder"
        )
    return size


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Compute each pair in one thread: torch rounds otherwise if it shares the work of one among several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _settings(make: PairMaker, stack: LabelledStack, count: int, sections: range) -> dict[str, Any]:
    return {
        "version": __version__,
        "count": count,
        "seed": make.seed,
        "sections": f"{sections.start}:{sections.stop}",
        "crop": make.crop,
        "grey": {"mean": GREY_MEAN, "standard_deviation": GREY_PER_STD},
        "augment": make.config.to_plain(),
        "pixel_size_nm": stack.pixel_size_nm,
        "sha256": stack.sha256(),
    }
