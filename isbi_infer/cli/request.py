"""What is asked of each stack, and which wishes go together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from isbi_infer.errors import UsageError
from isbi_infer.terminal.words import nearest

COMMANDS = {"doctor": "isbi_infer.doctor", "models": "isbi_infer.catalogue", "verify": "isbi_infer.verify"}
"""What stands beside the command that segments, and the modules that hold it."""

LABEL_SUFFIXES = (".tif", ".tiff", ".zarr")
"""Of files of ids, in lower case."""

_DIGITS = 9  # of a number in an option
_SHOWN = 100  # characters of an option in a message

if TYPE_CHECKING:
    from isbi_infer.report.after import Looks
    from isbi_infer.run.volume import VolumeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of each stack."""

    channel: int | None
    time: int | None
    series: int | None
    level: str | None
    strict: bool
    options: VolumeOptions | None
    label: Path | None
    labels_are: Literal["cells", "membranes", "ids"]
    ignore: float | None
    labels: Path | None
    link: Literal["none", "overlap", "multicut"]
    threshold: float | None
    min_size: str
    pixel_size: float | None
    emit: Literal["cell", "membrane"]
    dtype: Literal["float32", "uint8"]
    looks: Looks
    dry_run: bool
    as_json: bool
    quiet: bool


def check_stacks(
    stacks: Sequence[Path], output: Path | None, label: Path | None, picture: Path | None
) -> None:
    """Raise UsageError where several stacks cannot share what is asked for."""
    for stack in stacks:
        meant = nearest(str(stack), COMMANDS)
        if meant and not os.path.lexists(stack):
            raise UsageError(f"{stack}: neither a file nor a command; did you mean isbi-infer {meant}?")
    if len(stacks) > 1 and output is not None:
        raise UsageError(f"{output}: one output for {len(stacks)} stacks; use --out-dir")
    if len(stacks) > 1 and label is not None:
        raise UsageError(
            f"{label}: labels of one stack, but there are {len(stacks)}; score one after the other"
        )
    if len(stacks) > 1 and picture is not None:
        raise UsageError(f"{picture}: shows one stack, but there are {len(stacks)}; run one after the other")


def check_labels(
    stacks: Sequence[Path], labels: Path | None, link: str, threshold: float | None, min_size: str
) -> None:
    """Raise UsageError where options of labels are invalid, or there are no labels."""
    if labels is None:
        if link != "none" or threshold is not None or min_size != "0px":
            raise UsageError("--link, --threshold and --min-size are for labels; name a file with --labels")
        return
    if len(stacks) > 1:
        raise UsageError(
            f"{labels}: labels of one stack, but there are {len(stacks)}; label one after the other"
        )
    if labels.suffix.lower() not in LABEL_SUFFIXES:
        raise UsageError(
            f"{labels}: labels are written as TIFF or OME-Zarr; name it {labels.with_suffix('.tif')} or "
            f"{labels.with_suffix('.ome.zarr')}"
        )


def target_of(stack: Path, output: Path | None, out_dir: Path | None) -> Path:
    """Name the output: as asked, or after the stack and beside it: ``stack.tif`` -> ``stack.probability.tif``."""
    from isbi_infer.volumes.zarr.location import is_address

    if output is not None and out_dir is not None:
        raise UsageError("--output and --out-dir exclude each other; use one of them")
    if output is not None:
        return output
    if stack.name in ("", ".."):
        stack = Path(os.path.abspath(stack))
        if not stack.name:
            raise UsageError(f"{stack}: has no name to call a result by; name one with --output")
    stem = stack.stem if stack.suffix.lower() in (".tif", ".tiff", ".zarr") else stack.name
    if stack.suffix.lower() == ".zarr":
        folder = Path() if is_address(stack) else stack.parent
        return (out_dir or folder) / f"{stem.removesuffix('.ome')}.probability.ome.zarr"
    return (out_dir or stack.parent) / f"{stem}.probability.tif"


def volume_options(
    block: str | None,
    shard: str | None,
    pyramid: bool,
    resume: bool,
    overwrite: bool,
    mask: Path | None,
    cluster: str | None,
) -> VolumeOptions | None:
    """Read what concerns OME-Zarr alone; None where nothing of it was asked for."""
    from isbi_infer.run.volume import VolumeOptions

    if not (block or shard or pyramid or resume or overwrite or mask or cluster):
        return None
    sides, share = (
        _numbers(block, ",", 3, "--block", "32,1024,1024"),
        _numbers(shard, "/", 2, "--shard", "1/4"),
    )
    return VolumeOptions(
        block=(sides[0], sides[1], sides[2]) if sides else None,
        share=(share[0], share[1]) if share else (1, 1),
        pyramid=pyramid,
        resume=resume,
        overwrite=overwrite,
        mask=str(mask or ""),
        cluster=cluster or "",
    )


def _numbers(text: str | None, separator: str, count: int, option: str, example: str) -> list[int] | None:
    parts = [] if text is None else text.split(separator)
    if text is not None and not (len(parts) == count and all(map(_is_number, parts))):
        raise UsageError(
            f"{option} {text[:_SHOWN]} is invalid; expected {count} numbers, such as {option} {example}"
        )
    return [int(part) for part in parts] or None


def _is_number(text: str) -> bool:
    return text.strip().isdecimal() and len(text.strip()) <= _DIGITS
