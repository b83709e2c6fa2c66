"""``isbi-train fit``: settings out of a recipe, a TOML file and flags, and a run of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes, require_packages

if TYPE_CHECKING:
    from isbi_train.config.settings import Layer

app = typer.Typer()

_FLAGS = {
    "network": ("arch", "base", "depth", "unshuffle", "dropout"),
    "train": (
        *(
            "epochs",
            "crop",
            "batch",
            "learning_rate",
            "hold_out",
            "hold_out_start",
            "border",
            "precision",
            "device",
        ),
        *(
            "seed",
            "clip_norm",
            "patience",
            "calibrate",
            "membrane_weight",
            "border_weight",
            "label_smoothing",
        ),
        "soft_weight",
    ),
    "inputs": (
        "data",
        "labels",
        "labels_are",
        "pixel_size_nm",
        "resample_nm",
        "init",
        "teachers",
        "unlabelled",
    ),
}


def _flag(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text)


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, history and settings.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with train-volume.tif and train-labels.tif (255 = cell), or a stack."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Shipped settings: released, released-gpu, unet-64 or original.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="TOML file of settings; OUT/settings.toml of a run repeats it.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting, such as augment.noise=0.2."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in OUT where it stopped, with its settings.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate over so many blocks of neighbouring sections.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="With --folds: train this one only, from 0.")] = None,
    labels: Annotated[Path | None, typer.Option(help="The labels of a stack.")] = None,
    labels_are: Annotated[
        Literal["cell", "membrane", "instances"] | None,
        _flag("What labels above 0 mean; cell when not given."),
    ] = None,
    pixel_size_nm: Annotated[
        float | None, typer.Option("--pixel-size", help="Of the stack in nm, where it does not say.")
    ] = None,
    resample_nm: Annotated[
        float | None, typer.Option("--resample", help="Pixel size to train at, in nm.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Start from these weights: fine-tuning.")] = None,
    teachers: Annotated[
        list[Path] | None, typer.Option("--teacher", help="ONNX model to learn from; repeatable.")
    ] = None,
    unlabelled: Annotated[Path | None, typer.Option(help="TIFF stack that only the teachers label.")] = None,
    arch: Annotated[Literal["unet", "valid-unet"] | None, _flag("Architecture.")] = None,
    base: Annotated[int | None, _flag("Channels of the first level.")] = None,
    depth: Annotated[int | None, _flag("Number of 2x2 poolings.")] = None,
    unshuffle: Annotated[
        int | None, _flag("1, or 2 or 4 to fold so many pixels a side into channels.")
    ] = None,
    dropout: Annotated[float | None, _flag("Channels dropped at the deepest level.")] = None,
    epochs: Annotated[
        int | None, _flag("An epoch draws as many pixels as the training sections have.")
    ] = None,
    crop: Annotated[int | None, _flag("Side of the training crops, in pixels.")] = None,
    batch: Annotated[int | None, _flag("Crops a step, of all processes together.")] = None,
    learning_rate: Annotated[float | None, _flag("Highest rate of AdamW.")] = None,
    hold_out: Annotated[int | None, _flag("How many sections are kept for validation.")] = None,
    hold_out_start: Annotated[int | None, _flag("The first of them, from 0; else they are the last.")] = None,
    border: Annotated[int | None, _flag("Mirrored pixels around a section when it is segmented.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None, _flag("Of the training arithmetic.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, _flag("Where to train.")] = None,
    seed: Annotated[int | None, _flag("Fixes weights, crops, augmentation and dropout.")] = None,
    clip_norm: Annotated[float | None, _flag("Longest gradient; 0 for any.")] = None,
    patience: Annotated[
        int | None, _flag("Stop after so many validations without a better V_rand; 0 never does.")
    ] = None,
    calibrate: Annotated[
        bool | None, _flag("Fit a factor and an offset to the held-out logits in the end.", "--calibrate")
    ] = None,
    membrane_weight: Annotated[float | None, _flag("Of a membrane pixel in the loss; cell is 1.")] = None,
    border_weight: Annotated[float | None, _flag("U-Net's w0 between near cells; the paper's is 10.")] = None,
    label_smoothing: Annotated[float | None, _flag("Of the labels beside borders, 0 to 1.")] = None,
    soft_weight: Annotated[float | None, _flag("Share of the teachers in the targets, 0 to 1.")] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
) -> None:
    """Train a U-Net on all but a few sections, validating and saving every 2 epochs.

    Settings come from the defaults, --recipe, --settings and flags, in this order. On several devices:
    torchrun --nproc-per-node 2 -m isbi_train fit ...
    """
    given = {name: value for name, value in locals().items() if value is not None}
    with exit_codes("isbi-train", debug=debug):
        require_packages("train", "torch", "numba", "tomli_w")
        from isbi_train.config.settings import resolve
        from isbi_train.data.inputs import read_labelled
        from isbi_train.training.distributed import torchrun_team

        if fold is not None and folds is None:
            raise UsageError("--fold is one of --folds N; give N too")
        if resume and folds is not None:
            raise UsageError("--folds always goes on where it stopped; leave --resume out")
        chosen = resolve(_layers(given))
        stack = read_labelled(chosen.inputs)
        with torchrun_team() as team:
            logging.basicConfig(level=logging.INFO if team.leads else logging.ERROR, format="%(message)s")
            parts: dict[str, Any] = {
                "network": chosen.network,
                "augment": chosen.augment,
                "train": chosen.train,
                "inputs": chosen.inputs,
                "team": team,
            }
            if folds is not None:
                from isbi_train.training.folds import cross_validate

                found = cross_validate(stack, out, folds=folds, only=fold, report=_say_fold, **parts)
                if team.leads:
                    _say_folds(out, found)
            else:
                from isbi_train.training.train import fit as run

                model = run(stack, out, resume=resume, report=_say, **parts)
                if team.leads:
                    typer.echo(f"{model}: next, isbi-export {model}")


def _layers(given: dict[str, Any]) -> Iterator[tuple[str, Layer]]:
    """Give the settings of recipe, file and flags, each with where they come from."""
    from isbi_train.config.settings import parse_assignment, read_layer, recipe_layer

    saved = given["out"] / "settings.toml"
    if "recipe" in given:
        yield f"recipe {given['recipe']}", recipe_layer(given["recipe"])
    if "settings" in given:
        yield str(given["settings"]), read_layer(given["settings"])
    if given["resume"] and not {"recipe", "settings"} & set(given) and saved.exists():
        yield str(saved), read_layer(saved)
    for assignment in given.get("assignments") or ():
        yield f"--set {assignment}", parse_assignment(assignment)
    yield (
        "flags",
        {
            section: {name: _plain(given[name]) for name in names if name in given and given[name] != []}
            for section, names in _FLAGS.items()
        },
    )


def _plain(value: Any) -> Any:
    """Give a flag's value as TOML has it; paths hold wherever the settings are read again."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def _say(entry: dict[str, Any]) -> None:
    typer.echo(
        f"epoch {entry['epoch']:4d}  training loss {entry['training_loss']:.4f}  held-out loss {entry['loss']:.4f}  "
        f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}  {entry['seconds']:.0f} s"
    )


def _say_fold(fold: int, entry: dict[str, Any]) -> None:
    typer.echo(f"fold {fold}  ", nl=False)
    _say(entry)


def _say_folds(out: Path, found: dict[str, Any]) -> None:
    for entry in found["per_fold"]:
        typer.echo(
            f"fold {entry['fold']}  sections {entry['sections']}  epoch {entry['epoch']}  "
            f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}"
        )
    count = f"{len(found['per_fold'])} of {found['folds']} folds"
    for name, score in (("V_rand", "v_rand_thin"), ("V_info", "v_info_thin")):
        spread = found["spread"][score]
        around = "" if spread is None else f" +- {spread:.4f}"
        typer.echo(f"{name} {found['mean'][score]:.4f}{around} over {count}")
    typer.echo(f"{out / 'folds.json'}")
