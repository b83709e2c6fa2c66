"""From files to scores: stacks, models of every kind, sections, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import typer

from isbi_infer import Segmenter, cli
from isbi_infer.errors import DependencyError, ImageError, ModelError, UsageError
from isbi_train.data.labels import LabelRule
from isbi_train.evaluation.evaluate import evaluate, section_range
from isbi_train.networks.checkpoint import load_checkpoint, save_checkpoint
from isbi_train.scores.metrics import (
    adapted_rand_error,
    expected_calibration_error,
    pixel_scores,
    thinned_scores,
    variation_of_information,
)

DATA = Path(__file__).parents[1] / "data" / "thinned-scores"
FIGURES = json.loads((DATA / "scores.json").read_text())


def write(path, stack, **options):
    tifffile.imwrite(path, stack, photometric="minisblack", **options)
    return path


@pytest.fixture(scope="module")
def files(sample, exported, tmp_path_factory):
    """A folder with image.tif, labels.tif, and model.pth, model.onnx and model.pt of one training run."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, stack_ZYX in zip(("image.tif", "labels.tif"), sample, strict=True):
        write(folder / name, stack_ZYX)
    for name in ("model.pth", "model.onnx", "model.pt"):
        shutil.copy(exported / name, folder)
    return folder


@pytest.fixture(scope="module")
def soft_ZYX(sample):
    """Probabilities of cell that err here and there."""
    noise_ZYX = np.random.default_rng(3).normal(0, 0.25, sample[1].shape)
    return np.clip(np.where(sample[1] > 0, 0.8, 0.2) + noise_ZYX, 0, 1).astype(np.float32)


@pytest.fixture
def prediction(soft_ZYX, tmp_path):
    return write(tmp_path / "prediction.tif", soft_ZYX)


def model_scores(files, suffix, **options):
    return evaluate(files / f"model{suffix}", files / "labels.tif", image=files / "image.tif", **options)


def inferred(capsys, *arguments):
    """The scores that isbi-infer prints."""
    command = typer.main.get_command(cli.app)
    with pytest.raises(SystemExit) as left:
        command.main([*map(str, arguments), "--provider", "cpu", "--json"])
    assert left.value.code == 0
    return json.loads(capsys.readouterr().out)["scores"]


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_plain_figures_of_reference_stacks_are_the_official_ones(name):
    plain = evaluate(DATA / f"{name}_proposal.tif", DATA / f"{name}_labels.tif").to_plain()
    figures = FIGURES[name]
    for key in ("v_rand_thin", "v_info_thin"):
        assert plain[key] == pytest.approx(figures[key], abs=1e-9)
    assert {key: plain[key] for key in figures["best_threshold"]} == figures["best_threshold"]
    for found, official in zip(plain["thresholds"], figures["thresholds"], strict=True):
        sections = zip(found.pop("slices"), official["slices"], strict=True)
        assert found == pytest.approx({key: official[key] for key in found}, abs=1e-9)
        for z, (section, figure) in enumerate(sections):
            assert section.pop("section") == z
            assert section == pytest.approx(figure, abs=1e-9)


def test_a_stack_is_scored_by_every_score(prediction, files, soft_ZYX, sample):
    found = evaluate(prediction, files / "labels.tif")
    pair = soft_ZYX, sample[1]
    assert found.thinned.v_rand == thinned_scores(*pair).v_rand
    assert found.pixels == pixel_scores(*pair)
    assert found.adapted_rand == adapted_rand_error(*pair)
    assert found.variation == variation_of_information(*pair)
    assert found.calibration_error == expected_calibration_error(*pair)
    assert found.notes == ()
    assert found.image_ZYX is None


def test_sections_are_the_same_ones_of_both_stacks_and_keep_their_numbers(
    prediction, files, soft_ZYX, sample
):
    found = evaluate(prediction, files / "labels.tif", sections="1:3")
    expected = thinned_scores(soft_ZYX[1:3], sample[1][1:3])
    assert found.thinned.v_rand == expected.v_rand
    plain = found.to_plain()
    assert plain["sections"] == "1:3"
    assert [section["section"] for section in plain["thresholds"][0]["slices"]] == [1, 2]


def test_a_single_section_file_is_a_stack_of_one(tmp_path, soft_ZYX, sample):
    found = evaluate(write(tmp_path / "p.tif", soft_ZYX[0]), write(tmp_path / "l.tif", sample[1][0]))
    assert found.sections == range(1)
    assert found.thinned.v_rand == thinned_scores(soft_ZYX[0], sample[1][0]).v_rand


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (":", range(30)),
        ("25:30", range(25, 30)),
        ("25:", range(25, 30)),
        (":5", range(5)),
        (" 7 ", range(7, 8)),
        (slice(None), range(30)),
        (slice(2, 4), range(2, 4)),
    ],
)
def test_ranges_of_sections_are_read(sections, expected):
    assert section_range(sections, 30) == expected


@pytest.mark.parametrize(
    "sections",
    ["", "a:b", "1:2:3", "-5:", "1.5", "30", "25:31", "5:5", "6:5", slice(-5, None), slice(0, 9, 2)],
)
def test_ranges_that_are_none_or_not_there_are_refused(sections):
    with pytest.raises(UsageError, match="expected"):
        section_range(sections, 30)


def test_an_onnx_model_goes_through_the_path_that_ships(files, sample):
    found = model_scores(files, ".onnx", provider="cpu")
    np.testing.assert_array_equal(
        found.probability_ZYX, Segmenter(files / "model.onnx", provider="cpu")(sample[0])
    )
    np.testing.assert_array_equal(found.image_ZYX, sample[0])
    assert found.notes[0] == f"{files / 'model.onnx'}: run by isbi_infer.Segmenter on cpu"


def test_a_checkpoint_scores_what_training_wrote_down_for_it(files):
    recorded = load_checkpoint(files / "model.pth").scores
    found = model_scores(files, ".pth", sections=recorded["sections"], provider="cpu")
    assert found.thinned.v_rand == recorded["v_rand_thin"]
    assert found.thinned.v_info == recorded["v_info_thin"]
    assert "as training validates" in found.notes[0]


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_exported_models_give_the_probabilities_of_their_checkpoint(files, suffix):
    expected, found = (model_scores(files, s, provider="cpu").probability_ZYX for s in (".pth", suffix))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("y_nm", "x_nm"), [(6.0, 6.0), (5.0, 3.2), (4.02, 4.0), (100.0, 100.0)])
@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_one_model_and_one_file_get_one_score_everywhere(files, sample, tmp_path, capsys, suffix, y_nm, x_nm):
    image = tmp_path / "image.tif"
    metadata = {"axes": "ZYX", "unit": "um"}
    tifffile.imwrite(image, sample[0], imagej=True, resolution=(1e3 / x_nm, 1e3 / y_nm), metadata=metadata)
    model, labels = files / f"model{suffix}", files / "labels.tif"
    scores = inferred(capsys, image, "--model", model, "--label", labels, "-o", tmp_path / "out.tif")
    found = evaluate(model, labels, image=image, provider="cpu")
    np.testing.assert_array_equal(found.probability_ZYX, tifffile.imread(tmp_path / "out.tif"))
    plain = found.to_plain()
    scores.pop("notes")
    assert {name: plain[name] for name in scores} == scores
    assert any("nm" in note for note in found.notes) == (y_nm != 4.02)


def test_a_checkpoint_is_resampled_like_its_exported_files(files, sample, tmp_path):
    image = tmp_path / "image.tif"
    metadata = {"axes": "ZYX", "unit": "um"}
    tifffile.imwrite(image, sample[0], imagej=True, resolution=(1e3 / 3, 1e3 / 6), metadata=metadata)
    as_checkpoint, as_onnx = (
        evaluate(files / f"model{suffix}", files / "labels.tif", image=image, provider="cpu")
        for suffix in (".pth", ".onnx")
    )
    np.testing.assert_allclose(as_checkpoint.probability_ZYX, as_onnx.probability_ZYX, atol=1e-5)
    assert as_checkpoint.notes[1:] == as_onnx.notes[1:]


def test_a_checkpoint_takes_canvas_like_its_exported_files(files, sample, tmp_path):
    """A blank section, a margin, a no-data value, and another pixel size."""
    pad = ((0, 0), (0, 24), (16, 0))
    image_ZYX = np.pad(sample[0].astype(np.float32), pad, constant_values=-9999)
    image_ZYX[1] = 7
    metadata = {"axes": "ZYX", "unit": "um"}
    nodata = [(42113, "s", 0, "-9999", True)]
    tifffile.imwrite(
        tmp_path / "image.tif",
        image_ZYX,
        imagej=True,
        resolution=(125, 125),
        metadata=metadata,
        extratags=nodata,
    )
    write(tmp_path / "labels.tif", np.pad(sample[1], pad, constant_values=255))
    as_checkpoint, as_onnx = (
        evaluate(files / f"model{s}", tmp_path / "labels.tif", image=tmp_path / "image.tif", provider="cpu")
        for s in (".pth", ".onnx")
    )
    np.testing.assert_allclose(as_checkpoint.probability_ZYX, as_onnx.probability_ZYX, atol=1e-5)
    assert not as_checkpoint.probability_ZYX[:, -24:].any()


def test_the_users_pixel_size_goes_before_the_files(files, capsys, tmp_path):
    image, labels = files / "image.tif", files / "labels.tif"
    options = "--pixel-size", "7", "--model", files / "model.onnx", "-o", tmp_path / "out.tif"
    scores = inferred(capsys, image, "--label", labels, *options)
    given = model_scores(files, ".onnx", pixel_size=7.0, provider="cpu")
    np.testing.assert_array_equal(given.probability_ZYX, tifffile.imread(tmp_path / "out.tif"))
    assert given.to_plain()["v_rand_thin"] == scores["v_rand_thin"]
    as_it_is_ZYX = model_scores(files, ".onnx", provider="cpu").probability_ZYX
    assert (given.probability_ZYX != as_it_is_ZYX).any()
    for suffix in (".onnx", ".pth"):
        with pytest.raises(UsageError, match="pixel size"):
            model_scores(files, suffix, pixel_size=-1.0, provider="cpu")


def test_only_the_sections_asked_for_are_segmented(files):
    said = []
    model_scores(files, ".onnx", sections="2:4", progress=lambda done, total: said.append((done, total)))
    assert said == [(0, 2), (1, 2), (2, 2)]  # a tile each


def test_eight_bits_are_divided_and_said(files, soft_ZYX, tmp_path):
    eight_ZYX = np.rint(soft_ZYX * 255).astype(np.uint8)
    found = evaluate(write(tmp_path / "p.tif", eight_ZYX), files / "labels.tif")
    assert found.notes == ("8-bit probabilities were divided by 255",)
    assert found.probability_ZYX.max() == 1


def test_a_section_that_nobody_annotated_is_left_out_and_named_as_in_the_file(prediction, sample, tmp_path):
    label_ZYX = sample[1].copy()
    label_ZYX[2] = 0
    found = evaluate(prediction, write(tmp_path / "labels.tif", label_ZYX), sections="1:")
    assert any("a single value in section 2 (from 0), which nobody annotated" in note for note in found.notes)
    assert found.sections == (1, 3)
    plain = found.to_plain()
    assert plain["sections"] == "1,3"
    assert [part["section"] for part in plain["thresholds"][5]["slices"]] == [1, 3]
    first, last = (
        evaluate(prediction, tmp_path / "labels.tif", sections=f"{z}").to_plain()["thresholds"]
        for z in (1, 3)
    )
    for t, mean in enumerate(plain["thresholds"]):
        assert mean["v_rand"] == pytest.approx((first[t]["v_rand"] + last[t]["v_rand"]) / 2)


def test_ids_are_the_segments_that_mergers_are_counted_of(soft_ZYX, tmp_path):
    """Two ids that touch are two segments by ids, and one by their mask, where nothing parts them."""
    probability_YX = np.ones((64, 64), np.float32)
    ids_YX = np.where(np.arange(64) < 32, 1, 2) * np.ones((64, 1), int)
    probability = write(tmp_path / "p.tif", probability_YX)
    labels = write(tmp_path / "ids.tif", ids_YX.astype(np.uint16))
    merged = evaluate(probability, labels, rule=LabelRule.of("ids"))
    assert merged.thinned.segments[0, 0] == 2
    # One basin holds both halves: s_ab = s_a = 1/2, s_b = 1.
    assert merged.thinned.v_rand == pytest.approx(2 / 3, abs=0.01)
    probability_YX[:, 31:33] = 0
    parted = evaluate(write(tmp_path / "q.tif", probability_YX), labels, rule=LabelRule.of("ids"))
    assert parted.thinned.v_rand > 0.95
    assert parted.adapted_rand.error < merged.adapted_rand.error


def test_an_id_in_two_pieces_is_two_segments_of_its_section(tmp_path):
    """Nothing within a section joins them, so a result that parts them is without fault."""
    ids_YX = np.repeat(np.array([3, 0, 5, 0, 3], np.uint16), [18, 4, 20, 4, 18]) * np.ones((64, 1), np.uint16)
    probability = write(tmp_path / "p.tif", (ids_YX > 0).astype(np.float32))
    found = evaluate(probability, write(tmp_path / "ids.tif", ids_YX), rule=LabelRule.of("ids"))
    assert found.thinned.segments[0, 0] == 3
    assert found.thinned.v_rand == found.thinned.v_info == pytest.approx(1)
    assert found.adapted_rand.error == pytest.approx(0, abs=0.01)


def test_what_labels_say_under_an_ignored_value_changes_no_score(prediction, sample, tmp_path):
    def scores(fill):
        label_ZYX = sample[1].copy()
        label_ZYX[:, 20:40, 10:30] = fill
        path = write(tmp_path / f"ignored-{fill}.tif", label_ZYX)
        return evaluate(prediction, path, rule=LabelRule.of("cells", fill)).to_plain()

    one, other = scores(7), scores(99)
    assert {**one, "labels": ""} == {**other, "labels": ""}
    assert one["v_rand_thin"] != evaluate(prediction, write(tmp_path / "all.tif", sample[1])).thinned.v_rand


def test_pixels_that_are_ignored_are_left_out_of_the_scores_pixel_by_pixel(sample, tmp_path):
    label_ZYX = sample[1].copy()
    wrong_ZYX = (label_ZYX > 0).astype(np.float32)
    wrong_ZYX[:, 20:40, 10:30] = 1 - wrong_ZYX[:, 20:40, 10:30]
    label_ZYX[:, 20:40, 10:30] = 7
    labels = write(tmp_path / "labels.tif", label_ZYX)
    found = evaluate(write(tmp_path / "p.tif", wrong_ZYX), labels, rule=LabelRule.of("cells", 7))
    assert found.pixels.pixel_error == 0
    assert found.calibration_error == 0


def test_as_many_sections_as_asked_for_are_not_taken_for_those(files, soft_ZYX, tmp_path):
    part = write(tmp_path / "part.tif", soft_ZYX[2:])
    with pytest.raises(ImageError, match=r"\(2, 64, 64\), .*labels.tif \(4, 64, 64\); .*same sections first"):
        evaluate(part, files / "labels.tif", sections="2:4")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: np.where(p > 0.99, np.nan, p), "NaN"),
        (lambda p: 4 * p - 2, "apply the sigmoid"),
        (lambda p: (p * 65535).astype(np.uint16), "divide them by 65535"),
        (lambda p: (p > 0.5).astype(np.uint8), "pass a 0/1 mask"),
    ],
    ids=["NaN", "logits", "16 bits", "0/1 mask"],
)
def test_probabilities_that_are_none_are_refused_by_name(files, soft_ZYX, tmp_path, spoil, said):
    path = write(tmp_path / "p.tif", spoil(soft_ZYX))
    with pytest.raises(ImageError, match=said) as refused:
        evaluate(path, files / "labels.tif")
    assert str(path) in str(refused.value)


def test_inverted_labels_are_refused_by_name(prediction, sample, tmp_path):
    path = write(tmp_path / "inverted.tif", 255 - sample[1])
    with pytest.raises(ImageError, match=rf"{path}: .*look inverted"):
        evaluate(prediction, path)


def test_inverted_labels_stop_a_model_before_it_runs(files, sample, tmp_path):
    path, said = write(tmp_path / "inverted.tif", 255 - sample[1]), []
    with pytest.raises(ImageError, match="look inverted"):
        evaluate(
            files / "model.onnx", path, image=files / "image.tif", progress=lambda *done: said.append(done)
        )
    assert said == []


def test_a_model_needs_an_image_and_a_stack_has_none(prediction, files):
    with pytest.raises(UsageError, match="--image"):
        evaluate(files / "model.onnx", files / "labels.tif")
    with pytest.raises(UsageError, match="leave out --image"):
        evaluate(prediction, files / "labels.tif", image=files / "image.tif")
    with pytest.raises(UsageError, match="leave out --pixel-size"):
        evaluate(prediction, files / "labels.tif", pixel_size=4.0)


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pth"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" + b])
def test_damaged_models_are_refused(files, tmp_path, suffix, damage):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(damage((files / f"model{suffix}").read_bytes()))
    with pytest.raises(ModelError, match="model"):
        evaluate(path, files / "labels.tif", image=files / "image.tif")


def test_torchscript_without_a_contract_is_refused(files, tmp_path):
    path = tmp_path / "foreign.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.trace(torch.nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 8, 8)).save(path)
    with pytest.raises(ModelError, match=r"foreign\.pt: .*contract"):
        evaluate(path, files / "labels.tif", image=files / "image.tif")


def test_weights_that_give_nan_are_the_fault_of_the_model(files, checkpoint, tmp_path):
    checkpoint.state_dict["head.bias"][:] = torch.nan
    save_checkpoint(tmp_path / "nan.pth", checkpoint)
    with pytest.raises(ModelError, match="NaN"):
        evaluate(tmp_path / "nan.pth", files / "labels.tif", image=files / "image.tif")


def test_torch_runs_only_where_it_can(files):
    with pytest.raises(UsageError, match="torch knows"):
        model_scores(files, ".pth", provider="tensorrt")
    if not torch.cuda.is_available():
        with pytest.raises(DependencyError, match="--provider cpu"):
            model_scores(files, ".pt", provider="cuda")


def test_import_brings_in_nothing_heavy():
    heavy = "torch", "numba", "skimage", "scipy", "matplotlib", "onnxruntime"
    code = f"import sys, isbi_train.evaluation.scorer; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


SPOILT = {
    "ignored region": (
        lambda y: np.where(np.arange(y.shape[2]) < 9, -1, y > 0).astype(np.int16),
        "hold -1, 0, 1;",
    ),
    "interpolated": (
        lambda y: (np.roll(y, 1, axis=1) // 2 + y // 2).astype(np.uint8),
        "hold 0, 127, 254; .*two values",
    ),
    "ids": (
        lambda y: np.where(y > 0, 1 + np.arange(y.shape[2]) // 16, 0).astype(np.uint16),
        "kind instances",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_labels_of_more_than_two_values_are_refused_with_what_they_hold(prediction, sample, tmp_path, case):
    spoil, message = SPOILT[case]
    labels = write(tmp_path / "labels.tif", spoil(sample[1]))
    with pytest.raises(ImageError, match=rf"labels\.tif: labels {message}" if "hold" in message else message):
        evaluate(prediction, labels)


def test_a_terminal_sees_how_far_scoring_is_and_then_the_json_alone(terminal, files, prediction):
    program = Path(sys.executable).with_name("isbi-train")
    arguments = prediction, files / "labels.tif"
    shown = terminal(program, "evaluate", *arguments, "--json", columns=2000)
    assert shown.code == 0
    assert any(frame.startswith(("reading", "scored section")) for frame in shown.frames)
    assert len(shown.lines) == 1
    assert 0 <= json.loads(shown.lines[0])["adapted_rand_error"] <= 1
    quiet = terminal(program, "evaluate", *arguments, "--json", "--quiet", columns=2000)
    assert quiet.frames == quiet.lines == shown.lines
