"""The picture of a run's losses and scores."""

import json

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from isbi_infer.errors import UsageError
from isbi_train.cli import app
from isbi_train.plots.curves import plot_curves, read_history

KEYS = ("training_loss", "loss", "v_rand_thin", "v_info_thin")


def entries(count):
    return [{"epoch": 2 * n + 2, **dict.fromkeys(KEYS, 0.9 - 0.5 / (n + 1))} for n in range(count)]


def test_a_run_is_drawn_into_its_folder_while_it_goes_on(trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.json").write_bytes((trained / "history.json").read_bytes())
    result = CliRunner().invoke(app, ["curves", str(run)])
    assert result.exit_code == 0, result.output
    assert "4 validations, the last after epoch 4" in result.output
    height, width = imread(run / "curves.png").shape[:2]
    assert (width, height) == (1080, 432)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_history_gives_the_same_bytes(tmp_path, suffix):
    first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
    for path in (first, second):
        plot_curves(entries(5), path, title="run")
    assert first.read_bytes() == second.read_bytes()


def test_one_validation_and_a_perfect_score_can_be_drawn(tmp_path):
    perfect = [{**entries(1)[0], "v_rand_thin": 1.0, "v_info_thin": float("nan")}]
    plot_curves(perfect, tmp_path / "one.svg", title="run")
    assert (tmp_path / "one.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read the history of a run"),
        ("[", "is no history of a run"),
        ("[]", "let the run reach its first"),
        ("{}", "expected a list"),
        (json.dumps([*entries(1), {"epoch": 4}]), "entry 1 has no training_loss, loss"),
        ("[3]", "entry 0 has no epoch"),
    ],
)
def test_what_is_no_history_is_one_clear_line(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "history.json").write_text(content)
    with pytest.raises(UsageError, match=complaint):
        read_history(tmp_path)
    assert CliRunner().invoke(app, ["curves", str(tmp_path)]).exit_code == 2
    assert not (tmp_path / "curves.png").exists()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        plot_curves(entries(2), tmp_path / "curves.jpeg", title="run")
    assert not list(tmp_path.iterdir())
