"""What the report says, what it leaves out, and what is refused before any work."""

import base64
import io
import json
import os
import re
from html import unescape

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from PIL import Image

from isbi_infer.report.after import Looks
from isbi_infer.report.figures import BINS, FiguresSink
from isbi_infer.report.run_report import MOST_BYTES, sections_shown
from isbi_infer.volumes import open_source
from isbi_infer.volumes.protocol import Block


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def picture(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def words_of(path):
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))).split())


def test_the_page_holds_the_probabilities_that_were_written(faulty):
    data = data_of(faulty / "report.html")
    written_ZYX = tifffile.imread(faulty / "faulty.probability.tif")
    assert data["shown"] == [0, 1, 2, 3, 4]
    for shown, written_YX in zip(data["pictures"], written_ZYX, strict=True):
        np.testing.assert_array_equal(picture(shown["probability"]), np.rint(written_YX * 255))
        assert picture(shown["image"]).shape == written_YX.shape


def test_hints_name_the_sections_with_faults_and_no_others(faulty):
    hints = dict(re.findall(r"section (\d) +(blurred|blank|50% canvas)", words_of(faulty / "report.html")))
    assert hints == {"1": "blurred", "2": "blank", "3": "50% canvas"}
    assert "Hints in 3 of 5 sections" in words_of(faulty / "report.html")


def test_a_stack_without_faults_has_no_hints(tmp_path, sample, infer):
    tifffile.imwrite(tmp_path / "fine.tif", sample[0], photometric="minisblack")
    assert infer(tmp_path / "fine.tif", "--report", tmp_path / "r.html", "--quiet") == 0
    assert "No hints in 5 sections" in words_of(tmp_path / "r.html")
    assert "Scores" not in words_of(tmp_path / "r.html")


def test_scores_plan_and_provenance_stand_in_it(faulty, infer, capsys):
    again = faulty / "again.html"
    labels = faulty / "labels.tif"
    infer(faulty / "faulty.tif", "--label", labels, "--report", again, "--json", "-o", faulty / "again.tif")
    said = json.loads(capsys.readouterr().out)
    words = words_of(again)
    assert f"V_rand {said['scores']['v_rand_thin']:.4f}" in words
    assert f"sha256 {said['model_sha256']}" in words
    assert f"{said['seconds']:.2f} s" in words
    assert "int8 on cpu by onnxruntime" in words
    assert '"normalisation"' in words  # of the whole plan
    assert "Scores against labels.tif" in words


def test_splits_and_mergers_are_coloured(faulty):
    data = data_of(faulty / "report.html")
    blank = picture(data["pictures"][2]["errors"])  # all cells of a blank section came out as one membrane
    kinds = set(np.unique(np.concatenate([picture(shown["errors"]).ravel() for shown in data["pictures"]])))
    assert kinds == {0, 1, 2}
    assert blank.shape == (192, 224)


def test_membrane_and_bytes_are_shown_as_probability_of_cell(tmp_path, faulty, infer):
    asked = "--emit", "membrane", "--dtype", "uint8", "--report", tmp_path / "r.html", "--quiet"
    assert infer(faulty / "faulty.tif", *asked, "-o", tmp_path / "out.tif") == 0
    here, there = data_of(tmp_path / "r.html"), data_of(faulty / "report.html")
    for mine, other in zip(here["pictures"], there["pictures"], strict=True):
        difference = picture(mine["probability"]).astype(int) - picture(other["probability"])
        assert np.abs(difference).max() <= 1
    assert here["series"]["cell"][0] == pytest.approx(there["series"]["cell"][0], abs=2e-3)


def test_a_volume_is_shown_like_a_file(tmp_path, sample, infer):
    tifffile.imwrite(tmp_path / "stack.tif", sample[0], photometric="minisblack")
    target = tmp_path / "result.ome.zarr"
    asked = "--block", "2,192,224", "--report", tmp_path / "r.html", "--quiet"
    assert infer(tmp_path / "stack.tif", "-o", target, *asked) == 0
    data = data_of(tmp_path / "r.html")
    assert data["shown"] == [0, 1, 2, 3, 4]
    assert all(histogram is not None and sum(histogram) == 192 * 224 for histogram in data["histograms"])
    assert "No hints in 5 sections" in words_of(tmp_path / "r.html")


@pytest.mark.parametrize("shape", [(1, 2200), (2200, 1), (3, 1801)])
def test_a_report_with_segments_of_a_section_as_thin_as_a_line_is_drawn(tmp_path, infer, shape):
    pytest.importorskip("numba")
    image_ZYX = synthetic_stack(1, *(max(side, 32) for side in shape))[0][:, : shape[0], : shape[1]]
    tifffile.imwrite(tmp_path / "thin.tif", image_ZYX, photometric="minisblack")
    asked = "--labels", tmp_path / "labels.tif", "--report", tmp_path / "r.html", "--quiet"
    assert infer(tmp_path / "thin.tif", *asked) == 0
    (shown,) = data_of(tmp_path / "r.html")["pictures"]
    sizes = {name: picture(shown[name]).shape[:2] for name in ("image", "probability", "neurons")}
    assert len(set(sizes.values())) == 1


def test_a_share_of_a_volume_has_no_report(tmp_path, sample, infer, capsys):
    tifffile.imwrite(tmp_path / "stack.tif", sample[0], photometric="minisblack")
    asked = "-o", tmp_path / "result.ome.zarr", "--shard", "1/2", "--report", tmp_path / "r.html"
    assert infer(tmp_path / "stack.tif", *asked) == 2
    assert "a share of a run has no whole result to show" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["stack.tif"]


def test_a_long_stack_shows_some_sections_and_says_so(tmp_path, infer, capsys):
    image_ZYX = np.tile(synthetic_stack(4, 64, 64)[0], (16, 1, 1))
    tifffile.imwrite(tmp_path / "long.tif", image_ZYX, photometric="minisblack")
    assert infer(tmp_path / "long.tif", "--report", tmp_path / "r.html") == 0
    data = data_of(tmp_path / "r.html")
    assert len(data["shown"]) == 30
    assert (data["shown"][0], data["shown"][-1]) == (0, 63)
    assert len(data["series"]["z"]) == 64
    assert "30 of 64 sections are shown" in capsys.readouterr().err
    assert "30 of 64 sections are shown" in words_of(tmp_path / "r.html")


def test_large_noisy_sections_are_made_small_until_the_page_is_small_enough(
    tmp_path, infer, capsys, monkeypatch
):
    monkeypatch.setattr("isbi_infer.report.run_report.MOST_BYTES", 1_800_000)
    image_ZYX = np.random.default_rng(0).integers(0, 255, (4, 520, 300), np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", image_ZYX, photometric="minisblack")
    assert infer(tmp_path / "noise.tif", "--report", tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").stat().st_size < 1_800_000
    factor = int(re.search(r"(\d) x \d pixels as one", capsys.readouterr().err)[1])
    assert picture(data_of(tmp_path / "r.html")["pictures"][0]["image"]).shape == (
        -(-520 // factor),
        -(-300 // factor),
    )
    assert MOST_BYTES <= 25_000_000


def test_sections_with_hints_are_shown_beside_evenly_spread_ones():
    assert sections_shown(30, [3]) == list(range(30))
    shown = sections_shown(3000, [7, 1501])
    assert {0, 7, 1501, 2999} <= set(shown)
    assert len(shown) <= 30
    assert len(sections_shown(3000, list(range(3000)))) == 30
    assert len(sections_shown(3000, [])) == 30


def test_figures_of_a_section_take_no_room_of_its_pixels():
    sink = FiguresSink("cell")
    section_YX = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    sink.write(Block(0, (0, 2), (0, 100), (0, 100)), np.stack([section_YX, section_YX[::-1]]))
    found = sink.sections[1]
    assert found.total == pytest.approx(5000, rel=1e-3)
    assert found.doubt == pytest.approx(10_000 / 6, rel=1e-2)
    assert found.histogram.nbytes == 4 * BINS
    turned = FiguresSink("membrane")
    turned.add(0, np.rint(255 * (1 - section_YX)).astype(np.uint8))
    np.testing.assert_allclose(turned.sections[0].histogram, found.histogram, atol=40)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (("--report", "gone/r.html"), 6, "gone"),
        (("--report", "r.pdf"), 2, "expected a name that ends in .html"),
        (("--overlay", "o.jpg"), 2, "expected a name that ends in .png"),
        (
            ("--overlay", "o.png", "--contact-sheet", "o.png"),
            2,
            "would be written twice, as --overlay and as --contact-sheet",
        ),
        (("--report", "r.html", "second.tif"), 2, "shows one stack, but there are 2"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_any_work(
    tmp_path, sample, infer, capsys, monkeypatch, asked, code, said
):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("stack.tif", sample[0][:1], photometric="minisblack")
    assert infer("stack.tif", *asked) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["stack.tif"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_before_any_work(tmp_path, sample, infer, capsys):
    tifffile.imwrite(tmp_path / "stack.tif", sample[0][:1], photometric="minisblack")
    (tmp_path / "locked").mkdir(mode=0o555)
    assert infer(tmp_path / "stack.tif", "--report", tmp_path / "locked" / "r.html") == 6
    assert "locked" in capsys.readouterr().err
    assert not (tmp_path / "stack.probability.tif").exists()


@pytest.mark.parametrize("package", ["jinja2", "PIL"])
def test_a_missing_package_is_said_before_any_work(tmp_path, sample, infer, capsys, monkeypatch, package):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    tifffile.imwrite(tmp_path / "stack.tif", sample[0][:1], photometric="minisblack")
    assert infer(tmp_path / "stack.tif", "--report", tmp_path / "r.html") == 3
    assert "pip install 'isbi-infer[report]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["stack.tif"]


def test_neurons_are_a_layer_where_there_are_some(tmp_path, sample, segmenter):
    ids_ZYX = (np.arange(5 * 192 * 224).reshape(5, 192, 224) // 5000).astype(np.uint16)
    for name, stack_ZYX in (("stack.tif", sample[0]), ("neurons.tif", ids_ZYX)):
        tifffile.imwrite(tmp_path / name, stack_ZYX, photometric="minisblack")
    with open_source(tmp_path / "stack.tif") as source, open_source(tmp_path / "neurons.tif") as neurons:
        watched = Looks(report=tmp_path / "r.html").watch(segmenter.plan_source(source))
        run = {"also": (watched.sink,), "plan": watched.plan, "findings": watched.findings}
        summary = segmenter.segment_file(source, tmp_path / "out.tif", **run)
        watched.draw(source, summary, segmenter.contract, neurons=neurons)
    data = data_of(tmp_path / "r.html")
    assert [layer["key"] for layer in data["layers"]] == ["image", "probability", "neurons", "outlines"]
    drawn = picture(data["pictures"][4]["neurons"])
    assert len(np.unique(drawn)) == len(np.unique(ids_ZYX[4]))
