"""What the fuzzer feeds: readers that take bytes of strangers. Anything but a result or an IsbiError is a find."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from isbi_infer.errors import ImageError, IsbiError
from isbi_infer.model.contract import contract_of, parse_contract
from isbi_infer.model.file import read_model_file
from isbi_infer.volumes import open_stack

_MOST_PIXELS = 10**6  # a sound file may declare more than a fuzzer wants to wait for
_FILE = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}.tif"


def read_tiff(content: bytes) -> bool:
    """Open a stack and read its sections: as many as it announces, each of the shape that it announces.

    Returns whether there was something to read, as all targets do.
    """
    _FILE.write_bytes(content)
    try:
        with open_stack(_FILE) as reader:
            sections, shape = reader.info.sections, reader.info.shape[-2:]
            if sections * np.prod([float(side) for side in shape]) > _MOST_PIXELS:
                return False
            read = [reader.read(z) for z in range(sections)]
    except ImageError as error:
        _require(str(error).startswith(f"{_FILE}: ") and "\n" not in str(error), str(error))
        return False
    finally:
        _FILE.unlink(missing_ok=True)
    _require([section_YX.shape for section_YX in read] == [shape] * sections, "another shape than announced")
    _require(all(section_YX.dtype.kind in "uif" for section_YX in read), "no grey values")
    return True


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def read_contract(content: bytes) -> bool:
    """Read the outside of a model file, its contract, and the bytes as a contract by themselves."""
    found = 0
    for read in (_of_file, _alone):
        try:
            read(content)
            found += 1
        except IsbiError as error:
            _require(error.exit_code == 5, str(error))
    return found == 1


def _of_file(content: bytes) -> None:
    file = read_model_file(content)
    contract = contract_of(file.metadata, file.digest)
    assert contract.digest in (None, file.digest)


def _alone(content: bytes) -> None:
    contract = parse_contract(content.decode(errors="surrogateescape"))
    assert parse_contract(contract.to_json()).to_json() == contract.to_json()


TARGETS: dict[str, Callable[[bytes], bool]] = {"tiff": read_tiff, "contract": read_contract}
