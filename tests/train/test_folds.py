"""Held-out blocks, and cross-validation over them."""

import json
import statistics
from dataclasses import replace

import lists_at_hand
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ImageError, UsageError
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import read_layer, resolve
from isbi_train.config.stacks import read_list
from isbi_train.data.inputs import read_list_of
from isbi_train.data.labelled import load_labelled
from isbi_train.data.sections import blocks, hold_out, ranges
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training.folds import FoldsOfList, FoldsOfOne, cross_validate
from isbi_train.training.train import fit

PARTS = ("network", "augment", "train", "inputs")


def upside_down(stack):
    """Return a stack that a model of the other way up has not seen."""
    image_ZYX, cell_ZYX = (volume_ZYX[:, ::-1].copy() for volume_ZYX in (stack.image_ZYX, stack.cell_ZYX))
    return replace(stack, image_ZYX=image_ZYX, cell_ZYX=cell_ZYX)


@given(sections=st.integers(2, 200), data=st.data())
def test_blocks_hold_every_section_once_in_order_and_differ_by_one_at_most(sections, data):
    folds = data.draw(st.integers(2, sections))
    found = blocks(sections, folds)
    assert [z for block in found for z in range(sections)[block]] == list(range(sections))
    lengths = [block.stop - block.start for block in found]
    assert len(lengths) == folds
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("folds", [1, 0, -1, 6])
def test_folds_that_cannot_be_made_are_refused(folds):
    with pytest.raises(UsageError, match=f"cannot cut 5 sections into {folds} folds; give 2 to 5"):
        blocks(5, folds)


@given(sections=st.integers(2, 600))
def test_a_sixth_of_the_sections_is_held_out_and_at_least_one(sections):
    held_out = range(sections)[TrainConfig().held_out(sections)]
    assert held_out[-1] == sections - 1
    assert len(held_out) >= 1
    assert abs(len(held_out) - sections / 6) <= 0.5 or (len(held_out) == 1 and sections < 3)


@pytest.mark.parametrize(
    ("settings", "sections", "line"),
    [
        ({}, 30, "sections 0-24 train, 25-29 validate (of 30, from 0)"),
        ({}, 10, "sections 0-7 train, 8-9 validate (of 10, from 0)"),
        ({}, 2, "sections 0 train, 1 validate (of 2, from 0)"),
        (
            {"hold_out": 5, "hold_out_start": 10},
            30,
            "sections 0-9 and 15-29 train, 10-14 validate (of 30, from 0)",
        ),
        ({"hold_out_start": 0}, 12, "sections 2-11 train, 0-1 validate (of 12, from 0)"),
    ],
)
def test_a_run_says_which_sections_train_and_which_validate(settings, sections, line):
    train = TrainConfig(**settings)
    assert train.split_line(sections) == train.counted(sections).split_line(sections) == line


@given(sections=st.integers(2, 60), data=st.data())
def test_what_is_held_out_and_what_is_trained_on_make_up_the_stack(sections, data):
    count = data.draw(st.integers(1, sections - 1))
    start = data.draw(st.none() | st.integers(0, sections - count))
    train = TrainConfig(hold_out=count, hold_out_start=start)
    held_out = set(range(sections)[train.held_out(sections)])
    trained_on = {z for part in ranges(train.training_sections(sections)) for z in range(sections)[part]}
    assert len(held_out) == count
    assert held_out | trained_on == set(range(sections))
    assert not held_out & trained_on


def test_sections_are_named_as_ranges():
    assert TrainConfig().training_sections(30) == "0:25"
    assert TrainConfig(hold_out_start=0).training_sections(30) == "5:30"
    assert TrainConfig(hold_out_start=10).training_sections(30) == "0:10,15:30"
    assert ranges("0:10,15:30") == [slice(0, 10), slice(15, 30)]
    assert ranges("unknown") == []


@pytest.mark.parametrize(("count", "start"), [(4, None), (5, None), (2, 3), (1, 4), (4, 0)])
def test_fewer_sections_than_the_split_needs_is_one_clear_line(labelled, count, start):
    with pytest.raises(
        UsageError, match=f"cannot hold out {count} sections?.* of a stack of 4 .*hold out fewer"
    ):
        hold_out(labelled, TrainConfig(hold_out=count, hold_out_start=start))


def test_a_block_in_the_middle_is_held_out(labelled):
    training, held_out = hold_out(labelled, TrainConfig(hold_out=2, hold_out_start=1))
    np.testing.assert_array_equal(training.image_ZYX, labelled.image_ZYX[[0, 3]])
    np.testing.assert_array_equal(training.cell_ZYX, labelled.cell_ZYX[[0, 3]])
    np.testing.assert_array_equal(held_out.image_ZYX, labelled.image_ZYX[1:3])
    assert training.pixel_size_nm == labelled.pixel_size_nm


def test_cross_validation_trains_every_block_once_and_goes_on_where_it_stopped(
    labelled, network, train_config, tmp_path
):
    class LeftOffError(Exception):
        pass

    settings = {"network": network, "augment": AugmentConfig()}
    cut = FoldsOfOne(labelled, train_config(epochs=2), 2)
    seen = []

    def report(fold, entry):
        seen.append((fold, entry["epoch"]))
        if (fold, entry["epoch"]) == (1, 1) and seen.count((1, 1)) == 1:
            raise LeftOffError

    with pytest.raises(LeftOffError):
        cross_validate(cut, tmp_path, **settings, report=report)
    found = cross_validate(cut, tmp_path, **settings, report=report)
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert json.loads((tmp_path / "folds.json").read_text()) == found
    assert [entry["sections"] for entry in found["per_fold"]] == ["0:2", "2:4"]
    for fold, entry in enumerate(found["per_fold"]):
        model = load_checkpoint(tmp_path / f"fold-{fold}" / "model.pth")
        assert (entry["v_rand_thin"], entry["loss"]) == (model.scores["v_rand_thin"], model.scores["loss"])
        assert model.train.training_sections(4) == ["2:4", "0:2"][fold]
    losses = [entry["loss"] for entry in found["per_fold"]]
    assert found["mean"]["loss"] == pytest.approx(sum(losses) / 2)
    assert found["spread"]["loss"] == pytest.approx(statistics.stdev(losses))

    with pytest.raises(UsageError, match=r"fold-0: was trained with other .*train\.epochs: 2 -> 3"):
        cross_validate(FoldsOfOne(labelled, train_config(epochs=3), 2), tmp_path, **settings)


def test_one_fold_alone_is_trained_and_summed_up_with_those_there_are(
    labelled, network, train_config, tmp_path
):
    settings = {"network": network, "augment": AugmentConfig()}
    cut = FoldsOfOne(labelled, train_config(epochs=1), 4)
    found = cross_validate(cut, tmp_path, only=2, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-2", "folds.json"]
    assert [entry["fold"] for entry in found["per_fold"]] == [2]
    assert found["spread"]["v_rand_thin"] is None
    for only in (4, -1):
        with pytest.raises(UsageError, match=f"no fold {only} of 4"):
            cross_validate(cut, tmp_path, only=only, **settings)


def test_each_fold_of_a_list_holds_out_a_block_of_one_stack_and_is_scored_on_it(
    network, train_config, tmp_path
):
    listed = lists_at_hand.write_list(tmp_path) / "stacks.toml"
    cut = FoldsOfList(read_list(listed), "fly", train_config(**lists_at_hand.SHORT), 2, 8.0, "stacks.toml")
    found = cross_validate(cut, tmp_path / "run", network=network, augment=AugmentConfig())
    assert [entry["sections"] for entry in found["per_fold"]] == ["0:2", "2:4"]
    for fold, entry in enumerate(found["per_fold"]):
        model = load_checkpoint(tmp_path / "run" / f"fold-{fold}" / "model.pth")
        assert [stack["held_out"] for stack in model.data["stacks"]] == [entry["sections"], "6:8"]
        assert {key: entry[key] for key in ("loss", "v_rand_thin", "v_info_thin")} == model.scores["stacks"][
            "fly"
        ]
    assert found["mean"]["loss"] == pytest.approx(statistics.fmean(e["loss"] for e in found["per_fold"]))


def test_a_fold_of_a_list_is_run_again_by_the_settings_in_its_folder(network, train_config, tmp_path):
    listed = lists_at_hand.write_list(tmp_path) / "stacks.toml"
    inputs = Inputs(stacks=str(listed), resample_nm=8.0)
    cut = FoldsOfList(read_list(listed), "fly", train_config(**lists_at_hand.SHORT), 2, 8.0, "stacks.toml")
    run = tmp_path / "run"
    cross_validate(cut, run, only=1, network=network, augment=AugmentConfig(), inputs=inputs)
    stored = resolve([("its settings", read_layer(run / "fold-1" / "settings.toml"))])
    again = fit(read_list_of(stored), tmp_path / "again", **{part: getattr(stored, part) for part in PARTS})
    one, other = (load_checkpoint(path) for path in (run / "fold-1" / "model.pth", again))
    assert one.data == other.data
    assert all(torch.equal(one.state_dict[key], other.state_dict[key]) for key in one.state_dict)


def test_finished_folds_of_another_cross_validation_are_refused_before_any_work(
    labelled, network, train_config, tmp_path
):
    listed = lists_at_hand.write_list(tmp_path) / "stacks.toml"
    train, parts = train_config(**lists_at_hand.SHORT), {"network": network, "augment": AugmentConfig()}
    plain = train_config(epochs=1)

    def of_list(name, count):
        return FoldsOfList(read_list(listed), name, train, count, 8.0, "stacks.toml")

    cross_validate(of_list("fly", 2), tmp_path / "list", only=0, **parts)
    cross_validate(FoldsOfOne(labelled, plain, 2), tmp_path / "one", only=0, **parts)
    for cut, folder, said in (
        (of_list("fly", 4), "list", "fold-0: held out 0:2, not 0:1, so it is of another cross-validation"),
        (of_list("mouse", 2), "list", "held out 6:8, not 0:4"),
        (FoldsOfOne(labelled, plain, 2), "list", "held out sections of another stack, not 0:2"),
        (FoldsOfOne(labelled, plain, 4), "one", "held out 0:2, not 0:1"),
        (of_list("fly", 2), "one", "held out sections of another stack"),
        (FoldsOfOne(labelled[::-1], plain, 2), "one", "held out sections of another stack, not 0:2"),
    ):
        with pytest.raises(UsageError, match=said):
            cross_validate(cut, tmp_path / folder, only=1, **parts)
        assert not (tmp_path / folder / "fold-1").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": NetworkConfig(base=4, depth=2, unshuffle=2, dropout=0.1)}, r"network\.base: 2 -> 4\)"),
        ({"augment": AugmentConfig(noise=0.5)}, r"augment\.noise: 0\.3 -> 0\.5\)"),
        ({"train": {"steps": 8, "seed": 1}}, r"train\.steps: 0 -> 8; train\.seed: 2012 -> 1\)"),
        ({"pixel_size_nm": 5.0}, r"pixel_size_nm: 4\.0 -> 5\.0\)"),
        ({"inputs": "init"}, r"init: 'none' -> '[0-9a-f]{64}'\)"),
        ({"inputs": "teachers"}, r"teaching teacher 0: 'none' -> '[0-9a-f]{64}'\)"),
    ],
)
def test_folds_of_other_settings_are_not_averaged(
    labelled, network, train_config, exported, tmp_path, changes, said
):
    first = {"network": network, "augment": AugmentConfig(noise=0.3)}
    stack = upside_down(labelled)
    cross_validate(FoldsOfOne(stack, train_config(epochs=1), 2), tmp_path, only=0, **first)
    before = (tmp_path / "folds.json").read_bytes()
    given = {
        "init": Inputs(init=str(exported / "model.pth")),
        "teachers": Inputs(teachers=(str(exported / "model.onnx"),)),
    }
    settings = {**first, **{key: value for key, value in changes.items() if key in first}}
    inputs = given.get(changes.get("inputs"))
    other = replace(stack, pixel_size_nm=changes.get("pixel_size_nm", 4.0))
    cut = FoldsOfOne(other, train_config(epochs=1, **changes.get("train", {})), 2)
    with pytest.raises(
        UsageError, match=rf"fold-0: was trained with other settings \({said}, so that no mean"
    ):
        cross_validate(cut, tmp_path, only=1, inputs=inputs, **settings)
    assert not (tmp_path / "fold-1").exists()
    assert (tmp_path / "folds.json").read_bytes() == before


def test_folds_of_a_list_have_the_same_other_stacks(network, train_config, tmp_path):
    listed = lists_at_hand.write_list(tmp_path) / "stacks.toml"
    train, parts = train_config(**lists_at_hand.SHORT), {"network": network, "augment": AugmentConfig()}
    fly, mouse = read_list(listed)

    def folds(*entries):
        return FoldsOfList(entries, "fly", train, 2, 8.0, "stacks.toml")

    cross_validate(folds(fly, mouse), tmp_path / "run", only=0, **parts)
    with pytest.raises(UsageError, match=r"fold-0: .* \(stack 'mouse' weight: 3\.0 -> 1\.0\), so"):
        cross_validate(folds(fly, replace(mouse, weight=1.0)), tmp_path / "run", only=1, **parts)
    with pytest.raises(UsageError, match=r"fold-0: .*\(.*stack 'mouse' weight: 3\.0 -> 'none'"):
        cross_validate(folds(fly), tmp_path / "run", only=1, **parts)
    found = cross_validate(folds(fly, mouse), tmp_path / "run", only=1, **parts)
    assert [entry["sections"] for entry in found["per_fold"]] == ["0:2", "2:4"]


def test_a_fold_that_another_process_trained_meanwhile_is_not_averaged_either(
    labelled, network, train_config, tmp_path
):
    parts, epochs = {"network": network, "augment": AugmentConfig()}, []

    def meanwhile(fold, entry):
        if not epochs:
            epochs.append(entry["epoch"])
            cross_validate(FoldsOfOne(labelled, train_config(epochs=1), 2), tmp_path, only=1, **parts)

    with pytest.raises(UsageError, match=r"fold-1: .*train\.epochs: 1 -> 2"):
        cross_validate(
            FoldsOfOne(labelled, train_config(epochs=2), 2), tmp_path, only=0, **parts, report=meanwhile
        )
    assert load_checkpoint(tmp_path / "fold-0" / "model.pth").epoch == 2


def test_what_a_later_fold_must_not_learn_from_is_named_before_the_first_one_trains(
    labelled, network, train_config, exported, tmp_path
):
    flipped = upside_down(labelled)
    lists_at_hand.write(tmp_path / "unlabelled.tif", flipped.image_ZYX[3:])
    taught = {"teachers": (str(exported / "model.onnx"),), "unlabelled": str(tmp_path / "unlabelled.tif")}
    fly, mouse = read_list(lists_at_hand.write_list(tmp_path) / "stacks.toml")
    lists_at_hand.write(tmp_path / "flipped.tif", flipped.image_ZYX)
    lists_at_hand.write(tmp_path / "flipped-labels.tif", flipped.cell_ZYX.astype(np.uint8))
    files = {"images": str(tmp_path / "flipped.tif"), "labels": str(tmp_path / "flipped-labels.tif")}
    train, short = train_config(epochs=1), train_config(**lists_at_hand.SHORT)
    parts = {"network": network, "augment": AugmentConfig()}

    def cut_of(*entries):
        return FoldsOfList(entries, "cut", short, 2, 8.0, "stacks.toml")

    cut = replace(fly, name="cut", **files)
    for name, folds, inputs, said in (
        ("one", FoldsOfOne(flipped, train, 2), Inputs(**taught), "section 0 is held out for validation and"),
        ("own", cut_of(replace(cut, **taught), mouse), Inputs(), "stack 'cut': .*section 0 is held out"),
        (
            "another",
            cut_of(cut, mouse, replace(fly, **taught)),
            Inputs(),
            "stack 'fly': .*section 0 is held out for validation of stack 'cut'",
        ),
        (
            "copied",
            cut_of(cut, replace(cut, name="again", hold_out=2, hold_out_start=0)),
            Inputs(),
            r"stack 'cut' holds out sections 2, 3 \(from 0\), and stack 'again' trains on the same images",
        ),
    ):
        with pytest.raises(UsageError, match=f"^fold 1, which holds out 2:4: .*{said}"):
            cross_validate(folds, tmp_path / name, inputs=inputs, **parts)
        assert not (tmp_path / name).exists()
        if name != "copied":
            found = cross_validate(folds, tmp_path / name, inputs=inputs, only=0, **parts)
            assert [entry["fold"] for entry in found["per_fold"]] == [0]


def test_a_start_that_has_seen_what_a_list_holds_out_is_named(network, train_config, tmp_path, caplog):
    listed = lists_at_hand.write_list(tmp_path) / "stacks.toml"
    train, parts = train_config(**lists_at_hand.SHORT), {"network": network, "augment": AugmentConfig()}
    cut = FoldsOfList(read_list(listed), "fly", train, 2, 8.0, "stacks.toml")
    first = fit(cut.fold(0)[0], tmp_path / "first", train=train, **parts)
    with caplog.at_level("WARNING", "isbi_train"):
        cross_validate(cut, tmp_path / "run", only=1, inputs=Inputs(init=str(first)), **parts)
    (said,) = [line for line in caplog.messages if "in training, so the scores" in line]
    assert said.endswith("sections 2:4 of fly in training, so the scores on sections 2:4 are of seen ones")


def test_a_block_that_cannot_be_scored_is_named_before_the_first_fold_trains(network, train_config, tmp_path):
    folder = lists_at_hand.write_list(tmp_path)
    label_ZYX = tifffile.imread(folder / "fly-labels.tif")
    label_ZYX[3] = 0
    label_ZYX[3, :8, :8] = label_ZYX[3, -8:, -8:] = 255  # a section that somebody only began with
    lists_at_hand.write(folder / "fly-labels.tif", label_ZYX)
    train, parts = train_config(**lists_at_hand.SHORT), {"network": network, "augment": AugmentConfig()}
    entries = read_list(folder / "stacks.toml")
    stack = load_labelled(folder / "fly.tif", labels=folder / "fly-labels.tif")
    for name, cut, said in (
        (
            "list",
            FoldsOfList(entries, "fly", train, 4, 8.0, "stacks.toml"),
            r"3:4: stacks\.toml: stack 'fly': ",
        ),
        ("one", FoldsOfOne(stack, train, 4), "3:4: "),
    ):
        with pytest.raises(ImageError, match=f"^fold 3, which holds out {said}.* are membrane"):
            cross_validate(cut, tmp_path / name, **parts)
        assert not (tmp_path / name).exists()


def test_what_is_wrong_with_another_stack_is_not_laid_to_a_block(network, train_config, tmp_path):
    folder = lists_at_hand.write_list(tmp_path)
    (folder / "mouse.tif").unlink()
    cut = FoldsOfList(
        read_list(folder / "stacks.toml"),
        "fly",
        train_config(**lists_at_hand.SHORT),
        2,
        8.0,
        "stacks.toml",
    )
    with pytest.raises(ImageError, match=r"^stacks\.toml: stack 'mouse': "):
        cross_validate(cut, tmp_path / "run", network=network, augment=AugmentConfig())


def test_folds_of_a_stack_that_a_list_lacks_are_refused(train_config, tmp_path):
    listed = lists_at_hand.write_list(tmp_path) / "stacks.toml"
    cut = FoldsOfList(read_list(listed), "worm", train_config(), 2, 8.0, "stacks.toml")
    with pytest.raises(UsageError, match=r"stacks.toml: holds no stack 'worm' .* it has fly, mouse"):
        cut.fold(0)


def test_a_fold_that_was_stopped_counts_in_no_mean_until_it_is_finished(
    labelled, network, train_config, tmp_path
):
    class LeftOffError(Exception):
        pass

    def leave_off(fold, entry):
        raise LeftOffError

    settings = {"network": network, "augment": AugmentConfig()}
    cut = FoldsOfOne(labelled, train_config(epochs=2), 2)
    with pytest.raises(LeftOffError):
        cross_validate(cut, tmp_path, **settings, only=0, report=leave_off)
    found = cross_validate(cut, tmp_path, **settings, only=1)
    assert (found["unfinished"], [entry["fold"] for entry in found["per_fold"]]) == ([0], [1])
    assert found["mean"]["loss"] == found["per_fold"][0]["loss"]
    found = cross_validate(cut, tmp_path, **settings, only=0)
    assert (found["unfinished"], [entry["fold"] for entry in found["per_fold"]]) == ([], [0, 1])
