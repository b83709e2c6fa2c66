"""Files of weights opened without running what may lie in them: torch's archives, and safetensors."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from isbi_infer.errors import DependencyError, ModelError
from isbi_infer.model.file import check_archive, check_regular
from isbi_infer.terminal import nearest_file, require_packages

_LFS_POINTER = b"version https://git-lfs"
_MOST_PARTS = 10**7
_PICKLE = b"\x80\x02"  # how files of torch before 1.6 begin


def read_pickled(path: Path, *, old: bool = False) -> object:
    """Unpickle plain types and tensors from an intact archive.

    Parameters
    ----------
    path : Path
        Written by ``torch.save``.
    old : bool
        Whether to read files of torch before 1.6 too, which are no archives and have no checksums.

    Returns
    -------
    object
        Plain types and tensors on the CPU.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or holds anything else.
    """
    with _one_line(path, "checkpoint"):
        beginning = _beginning(path)
        # torch does not compare the archive's checksums, so a flipped bit would pass for a weight.
        if not (old and beginning.startswith(_PICKLE)):
            with zipfile.ZipFile(path) as archive:
                check_archive(archive)
                damaged = archive.testzip()
            if damaged:
                raise ModelError(
                    f"{path}: damaged checkpoint ({damaged} has another checksum); copy it again"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = torch.load(path, map_location="cpu", weights_only=True)
        if _unfolded(plain) > _MOST_PARTS:
            raise ModelError(
                f"{path}: holds parts within parts without end, which no training writes; save the weights alone, "
                "with torch.save(model.state_dict(), ...)"
            )
        return plain


def _unfolded(plain: object) -> float:
    """Return how many parts there are if what stands in several places is counted each time; infinite in a circle."""
    counts: dict[int, float] = {}
    waiting = [(plain, False)]
    while waiting:
        part, counted = waiting.pop()
        inner = (
            part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple, set)) else ()
        )
        if counted:
            counts[id(part)] = 1 + sum(counts.get(id(one), 1) for one in inner)
        elif inner and id(part) not in counts:
            counts[id(part)] = float("inf")  # what is met again before it is counted lies within itself
            waiting.append((part, True))
            waiting.extend((one, False) for one in inner)
    return counts.get(id(plain), 1)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file. The format has no checksums.

    Returns
    -------
    dict of str to Tensor
        On the CPU, not in the order of definition, which the format does not keep.

    Raises
    ------
    DependencyError
        If safetensors is not installed.
    ModelError
        If the file is missing or damaged.
    """
    require_packages("train", "safetensors")
    from safetensors.torch import load

    with _one_line(path, "safetensors file"):
        _beginning(path)
        return load(path.read_bytes())


def _beginning(path: Path) -> bytes:
    check_regular(path)
    with path.open("rb") as file:
        beginning = file.read(len(_LFS_POINTER))
    if beginning == _LFS_POINTER:
        raise ModelError(f"{path}: is a Git LFS pointer, not the checkpoint; run: git lfs pull")
    return beginning


@contextmanager
def _one_line(path: Path, kind: str) -> Iterator[None]:
    """Make a ModelError of whatever a parser raises."""
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"{path}: no such checkpoint{nearest_file(path)}") from None
    except DependencyError:
        raise
    except ModelError as error:
        raise error if str(error).startswith(f"{path}: ") else ModelError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors and plain settings, which could run code, and is not opened; save the "
            "weights alone, with torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:
        # Damaged files make zipfile and torch raise nearly anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"{path}: not a readable {kind} ({reason}); copy or train it again") from error
