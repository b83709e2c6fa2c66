"""The data of the ISBI 2012 challenge: fetched, checked pixel by pixel, and put where training finds it."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import DependencyError, ImageError, OutputError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.terminal import require_packages
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import PixelSize, StackInfo, open_stack, write_stack
from isbi_train.data.folders import made_folder

URL = "https://downloads.imagej.net/ISBI-2012-challenge.zip"
PIXELS_SHA256: Mapping[str, str] = {
    "train-volume.tif": "200da3d452d726e6c9ca1ce04b869d4edb727320d23b516d01cce707dc8c4760",
    "train-labels.tif": "a7cb64000a1a7e542682927e19c91339f58f9f178e0bcce4e207371116f0ca36",
    "test-volume.tif": "1b58fa7ec1d0ff9d39a855622db3ff66a97863036339b0d04be51b2f5a99b0e9",
}
PIXEL_SIZE = PixelSize(y_nm=4.0, x_nm=4.0, z_nm=50.0)
TERMS = (
    "The data are free for generating or testing non-commercial segmentation software; publications cite TrakEM2 "
    "and Cardona et al. 2010, PLoS Biology 8(10):e1000502."
)

_TIMEOUT_S = 30
_LARGEST_MEMBER = 2**28  # a stack of the challenge has 2**23 bytes
_CHUNK = 2**18

Stack = npt.NDArray[Any]


def download(
    folder: Path,
    *,
    url: str = URL,
    archive: Path | None = None,
    sha256: Mapping[str, str] = PIXELS_SHA256,
    progress: Progress | None = None,
) -> list[Path]:
    """Put the stacks of the challenge into a folder.

    What is there already is checked and stays; only what is missing is fetched.

    Parameters
    ----------
    folder : Path
        Made where it is missing. The stacks are written as ImageJ TIFF with the pixel size of the data, 4 x 4 x 50 nm.
    url : str
        Of a zip file. Stacks are found in it by their pixels, whatever their names and folders.
    archive : Path, optional
        This zip file, fetched by other means; nothing is downloaded then.
    sha256 : mapping of str to str
        From the name of each wanted file to the hash of its pixels in C order.
    progress : callable, optional
        Called with the bytes fetched and their total, which is 0 where the server does not say it.

    Returns
    -------
    list of Path
        The files written; empty if all were there.

    Raises
    ------
    DependencyError
        If the address cannot be reached, or pooch is not installed.
    ImageError
        If what came is no whole zip file, or a stack is not in it with the right pixels; nothing is written then.
    UsageError
        If a file of that name is there with other pixels; it is left alone.
    OutputError
        If the folder cannot be written to.
    """
    missing = [name for name in sha256 if not _present(folder / name, sha256[name])]
    if not missing:
        return []
    by_hand = f"put {', '.join(missing)} into {folder} by hand"
    with made_folder(folder):
        check_writable(folder / missing[0])
    if archive:
        stacks = _stacks_in(archive, str(archive), {name: sha256[name] for name in missing}, by_hand)
    else:
        require_packages("train", "pooch")
        with _scratch() as scratch:
            _fetch(url, scratch / "data.zip", by_hand, progress)
            stacks = _stacks_in(scratch / "data.zip", url, {name: sha256[name] for name in missing}, by_hand)
    with made_folder(folder):
        for name in missing:
            info = StackInfo(shape=stacks[name].shape, pixel_size=PIXEL_SIZE)
            with replacing(folder / name) as temporary:
                write_stack(temporary, stacks[name], like=info, dtype=stacks[name].dtype)
    return [folder / name for name in missing]


def _present(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    try:
        found = _hash(_read(path))
    except ImageError as error:
        raise UsageError(f"{error}; move it away, or name another folder with --data") from error
    if found != sha256:
        raise UsageError(
            f"{path}: is another stack (sha256 of its pixels {found[:12]}..., expected {sha256[:12]}...); "
            "move it away, or name another folder with --data"
        )
    return True


def _fetch(url: str, path: Path, by_hand: str, progress: Progress | None) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    bar = _Bar(progress) if progress else False
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT_S)
    try:
        # The zip's own hash is not known; its pixels are checked instead.
        pooch.retrieve(url, known_hash=None, fname=path.name, path=path.parent, downloader=downloader)
    except (requests.exceptions.RequestException, ValueError) as error:
        raise DependencyError(
            f"{url}: cannot be downloaded ({_reason(error)}); fetch it elsewhere and name the zip file with --archive, "
            f"or {by_hand}"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space"
        ) from error


class _Bar:
    """What pooch takes for a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self.total, self._done, self._progress = 0, 0, progress

    def update(self, count: int) -> None:
        self._done += count
        self._progress(min(self._done, self.total) if self.total else self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}".strip()
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {_TIMEOUT_S} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "the server cannot be reached; is there a network?"
    return " ".join(str(error).split())[:200]


def _stacks_in(path: Path, shown: str, wanted: Mapping[str, str], by_hand: str) -> dict[str, Stack]:
    """Find stacks in a zip file by the hash of their pixels; its names are shown and never used as paths."""
    found: dict[str, Stack] = {}
    near: dict[str, str] = {}
    with _zip(path, shown, by_hand) as archive, _scratch() as scratch:
        for member in archive.infolist():
            name = PurePosixPath(member.filename.replace("\\", "/")).name
            if not name.lower().endswith((".tif", ".tiff")) or name.startswith("."):
                continue
            if member.file_size > _LARGEST_MEMBER:
                near[name] = f"has {member.file_size} bytes"
                continue
            (scratch / "member.tif").write_bytes(archive.read(member))
            try:
                stack_ZYX = _read(scratch / "member.tif")
            except ImageError as error:
                near[name] = str(error).removeprefix(f"{scratch / 'member.tif'}: ")
                continue
            sha256 = _hash(stack_ZYX)
            near[name] = f"has pixels of sha256 {sha256[:12]}..."
            found |= {target: stack_ZYX for target, expected in wanted.items() if expected == sha256}
    for target, expected in wanted.items():
        if target not in found:
            seen = near.get(target, "is not in it")
            raise ImageError(
                f"{shown}: {target} {seen}; expected pixels of sha256 {expected[:12]}...; nothing written; {by_hand}"
            )
    return found


@contextmanager
def _zip(path: Path, shown: str, by_hand: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"{shown}: is no whole zip file ({reason}); fetch it again, or {by_hand}") from error
    except OSError as error:
        raise ImageError(f"{shown}: cannot be read ({error.strerror}); expected the zip file") from error


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isbi-train-") as folder:
        yield Path(folder)


def _read(path: Path) -> Stack:
    with open_stack(path) as reader:
        return np.stack(list(reader))


def _hash(stack_ZYX: Stack) -> str:
    return hashlib.sha256(np.ascontiguousarray(stack_ZYX).tobytes()).hexdigest()
