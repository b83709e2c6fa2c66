"""Weights of a narrower network in a wider one, so that training goes on from them.

    what comes from       to a known channel    to a new channel
    known channels        the narrower one's    drawn anew
    new channels          0                     drawn anew

At first the wider network therefore computes what the narrower one does; its new channels, though, are computed from
the start, and so the first step already moves the zeros.

Source: Chen, Goodfellow and Shlens 2016, Net2Net: Accelerating Learning via Knowledge Transfer, ICLR, which copies
channels where these are drawn anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from isbi_train.config import NetworkConfig

_AFTER_SKIP = re.compile(r"decoder\.\d+\.0\.weight")  # it takes the skip's channels, and as many from below
_TRANSPOSED = re.compile(r"upsample\.\d+\.weight")  # (in, out, Y, X), where others are (out, in, Y, X)


def can_widen(narrow: NetworkConfig, wide: NetworkConfig) -> bool:
    """Return whether networks differ in nothing but the channels of their levels, of which none lost any.

    Separable convolutions and those of the classic network are not widened.
    """
    shapes = {**narrow.shapes, "widths": wide.shapes["widths"]}
    deep = len(narrow.widths) == len(wide.widths)
    return (
        deep
        and shapes == wide.shapes
        and wide.arch == "unet"
        and not wide.separable
        and all(few <= many for few, many in zip(narrow.widths, wide.widths, strict=True))
    )


def widen(narrow: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the weights of a narrower network into those of a wider one.

    Parameters
    ----------
    narrow, fresh : mapping of str to Tensor
        State dictionaries of two `isbi_train.networks.network.UNet` for which `can_widen` holds; the wider one's
        values are what new channels start with.

    Returns
    -------
    dict of str to Tensor
        For the wider network, which then computes what the narrower one does, up to rounding.
    """
    return {name: _widened(name, narrow[name], values) for name, values in fresh.items()}


def _widened(name: str, narrow: Tensor, fresh: Tensor) -> Tensor:
    if narrow.shape == fresh.shape:
        return narrow
    wide = fresh.clone()
    if narrow.dim() == 1:
        wide[: len(narrow)] = narrow
        return wide
    turned = _TRANSPOSED.fullmatch(name) is not None
    out_in, theirs = (wide.transpose(0, 1), narrow.transpose(0, 1)) if turned else (wide, narrow)
    known = torch.arange(theirs.shape[1])
    if _AFTER_SKIP.fullmatch(name):
        half, new_half = theirs.shape[1] // 2, out_in.shape[1] // 2
        known = torch.cat((known[:half], known[:half] + new_half))
    out_in[: len(theirs)] = 0
    out_in[: len(theirs), known] = theirs
    return wide
