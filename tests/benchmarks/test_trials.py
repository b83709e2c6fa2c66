"""The studies of trained networks: checkpoints on the held-out sections of a list, folds on those of their own."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from benchmarks.report.accuracy import folds_table, half_table, sections_table, trials_table, unseen_table
from benchmarks.report.cells import MISSING
from benchmarks.store import newest
from benchmarks.studies import folds, trials
from benchmarks.studies.accuracy import held_out_sections
from isbi_infer.errors import UsageError
from isbi_infer.model.opening import find_released
from isbi_models import default_model
from isbi_train.config.stacks import read_list
from isbi_train.data.arrays import ArraySource
from isbi_train.evaluation.evaluate import evaluate
from isbi_train.evaluation.predict import predict
from isbi_train.networks.checkpoint import load_checkpoint, save_checkpoint
from isbi_train.scores.metrics import thinned_scores

pytest.importorskip("torch")

CHECKPOINT = default_model().path.with_suffix(".pth")


@pytest.fixture
def listed(tmp_path):
    image_ZYX, label_ZYX = synthetic_stack(4, 96, 96)
    tifffile.imwrite(tmp_path / "image.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", label_ZYX, photometric="minisblack")
    path = tmp_path / "stacks.toml"
    path.write_text(
        '[[stack]]\nname = "drawn"\nimages = "image.tif"\nlabels = "labels.tif"\npixel_size_nm = 4.0\nhold_out = 1\n'
    )
    return path


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Let studies store in a folder of the test."""
    for study in (trials, folds):
        real = study.store
        monkeypatch.setattr(study, "store", lambda *parts, real=real: real(*parts, tmp_path / "results"))
    return tmp_path / "results"


def test_a_checkpoint_is_scored_as_isbi_train_evaluate_scores_it(listed, kept, capsys):
    trials.main([f"plain={CHECKPOINT}", f"a=b={CHECKPOINT}", "--stacks", str(listed), "--store"])

    expected = evaluate(
        CHECKPOINT,
        listed.parent / "labels.tif",
        image=listed.parent / "image.tif",
        sections="3:4",
        pixel_size=4.0,
    )
    stored = newest(kept)
    first, second = stored["trials"]["measured"]["trials"]
    assert (first["title"], second["title"]) == ("plain", "a=b")
    assert first["scores"] == second["scores"]
    assert first["scores"]["drawn"]["v_rand"] == expected.thinned.v_rand
    assert first["scores"]["drawn"]["v_info"] == expected.thinned.v_info
    assert f"V_rand {expected.thinned.v_rand:.4f}" in capsys.readouterr().out
    assert f"{expected.thinned.v_rand:.4f}, {expected.thinned.v_info:.4f} |" in list(trials_table(stored))[2]


def test_a_training_is_scored_on_what_it_left_out_alone(listed, kept, capsys):
    text = listed.read_text()
    listed.write_text(text + text.replace('"drawn"', '"isbi2012"'))  # which the default model was trained on
    trials.main([f"way={CHECKPOINT}", "--unseen", "--stacks", str(listed), "--store"])
    stored = newest(kept)
    (trial,) = stored["unseen"]["measured"]["trials"]
    assert list(trial["scores"]) == ["drawn"]
    rand = trial["scores"]["drawn"]["v_rand"]
    assert any(f"| way | {rand:.4f}, " in line for line in unseen_table(stored))
    listed.write_text(text.replace('"drawn"', '"isbi2012"'))
    with pytest.raises(SystemExit) as left:
        trials.main([f"way={CHECKPOINT}", "--unseen", "--stacks", str(listed)])
    assert left.value.code == 2
    assert "was trained on all stacks of the list, isbi2012" in capsys.readouterr().err


def test_what_trainings_make_of_stacks_that_they_left_out_is_a_row_with_a_column_for_each():
    def trial(title, stack, rand):
        return {"title": title, "seed": 1, "scores": {stack: {"v_rand": rand, "v_info": 0.5}}}

    measured = {
        "sections": {"a": "3:4", "b": "5:6"},
        "trials": [trial("x", "a", 0.9), trial("x", "b", 0.7), trial("y", "a", 0.8)],
    }
    lines = unseen_table({"unseen": {"measured": measured}})
    rows = [next(lines) for _ in range(4)]
    assert rows[0] == "| training | without a, that | without b, that |"
    assert rows[2:4] == ["| x | 0.9000, 0.5000 | 0.7000, 0.5000 |", "| y | 0.8000, 0.5000 |  |"]
    assert list(unseen_table({})) == [MISSING]


def test_seeds_of_one_training_are_a_row_with_their_spread():
    def trial(title, seed, rand):
        scores = {"a": {"v_rand": rand, "v_info": 0.5, "v_rand_at_0.5": rand - 0.1, "v_info_at_0.5": 0.4}}
        return {"title": title, "seed": seed, "scores": scores}

    measured = {
        "sections": {"a": "3:4"},
        "trials": [trial("x", 1, 0.9), trial("y", 1, 0.7), trial("x", 2, 0.8)],
    }
    lines = trials_table({"trials": {"measured": measured}})

    rows = [next(lines) for _ in range(4)][2:]
    assert rows == ["| x | 1, 2 | 0.8500 ± 0.0707, 0.5000 ± 0.0000 |", "| y | 1 | 0.7000, 0.5000 |"]
    lines = half_table({"trials": {"measured": measured}})
    rows = [next(lines) for _ in range(4)][2:]
    assert rows == ["| x | 1, 2 | 0.7500 ± 0.0707, 0.4000 ± 0.0000 |", "| y | 1 | 0.6000, 0.4000 |"]


def test_what_trials_come_to_at_half_is_tabled_where_it_was_stored(listed, kept):
    trials.main([f"x={CHECKPOINT}", "--stacks", str(listed), "--store"])
    stored = newest(kept)
    (trial,) = stored["trials"]["measured"]["trials"]
    scores = trial["scores"]["drawn"]
    assert scores["v_rand_at_0.5"] <= scores["v_rand"]
    row = f"| x | {trial['seed']} | {scores['v_rand_at_0.5']:.4f}, {scores['v_info_at_0.5']:.4f} |"
    assert list(half_table(stored))[2] == row
    del scores["v_rand_at_0.5"]
    assert list(half_table(stored)) == [MISSING]


def test_trials_of_another_group_stand_beside_those_stored_before(listed, kept):
    for group in ([], ["--group", "wider"], ["--group", "wider"]):
        trials.main([f"x {' '.join(group)}={CHECKPOINT}", "--stacks", str(listed), "--store", *group])
    stored = newest(kept)
    assert set(stored) == {"trials", "trials-wider"}
    found = "\n".join(trials_table(stored))
    assert found.count("| x --group wider | ") == 1
    assert all(record["file"] in found for record in stored.values())


def test_groups_of_other_sections_are_no_table_and_a_checkpoint_of_two_groups_is_one_seed():
    def record(sections, *trials):
        return {"file": "a.json", "measured": {"sections": sections, "trials": list(trials)}}

    one = {"title": "x", "seed": 1, "sha256": "a", "scores": {"a": {"v_rand": 0.9, "v_info": 0.5}}}
    stored = {"trials": record({"a": "3:4"}, one), "trials-more": record({"a": "3:4"}, one)}
    lines = trials_table(stored)
    assert [next(lines) for _ in range(3)][2] == "| x | 1 | 0.9000, 0.5000 |"
    stored["trials-more"] = record({"a": "2:4"}, one)
    with pytest.raises(ValueError, match="of other sections"):
        list(trials_table(stored))


def test_the_mean_of_weights_is_scored_as_the_network_that_it_is(listed, kept):
    other, mean = listed.parent / "other.pth", listed.parent / "mean.pth"
    first = load_checkpoint(CHECKPOINT)
    for path, added in ((other, 2.0), (mean, 1.0)):
        names = ("head.bias", "encoder.0.0.weight")
        weights = first.state_dict | {name: first.state_dict[name] + added * 1e-2 for name in names}
        save_checkpoint(path, replace(first, state_dict=weights))
    asked = [f"x={CHECKPOINT}", f"x={other}", f"y={mean}", "--mean-weights", "x", "--stacks", str(listed)]
    trials.main([*asked, "--store"])
    one, two, expected, found = newest(kept)["trials"]["measured"]["trials"]
    assert found["title"] == "the mean of the weights of these: x"
    assert found["seeds"] == [one["seed"], two["seed"]]
    assert found["scores"]["drawn"] == pytest.approx(expected["scores"]["drawn"], abs=1e-4)
    assert found["scores"] not in (one["scores"], two["scores"])


def test_weights_of_different_networks_have_no_mean(tmp_path):
    others = [CHECKPOINT, find_released("isbi2012-unet-b32").path.with_suffix(".pth")]
    with pytest.raises(UsageError, match="are of different networks"):
        trials.save_mean_weights(tmp_path / "mean.pth", others)


@pytest.mark.parametrize("group", ["a/b", "two words", "", "../x"])
def test_a_group_is_one_word(group, listed, capsys):
    with pytest.raises(SystemExit) as error:
        trials.main([f"x={CHECKPOINT}", "--stacks", str(listed), "--group", group])
    assert error.value.code == 2
    assert "is not one word" in capsys.readouterr().err


def test_the_mean_of_seeds_is_scored_as_what_they_say_together(listed, kept):
    other = listed.parent / "other.pth"
    shutil.copy(find_released("em-open").path.with_suffix(".pth"), other)
    asked = [f"x={CHECKPOINT}", f"x={other}", "--mean", "x", "--stacks", str(listed), "--store"]
    trials.main(asked)

    *single, together = newest(kept)["trials"]["measured"]["trials"]
    assert (together["title"], together["seeds"]) == ("the mean of these: x", [one["seed"] for one in single])
    (entry,) = read_list(listed)
    held_out, _ = held_out_sections(entry)
    found = [
        predict(path, ArraySource(held_out.image_ZYX), pixel_size=4.0)[0].astype(np.float64)
        for path in (CHECKPOINT, other)
    ]
    expected = thinned_scores(sum(found) / 2, held_out.cell_ZYX)
    assert together["scores"]["drawn"]["v_rand"] == pytest.approx(expected.v_rand, abs=1e-3)
    assert together["scores"]["drawn"]["v_info"] == pytest.approx(expected.v_info, abs=1e-3)
    assert together["scores"] not in [one["scores"] for one in single]


def test_every_fold_is_scored_on_the_sections_that_it_held_out(listed, kept):
    folder = listed.parent / "folds"
    for number in range(2):
        (folder / f"fold-{number}").mkdir(parents=True)
        shutil.copy(CHECKPOINT, folder / f"fold-{number}" / "model.pth")
    per_fold = [{"fold": 0, "sections": "0:2"}, {"fold": 1, "sections": "2:4"}]
    (folder / "folds.json").write_text(json.dumps({"per_fold": per_fold}))

    folds.main([f"two={folder}", "--stacks", str(listed), "--stack", "drawn", "--store"])

    stored = newest(kept)
    (training,) = stored["folds"]["measured"]["trainings"]
    for found in training["folds"]:
        expected = evaluate(
            CHECKPOINT,
            listed.parent / "labels.tif",
            image=listed.parent / "image.tif",
            sections=found["sections"],
            pixel_size=4.0,
        )
        assert found["v_rand"] == expected.thinned.v_rand
    lines = list(folds_table(stored))
    assert lines[0] == "| training |  | all | 0:2 | 2:4 |"
    assert f"| {training['folds'][1]['v_rand']:.4f} |" in lines[2]

    more = [f"again={folder}", "--stacks", str(listed), "--stack", "drawn", "--store", "--group", "longer"]
    folds.main(more)
    stored = newest(kept)
    assert set(stored) == {"folds", "folds-longer"}
    rows = [line for line in folds_table(stored) if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| two", "| two", "| again", "| again"]
    again = stored["folds-longer"]["measured"]
    for change in ({"stack": "other"}, {"trainings": [{"folds": [{"sections": "0:3"}]}]}):
        stored["folds-longer"]["measured"] = {**again, **change}
        with pytest.raises(ValueError, match="of other sections"):
            list(folds_table(stored))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["x=gone.pth"], "gone.pth: no such file"),
        (["gone.pth"], "is not TITLE=PATH"),
        ([f"x={CHECKPOINT}", "--mean", "x"], "names no training of two seeds or more"),
    ],
)
def test_what_is_no_checkpoint_is_said_before_anything_is_read(listed, capsys, asked, said):
    with pytest.raises(SystemExit) as stopped:
        trials.main([*asked, "--stacks", str(listed)])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_stack_and_a_folder_without_folds_are_named(listed, capsys):
    for stack, said in (("other", "no stack 'other'; there are drawn"), ("drawn", "no folds.json")):
        with pytest.raises(SystemExit) as stopped:
            folds.main([f"x={listed.parent}", "--stacks", str(listed), "--stack", stack])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def test_sections_are_tabled_in_parts_whose_means_are_the_stacks():
    stored = newest()
    measured = stored["accuracy"]["measured"]
    found = next(iter(measured["by_model"].values()))
    lines = [line.split(" | ") for line in sections_table(stored) if line.startswith("| ")][1:]
    for name in measured["stacks"]:
        rows = [row for row in lines if row[0] == f"| {name}"]
        assert 1 <= len(rows) <= 5
        sizes = [int(row[1].split(":")[1]) - int(row[1].split(":")[0]) for row in rows]
        mean = sum(float(row[2]) * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)
        assert mean == pytest.approx(found[name]["v_rand"], abs=1e-4)


@pytest.mark.parametrize("drawn", [trials_table, folds_table, sections_table])
def test_a_table_without_a_stored_result_says_so(drawn):
    assert list(drawn({})) == [MISSING]
