"""A folder of section images as a volume: TIFF, PNG or JPEG, one section a file, in the natural order of the names.

``folder -> sections in order -> header of each -> ImageFolder.read(z) -> section_YX``

All headers are read when the folder is opened, so that one image of another size is found before any work; pixels
are decoded when they are asked for. Pillow decodes PNG and JPEG, and is needed for these alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar

import numpy as np

from isbi_infer.conflicts import IMAGE_SUFFIXES
from isbi_infer.errors import DependencyError, ImageError, IsbiError, ResourceError
from isbi_infer.volumes.finite import same_nodata
from isbi_infer.volumes.formats import HEAD_BYTES, recognise
from isbi_infer.volumes.jpeg import check_jpeg
from isbi_infer.volumes.pixel_size import PixelSize, same_size
from isbi_infer.volumes.png import check_rows
from isbi_infer.volumes.protocol import Kind, Section, StackInfo, Window
from isbi_infer.volumes.tiff.directory import COPY
from isbi_infer.volumes.tiff.reader import open_stack

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_MAGIC = {"II": "TIFF", "MM": "TIFF", "\x89PNG\r\n\x1a\n": "PNG", "\xff\xd8\xff": "JPEG"}
_PNG_COLOURS = {2: "RGB", 3: "palette colours", 4: "greyscale with transparency", 6: "RGB with transparency"}
_ORIENTATION = 0x0112  # EXIF
# More pixels are a damaged size, not a section; nor can deflate and a JPEG's blocks shrink pixels further.
_MAX_PIXELS = 2**36
_MAX_PNG_RATIO, _MAX_JPEG_RATIO = 1040, 4096
# 72 set bits, which are no code: decoders of JPEG take up to 64 bits beyond those that they need.
_LOOKED_AHEAD = b"\xff\x00" * 9
_LEFT_OVER = 16  # bytes that may follow the codes of the last pixel
_GREY = "convert it to 8- or 16-bit greyscale"
_NAMED = 5

T = TypeVar("T")
_guard = threading.Lock()  # filters of warnings belong to the process


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What an image says of itself."""

    shape: tuple[int, int]
    dtype: np.dtype[np.generic]
    notes: tuple[str, ...] = ()
    pixel_size: PixelSize | None = None
    nodata: float | None = None
    kind: Kind = "imagej"

    def __str__(self) -> str:
        height, width = self.shape
        return f"{width} x {height} px, {self.dtype}"


@dataclass(frozen=True, slots=True)
class _Image:
    """A file, its format, and the size and time of change that it had on opening."""

    path: Path
    form: str
    stamp: tuple[int, int]


def natural_key(name: str) -> tuple[Any, ...]:
    """Return what sorts names as people do: numbers by their value, letters without regard to their case.

    Parameters
    ----------
    name : str
        Of a file.

    Returns
    -------
    tuple
        To be compared with those of other names; different for different names.
    """
    parts = re.split(r"([0-9]+)", name)  # text and numbers in turn
    return (
        *((int(part), "") if p % 2 else (-1, part.casefold()) for p, part in enumerate(parts)),
        (-2, name),
    )


def open_images(folder: str | os.PathLike[str]) -> ImageFolder:
    """Open a folder of greyscale section images.

    Parameters
    ----------
    folder : str or os.PathLike
        Holds TIFF, PNG or JPEG images of one format, shape and dtype. Hidden files are left out; other files that are
        no images, and folders, are left out and named in a note.

    Returns
    -------
    ImageFolder
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If an image cannot be read, is not greyscale, holds several sections or differs from the others, also
        in the value that stands for "no data"; if there is no image at all.
    DependencyError
        If there are PNG or JPEG images, and Pillow is not installed.
    """
    shown = Path(folder)
    try:
        entries = [entry for entry in os.scandir(shown) if not entry.name.startswith(".")]
        wanted = [entry for entry in entries if _is_image(entry)]
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{shown}: cannot be opened ({reason}); expected a folder of images") from error
    if not wanted:
        found = recognise(b"", shown) or "holds no TIFF, PNG or JPEG image; expected one image a section"
        raise ImageError(f"{shown}: {found}")
    names = sorted((entry.name for entry in wanted), key=natural_key)
    others = sorted({entry.name for entry in entries} - set(names), key=natural_key)
    return ImageFolder(shown, [_identified(shown / name) for name in names], others)


class ImageFolder:
    """An open folder of images, read one section at a time; made by `open_images`.

    It is a `isbi_infer.volumes.protocol.Source`.

    Attributes
    ----------
    name : str
        The path as it was passed.
    path : Path
        Of the folder.
    info : StackInfo
        Shape and axes (Z, Y, X); the pixel size that all images state; for TIFF, the flavour that all have.
    dtype : numpy.dtype
        Of the sections, in the machine's byte order.
    nodata : float or None
        The grey value that stands for "no data", where all images name it; such pixels may be NaN.
    notes : tuple of str
        What was left out, done to the pixels or taken for granted, and has to be said.
    """

    def __init__(self, folder: Path, images: Sequence[_Image], others: Sequence[str]) -> None:
        self.path, self.name = folder, str(folder)
        _check_one_format(folder, images)
        headers: list[_Header] = []
        for image in images:
            header = _header(image)
            first = headers[0] if headers else header
            if (header.shape, header.dtype) != (first.shape, first.dtype):
                raise ImageError(
                    f"{image.path}: {header}; expected {first}, as in {images[0].path.name}; "
                    "all images of a folder must be of one size and type"
                )
            if not same_nodata(header.nodata, first.nodata):
                found, expected = _value(header.nodata), _value(first.nodata)
                raise ImageError(
                    f"{image.path}: its no-data value is {found}; expected {expected}, as in "
                    f"{images[0].path.name}; all images of a folder must name the same one, or none: "
                    "gdal_edit.py -a_nodata VALUE sets it, -unsetnodata removes it"
                )
            headers.append(header)
        size = headers[0].pixel_size
        alike = all(same_size(size, header.pixel_size) for header in headers)
        kinds = {header.kind for header in headers}
        self.dtype: np.dtype[np.generic] = headers[0].dtype
        self.nodata: float | None = headers[0].nodata
        self.line: int | None = None
        self.info = StackInfo(
            shape=(len(images), *headers[0].shape),
            axes="ZYX",
            kind=kinds.pop() if len(kinds) == 1 else "imagej",
            pixel_size=size if alike else None,
        )
        self.notes = (
            *_left_out(others),
            *_counted(images, headers),
            *(_differing(images, headers) if not alike else ()),
        )
        self._images, self._closed = tuple(images), False

    def read(self, z: int, window: Window | None = None) -> Section:
        """Read one section or a window of it; safe to call from several threads.

        Parameters
        ----------
        z : int
            0 to ``info.sections - 1``: the image's place in the natural order of the names.
        window : (slice, slice), optional
            Rows and columns, with start and stop; all of the section when not given.

        Returns
        -------
        ndarray
            section_YX of `dtype`, a new array. Min-is-white pixels of TIFF images come inverted.

        Raises
        ------
        ImageError
            If the image cannot be decoded whole, holds NaN or infinite pixels, or has changed since the folder was
            opened.
        ResourceError
            If there is no memory for the section.
        """
        if not 0 <= z < len(self._images):
            raise IndexError(f"section {z} of {len(self._images)}")
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        image = self._images[z]
        with _named_errors(image.path, self.info.shape[1] * self.info.shape[2] * self.dtype.itemsize):
            if _stamp(image.path) != image.stamp:
                raise ImageError("the file has changed since it was opened; start again once it is finished")
            section_YX = _FORMATS[image.form].decode(image.path, window)
            if _stamp(image.path) != image.stamp:
                raise ImageError("the file has changed while it was read; start again once it is finished")
        return section_YX

    def found(self) -> tuple[str, ...]:
        """Return nothing: all that there is to say is known on opening."""
        return ()

    def fingerprint(self) -> str:
        """Return the number of images and a digest over their names, sizes and times of change."""
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(os.fsencode(image.path.name) + b"\0%d %d\0" % image.stamp)
        return f"{len(self._images)} images, {digest.hexdigest()}"

    def close(self) -> None:
        """End reading; what describes the volume stays."""
        self._closed = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Be opened again in another process."""
        return open_images, (os.path.abspath(self.path),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_image(entry: os.DirEntry[str]) -> bool:
    if Path(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
        return False
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise ImageError(
            f"{entry.path}: is a link to what is not there; fetch it, for instance with git annex get, or remove "
            "the link"
        )
    return entry.is_file()


def _identified(path: Path) -> _Image:
    """Return an image's format by its first bytes."""
    with _named_errors(path):
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        form = next(
            (name for magic, name in _MAGIC.items() if head.startswith(magic.encode("latin-1"))), None
        )
        if form is None:
            found = recognise(head, path) or f"begins with {head[:8]!r}; expected a TIFF, PNG or JPEG image"
            raise ImageError(found if head else f"is empty; expected an image; {COPY}")
        return _Image(path, form, _stamp(path))


def _check_one_format(folder: Path, images: Sequence[_Image]) -> None:
    forms = Counter(image.form for image in images)
    if len(forms) > 1:
        found = " and ".join(f"{count} {form}" for form, count in forms.most_common())
        raise ImageError(f"{folder}: holds {found} images; expected one format; move the others elsewhere")


def _header(image: _Image) -> _Header:
    with _named_errors(image.path):
        return _FORMATS[image.form].header(image.path)


def _value(nodata: float | None) -> str:
    return "none" if nodata is None else str(nodata)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _left_out(others: Sequence[str]) -> tuple[str, ...]:
    if not others:
        return ()
    named = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
    return (f"left out, since not images: {named} ({len(others)} in all)",)


def _counted(images: Sequence[_Image], headers: Sequence[_Header]) -> tuple[str, ...]:
    """Collect the notes on single images, and tell how many of them each is about."""
    about: dict[str, list[str]] = {}
    for image, header in zip(images, headers, strict=True):
        for note in header.notes:
            about.setdefault(note, []).append(image.path.name)
    return tuple(
        note
        if len(names) == len(images)
        else f"{note} ({len(names)} of {len(images)} images, first {names[0]})"
        for note, names in about.items()
    )


def _differing(images: Sequence[_Image], headers: Sequence[_Header]) -> tuple[str, ...]:
    first = headers[0].pixel_size
    other = next(i for i, header in enumerate(headers) if not same_size(first, header.pixel_size))
    stated = " and ".join(
        f"{size.x_nm:g} x {size.y_nm:g} nm in {images[i].path.name}"
        if (size := headers[i].pixel_size)
        else f"none in {images[i].path.name}"
        for i in (0, other)
    )
    return (f"the images state different pixel sizes ({stated}); none was taken",)


@contextmanager
def _named_errors(path: Path, nbytes: int = 0) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        named = str(error).startswith(f"{path}: ")  # by the reader of TIFF files
        raise (error if named else ImageError(f"{path}: {error}")) from error
    except IsbiError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{path}: no memory for a section of {nbytes / 2**30:.1f} GiB") from error
    except Exception as error:
        if reason := getattr(error, "strerror", None):  # of the system, not of a decoder
            raise ImageError(f"{path}: cannot be read ({reason}); expected a readable image") from error
        # Damaged images make decoders raise nearly anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ImageError(f"{path}: not readable ({reason}); {COPY}") from error


def _tiff_header(path: Path) -> _Header:
    with open_stack(path) as source:
        if source.info.sections > 1:
            raise ImageError(
                f"holds {source.info.sections} sections; expected one image a file; "
                "name the file itself, or save its sections one by one"
            )
        return _Header(
            shape=(source.info.shape[-2], source.info.shape[-1]),
            dtype=source.dtype,
            notes=source.notes,
            pixel_size=source.info.pixel_size,
            nodata=source.nodata,
            kind=source.info.kind,
        )


def _read_tiff(path: Path, window: Window | None) -> Section:
    with open_stack(path) as source:
        return source.read(0, window)


def _png(file: BinaryIO) -> ImageFile:
    # By its class: Image.open would take large sections for an attack, and guess among all formats.
    return _quietly(partial(_pillow_plugins()[0], file))


def _jpeg(file: BinaryIO) -> ImageFile:
    return _quietly(partial(_pillow_plugins()[1], file))


def _quietly(ask: Callable[[], T]) -> T:
    """Call Pillow without its warnings on damaged EXIF, which tell nothing about the pixels."""
    with _guard, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ask()


def _pillow_plugins() -> tuple[Callable[[BinaryIO], ImageFile], Callable[[BinaryIO], ImageFile]]:
    try:
        from PIL.JpegImagePlugin import JpegImageFile
        from PIL.PngImagePlugin import PngImageFile
    except ImportError as error:
        raise DependencyError(
            f"PNG and JPEG images need Pillow ({error}); run: pip install pillow"
        ) from error
    return PngImageFile, JpegImageFile


def _png_header(path: Path) -> _Header:
    with path.open("rb") as file:
        head = file.read(26)
        file.seek(0)
        image = _png(file)
        bits, colour = head[24], head[25]  # IHDR, the first chunk, as the specification has it
        if colour != 0:
            found = _PNG_COLOURS.get(colour, f"of the colour type {colour}")
            raise ImageError(f"is {found}; expected greyscale; {_GREY}")
        if bits not in (8, 16):
            raise ImageError(f"holds {bits}-bit pixels; expected 8 or 16 bits; {_GREY}")
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("is an animation; expected one image a file")
        dtype = np.dtype(f"u{bits // 8}")
        _check_size(image, path, (image.width * dtype.itemsize + 1) * image.height, _MAX_PNG_RATIO)
        return _Header(shape=(image.height, image.width), dtype=dtype, notes=_orientation(image))


def _jpeg_header(path: Path) -> _Header:
    with path.open("rb") as file:
        image = _jpeg(file)
        if image.mode != "L":
            found = {"RGB": "colour", "CMYK": "CMYK"}.get(image.mode, f"of the mode {image.mode}")
            raise ImageError(f"is {found}; expected greyscale; {_GREY}")
        _check_size(image, path, image.width * image.height, _MAX_JPEG_RATIO)
        lossy = "JPEG compression loses detail, which may change the result; PNG or TIFF images keep it"
        return _Header(
            shape=(image.height, image.width), dtype=np.dtype("u1"), notes=(lossy, *_orientation(image))
        )


def _check_size(image: ImageFile, path: Path, nbytes: int, ratio: int) -> None:
    declared, stored = f"declares {image.width} x {image.height} px", path.stat().st_size
    if not 0 < image.width * image.height <= _MAX_PIXELS:
        raise ImageError(f"{declared}; expected between 1 and {_MAX_PIXELS} px; {COPY}")
    if nbytes > ratio * stored:
        raise ImageError(f"{declared} in {stored} compressed bytes; {COPY}")


def _orientation(image: ImageFile) -> tuple[str, ...]:
    try:
        code = _quietly(image.getexif).get(_ORIENTATION, 1)
    except Exception:  # whatever it says, it is ignored
        return ()
    return () if code == 1 else (f"the orientation tag ({code}) was ignored: pixels are as stored",)


def _read_png(path: Path, window: Window | None) -> Section:
    data = path.read_bytes()
    _png(io.BytesIO(data)).verify()  # the checksums, which decoding does not look at
    check_rows(data)
    return _pixels(_png(io.BytesIO(data)), window)


class _InTwo(io.BytesIO):
    """Data that are handed out up to a place at first, and beyond it only to who asks again."""

    def __init__(self, data: bytes, place: int) -> None:
        super().__init__(data)
        self._place = place

    @property
    def asked_again(self) -> bool:
        return self.tell() > self._place

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._place - self.tell()
        if left > 0 and (size is None or not 0 <= size <= left):
            size = left
        return super().read(size)


def _read_jpeg(path: Path, window: Window | None) -> Section:
    data = path.read_bytes()
    codes = check_jpeg(data)
    if codes is None:
        return _pixels(_jpeg(io.BytesIO(data)), window)
    start, stop = codes
    # A decoder that comes to an end marker fills up what is missing; without one it has to ask for more.
    last = len(data[:stop].rstrip(b"\0"))  # some encoders pad
    file = _InTwo(data[:stop] + _LOOKED_AHEAD, max(start, last - _LEFT_OVER))
    section_YX = _pixels(_jpeg(file), window)
    if not file.asked_again:
        raise ImageError(f"its JPEG data go on after its last pixel; {COPY}")
    return section_YX


def _pixels(image: ImageFile, window: Window | None) -> Section:
    pixels_YX = np.asarray(image)
    return np.array(pixels_YX if window is None else pixels_YX[window], pixels_YX.dtype.newbyteorder("="))


@dataclass(frozen=True, slots=True)
class _Format:
    header: Callable[[Path], _Header]
    decode: Callable[[Path, Window | None], Section]


_FORMATS = {
    "TIFF": _Format(_tiff_header, _read_tiff),
    "PNG": _Format(_png_header, _read_png),
    "JPEG": _Format(_jpeg_header, _read_jpeg),
}
