"""Blocks outside of a mask are left out, as membrane, and shares, a resume and verify agree on which these are."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from drawn import synthetic_stack
from volume_files import pixels

from isbi_infer import Segmenter
from isbi_infer.errors import UsageError
from isbi_infer.plan.blocks import Layout
from isbi_infer.run.mask import TissueMask, opened_mask
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes import open_source

SHAPE = (2, 300, 512)


@pytest.fixture(scope="module")
def model():
    return Segmenter("isbi2012-unet-b32", provider="cpu", tile=320, precision="int8")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("masked") / "stack.tif"
    tifffile.imwrite(path, synthetic_stack(*SHAPE)[0], imagej=True, metadata={"axes": "ZYX"})
    return path


@pytest.fixture
def mask(tmp_path):
    """Tissue in the upper left of the first section and the upper right of the second, at a quarter of the size."""
    mask_ZYX = np.zeros((2, 75, 128), np.uint8)
    mask_ZYX[0, 30, 10] = mask_ZYX[1, 5, 120] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask_ZYX, imagej=True, metadata={"axes": "ZYX"})
    return tmp_path / "mask.tif"


def options(mask, **more):
    return VolumeOptions(block=(1, 256, 256), mask=str(mask), **more)


@pytest.mark.parametrize(("emit", "membrane"), [("cell", 0), ("membrane", 1)])
def test_blocks_outside_are_membrane_and_the_others_as_without_a_mask(
    tmp_path, model, stack, mask, emit, membrane
):
    model.segment_file(stack, tmp_path / "whole.zarr", emit=emit, options=VolumeOptions(block=(1, 256, 256)))
    done = model.segment_file(stack, tmp_path / "out.zarr", emit=emit, options=options(mask))
    expected_ZYX = np.full(SHAPE, membrane, np.float32)
    whole_ZYX = pixels(tmp_path / "whole.zarr")
    expected_ZYX[0, :256, :256] = whole_ZYX[0, :256, :256]
    expected_ZYX[1, :256, 256:] = whole_ZYX[1, :256, 256:]
    np.testing.assert_array_equal(pixels(tmp_path / "out.zarr"), expected_ZYX)
    assert "6 blocks of 8 outside of the mask left out: membrane, as canvas is" in done.notes


def test_shares_and_verify_agree_on_the_mask_and_refuse_another(tmp_path, model, stack, mask):
    out = tmp_path / "out.zarr"
    for index in (2, 1):
        model.segment_file(stack, out, options=options(mask, share=(index, 2)))
    with open_source(stack) as source:
        assert len(model.verify(out, source)) == 8
        with pytest.raises(UsageError, match=r"was begun by another run.*mask"):
            model.segment_file(source, out, options=replace(options(mask, resume=True), mask=""))
        tifffile.imwrite(mask, np.ones((2, 75, 128), np.uint8), imagej=True, metadata={"axes": "ZYX"})
        with pytest.raises(UsageError, match="for the mask"):
            model.verify(out, source)


def test_a_mask_is_asked_at_its_own_scale(tmp_path):
    layout = Layout(shape=(5, 700, 900), block=(2, 256, 256), shard=(2, 256, 256), chunk=(1, 256, 256))
    for shape in ((5, 700, 900), (5, 175, 225), (3, 44, 57), (1, 10, 9)):
        factors = [-(-size // own) for size, own in zip(layout.shape, shape, strict=True)]
        mask_ZYX = np.random.default_rng(0).random(shape) < 3 / np.prod(shape)
        path = tmp_path / f"{shape}.zarr"
        zarr.create_array(path, data=mask_ZYX)
        large_ZYX = mask_ZYX
        for axis, factor in enumerate(factors):
            large_ZYX = large_ZYX.repeat(factor, axis)
        with opened_mask(path, layout.shape) as (mask, _):
            for block in layout.blocks():
                part = large_ZYX[slice(*block.z), slice(*block.y), slice(*block.x)]
                assert mask.holds(block) == part.any()


def test_a_mask_that_does_not_divide_is_refused(stack):
    with open_source(stack) as source, pytest.raises(UsageError, match="does not divide a volume"):
        TissueMask(source, (2, 500, 512))
