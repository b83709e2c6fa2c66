"""The study of neurons: what is chosen on some sections is scored on others."""

import numpy as np
import pytest
import tifffile

from benchmarks.studies.neurons import check_apart, main
from isbi_infer.errors import UsageError


@pytest.mark.parametrize(
    ("tune", "score", "shared"),
    [((0, 12), (10, 24), "10:12"), ((12, 24), (0, 13), "12:13"), ((0, 24), (3, 5), "3:5")],
)
def test_sections_that_are_chosen_on_and_scored_are_refused_by_number(tune, score, shared):
    with pytest.raises(UsageError, match=f"share sections {shared};"):
        check_apart(range(*tune), range(*score))


def test_ranges_that_touch_share_no_section():
    check_apart(range(0, 12), range(12, 24))
    check_apart(range(12, 24), range(0, 12))


def test_overlapping_ranges_end_the_study_with_2_and_one_line(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "p.tif", np.zeros((4, 8, 8), np.float32), photometric="minisblack")
    tifffile.imwrite(tmp_path / "ids.tif", np.ones((4, 8, 8), np.uint16), photometric="minisblack")
    files = ["--probability", str(tmp_path / "p.tif"), "--ids", str(tmp_path / "ids.tif"), "--name", "x"]
    with pytest.raises(SystemExit) as stopped:
        main([*files, "--tune", "0:3", "--score", "2:"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "--tune 0:3 and --score 2:4 share sections 2:3" in said
    assert said.count("\n") == 1
