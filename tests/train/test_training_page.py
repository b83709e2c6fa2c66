"""The page of a run, its table, and TensorBoard's files."""

import csv
import json
import math
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from isbi_infer.errors import OutputError, UsageError
from isbi_train.cli import app
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.plots.training_page import Example, write_training_page
from isbi_train.training.device import choose_device
from isbi_train.training.state import RunSettings, TrainingState, write_table

SCORES = {"loss": 0.5, "v_rand_thin": 0.9, "v_info_thin": 0.8}


def entries(count, stacks=()):
    each = dict.fromkeys(stacks, SCORES)
    more = {"stacks": each, "worst": 0.85} if stacks else {}
    return [
        {"epoch": n + 1, "training_loss": 0.6, **SCORES, **more, "seconds": 3.0 * (n + 1)}
        for n in range(count)
    ]


class Texts(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def read(path):
    return Texts(path.read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path):
    """The folder of a run of two validations."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "history.json").write_text(json.dumps(entries(2)))
    (folder / "settings.toml").write_text("[train]\nepochs = 2\n")
    return folder


def test_fit_leaves_a_page_with_examples_and_a_table_beside_the_checkpoints(write_labelled, sample, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_labelled(data, *sample)
    out = tmp_path / "run"
    small = (
        "--crop 32 --batch 2 --epochs 2 --checkpoint-epochs 1 --hold-out 1 --base 2 --depth 2 --device cpu"
    )
    sets = "--set train.warmup_steps=1 --set train.checkpoint_epochs=1"
    words = small.replace("--checkpoint-epochs 1 ", "").split() + sets.split()
    done = CliRunner().invoke(app, ["fit", "--data", str(data), "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    assert f"{out / 'training.html'}: losses, scores and examples" in done.output.replace("\n", "")
    page = read(out / "training.html")
    assert "2 validations, the last after epoch 2" in page.text
    assert page.tags.count("img") == 2  # one section was held out
    assert "crop = 32" in page.text
    history = json.loads((out / "history.json").read_text())
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [float(row["v_rand_thin"]) for row in rows] == [entry["v_rand_thin"] for entry in history]


def test_the_page_needs_no_other_file_and_the_same_run_gives_the_same_bytes(run):
    first = write_training_page(run).read_bytes()
    assert write_training_page(run).read_bytes() == first
    page = read(run / "training.html")
    assert any("default-src 'none'" in value for name, value in page.attributes if name == "content")
    addresses = [value for name, value in page.attributes if name in ("src", "href")]
    assert not [address for address in addresses if not address.startswith("data:")]
    assert "script" not in page.tags


def test_what_stands_in_files_is_escaped(run):
    evil = "<script>alert(1)</script>$x^$"
    (run / "history.json").write_text(json.dumps(entries(2, stacks=(evil, "other"))))
    (run / "settings.toml").write_text(f"# {evil}\n")
    page = read(write_training_page(run))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 3  # the table, two legends and the settings


def test_scores_of_each_stack_are_drawn_and_listed(run):
    (run / "history.json").write_text(json.dumps(entries(3, stacks=("mouse", "fly"))))
    page = read(write_training_page(run))
    assert page.tags.count("svg") == 2
    assert "By stack" in page.text
    write_table(run / "history.csv", entries(1, stacks=("mouse", "fly")))
    lines = (run / "history.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [
        ["epoch", "stack"],
        ["1", ""],
        ["1", "mouse"],
        ["1", "fly"],
    ]


def of_scores(*scores):
    return [
        {**entry, "v_rand_thin": score} for entry, score in zip(entries(len(scores)), scores, strict=True)
    ]


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [((0.9, 0.9), 2), ((0.8, 0.9, 0.9, 0.7), 3), ((0.9, 0.8), 1), ((math.nan, 0.5, math.nan), 2)],
)
def test_the_page_names_the_validation_that_best_pth_is_of(run, checkpoint, scores, epoch):
    settings = RunSettings(checkpoint.network, checkpoint.augment, checkpoint.train, checkpoint.data)
    state = TrainingState.start(checkpoint.load_network(), checkpoint.train, choose_device(checkpoint.train))
    for entry in of_scores(*scores):
        state.history.append(entry)
        state.save_model(run, settings)
    assert load_checkpoint(run / "best.pth").epoch == epoch
    assert f"after epoch {epoch}" in verdict(write_training_page(run))


def verdict(page):
    text = page.read_text(encoding="utf-8")
    return text[text.index("<strong>") : text.index("</strong>")]


def test_an_example_shows_splits_and_mergers_in_their_colours(run):
    cell_YX = np.ones((40, 40), bool)
    cell_YX[:, 20] = False
    example = Example(
        name="section 0",
        image_YX=np.arange(1600, dtype=np.uint8).reshape(40, 40),
        probability_YX=np.ones((40, 40), np.float32),  # both cells as one
        cell_YX=cell_YX,
    )
    write_training_page(run, examples=[example])
    import base64
    import io

    from PIL import Image

    (outlined, _) = (value for name, value in read(run / "training.html").attributes if name == "src")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(outlined.partition(",")[2]))))
    assert (picture[:, 20] == (213, 94, 0)).all()


def test_a_run_without_a_validation_has_no_page_yet(tmp_path):
    with pytest.raises(UsageError, match="cannot read the history of a run"):
        write_training_page(tmp_path)


def test_a_page_that_cannot_be_written_leaves_what_was_there(run):
    (run / "training.html").mkdir()
    with pytest.raises(OutputError, match=r"training\.html"):
        write_training_page(run)


def test_tensorboard_without_its_package_is_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name)
    )
    done = CliRunner().invoke(app, ["fit", "--data", "x", "--out", str(tmp_path / "run"), "--tensorboard"])
    assert done.exit_code == 3
    assert "pip install 'isbi-infer[tensorboard]'" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("default")  # tensorboard's own
def test_tensorboard_reads_losses_and_scores_by_epoch_and_stack(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from isbi_train.commands.records import Records

    run = tmp_path / "run"
    run.mkdir()
    records = Records(run, tensorboard=True)
    for number, entry in enumerate(entries(2, stacks=("fly",)), 1):
        (run / "history.json").write_text(json.dumps(entries(number, stacks=("fly",))))
        records.add(entry)
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {
        *("loss/training", "loss/held out", "scores/V_rand", "scores/V_info"),
        *("loss/held out/fly", "scores/V_rand/fly", "scores/V_info/fly"),
    }
    assert [(event.step, round(event.value, 6)) for event in found.Scalars("scores/V_rand")] == [
        (1, 0.9),
        (2, 0.9),
    ]
    shutil.rmtree(run)
