"""A scheduler or a worker that dies while the pyramid or labels are made: finished work is kept, bytes are the same."""

import shutil
import time

import pytest
from test_blocks import files, infer
from test_cluster import BLOCK, begin, cluster, one_line

from isbi_infer.run.volume import plan_of

pytest.importorskip("distributed")
pytest.importorskip("numba")

pytestmark = pytest.mark.more

SLOW = """
import time
from isbi_infer.neurons.pieces import Pieces
from isbi_infer.volumes.zarr.writer import OmeZarrSink
def slowed(kind, name):
    plain = getattr(kind, name)
    if plain.__name__ == "slow":  # Dask loads this twice
        return
    def slow(*given):
        time.sleep(0.5)
        return plain(*given)
    setattr(kind, name, slow)
slowed(OmeZarrSink, "halve")
slowed(Pieces, "segment")
slowed(Pieces, "store")
"""
LINKED = ("--link", "overlap")


@pytest.fixture(scope="module")
def finished(tiff, tmp_path_factory):
    """A folder with a result and its pyramid, and labels of it."""
    folder = tmp_path_factory.mktemp("finished")
    labels = ("--labels", folder / "l.ome.zarr", *LINKED)
    done = infer(tiff, "-o", folder / "out.ome.zarr", *BLOCK, "--pyramid", *labels)
    assert done.returncode == 0, done.stderr
    return folder


def wait_for(folder, pattern, count, run):
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def without_pyramid(finished, out):
    """Make what a run leaves that was killed once its blocks were done."""
    partial = out.with_name(out.name + ".partial")
    shutil.copytree(finished / "out.ome.zarr" / "0", partial / "volume" / "0")
    (partial / "plan.json").write_text(plan_of(finished / "out.ome.zarr").to_json())
    return partial


def loses(who, run, scheduler, workers):
    """Kill one of them, and return what the run says in the end."""
    (scheduler if who == "scheduler" else workers[0]).kill()
    _, said = run.communicate(timeout=200)
    assert "Traceback" not in said
    if who == "scheduler":
        assert run.returncode == 3, said
        (line,) = one_line(said)
        assert "the scheduler was lost" in line
        assert "--resume" in line
    else:
        assert run.returncode == 0, said
    return said


@pytest.mark.parametrize("who", ["scheduler", "worker"])
def test_a_loss_while_the_pyramid_is_made_keeps_what_is_done(tmp_path, tiff, finished, who):
    out = tmp_path / "out.ome.zarr"
    partial = without_pyramid(finished, out)
    with cluster(tmp_path, preload=SLOW) as (address, scheduler, workers):
        run = begin(tiff, out, address, "--pyramid", "--resume")
        wait_for(partial, "volume/1/c/*/*/*", 1, run)
        said = loses(who, run, scheduler, workers)
    if who == "scheduler":
        assert "15 blocks done and kept in out.ome.zarr.partial; to go on, run it again with --resume" in said
        done = infer(tiff, "-o", out, *BLOCK, "--pyramid", "--resume")
        assert done.returncode == 0, done.stderr
    assert files(out) == files(finished / "out.ome.zarr")


@pytest.mark.parametrize("who", ["scheduler", "worker"])
@pytest.mark.parametrize("after", ["segments/*.npy", "volume/0/c/*/*/*"])
def test_a_loss_while_labels_are_made_keeps_what_is_done(tmp_path, tiff, finished, who, after):
    out, labels = tmp_path / "out.ome.zarr", tmp_path / "l.ome.zarr"
    shutil.copytree(finished / "out.ome.zarr", out)
    asked = ("--resume", "--labels", labels, *LINKED)
    with cluster(tmp_path, preload=SLOW) as (address, scheduler, workers):
        run = begin(tiff, out, address, *asked)
        wait_for(tmp_path / "l.ome.zarr.partial", after, 1, run)
        said = loses(who, run, scheduler, workers)
    if who == "scheduler":
        assert "kept in l.ome.zarr.partial; to go on with the labels, add --resume" in said
        assert not labels.exists()
        assert not (tmp_path / "l.csv").exists()
        done = infer(tiff, "-o", out, *asked)
        assert done.returncode == 0, done.stderr
    assert files(labels) == files(finished / "l.ome.zarr")
    assert (tmp_path / "l.csv").read_bytes() == (finished / "l.csv").read_bytes()


def test_a_worker_into_whose_memory_no_section_fits_is_named_before_any_work(tmp_path, tiff):
    asked = ("--labels", tmp_path / "l.ome.zarr", *LINKED)
    with cluster(tmp_path, workers=1, options=("--no-nanny", "--memory-limit", "200MiB")) as (address, *_):
        done = infer(tiff, "-o", tmp_path / "out.ome.zarr", *BLOCK, "--cluster", address, *asked)
    assert done.returncode == 7, done.stderr
    (line,) = done.stderr.splitlines()
    assert "0.2 GiB of memory, labels hold a whole section there, 0.3" in line
    assert not list(tmp_path.glob("*.ome.zarr*"))
