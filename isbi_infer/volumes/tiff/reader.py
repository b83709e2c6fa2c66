"""Stacks of greyscale sections out of TIFF files, strictly and one section at a time.

``file -> walk_pages -> declare -> TiffSource.read(index) -> section_YX``

A file yields all the sections that it declares, or an error: never fewer of them. tifffile decodes; what the
file holds is checked before it is asked (see `isbi_infer.volumes.tiff.directory`).
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import tifffile

from isbi_infer.errors import ImageError, IsbiError, ResourceError
from isbi_infer.terminal import nearest_file
from isbi_infer.volumes.finite import check_finite, same_nodata
from isbi_infer.volumes.formats import HEAD_BYTES, recognise
from isbi_infer.volumes.jpeg import check_jpeg
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Kind, Section, Window
from isbi_infer.volumes.tiff.description import Declaration, Selection
from isbi_infer.volumes.tiff.directory import COPY, GDAL_NODATA
from isbi_infer.volumes.tiff.log import tifffile_errors
from isbi_infer.volumes.tiff.microscopes import find_size
from isbi_infer.volumes.tiff.pages import Page, notes_on, walk_pages
from isbi_infer.volumes.tiff.scale import Resolution
from isbi_infer.volumes.tiff.series import PageTags, declare

# They keep sections in ways of their own, which plain pages do not show.
_FOREIGN = "lsm stk fluoview scanimage mmstack ndtiff mdgel eer ndpi svs scn bif avs qpi philips"
# Of tags that the pixels do not need, and of lengths of strips that follow from the size: `walk_pages` looks at both.
_HARMLESS = ("<TiffTag.fromfile> raised", "missing data ByteCounts tag", "incorrect Strip")
# Their decoders make something of any bytes.
_OF_BITS = {2: "CCITT modified Huffman", 3: "CCITT group 3", 4: "CCITT group 4"}
_JPEG, _JPEG_TABLES = (7, 33007), 347
_TELLING_BYTES = 1024  # below, what follows the pixels may be of this length by chance


def open_stack(
    path: str | os.PathLike[str],
    *,
    channel: int | None = None,
    time: int | None = None,
    series: int | None = None,
) -> TiffSource:
    """Open a greyscale TIFF and check that it holds all that it declares.

    Parameters
    ----------
    path : str or os.PathLike
        A section or a stack: plain TIFF, ImageJ or OME, also BigTIFF, tiled or compressed.
    channel, time : int, optional
        Which one is read of a stack with channels or time points besides its sections, from 0.
    series : int, optional
        Which one is read of a file that holds several images or stacks, from 0.

    Returns
    -------
    TiffSource
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If this is not one whole greyscale stack, the message says what was found instead, and how to choose; or if
        what was chosen is not there.
    """
    selection = Selection(channel, time, series)
    shown = Path(path)
    with _named_errors(shown):
        try:
            mode = shown.stat().st_mode
            if stat.S_ISDIR(mode):
                raise ImageError("is a folder; expected a TIFF file; name the file itself")
            if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
                raise ImageError("is a device or a pipe; expected a TIFF file; name the file itself")
            file = shown.open("rb")
        except OSError as error:
            reason = error.strerror or str(error)
            meant = nearest_file(shown) if isinstance(error, FileNotFoundError) else ""
            expected = meant or "; expected a readable TIFF file"
            raise ImageError(f"cannot be opened ({reason}){expected}") from error
    try:
        with _named_errors(shown):
            head = file.read(HEAD_BYTES)
            file.seek(0)
            if head[:2] not in (b"II", b"MM") and (found := recognise(head, shown)) is not None:
                raise ImageError(found)
            return TiffSource(shown, file, selection)
    except BaseException:
        file.close()
        raise


class TiffSource:
    """An open TIFF stack, read one section at a time; made by `open_stack`.

    It is a `isbi_infer.volumes.protocol.Source`.

    Attributes
    ----------
    name : str
        The path as it was passed.
    path : Path
        Of the file.
    info : StackInfo
        Shape, axes, kind and pixel size: what an output takes over.
    dtype : numpy.dtype
        Of the sections, in the machine's byte order.
    nodata : float or None
        The grey value that stands for "no data", where the file names one; such pixels may be NaN.
    notes : tuple of str
        What was done to the pixels or taken for granted: what the reader of the results must know.
    line : int or None
        Pixels of a row in uncompressed files; None where a window decodes all of its section.
    """

    def __init__(self, path: Path, file: BinaryIO, selection: Selection | None = None) -> None:
        pages, self._byte_order = walk_pages(file)
        file.seek(0)
        tiff = tifffile.TiffFile(file)
        _check_kind(tiff)
        self._selection = selection or Selection()
        declaration = declare(
            pages, lambda page: _tags(tiff, page, pages[page].layout.width), self._selection
        )
        own = tuple(pages[page] for page in declaration.pages)
        _check_decodable(own)
        _check_whole(declaration, own, os.fstat(file.fileno()).st_size)
        self.path, self.name = path, str(path)
        self.info = declaration.info
        self.dtype: np.dtype[np.generic] = own[0].layout.dtype
        self.nodata = _nodata(tiff, declaration, own)
        self.notes = (*notes_on(own), *declaration.notes)
        self._file, self._tiff, self._pages, self._declaration = file, tiff, own, declaration
        self.line = self.info.shape[-1] if all(page.strips for page in own) else None
        self._stamp = self._file_stamp()
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        """(Y, X) of a single image, (Z, Y, X) of a stack."""
        return self.info.shape

    @property
    def sections(self) -> int:
        """Number of sections; 1 for a single image."""
        return self.info.sections

    @property
    def height(self) -> int:
        """Pixels along Y."""
        return self.info.shape[-2]

    @property
    def width(self) -> int:
        """Pixels along X."""
        return self.info.shape[-1]

    @property
    def axes(self) -> str:
        """One letter per dimension, as in the file, without those of length 1."""
        return self.info.axes

    @property
    def kind(self) -> Kind:
        """The flavour of TIFF."""
        return self.info.kind

    @property
    def pixel_size(self) -> PixelSize | None:
        """In nanometres; None where the file does not hold it."""
        return self.info.pixel_size

    def read(self, index: int, window: Window | None = None) -> Section:
        """Read one section or a window of it; safe to call from several threads.

        Parameters
        ----------
        index : int
            0 to ``sections - 1``.
        window : (slice, slice), optional
            Rows and columns, with start and stop; all of the section when not given. Only uncompressed files are
            spared from reading the rest.

        Returns
        -------
        ndarray
            section_YX of `dtype`, a new array. Min-is-white pixels come inverted.

        Raises
        ------
        ImageError
            If the section cannot be decoded whole, holds NaN or infinite pixels, or the file has changed
            since it was opened.
        ResourceError
            If there is no memory for the section.
        """
        if not 0 <= index < self.sections:
            raise IndexError(f"section {index} of {self.sections}")
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        with _named_errors(self.path, f"section {index}: "):
            try:
                with self._lock:
                    section_YX = self._decode(index, window)
            except MemoryError as error:  # its size was found sound, so the machine is too small
                size = self._pages[0].layout.nbytes / 2**30
                raise ResourceError(f"{self.path}: no memory for a section of {size:.1f} GiB") from error
            if self._file_stamp() != self._stamp:
                raise ImageError("the file has changed since it was opened; start again once it is finished")
            if self._pages[0].layout.inverted:
                np.invert(section_YX, out=section_YX)
            check_finite(section_YX, self.nodata)
        return section_YX

    def found(self) -> tuple[str, ...]:
        """Return nothing: all that there is to say is known on opening."""
        return ()

    def fingerprint(self) -> str:
        """Return the file's size in bytes, its time of change in nanoseconds and what of it was chosen."""
        said = "{} bytes, changed at {} ns".format(*self._stamp)
        return f"{said}, {self._selection}" if str(self._selection) else said

    def __len__(self) -> int:
        return self.sections

    def __iter__(self) -> Iterator[Section]:
        return (self.read(index) for index in range(self.sections))

    def close(self) -> None:
        """Close the file; what describes the stack stays."""
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Be opened again in another process."""
        chosen = self._selection
        reopen = partial(open_stack, channel=chosen.channel, time=chosen.time, series=chosen.series)
        return reopen, (os.path.abspath(self.path),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, index: int, window: Window | None) -> Section:
        layout, plane = self._pages[0].layout, self._declaration.planes[index]
        if len(self._pages) == 1:  # the planes of an ImageJ stack beyond 4 GB follow its only page
            page, number, skipped = self._pages[0], self._declaration.pages[0], plane * layout.nbytes
        else:
            page, number, skipped = self._pages[plane], self._declaration.pages[plane], 0
        if page.strips:
            return self._read_plain(page, skipped, window)
        if page.compression in _JPEG:
            self._check_jpeg(number)
        # One thread: the log records of others would not be caught.
        section_YX: Section = self._tiff.pages[number].asarray(maxworkers=1)
        if section_YX.shape != (layout.height, layout.width) or section_YX.dtype != self.dtype:
            raise ImageError(f"decoded to {section_YX.dtype} {section_YX.shape}; expected {layout}; {COPY}")
        return section_YX if window is None else section_YX[window].copy()

    def _check_jpeg(self, number: int) -> None:
        """Raise ImageError where data of a page are missing, which its decoder would fill up."""
        page = self._tiff.pages[number]
        tables = page.tags.valueof(_JPEG_TABLES, default=b"")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            self._file.seek(offset)
            check_jpeg(self._file.read(count), tables)

    def _read_plain(self, page: Page, skipped: int, window: Window | None) -> Section:
        layout = page.layout
        rows, columns = window or (slice(0, layout.height), slice(0, layout.width))
        stored_YX = np.empty(
            (rows.stop - rows.start, layout.width), self.dtype.newbyteorder(self._byte_order)
        )
        row_bytes = layout.width * stored_YX.itemsize
        at = rows.start
        while at < rows.stop:
            strip, inside = divmod(at, page.rows)
            stop = min(rows.stop, (strip + 1) * page.rows)
            part_YX = stored_YX[at - rows.start : stop - rows.start]
            self._file.seek(page.strips[strip] + skipped + inside * row_bytes)
            count = self._file.readinto(part_YX.view(np.uint8))  # type: ignore[attr-defined]
            if count != part_YX.nbytes:
                raise ImageError(f"only {count} of {part_YX.nbytes} bytes are there; {COPY}")
            at = stop
        if columns != slice(0, layout.width):
            stored_YX = stored_YX[:, columns].copy()
        return stored_YX if stored_YX.dtype.isnative else stored_YX.byteswap(inplace=True).view(self.dtype)

    def _file_stamp(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


@contextmanager
def _named_errors(path: Path, where: str = "") -> Iterator[None]:
    """Turn all that goes wrong in reading, also what is only logged, into an ImageError naming the file."""
    with tifffile_errors() as logged:
        try:
            yield
            serious = [line for line in logged if not any(harmless in line for harmless in _HARMLESS)]
            if serious:
                raise ImageError(f"damaged ({' '.join(serious[0].split())}); copy or export it again")
        except ImageError as error:
            raise ImageError(f"{path}: {where}{error}") from error
        except IsbiError:
            raise
        except ImportError as error:  # of a codec that newer versions of Python have without imagecodecs
            raise ImageError(
                f"{path}: {where}cannot be decompressed ({error}); pip install imagecodecs"
            ) from error
        except Exception as error:
            # Damaged files make the decoders raise nearly anything.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ImageError(f"{path}: {where}not readable ({reason}); {COPY}") from error


def _check_kind(tiff: tifffile.TiffFile) -> None:
    foreign = [name for name in _FOREIGN.split() if getattr(tiff, f"is_{name}", False)]
    if foreign:
        raise ImageError(
            f"found a TIFF of the kind {foreign[0].upper()}; expected a plain, ImageJ or OME one; convert it"
        )


def _check_decodable(pages: tuple[Page, ...]) -> None:
    for page in pages:
        for codecs, code in (
            (tifffile.TIFF.DECOMPRESSORS, page.compression),
            (tifffile.TIFF.UNPREDICTORS, page.predictor),
        ):
            if code == 1:
                continue
            if codecs is tifffile.TIFF.DECOMPRESSORS and code in _OF_BITS:
                raise ImageError(f"its compression ({_OF_BITS[code]}) is for black and white alone; {COPY}")
            try:
                codecs[code]
            except KeyError as error:
                name = " ".join(str(error.args[0]).split())
                remedy = "pip install imagecodecs" if "imagecodecs" in name else "save it uncompressed"
                raise ImageError(f"cannot be decompressed ({name}); {remedy}") from error


def _tags(tiff: tifffile.TiffFile, page: int, width: int) -> PageTags:
    tags = tiff.pages[page].tags
    values = [tag.value for tag in tags.getall(270) or ()]
    # Bytes are left where they are no text in any usual encoding; what they declare still counts.
    texts = tuple(value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in values)
    resolution = Resolution(tags.valueof(282), tags.valueof(283), tags.valueof(296, default=2))

    def value_of(code: int) -> object:
        # Whatever a microscope's tag makes tifffile raise or log, the pixels do not need it.
        with tifffile_errors():
            try:
                return tags.valueof(code)
            except Exception:
                return None

    return PageTags(texts, resolution, find_size((tag.code for tag in tags), value_of, resolution, width))


def _check_whole(declaration: Declaration, pages: tuple[Page, ...], size: int) -> None:
    total, start, one = declaration.total, pages[0].data_offset, pages[0].layout.nbytes
    if len(pages) != 1:
        return
    if total > 1 and (start is None or start + total * one > size):
        raise ImageError(f"declares {total} sections, but has one page and no room for the others; {COPY}")
    if total == 1 and start is not None and not declaration.pages[0]:
        # ImageJ stacks beyond 4 GB have one page; without their description they would pass for one section.
        more, rest = divmod(size - start - one, one)
        if rest == 0 and more > 0 and one >= _TELLING_BYTES:
            raise ImageError(
                f"declares 1 section, but holds pixels for {more + 1}; export it again as ImageJ TIFF"
            )


def _nodata(tiff: tifffile.TiffFile, declaration: Declaration, pages: tuple[Page, ...]) -> float | None:
    """Return the value that stands for "no data" in all pages; one that names none follows the first, if that does.

    Writers put the tag into the first page alone, or into every page.
    """
    value = _nodata_of(tiff, declaration.pages[0])
    for number, page in zip(declaration.pages, pages, strict=True):
        if page.nodata in (b"", pages[0].nodata):
            continue
        found = _nodata_of(tiff, number)
        if not same_nodata(found, value):
            expected = "none" if value is None else str(value)
            raise ImageError(
                f"the no-data value of page {number} is {found}; expected {expected}, as on page "
                f"{declaration.pages[0]}; all pages must name the same one, or none; save the stack again with one"
            )
    return (
        _inverted(value, pages[0].layout.dtype) if value is not None and pages[0].layout.inverted else value
    )


def _nodata_of(tiff: tifffile.TiffFile, page: int) -> float | None:
    """Read GDAL's tag; None where there is none, or it is no number."""
    text = tiff.pages[page].tags.valueof(GDAL_NODATA)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _inverted(value: float, dtype: np.dtype[np.generic]) -> float:
    """Return what becomes of a value where integers of a type are inverted."""
    largest = 2 ** (8 * dtype.itemsize) - 1
    return (largest if dtype.kind == "u" else -1) - value
