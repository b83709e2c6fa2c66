"""Volumes behind addresses, read from servers on this machine: HTTP with ranges, slow and busy ones, and S3."""

import numpy as np
import pytest
import zarr
from servers import serving
from volume_files import write_omezarr

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_source


def sharded(path, stack_ZYX):
    """Write an image whose shards hold many chunks."""
    write_omezarr(path, [stack_ZYX])
    zarr.create_array(
        path / "s0",
        data=stack_ZYX,
        chunks=(1, 32, 32),
        shards=(2, 128, 128),
        overwrite=True,
    )


@pytest.fixture
def stack_ZYX():
    return np.random.default_rng(0).integers(0, 255, (2, 200, 260), np.uint8)


def test_a_window_of_a_sharded_volume_is_read_by_ranges(tmp_path, stack_ZYX):
    sharded(tmp_path / "in.ome.zarr", stack_ZYX)
    largest = max(path.stat().st_size for path in (tmp_path / "in.ome.zarr").rglob("c/*/*/*"))
    with serving(tmp_path) as served, open_source(f"{served.address}/in.ome.zarr") as source:
        window = slice(100, 140), slice(30, 60)
        np.testing.assert_array_equal(source.read(1, window), stack_ZYX[1][window])
        lengths = [part.removeprefix("bytes=").split("-") for part in served.ranges]
        assert lengths
        assert all(not first or not last or int(last) - int(first) < largest / 2 for first, last in lengths)
        np.testing.assert_array_equal(source.read(0), stack_ZYX[0])


def test_a_slow_and_busy_server_is_waited_for(tmp_path, stack_ZYX):
    sharded(tmp_path / "in.ome.zarr", stack_ZYX)
    with (
        serving(tmp_path, delay_s=0.1, fail_every=5) as served,
        open_source(f"{served.address}/in.ome.zarr") as source,
    ):
        np.testing.assert_array_equal(source.read(1), stack_ZYX[1])


def test_a_server_that_is_gone_is_an_error_of_one_line(tmp_path, stack_ZYX):
    sharded(tmp_path / "in.ome.zarr", stack_ZYX)
    with serving(tmp_path) as served:
        address = f"{served.address}/in.ome.zarr"
        source = open_source(address)
    with pytest.raises(ImageError, match=r"in\.ome\.zarr: section 0 cannot be read") as caught:
        source.read(0)
    assert "\n" not in str(caught.value)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An S3 server with one bucket, which the usual environment variables point to."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serving(tmp_path, bucket="lab") as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.address)
        yield served


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_volume_in_s3_is_read(bucket, tmp_path, stack_ZYX, version):
    write_omezarr(tmp_path / "data" / "in.ome.zarr", [stack_ZYX], version=version)
    with open_source("s3://lab/data/in.ome.zarr") as source:
        for z in range(2):
            np.testing.assert_array_equal(source.read(z), stack_ZYX[z])
    assert all(path.startswith("lab") for path in bucket.paths)


def test_what_is_not_in_s3_is_named(bucket):
    with pytest.raises(ImageError, match=r"s3://lab/missing\.zarr: holds no zarr\.json"):
        open_source("s3://lab/missing.zarr")


def test_a_section_of_a_sharded_volume_in_s3_is_read_by_ranges(bucket, tmp_path, stack_ZYX):
    sharded(tmp_path / "in.ome.zarr", stack_ZYX)
    with open_source("s3://lab/in.ome.zarr") as source:
        window = slice(10, 20), slice(40, 50)
        np.testing.assert_array_equal(source.read(0, window), stack_ZYX[0][window])
    assert bucket.ranges
