"""Drawings of plans, made by the code that makes the plans."""

from __future__ import annotations

from isbi_infer.plan.tiles import SectionPlan, Window, plan_section

_SHAPE, _TILE = (560, 800), 496
_CONTRACT = {"stride": 16, "halo": 96, "border": 0}
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
_GAP, _TEXT = 40, 46


def tiling() -> str:
    """Return an SVG: a section cut into tiles; on the left what each one owns, on the right what it reads."""
    plan = plan_section(_SHAPE, **_CONTRACT, tile=_TILE)
    height, width = _SHAPE
    parts = []
    for i, tile in enumerate(plan.tiles):
        colour = _COLOURS[i % len(_COLOURS)]
        owns, reads = tile.owns, _in_image(tile.reads, plan)
        parts.append(_rect(owns, 0, colour, 0.45))
        parts.append(_label(owns, 0, f"tile {i + 1}"))
        parts.append(_rect(reads, width + _GAP, colour, 0.16))
    first = plan.tiles[0]
    parts.append(_rect(_in_image(first.reads, plan), width + _GAP, _COLOURS[0], 0.0, 6))
    parts.append(_rect(first.owns, width + _GAP, _COLOURS[0], 0.35, 0))
    captions = (
        (0, f"what each tile owns: {height} x {width} pixels, each by one tile"),
        (width + _GAP, f"what each tile reads: halo {plan.halo} beyond what it owns, tile 1 framed"),
    )
    parts += [
        f'<text x="{x}" y="{height + 32}" font-size="22" fill="#222">{text}</text>' for x, text in captions
    ]
    total = 2 * width + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {total + 16} {height + _TEXT + 16}" '
        'font-family="sans-serif" role="img" aria-label="A section, its tiles, and what each of them reads">'
        f'<rect x="-8" y="-8" width="{total + 16}" height="{height + _TEXT + 16}" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _in_image(window: Window, plan: SectionPlan) -> Window:
    y, x = (
        slice(max(part.start - before, 0), min(part.stop - before, size))
        for part, (before, _), size in zip(window, plan.pad, plan.shape, strict=True)
    )
    return y, x


def _rect(window: Window, left: int, colour: str, opacity: float, stroke: int = 2) -> str:
    y, x = window
    return (
        f'<rect x="{x.start + left}" y="{y.start}" width="{x.stop - x.start}" height="{y.stop - y.start}" '
        f'fill="{colour}" fill-opacity="{opacity}" stroke="{colour}" stroke-width="{stroke}"/>'
    )


def _label(window: Window, left: int, text: str) -> str:
    y, x = window
    return (
        f'<text x="{(x.start + x.stop) // 2 + left}" y="{(y.start + y.stop) // 2}" font-size="26" '
        f'text-anchor="middle" fill="#222">{text}</text>'
    )
