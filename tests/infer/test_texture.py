"""How sections look: what changes it, what is familiar, and what a run says of sections that are not."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from isbi_infer.pixels.normalise import intensity_statistics
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.pixels.texture import LIMIT, Familiar, Look, texture_of
from isbi_infer.run.findings import Findings
from isbi_infer.run.pipeline import compute_sections
from isbi_infer.volumes import open_source

STACK_ZYX = synthetic_stack(6, 192, 256)[0].astype(np.float32)


def texture(section_YX):
    return texture_of(section_YX, intensity_statistics(section_YX))


LOOK = Look.of("fly", [texture(section_YX) for section_YX in STACK_ZYX[:4]])


@given(factor=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_brightness_and_contrast_of_the_detector_do_not_matter(factor, offset):
    changed_YX = (STACK_ZYX[0] * np.float32(factor) + np.float32(offset)).astype(np.float32)
    np.testing.assert_allclose(texture(changed_YX), texture(STACK_ZYX[0]), rtol=0, atol=2e-2)


def test_blur_lowers_near_differences_most_and_noise_raises_them():
    plain = texture(STACK_ZYX[0])
    noise_YX = np.random.default_rng(0).normal(size=STACK_ZYX[0].shape).astype(np.float32)
    noisy = texture(STACK_ZYX[0] + STACK_ZYX[0].std() * noise_YX)
    blurred = texture(ndimage.gaussian_filter(STACK_ZYX[0], 1.5))
    falls = np.subtract(plain[:5], blurred[:5])
    assert falls[0] > falls[2] > falls[4]
    assert noisy[0] > plain[0] > blurred[0]


def test_an_inverted_section_has_the_opposite_skewness_and_the_same_differences():
    plain, inverted = texture(STACK_ZYX[0]), texture(-STACK_ZYX[0])
    np.testing.assert_allclose(inverted[:5], plain[:5], rtol=0, atol=1e-4)
    assert inverted[5] == pytest.approx(-plain[5], abs=1e-4)


@pytest.mark.parametrize(
    "section_YX",
    [
        STACK_ZYX[0, :95],
        STACK_ZYX[0, :, :40],
        np.full((256, 256), 7, np.float32),
        np.zeros((1, 1), np.float32),
    ],
    ids=["low", "narrow", "constant", "one pixel"],
)
def test_what_is_too_little_to_tell_has_no_texture(section_YX):
    assert texture(section_YX) is None


def test_other_sections_of_the_stack_are_familiar_and_other_looks_are_not():
    familiar = Familiar.of([LOOK], [texture(STACK_ZYX[4])])
    assert familiar.limit >= LIMIT
    assert familiar.nearest(texture(STACK_ZYX[5]))[0] < familiar.limit
    distance, name = familiar.nearest(texture(ndimage.gaussian_filter(STACK_ZYX[5], 3)))
    assert distance > familiar.limit
    assert name == "fly"


def test_the_limit_leaves_room_for_the_farthest_held_out_section():
    strange = texture(ndimage.gaussian_filter(STACK_ZYX[5], 3))
    familiar = Familiar.of([LOOK], [texture(STACK_ZYX[4]), strange])
    assert familiar.nearest(strange)[0] < familiar.limit


def test_it_goes_to_plain_types_and_back():
    familiar = Familiar.of([LOOK, replace(LOOK, name="")])
    assert Familiar.from_plain(familiar.to_plain()) == familiar


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 0},
        {"limit": float("nan")},
        {"limit": True},
        {"looks": []},
        {"looks": [{"name": "a"}]},
        {"looks": [LOOK.name]},
        {"looks": [{"name": "a", "mean": [0] * 6, "spread": [1] * 7}]},
        {"looks": [{"name": "a", "mean": [0] * 7, "spread": [0] * 7}]},
        {"looks": [{"name": "a", "mean": [float("inf")] * 7, "spread": [1] * 7}]},
        {"more": 1},
    ],
)
def test_what_is_damaged_is_refused(change):
    with pytest.raises(ValueError, match=r"expected|look|numbers|spread"):
        Familiar.from_plain(Familiar.of([LOOK]).to_plain() | change)


def found_in(segmenter, stack_ZYX, familiar):
    plan = segmenter.plan(stack_ZYX.shape)
    plan = replace(plan, model=replace(plan.model, familiar=familiar))
    findings = Findings(plan)
    for _ in compute_sections(plan, stack_ZYX, segmenter._model.backend, findings):
        pass
    return findings


def test_a_run_says_which_sections_are_unlike_and_nothing_of_familiar_ones(segmenter):
    stack_ZYX = STACK_ZYX.astype(np.uint8).copy()
    familiar = Familiar.of([LOOK])
    assert found_in(segmenter, stack_ZYX, familiar).notes() == ()
    stack_ZYX[2] = ndimage.gaussian_filter(stack_ZYX[2], 3)
    findings = found_in(segmenter, stack_ZYX, familiar)
    (note,) = findings.notes()
    assert note.startswith(
        "section 2 of 6 that were looked at looks unlike anything the model was trained on"
    )
    assert "fly being nearest" in note
    assert [z for z, distance in findings.unlike().items() if distance > 1] == [2]


def test_a_model_that_does_not_say_what_it_knows_is_not_compared(segmenter):
    findings = found_in(segmenter, STACK_ZYX[:1], None)
    assert (findings.notes(), findings.unlike()) == ((), {})


def test_of_a_long_stack_a_few_sections_are_looked_at(segmenter):
    plan = segmenter.plan((1000, 192, 256))
    findings = Findings(replace(plan, model=replace(plan.model, familiar=Familiar.of([LOOK]))))
    statistics, looked_at = section_statistics(STACK_ZYX[0]), []
    for z in range(1000):
        findings.add(z, statistics, lambda z=z: looked_at.append(z))
    assert len(looked_at) == 8
    assert (looked_at[0], looked_at[-1]) == (62, 937)


@pytest.mark.parametrize("sigma", [0, 3])
def test_what_a_run_did_has_the_farthest_section_in_figures(segmenter, tmp_path, sigma):
    stack_ZYX = STACK_ZYX.astype(np.uint8).copy()
    if sigma:
        stack_ZYX[2] = ndimage.gaussian_filter(stack_ZYX[2], sigma)
    tifffile.imwrite(tmp_path / "in.tif", stack_ZYX, photometric="minisblack")
    with open_source(tmp_path / "in.tif") as source:
        plan = segmenter.plan_source(source)
        plan = replace(plan, model=replace(plan.model, familiar=Familiar.of([LOOK])))
        found = segmenter.segment_file(source, tmp_path / "out.tif", plan=plan).to_plain()["unlike"]
    assert (found > 1) == bool(sigma)
    assert found == max(found_in(segmenter, stack_ZYX, Familiar.of([LOOK])).unlike().values())
