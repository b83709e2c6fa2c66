"""The study of isotropic stacks that are cut along all three planes."""

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from benchmarks.report.accuracy import planes_table
from benchmarks.report.cells import MISSING
from benchmarks.store import newest
from benchmarks.studies.planes import along_planes, main, together
from isbi_infer import Segmenter

LISTED = (
    '[[stack]]\nname = "a"\nimages = "a.tif"\nlabels = "b.tif"\nkind = "cells"\n'
    "pixel_size_nm = 4.0\nhold_out = 16\n"
)


@pytest.fixture(scope="module")
def volume_ZYX():
    return synthetic_stack(32, 40, 48)[0]


def test_each_plane_is_segmented_by_itself_and_comes_back_in_its_place(volume_ZYX):
    segmenter = Segmenter(pixel_size=4)

    found = along_planes(segmenter, volume_ZYX)

    assert {cut.shape for cut in found.values()} == {volume_ZYX.shape}
    assert np.array_equal(found["xy"], segmenter(volume_ZYX))
    assert np.array_equal(found["xz"][:, 7], segmenter(volume_ZYX[:, 7]))
    assert np.array_equal(found["yz"][:, :, 5], segmenter(volume_ZYX[:, :, 5]))


def test_one_plane_that_sees_a_membrane_outvotes_others():
    sure, unsure = np.full((2, 3, 4), 0.9, np.float32), np.full((2, 3, 4), 0.9, np.float32)
    unsure[0] = 0.001

    found = together({"xy": sure, "xz": sure, "yz": unsure})

    assert found[1] == pytest.approx(0.9)
    assert (found[0] < 0.1).all()


def test_all_planes_of_an_isotropic_stack_are_scored_and_others_are_refused(tmp_path, capsys):
    image_ZYX, label_ZYX = synthetic_stack(32, 64, 64)
    tifffile.imwrite(tmp_path / "a.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", label_ZYX, photometric="minisblack")
    stacks = tmp_path / "stacks.toml"
    stacks.write_text(LISTED)
    with pytest.raises(SystemExit) as stopped:
        main(["--stacks", str(stacks)])
    assert stopped.value.code == 2
    assert "none is isotropic" in capsys.readouterr().err

    stacks.write_text(LISTED + 'planes = ["xy", "xz", "yz"]\n')
    main(["--stacks", str(stacks)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a, xy", "a, xz", "a, yz", "a, together"]


def test_what_is_stored_is_tabled():
    assert list(planes_table({})) == [MISSING]
    stored = newest()

    lines = list(planes_table(stored))

    for name, stack in stored["planes"]["measured"]["stacks"].items():
        rows = [line for line in lines if line.startswith(f"| {name}, sections {stack['sections']}")]
        assert [row.split(" | ")[1] for row in rows] == ["xy", "xz", "yz", "together"]
