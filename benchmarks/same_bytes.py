"""Did a change of the code change any result? `python -m benchmarks.same_bytes COMMIT`.

Pairs of stack and options are run by the code of a commit and by the code of the working tree, each in a process of
its own, and the files that they write are compared byte for byte. Both sides get the model files of the commit, but
for the pairs that leave the model out; TorchScript and uint8 variants are made by the commit's own exporter.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from isbi_infer.errors import UsageError
from isbi_infer.sample import synthetic_stack
from isbi_infer.terminal import exit_codes

from .report.cells import table
from .report.terminal import as_text

ROOT = Path(__file__).parents[1]
_PACKAGES = {
    "isbi_infer": "isbi_infer",
    "isbi_train": "isbi_train",
    "isbi_export": "export",
    "isbi_models": "models",
}
_RUN = "import sys; from isbi_infer.cli import main; sys.argv[0] = 'isbi-infer'; main()"
_EXPORT = "import sys; from isbi_export.cli import main; sys.argv[0] = 'isbi-export'; main()"
_WHERE = "import isbi_infer; print(isbi_infer.__file__)"
_SMALLEST, _LARGEST = 32, 512  # sides that are drawn; others are cut or mirrored out of them

FP32, INT8, SCRIPT, BYTES = "model.onnx", "model.int8.onnx", "model.pt", "model.uint8.onnx"


@dataclass(frozen=True, slots=True)
class Stack:
    """An input: its shape (Z, Y, X) in pixels, its dtype, and how tifffile writes it."""

    shape: tuple[int, int, int]
    dtype: str = "uint8"
    kind: str = "plain"
    pixel_nm: float | None = None

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        pixels = f", {self.pixel_nm:g} nm" if self.pixel_nm else ""
        return f"{size} {self.dtype}, {self.kind}{pixels}"

    def write(self, path: Path) -> None:
        """Draw it and write it; the same pixels every time."""
        sections, height, width = self.shape
        drawn = (min(max(side, _SMALLEST), _LARGEST) for side in (height, width))
        image_ZYX = synthetic_stack(sections, *drawn, seed=33)[0][:, :height, :width]
        missing = [(0, full - part) for full, part in zip(self.shape, image_ZYX.shape, strict=True)]
        image_ZYX = np.pad(image_ZYX, missing, mode="reflect")
        if self.dtype == "uint16":
            image_ZYX = image_ZYX.astype(np.uint16) * 200 + 7
        tifffile.imwrite(path, image_ZYX, photometric="minisblack", **self._described())

    def _described(self) -> dict[str, Any]:
        if self.kind == "OME":
            size = {f"PhysicalSize{axis}": self.pixel_nm for axis in "XY"}
            units = {f"PhysicalSize{axis}Unit": "nm" for axis in "XY"}
            return {"ome": True, "metadata": {"axes": "ZYX", **size, **units}}
        if self.kind == "ImageJ":
            assert self.pixel_nm is not None
            per_micrometre = 1000 / self.pixel_nm
            return {
                "imagej": True,
                "resolution": (per_micrometre, per_micrometre),
                "metadata": {"axes": "ZYX", "unit": "um"},
            }
        return {}


@dataclass(frozen=True, slots=True)
class Pair:
    """A stack, the options that it is run with, and the model file, which is the released one where it is empty."""

    stack: Stack
    options: tuple[str, ...] = ()
    model: str = FP32

    def __str__(self) -> str:
        return " ".join((f"--model {self.model}" if self.model else "the default model", *self.options))


PAIRS: dict[str, Pair] = {
    "one pixel": Pair(Stack((1, 1, 1))),
    "default": Pair(Stack((2, 37, 53)), model=""),
    "multi-section": Pair(Stack((5, 200, 180))),
    "tiled": Pair(Stack((2, 700, 500)), ("--tile", "416")),
    "tta": Pair(Stack((2, 130, 90)), ("--tta",)),
    "pixel size": Pair(Stack((1, 200, 300)), ("--pixel-size", "6")),
    "uint8 output": Pair(Stack((3, 256, 256)), ("--dtype", "uint8")),
    "membrane": Pair(Stack((2, 150, 170), "uint16"), ("--emit", "membrane")),
    "batch": Pair(Stack((3, 500, 500)), ("--tile", "416", "--batch", "3")),
    "int8": Pair(Stack((3, 500, 420)), ("--tile", "416"), INT8),
    "TorchScript": Pair(Stack((2, 380, 450)), ("--tile", "416"), SCRIPT),
    "bytes inside": Pair(Stack((3, 250, 230)), ("--dtype", "uint8"), BYTES),
    "OME": Pair(Stack((3, 160, 190), "uint16", "OME", 5.0)),
    "ImageJ": Pair(
        Stack((3, 190, 160), "uint8", "ImageJ", 4.6), ("--dtype", "uint8", "--emit", "membrane"), INT8
    ),
    "large": Pair(Stack((1, 4096, 4096))),
    "large, tta": Pair(Stack((1, 1500, 900)), ("--tta", "--tile", "736"), INT8),
}


@dataclass(frozen=True, slots=True)
class Side:
    """The code of one side: a folder with links to its packages under the names that they are imported by."""

    folder: Path

    @classmethod
    def of(cls, tree: Path, folder: Path) -> Side:
        """Link the packages of a source tree into a new folder, and prove that they are what is imported."""
        folder.mkdir()
        for package, inside in _PACKAGES.items():
            (folder / package).symlink_to((tree / inside).resolve(), target_is_directory=True)
        side = cls(folder)
        found = Path(side.python(_WHERE).strip())
        if not found.is_relative_to(folder):
            raise UsageError(f"{found} is imported in place of the code in {folder}; use another environment")
        return side

    def python(self, code: str, *arguments: str) -> str:
        """Run Python code with this side's packages; return what it prints.

        Raises
        ------
        UsageError
            If it fails; the message ends with the last line of what it wrote to standard error.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
            raise UsageError(f"{self.folder.name}: exit code {done.returncode}: {last}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one pair: the bytes of each side's file, or why there is none, and the seconds of each run."""

    files: tuple[bytes, bytes]
    failures: tuple[str, str]
    seconds: tuple[float, float]

    @property
    def same(self) -> bool:
        """Whether both sides wrote a file and the files are equal to the byte."""
        return not any(self.failures) and self.files[0] == self.files[1]

    def __str__(self) -> str:
        if any(self.failures):
            return "; ".join(failure for failure in self.failures if failure)
        if self.same:
            return "the same"
        before, after = (tifffile.imread(io.BytesIO(content)) for content in self.files)
        if before.shape != after.shape or before.dtype != after.dtype:
            return f"DIFFERENT: {before.shape} {before.dtype}, now {after.shape} {after.dtype}"
        largest = np.abs(before.astype(np.float64) - after).max()
        return (
            f"DIFFERENT: pixels by up to {largest:.3g}" if largest else "DIFFERENT, though not in the pixels"
        )


def compare(before: Side, after: Side, pair: Pair, models: Path, folder: Path) -> Outcome:
    """Run a pair on both sides.

    Parameters
    ----------
    before, after : Side
        The code.
    pair : Pair
        What to run.
    models : Path
        Folder of the model files.
    folder : Path
        For the input and, in turn, both outputs; the output's path is the same for both sides.

    Returns
    -------
    Outcome
    """
    stack, output = folder / "stack.tif", folder / "out.tif"
    pair.stack.write(stack)
    options = [
        "--provider",
        "cpu",
        *(["--model", str(models / pair.model)] if pair.model else []),
        *pair.options,
    ]
    found = []
    for side in (before, after):
        started, content, failure = time.perf_counter(), b"", ""
        try:
            side.python(_RUN, str(stack), "--output", str(output), "--quiet", *options)
            content = output.read_bytes()
        except UsageError as error:
            failure = str(error)
        found.append((content, failure, time.perf_counter() - started))
        output.unlink(missing_ok=True)
    files, failures, seconds = zip(*found, strict=True)
    return Outcome(files, failures, seconds)


def checked_out(commit: str, folder: Path, repository: Path = ROOT) -> Path:
    """Write the files of a commit into a new folder; return it.

    Raises
    ------
    UsageError
        If there is no such commit.
    """
    done = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=repository, capture_output=True, check=False
    )
    if done.returncode:
        raise UsageError(f"{commit}: git cannot check it out ({done.stderr.decode().strip()})")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def default_checkpoint(tree: Path) -> Path:
    """Return the checkpoint of a tree's default model, the first one that its registry lists.

    Raises
    ------
    UsageError
        If the tree is of a time before there were released models.
    """
    registry = tree / "models" / "registry.json"
    if not registry.exists():
        raise UsageError(
            f"{tree}: has no released model; compare with a commit that has models/registry.json"
        )
    default = json.loads(registry.read_text(encoding="utf-8"))[0]
    # Registries of earlier commits name no checkpoint.
    named = default.get("checkpoint", {"file": f"{default['name']}.pth"})
    return registry.with_name(named["file"])


def prepare_models(tree: Path, side: Side, folder: Path, wanted: set[str]) -> None:
    """Put the model files that the pairs ask for into a folder: the tree's own, or made by its exporter.

    Parameters
    ----------
    tree : Path
        The source tree of `side`; its default model is what the files are variants of.
    side : Side
        Its code.
    folder : Path
        For the files.
    wanted : set of str
        Names.
    """
    checkpoint = default_checkpoint(tree)
    folder.mkdir()
    for name, suffix in ((FP32, ".onnx"), (INT8, ".int8.onnx")):
        (folder / name).symlink_to(checkpoint.with_suffix(suffix))
    made = {SCRIPT: ["--formats", "torchscript"], BYTES: ["--formats", "onnx", "--io", "uint8"]}
    for name, options in made.items():
        if name not in wanted:
            continue
        target = folder / f"for-{name}"
        target.mkdir()
        side.python(_EXPORT, str(checkpoint), "--output", str(target), *options)
        (written,) = (path for path in target.iterdir() if path.suffix in (".pt", ".onnx"))
        written.rename(folder / name)


def rows(
    names: Sequence[str], run: Callable[[Pair], Outcome], outcomes: list[Outcome]
) -> Iterator[list[str]]:
    """Run the pairs one after the other; return the cells of each, and append what came of it to `outcomes`."""
    for name in names:
        outcome = run(PAIRS[name])
        outcomes.append(outcome)
        digest = hashlib.sha256(outcome.files[1]).hexdigest()[:12] if outcome.files[1] else ""
        print(f"{name}: {outcome}", file=sys.stderr, flush=True)
        yield [
            name,
            str(PAIRS[name].stack),
            str(PAIRS[name]),
            f"{len(outcome.files[1]):,}",
            digest,
            " / ".join(f"{seconds:.1f}" for seconds in outcome.seconds),
            str(outcome),
        ]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.same_bytes", description=__doc__.splitlines()[0]
    )
    found.add_argument("commit", help="whose code is compared with the working tree")
    found.add_argument(
        "--only", action="append", default=[], choices=PAIRS, help="only this pair; repeatable"
    )
    return found


def main(argv: list[str] | None = None) -> None:
    """Compare, print the table, and exit with 1 if any pair differs."""
    asked = parser().parse_args(argv)
    names, outcomes = asked.only or list(PAIRS), []
    with exit_codes("benchmarks.same_bytes"), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        tree = checked_out(asked.commit, folder / "tree")
        before, after = Side.of(tree, folder / "before"), Side.of(ROOT, folder / "after")
        models = folder / "models"
        prepare_models(tree, before, models, {PAIRS[name].model for name in names})
        header = ["pair", "stack", "options", "bytes", "sha256", "seconds, before / after", "files"]
        found = rows(names, lambda pair: compare(before, after, pair, models, folder), outcomes)
        print(as_text(f"{asked.commit} against the working tree", list(table(header, found))))
    same = sum(outcome.same for outcome in outcomes)
    print(f"{same} of {len(outcomes)} pairs are the same to the byte")
    if same < len(outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
