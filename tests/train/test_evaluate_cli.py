"""``isbi-train evaluate``: what is printed, what is drawn, and the exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from isbi_train import cli

PROGRAM = Path(sys.executable).with_name("isbi-train")
DATA = Path(__file__).parents[1] / "data" / "thinned-scores"
FIGURES = json.loads((DATA / "scores.json").read_text())
PAIR = DATA / "s4_proposal.tif", DATA / "s4_labels.tif"


def write(path, stack):
    tifffile.imwrite(path, stack, photometric="minisblack")
    return path


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Run the command in this process; give its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["isbi-train", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, *capsys.readouterr()

    return run


def test_the_object_holds_the_official_figures_of_a_reference_stack():
    said = subprocess.run(
        [PROGRAM, "evaluate", *PAIR, "--json", "--quiet"], capture_output=True, text=True, check=True
    )
    found, official = json.loads(said.stdout), FIGURES["s4"]
    assert found["v_rand_thin"] == pytest.approx(official["v_rand_thin"], abs=1e-9)
    assert found["v_info_thin"] == pytest.approx(official["v_info_thin"], abs=1e-9)
    assert found["best_threshold_rand"] == official["best_threshold"]["best_threshold_rand"]
    assert found["best_threshold_info"] == official["best_threshold"]["best_threshold_info"]
    assert found["sections"] == "0:3"
    for at, figures in zip(found["thresholds"], official["thresholds"], strict=True):
        assert at["threshold"] == figures["threshold"]
        assert at["v_rand"] == pytest.approx(figures["v_rand"], abs=1e-9)
        assert at["v_info"] == pytest.approx(figures["v_info"], abs=1e-9)
    assert said.stderr == ""


def test_the_tables_show_all_thresholds_and_sections_and_mark_the_best(evaluate):
    code, out, err = evaluate(*PAIR)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{PAIR[0]} against {PAIR[1]}, sections 0:3"
    assert lines[1:3] == ["V_rand 0.949672 at threshold 0.8", "V_info 0.980490 at threshold 0.8"]
    rows = {cells[0]: cells[1:] for cells in map(str.split, lines) if len(cells) == 7}
    assert {f"{t / 10:.1f}" for t in range(11)} | {"0", "1", "2"} <= set(rows)
    starred = {(row, cell) for row, cells in rows.items() for cell in cells if cell.endswith("*")}
    assert starred == {("0.8", "0.9497*"), ("0.8", "0.9805*")}
    assert all(name in out for name in ("pixel error", "Dice", "adapted Rand", "calibration error"))
    assert "not comparable with the official test set" in lines[-1]


def test_names_of_files_are_printed_as_they_are(evaluate, tmp_path):
    path = tmp_path / "a [bold]long name that would not fit on one line of eighty characters.tif"
    path.write_bytes(PAIR[0].read_bytes())
    assert str(path) in evaluate(path, PAIR[1])[1]


def test_a_checkpoint_is_run_on_the_image(evaluate, trained, sample, tmp_path):
    image, labels = write(tmp_path / "image.tif", sample[0]), write(tmp_path / "labels.tif", sample[1])
    asked = trained / "model.pth", labels, "--image", image, "--sections", "3", "--provider", "cpu"
    code, out, err = evaluate(*asked, "--json")
    assert code == 0
    history = json.loads((trained / "history.json").read_text())
    assert json.loads(out)["v_rand_thin"] == history[-1]["v_rand_thin"]
    assert "as training validates" in err


def test_eight_bits_are_said_to_be_divided(evaluate, tmp_path):
    eight = write(tmp_path / "p.tif", np.rint(tifffile.imread(PAIR[0]) * 255).astype(np.uint8))
    code, out, err = evaluate(eight, PAIR[1], "--json")
    assert code == 0
    assert err == "isbi-train: note: 8-bit probabilities were divided by 255\n"
    assert json.loads(out)["notes"] == ["8-bit probabilities were divided by 255"]


def test_sections_that_nobody_annotated_change_no_score_and_are_said(evaluate, tmp_path):
    proposal, labels = (np.concatenate([tifffile.imread(path)] * 2) for path in PAIR)
    count = len(labels) // 2
    labels[count:] = 0
    pair = write(tmp_path / "proposal.tif", proposal), write(tmp_path / "labels.tif", labels)
    code, out, err = evaluate(*pair, "--json")
    assert code == 0
    assert json.loads(out)["v_rand_thin"] == json.loads(evaluate(*PAIR, "--json")[1])["v_rand_thin"]
    assert f"a single value in section {count}" in err
    assert "nobody annotated" in err


def spoilt(change):
    def write_spoilt(folder):
        proposal, labels = (tifffile.imread(path) for path in PAIR)
        proposal, labels = change(proposal, labels)
        return write(folder / "proposal.tif", proposal), write(folder / "labels.tif", labels)

    return write_spoilt


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p, y: (p, 255 - y), "look inverted"),
        (lambda p, y: (p, y[:, 1:]), "expected the same shape"),
        (lambda p, y: (p[1:], y), "expected the same shape"),
        (lambda p, y: (np.where(p < 0.1, np.nan, p), y), "NaN"),
        (lambda p, y: (p + 0.5, y), "expected [0, 1]"),
    ],
    ids=["polarity", "shape", "sections", "NaN", "range"],
)
def test_what_cannot_be_scored_is_a_bad_image_in_one_line(evaluate, tmp_path, change, said):
    proposal, labels = spoilt(change)(tmp_path)
    code, out, err = evaluate(proposal, labels)
    assert (code, out) == (4, "")
    assert said in err
    assert "proposal.tif" in err or "labels.tif" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((DATA / "nothing.tif", PAIR[1]), 4),
        (("model.onnx", PAIR[1]), 2),
        ((*PAIR, "--image", PAIR[0]), 2),
        (("model.onnx", PAIR[1], "--image", PAIR[0]), 5),
        (("model.pth", PAIR[1], "--image", PAIR[0]), 5),
        (("model.pt", PAIR[1], "--image", PAIR[0]), 5),
        ((*PAIR, "--sections", "3:5"), 2),
        ((*PAIR, "--plot", "scores.jpeg"), 2),
        ((*PAIR, "--plot", DATA / "nowhere" / "scores.png"), 6),
    ],
)
def test_each_fault_has_its_exit_code_and_one_line(evaluate, monkeypatch, tmp_path, arguments, code):
    monkeypatch.chdir(tmp_path)
    found, out, err = evaluate(*arguments)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("isbi-train: ")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_their_extra(evaluate, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    code, _, err = evaluate(*PAIR)
    assert code == 3
    assert "pip install 'isbi-infer[scores]'" in err


def test_a_picture_is_drawn_beside_the_tables(evaluate, tmp_path):
    code, out, _ = evaluate(*PAIR, "--plot", tmp_path / "scores.png")
    assert code == 0
    assert "V_rand" in out
    assert [path.name for path in tmp_path.iterdir()] == ["scores.png"]


def test_a_reader_that_leaves_early_is_no_error():
    with subprocess.Popen(
        [PROGRAM, "evaluate", *PAIR, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (0, b"")
