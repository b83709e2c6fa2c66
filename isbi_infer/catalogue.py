"""``isbi-infer models``: the released models that are installed, with their terms and scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from isbi_infer.model.contract import PRECISIONS, read_contract
from isbi_infer.terminal import exit_codes
from isbi_infer.terminal.commands import GENERAL, RUNTIMES, Command, Debug, new_app, version_option
from isbi_infer.terminal.words import beside
from isbi_models import ReleasedModel, default_model, released_models

app = new_app()

_SCORES = {"v_rand_thin": "V_rand", "v_info_thin": "V_info"}
_COMPARED = (
    "Scores are of each training's own sections, pixel size and labels; docs/accuracy.md compares them."
)


def describe(model: ReleasedModel) -> dict[str, Any]:
    """Describe a released model out of the registry and the contract in its own file.

    Parameters
    ----------
    model : ReleasedModel
        As `isbi_models.released_models` lists it.

    Returns
    -------
    dict
        ``name``, ``default`` (whether it is taken where none is named), ``about``, ``terms``, ``card`` (path),
        ``pixel_size_nm`` (of the sections it was trained on), ``precisions``, ``gflop`` (for a section of
        512 x 512), ``scores`` (as measured when it was trained, with the ``sections`` they were measured on).

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    contract = read_contract(model.path.read_bytes())
    found = contract.provenance.get("scores")
    return {
        "name": model.name,
        "default": model.name == default_model().name,
        "about": model.about,
        "terms": model.terms,
        "card": str(model.card),
        "pixel_size_nm": contract.pixel_size_nm,
        "precisions": [PRECISIONS[precision] for precision in model.files],
        "gflop": None
        if contract.flops_per_pixel is None
        else round(contract.flops_per_pixel * 512**2 / 1e9, 2),
        "scores": found if isinstance(found, dict) else {},
    }


def _measured(scores: Mapping[str, Any]) -> str:
    return ", ".join(f"{title} {scores[key]:.4f}" for key, title in _SCORES.items() if key in scores)


def _by_stack(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the scores on each stack of which `scores` holds the means; none of a single stack."""
    found = scores.get("stacks")
    return found if isinstance(found, dict) else {}


def _lines(described: dict[str, Any]) -> list[str]:
    scores, size = described["scores"], described["pixel_size_nm"]
    measured = _measured(scores)
    rows = {
        "about": described["about"],
        "terms": described["terms"],
        "pixel size": "not known" if size is None else f"{size:g} nm",
        "scores": f"{measured} on held-out sections {scores.get('sections', '')}".strip()
        if measured
        else "none in its contract",
        **{f"  {name}": _measured(found) for name, found in _by_stack(scores).items()},
        "cost": "not known"
        if described["gflop"] is None
        else f"{described['gflop']:g} GFLOP for a section of 512 x 512",
        "precisions": ", ".join(described["precisions"]),
        "card": described["card"],
    }
    first = described["name"] + (" (the default)" if described["default"] else "")
    return [first, *(beside(f"  {title:<15} ", text, sys.stdout) for title, text in rows.items())]


@app.command(
    cls=Command, epilog="isbi-infer STACK --model NAME takes one, and so does isbi_infer.Segmenter(NAME)."
)
def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array.", rich_help_panel=GENERAL)
    ] = False,
    debug: Debug = False,
    _: Annotated[bool, version_option("isbi-infer", *RUNTIMES)] = False,
) -> None:
    """List the released models that are installed, with what they are for, their terms and their scores."""
    with exit_codes("isbi-infer models", debug=debug):
        found = [describe(model) for model in released_models().values()]
        if as_json:
            typer.echo(json.dumps(found, indent=1))
            return
        for number, described in enumerate(found):
            typer.echo("\n".join([*([""] if number else []), *_lines(described)]))
        typer.echo(f"\n{_COMPARED}")
