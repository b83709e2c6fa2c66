"""Networks by width: what is stored of them becomes rates and fractions, and files written for it are what they say."""

import numpy as np
import pytest
from drawn import synthetic_stack

from benchmarks.networks import Case, contenders
from benchmarks.report.goals import goals_table
from benchmarks.report.networks import networks_table
from isbi_train.config import NetworkConfig

LIMITS = {"cpu": {"gflop_s": {"fp32": {"2": 100.0}}, "copy_gb_s": {"2": 1.0}}}
# At 100 GFLOP/s and 0.25e9 values/s a layer of computing takes 0.1 s, and its passes 0.025 s more.
LAYERS = [{"flop": 10**10, "values": 10**6, "more_values": 6_250_000}]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    stack_ZYX = synthetic_stack(3, 64, 64)[0]
    config = NetworkConfig(base=2, depth=2, unshuffle=1)
    return Case(config, stack_ZYX, tmp_path_factory.mktemp("networks"), "cpu", quick=True)


def times(seconds):
    ratio = {"q1": 1.9, "median": 2.0, "q3": 2.1}
    return {"wall_s": [seconds], "wall_median_s": seconds, "wall_ratio": ratio}


@pytest.fixture
def record():
    found = {
        "baseline": "ours",
        "sections": 8,
        "busy_share": None,
        "skipped": {"absent": "absent is not installed"},
    }
    by_batch = {
        str(batch): found | {"contenders": {"ours": times(2 / batch), "theirs": times(4 / batch)}}
        for batch in (1, 2)
    }
    return {
        "name": "networks-b16",
        "file": "x.json",
        "measured_at": "2026-01-01T00:00:00",
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 1},
        "versions": {},
        "settings": {
            "provider": "cpu",
            "network": {"base": 16, "depth": 4, "unshuffle": 1},
            "flop_per_section": 24.1e9,
        },
        "measured": {
            "load_average": [1.0],
            "by_batch": by_batch,
            "precisions": {"ours": "fp32", "theirs": "bf16", "absent": "fp32"},
            "layers": LAYERS,
            "notes": [],
        },
        "best_limits": LIMITS,
    }


def test_rates_by_batch_and_fractions_of_the_layerwise_limit_are_drawn(record):
    lines = list(networks_table({"networks-b16": record}, "cpu"))
    ours, theirs, absent = lines[2:5]
    assert "| 4.0 | 8.0 | 2.00 (1.90 to 2.10) | 80% | 100% |" in ours
    assert "| 2.0 | 4.0 | 2.00 (1.90 to 2.10) | - | - |" in theirs
    assert "absent is not installed" in absent
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_what_exceeds_a_limit_is_marked_as_unexplained(record):
    record["best_limits"] = {"cpu": {"gflop_s": {"fp32": {"2": 10.0}}, "copy_gb_s": {"2": 1.0}}}
    ours = list(networks_table({"networks-b16": record}, "cpu"))[2]
    assert "| 800%, unexplained | 820%, unexplained |" in ours


def test_a_gpu_has_a_table_of_its_own_that_says_how_busy_it_was(record):
    assert list(networks_table({"networks-b16": record}, "cuda")) == ["Not measured yet."]
    record["settings"]["provider"] = "cuda"
    lines = list(networks_table({"networks-b16-cuda": record}, "cuda"))
    assert lines[2].endswith("| not measured |")
    record["measured"]["by_batch"]["2"]["busy_share"] = 0.97
    assert next(
        line for line in networks_table({"networks-b16-cuda": record}, "cuda") if "ours" in line
    ).endswith("| 97% |")
    assert len({line.count("|") for line in lines[:5]}) == 1


@pytest.mark.parametrize(
    ("gpu", "seconds", "busy", "met"),
    [
        ("NVIDIA H100", 0.006, 0.97, "met"),
        ("NVIDIA H100", 0.006, 0.9, "unmet"),
        ("NVIDIA H100", 0.006, None, "unmet"),
        ("NVIDIA H100", 0.1, 0.97, "unmet"),
        ("NVIDIA T4", 0.006, 0.97, "unmet"),
    ],
)
def test_the_goal_on_an_h100_is_met_by_its_rate_while_it_is_busy(record, gpu, seconds, busy, met):
    record["machine"]["gpus"] = [gpu]
    record["settings"]["provider"] = "cuda"
    found = record["measured"]["by_batch"]["2"] | {"busy_share": busy}
    record["measured"]["by_batch"] = {"64": found | {"contenders": {"isbi-infer fp16": times(seconds)}}}
    (line,) = [line for line in goals_table({"networks-b64-cuda": record}) if "H100, base 64" in line]
    assert f"{8 / seconds:,.0f} sections/s on {gpu}" in line
    assert f"| {met} |" in line.replace("*", "")


def test_what_a_busy_machine_measured_is_named_but_not_shown(record):
    record["measured"]["load_average"] = [9.0]
    (line,) = [line for line in networks_table({"networks-b16": record}, "cpu") if line]
    assert "too busy" in line


@pytest.mark.filterwarnings("ignore")  # torch's own, while it exports
def test_all_contenders_give_the_same_bytes_but_for_precision_and_seams(case):
    baseline, entrants = contenders("cpu", full=False)
    reference = entrants[baseline].build(case, 2, 3)().copy()
    assert reference.dtype == np.uint8
    assert reference.std() > 5  # a constant would hide everything
    for name, most in {"torch fp32": 1, "torch bf16": 16, "isbi-infer int8": 64}.items():
        found = entrants[name].build(case, 2, 3)()  # the last batch is not full
        assert np.abs(found.astype(int) - reference).max() <= most, name
