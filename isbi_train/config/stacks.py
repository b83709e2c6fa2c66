"""The list of labelled stacks that a run trains on, out of a TOML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from isbi_infer.errors import UsageError
from isbi_infer.files import replacing
from isbi_infer.terminal import did_you_mean
from isbi_train.config.inputs import KINDS, located
from isbi_train.config.plain import Plain, require
from isbi_train.config.settings import STORED, read_layer, typed

PLANES = ("xy", "xz", "yz")
_TABLE = "stack"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackEntry(Plain):
    """One labelled stack of a list.

    Attributes
    ----------
    name : str
        What scores, messages and ``--leave-out`` call it.
    images, labels : str
        Its files, TIFF or OME-Zarr; relative paths start at the folder of the list.
    kind : {"cells", "membranes", "ids"}
        What labels above 0 mean.
    ignore : float or None
        Value of labels that marks what nobody knows.
    pixel_size_nm : float or None
        Side of a pixel, where the file does not say it or is wrong.
    weight : float
        How often crops are drawn of it, relative to the other stacks' weights.
    membrane_weight : float or None
        Weight of its membrane pixels in the loss, in place of that of `isbi_train.config.TrainConfig`: more where 0.5
        leaves gaps, less where it draws too much, so that one threshold is good for all stacks.
    hold_out, hold_out_start : int or None
        Its held-out sections, as in `isbi_train.config.TrainConfig`.
    planes : tuple of {"xy", "xz", "yz"}
        Which sections are trained on. The last two cut an isotropic volume across its sections.
    apart : int
        How many sections apart those may lie that a network with neighbours sees together: drawn from 1 to this, so
        that a volume of thin sections stands for thicker ones, too.
    merge_enclosed : bool
        Whether an id that touches one other id only, as that of a mitochondrion within a cell, belongs to it.
    teachers : tuple of str
        Models whose probabilities are learnt beside the labels: names of released ones, or ONNX files.
    unlabelled : str
        TIFF stack of the same sections' size and pixel size that only they label; empty for none.
    terms, citation : str
        Under which it may be used, and what publications cite; stored in checkpoints.
    """

    name: str
    images: str
    labels: str
    kind: str = "cells"
    ignore: float | None = None
    pixel_size_nm: float | None = None
    weight: float = 1.0
    membrane_weight: float | None = None
    hold_out: int | None = None
    hold_out_start: int | None = None
    planes: tuple[str, ...] = ("xy",)
    apart: int = 1
    merge_enclosed: bool = False
    teachers: tuple[str, ...] = ()
    unlabelled: str = ""
    terms: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "the name is empty")
        require(bool(self.images), "no images are named")
        require(bool(self.labels), "no labels are named; expected the file of its labels")
        require(self.kind in KINDS, f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        require(
            self.weight > 0, f"weight {self.weight:g} draws nothing of it; give more than 0, or leave it out"
        )
        require(
            self.membrane_weight is None or self.membrane_weight > 0,
            f"membrane_weight {self.membrane_weight} is not positive",
        )
        require(self.hold_out is None or self.hold_out >= 1, f"hold_out {self.hold_out} is below 1")
        require(self.hold_out_start is None or self.hold_out_start >= 0, "hold_out_start is negative")
        known = set(self.planes) <= set(PLANES) and len(set(self.planes)) == len(self.planes) > 0
        require(
            known, f"planes {list(self.planes)} are none; expected some of {', '.join(PLANES)}, each once"
        )
        require(self.apart >= 1, f"apart {self.apart} is below 1")
        require(not self.merge_enclosed or self.kind == "ids", f"merge_enclosed is for ids, not {self.kind}")
        require(
            not self.unlabelled or bool(self.teachers),
            f"{self.unlabelled}: unlabelled sections need teachers to label them",
        )
        require(
            not self.unlabelled or "xy" in self.planes,
            f"{self.unlabelled}: unlabelled sections are learnt beside those along xy, which planes "
            f"{', '.join(self.planes)} lack; add xy",
        )


def read_list(path: Path, leave_out: Sequence[str] = ()) -> tuple[StackEntry, ...]:
    """Read a list of labelled stacks.

    Parameters
    ----------
    path : Path
        A TOML file with a table ``[[stack]]`` for each; see `StackEntry` for its keys.
    leave_out : sequence of str
        Names of stacks to be left out.

    Returns
    -------
    tuple of StackEntry
        At least one, their files as absolute paths.

    Raises
    ------
    UsageError
        If the file cannot be read, an entry is invalid or its name doubled, no stack has a name to be left out, or none
        is left. The message names the stack.
    """
    layer: Mapping[str, Any] = read_layer(path)
    tables = layer.get(_TABLE)
    unknown = sorted(set(layer) - {_TABLE})
    if unknown:
        raise UsageError(f"{path}: unknown key {unknown[0]}; expected a table [[{_TABLE}]] for each stack")
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables) or not tables:
        raise UsageError(f"{path}: lists no stacks; expected a table [[{_TABLE}]] for each")
    entries = [_entry(path, number, table) for number, table in enumerate(tables, 1)]
    names = [entry.name for entry in entries]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise UsageError(f"{path}: two stacks are named {doubled[0]!r}; give each a name of its own")
    for name in leave_out:
        if name not in names:
            raise UsageError(f"{path}: holds no stack {name!r} to leave out; it has {', '.join(names)}")
    left = tuple(entry for entry in entries if entry.name not in leave_out)
    if not left:
        raise UsageError(f"{path}: all its stacks are left out; expected at least one to train on")
    return left


def write_list(path: Path, entries: Sequence[StackEntry]) -> None:
    """Write a list of labelled stacks that `read_list` reads, in place only when it is whole.

    Parameters
    ----------
    path : Path
        The TOML file.
    entries : sequence of StackEntry
        With absolute paths.
    """
    import tomli_w

    tables = [
        {key: value for key, value in entry.to_plain().items() if value is not None} for entry in entries
    ]
    with replacing(path) as temporary:
        temporary.write_text(tomli_w.dumps({_TABLE: tables}), **STORED)


def _entry(path: Path, number: int, table: Mapping[str, Any]) -> StackEntry:
    name = table.get("name")
    where = f"{path}: stack {name!r}" if isinstance(name, str) and name else f"{path}: stack {number}"
    kinds = get_type_hints(StackEntry)
    for key in table:
        if key not in kinds:
            expected = f"expected {', '.join(kinds)}{did_you_mean(key, kinds)}"
            raise UsageError(f"{where}: unknown key {key}; {expected}")
    required = [field.name for field in fields(StackEntry)][:3]
    for key in required:
        if key not in table:
            raise UsageError(f"{where}: has no {key}; expected {', '.join(required)}")
    values = {key: typed(value, kinds[key], f"{where}: {key}") for key, value in table.items()}
    try:
        entry = StackEntry(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    folder = path.absolute().parent
    return replace(
        entry,
        images=str(folder / entry.images),
        labels=str(folder / entry.labels),
        teachers=tuple(located(teacher, folder) for teacher in entry.teachers),
        unlabelled=str(folder / entry.unlabelled) if entry.unlabelled else "",
    )
