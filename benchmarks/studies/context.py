"""Neighbouring sections as further channels of a network: `python -m benchmarks.studies.context --stacks FILE`.

The list of stacks is one that `isbi-train fit --stacks` takes; the one that is named is trained on, and scored on what
it holds out. With a reach of R a section comes with R sections on either side, mirrored at the ends of the stack; crops
turn, scale and vary in intensity with their neighbours, and the order of these is flipped at random. Faults of single
sections are not drawn. Everything else is the recipe `em`, from random weights.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.store import store
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes

from .tissues import settings_of, take_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
    from isbi_train.data.labelled import LabelledStack
    from isbi_train.training.batches import Sections

NAME = "context"
_FAULTS = ("fold", "dirt", "defocus", "seam", "knife", "streak", "canvas", "blocks")


def neighbours(z: int, sections: int, reach: int) -> list[int]:
    """Return the numbers of the sections around one, mirrored at the ends of the stack."""
    found = []
    for near in range(z - reach, z + reach + 1):
        inside = abs(near)
        found.append(2 * (sections - 1) - inside if inside >= sections else inside)
    return found


def network_of(config: NetworkConfig, reach: int) -> nn.Module:
    """Return a network whose first convolution takes the neighbours too; (N, 2 R + 1, Y, X) to logits (N, 1, Y, X)."""
    from torch import nn

    from isbi_train.networks.network import ConvBlock, UNet

    network = UNet(config)
    if reach:
        channels = config.unshuffle**2 * (2 * reach + 1)
        first = ConvBlock(channels, config.base, padding=1, batch_norm=config.batch_norm)
        for part in first:
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        network.encoder[0] = first
    return network


def draw(
    parts: Sequence[Sections], reach: int, augment: AugmentConfig, train: TrainConfig, step: int
) -> tuple[Tensor, Tensor]:
    """Draw the crops of one step.

    Parameters
    ----------
    parts : sequence of Sections
        All sections of the stack along each plane.
    reach : int
        Sections on either side.
    augment, train : AugmentConfig, TrainConfig
        The settings.
    step : int
        Counted from 0.

    Returns
    -------
    (Tensor, Tensor)
        Images (N, 2 R + 1, crop, crop) and maps (N, K, crop, crop).
    """
    import torch

    from isbi_train.augment.crops import random_crops, vary_intensity
    from isbi_train.training.batches import step_seed
    from isbi_train.training.losses import has_counted

    generator = torch.Generator().manual_seed(step_seed(train, step))
    shares = torch.tensor([float(len(part)) for part in parts])
    part_N = torch.multinomial(shares, train.batch, replacement=True, generator=generator).tolist()
    place_N = torch.rand(train.batch, generator=generator).tolist()
    flipped_N = (torch.rand(train.batch, generator=generator) < 0.5).tolist()
    images, maps = [], []
    for number, place, flipped in zip(part_N, place_N, flipped_N, strict=True):
        part = parts[number]
        z = int(place * len(part))
        near = neighbours(z, len(part), reach)
        if flipped:
            near.reverse()
        label, *others = part.maps_ZKYX[z].split(1)
        images.append(part.images_ZCYX[z])
        maps.append(torch.cat([label, *(part.images_ZCYX[other] for other in near), *others]))
    still = replace(
        augment, **dict.fromkeys(("blur_px", "noise", "gamma", "contrast", "brightness", "shading"), 0.0)
    )
    _, drawn = random_crops(
        images, maps, train.crop, still, generator, counted=has_counted(parts[0].maps_ZKYX)
    )
    count = 2 * reach + 1
    image_NCYX = vary_intensity(drawn[:, 1 : count + 1], augment, generator)
    return image_NCYX, torch.cat((drawn[:, :1], drawn[:, count + 1 :]), dim=1)


def predict(
    network: nn.Module, image_ZYX: npt.NDArray[Any], reach: int, *, stride: int, border: int
) -> npt.NDArray[np.float32]:
    """Return probabilities of cell interior of whole sections, which are mirrored at their edges."""
    import torch

    from isbi_train.training.batches import normalised

    sections_ZYX = normalised(image_ZYX)
    after = [-(side + border) % stride for side in sections_ZYX.shape[1:]]
    edges = ((0, 0), (border, after[0]), (border, after[1]))
    out_ZYX = np.empty_like(sections_ZYX)
    inner = tuple(slice(border, border + side) for side in sections_ZYX.shape[1:])
    with torch.inference_mode():
        for z, out_YX in enumerate(out_ZYX):
            near_CYX = np.pad(sections_ZYX[neighbours(z, len(sections_ZYX), reach)], edges, mode="reflect")
            out_YX[...] = torch.sigmoid(network(torch.from_numpy(near_CYX)[None]))[0, 0].numpy()[inner]
    return out_ZYX


def measure(
    parts: Sequence[Sections],
    held_out: LabelledStack,
    network: NetworkConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    *,
    reach: int,
    steps: int,
) -> dict[str, Any]:
    """Train with so many neighbours and score the held-out sections, whose neighbours are held out too.

    Returns
    -------
    dict
        ``v_rand``, ``v_info``, ``training_loss`` of the last fifty steps, ``cpu_s``.
    """
    from isbi_train.scores.metrics import thinned_scores

    total = sum(map(len, parts))
    state, losses, seconds = take_steps(
        partial(network_of, network, reach),
        train,
        partial(draw, parts, reach, augment, train),
        sum(part.weight_scale * len(part) / total for part in parts),
        steps,
    )
    average = state.average.module.eval()
    found = thinned_scores(
        predict(average, held_out.image_ZYX, reach, stride=network.stride, border=train.border),
        held_out.cell_ZYX,
        ids=held_out.ids_ZYX,
        ignored=held_out.ignored_ZYX,
    )
    return {
        "v_rand": float(found.v_rand),
        "v_info": float(found.v_info),
        "training_loss": statistics.fmean(losses[-50:]),
        "cpu_s": sum(seconds),
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.context", description=__doc__.splitlines()[0]
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument("--stack", required=True, help="name of the one to train on")
    found.add_argument("--nm", type=float, default=5.0, help="pixel size to train at [%(default)g]")
    found.add_argument("--reach", action="append", type=int, default=[], help="repeatable [0 and 1]")
    found.add_argument("--steps", type=int, default=1200, help="of each training [%(default)s]")
    found.add_argument("--seed", type=int, default=1, help="[%(default)s]")
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train and score with each reach, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        import torch

        from isbi_train.config.stacks import read_list
        from isbi_train.data.stacks import read_stacks
        from isbi_train.training.batches import bring_sections

        settings = settings_of(asked.stacks)
        train = replace(settings.train, seed=asked.seed)
        entries = [entry for entry in read_list(asked.stacks) if entry.name == asked.stack]
        if not entries:
            raise UsageError(f"{asked.stacks}: no stack is named {asked.stack!r}")
        (stack,) = read_stacks(entries, train, asked.nm, str(asked.stacks)).stacks
        none = {f"{fault}_probability": 0.0 for fault in _FAULTS}
        augment = replace(settings.augment, grain_px=0.0, **none)
        parts = [bring_sections(part, train, None, torch.device("cpu"), augment) for part in stack.parts]
        rows = []
        for reach in asked.reach or [0, 1]:
            found = measure(
                parts,
                stack.held_out,
                settings.network,
                augment,
                train,
                reach=reach,
                steps=asked.steps,
            )
            rows.append({"reach": reach, **found})
            print(
                f"{asked.stack}, {reach} on either side: V_rand {found['v_rand']:.4f}, V_info {found['v_info']:.4f}, "
                f"{found['cpu_s'] / 60:.1f} CPU minutes",
                flush=True,
            )
        if asked.store:
            facts = {"stack": asked.stack, "sections": stack.facts["held_out"], "rows": rows}
            print(store(NAME, facts, {"pixel_size_nm": asked.nm, "steps": asked.steps, "seed": asked.seed}))


if __name__ == "__main__":
    main()
