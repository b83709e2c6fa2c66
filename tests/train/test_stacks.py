"""Runs on several labelled stacks: the list, what is drawn of it, what is never drawn, and resuming."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_at_hand import SHORT, cubes, write, write_list
from torch.nn import functional as F

from isbi_infer.errors import ImageError, Interrupted, IsbiError, UsageError
from isbi_train.augment.windows import sample_sections
from isbi_train.config import AugmentConfig, stacks
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import Settings
from isbi_train.config.stacks import StackEntry, read_list
from isbi_train.data.inputs import read_list_of
from isbi_train.data.stacks import TrainingStack, read_stacks
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training import train as training
from isbi_train.training.batches import Pool, Sections, bring_stacks, draw_batch
from isbi_train.training.losses import loss, mean_weight
from isbi_train.training.train import fit, take_step
from isbi_train.training.validate import HeldOut, validate

CPU = torch.device("cpu")
few = settings(max_examples=settings().max_examples // 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """See `write_list`."""
    return write_list(tmp_path_factory.mktemp("stacks"))


def read(folder, train, *, leave_out=(), nm=8.0, **changes):
    entries = [replace(entry, **changes) for entry in read_list(folder / "stacks.toml", leave_out)]
    return read_stacks(entries, train, nm, "stacks.toml")


def test_a_list_names_files_beside_it_wherever_it_is_read_from(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fly, mouse = read_list(folder / "stacks.toml")
    assert fly.images == str(folder / "fly.tif")
    assert (fly.kind, fly.weight, fly.planes) == ("cells", 1.0, ("xy",))
    assert (mouse.kind, mouse.weight, mouse.hold_out_start) == ("ids", 3.0, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lists no stacks; expected a table \[\[stack\]\]"),
        ("stack = 3", r"lists no stacks"),
        ("[[stacks]]\nname = 'a'", r"unknown key stacks"),
        ("[[stack]]\nimages = 'a.tif'", r"stack 1: has no name"),
        ("[[stack]]\nname = 'a'", r"stack 'a': has no images"),
        ("[[stack]]\nname = 'a'\nimages = 'a.tif'", r"stack 'a': has no labels"),
        ("{a}\nwieght = 1", r"stack 'a': unknown key wieght; expected name, images"),
        ("{a}\nweight = 'x'", r"stack 'a': weight is 'x'; expected a finite number"),
        ("{a}\nweight = 0", r"stack 'a': weight 0 draws nothing of it"),
        ("{a}\nweight = -1", r"stack 'a': weight -1 draws nothing of it"),
        ("{a}\nkind = 'cell'", r"stack 'a': kind 'cell' is not one of cells, membranes, ids"),
        ("{a}\nmembrane_weight = 0", r"stack 'a': membrane_weight 0\.0 is not positive"),
        ("{a}\nplanes = ['zx']", r"stack 'a': planes \['zx'\] are none; expected some of xy, xz, yz"),
        ("{a}\nplanes = []", r"stack 'a': planes \[\] are none"),
        ("{a}\nhold_out = 0", r"stack 'a': hold_out 0 is below 1"),
        ("{a}\nmerge_enclosed = true", r"stack 'a': merge_enclosed is for ids, not cells"),
        ("{a}\n{a}", r"two stacks are named 'a'"),
    ],
)
def test_a_bad_list_is_named_with_the_stack(tmp_path, text, message):
    path = tmp_path / "stacks.toml"
    path.write_text(text.replace("{a}", "[[stack]]\nname = 'a'\nimages = 'a.tif'\nlabels = 'b.tif'"))
    with pytest.raises(UsageError, match=rf"^{path}: {message}") as raised:
        read_list(path)
    assert "\n" not in str(raised.value)


def test_a_stack_is_left_out_by_its_name_and_only_by_that(folder):
    path = folder / "stacks.toml"
    assert [entry.name for entry in read_list(path, ["fly"])] == ["mouse"]
    with pytest.raises(UsageError, match="holds no stack 'rat' to leave out; it has fly, mouse"):
        read_list(path, ["rat"])
    with pytest.raises(UsageError, match="all its stacks are left out"):
        read_list(path, ["fly", "mouse"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": "/none.tif"}, ImageError, r"stack 'fly': /none\.tif"),
        ({"labels": "/none.tif"}, ImageError, r"stack 'fly': /none\.tif"),
        ({"pixel_size_nm": 0.2}, UsageError, r"stack 'fly': .*a pixel size of 0\.2 nm is invalid"),
        ({"pixel_size_nm": None}, UsageError, r"stack 'fly': .*does not say its pixel size"),
        ({"hold_out": 4, "hold_out_start": None}, UsageError, r"stack 'fly': cannot hold out 4 sections"),
        ({"hold_out_start": 9}, UsageError, r"stack 'fly': cannot hold out 1 section from section 9 on"),
        ({"kind": "ids"}, ImageError, r"stack 'fly': .*single id"),
    ],
)
def test_a_stack_that_cannot_be_trained_on_is_named_before_training(
    folder, train_config, changes, error, message
):
    with pytest.raises(error, match=f"^stacks.toml: {message}"):
        read(folder, train_config(), leave_out=["mouse"], **changes)


def test_ids_that_32_bits_do_not_hold_are_named(folder, train_config, tmp_path):
    ids_ZYX = cubes().astype(np.uint64)
    ids_ZYX[0, 0, 0] = 2**32
    write(tmp_path / "ids.tif", ids_ZYX)
    with pytest.raises(IsbiError, match=r"stack 'mouse': .*4294967296; expected ids below 2\^32"):
        read(folder, train_config(), leave_out=["fly"], labels=str(tmp_path / "ids.tif"))


def test_several_stacks_need_a_pixel_size_to_train_at(folder, train_config):
    with pytest.raises(UsageError, match=r"stacks\.toml: several stacks are trained at one pixel size"):
        read(folder, train_config(), nm=None)


@pytest.mark.parametrize("given", [{"data": "x"}, {"labels": "x"}, {"pixel_size_nm": 4.0}])
def test_a_list_and_a_single_stack_exclude_each_other(folder, given):
    inputs = Inputs(stacks=str(folder / "stacks.toml"), resample_nm=8.0, **given)
    with pytest.raises(UsageError, match=r"stacks\.toml: .* leave out --"):
        read_list_of(Settings(inputs=inputs))


def test_stacks_come_at_one_pixel_size_and_volumes_along_all_their_planes(folder, train_config):
    data = read(folder, train_config(crop=16))
    fly, mouse = data.stacks
    assert [part.image_ZYX.shape for part in fly.parts] == [(3, 32, 32)]
    assert [part.image_ZYX.shape for part in mouse.parts] == [(6, 48, 48), (48, 6, 48), (48, 6, 48)]
    assert (fly.held_out.image_ZYX.shape, mouse.held_out.image_ZYX.shape) == ((1, 32, 32), (2, 48, 48))
    assert {part.pixel_size_nm for stack in data.stacks for part in stack.parts} == {8.0}


def test_a_checkpoint_will_hold_what_each_stack_is(folder, train_config):
    data = read(folder, train_config())
    assert [(s["name"], s["weight"], s["held_out"], s["terms"]) for s in data.facts["stacks"]] == [
        ("fly", 1.0, "3:4", "non-commercial"),
        ("mouse", 3.0, "6:8", ""),
    ]
    assert all(len(s["sha256"]["images"]) == 64 for s in data.facts["stacks"])
    assert data.facts["sections"] == 12


@pytest.mark.parametrize("start", [0, 3, 6])
def test_a_held_out_pixel_is_never_trained_on_along_any_plane(folder, train_config, tmp_path, start):
    image_ZYX = tifffile.imread(folder / "mouse.tif")
    image_ZYX[start : start + 2] = 255
    write(tmp_path / "image.tif", image_ZYX)
    changes = {"images": str(tmp_path / "image.tif"), "hold_out_start": start}
    (mouse,) = read(folder, train_config(crop=8), leave_out=["fly"], **changes).stacks
    assert (mouse.held_out.image_ZYX == 255).all()
    assert sum(part.image_ZYX.size for part in mouse.parts) == 3 * 6 * 48 * 48
    assert all((part.image_ZYX < 255).all() for part in mouse.parts)


def cut_from(folder, train, tmp_path, *, start, planes=("xy", "xz", "yz"), crop=16):
    """Read a volume of 32 sections, of which two are held out, in place of the second stack of the list."""
    ids_ZYX = cubes(sections=32)
    image_ZYX = np.random.default_rng(0).integers(90, 110, ids_ZYX.shape).astype(np.uint8)
    for name, volume_ZYX in (("image.tif", image_ZYX), ("ids.tif", ids_ZYX)):
        write(tmp_path / name, volume_ZYX)
    changes = {"images": str(tmp_path / "image.tif"), "labels": str(tmp_path / "ids.tif"), "planes": planes}
    config = train(crop=crop)
    return read(folder, config, leave_out=["fly"], hold_out_start=start, **changes).stacks[0]


@pytest.mark.parametrize(("start", "uncut"), [(1, "0:1, 1 pixel thick"), (27, "29:32, 3 pixels thick")])
def test_sections_too_few_to_be_cut_across_are_left_out_of_the_cuts_and_named(
    folder, train_config, tmp_path, start, uncut
):
    stack = cut_from(folder, train_config, tmp_path, start=start)
    whole = [(48, max(start, 30 - start), 48)] * 2
    expected = [(1, 48, 48), (29, 48, 48), *whole] if start == 1 else [(27, 48, 48), *whole, (3, 48, 48)]
    assert [part.image_ZYX.shape for part in stack.parts] == expected
    assert [part.image_ZYX.shape for part in stack.stored.parts] == expected
    assert (
        f"along xy, xz, yz (but not across sections {uncut}, where a quarter of a crop is 4), "
        in stack.line()
    )


def test_parts_are_cut_as_ever_where_nothing_is_thin(folder, train_config, tmp_path):
    stack = cut_from(folder, train_config, tmp_path, start=4)
    shapes = [shape for n in (4, 26) for shape in ((n, 48, 48), (48, n, 48), (48, n, 48))]
    assert [part.image_ZYX.shape for part in stack.parts] == shapes
    assert "but not across" not in stack.line()


def test_a_volume_that_is_too_thin_for_all_its_planes_is_refused(folder, train_config, tmp_path):
    with pytest.raises(
        UsageError,
        match=r"stack 'mouse': cuts along xz, yz are too thin at 8 nm: sections 0:20, 20 pixels thick and so "
        r"left out and "
        r"sections 22:32, 10 pixels thick and so left out, where a quarter of a crop is 32; add xy to planes",
    ):
        cut_from(folder, train_config, tmp_path, start=20, planes=("xz", "yz"), crop=128)


def part(value, sections, side):
    """Sections that are all `value`, in image and label."""
    images = torch.full((sections, 1, side, side), float(value))
    return Sections(images, images.to(torch.uint8), 1.0, 1.0)


@few
@given(weights=st.lists(st.floats(0.1, 5), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_crops_are_drawn_by_weight_and_not_by_size(train_config, weights, seed):
    parts = tuple(part(value, 1 + 7 * value, 20 + 9 * value) for value in range(len(weights)))
    share_P = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    pool, config = Pool(parts, share_P, 1.0), train_config(seed=seed, batch=200, crop=8)
    drawn = torch.cat(
        [draw_batch(pool, AugmentConfig.none(), config, step)[0].flatten(1) for step in range(4)]
    )
    counts = torch.bincount(drawn.mean(1).round().long(), minlength=len(weights))
    spread = (800 * share_P * (1 - share_P)).sqrt()
    assert ((counts - 800 * share_P).abs() <= 5 * spread + 1).all()


def test_every_section_of_a_part_is_drawn(train_config):
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 16, 16) / 4
    pool = Pool((Sections(images, images, 1.0, 1.0), part(2, 1, 16)), torch.tensor([0.9, 0.1]), 1.0)
    crops_NCYX, *_ = draw_batch(pool, AugmentConfig.none(), train_config(batch=200, crop=8), 0)
    assert set((4 * crops_NCYX.mean((1, 2, 3))).round().int().tolist()) == {0, 1, 2, 3, 4, 8}


def test_a_part_of_a_batch_of_several_stacks_is_computed_as_in_the_whole(folder, train_config):
    config, augment = train_config(batch=6, membrane_width_nm=16.0), AugmentConfig(canvas_probability=0.5)
    pool = bring_stacks(read(folder, config).stacks, config, {}, CPU, augment)
    whole = draw_batch(pool, augment, config, 3)
    some = draw_batch(pool, augment, config, 3, slice(2, 5))
    for one, other in zip(whole, some, strict=True):
        torch.testing.assert_close(one[2:5], other, rtol=0, atol=1e-5)


@few
@given(
    seed=st.integers(0, 1000), zoom=st.floats(0.3, 1.4), height=st.integers(20, 90), width=st.integers(20, 90)
)
def test_a_window_of_a_section_gives_what_the_section_gives(seed, zoom, height, width):
    generator = torch.Generator().manual_seed(seed)
    image_CYX = torch.rand(1, height, width, generator=generator)
    axis = torch.arange(16.0) * zoom
    turn = torch.rand(1, generator=generator) * 6.28
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    corner = torch.rand(2, generator=generator) * 2.4 - 0.7  # beyond the edges, too
    x, y = turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y
    grid = torch.stack((x * 2 / width + corner[0] * 2 - 1, y * 2 / height + corner[1] * 2 - 1), -1)[None]
    expected = F.grid_sample(image_CYX[None], grid, padding_mode="reflection", align_corners=False)
    found = sample_sections([[image_CYX]], grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_section_that_is_shown_small_is_averaged_and_stays_in_its_place():
    ramp_CYX = torch.arange(64.0).expand(1, 64, 64)
    stripes_CYX = torch.arange(64).remainder(2).float().expand(1, 64, 64)
    axis = (torch.arange(16) + 0.5) / 16 * 1.5 - 0.75  # 3 pixels to one
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    sampled = sample_sections([[ramp_CYX, stripes_CYX]], torch.stack((x, y), -1)[None])
    torch.testing.assert_close(sampled[0, 0, 0], (axis + 1) * 32 - 0.5, rtol=0, atol=1e-3)
    torch.testing.assert_close(sampled[0, 1], torch.full((16, 16), 0.5))


@few
@given(seed=st.integers(0, 1000), membrane=st.floats(0.5, 4), maps=st.sampled_from([2, 5]))
def test_an_ignored_pixel_changes_neither_the_loss_nor_a_gradient(seed, membrane, maps):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, 8, 8, generator=generator, requires_grad=True)
    targets = torch.rand(2, maps, 8, 8, generator=generator)
    targets[:, 0].round_()
    counted = (torch.rand(2, 8, 8, generator=generator) > 0.4).float()
    targets[:, -1] = counted
    value = loss(logits, targets, membrane, mean_weight(targets, membrane))
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[:, 0][counted == 0] == 0).all()
    assert (gradient[:, 0][counted == 1] != 0).all()
    other_logits, other_targets = logits.detach().clone(), targets.clone()
    other_logits[:, 0][counted == 0] = 30.0
    other_targets[:, 0][counted == 0] = 1 - other_targets[:, 0][counted == 0]
    again = loss(other_logits, other_targets, membrane, mean_weight(other_targets, membrane))
    torch.testing.assert_close(again, value)


@few
@given(seed=st.integers(0, 1000))
def test_labels_of_what_is_ignored_reach_no_crop(labelled, train_config, seed):
    random = np.random.default_rng(seed)
    ignored_ZYX = random.random((4, 8, 8)).repeat(8, 1).repeat(8, 2) < 0.4
    other_ZYX = labelled.cell_ZYX ^ (ignored_ZYX & (random.random(ignored_ZYX.shape) < 0.5))
    config, drawn = train_config(batch=8, seed=seed), []
    for cell_ZYX in (labelled.cell_ZYX, other_ZYX):
        stack = replace(labelled, cell_ZYX=cell_ZYX, ignored_ZYX=ignored_ZYX)
        stacks = training.TrainingData.of_one(stack, config).stacks
        sections = bring_stacks(stacks, config, {}, CPU, AugmentConfig())
        for pool in (sections, Pool((sections, sections), torch.tensor([0.5, 0.5]), 1.0)):
            drawn.append(draw_batch(pool, AugmentConfig(scale_min=0.4), config, 0)[1])
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert 0.2 < drawn[0][:, 1].mean() < 0.9


def test_membranes_of_a_stack_weigh_what_its_list_says(folder, train_config):
    config = train_config(batch=40, crop=16, membrane_weight=3.0)
    data = read(folder, config)
    own = [
        replace(s, stored=replace(s.stored, entry=replace(s.stored.entry, membrane_weight=w)))
        for s, w in zip(data.stacks, (None, 7.0), strict=True)
    ]
    pool = bring_stacks(own, config, {}, CPU, AugmentConfig.none())
    assert [part.membrane_weight for part in pool.parts] == [3.0, 7.0, 7.0, 7.0]  # of a volume each plane
    for part in pool.parts:
        assert part.weight_scale == pytest.approx(mean_weight(part.maps_ZKYX, part.membrane_weight))
    batch = draw_batch(pool, AugmentConfig.none(), config, 0)
    assert set(batch.membrane_weight_N111.flatten().tolist()) == {3.0, 7.0}
    logits = torch.randn(batch.maps_NKYX[:, :1].shape, generator=torch.Generator().manual_seed(1))
    together = loss(logits, batch.maps_NKYX, batch.membrane_weight_N111, pool.weight_scale)
    single = [
        loss(logits[[i]], batch.maps_NKYX[[i]], float(batch.membrane_weight_N111[i]), pool.weight_scale)
        for i in range(40)
    ]
    assert together.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-5)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_membranes_are_learnt_at_every_magnification(folder, train_config, scale):
    config = train_config(batch=16, membrane_width_nm=32.0, ignore_band_nm=8.0)
    augment = replace(AugmentConfig.none(), scale_min=scale, scale_max=scale)
    pool = bring_stacks(read(folder, config, leave_out=["fly"]).stacks, config, {}, CPU, augment)
    _, maps_NKYX, _ = draw_batch(pool, augment, config, 0)
    cell, counted = maps_NKYX.unbind(1)
    assert ((cell == 0) & (counted == 1)).float().mean() > 0.15


def test_what_a_stack_ignores_reaches_no_crop_as_counted(labelled, train_config):
    ignored_ZYX = np.zeros_like(labelled.cell_ZYX)
    ignored_ZYX[:, :, 32:] = True
    image_ZYX, cell_ZYX = (
        volume_ZYX[:, :, ::-1].copy() for volume_ZYX in (labelled.image_ZYX, labelled.cell_ZYX)
    )
    stack = replace(labelled, image_ZYX=image_ZYX, cell_ZYX=cell_ZYX, ignored_ZYX=ignored_ZYX)
    config = train_config(batch=16)
    sections = training.bring_stacks(
        training.TrainingData.of_one(stack, config).stacks, config, {}, CPU, AugmentConfig()
    )
    assert sections.maps_ZKYX.shape[1] == 2
    x_ZCYX = (
        torch.arange(64.0).expand(sections.images_ZCYX.shape) / 32 - 1
    )  # within the grey values that gamma keeps
    plain = replace(AugmentConfig.none(), rotation_deg=180, flip=True, scale_min=0.5, scale_max=2)
    images_NCYX, maps_NKYX, _ = draw_batch(replace(sections, images_ZCYX=x_ZCYX), plain, config, 0)
    assert torch.equal(maps_NKYX[:, 1:] == 1, images_NCYX < -1 / 64)
    assert 0.2 < maps_NKYX[:, 1].mean() < 0.8


def run(folder, out, network, config, **options):
    data = read(folder, config)
    augment = AugmentConfig(canvas_probability=0.5, seam_probability=0.5)
    return fit(data, out, network=network, augment=augment, train=config, **options)


@pytest.fixture(scope="module")
def trained_on_two(folder, network, train_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    run(folder, out, network, train_config(**SHORT))
    return out


def test_a_run_scores_each_stack_and_is_best_where_its_worst_one_is(trained_on_two):
    entries = json.loads((trained_on_two / "history.json").read_text())
    assert [entry["epoch"] for entry in entries] == [1, 2]
    for entry in entries:
        assert list(entry["stacks"]) == ["fly", "mouse"]
        means = [(s["v_rand_thin"] + s["v_info_thin"]) / 2 for s in entry["stacks"].values()]
        assert entry["worst"] == pytest.approx(min(means))
        assert entry["v_rand_thin"] == pytest.approx(
            sum(s["v_rand_thin"] for s in entry["stacks"].values()) / 2
        )
    best = load_checkpoint(trained_on_two / "best.pth")
    assert best.epoch == max(entries, key=lambda entry: (entry["worst"], entry["epoch"]))["epoch"]
    assert best.scores["sections"] == "fly 3:4, mouse 6:8"


def test_a_run_takes_as_many_steps_as_asked_and_scores_all_sections_in_the_end(
    folder, trained_on_two, train_config
):
    progress = load_checkpoint(trained_on_two / "progress.pth")
    steps = next(iter(progress.progress["optimiser"]["state"].values()))["step"]
    assert int(steps) == 12
    config = train_config(**SHORT)
    held_out = [HeldOut.of(stack, config) for stack in read(folder, config).stacks]
    for name in ("model.pth", "best.pth"):
        checkpoint = load_checkpoint(trained_on_two / name)
        found = validate(checkpoint.load_network(), held_out, stride=checkpoint.network.stride, border=0)
        assert {name: checkpoint.scores[name] for name in found} == found
        assert [stack["name"] for stack in checkpoint.data["stacks"]] == ["fly", "mouse"]


def test_a_run_on_two_stacks_stopped_within_an_epoch_equals_an_uninterrupted_one(
    folder, trained_on_two, network, train_config, tmp_path, monkeypatch
):
    def step_and_stop(state, *arguments):
        if len(state.losses) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(state, *arguments)

    monkeypatch.setattr(training, "take_step", step_and_stop)
    with pytest.raises(Interrupted):
        run(folder, tmp_path, network, train_config(**SHORT))
    monkeypatch.undo()
    run(folder, tmp_path, network, train_config(**SHORT), resume=True)
    for name in ("model.pth", "best.pth", "progress.pth"):
        one, other = (load_checkpoint(place / name) for place in (tmp_path, trained_on_two))
        assert (one.epoch, one.scores, one.data) == (other.epoch, other.scores, other.data)
        assert all(torch.equal(weight, other.state_dict[key]) for key, weight in one.state_dict.items())


@pytest.mark.parametrize("key", ["membrane_weight", "weight"])
def test_a_run_is_not_resumed_with_other_weights_of_a_stack(
    folder, trained_on_two, network, train_config, key
):
    config = train_config(**SHORT)
    data, augment = (
        read(folder, config, **{key: 2.0}),
        AugmentConfig(canvas_probability=0.5, seam_probability=0.5),
    )
    with pytest.raises(UsageError, match=rf"cannot resume.*stacks: .*'{key}': 2\.0"):
        fit(data, trained_on_two, network=network, augment=augment, train=config, resume=True)


def test_a_run_is_not_resumed_without_one_of_its_stacks(folder, trained_on_two, network, train_config):
    config = train_config(**SHORT)
    data = read(folder, config, leave_out=["fly"])
    augment = AugmentConfig(canvas_probability=0.5, seam_probability=0.5)
    with pytest.raises(UsageError, match=r"cannot resume.*stacks: "):
        fit(data, trained_on_two, network=network, augment=augment, train=config, resume=True)


def test_what_teaches_one_stack_is_refused_for_several(folder, network, train_config, tmp_path):
    data = read(folder, train_config())
    parts = {"network": network, "augment": AugmentConfig(), "train": train_config()}
    with pytest.raises(UsageError, match="each stack has its own teachers"):
        fit(data, tmp_path, **parts, inputs=Inputs(teachers=("a.onnx",)))
    assert not list(tmp_path.iterdir())


def test_a_list_is_read_again_in_a_folder_whose_name_is_no_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    entry = StackEntry(name="fly", images=str(folder / "a.tif"), labels=str(folder / "b.tif"))
    stacks.write_list(folder / "stacks.toml", [entry])
    assert read_list(folder / "stacks.toml") == (entry,)


def test_an_entry_is_checked_wherever_it_is_made():
    with pytest.raises(UsageError, match="the name is empty"):
        StackEntry(name=" ", images="a", labels="b")


def test_a_stack_whose_held_out_labels_cannot_be_scored_is_named(labelled, train_config):
    cell_ZYX = labelled.cell_ZYX.copy()
    cell_ZYX[-1:, 1:-1] = False
    held_out = replace(labelled, cell_ZYX=cell_ZYX)[-1:]
    with pytest.raises(ImageError, match=r"^stack 'fly': .* of what is held out are membrane"):
        HeldOut.of(TrainingStack("fly", (labelled,), held_out, 1.0, {}), train_config())
