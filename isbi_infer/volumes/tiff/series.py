"""Which pages of a TIFF belong together: the series of a file, and the one that is read.

A file has one series, as a rule. Pages of another size or type are another one, and so are pages after those that a
description counts. Pages that each describe themselves as one image, all of one size and type, are what is left of a
stack that was written section by section, and are one series.

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from isbi_infer.errors import ImageError
from isbi_infer.volumes.tiff.description import Declaration, Selection, declared, each_a_section
from isbi_infer.volumes.tiff.ome import declared_by_ome, is_ome
from isbi_infer.volumes.tiff.pages import Layout, Page
from isbi_infer.volumes.tiff.scale import Found, Resolution, from_tags, settle

_LISTED = 4


class PageTags(NamedTuple):
    """What the tags of a page say about it.

    Attributes
    ----------
    texts : tuple of str
        Its image descriptions.
    resolution : Resolution
        Its resolution tags.
    microscope : Found
        The pixel size that a microscope wrote.
    """

    texts: tuple[str, ...]
    resolution: Resolution
    microscope: Found


class _Series(NamedTuple):
    layout: Layout
    pages: tuple[int, ...]
    one_by_one: bool = False

    def __str__(self) -> str:
        return f"{len(self.pages)} of {self.layout}"


def declare(pages: Sequence[Page], tags_of: Callable[[int], PageTags], selection: Selection) -> Declaration:
    """Find out what a file declares, and choose among it.

    Parameters
    ----------
    pages : sequence of Page
        All that the file has.
    tags_of : callable
        Returns what the tags of a page say.
    selection : Selection
        What is wanted.

    Returns
    -------
    Declaration
        Its pages are all of one layout.

    Raises
    ------
    ImageError
        If the description is damaged or does not fit the pages, or there is more than one stack of sections and none
        was chosen, or what was chosen is not there.
    """
    tags = tags_of(0)
    otherwise = settle(tags.microscope, from_tags(tags.resolution))
    for text in tags.texts:
        if is_ome(text):
            sizes = [(page.layout.height, page.layout.width) for page in pages]
            found = declared_by_ome(text, otherwise, selection, pages=len(pages), sizes=sizes)
            layouts = tuple(dict.fromkeys(pages[page].layout for page in found.pages))
            if len(layouts) > 1:
                raise _several([_Series(layout, _alike(pages, layout)) for layout in layouts], choose=False)
            return found
    series = _split(pages)
    wanted = selection.series
    if wanted is not None and not 0 <= wanted < len(series):
        there = f"series 0 to {len(series) - 1}" if len(series) > 1 else "series 0 alone"
        raise ImageError(f"has no series {wanted}; expected {there}")
    if wanted is None and len(series) > 1:
        raise _several(series)
    chosen = series[wanted or 0]
    if chosen.pages[0] != 0:
        tags = tags_of(chosen.pages[0])
        otherwise = settle(tags.microscope, from_tags(tags.resolution))
    read = each_a_section if chosen.one_by_one else declared
    return read(
        tags.texts,
        tags.resolution,
        otherwise,
        selection,
        pages=chosen.pages,
        height=chosen.layout.height,
        width=chosen.layout.width,
    )


def _several(series: Sequence[_Series], *, choose: bool = True) -> ImageError:
    found = "; ".join(map(str, series[:_LISTED])) + ("; ..." if len(series) > _LISTED else "")
    remedy = f"choose with --series 0 to {len(series) - 1}, or " if choose else ""
    return ImageError(
        f"{len(series)} series of pages ({found}); expected one; {remedy}save the wanted one by itself"
    )


def _alike(pages: Sequence[Page], layout: Layout) -> tuple[int, ...]:
    return tuple(index for index, page in enumerate(pages) if page.layout == layout)


def _split(pages: Sequence[Page]) -> list[_Series]:
    layouts: dict[Layout, list[int]] = {}
    for index, page in enumerate(pages):
        layouts.setdefault(page.layout, []).append(index)
    series = [one for layout, alike in layouts.items() for one in _split_alike(pages, layout, alike)]
    return sorted(series, key=lambda one: one.pages[0])


def _split_alike(pages: Sequence[Page], layout: Layout, alike: Sequence[int]) -> list[_Series]:
    declares = [pages[index].declares for index in alike]
    series, start = [], 0
    while start < len(alike):
        count, stop = declares[start], start + 1
        one_by_one = count == 1 and declares[stop : stop + 1] == [1]
        if one_by_one:
            while stop < len(alike) and declares[stop] == 1:
                stop += 1
        elif count is not None and _ends(declares, start + count):
            stop = start + count
        else:  # what it declares does not fit, and is an error where this series is read
            while stop < len(alike) and declares[stop] is None:
                stop += 1
        series.append(_Series(layout, tuple(alike[start:stop]), one_by_one))
        start = stop
    return series


def _ends(declares: Sequence[int | None], stop: int) -> bool:
    return stop == len(declares) or (stop < len(declares) and declares[stop] is not None)
