"""The documentation in a bioimage.io package, written from the model's contract and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isbi_export.bioimage.description import ONNX, TEST_INPUT, TEST_OUTPUT, Terms, smallest_input
from isbi_infer.model.contract import ROBUST, ModelContract
from isbi_train.networks.origins import Origin

_SCORES = {
    "v_rand_thin": "V_rand after border thinning",
    "v_info_thin": "V_info after border thinning",
    "loss": "binary cross-entropy",
}
_NOT_KNOWN = "not known"


def readme(contract: ModelContract, terms: Terms, origins: Sequence[Origin] = ()) -> str:
    """Write what a user of the package must know.

    Parameters
    ----------
    contract : ModelContract
        Gives provenance, scores and tiling.
    terms : Terms
        Name and licence.
    origins : sequence of Origin
        What the weights grew from, whose terms go along.

    Returns
    -------
    str
        Markdown, with the section *Validation* that bioimage.io asks for.
    """
    return (
        "\n\n".join(
            (
                f"# {terms.name}",
                "Finds membranes in electron-microscopy sections of neural tissue. The output is the probability that "
                "a pixel is cell interior (1) rather than membrane (0). Test tensors, sample and cover are synthetic.",
                _use(contract),
                _training(contract),
                _validation(contract),
                _limits(contract),
                f"## Terms\n\nLicence of the weights: {terms.licence}.{_grown_from(origins)}",
            )
        )
        + "\n"
    )


def _grown_from(origins: Sequence[Origin]) -> str:
    if not origins:
        return ""
    named = "\n".join(f"- {origin}" for origin in origins)
    return f" The terms of what they were made of go along with them:\n\n{named}"


def _use(contract: ModelContract) -> str:
    mirrored = ""
    if contract.border:
        mirrored = (
            f"\n- The model was validated with {contract.border} mirrored pixels around the section. Programs that "
            "read this package do not add them, so that results differ near the border"
            + (", and slightly everywhere." if contract.border % contract.stride else ".")
        )
    return f"""## Use

- Input: greyscale, any grey values. Each section is normalised with the mean and standard deviation of the *whole*
  section. A program that normalises every tile by itself gives other results.
- Canvas, blank sections and hot pixels move these figures: `isbi-infer` leaves them out; elsewhere cut them off
  or mend them first ({_normalisation(contract)}).
- Tiles: sides of at least {smallest_input(contract)} pixels in steps of {contract.stride}. A halo of {contract.halo}
  pixels a side makes the pixels inside independent of the tile: {_exactness(contract)}
- An image whose sides are no multiples of {contract.stride} is best padded first: some programs, bioimageio.core among
  them, refuse it, or lay their last tiles off the network's grid, where results differ slightly.
- At the border of the image, up to {contract.halo} pixels from it, results depend on how a program pads the image,
  and differ from those of the whole image.{mirrored}
- `isbi-infer stack.tif --model {ONNX}` runs the file of this package, and is right up to the border."""


def _normalisation(contract: ModelContract) -> str:
    if not _is_trained(contract):
        return f"{contract.normalisation} is assumed: how the model was trained is not known"
    without = ": without them" if contract.normalisation == ROBUST else ""
    return f"{contract.normalisation} is how the model was trained{without}"


def _exactness(contract: ModelContract) -> str:
    if contract.exact:
        return "with them tiles have no seams."
    return f"but tiles are not exact ({'; '.join(contract.not_exact_because)})."


def _training(contract: ModelContract) -> str:
    training = _facts(contract, "training")
    pixel = None if contract.pixel_size_nm is None else f"{contract.pixel_size_nm:g} nm"
    rows = [
        ("pixel size", pixel),
        ("sections", training.get("sections")),
        ("epochs", training.get("epochs")),
        ("network", _plain(training.get("network"))),
        *_digests(training),
        ("sha256 of the checkpoint", _code(training.get("checkpoint_sha256"))),
        ("written by", f"isbi-export {contract.provenance.get('code_version', 'of a version not known')}"),
    ]
    known = [(name, _NOT_KNOWN if value is None else value) for name, value in rows]
    return "## Training\n\n" + _table(["", ""], known)


def _digests(training: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return what the training data hash to, those of each stack where there are several."""
    stacks = _stacks(training)
    if stacks:
        return [
            (f"sha256 of the {part} of {stack.get('name')}", _code(digest))
            for stack in stacks
            for part, digest in _by_name(stack.get("data_sha256"), "data").items()
        ]
    named = _by_name(training.get("data_sha256"), "training data")
    return [(f"sha256 of the {part}", _code(digest)) for part, digest in named.items()]


def _by_name(digests: Any, otherwise: str) -> Mapping[str, Any]:
    return digests if isinstance(digests, Mapping) else {otherwise: digests}


def _validation(contract: ModelContract) -> str:
    reproduce = (
        f"`{TEST_INPUT}` gives `{TEST_OUTPUT}` with all weights of this package; `bioimageio test` checks it. "
        "On labels of your own, compare with `isbi-train evaluate prediction.tif labels.tif`."
    )
    scores, stacks = _facts(contract, "scores"), _stacks(_facts(contract, "training"))
    found = scores.get("stacks")
    by_stack: dict[str, Any] = {}
    if len(stacks) > 1 and isinstance(found, Mapping):
        by_stack = {str(stack.get("name")): found.get(stack.get("name")) for stack in stacks}
    columns = [scores, *by_stack.values()]
    keys = [key for key in _SCORES if _is_number(scores.get(key))]
    if not keys:
        return f"## Validation\n\nScores on sections held out from training are not known. {reproduce}"
    rows = [(_SCORES[key], *(_score(column, key) for column in columns)) for key in keys]
    held_out = scores.get("sections", _NOT_KNOWN)
    where = "the training stacks" if len(stacks) > 1 else "the training stack"
    table = _table(["", "mean" if by_stack else "", *by_stack], rows)
    return (
        f"## Validation\n\nOn sections {held_out} of {where}, which were held out from training. "
        f"They are not comparable with the figures of an official test set.\n\n{table}\n\n{reproduce}"
    )


def _score(scores: Any, key: str) -> str:
    found = scores.get(key) if isinstance(scores, Mapping) else None
    return f"{found:.4f}" if _is_number(found) else _NOT_KNOWN


def _limits(contract: ModelContract) -> str:
    near = "the pixel size" if contract.pixel_size_nm is None else f"{contract.pixel_size_nm:g} nm a pixel"
    return (
        "## Limits\n\n"
        f"{_trained_on(contract)} Images far from {near} of the training data, "
        "other stains or other tissue need their own training (`isbi-train fit`). Look at the result before you "
        "count on it."
    )


def _trained_on(contract: ModelContract) -> str:
    if not _is_trained(contract):
        return "On what it was trained is not known."
    stacks = _stacks(_facts(contract, "training"))
    if len(stacks) < 2:
        return "Trained on one stack, for its tissue, stain and microscope."
    names = ", ".join(str(stack.get("name")) for stack in stacks)
    return f"Trained on {len(stacks)} stacks ({names}), for their tissues, stains and microscopes."


def _facts(contract: ModelContract, part: str) -> Mapping[str, Any]:
    """Return a part of the provenance; empty where it is not there."""
    found = contract.provenance.get(part)
    return found if isinstance(found, Mapping) else {}


def _is_trained(contract: ModelContract) -> bool:
    """Whether training data are known: of bare weights, and of models from elsewhere, they are not."""
    training = _facts(contract, "training")
    return any(training.get(key) for key in ("data_sha256", "sections", "stacks"))


def _stacks(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what is known of the stacks of a list; empty for a model that was trained on a single stack."""
    found = training.get("stacks")
    return [stack for stack in found if isinstance(stack, Mapping)] if isinstance(found, Sequence) else []


def _plain(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return None if value is None else str(value)


def _code(value: Any) -> str | None:
    return None if value is None else f"`{value}`"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(value: Any) -> str:
    """Return a text that does not end its cell: names of stacks are anyone's."""
    return " ".join(str(value).split()).replace("|", "\\|")
