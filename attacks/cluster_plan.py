"""A plan that was changed: in a result that is verified, in a run that goes on, and a scheduler from elsewhere.

A plan is plain JSON and is read by the types of its fields; nothing in it is a path that is written to, and none of
it is believed: what it says is compared with the plan that this run makes itself, from the input and the model that
the user named, and every difference is listed. A job that goes to the workers of a cluster is pickled by Dask, so a
scheduler and its workers have to be the user's own: connecting to a stranger's is like running a stranger's program,
and is asked for by its address.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.attempt import Attempt, run_in_process
from attacks.files import tiny_onnx, write_stack

_Plain = dict[str, Any]


def _result(folder: Path, *more: str) -> list[str]:
    (folder / "model.onnx").write_bytes(tiny_onnx())
    stack = write_stack(folder)
    arguments = [str(stack), "-o", str(folder / "out.ome.zarr"), "--model", str(folder / "model.onnx")]
    arguments += ["--provider", "cpu", "--block", "1,64,80"]
    code, _, said = run_in_process("isbi-infer", [*arguments, *more])
    assert code == 0, said
    return arguments


def _blocks(plan: _Plain) -> None:
    plan["layout"]["shape"] = [2**60, 64, 80]


def _no_blocks(plan: _Plain) -> None:
    plan["layout"]["shard"] = plan["layout"]["chunk"] = [0, 0, 0]


def _source(plan: _Plain) -> None:
    plan["source"]["name"] = "/dev/zero"


def _device(plan: _Plain) -> None:
    plan["device"] = "os:system"


def _wrong(plan: _Plain) -> None:
    plan["section"] = {"tiles": [["\x1b[2J"] * 4]}


def _verified(folder: Path, change: Callable[[_Plain], None], code: int) -> Attempt:
    _result(folder)
    path = folder / "out.ome.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    change(document["attributes"]["isbi-infer"]["plan"])
    path.write_text(json.dumps(document))
    arguments = [str(folder / "out.ome.zarr"), "--model", str(folder / "model.onnx")]
    return Attempt(program="isbi-infer verify", arguments=arguments, code=code)


def _resumed(folder: Path, change: Callable[[_Plain], None]) -> Attempt:
    arguments = _result(folder, "--shard", "1/2")
    path = folder / "out.ome.zarr.partial" / "plan.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return Attempt(program="isbi-infer", arguments=[*arguments, "--resume"], code=2)


def _scheduler(folder: Path, content: str, code: int) -> Attempt:
    (folder / "model.onnx").write_bytes(tiny_onnx())
    (folder / "scheduler.json").write_text(content)
    arguments = [str(write_stack(folder)), "-o", str(folder / "out.ome.zarr"), "--provider", "cpu"]
    arguments += ["--model", str(folder / "model.onnx"), "--cluster", str(folder / "scheduler.json")]
    return Attempt(program="isbi-infer", arguments=arguments, code=code, says="scheduler.json")


ATTEMPTS = {
    "a result of 2^60 blocks": functools.partial(_verified, change=_blocks, code=2),
    "a result of blocks of nothing": functools.partial(_verified, change=_no_blocks, code=2),
    "a result of another input": functools.partial(_verified, change=_source, code=4),
    "a result of a device that is code": functools.partial(_verified, change=_device, code=2),
    "a result of no plan": functools.partial(_verified, change=_wrong, code=2),
    "a run of 2^60 blocks": functools.partial(_resumed, change=_blocks),
    "a run of no plan": functools.partial(_resumed, change=_wrong),
    "a scheduler's file of brackets": functools.partial(_scheduler, content="[" * 100_000, code=3),
    "a scheduler's file of another kind": functools.partial(_scheduler, content='{"address": 7}', code=3),
}
