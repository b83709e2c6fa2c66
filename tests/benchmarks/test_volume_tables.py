"""The tables of volumes: planner's arithmetic against plans of runs, costs against the hours that were stored."""

import pytest

from benchmarks.report.volumes import halo_share_table, petabyte_table, volume_costs_table

SIDE, SECONDS = 1000, (3.6, 7.2)  # of processor, for a megapixel


def run():
    contender = "OME-Zarr to OME-Zarr, uint8"
    return {
        "name": "volumes-run",
        "file": "run.json",
        "machine": {"cpu": "X"},
        "settings": {
            "provider": "cpu",
            "precision": "int8",
            "shape": [1, SIDE, SIDE],
            "pixels_computed_per_pixel": 1.0,
            "flops_per_pixel": 57_628.0,
        },
        "measured": {
            "contenders": {contender: {"cpu_s": list(SECONDS)}},
            "work": {contender: {"pixels": SIDE**2, "bytes": SIDE**2 // 2}},
        },
    }


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_block_as_large_as_the_section_computes_and_reads_nothing_twice_and_smaller_ones_do():
    rows = [cells(line) for line in list(halo_share_table({}))[2:]]
    assert len(rows) > 8
    for name, halos, shared, computed, read in rows:
        whole = "32768 x 32768" in name
        assert (shared == "1.00" and read == "1.00") == whole, name
        assert float(computed) == pytest.approx(float(halos) * float(shared), abs=0.02)


def test_hours_of_a_teravoxel_are_those_of_the_stored_rounds():
    (line,) = list(volume_costs_table({"volumes-run": run()}))[2:]
    what, each, petabyte, *_ = cells(line)
    assert what == "X, cpu int8, 58 thousand operations a pixel"
    assert each == "1,000 to 2,000 core hours"  # 3.6 and 7.2 s for a megapixel
    assert petabyte.endswith("thousand core hours")


def test_a_limit_of_a_gpu_is_marked_as_calculated():
    layer = {"flop": 10**9, "values": 10**6, "more_values": 10**6}
    networks = {
        "name": "networks-released",
        "file": "networks.json",
        "settings": {"side": 512},
        "measured": {"layers": [layer]},
    }
    (line,) = list(volume_costs_table({"networks-released": networks}))[2:]
    assert "calculated, not measured" in line
    assert "GPU hours" in line


def test_a_petabyte_is_written_with_the_bytes_per_voxel_that_were_stored():
    (written,) = [line for line in petabyte_table({"volumes-run": run()}) if line.startswith("| written")]
    assert "0.50 PB at the 0.50 bytes per voxel" in written
    assert not [line for line in petabyte_table({}) if line.startswith("| written")]
