"""Packages of the npm registry: fetched by npm, held against a pinned SHA-512, and kept for the next build."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = "package/"  # of every npm archive


class BuildError(Exception):
    """The site cannot be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned package.

    Attributes
    ----------
    name, version : str
        In the registry.
    integrity : str
        "sha512-" and the hash of its archive in base64, as npm writes it.
    licence : str
        SPDX expression.
    about : str
        What it does on the page.
    licence_file : str or None
        Its licence in the archive; None where the archive has none.
    files : mapping of str to str
        What is taken: path in the archive, and name on the site.
    """

    name: str
    version: str
    integrity: str
    licence: str
    about: str
    licence_file: str | None
    files: Mapping[str, str]

    def read(self, archive: Path) -> dict[str, bytes]:
        """Return the files that are taken, and the licence, by their path in the archive."""
        wanted = {*self.files, *filter(None, [self.licence_file])}
        found: dict[str, bytes] = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.removeprefix(_ROOT)
                if name in wanted and (file := tar.extractfile(member)):
                    found[name] = file.read()
        if missing := wanted - set(found):
            raise BuildError(f"{self.name} {self.version} holds no file {', '.join(sorted(missing))}")
        return found


def pinned(path: Path) -> list[Package]:
    """Read the list of packages."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [Package(**entry) for entry in entries]


def fetch(package: Package) -> Path:
    """Return the archive of a package: the one kept from an earlier build, or a new one.

    Raises
    ------
    BuildError
        If there is no npm, no network, or another file than the pinned one.
    """
    kept = _cache() / f"{package.name.replace('/', '-').lstrip('@')}-{package.version}.tgz"
    if kept.exists() and _integrity(kept) == package.integrity:
        return kept
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError("npm is not installed; it fetches what the demo runs on: install Node.js with npm")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        done = subprocess.run(
            [npm, "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            why = (done.stderr.strip() or "no answer").splitlines()[-1]
            raise BuildError(
                f"npm cannot fetch {package.name}@{package.version} ({why}); is there a network?"
            )
        (archive,) = Path(folder).glob("*.tgz")
        found = _integrity(archive)
        if found != package.integrity:
            raise BuildError(
                f"{package.name}@{package.version} is {found}, expected {package.integrity}; the registry holds "
                "another file than the one that was pinned: do not use it"
            )
        archive.replace(kept)
    return kept


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "isbi-infer-docs" / "npm"


def _integrity(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
