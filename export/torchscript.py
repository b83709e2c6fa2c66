"""TorchScript, behind one module: deprecated in torch, but what C++, Java and ilastik users load."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from isbi_export.deployable import Deployable
from isbi_infer.contract import CONTRACT_KEY, ModelContract
from isbi_infer.errors import ModelError


def write_torchscript(path: Path, model: Deployable, contract: ModelContract) -> None:
    """Trace, freeze and write the model with its contract among the extra files.

    Parameters
    ----------
    path : Path
        Where to; written directly, so give a temporary name.
    model : Deployable
        What to export; it has no control flow that depends on data, so that a trace holds for every shape.
    contract : ModelContract
        Stored under `CONTRACT_KEY`.
    """
    example_NCYX = torch.zeros(1, 1, 2 * contract.stride, 3 * contract.stride)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.freeze(torch.jit.trace(model, example_NCYX))
        # Through a buffer: the archive would otherwise carry the temporary file's name.
        extra: dict[str, Any] = {CONTRACT_KEY: contract.to_json()}
        path.write_bytes(traced.save_to_buffer(_extra_files=extra))


def read_torchscript(path: Path) -> tuple[torch.jit.ScriptModule, str]:
    """Read a TorchScript file and the contract in it.

    Parameters
    ----------
    path : Path
        A file written by `write_torchscript`.

    Returns
    -------
    (ScriptModule, str)
        The model, and the contract's JSON document.

    Raises
    ------
    ModelError
        If the file is no TorchScript or carries no contract.
    """
    extra: dict[str, Any] = {CONTRACT_KEY: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path}: not a readable TorchScript file ({str(error).splitlines()[0]})") from error
    document = extra[CONTRACT_KEY]
    if not document:
        raise ModelError(f"{path}: carries no contract; export it with isbi-export")
    return model, document.decode() if isinstance(document, bytes) else document
