"""Pages of HTML that need no other file and no network: the look and the rules that all reports share.

A page's own template extends ``base.html``. All that stands in variables is escaped, and the policy in the head lets
the browser run the page's own script alone and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = "isbi_infer.report"


def render(template: str, *, package: str = _TEMPLATES, script: str = "", **values: Any) -> str:
    """Fill in a template.

    Parameters
    ----------
    template : str
        Its name in the folder ``templates`` of `package`.
    package : str
        A module that has such a folder.
    script : str
        Name of the script beside it; none when not given.
    **values
        What the template shows.

    Returns
    -------
    str
        A page of HTML; the same for the same values.
    """
    pages = _environment(package)
    code = pages.loader.get_source(pages, script)[0] if script and pages.loader else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = f"script-src 'sha256-{digest}'" if script else "script-src 'none'"
    return pages.get_template(template).render(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {policy}",
        script=markup(code),
        style=markup(pages.get_template("style.css").render()),
        **values,
    )


@cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, _TEMPLATES))])
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def markup(own: str) -> str:
    """Return a text of our own making, such as a drawing, to stand in a page as it is; never one out of a file."""
    from markupsafe import Markup

    return Markup(own)  # noqa: S704
