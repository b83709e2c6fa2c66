"""TorchScript, behind one module: deprecated in torch, but what C++, Java and ilastik users load."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isbi_export.formats.deployable import Deployable
from isbi_infer.backends.torchscript import load_script
from isbi_infer.errors import ModelError
from isbi_infer.model.contract import CONTRACT_KEY, ModelContract, read_contract
from isbi_infer.model.file import read_model_file


def write_torchscript(path: Path, model: Deployable, contract: ModelContract) -> None:
    """Trace, freeze and write the model with its contract among the extra files.

    Parameters
    ----------
    path : Path
        Where to; written directly, so it should be a temporary name.
    model : Deployable
        What to export; it has no control flow that depends on data, so that a trace holds for every shape.
    contract : ModelContract
        Stored under `CONTRACT_KEY`, with the digest of what is written.
    """
    example_NCYX = torch.zeros(1, contract.input_channels, 2 * contract.stride, 3 * contract.stride)
    # A trace takes these flags over: no TensorFloat-32, which is good for three digits only, on any GPU.
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)
    with warnings.catch_warnings(), torch.inference_mode(), flags:
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.freeze(torch.jit.trace(model, example_NCYX))
        digest = read_model_file(_archive(traced, contract)).digest
        path.write_bytes(_archive(traced, replace(contract, digest=digest)))


def _archive(script: torch.jit.ScriptModule, contract: ModelContract) -> bytes:
    # Through a buffer: the archive would otherwise carry the temporary file's name.
    extra: dict[str, Any] = {CONTRACT_KEY: contract.to_json()}
    return _without_provenance(script.save_to_buffer(_extra_files=extra))


def read_torchscript(path: Path) -> tuple[torch.jit.ScriptModule, str]:
    """Read a TorchScript file for its code; `isbi_infer.backends.torchscript.TorchScriptSession` is what runs it.

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
    try:
        content = path.read_bytes()
        model, document = load_script(content)
        read_contract(content)
    except (OSError, ModelError) as error:
        raise ModelError(f"{path}: {error}") from error
    return model, document


def _without_provenance(archive: bytes) -> bytes:
    """Leave out stack traces with paths of this machine, and numbers that count what was traced before.

    So one checkpoint is always written as the same bytes.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.set_min_version(int(reader.get_record("version")))
    for name in reader.get_all_records():
        # The writer adds the last two itself.
        if name.endswith(".debug_pkl") or name in ("version", ".data/serialization_id"):
            continue
        record = reader.get_record(name)
        if name.startswith("code/"):
            name, record = _COUNTED.sub("", name), _COUNTED_BYTES.sub(b"", record)
        elif name == "data.pkl":
            record = _COUNTED_BYTES.sub(b"", record)
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


_COUNTED = re.compile(r"[./]___torch_mangle_\d+")
_COUNTED_BYTES = re.compile(_COUNTED.pattern.encode())
