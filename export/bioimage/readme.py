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
  or mend them first ({contract.normalisation} is how the model was trained{_kind(contract)}).
- Tiles: sides of at least {smallest_input(contract)} pixels in steps of {contract.stride}. A halo of {contract.halo}
  pixels a side makes the pixels inside independent of the tile: {_exactness(contract)}
- An image whose sides are no multiples of {contract.stride} is best padded first: some programs, bioimageio.core among
  them, refuse it, or lay their last tiles off the network's grid, where results differ slightly.
- At the border of the image, up to {contract.halo} pixels from it, results depend on how a program pads the image,
  and differ from those of the whole image.{mirrored}
- `isbi-infer stack.tif --model {ONNX}` runs the file of this package, and is right up to the border."""


def _kind(contract: ModelContract) -> str:
    return ": without them" if contract.normalisation == ROBUST else ""


def _exactness(contract: ModelContract) -> str:
    if contract.exact:
        return "with them tiles have no seams."
    return f"but tiles are not exact ({'; '.join(contract.not_exact_because)})."


def _training(contract: ModelContract) -> str:
    training = contract.provenance.get("training", {})
    data: Any = training.get("data_sha256", {})
    named = data.items() if isinstance(data, Mapping) else [("data", data)]
    pixel = "unknown" if contract.pixel_size_nm is None else f"{contract.pixel_size_nm:g} nm"
    rows = [
        ("pixel size", pixel),
        ("sections", training.get("sections", "unknown")),
        ("epochs", training.get("epochs", "unknown")),
        ("network", _plain(training.get("network", "unknown"))),
        *((f"sha256 of the {name}", f"`{digest}`") for name, digest in named),
        ("sha256 of the checkpoint", f"`{training.get('checkpoint_sha256', 'unknown')}`"),
        ("written by", f"isbi-export {contract.provenance.get('code_version', 'unknown')}"),
    ]
    return "## Training\n\n" + _table(rows)


def _validation(contract: ModelContract) -> str:
    reproduce = (
        f"`{TEST_INPUT}` gives `{TEST_OUTPUT}` with all weights of this package; `bioimageio test` checks it. "
        "On labels of your own, compare with `isbi-train evaluate prediction.tif labels.tif`."
    )
    scores = contract.provenance.get("scores", {})
    rows = [(_SCORES[key], f"{scores[key]:.4f}") for key in _SCORES if _is_number(scores.get(key))]
    if not rows:
        return f"## Validation\n\nNo section was held out from training, so there are no scores. {reproduce}"
    held_out = scores.get("sections", "unknown")
    return (
        f"## Validation\n\nOn sections {held_out} of the training stack, which were held out from training. "
        f"They are not comparable with the figures of an official test set.\n\n{_table(rows)}\n\n{reproduce}"
    )


def _limits(contract: ModelContract) -> str:
    near = "the pixel size" if contract.pixel_size_nm is None else f"{contract.pixel_size_nm:g} nm a pixel"
    return (
        "## Limits\n\n"
        f"Trained on one stack, for its tissue, stain and microscope. Images far from {near} of the training data, "
        "other stains or other tissue need their own training (`isbi-train fit`). Look at the result before you "
        "count on it."
    )


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(("| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)))
