"""The study of sections that look different, end to end on drawn ones: changed, segmented, scored and tabled."""

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from benchmarks.report.cells import MISSING
from benchmarks.report.robustness import robustness_table
from benchmarks.store import newest
from benchmarks.studies import robustness
from isbi_infer import Segmenter
from isbi_train.data.labelled import load_labelled
from isbi_train.scores.metrics import thinned_scores

MODELS = ("em", "isbi2012-unet-b32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    drawn = synthetic_stack(2, 96, 96)
    for name, part_ZYX in zip(("train-volume.tif", "train-labels.tif"), drawn, strict=True):
        tifffile.imwrite(folder / name, part_ZYX, photometric="minisblack")
    return folder


def test_every_change_is_scored_by_model_stored_and_tabled(data, tmp_path, monkeypatch, capsys):
    real = robustness.store
    monkeypatch.setattr(robustness, "store", lambda *parts: real(*parts, tmp_path / "results"))
    monkeypatch.setattr(robustness, "HELD_OUT", slice(0, 2))
    monkeypatch.setattr(robustness, "PIXEL_SIZES_NM", (6.0,))
    monkeypatch.setattr(robustness, "CHANGES", {n: robustness.CHANGES[n] for n in ("as they are", "gamma 2")})
    robustness.main(["--data", str(data), "--store"])

    stored = newest(tmp_path / "results")
    by_model = stored["robustness"]["measured"]["by_model"]
    assert tuple(by_model) == MODELS
    names = ["as they are", "gamma 2", "pixels of 6 nm, --pixel-size 6", "pixels of 6 nm, not said"]
    labelled = load_labelled(data)
    for model, found in by_model.items():
        assert list(found["by_change"]) == names
        segmenter = Segmenter(model, pixel_size=4.0)
        assert found["model_sha256"] == segmenter.model_sha256
        darker_ZYX = robustness.gamma(2)(labelled.image_ZYX)
        assert darker_ZYX.mean() < labelled.image_ZYX.mean()
        expected = thinned_scores(segmenter(darker_ZYX), labelled.cell_ZYX)
        assert found["by_change"]["gamma 2"] == {"v_rand": expected.v_rand, "v_info": expected.v_info}
    head, _, *rows = robustness_table(stored)
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[:4]] == names
    assert all(f"`{model}`, V_info" in head for model in MODELS)
    plain, darker = (by_model["em"]["by_change"][name]["v_rand"] for name in names[:2])
    assert f"| {darker:.4f} ({darker - plain:+.4f}) |" in rows[1]
    assert all(f"sha256 {found['model_sha256'][:12]}" in "\n".join(rows) for found in by_model.values())
    assert "gamma 2" in capsys.readouterr().out


def test_two_models_of_one_name_are_refused_before_any_work(tmp_path, capsys):
    asked = ["--data", str(tmp_path), "--model", "a/model.onnx", "--model", "b/model.onnx"]
    with pytest.raises(SystemExit) as error:
        robustness.main(asked)
    assert error.value.code == 2
    assert "two models of one name" in capsys.readouterr().err


def test_a_table_without_a_stored_result_says_so():
    assert list(robustness_table({})) == [MISSING]


@pytest.mark.parametrize("change", robustness.CHANGES.values(), ids=robustness.CHANGES)
def test_changes_keep_shape_and_bytes_and_repeat(change):
    drawn_ZYX, _ = synthetic_stack(2, 48, 48)
    changed_ZYX = change(drawn_ZYX)
    assert (changed_ZYX.shape, changed_ZYX.dtype) == (drawn_ZYX.shape, np.uint8)
    assert np.array_equal(changed_ZYX, change(drawn_ZYX))
