"""Labels of a volume that are killed, or find no room: what was there stays, and what is done is gone on with."""

import json
import shutil
import subprocess
import sys

import pytest
from label_files import SIZE, store, unsure

from isbi_infer.errors import ResourceError
from isbi_infer.neurons import volume
from isbi_infer.neurons.labelling import Labelling
from isbi_infer.neurons.volume import VolumeLabels
from isbi_infer.volumes import StackInfo

pytest.importorskip("tensorstore")

SHAPE = (4, 60, 70)
OLD, NEW = Labelling(threshold=0.4, link="overlap"), Labelling(threshold=0.5, link="overlap")

# Makes new labels, and at the n-th call of a function dies or finds the disk full.
DRIVER = """
import os, resource, signal, shutil, sys
from pathlib import Path
from isbi_infer.errors import IsbiError
from isbi_infer.neurons import volume
from isbi_infer.neurons.labelling import Labelling
from isbi_infer.neurons.pieces import Pieces
from isbi_infer.volumes import PixelSize, StackInfo
from isbi_infer.volumes.zarr import unfinished
import json
folder, what, where, call = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
holder, name = {
    "segment": (Pieces, "segment"), "link": (Pieces, "link"), "store": (Pieces, "store"),
    "table": (volume, "write_table"), "rename": (os, "rename"), "move": (unfinished, "_move"),
    "clean": (shutil, "rmtree"), "": (Pieces, "done"),
}[where]
plain = getattr(holder, name)
calls = []
def watched(*given, **named):
    calls.append(name)
    if len(calls) == call:
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
    return plain(*given, **named)
if where:
    setattr(holder, name, watched)
volume._CHUNK, volume._SHARD = (2, 32, 32), 32
like = StackInfo(shape=(4, 60, 70), pixel_size=PixelSize(y_nm=4, x_nm=4, z_nm=50))
try:
    how = Labelling(threshold=float(sys.argv[5]), link=sys.argv[6])
    labels = volume.VolumeLabels(folder / "l.ome.zarr", folder / "p.ome.zarr", like, how, resume=True)
    print(json.dumps(labels.summarise().notes))
except IsbiError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


def files(folder):
    """Return the bytes of labels and table, of each as far as it is there."""
    paths = [path for path in (folder / "l.ome.zarr").rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in (*paths, *folder.glob("l.csv"))}


def make(folder, how):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(volume, "_CHUNK", (2, 32, 32))
        patched.setattr(volume, "_SHARD", 32)
        like = StackInfo(shape=SHAPE, pixel_size=SIZE)
        VolumeLabels(folder / "l.ome.zarr", folder / "p.ome.zarr", like, how).summarise()
    return files(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a result and labels of it, their bytes, and those of the labels that are asked for next."""
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    store(old / "p.ome.zarr", unsure(SHAPE), 2)
    shutil.copytree(old / "p.ome.zarr", new / "p.ome.zarr")
    return old, make(old, OLD), make(new, NEW)


def drive(folder, what="", where="", call=0, threshold=0.5, link="overlap"):
    command = [sys.executable, "-c", DRIVER, str(folder), what, where, str(call), str(threshold), link]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_consistent(folder, old, new):
    """Labels and table that are both there belong together."""
    there = files(folder)
    if (folder / "l.ome.zarr").exists() and (folder / "l.csv").exists():
        assert there in (old, new)
    else:
        assert not (folder / "l.ome.zarr").exists()


@pytest.mark.parametrize(
    ("where", "call", "untouched"),
    [
        ("store", 3, True),
        ("rename", 2, False),
        *(
            pytest.param(*case, marks=pytest.mark.more)
            for case in (
                *[("segment", 1, True), ("segment", 3, True), ("link", 3, True), ("store", 1, True)],
                *[("table", 1, True), ("rename", 1, True), ("move", 1, False), ("move", 2, False)],
                ("clean", 1, False),
            )
        ),
    ],
)
def test_labels_that_are_killed_leave_those_that_were_there_and_go_on_to_the_same_bytes(
    tmp_path, made, where, call, untouched
):
    folder, old, new = tmp_path / "work", *made[1:]
    shutil.copytree(made[0], folder)
    assert drive(folder, "kill", where, call).returncode == -9
    check_consistent(folder, old, new)
    assert not untouched or files(folder) == old
    done = drive(folder)
    assert done.returncode == 0, done.stderr
    assert files(folder) == new
    assert sorted(path.name for path in folder.iterdir()) == ["l.csv", "l.ome.zarr", "p.ome.zarr"]


@pytest.mark.more
@pytest.mark.parametrize(("where", "call"), [("link", 2), ("store", 3), ("rename", 2)])
def test_labels_linked_by_a_multicut_go_on_too(tmp_path, made, where, call):
    whole, folder = tmp_path / "whole", tmp_path / "work"
    shutil.copytree(made[0], folder)
    shutil.copytree(made[0] / "p.ome.zarr", whole / "p.ome.zarr")
    new = make(whole, Labelling(threshold=0.5, link="multicut"))
    assert drive(folder, "kill", where, call, link="multicut").returncode == -9
    check_consistent(folder, made[1], new)
    done = drive(folder, link="multicut")
    assert done.returncode == 0, done.stderr
    assert files(folder) == new != made[2]


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("segment", 2),
        *(
            pytest.param(*case, marks=pytest.mark.more)
            for case in (("segment", 1), ("link", 2), ("store", 2), ("table", 1))
        ),
    ],
)
def test_a_full_disk_leaves_the_labels_that_were_there_and_is_gone_on_after(tmp_path, made, where, call):
    folder, old, new = tmp_path / "work", *made[1:]
    shutil.copytree(made[0], folder)
    full = drive(folder, "full", where, call)
    assert full.returncode == 6, full.stdout + full.stderr
    (line,) = full.stdout.splitlines()
    assert line.startswith("OutputError")
    assert "free some space" in line or "raise the file-size limit" in line
    assert files(folder) == old
    done = drive(folder)
    assert done.returncode == 0, done.stderr
    assert files(folder) == new
    assert sorted(path.name for path in folder.iterdir()) == ["l.csv", "l.ome.zarr", "p.ome.zarr"]


@pytest.mark.more
def test_what_is_done_is_not_done_again_unless_it_was_begun_otherwise(tmp_path, made):
    folder, new = tmp_path / "work", made[2]
    shutil.copytree(made[0], folder)
    drive(folder, "kill", "store", 3, threshold=0.6)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("l.ome.zarr.partial/segments/*.np?")}
    shards = list(folder.glob("l.ome.zarr.partial/volume/0/c/*/*/*"))
    assert (len(kept), len(shards)) == (SHAPE[0] * 2 + 2, 2)
    drive(folder, "kill", "store", 5, threshold=0.6)
    again = {path: path.stat().st_mtime_ns for path in kept if path.name not in ("ids.npy", "first.npy")}
    assert again.items() <= kept.items()
    done = drive(folder)
    assert done.returncode == 0, done.stderr
    (note,) = json.loads(done.stdout)
    assert "made from the start, for it was begun otherwise: threshold: 0.6, now 0.5" in note
    assert files(folder) == new
    (note,) = json.loads(drive(folder).stdout)
    assert note.endswith("l.ome.zarr is finished already")


def test_a_section_that_does_not_fit_into_memory_is_refused_before_any_work(tmp_path):
    like = StackInfo(shape=(2, 10**6, 10**6))
    with pytest.raises(ResourceError, match="labels hold a whole section") as caught:
        VolumeLabels(tmp_path / "l.ome.zarr", tmp_path / "p.ome.zarr", like, NEW)
    assert caught.value.exit_code == 7
    with pytest.raises(ResourceError, match="for each of 2 workers"):
        VolumeLabels(tmp_path / "l.ome.zarr", tmp_path / "p.ome.zarr", like, NEW, cluster="local:2")
    assert not list(tmp_path.iterdir())
