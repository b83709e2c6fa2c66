"""``isbi-infer --label``: the scores of what was written, and what is refused before any work."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from skimage import measure

from isbi_infer import cli
from isbi_train.data.labels import LabelRule
from isbi_train.evaluation.evaluate import evaluate
from isbi_train.scores.metrics import pixel_scores, thinned_scores

PROGRAM = Path(sys.executable).with_name("isbi-infer")


def write(path, stack):
    tifffile.imwrite(path, stack, photometric="minisblack")
    return path


@pytest.fixture(scope="module")
def sample():
    return synthetic_stack(2, 96, 128)


@pytest.fixture
def stack(tmp_path, sample):
    return write(tmp_path / "stack.tif", sample[0])


@pytest.fixture
def labels(tmp_path, sample):
    return write(tmp_path / "labels.tif", sample[1])


@pytest.fixture
def infer(monkeypatch, capsys):
    """Run the command in this process; give its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["isbi-infer", "--provider", "cpu", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, *capsys.readouterr()

    return run


def test_scores_are_printed_after_the_summary(stack, labels, sample):
    said = subprocess.run([PROGRAM, stack, "--label", labels], capture_output=True, text=True, check=True)
    found = tifffile.imread(stack.with_name("stack.probability.tif"))
    scores, pixels = thinned_scores(found, sample[1]), pixel_scores(found, sample[1])
    summary, *lines = said.stdout.splitlines()
    assert "2 sections" in summary
    assert lines == [
        f"V_rand {scores.v_rand:.6f} (threshold {scores.best_threshold_rand:.1f}), "
        f"V_info {scores.v_info:.6f} (threshold {scores.best_threshold_info:.1f}), after thinning",
        f"pixel error {pixels.pixel_error:.4f}, "
        f"Dice {pixels.dice_membrane:.4f} (membrane) and {pixels.dice_cell:.4f} (cell)",
    ]


def test_quiet_prints_the_scores_alone(infer, stack, labels):
    code, out, err = infer(stack, "--label", labels, "--quiet", "--pixel-size", "5")
    assert (code, err) == (0, "")
    assert out.startswith("V_rand ")
    assert out.count("\n") == 2


@pytest.mark.parametrize("emit", ["cell", "membrane"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_what_was_written_is_scored_as_probability_of_cell(infer, stack, labels, sample, emit, dtype):
    code, out, _ = infer(stack, "--label", labels, "--emit", emit, "--dtype", dtype, "--json")
    assert code == 0
    written = tifffile.imread(stack.with_name("stack.probability.tif"))
    assert written.dtype == dtype
    whole = 255 if dtype == "uint8" else np.float32(1)
    expected = thinned_scores(whole - written if emit == "membrane" else written, sample[1])
    scores = json.loads(out)["scores"]
    assert scores["v_rand_thin"] == expected.v_rand
    assert scores["v_info_thin"] == expected.v_info
    assert scores["best_threshold_rand"] == expected.best_threshold_rand
    assert scores["dice_cell"] > 0.8


def test_the_scores_are_those_of_the_evaluate_command(infer, stack, labels):
    _, out, _ = infer(stack, "--label", labels, "--json")
    output = stack.with_name("stack.probability.tif")
    command = PROGRAM.with_name("isbi-train"), "evaluate", output, labels, "--json"
    evaluated = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    scores = json.loads(out)["scores"]
    assert {name: evaluated[name] for name in scores} == scores


def test_a_section_that_nobody_annotated_is_left_out_and_named(infer, tmp_path, sample):
    image, label = np.repeat(sample[0], 2, axis=0), np.repeat(sample[1], 2, axis=0)
    label[3] = 0
    pair = write(tmp_path / "image.tif", image), "--label", write(tmp_path / "label.tif", label)
    code, out, err = infer(*pair, "--json")
    assert code == 0
    assert "a single value in section 3 (from 0), which nobody annotated" in err
    first = (
        write(tmp_path / "first.tif", image[:3]),
        "--label",
        write(tmp_path / "first-label.tif", label[:3]),
    )
    scores = json.loads(out)["scores"]
    expected = json.loads(infer(*first, "--json")[1])["scores"]
    assert {**scores, "notes": []} == {**expected, "notes": []}


def test_ids_and_ignored_values_are_scored_as_isbi_train_evaluate_does(infer, tmp_path, sample):
    ids = np.zeros(sample[1].shape, np.uint16)
    for z, cell in enumerate(sample[1] > 0):
        ids[z] = measure.label(cell, connectivity=1) + np.where(cell, 300 * z, 0)
    ids[:, 10:30, 10:30] = 9999
    stack, labels = write(tmp_path / "image.tif", sample[0]), write(tmp_path / "ids.tif", ids)
    output = tmp_path / "out.tif"
    asked = "--label", labels, "--labels-are", "ids", "--ignore", "9999"
    code, out, _ = infer(stack, *asked, "--json", "-o", output)
    assert code == 0
    found = evaluate(output, Path(labels), rule=LabelRule.of("ids", 9999)).to_plain()
    scores = json.loads(out)["scores"]
    for key in ("v_rand_thin", "v_info_thin", "pixel_error", "dice_membrane"):
        assert scores[key] == pytest.approx(found[key], abs=1e-12)
    refused, _, err = infer(stack, "--label", labels)
    assert refused == 4
    assert "--labels-are ids" in err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda y: 255 - y, "look inverted"),
        (lambda y: y[:, :, 1:], "the stack has (2, 96, 128)"),
        (lambda y: y[:1], "labels of this very stack"),
        (lambda y: np.stack([y] * 3, axis=-1), "greyscale"),
        (
            lambda y: np.where(np.arange(128) < 9, 128, y).astype(np.uint8),
            "labels hold 0, 128, 255; expected",
        ),
        (lambda y: np.stack([y[0], y[1] // 255]), "labels hold 0, 1, 255; expected"),
    ],
    ids=["polarity", "shape", "sections", "colour", "third value", "a value of its own in each section"],
)
def test_labels_that_cannot_be_meant_stop_it_before_anything_is_segmented(
    infer, stack, sample, tmp_path, spoil, said
):
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, spoil(sample[1]))
    code, out, err = infer(stack, "--label", path)
    assert (code, out, err.count("\n")) == (4, "", 1), err
    assert str(path) in err
    assert said in err
    assert not stack.with_name("stack.probability.tif").exists()


def test_missing_labels_stop_it_too(infer, stack, tmp_path):
    assert infer(stack, "--label", tmp_path / "nothing.tif")[0] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["stack.tif"]


@pytest.mark.parametrize("package", ["numba", "skimage"])
def test_missing_packages_are_said_before_anything_is_segmented(infer, stack, labels, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = infer(stack, "--label", labels)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert f"{package} not installed; run: pip install 'isbi-infer[scores]'" in err
    assert not stack.with_name("stack.probability.tif").exists()


def test_a_distribution_without_the_scorer_is_said(infer, stack, labels, monkeypatch):
    monkeypatch.setattr("isbi_infer.scoring.entry_points", lambda **_: ())
    code, _, err = infer(stack, "--label", labels)
    assert code == 3
    assert "pip install" in err


def test_labels_are_never_written_over(infer, stack, labels, sample):
    code, _, err = infer(stack, "--output", labels, "--label", labels)
    assert code == 2
    assert "labels.tif" in err
    assert (tifffile.imread(labels) == sample[1]).all()
