"""What was measured of whole sections, kept in files: blocks that hold parts of sections all need it.

Each section is measured once, by whichever process needs it first; the same pixels give the same files.
"""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import OutputError
from isbi_infer.files import make_folder, write_once
from isbi_infer.pixels.normalise import IntensityStatistics
from isbi_infer.pixels.statistics import SectionStatistics
from isbi_infer.plan.run import RunPlan
from isbi_infer.run.section import Measured, measure
from isbi_infer.volumes.protocol import Source

_HELD = 64  # sections


class PackedMask:
    """A mask of a whole section on the disk, eight pixels a byte, of which windows are read.

    Parameters
    ----------
    packed : ndarray of uint8, shape (Y, ceil(X / 8))
        From `numpy.packbits` along X.
    width : int
        Pixels along X.
    """

    def __init__(self, packed: npt.NDArray[np.uint8], width: int) -> None:
        self._packed = packed
        self.shape = (len(packed), width)

    def __getitem__(self, window: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        """Return a window, with start and stop within the section."""
        rows, columns = window
        first = columns.start // 8
        part = np.unpackbits(self._packed[rows, first : -(-columns.stop // 8)], axis=1)
        return part[:, columns.start - 8 * first : columns.stop - 8 * first].view(np.bool_)


class MeasuredSections:
    """Measures sections of a source on demand.

    Parameters
    ----------
    folder : Path
        Where the measurements are kept; made where it is missing.
    plan : RunPlan
        Whose sections they are.
    source : Source
        Read whole, section by section.
    """

    def __init__(self, folder: Path, plan: RunPlan, source: Source) -> None:
        make_folder(folder)
        self._folder, self._plan, self._source = folder, plan, source
        self._held: OrderedDict[int, Measured] = OrderedDict()
        self._guard = threading.Lock()

    def __call__(self, z: int) -> Measured:
        """Return what was measured of a section, by its number."""
        with self._guard:
            if z not in self._held:
                if not self._figures(z).exists():
                    self._measure(z)
                self._held[z] = self._load(z)
                while len(self._held) > _HELD:
                    self._held.popitem(last=False)
            return self._held[z]

    def _figures(self, z: int) -> Path:
        return self._folder / f"{z}.json"

    def _mask(self, z: int) -> Path:
        return self._folder / f"{z}.canvas.npy"

    def _measure(self, z: int) -> None:
        measured, _ = measure(self._source.read(z), self._plan)
        statistics = measured.statistics
        if statistics.canvas_YX is not None:  # before the figures, which say that it is there
            packed = io.BytesIO()
            np.save(packed, np.packbits(statistics.canvas_YX[:], axis=1))
            write_once(self._mask(z), packed.getvalue())
        plain: dict[str, Any] = asdict(replace(statistics, canvas_YX=None))
        plain["canvas_YX"] = statistics.canvas_YX is not None
        plain["box"] = [[part.start, part.stop] for part in statistics.box]
        found = measured.normalising
        document = {"statistics": plain, "mean": found.mean, "std": found.std}
        write_once(self._figures(z), json.dumps(document).encode())

    def _load(self, z: int) -> Measured:
        try:
            document = json.loads(self._figures(z).read_bytes())
            plain = document["statistics"]
            canvas = None
            if plain["canvas_YX"]:
                canvas = PackedMask(np.load(self._mask(z), mmap_mode="r"), self._plan.source.shape[1])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self._figures(z)}: cannot be read ({type(error).__name__}); start again with --overwrite"
            ) from error
        rows, columns = plain["box"]
        plain |= {
            "canvas_YX": canvas,
            "box": (slice(*rows), slice(*columns)),
        }
        return Measured(SectionStatistics(**plain), IntensityStatistics(document["mean"], document["std"]))
