"""What each network of the study costs by runtime and precision: sections of 512 x 512, bytes in memory to bytes.

Weights are random: they decide on the scores, not on the time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from isbi_infer import Segmenter
from isbi_infer.errors import DependencyError, UsageError

SIDE, SECTIONS = 512, 8
TINY = {"tiny": {"base": 4, "depth": 2, "unshuffle": 1}}
TINY_SIDE = 64
# File, runtime and precision; ONNX Runtime computes nothing else on a processor that is faster.
SETTINGS = (
    ("fp32", "cpu", "fp32"),
    ("int8", "cpu", "int8"),
    ("fp32", "openvino", "fp32"),
    ("fp32", "openvino", "bf16"),
    ("int8", "openvino", "int8"),
)
BASELINE = "b32-u2-d3, cpu int8"  # the architecture of the released model, as the default was before OpenVINO


def networks(quick):
    """Return the architectures by name."""
    from isbi_train.config.network import NetworkConfig

    from .studies.networks.candidates import NETWORKS, read_study

    if quick:
        return {name: NetworkConfig(**shape) for name, shape in TINY.items()}
    study = read_study(NETWORKS, Path())
    return {candidate.name: candidate.settings.network for candidate in study.candidates}


def test_costs_ratio(compare, keep, say, drawn_ZYX, options, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip(
        "isbi_export.formats.exported", reason="the packages of isbi-export are not installed"
    )
    if options.provider != "cpu":
        pytest.skip("costs are compared on the processor")
    from .networks import Case

    side = TINY_SIDE if options.quick else SIDE
    stack_ZYX = np.ascontiguousarray(np.resize(drawn_ZYX[:, :side, :side], (SECTIONS, side, side)))
    works, skipped, measured = {}, {}, {}
    for name, network in networks(options.quick).items():
        (folder := tmp_path / name).mkdir()
        case = Case(network, stack_ZYX, folder, "cpu", options.quick)
        measured[name] = {"network": network.to_plain(), "flop": sum(layer.flop for layer in case.layers())}
        for file, provider, precision in SETTINGS:
            title = f"{name}, {provider} {precision}"
            try:
                segmenter = Segmenter(case.file(file), provider=provider, precision=precision)
            except (DependencyError, UsageError) as reason:
                skipped[title] = str(reason)
                continue
            works[title] = partial(segmenter, stack_ZYX, dtype="uint8")
    for title, reason in skipped.items():
        say(f"costs: skipped {title}: {reason}")
    baseline = BASELINE if BASELINE in works else next(iter(works))
    found, _ = compare("network-runtimes", works, baseline)
    keep("network-runtimes", found | {"networks": measured, "skipped": skipped}, shape=stack_ZYX.shape)
