"""Gates, calibration and the report: what is let through, what was looked at, and what is said about it."""

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from isbi_export.formats.calibration import (
    SECTIONS,
    read_calibration,
    read_calibrations,
    synthetic_calibration,
)
from isbi_export.graph.int8 import _outwards
from isbi_export.proof.gates import GATES, refusals
from isbi_export.proof.parity import Comparison, Evidence, Scores
from isbi_export.proof.seams import rounded_up
from isbi_export.publish import publish
from isbi_export.report.page import page
from isbi_export.variants import Variant
from isbi_infer.errors import ImageError, UsageError
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.pixels.resample import resample

pytestmark = pytest.mark.usefixtures("exported_once")

SAME = Scores(v_rand=0.0, v_info=0.0)


FILES = {"fp32": "float32", "fp16": "float16", "int8": "int8", "bf16": "float32"}  # that are computed so


def evidence(*, largest=0.0, changed=0, v_rand=0.0, v_info=0.0, data="synthetic", **variant):
    comparison = Comparison(data=data, shape=(1, 1, 100, 100), largest=largest, mean=0.0, changed=changed)
    changes = {"synthetic": SAME, data: Scores(v_rand=v_rand, v_info=v_info)}
    chosen = Variant(**{"file_format": "onnx", **variant})
    return Evidence(variant=chosen, comparisons=(comparison,), changes=changes, seams={0: 0.3, 16: 0.0})


@pytest.mark.parametrize("precision", GATES)
def test_a_file_that_equals_its_checkpoint_passes(precision):
    assert refusals(evidence(precision=FILES[precision]), precision) == []


@pytest.mark.parametrize(
    ("precision", "passes", "fails"),
    [
        ("fp32", {"largest": 1e-5}, {"largest": 1.01e-5}),
        ("fp16", {"largest": 2e-2}, {"largest": 2.01e-2}),
        ("fp16", {"changed": 10}, {"changed": 11}),
        ("bf16", {"largest": 3e-2}, {"largest": 3.01e-2}),
        ("bf16", {"changed": 10}, {"changed": 11}),
        ("bf16", {"v_rand": -1e-3}, {"v_rand": -1.01e-3}),
        ("bf16", {"v_info": 1e-3, "data": "image"}, {"v_info": 1.01e-3, "data": "image"}),
        ("bf16", {"v_info": 0.0}, {"v_info": nan}),
        ("int8", {"largest": 0.9}, {"largest": nan}),
        ("int8", {"changed": 100}, {"changed": 101}),
        ("int8", {"v_rand": -2e-3}, {"v_rand": -2.01e-3}),
        ("int8", {"v_rand": 2e-3, "data": "image"}, {"v_rand": 2.01e-3, "data": "image"}),
        ("int8", {"v_rand": 0.0}, {"v_rand": nan}),
    ],
)
def test_a_gate_is_where_it_is_said_to_be(precision, passes, fails):
    assert refusals(evidence(precision=FILES[precision], **passes), precision) == []
    assert len(refusals(evidence(precision=FILES[precision], **fails), precision)) == 1


@pytest.mark.parametrize(("precision", "reasons"), [("float32", 1), ("float16", 2), ("int8", 2)])
def test_a_file_is_published_by_the_gate_of_its_own_precision(precision, reasons):
    worst = evidence(largest=0.9, changed=200, v_rand=0.1, v_info=0.1, precision=precision)
    assert len(refusals(worst)) == reasons
    assert len(refusals(worst, "bf16")) == 4


@given(st.sampled_from(list(GATES)), st.sampled_from(["float32", "uint8"]))
def test_no_gate_lets_a_nan_pass(precision, io):
    file = FILES[precision]
    assert refusals(evidence(precision=file, io=io, largest=nan), precision)
    assert refusals(evidence(precision=file, io=io, largest=inf), precision) or precision == "int8"


def test_tiles_of_a_graph_must_be_exact_to_the_bit_and_torch_may_round():
    off = replace(evidence(), seams={0: 0.3, 16: 1e-7})
    assert refusals(off) == ["gives tiles that differ from the whole section by 1.00e-07"]
    assert refusals(replace(off, variant=Variant(file_format="program"))) == []
    assert refusals(replace(evidence(), seams={})) == []  # never said to be exact


def test_bytes_may_differ_by_their_rounding_and_no_more():
    assert refusals(evidence(io="uint8", largest=0.5 / 255)) == []
    assert refusals(evidence(io="uint8", largest=0.5 / 255 + 2e-5))
    assert refusals(replace(evidence(io="uint8"), misencoded=1)) == [
        "rounds 1 pixels otherwise than isbi-infer"
    ]


@given(st.floats(1e-12, 1e12))
def test_figures_are_rounded_up_to_two_digits(value):
    found = rounded_up(value)
    assert value * (1 - 1e-9) - 1e-12 <= found <= 1.1 * value + 1e-12


@given(st.floats(-1e6, 1e6, width=32).filter(lambda value: abs(value) > 1e-6))
def test_ranges_grow_outwards_by_less_than_a_hundredth(value):
    found = float(_outwards(np.array([value], np.float32)).item())
    assert abs(value) * (1 - 1e-6) <= abs(found) <= 1.0101 * abs(value)
    assert np.sign(found) == np.sign(value)


@pytest.fixture
def stack(tmp_path):
    """Write a stack of 30 small sections, and give its path, pixels and hash."""
    image_ZYX = np.tile(synthetic_stack(3, 40, 40)[0][:, :, :24], (10, 1, 1))
    image_ZYX[:, 0, 0] = np.arange(30) + 100  # each of its own
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    return tmp_path / "stack.tif", image_ZYX, hashlib.sha256(image_ZYX.tobytes()).hexdigest()


def test_calibration_takes_sections_from_all_of_a_stack_but_those_held_out(stack):
    path, image_ZYX, sha256 = stack
    found = read_calibration(path, {sha256: range(25, 30), "another": range(30)})
    assert found.source == {"data_sha256": sha256, "sections": [0, 3, 6, 9, 12, 15, 18, 21]}
    np.testing.assert_array_equal([tissue.pixels_YX for (tissue,) in found.sections], image_ZYX[0:24:3])
    with pytest.raises(UsageError, match="all of its 30 sections are held out"):
        read_calibration(path, {sha256: range(30)})
    assert read_calibration(path, {sha256: range(2, 30)}).source["sections"] == [0, 1]


def test_calibration_takes_as_many_sections_of_each_of_several_stacks(stack, tmp_path):
    path, image_ZYX, sha256 = stack
    tifffile.imwrite(tmp_path / "other.tif", image_ZYX[:5, :32], photometric="minisblack")
    found = read_calibrations([path, tmp_path / "other.tif"], {sha256: range(28, 30)})
    first, second = found.source["stacks"]
    assert first == {"data_sha256": sha256, "sections": [0, 7, 14, 21]}
    assert second["sections"] == [0, 1, 2, 3]
    assert [tissue.pixels_YX.shape for (tissue,) in found.sections] == [(40, 24)] * 4 + [(32, 24)] * 4


def test_calibration_shows_sections_as_they_are_shown_when_segmented(stack):
    path, image_ZYX, _ = stack
    first_NCYX, *_ = batches = read_calibration(path, {}).batches(stride=16, border=8)
    assert len(batches) == SECTIONS
    assert {(batch.shape, batch.dtype.name) for batch in batches} == {((1, 1, 64, 48), "float32")}
    expected_YX = normalise(image_ZYX[0], intensity_statistics(image_ZYX[0]))
    np.testing.assert_array_equal(first_NCYX[0, 0, 8:48, 8:32], expected_YX)
    np.testing.assert_array_equal(first_NCYX[0, 0, :8, 8:32], expected_YX[8:0:-1])


def test_calibration_leaves_out_what_is_no_tissue(stack):
    """A margin, a blank section and hot pixels, as an aligned stack has them."""
    path, image_ZYX, _ = stack
    padded_ZYX = np.pad(image_ZYX, ((0, 0), (0, 0), (0, 40)))
    padded_ZYX[3] = 0
    tifffile.imwrite(path, padded_ZYX, photometric="minisblack")
    found = read_calibration(path, {})
    assert found.source["sections"] == [0, 7, 11, 15, 18, 22, 26]
    expected_YX = normalise(image_ZYX[0], intensity_statistics(image_ZYX[0]))
    first_NCYX, *_ = found.batches(stride=8, border=0)
    np.testing.assert_array_equal(first_NCYX[0, 0], expected_YX)


def test_calibration_on_blank_sections_alone_is_refused(stack):
    path, image_ZYX, _ = stack
    tifffile.imwrite(path, np.zeros_like(image_ZYX), photometric="minisblack")
    with pytest.raises(UsageError, match="are blank; calibrate on others"):
        read_calibration(path, {})


def test_calibration_sees_sections_at_the_model_s_pixel_size(stack):
    path, image_ZYX, _ = stack
    size = {"resolution": (1 / 8, 1 / 8), "metadata": {"unit": "nm", "axes": "ZYX"}}
    tifffile.imwrite(path, image_ZYX, imagej=True, **size)
    found = read_calibration(path, {}, 4.0)
    ((first,), *_) = found.sections
    np.testing.assert_array_equal(first.pixels_YX, resample(image_ZYX[0], (80, 48)))
    assert found.notes == (f"{path}: resampled from 8 nm to the model's 4 nm, and back",)


def test_calibration_on_a_damaged_stack_is_an_image_error(stack):
    path = stack[0]
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ImageError, match=r"stack\.tif"):
        read_calibration(path, {})


def test_without_sections_the_contract_says_that_they_were_synthetic(everything):
    files = {file.path.name: file for file in everything[1].files}
    assert everything[1].calibrated_on == synthetic_calibration().source
    assert files["model.int8.onnx"].published
    assert everything[1].calibrated_on["data"] == "synthetic sample"


def test_the_report_says_of_every_file_what_was_measured(everything):
    folder, report = everything
    plain = json.loads((folder / "model.parity.json").read_text())
    assert [file["file"] for file in plain["files"]] == [file.path.name for file in report.files]
    for file in plain["files"]:
        content = (folder / file["file"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["milliseconds_per_section"] > 0
        assert file["tiles_differ_by"] <= (0 if file["file_format"] == "onnx" else 1e-5)
        assert list(file["error_by_halo"]) == ["0", "8", "16", "24", "32", "40", "48"]
        assert file["error_by_halo"]["0"] > 0
        assert {found["data"] for found in file["comparisons"]} == {"random", "synthetic"}
        assert file["published"]
    scores = plain["checkpoint_scores"]["synthetic"]
    for file in plain["files"]:
        for name, value in scores.items():
            change = file["score_changes"]["synthetic"][name]
            assert file["scores"]["synthetic"][name] == pytest.approx(value + change)


class Outside(HTMLParser):
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found += [
            value for name, value in attributes if name in ("src", "href") and not value.startswith("#")
        ]
        self.found += [tag] if tag in ("script", "link", "iframe", "img") else []


def test_the_page_needs_no_other_file_and_names_all(everything):
    folder, report = everything
    text = (folder / "model.parity.html").read_text()
    parser = Outside()
    parser.feed(text)
    assert parser.found == []
    for file in report.files:
        assert file.path.name in text
    assert text.count("<svg") == 1
    assert f"All {len(report.files)} files passed their gates" in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)  # no time of day in the picture


def test_one_report_always_gives_one_page(everything):
    plain = everything[1].to_plain()
    assert page(plain) == page(json.loads(json.dumps(plain)))


def test_scores_and_calibration_on_a_users_sections_are_measured_and_kept_apart(save, tmp_path):
    image_ZYX, label_ZYX = synthetic_stack(4, 96, 96)
    for name, array in (("image", image_ZYX), ("labels", label_ZYX)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="minisblack")
    image, labels = tmp_path / "image.tif", tmp_path / "labels.tif"
    given = {"image": image, "labels": labels, "sections": "2:4"}
    report = publish(save(), tmp_path, ["onnx"], **given)
    assert report.scored_on["sections"] == "2:4"
    assert report.files[0].evidence.changes["image"] == SAME
    assert {found.shape for found in report.files[0].evidence.comparisons if found.data == "image"} == {
        (1, 1, 96, 96)
    }
    with pytest.raises(UsageError, match="sections to calibrate on are for int8"):
        publish(save(), tmp_path, ["onnx"], calibrate=[image])
    with pytest.raises(UsageError, match="an image and its labels go together"):
        publish(save(), tmp_path, ["onnx"], image=image)
    with pytest.raises(UsageError, match="sections 3:9 are not among the 4"):
        publish(save(), tmp_path, ["onnx"], **{**given, "sections": "3:9"})
    with pytest.raises(UsageError, match="all of its 4 sections are held out"):
        publish(save(), tmp_path, precisions=["int8"], calibrate=[image], image=image, labels=labels)
