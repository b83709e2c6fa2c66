"""Where a chunked volume lies: a folder or an address, and reading its metadata from either.

This is the door to tensorstore, which nothing else imports and which is imported when a volume is opened.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from isbi_infer.errors import ImageError
from isbi_infer.headroom import check_headroom
from isbi_infer.terminal import require_packages

_ADDRESS = re.compile(r"(https?|s3|gs):/{1,2}(?=[^/])")
_RETRIES = {"max_retries": 4, "initial_delay": "500ms", "max_delay": "4s"}
_THREADS = 3 * 2**27  # bytes; tensorstore ended the process where it had less, on 2 cores
_REASON = 300  # characters of a library's message


def tensorstore() -> Any:
    """Return the module; raise DependencyError, saying what to install, where it is missing."""
    require_packages("volume", "tensorstore")
    if "tensorstore" not in sys.modules:
        check_headroom("the threads of tensorstore; raise the limit on it (ulimit -v)", _THREADS)
    import tensorstore

    return tensorstore


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address on a network; a slash that `Path` has taken from it does not matter."""
    return _ADDRESS.match(os.fspath(path)) is not None


def unnamable(path: str | os.PathLike[str]) -> str:
    """Return why a folder cannot be named to tensorstore; empty where it can be.

    Its names are UTF-8, and a backslash in them is a slash to it, on every system.
    """
    name = os.fspath(path)
    if os.sep == "/" and "\\" in name:
        return "a folder of a volume cannot have a backslash in its path"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a folder of a volume cannot have bytes in its path that are no UTF-8"
    return ""


def reason_of(error: BaseException) -> str:
    """Return a library's error in one line of bounded length."""
    return " ".join(f"{error}".split())[:_REASON] or type(error).__name__


@dataclass(frozen=True, slots=True)
class Location:
    """A folder, on this machine or behind an address.

    Attributes
    ----------
    name : str
        As the user wrote it.
    url : str
        Without a slash at the end.
    """

    name: str
    url: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Location:
        """Return the location of a path or an address."""
        name = os.fspath(path)
        if match := _ADDRESS.match(name):
            return cls(name, f"{match[1]}://{name[match.end() :].rstrip('/')}")
        return cls(name, os.path.realpath(name))

    @property
    def remote(self) -> bool:
        """Whether it lies on a network."""
        return _ADDRESS.match(self.url) is not None

    def inner(self, path: str) -> Location:
        """Return the location of what lies within, by its path there."""
        return Location(self.name, f"{self.url}/{path.strip('/')}") if path.strip("/") else self

    def spec(self) -> dict[str, Any]:
        """Return what tensorstore calls a kvstore."""
        if not self.remote:
            return {"driver": "file", "path": f"{self.url}/"}
        scheme, _, rest = self.url.partition("://")
        if scheme in ("http", "https"):
            return {"driver": "http", "base_url": f"{self.url}/"}
        bucket, _, path = rest.partition("/")
        spec = {
            "driver": {"s3": "s3", "gs": "gcs"}[scheme],
            "bucket": bucket,
            "path": f"{path}/" if path else "",
        }
        if scheme == "s3" and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
            spec["endpoint"] = endpoint
        return spec

    def context(self, cache_bytes: int = 0) -> Any:
        """Return tensorstore's context: few retries, everything written through to the disk, a cache of chunks."""
        return tensorstore().Context(
            {
                "cache_pool": {"total_bytes_limit": cache_bytes},
                "file_io_sync": True,
                "http_request_retries": _RETRIES,
                "s3_request_retries": _RETRIES,
            }
        )

    def read_json(self, key: str, context: Any) -> tuple[dict[str, Any] | None, str]:
        """Read a metadata file.

        Parameters
        ----------
        key : str
            Its name in the folder.
        context : tensorstore.Context
            From `context`.

        Returns
        -------
        (dict or None, str)
            The document, None where there is no such file; and a text that changes when the file does.

        Raises
        ------
        ImageError
            If it cannot be read, or is no JSON object.
        """
        try:
            store = tensorstore().KvStore.open(self.spec(), context=context).result()
            found = store.read(key).result()
        except Exception as error:  # whatever a driver raises
            raise ImageError(
                f"{key} cannot be read ({reason_of(error)}); check the path and the network"
            ) from error
        if found.state != "value":
            return None, ""
        try:
            document = json.loads(found.value)
        except (ValueError, RecursionError) as error:
            raise ImageError(
                f"{key} is no JSON ({reason_of(error)}); copy or export the volume again"
            ) from error
        if not isinstance(document, dict):
            raise ImageError(f"{key} holds no JSON object; copy or export the volume again")
        return document, bytes(found.stamp.generation).hex()
