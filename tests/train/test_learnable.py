"""Held-out sections that can be scored and training sections that teach something, or one line before any step."""

from dataclasses import replace

import numpy as np
import pytest
from lists_at_hand import write

from isbi_infer.errors import ImageError, UsageError
from isbi_train.config import AugmentConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.stacks import read_list
from isbi_train.data.inputs import read_labelled
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingData, read_stacks
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training.train import fit
from isbi_train.training.validate import HeldOut

UNKNOWN = 128


def lattice(sections=10, side=64, cell=16):
    """Images and labels of square cells that membranes of 2 pixels part, as bytes."""
    z, y, x = np.indices((sections, side, side))
    cell_ZYX = ((y + z) % cell > 1) & (x % cell > 1)
    noise_ZYX = np.random.default_rng(0).integers(0, 20, cell_ZYX.shape)
    return (60 + 90 * cell_ZYX + noise_ZYX).astype(np.uint8), cell_ZYX.astype(np.uint8) * 255


def scribbled():
    """Labels of which the last section is known along one row alone."""
    label_ZYX = lattice()[1]
    label_ZYX[9, np.arange(64) != 21] = UNKNOWN
    return label_ZYX


def without_cells():
    """Labels whose last section has one pixel of cell alone, which is lost at a larger pixel size."""
    label_ZYX = lattice()[1]
    label_ZYX[9] = 0
    label_ZYX[9, 20, 20] = 255
    return label_ZYX


def listed(folder, image_ZYX, label_ZYX, train, *, nm=4.0, **keys):
    """Read a list of two stacks of 4 nm: a lattice, and this one, which is named "odd"."""
    plain = lattice(side=48, cell=12)
    for name, (image, label) in {"plain": plain, "odd": (image_ZYX, label_ZYX)}.items():
        write(folder / f"{name}.tif", image)
        write(folder / f"{name}-labels.tif", label)
    (folder / "stacks.toml").write_text(
        "".join(
            f"[[stack]]\nname = '{name}'\nimages = '{name}.tif'\nlabels = '{name}-labels.tif'\n"
            "pixel_size_nm = 4.0\nhold_out = 3\n"
            for name in ("plain", "odd")
        )
    )
    plain_entry, odd = read_list(folder / "stacks.toml")
    return read_stacks([plain_entry, replace(odd, **keys)], train, nm, "stacks.toml")


def single(folder, image_ZYX, label_ZYX, **keys):
    write(folder / "stack.tif", image_ZYX)
    write(folder / "labels.tif", label_ZYX)
    files = {"data": str(folder / "stack.tif"), "labels": str(folder / "labels.tif")}
    return read_labelled(Inputs(**files, pixel_size_nm=4.0, **keys))


def test_a_held_out_section_without_cells_is_refused_before_any_work(network, train_config, tmp_path):
    stack = single(tmp_path, lattice()[0], without_cells(), resample_nm=8.0)
    train = train_config(hold_out=4)
    parts = {"network": network, "augment": AugmentConfig(), "train": train}
    message = r"the labels of section 9 \(from 0\), held out for validation, hold no cell at 8 nm: V_rand and V_info"
    with pytest.raises(ImageError, match=rf"^{message}"):
        fit(stack, tmp_path / "one", **parts)
    data = listed(tmp_path, lattice()[0], without_cells(), train, nm=8.0, hold_out=4)
    with pytest.raises(ImageError, match=rf"^stack 'odd': {message}"):
        fit(data, tmp_path / "list", **parts)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "list").exists()


def test_what_only_trains_may_have_sections_without_cells(train_config, tmp_path):
    stack = single(tmp_path, lattice()[0], without_cells()[::-1], resample_nm=8.0)
    (part,) = TrainingData.of_one(stack, train_config(hold_out=3)).stacks
    assert not part.parts[0].cell_ZYX[0].any()
    assert HeldOut.of(part, train_config(hold_out=3)).learnt.numbers.tolist() == [7, 8, 9]


@pytest.mark.parametrize("kind", ["one", "list"])
@pytest.mark.parametrize("held_out", [True, False], ids=["held out", "trained on"])
def test_sections_of_which_resampling_leaves_nothing_are_left_out_and_named(
    network, train_config, tmp_path, caplog, kind, held_out
):
    image_ZYX, label_ZYX = lattice()[0], scribbled()
    if not held_out:
        label_ZYX = label_ZYX[::-1]
    train = train_config(hold_out=3, epochs=1)
    if kind == "one":
        stack = single(tmp_path, image_ZYX, label_ZYX, ignore=float(UNKNOWN), resample_nm=8.0)
        part, said = TrainingData.of_one(stack, train).stacks[0], "labels.tif"
    else:
        stack = listed(tmp_path, image_ZYX, label_ZYX, train, nm=8.0, ignore=float(UNKNOWN))
        part, said = stack.stacks[1], "odd-labels.tif"
        assert len(part.stored.parts[0]) == len(part.parts[0])  # a teacher sees those that are trained on
    assert part.held_out.numbers.tolist() == ([7, 8] if held_out else [7, 8, 9])
    assert part.parts[0].numbers.tolist() == (list(range(7)) if held_out else list(range(1, 7)))
    model = fit(stack, tmp_path / "run", network=network, augment=AugmentConfig(), train=train)
    scores = load_checkpoint(model).scores
    assert np.isfinite([scores[key] for key in ("loss", "v_rand_thin", "v_info_thin")]).all()
    number = 9 if held_out else 0
    assert (
        f"{said}: at 8 nm every pixel of section {number} (from 0) takes in some that are ignored"
        in caplog.text
    )


def test_a_stack_of_which_resampling_leaves_nothing_says_why(train_config, tmp_path):
    label_ZYX = np.full_like(lattice()[1], UNKNOWN)
    label_ZYX[:, 21] = lattice()[1][:, 21]
    with pytest.raises(
        ImageError,
        match="nothing is left of the labels at 8 nm, where every pixel takes in some that are ignored",
    ):
        single(tmp_path, lattice()[0], label_ZYX, ignore=float(UNKNOWN), resample_nm=8.0)


@pytest.mark.parametrize("part", ["trained on", "held out"])
def test_a_part_without_tissue_is_refused_and_named(train_config, tmp_path, part):
    image_ZYX, label_ZYX = lattice()
    image_ZYX[slice(0, 7) if part == "trained on" else slice(7, 10)] = 0
    train = train_config(hold_out=3)

    def whole(data):
        return [HeldOut.of(stack, train) for stack in data.stacks]

    message = f"what is {part} shows no tissue with labels"
    with pytest.raises(ImageError, match=f"^{message}"):
        whole(TrainingData.of_one(single(tmp_path, image_ZYX, label_ZYX), train))
    with pytest.raises(ImageError, match=f"stack 'odd': {message}"):
        whole(listed(tmp_path, image_ZYX, label_ZYX, train))


@pytest.mark.parametrize("part", ["trained on", "held out"])
def test_a_part_that_keeps_one_class_alone_is_refused_and_named(train_config, tmp_path, part):
    image_ZYX, label_ZYX = lattice()
    thin_ZYX = np.full_like(label_ZYX, 255)
    thin_ZYX[:, 1::16] = 0  # membranes of one pixel, which are lost at three times the pixel size
    sections = slice(0, 7) if part == "trained on" else slice(7, 10)
    label_ZYX[sections] = thin_ZYX[sections]
    train = train_config(hold_out=3)
    stack = single(tmp_path, image_ZYX, label_ZYX, resample_nm=12.0)
    with pytest.raises(
        ImageError, match=rf"^the labels of what is {part} hold no membrane at all where there is"
    ):
        HeldOut.of(TrainingData.of_one(stack, train).stacks[0], train)


def test_single_sections_of_one_class_are_trained_on(train_config):
    image_ZYX, label_ZYX = lattice()
    label_ZYX[0], label_ZYX[1] = 255, 0
    stack = LabelledStack(image_ZYX, label_ZYX > 0, 4.0)
    (found,) = TrainingData.of_one(stack, train_config(hold_out=3)).stacks
    assert len(found.parts[0]) == 7


@pytest.mark.parametrize(
    ("setting", "lost"), [("ignore_band_nm", "cell"), ("membrane_width_nm", "cell and none of membrane")]
)
@pytest.mark.parametrize("part", ["trained on", "held out"])
def test_a_setting_that_leaves_nothing_to_learn_is_named(train_config, tmp_path, setting, lost, part):
    """In the other part one cell is so large that something is left of it."""
    image_ZYX, label_ZYX = lattice()
    ids_ZYX = (np.indices(label_ZYX.shape) // 16 * np.array([0, 8, 1])[:, None, None, None]).sum(0) + 1
    large_ZYX = 1 + np.indices(label_ZYX.shape)[2] // 60
    sections = slice(0, 7) if part == "trained on" else slice(7, 10)
    if setting == "ignore_band_nm":
        large_ZYX = np.where(large_ZYX == 1, 255, 0)
        stored_ZYX = np.where(
            np.isin(np.arange(10), range(10)[sections])[:, None, None], label_ZYX, large_ZYX
        )
        keys = {}
    else:
        stored_ZYX = np.where(np.isin(np.arange(10), range(10)[sections])[:, None, None], ids_ZYX, large_ZYX)
        keys = {"labels_are": "ids"}
    stored_ZYX = stored_ZYX.astype(np.uint8)
    train, plain = train_config(hold_out=3, **{setting: 150.0}), train_config(hold_out=3)
    message = rf"train\.{setting}=150 leaves no pixel of {lost} in what is {part}; give less"

    def whole(data, config):
        return [HeldOut.of(stack, config) for stack in data.stacks]

    stack = single(tmp_path, image_ZYX, stored_ZYX, **keys)
    whole(TrainingData.of_one(stack, plain), plain)
    with pytest.raises(UsageError, match=f"^{message}"):
        whole(TrainingData.of_one(stack, train), train)
    if keys:
        with pytest.raises(UsageError, match=f"stack 'odd': {message}"):
            whole(listed(tmp_path, image_ZYX, stored_ZYX, train, kind="ids"), train)


def test_what_a_run_validates_on_while_it_trains_shows_tissue(train_config):
    image_ZYX, label_ZYX = lattice()
    image_ZYX[8] = 0  # the middle one of three, on which a run validates that takes one
    stack = LabelledStack(image_ZYX, label_ZYX > 0, 4.0)
    for count in (0, 1):
        train = train_config(hold_out=3, validated_sections=count)
        (part,) = TrainingData.of_one(stack, train).stacks
        if count:
            with pytest.raises(
                ImageError, match=r"a run validates on section 8 \(from 0\) while it trains, where no"
            ):
                HeldOut.of(part, train)
        else:
            assert len(HeldOut.of(part, train).learnt) == 3
