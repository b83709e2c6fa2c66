"""Peers do what the tables say: as many pixels as counted, exactly where exact, and nothing is reported home."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import synthetic_stack

from benchmarks.gpu import busy_share, mean_share
from benchmarks.peers import OURS, WHOLE, Task, contenders, differences
from benchmarks.peers.with_monai import windows
from isbi_infer import Segmenter

ROOT = Path(__file__).parents[2]
WATCHED = """
import sys
from multiprocessing import Process
def started(self):
    raise AssertionError("a process was started")
Process.start = started
from benchmarks.peers.with_openvino import import_openvino
print(import_openvino().get_version())
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    segmenter = Segmenter(provider="cpu", precision="fp32")
    image_YX = synthetic_stack(1, 100, 90)[0][0]  # no multiples of the stride
    return Task(image_YX, segmenter, segmenter, tmp_path_factory.mktemp("task"), quick=True)


@pytest.mark.parametrize(
    ("side", "roi", "overlap"), [(64, 32, 0.25), (70, 32, 0.5), (32, 64, 0.25), (65, 32, 0.0)]
)
def test_windows_are_counted_as_monai_lays_them_out(side, roi, overlap):
    monai = pytest.importorskip("monai.inferers")
    import torch

    seen = []
    monai.sliding_window_inference(
        torch.zeros(1, 1, side, side), roi, 4, lambda batch: seen.append(len(batch)) or batch, overlap=overlap
    )
    assert sum(seen) == windows(side, roi, overlap) ** 2


def test_the_whole_image_result_is_ours_to_the_bit_also_off_the_stride(task):
    peers = {name: contenders("cpu", "fp32", full=False)[name](task) for name in (OURS, WHOLE)}
    assert differences(peers[OURS].run(), peers[WHOLE].run(), 0)["largest"] == 0
    assert peers[WHOLE].overhead > 1


def test_full_adds_contenders_and_our_other_precisions_take_part_once():
    short, full = (contenders("cpu", "fp32", full=full) for full in (False, True))
    assert set(short) < set(full)
    assert f"{OURS}, int8" in short
    assert f"{OURS}, fp32" not in short
    assert {f"{OURS}, fp32", f"{OURS}, fp16"} <= set(contenders("cuda", "int8", full=False))


def test_differences_tell_seams_from_edges():
    whole_YX, result_YX = np.full((8, 8), 0.4), np.full((8, 8), 0.4)
    result_YX[0, 0], result_YX[4, 4] = 0.9, 0.45
    found = differences(result_YX, whole_YX, halo=2)
    assert (found["largest"], found["largest_inside"]) == pytest.approx((0.5, 0.05))
    assert found["changed_class"] == 1 / 64


def test_openvino_is_imported_without_its_telemetry(tmp_path):
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())  # where the id of a client would be


def test_the_driver_s_figures_are_averaged_and_what_is_not_known_stays_unknown(monkeypatch):
    assert mean_share("97\n 99\n[N/A]\n") == pytest.approx(0.98)
    assert mean_share("[N/A]\n") is None
    monkeypatch.setenv("PATH", "")
    assert busy_share(lambda: None, seconds=1.0) is None
