"""A stack is known again: at any pixel size, by its ids, by what a list makes of it, and as the challenge's."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from lists_at_hand import cubes, write, write_list

from isbi_infer.errors import UsageError
from isbi_train.config import AugmentConfig
from isbi_train.config.stacks import read_list
from isbi_train.data.labelled import load_labelled
from isbi_train.data.labels import instance_interiors
from isbi_train.data.stacks import read_stacks
from isbi_train.networks import origins
from isbi_train.networks.origins import ISBI_2012, origins_of
from isbi_train.networks.weights import load_weights
from isbi_train.training.distil import sections_seen
from isbi_train.training.train import fit
from isbi_train.training.validate import HeldOut


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """See `write_list`."""
    return write_list(tmp_path_factory.mktemp("stacks"))


def mouse(folder, train, *, nm=8.0, **changes):
    (entry,) = read_list(folder / "stacks.toml", ["fly"])
    return read_stacks([replace(entry, **changes)], train, nm, "stacks.toml")


def touching_cubes():
    """Ids without gaps between them, so that membranes lie where ids part alone."""
    ids_ZYX = np.ones((48, 48, 48), np.uint32)
    ids_ZYX[24:] += 1
    ids_ZYX[:, 24:] += 2
    ids_ZYX[:, :, 24:] += 4
    return ids_ZYX


@pytest.mark.parametrize("resample", [4.0, 5.0])
def test_a_model_that_saw_a_stack_is_known_at_every_pixel_size(sample, write_labelled, tmp_path, resample):
    data = write_labelled(tmp_path, *sample)
    stored = load_labelled(data, pixel_size_nm=4.0)
    found = load_labelled(data, pixel_size_nm=4.0, resample_nm=resample)
    assert found.sha256() == stored.sha256()
    assert sections_seen(stored.sha256(), "0:3", found, slice(2, 4))
    assert not sections_seen(stored.sha256(), "0:3", found, slice(3, 4))
    assert (found[:2].sha256() == stored[:2].sha256()) == (resample == 4.0)


def test_a_stack_is_known_by_its_ids_where_these_give_the_same_mask(tmp_path):
    write(tmp_path / "image.tif", np.random.default_rng(0).integers(0, 256, cubes().shape, np.uint8))
    found = []
    for name in ("one", "other"):
        ids_ZYX = cubes().astype(np.uint32)
        if name == "other":
            ids_ZYX[ids_ZYX == ids_ZYX.max()] += 7
        write(tmp_path / f"{name}.tif", ids_ZYX)
        found.append(
            load_labelled(tmp_path / "image.tif", labels=tmp_path / f"{name}.tif", labels_are="ids").sha256()
        )
    one, other = found
    assert one["labels"] == other["labels"]
    assert one["ids"] != other["ids"]


@pytest.mark.parametrize("changes", [{"merge_enclosed": True}, {"planes": ("xy",)}])
def test_facts_of_a_stack_say_what_a_list_makes_of_it(folder, train_config, changes):
    before, after = (mouse(folder, train_config(), **given).facts["stacks"] for given in ({}, changes))
    assert before != after


@pytest.mark.parametrize("stored", [8.0, 8.6])
@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_cells_that_touch_along_a_plane_are_parted_there_at_any_pixel_size(
    folder, train_config, tmp_path, stored, plane
):
    write(tmp_path / "ids.tif", touching_cubes())
    changes = {"labels": str(tmp_path / "ids.tif"), "planes": (plane,), "pixel_size_nm": stored}
    image_ZYX = np.random.default_rng(0).integers(0, 256, (48, 48, 48), np.uint8)
    write(tmp_path / "image.tif", image_ZYX)
    (stack,) = mouse(folder, train_config(), images=str(tmp_path / "image.tif"), **changes).stacks
    for part in stack.parts:
        np.testing.assert_array_equal(part.cell_ZYX, instance_interiors(part.ids_ZYX))


def test_outlines_of_what_lies_within_a_cell_are_gone_at_the_stored_pixel_size(
    folder, train_config, tmp_path
):
    ids_ZYX = touching_cubes()
    ids_ZYX[6:18, 6:18, 6:18] = 99
    write(tmp_path / "ids.tif", ids_ZYX)
    write(tmp_path / "image.tif", np.random.default_rng(0).integers(0, 256, (48, 48, 48), np.uint8))
    files = {"images": str(tmp_path / "image.tif"), "labels": str(tmp_path / "ids.tif")}
    changes = {**files, "pixel_size_nm": 8.0, "planes": ("xy",), "hold_out": 20, "hold_out_start": 28}
    membranes = [
        (
            ~mouse(folder, train_config(), **changes, merge_enclosed=merged).stacks[0].parts[0].cell_ZYX[12]
        ).sum()
        for merged in (False, True)
    ]
    outline = ~instance_interiors(
        np.pad(np.full((1, 12, 12), 2, np.uint32), ((0, 0), (2, 2), (2, 2)), constant_values=1)
    )
    assert membranes[0] - membranes[1] == outline.sum()


@pytest.mark.parametrize("planes", [("xy",), ("xy", "xz")])
def test_what_lies_within_a_cell_belongs_to_it_in_what_is_held_out_too(
    folder, train_config, tmp_path, planes
):
    ids_ZYX = touching_cubes()
    ids_ZYX[30:42, 6:18, 6:18] = 99
    write(tmp_path / "ids.tif", ids_ZYX)
    write(tmp_path / "image.tif", np.random.default_rng(0).integers(0, 256, (48, 48, 48), np.uint8))
    files = {"images": str(tmp_path / "image.tif"), "labels": str(tmp_path / "ids.tif")}
    changes = {**files, "pixel_size_nm": 8.0, "planes": planes, "hold_out": 22, "hold_out_start": 26}
    for merged in (False, True):
        found = HeldOut.of(
            mouse(folder, train_config(), **changes, merge_enclosed=merged).stacks[0], train_config()
        )
        assert (99 in found.scored.ids_ZYX) != merged
        for part in (found.scored, found.learnt):
            assert part.cell_ZYX[10, 5:19, 5:19].all() == merged


def test_ids_on_either_side_of_what_is_held_out_do_not_touch(folder, train_config, tmp_path):
    ids_ZYX = touching_cubes()
    ids_ZYX[14:, 6:18, 6:18] = 99  # it leaves the volume at its end, and is cut off by what is held out
    ids_ZYX[30:, 6:18, 6:18] = 1
    write(tmp_path / "ids.tif", ids_ZYX)
    write(tmp_path / "image.tif", np.random.default_rng(0).integers(0, 256, (48, 48, 48), np.uint8))
    files = {"images": str(tmp_path / "image.tif"), "labels": str(tmp_path / "ids.tif")}
    changes = {**files, "pixel_size_nm": 8.0, "planes": ("xy",), "hold_out": 14, "hold_out_start": 16}
    (stack,) = mouse(folder, train_config(), **changes, merge_enclosed=True).stacks
    assert 99 in stack.parts[0].ids_ZYX


def test_the_depth_of_voxels_is_not_believed_of_a_file_whose_width_is_overruled(
    folder, train_config, tmp_path
):
    image_ZYX = np.random.default_rng(0).integers(0, 256, (48, 48, 48), np.uint8)
    metadata = {"axes": "ZYX", "unit": "nm", "spacing": 8}
    tifffile.imwrite(tmp_path / "a.tif", image_ZYX, imagej=True, resolution=(1e-3, 1e-3), metadata=metadata)
    write(tmp_path / "ids.tif", touching_cubes())
    files = {"images": str(tmp_path / "a.tif"), "labels": str(tmp_path / "ids.tif")}
    assert mouse(folder, train_config(), **files, pixel_size_nm=8.0, planes=("xz",)).stacks


@pytest.mark.parametrize(
    ("deep", "changes", "refused"),
    [
        (50.0, {"planes": ("xy", "xz")}, "planes xy, xz need"),
        (50.0, {"planes": ("xy",), "merge_enclosed": True}, "merge_enclosed need"),
        (50.0, {"planes": ("xy",)}, ""),
        (4.2, {"planes": ("xy", "xz")}, ""),
    ],
)
def test_a_stack_of_thick_sections_is_not_cut_across_them(
    folder, train_config, tmp_path, deep, changes, refused
):
    image_ZYX = np.random.default_rng(0).integers(0, 256, (48, 48, 48), np.uint8)
    metadata = {"axes": "ZYX", "unit": "nm", "spacing": deep}
    path = tmp_path / "thick.tif"
    tifffile.imwrite(path, image_ZYX, imagej=True, resolution=(1 / 4, 1 / 4), metadata=metadata)
    write(tmp_path / "ids.tif", touching_cubes())
    given = {"images": str(path), "labels": str(tmp_path / "ids.tif"), "pixel_size_nm": None, **changes}
    if not refused:
        assert mouse(folder, train_config(), **given).stacks
        return
    with pytest.raises(
        UsageError, match=rf"stack 'mouse': .*thick\.tif: its voxels are 12\.5 times .*{refused}"
    ):
        mouse(folder, train_config(), **given)


@pytest.mark.parametrize("kind", ["single", "resampled", "listed"])
def test_a_model_trained_on_the_challenge_says_its_terms(
    sample, write_labelled, network, train_config, tmp_path, monkeypatch, kind
):
    data = write_labelled(tmp_path, *sample)
    stack = load_labelled(data, pixel_size_nm=4.0, resample_nm=5.0 if kind == "resampled" else None)
    monkeypatch.setitem(origins.PIXELS_SHA256, "train-volume.tif", stack.sha256()["images"])
    train = train_config(epochs=1)
    if kind == "listed":
        (tmp_path / "stacks.toml").write_text(
            "[[stack]]\nname = 'a'\nimages = 'train-volume.tif'\nlabels = 'train-labels.tif'\n"
            "pixel_size_nm = 4.0\nhold_out = 1\n"
        )
        stack = read_stacks(read_list(tmp_path / "stacks.toml"), train, 5.0, "stacks.toml")
    path = fit(stack, tmp_path / "run", network=network, augment=AugmentConfig(), train=train)
    assert origins_of(load_weights(path), "") == (ISBI_2012,)
