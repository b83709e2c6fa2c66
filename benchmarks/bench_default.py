"""What a user gets who asks for nothing, `Segmenter()` and `isbi-infer STACK`, against peers and OpenVINO by hand."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from isbi_infer import Segmenter

from .child_process import run_command, timed_process
from .peers import OURS, Task, differences
from .peers.registry import bioimageio
from .peers.with_monai import monai
from .peers.with_openvino import throughput_mode
from .peers.with_torch import torch_bf16, torch_compile, torch_eager

INT8 = "isbi-infer, int8 on ONNX Runtime"
FLOAT32 = "isbi-infer, fp32 on ONNX Runtime"
BY_HAND = "OpenVINO by hand"
PEERS = {
    "torch eager, whole image": torch_eager,
    "torch bf16, whole image": torch_bf16,
    "torch.compile, whole image": torch_compile,
    "MONAI, roi 256, overlap 0.25": monai(256, 0.25),
    "MONAI, roi 256, overlap 0.5": monai(256, 0.5),
    "bioimageio.core, block 704": bioimageio(704),
    "bioimageio.core, block 1216": bioimageio(1216),
}
PIECE = 512  # a whole section has no halo: as many pixels in pieces are the pixels' share of a tiled one
PROGRAM = Path(sys.executable).with_name("isbi-infer")
# Torch, MONAI and bioimageio.core warn of things to come.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["30x512x512", "large"])
def stack_ZYX(request, small_ZYX, large_YX, options):
    if request.param == "large":
        return large_YX[None]
    return (
        np.stack([large_YX] * 2) if options.quick else small_ZYX
    )  # bioimageio.core needs larger ones than quick's


@pytest.fixture
def ours(options, stack_ZYX):
    if options.provider != "cpu":
        pytest.skip(
            "the default is compared on the processor; bench_peers and bench_networks take a provider"
        )
    return Segmenter(pixels=stack_ZYX.size)


def peer_runs(task, sections, say):
    """Build who can take part: each segments one section, as often as there are sections; and say who cannot."""
    runs, skipped, described = {}, {}, {}
    for name, build in PEERS.items():
        try:
            peer = build(task)
        except pytest.skip.Exception as reason:
            skipped[name] = str(reason)
            say(f"skipped {name}: {reason}")
            continue
        described[name] = peer.described()
        runs[name] = lambda peer=peer: [peer.run() for _ in range(sections)][-1]
    return runs, skipped, described


def pieces(section_YX, side):
    """Cut a section into pieces side by side, without halos."""
    height, width = (length // side * side for length in section_YX.shape)
    cut = section_YX[:height, :width].reshape(height // side, side, width // side, side)
    return np.ascontiguousarray(cut.swapaxes(1, 2).reshape(-1, side, side))


def test_default_ratio(compare, keep, say, ours, stack_ZYX, options, tmp_path):
    several = len(stack_ZYX) > 1
    name = "default-" + ("x".join(map(str, stack_ZYX.shape)) if several else str(stack_ZYX.shape[1]))
    float32 = Segmenter(provider="cpu", precision="fp32")
    task = Task(stack_ZYX[0], float32, float32, tmp_path, options.quick)
    runs, skipped, described = peer_runs(task, len(stack_ZYX), say)
    by_hand_ZYX = stack_ZYX if several else pieces(stack_ZYX[0], min(PIECE, stack_ZYX.shape[1]))
    contenders = {
        OURS: partial(ours, stack_ZYX),
        INT8: partial(Segmenter(provider="cpu", precision="int8"), stack_ZYX),
        FLOAT32: partial(float32, stack_ZYX),
        **runs,
    }
    on_openvino = ours.provider == "openvino"
    if on_openvino:
        contenders[BY_HAND] = throughput_mode(by_hand_ZYX, ours.precision)
    else:
        skipped[BY_HAND] = f"the default here is {ours.precision} on {ours.provider}"
    found, results = compare(name, contenders, OURS)
    whole_YX = results[FLOAT32][0]
    errors = {
        peer: differences(result[0] if result.ndim == 3 else result, whole_YX, float32.contract.halo)
        for peer, result in results.items()
        if peer != BY_HAND or several
    }
    for peer in (OURS, INT8):
        say(f"{name}: {peer}: differs from fp32 by at most {errors[peer]['largest']:.2g}")
    if several and on_openvino:
        assert errors[BY_HAND]["largest"] < 0.2  # or it computes something else
    plan = ours.plan(stack_ZYX.shape)
    keep(
        name,
        found | {"differences": errors, "computes": described, "skipped": skipped},
        provider=ours.provider,
        precision=ours.precision,
        shape=stack_ZYX.shape,
        tile_shape=plan.section.tile_shape,
        tiles=len(plan.section.tiles),
        batch=plan.batch,
        workers=plan.workers,
        pixels_computed_per_pixel=plan.section.overhead,
        pixels_by_hand=by_hand_ZYX.size,
        flops_per_pixel=ours.contract.flops_per_pixel,
        model_sha256=ours.model_sha256,
    )


def test_second_start_of_the_command_line_ratio(compare, keep, small_ZYX, write_sections, tmp_path, options):
    """From starting the program to its end; every compiled model is in the cache already, from the round before."""
    if options.provider != "cpu":
        pytest.skip("the default is compared on the processor")
    source = str(write_sections(small_ZYX))
    settings = {
        OURS: (),
        INT8: ("--provider", "cpu", "--precision", "int8"),
        FLOAT32: ("--provider", "cpu", "--precision", "fp32"),
    }

    def command(asked):
        return lambda: run_command(str(PROGRAM), source, "-o", str(tmp_path / "out.tif"), "--quiet", *asked)

    contenders = {name: command(asked) for name, asked in settings.items()}
    found, _ = compare("second-start", contenders, OURS, timer=timed_process)
    keep("second-start", found, shape=small_ZYX.shape)
