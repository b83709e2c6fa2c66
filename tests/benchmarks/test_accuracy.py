"""The study of accuracy, end to end on a small list of stacks: read, segmented, scored, stored and tabled."""

import json
from pathlib import Path

import pytest
import tifffile
from drawn import synthetic_stack

from benchmarks.report.accuracy import accuracy_table, tuned_table
from benchmarks.report.cells import MISSING
from benchmarks.store import newest
from benchmarks.studies import accuracy
from isbi_infer import Segmenter
from isbi_models import default_model
from isbi_train.scores.metrics import thinned_scores


@pytest.fixture
def stacks(tmp_path):
    image_ZYX, label_ZYX = synthetic_stack(3, 96, 96)
    tifffile.imwrite(tmp_path / "image.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", label_ZYX, photometric="minisblack")
    (tmp_path / "stacks.toml").write_text(
        '[[stack]]\nname = "drawn"\nimages = "image.tif"\nlabels = "labels.tif"\npixel_size_nm = 4.0\nhold_out = 1\n'
    )
    return tmp_path / "stacks.toml", image_ZYX, label_ZYX


def test_a_model_is_scored_on_the_held_out_sections_of_every_stack_and_tabled(
    stacks, tmp_path, monkeypatch, capsys
):
    listed, image_ZYX, label_ZYX = stacks
    kept = []

    def keep(name, measured, settings):
        path = Path(tmp_path / "results" / "one.json")
        path.parent.mkdir()
        kept.append(real(name, measured, settings, path.parent))
        return kept[-1]

    real = accuracy.store
    monkeypatch.setattr(accuracy, "store", keep)
    accuracy.main(
        ["--stacks", str(listed), "--model", default_model().name, "--precision", "fp32", "--store"]
    )
    assert "drawn" in capsys.readouterr().out
    record = json.loads(kept[0].read_text())
    found = record["measured"]["by_model"][default_model().name]["drawn"]
    expected = thinned_scores(
        Segmenter(default_model().path, precision="fp32", pixel_size=4)(image_ZYX[2:]), label_ZYX[2:]
    )
    assert found["v_rand"] == pytest.approx(expected.v_rand, abs=2e-3)  # runtimes differ in the last bits
    assert record["measured"]["stacks"]["drawn"]["sections"] == "2:3"
    lines = list(accuracy_table(newest(kept[0].parent)))
    assert f"{found['v_rand']:.4f}" in lines[2]
    assert "drawn, sections 2:3, 4 nm" in lines[2]


def test_a_group_is_stored_and_tabled_apart(stacks, tmp_path, monkeypatch):
    real = accuracy.store
    monkeypatch.setattr(accuracy, "store", lambda *what: real(*what, tmp_path))
    listed, _, _ = stacks
    asked = ["--stacks", str(listed), "--model", default_model().name, "--store", "--group", "fine-tuning"]
    accuracy.main(asked)
    stored = newest(tmp_path)
    assert list(stored) == ["accuracy-fine-tuning"]
    assert f"| `{default_model().name}` | drawn, sections 2:3, 4 nm |" in list(tuned_table(stored))[2]
    assert list(accuracy_table(stored)) == [MISSING]


@pytest.mark.parametrize("drawn", [accuracy_table, tuned_table])
def test_a_table_without_a_stored_result_says_so(drawn):
    assert list(drawn({})) == [MISSING]
