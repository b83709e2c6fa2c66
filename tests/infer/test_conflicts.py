"""What conflicts.py promises: no output in the place of an input or of another output, under any name."""

import os

import pytest

from isbi_infer.conflicts import check_apart, check_not_input
from isbi_infer.errors import UsageError


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "roundabout"])
def test_output_that_is_the_input_is_refused(old, link):
    other = old.parent / "other.tif"
    if link == "same":
        other = old
    elif link == "symbolic":
        other.symlink_to(old)
    elif link == "hard":
        other.hardlink_to(old)
    else:
        other = old.parent / "." / ".." / old.parent.name / old.name
    with pytest.raises(UsageError) as raised:
        check_not_input(other, old)
    assert raised.value.exit_code == 2


def test_other_outputs_are_accepted(old):
    other = old.parent / "other.tif"
    check_not_input(other, old)
    other.write_bytes(b"old")
    check_not_input(other, old)
    check_not_input(other, old.parent / "missing.tif")


@pytest.fixture
def sections(tmp_path):
    """A folder of images, one of which is a link to elsewhere."""
    folder = tmp_path / "sections"
    folder.mkdir()
    for path in (folder / "0.tif", folder / "1.png", tmp_path / "elsewhere"):
        path.write_bytes(b"old")
    (folder / "2.TIF").symlink_to(tmp_path / "elsewhere")
    return folder


@pytest.mark.parametrize("name", ["0.tif", "1.png", "2.TIF", "../elsewhere", "../again/0.tif", "../link.tif"])
def test_an_output_that_is_an_image_of_an_input_folder_is_refused_under_any_name(sections, name):
    (sections.parent / "again").symlink_to(sections)
    (sections.parent / "link.tif").symlink_to(sections / "0.tif")
    with pytest.raises(UsageError, match="an image of the input"):
        check_not_input(sections / name, sections)


@pytest.mark.parametrize("name", ["new.tif", "report.html", "figure.svg", "results/0.tif", "../0.tif"])
def test_other_files_in_an_input_folder_and_beside_it_may_be_written(sections, name):
    (sections / "results").mkdir()
    if name != "new.tif":
        (sections / name).write_text("of an earlier run")
    check_not_input(sections / name, sections)


def test_the_images_of_an_input_folder_are_looked_at_only_where_an_output_is_there_already(
    sections, monkeypatch
):
    class LookedError(Exception):
        pass

    def look(_):
        raise LookedError

    monkeypatch.setattr(os, "scandir", look)
    check_not_input(sections / "new.tif", sections)
    with pytest.raises(LookedError):
        check_not_input(sections / "1.png", sections)


def test_a_chunk_of_an_input_volume_is_no_output(tmp_path):
    chunk = tmp_path / "in.zarr" / "0" / "c" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"pixels")
    with pytest.raises(UsageError, match="is a file of the input"):
        check_not_input(chunk, tmp_path / "in.zarr")


def test_outputs_are_compared_with_each_other_and_with_every_input(tmp_path):
    def check(outputs, inputs=()):
        named = [(f"output {i}", tmp_path / name) for i, name in enumerate(outputs)]
        check_apart(named, [tmp_path / name for name in inputs])

    (tmp_path / "here").symlink_to(tmp_path)
    (tmp_path / "b.tif").write_bytes(b"old")
    check(["a.tif", "c.csv", "d.zarr"], ["b.tif", "missing.tif"])
    with pytest.raises(
        UsageError, match=r"b\.tif: the output \(output 1\) is the input .*b\.tif itself; leave one"
    ):
        check(["a.tif", "here/b.tif"], ["c.tif", "b.tif"])
    with pytest.raises(UsageError, match=r"twice, as output 0 and as output 2; name one of them otherwise$"):
        check(["a.tif", "c.tif", "here/a.tif"])
    for outputs, inputs in ((["d.zarr"], ["d.zarr/labels.tif"]), (["d.zarr/r.html", "here/d.zarr"], [])):
        with pytest.raises(UsageError, match="would hold"):
            check(outputs, inputs)
