"""A stack into a folder of sections and back, without a pixel changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy.typing as npt

from isbi_infer.conflicts import check_not_input
from isbi_infer.errors import ImageError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.terminal import nearest_file
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import open_stack, write_stack
from isbi_infer.volumes.finite import same_nodata
from isbi_infer.volumes.pixel_size import same_size
from isbi_infer.volumes.protocol import StackInfo
from isbi_train.data.folders import check_free, filled_at_once, tiff_files


def split_stack(
    stack: Path, folder: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> list[Path]:
    """Write each section of a stack into a TIFF file of its own.

    Parameters
    ----------
    stack : Path
        A greyscale TIFF.
    folder : Path
        Made where it is missing. The files are named ``00.tif``, ``01.tif``, ... with as many digits as the last
        one needs, and have the stack's dtype, flavour, pixel size and value of "no data".
    overwrite : bool
        Replace such files; not others, which `merge_sections` would take for sections.
    progress : callable, optional
        Called with the sections done and their total.

    Returns
    -------
    list of Path
        The files, in the order of the sections.

    Raises
    ------
    ImageError
        If the stack cannot be read whole; no file is written then.
    UsageError
        If the folder holds TIFF files that are not to be overwritten.
    OutputError
        If the folder cannot be written to.
    """
    with open_stack(stack) as reader:
        targets = section_paths(folder, reader.sections, overwrite=overwrite)
        one = replace(reader.info, shape=reader.info.shape[-2:], axes="YX")
        with filled_at_once(folder) as aside:
            for z, target in enumerate(targets):
                with replacing(aside / target.name) as temporary:
                    write_stack(
                        temporary, [reader.read(z)], like=one, dtype=reader.dtype, nodata=reader.nodata
                    )
                if progress:
                    progress(z + 1, len(targets))
    return targets


def section_paths(folder: Path, count: int, *, overwrite: bool) -> list[Path]:
    """Name the files of sections, and see that they may be written.

    Parameters
    ----------
    folder : Path
        Where they will lie; may be missing.
    count : int
        How many sections there are.
    overwrite : bool
        Whether they may be there already.

    Returns
    -------
    list of Path

    Raises
    ------
    UsageError
        If the folder holds TIFF files that are not to be overwritten.
    """
    digits = max(2, len(str(count - 1)))
    targets = [folder / f"{z:0{digits}d}.tif" for z in range(count)]
    check_free(targets, overwrite=overwrite)
    return targets


def merge_sections(
    folder: Path, stack: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> tuple[int, tuple[str, ...]]:
    """Write the TIFF files of a folder into one stack.

    Parameters
    ----------
    folder : Path
        Its ``.tif`` and ``.tiff`` files are taken in natural order (2 before 10), each as one section.
    stack : Path
        The TIFF file to write, outside the folder, with the sections' dtype, flavour, pixel size and value of "no
        data".
    overwrite : bool
        Replace it where it is there already.
    progress : callable, optional
        Called with the sections done and their total.

    Returns
    -------
    sections : int
        How many there are.
    notes : tuple of str
        What a reader must know: numbers that are missing.

    Raises
    ------
    ImageError
        If there are no sections, one cannot be read whole, or they differ in shape, dtype, the value of "no data", or
        (by more than 1 %) in pixel size.
    UsageError
        If the stack is there already, or lies in the folder.
    OutputError
        If it cannot be written.
    """
    if not folder.is_dir():
        raise ImageError(
            f"{folder}: is no folder; expected one with a TIFF file for each section{nearest_file(folder)}"
        )
    paths = tiff_files(folder)
    if not paths:
        raise ImageError(f"{folder}: holds no TIFF files; expected one for each section")
    if stack.parent.resolve() == folder.resolve():
        raise UsageError(f"{stack}: would lie among its own sections; write it to another folder")
    for path in paths:
        check_not_input(stack, path)
    if stack.exists() and not overwrite:
        raise UsageError(f"{stack}: is there already; add --overwrite or choose another name")
    check_writable(stack)
    first, dtype, nodata = _checked_alike(paths)

    def sections() -> Iterator[npt.NDArray[Any]]:
        for z, path in enumerate(paths):
            with open_stack(path) as reader:
                if (reader.info.shape[-2:], reader.dtype) != (first.shape[-2:], dtype):
                    raise ImageError(f"{path}: has changed while it was read; start again")
                yield reader.read(0)
            if progress:
                progress(z + 1, len(paths))

    shape = (len(paths), *first.shape[-2:])
    whole = StackInfo(shape=shape, axes="ZYX", kind=first.kind, pixel_size=first.pixel_size)
    with replacing(stack) as temporary:
        write_stack(temporary, sections(), like=whole, dtype=dtype, nodata=nodata)
    return len(paths), _gaps(paths)


def _checked_alike(paths: list[Path]) -> tuple[StackInfo, Any, float | None]:
    seen = []
    for path in paths:
        with open_stack(path) as reader:
            if reader.sections != 1:
                raise ImageError(
                    f"{path}: holds {reader.sections} sections; expected one in each file; split it first"
                )
            seen.append((reader.info, reader.dtype, reader.nodata))
    (first, dtype, nodata), remedy = seen[0], f"as {paths[0].name} has; bring all to one form or move it away"
    for path, (info, other, missing) in zip(paths, seen, strict=True):
        if info.shape[-2:] != first.shape[-2:]:
            raise ImageError(f"{path}: is {info.shape[-2:]}; expected {first.shape[-2:]}, {remedy}")
        if other != dtype:
            raise ImageError(f"{path}: is {other}; expected {dtype}, {remedy}")
        if not same_size(info.pixel_size, first.pixel_size):
            raise ImageError(
                f"{path}: has a pixel size of {info.pixel_size or 'nothing'}; expected "
                f"{first.pixel_size or 'none'}, {remedy}"
            )
        if not same_nodata(missing, nodata):
            raise ImageError(f'{path}: has {missing} for "no data"; expected {nodata}, {remedy}')
    return first, dtype, nodata


def _gaps(paths: list[Path]) -> tuple[str, ...]:
    """Return a note on numbers left out where the names differ in one number only."""
    found = [match for path in paths if (match := re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", path.stem))]
    if len(found) < len(paths) or len({(match[1], match[3]) for match in found}) != 1:
        return ()
    numbers = [int(match[2]) for match in found]
    gaps = [(a + 1, b - a - 1) for a, b in pairwise(numbers) if b > a + 1]
    if not gaps:
        return ()
    count = sum(gap for _, gap in gaps)
    return (f"numbers left out between the sections: {count}, the first is {gaps[0][0]}",)
