"""What was measured of whole sections, kept in files: blocks that hold parts of sections all need it.

Each section is measured once, by whichever process needs it first; the same pixels give the same files.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections import OrderedDict
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import OutputError
from isbi_infer.files import make_folder, place_once, write_once
from isbi_infer.pixels.normalise import IntensityStatistics
from isbi_infer.pixels.statistics import SectionError, SectionStatistics
from isbi_infer.pixels.windows import SLAB, Grid, Windowed
from isbi_infer.plan.run import RunPlan
from isbi_infer.run.section import Measured
from isbi_infer.run.tissue import measure_windows
from isbi_infer.volumes.protocol import Source

_HELD = 64  # sections
_MOST_HELD = 2**22  # pixels of a section, so that chunks as large as it are not decoded for every few rows
_CHUNK = 2**20  # bytes of a mask that are read at a time


class PackedMask:
    """A mask of a whole section in a file, eight pixels a byte, row by row; windows of it are read, and no more held.

    Parameters
    ----------
    path : Path
        Of the file.
    shape : (int, int)
        (Y, X), in pixels.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path = path
        self.shape = shape
        self._row = -(-shape[1] // 8)  # bytes

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.shape[0] * self._row

    @classmethod
    def make(cls, path: Path, shape: tuple[int, ...]) -> PackedMask:
        """Return a mask whose rows are still to be stored."""
        mask = cls(path, shape)
        with open(path, "wb") as file:
            file.truncate(mask.size)
        return mask

    def __setitem__(self, rows: slice, mask_YX: npt.NDArray[np.bool_]) -> None:
        """Store whole rows."""
        with open(self._path, "r+b") as file:
            file.seek(rows.start * self._row)
            file.write(np.packbits(mask_YX, axis=1).data)

    def __getitem__(self, window: slice | tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        """Return rows, or a window; slices may have a step."""
        rows, columns = window if isinstance(window, tuple) else (window, slice(None))
        top, bottom, down = rows.indices(self.shape[0])
        left, right, across = columns.indices(self.shape[1])
        bottom, right = max(top, bottom), max(left, right)
        first, last = left // 8, -(-right // 8)
        out_YX = np.empty((bottom - top, right - left), np.bool_)
        step = max(1, _CHUNK // self._row)
        with open(self._path, "rb") as file:
            file.seek(top * self._row)
            for start in range(0, bottom - top, step):
                count = min(step, bottom - top - start)
                packed = np.frombuffer(file.read(count * self._row), np.uint8).reshape(count, self._row)
                bits_YX = np.unpackbits(packed[:, first:last], axis=1).view(np.bool_)
                out_YX[start : start + count] = bits_YX[:, left - 8 * first : right - 8 * first]
        return out_YX[::down, ::across]


class MeasuredSections:
    """Measures sections of a source on demand.

    Parameters
    ----------
    folder : Path
        Where the measurements are kept; made where it is missing.
    plan : RunPlan
        Whose sections they are.
    source : Source
        Read by windows, or section by section where its sections cannot be read in part.
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
        return self._folder / f"{z}.canvas"

    def _measure(self, z: int) -> None:
        source, plan = self._source, self._plan
        section_YX: Grid
        if source.line is not None:
            held = min(_MOST_HELD, max(SLAB, source.line))
            section_YX = Windowed(partial(source.read, z), plan.source.shape, source.dtype, held)
        else:  # each window would decode all of it
            section_YX = source.read(z)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as aside:
            mask = Path(aside) / "canvas"
            try:
                statistics, found = measure_windows(
                    section_YX,
                    plan.scaling,
                    nodata=plan.source.nodata,
                    as_bytes=plan.model.input_dtype == "uint8",
                    store=partial(PackedMask.make, mask),
                )
            except SectionError as error:
                raise error.of(source.name, z) from error
            except OSError as error:
                raise OutputError(
                    f"{self._folder}: cannot be written ({error.strerror}); free some space"
                ) from error
            if statistics.canvas_YX is not None:  # before the figures, which say that it is there
                place_once(mask, self._mask(z))
        plain: dict[str, Any] = asdict(replace(statistics, canvas_YX=None))
        plain["canvas_YX"] = statistics.canvas_YX is not None
        plain["box"] = [[part.start, part.stop] for part in statistics.box]
        document = {"statistics": plain, "mean": found.mean, "std": found.std}
        write_once(self._figures(z), json.dumps(document).encode())

    def _load(self, z: int) -> Measured:
        try:
            document = json.loads(self._figures(z).read_bytes())
            plain = document["statistics"]
            canvas = None
            if plain["canvas_YX"]:
                canvas = PackedMask(self._mask(z), self._plan.source.shape)
                if self._mask(z).stat().st_size != canvas.size:
                    raise ValueError("not of the mask's size")
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
