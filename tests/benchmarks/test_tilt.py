"""The study of membranes that lie flat in a section."""

import numpy as np
import pytest

from benchmarks.report.accuracy import tilt_table
from benchmarks.report.cells import MISSING
from benchmarks.store import newest
from benchmarks.studies.tilt import by_tilt, main, tilts

SIZE = 41


def halves(degrees: float) -> np.ndarray:
    """Two cells that part along a plane through the middle, so far from upright."""
    z, y, _ = np.indices((SIZE, SIZE, SIZE)) - SIZE // 2
    angle = np.radians(degrees)
    return (1 + (y * np.cos(angle) + z * np.sin(angle) > 0.25)).astype(np.uint32)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90])
def test_the_tilt_of_a_plane_is_found(degrees):
    middle = (SIZE // 2,) * 3

    assert tilts(halves(degrees))[middle] == pytest.approx(degrees, abs=3)


def test_flat_borders_that_are_missed_are_counted_as_flat():
    upright_ZYX, flat_ZYX = halves(0), halves(70)
    found = {}
    for name, ids_ZYX, cell in (("upright", upright_ZYX, 0.0), ("flat", flat_ZYX, 1.0)):
        found[name] = by_tilt(np.full(ids_ZYX.shape, cell, np.float32), ids_ZYX, tilts(ids_ZYX), 0.5)

    assert found["upright"]["rows"][0] == {"from_degrees": 0, "to_degrees": 15, "share": 1.0, "missed": 0.0}
    assert found["upright"]["false_membrane"] == 1.0
    flat = found["flat"]["rows"][4]
    assert (flat["from_degrees"], flat["missed"]) == (60, 1.0)
    assert flat["share"] > 0.9
    assert found["flat"]["false_membrane"] == 0.0


def test_a_list_without_an_isotropic_volume_is_refused(tmp_path, capsys):
    stacks = tmp_path / "stacks.toml"
    stacks.write_text(
        '[[stack]]\nname = "a"\nimages = "a.tif"\nlabels = "b.tif"\nkind = "cells"\n', encoding="utf-8"
    )

    with pytest.raises(SystemExit) as stopped:
        main(["--stacks", str(stacks)])

    assert stopped.value.code == 2
    assert "isotropic" in capsys.readouterr().err


def test_what_is_stored_is_tabled():
    assert list(tilt_table({})) == [MISSING]
    stored = newest()

    lines = list(tilt_table(stored))

    for stack, found in stored["tilt"]["measured"]["stacks"].items():
        assert sum(line.startswith(f"| {stack}, sections {found['sections']}") for line in lines) == len(
            found["rows"]
        )
