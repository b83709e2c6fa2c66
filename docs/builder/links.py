"""Links of the built site: those within it lead somewhere, and those that leave it are written as addresses are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}", re.IGNORECASE)
_SHOWN_TO_NOBODY = {"link", "script", "base"}


class _Page(HTMLParser):
    """What a page links to and shows, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.outside: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                parts = urlsplit(value)
                if parts.scheme not in ("http", "https") and not parts.netloc:
                    self.targets.append(value)
                elif tag not in _SHOWN_TO_NOBODY:
                    self.outside.append(value)
            if name in ("id", "name") and value:
                self.places.add(value)


@dataclass
class Links:
    """What was found: faults, a line each, and where each address outside the site is linked from."""

    faults: list[str] = field(default_factory=list)
    outside: dict[str, set[str]] = field(default_factory=dict)
    places: dict[str, set[str]] = field(default_factory=dict)


def follow(site: Path) -> Links:
    """Follow every link, image and anchor of a site within it; nothing is asked of a network."""
    pages = {page: _Page(page) for page in site.resolve().rglob("*.html")}
    found = Links()
    for page, links in pages.items():
        name = str(page.relative_to(site.resolve()))
        found.places[name] = links.places
        for target in links.targets:
            if fault := _fault(page, target, pages):
                found.faults.append(f"{name}: {target} {fault}")
        for address in links.outside:
            found.outside.setdefault(address, set()).add(name)
            if not well_formed(address):
                found.faults.append(f"{name}: {address} is not an address as browsers take it")
    return found


def _fault(page: Path, target: str, pages: dict[Path, _Page]) -> str:
    parts = urlsplit(target)
    if parts.scheme:
        return "" if parts.scheme in ("mailto", "data") else "is of a kind that this site does not use"
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if path.is_dir():
        path /= "index.html"
    if not path.exists():
        return "leads nowhere"
    if parts.fragment and path in pages and unquote(parts.fragment) not in pages[path].places:
        return "leads to no such place"
    return ""


def well_formed(address: str) -> bool:
    """Whether an address has a host, is encrypted, and holds nothing of the text around it."""
    parts = urlsplit(address)
    plain = re.fullmatch(r"[\x21-\x7e]+", address) is not None and not re.search(
        r"[<>\"`{}|\\^]|[.,;:]$", address
    )
    return plain and parts.scheme == "https" and _HOST.fullmatch(parts.hostname or "") is not None
