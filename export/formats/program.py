"""``torch.export`` programs (``.pt2``): what follows TorchScript in torch, and what AOTInductor compiles for C++."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config

from isbi_export.formats.deployable import Deployable
from isbi_infer.errors import ModelError
from isbi_infer.model.contract import CONTRACT_KEY, ModelContract, contract_of
from isbi_infer.model.file import read_archive

_MARKER = "archive_format"  # a record that every such archive has

_PROVENANCE = (
    "stack_trace",
    "nn_module_stack",
    "source_fn_stack",
    "torch_fn",
)  # paths and names of this machine


def program_of(model: Deployable) -> torch.export.ExportedProgram:
    """Export a network as a program with dynamic batch, height and width, and no trace of this machine.

    Parameters
    ----------
    model : Deployable
        What to export.
    """
    stride = model.network.config.stride
    example_NCYX = torch.zeros(2, model.network.config.channels, 2 * stride, 3 * stride)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    # Otherwise torch assumes of every size that it is not 1, and one section of one stride would be refused.
    symbols: Any = _config  # whose methods torch does not declare
    with symbols.patch(backed_size_oblivious=True):
        program = torch.export.export(
            model,
            (example_NCYX,),
            dynamic_shapes=({0: batch, 2: stride * height, 3: stride * width},),
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in _PROVENANCE:
                node.meta.pop(key, None)
    # In an order that does not depend on what this process exported before.
    ordered = sorted(program.range_constraints.items(), key=lambda entry: str(entry[0]))
    program.range_constraints.clear()
    program.range_constraints.update(ordered)
    return program


def write_program(path: Path, program: torch.export.ExportedProgram, contract: ModelContract) -> None:
    """Write a program with a contract among the extra files; the same bytes for the same network and contract.

    Parameters
    ----------
    path : Path
        Where to; written directly, so it should be a temporary name.
    program : ExportedProgram
        From `program_of`.
    contract : ModelContract
        Stored under `CONTRACT_KEY`, with the digest of what is written.
    """
    digest = read_archive(_archive(program, contract), _MARKER).digest
    path.write_bytes(_archive(program, replace(contract, digest=digest)))


def _archive(program: torch.export.ExportedProgram, contract: ModelContract) -> bytes:
    buffer = io.BytesIO()  # the archive would otherwise carry the temporary file's name
    torch.export.save(program, buffer, extra_files={CONTRACT_KEY: contract.to_json()})
    return buffer.getvalue()


def read_program(path: Path) -> tuple[nn.Module, ModelContract]:
    """Read a program.

    Parameters
    ----------
    path : Path
        A file written by `write_program`.

    Returns
    -------
    (Module, ModelContract)
        From normalised grey values to probabilities, on the CPU.

    Raises
    ------
    ModelError
        If the file is damaged or carries no contract.
    """
    try:
        content = path.read_bytes()
        file = read_archive(content, _MARKER)  # which compares the checksums
        module: nn.Module = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:
        # Damaged files make zipfile and torch raise nearly anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"{path}: not a readable torch.export program ({reason}); export it again"
        ) from error
    try:
        return module, contract_of(file.metadata, file.digest)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
