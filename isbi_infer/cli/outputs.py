"""All that a command reads and writes, looked at together before any work, so that no file is lost by another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from isbi_infer.cli.request import LABEL_SUFFIXES, Request
from isbi_infer.errors import OutputError, UsageError

_IDS = "ids of cells"  # in what is stored with labels
_TWO_STACKS = "name one of them otherwise, or run them one after the other with another --out-dir"


def check_files(
    work: Sequence[tuple[Path, Path]], request: Request, read: Iterable[Path | str | None]
) -> None:
    """Make sure that no output of a command takes the place of an input, another output or somebody's annotations.

    Parameters
    ----------
    work : sequence of (Path, Path)
        Each stack, and where its result goes.
    request : Request
        Says what else is read and written.
    read : iterable of path or None
        What is read beside that; names of other things do no harm.

    Raises
    ------
    UsageError
        As by `isbi_infer.conflicts.check_apart`; and if ids would replace what isbi-infer has not written, or their
        table that of other ids.
    """
    from isbi_infer.conflicts import check_apart
    from isbi_infer.neurons.measurements import table_of

    outputs = [(f"the result of {stack}", target) for stack, target in work]
    check_apart(outputs, [], remedy=_TWO_STACKS)
    outputs += request.looks.wanted()
    if request.labels is not None:
        outputs += [("--labels", request.labels), ("the table of --labels", table_of(request.labels))]
    mask = request.options.mask if request.options else None
    others = [path for path in (request.label, mask, *read) if path]
    check_apart(outputs, [*(stack for stack, _ in work), *others])
    if request.labels is not None:
        _check_own(request.labels)


def _check_own(labels: Path) -> None:
    """Raise UsageError where ids or their table would replace what isbi-infer has not written as such."""
    from isbi_infer.neurons.measurements import table_of
    from isbi_infer.volumes import is_chunked_output

    table = table_of(labels)
    own = {labels: _is_volume_of_ids if is_chunked_output(labels) else _is_tiff_of_ids, table: _is_table}
    for path, is_own in own.items():
        if os.path.exists(path) and not is_own(path):
            what = "its table" if path == table else "ids"
            raise UsageError(
                f"{path}: isbi-infer has not written this file, and --labels would replace it by {what}; name "
                "another one, or move this one away (annotations to score against are named with --label)"
            )
    for other in _others_with(table, labels):
        raise UsageError(
            f"{labels}: its table would be {table}, which is that of {other}; name --labels otherwise, or move "
            f"{other.name} and {table.name} away"
        )


def _others_with(table: Path, labels: Path) -> Iterator[Path]:
    """Yield ids of another name that are there and have this table, such as n.tiff or n.ome.zarr beside n.tif."""
    from isbi_infer.neurons.measurements import table_of
    from isbi_infer.volumes import is_chunked_output

    beside = list[Path]()
    with suppress(OSError):  # of a folder that is not there; `check_writable` says so
        beside = sorted(labels.parent.iterdir())
    for path in beside:
        if path.suffix.lower() not in LABEL_SUFFIXES or table_of(path) != table:
            continue
        if is_chunked_output(path):
            there = os.path.isfile(path / "zarr.json") and _is_volume_of_ids(path)
        else:
            there = os.path.isfile(path) and _is_tiff_of_ids(path)
        if there and not (os.path.exists(labels) and os.path.samefile(path, labels)):
            yield path


def _is_tiff_of_ids(path: Path) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            software = file.pages.first.software
    except Exception:  # whatever the parser of a file that is none of ours raises
        return os.path.isdir(path)  # `check_writable` refuses it: no file takes the place of a folder
    return software.startswith("isbi-infer ") and _IDS in software


def _is_volume_of_ids(path: Path) -> bool:
    from isbi_infer.run.volume import ATTRIBUTE
    from isbi_infer.volumes.zarr.unfinished import stored_attributes

    if not os.path.isfile(path / "zarr.json"):
        return True  # `Unfinished.check` refuses it: nothing but an OME-Zarr is replaced
    try:
        own = stored_attributes(path).get(ATTRIBUTE)
    except OutputError:
        return False
    return isinstance(own, dict) and "labelling" in own


def _is_table(path: Path) -> bool:
    from isbi_infer.neurons.measurements import COLUMNS

    try:
        with path.open("rb") as file:
            return file.readline().strip() == ",".join(COLUMNS).encode()
    except OSError:
        return os.path.isdir(path)  # `check_writable` refuses it, too
