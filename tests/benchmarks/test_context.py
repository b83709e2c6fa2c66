"""The study of neighbouring sections as further channels."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from benchmarks.studies.context import draw, main, neighbours, network_of, predict
from benchmarks.studies.tissues import settings_of
from isbi_infer.sample import synthetic_stack

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = settings_of(tmp_path_factory.mktemp("stacks") / "stacks.toml")
    plain = replace(
        found.augment, **dict.fromkeys(("canvas_probability", "grain_px", "blocks_probability"), 0.0)
    )
    network = replace(found.network, base=4, depth=2, widest=16)
    return replace(found, network=network, augment=plain, train=replace(found.train, crop=64, batch=3))


def test_neighbours_are_mirrored_at_the_ends_of_a_stack():
    assert neighbours(4, 9, 2) == [2, 3, 4, 5, 6]
    assert neighbours(0, 9, 2) == [2, 1, 0, 1, 2]
    assert neighbours(8, 9, 1) == [7, 8, 7]
    assert neighbours(3, 9, 0) == [3]


def test_crops_come_with_their_neighbours_and_the_labels_of_their_own_section(settings):
    from isbi_train.training.batches import Sections

    images_ZCYX = (
        torch.arange(5.0)[:, None, None, None].expand(5, 1, 96, 96) / 5
    )  # each section of its own grey
    maps_ZKYX = (torch.arange(5)[:, None, None, None] % 2).float().expand(5, 1, 96, 96)
    even = replace(
        settings.augment, gamma=0.0, contrast=0.0, brightness=0.0, noise=0.0, shading=0.0, blur_px=0.0
    )
    part = Sections(images_ZCYX, maps_ZKYX, 1.0)

    for step in range(4):
        image_NCYX, maps_NKYX = draw([part], 1, even, settings.train, step)

        assert image_NCYX.shape == (3, 3, 64, 64)
        for crop_CYX, label_YX in zip(image_NCYX, maps_NKYX[:, 0], strict=True):
            z = [round(5 * grey.mean().item()) for grey in crop_CYX]
            assert z in (neighbours(z[1], 5, 1), neighbours(z[1], 5, 1)[::-1])
            assert (label_YX == z[1] % 2).all()


def test_what_is_predicted_of_a_section_is_that_of_its_network_and_neighbours(settings):
    image_ZYX = synthetic_stack(4, 40, 52)[0]
    torch.manual_seed(3)
    network = network_of(settings.network, 1).eval()

    found_ZYX = predict(network, image_ZYX, 1, stride=settings.network.stride, border=16)

    assert found_ZYX.shape == image_ZYX.shape
    other_ZYX = image_ZYX.copy()
    other_ZYX[3] = 255 - other_ZYX[3]
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(
            found_ZYX,
            predict(network, other_ZYX, 1, stride=settings.network.stride, border=16),
            strict=True,
        )
    ]
    assert changed == [False, False, True, True]


def test_a_stack_that_is_not_listed_is_refused(tmp_path, capsys):
    stacks = tmp_path / "stacks.toml"
    stacks.write_text('[[stack]]\nname = "a"\nimages = "a.tif"\nlabels = "b.tif"\nkind = "cells"\n')
    with pytest.raises(SystemExit) as stopped:
        main(["--stacks", str(stacks), "--stack", "b"])
    assert stopped.value.code == 2
    assert "no stack is named 'b'" in capsys.readouterr().err


@pytest.mark.more
def test_each_reach_is_trained_and_scored(tmp_path, capsys):
    image_ZYX, label_ZYX = synthetic_stack(4, 320, 320)
    tifffile.imwrite(tmp_path / "a.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", label_ZYX, photometric="minisblack")
    stacks = tmp_path / "stacks.toml"
    stacks.write_text(
        '[[stack]]\nname = "a"\nimages = "a.tif"\nlabels = "b.tif"\nkind = "cells"\n'
        "pixel_size_nm = 5.0\nhold_out = 1\n"
    )
    main(["--stacks", str(stacks), "--stack", "a", "--steps", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a, 0 on either side", "a, 1 on either side"]
