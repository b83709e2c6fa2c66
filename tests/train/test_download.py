"""The challenge's data, fetched from a real server that serves a synthetic zip: right, wrong, cut off or gone."""

import hashlib
import http.server
import io
import socket
import threading
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import DependencyError, ImageError, OutputError, UsageError
from isbi_infer.volumes import PixelSize, open_stack
from isbi_train.data.download import PIXELS_SHA256, TERMS, URL, download
from isbi_train.data.labelled import load_labelled

NAMES = ("train-volume.tif", "train-labels.tif", "test-volume.tif")


@pytest.fixture
def stacks(sample):
    image_ZYX, label_ZYX = sample
    return dict(zip(NAMES, (image_ZYX, label_ZYX, image_ZYX[::-1].copy()), strict=True))


@pytest.fixture
def sha256(stacks):
    return {name: hashlib.sha256(stack.tobytes()).hexdigest() for name, stack in stacks.items()}


def tiff(stack_ZYX):
    file = io.BytesIO()
    tifffile.imwrite(file, stack_ZYX, photometric="minisblack", compression="zlib")
    return file.getvalue()


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def serve(monkeypatch):
    """Serve bytes on this machine; the list holds the paths that were asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(content, *, length=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            asked: ClassVar[list[str]] = []

            def do_GET(self):
                self.asked.append(self.path)
                if self.path != "/data.zip":
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(length or len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/data.zip", Handler.asked

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_stacks_are_found_by_their_pixels_whatever_their_folder_and_names(
    tmp_path, serve, stacks, sha256
):
    names = ("a/b/train-volume.tif", "labels of train.TIFF", "c\\test-volume.tif")
    members = {name: tiff(stack) for name, stack in zip(names, stacks.values(), strict=True)}
    others = {
        "__MACOSX/._train-volume.tif": b"\0\5",
        "test-labels.tif": tiff(stacks[NAMES[1]] // 2),
        "x.bsh": b"x",
    }
    url, _ = serve(zipped({**others, **members}))
    seen = []
    written = download(
        tmp_path / "new" / "d", url=url, sha256=sha256, progress=lambda *counts: seen.append(counts)
    )
    assert written == [tmp_path / "new" / "d" / name for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "new" / "d").iterdir()) == sorted(NAMES)
    for path, stack_ZYX in zip(written, stacks.values(), strict=True):
        with open_stack(path) as reader:
            np.testing.assert_array_equal(np.stack(list(reader)), stack_ZYX)
            assert reader.pixel_size == PixelSize(y_nm=4.0, x_nm=4.0, z_nm=50.0)
    assert load_labelled(tmp_path / "new" / "d").pixel_size_nm == 4.0
    assert seen[-1][0] == seen[-1][1] > 0


def test_what_is_there_stays_and_only_the_rest_is_fetched(tmp_path, serve, stacks, sha256):
    url, asked = serve(zipped({name: tiff(stack) for name, stack in stacks.items()}))
    (tmp_path / NAMES[0]).write_bytes(tiff(stacks[NAMES[0]]))
    before = (tmp_path / NAMES[0]).read_bytes()
    assert download(tmp_path, url=url, sha256=sha256) == [tmp_path / name for name in NAMES[1:]]
    assert (tmp_path / NAMES[0]).read_bytes() == before
    assert download(tmp_path, url=url, sha256=sha256) == []
    assert asked == ["/data.zip"]


def test_another_stack_of_that_name_is_left_alone(tmp_path, serve, stacks, sha256):
    url, asked = serve(b"")
    for content, message in ((tiff(stacks[NAMES[2]]), "is another stack"), (b"no tiff", "not readable|TIFF")):
        (tmp_path / NAMES[0]).write_bytes(content)
        with pytest.raises(UsageError, match=rf"train-volume\.tif: .*({message}).*move it away"):
            download(tmp_path, url=url, sha256=sha256)
        assert (tmp_path / NAMES[0]).read_bytes() == content
    assert asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stack: stack ^ (np.arange(stack.size).reshape(stack.shape) == 77), "has pixels of sha256"),
        (lambda stack: stack[:3], "has pixels of sha256"),
        (None, "is not in it"),
    ],
)
def test_wrong_pixels_are_told_and_nothing_is_written(tmp_path, serve, stacks, sha256, change, message):
    members = {name: tiff(stack) for name, stack in stacks.items()}
    wrong = members.pop(NAMES[1])
    if change:
        wrong = tiff(change(stacks[NAMES[1]]).astype(np.uint8))
        members[NAMES[1]] = wrong
    url, _ = serve(zipped(members))
    with pytest.raises(ImageError, match=rf"train-labels\.tif {message}.*nothing written.*by hand"):
        download(tmp_path / "d", url=url, sha256=sha256)
    assert not (tmp_path / "d").exists()


def test_a_member_that_is_no_tiff_is_told(tmp_path, serve, stacks, sha256):
    members = {name: tiff(stack) for name, stack in stacks.items()} | {NAMES[2]: b"<html>"}
    url, _ = serve(zipped(members))
    with pytest.raises(ImageError, match=r"test-volume\.tif not readable|test-volume\.tif.*TIFF"):
        download(tmp_path / "d", url=url, sha256=sha256)


def test_names_that_point_elsewhere_are_never_written_to(tmp_path, serve, stacks, sha256):
    evil = ("../../train-volume.tif", f"{tmp_path}/absolute/train-labels.tif", "..\\..\\test-volume.tif")
    members = {name: tiff(stack) for name, stack in zip(evil, stacks.values(), strict=True)}
    url, _ = serve(zipped(members | {"../escaped.tif": tiff(stacks[NAMES[0]][:1])}))
    folder = tmp_path / "a" / "b" / "d"
    download(folder, url=url, sha256=sha256)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(folder / name for name in NAMES)


def test_a_zip_cut_off_is_refused(tmp_path, serve, stacks, sha256):
    whole = zipped({name: tiff(stack) for name, stack in stacks.items()})
    for kept in (0, 1, len(whole) // 2, len(whole) - 1):
        url, _ = serve(whole[:kept])
        with pytest.raises(ImageError, match="is no whole zip file"):
            download(tmp_path / "d", url=url, sha256=sha256)
    assert not (tmp_path / "d").exists()


def test_a_zip_with_a_flipped_byte_is_refused_or_right(tmp_path, stacks, sha256):
    whole = bytearray(zipped({name: tiff(stack) for name, stack in stacks.items()}))
    for place in range(5, len(whole), len(whole) // 25):
        damaged = whole.copy()
        damaged[place] ^= 0x41
        (tmp_path / "z.zip").write_bytes(damaged)
        folder = tmp_path / f"d{place}"
        try:
            assert len(download(folder, archive=tmp_path / "z.zip", sha256=sha256)) == 3
        except ImageError:
            assert not folder.exists()


def test_a_connection_that_breaks_off_is_one_of_the_network(tmp_path, serve, sha256):
    url, _ = serve(b"PK" * 100, length=10_000)
    with pytest.raises(DependencyError, match=r"cannot be downloaded \(.*; fetch it elsewhere"):
        download(tmp_path / "d", url=url, sha256=sha256)
    assert not (tmp_path / "d").exists()


def test_an_answer_that_is_no_file_is_told(tmp_path, serve, sha256):
    url, _ = serve(b"")
    with pytest.raises(DependencyError, match="the server says 404 Not Found"):
        download(tmp_path, url=url.replace("data", "gone"), sha256=sha256)


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/data.zip", "nonsense", "ftp:nothing"])
def test_without_a_server_the_ways_out_are_named(tmp_path, address, sha256, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it meanwhile
        url = address.format(port=closed.getsockname()[1])
        with pytest.raises(DependencyError) as raised:
            download(tmp_path / "d", url=url, sha256=sha256)
    message = str(raised.value)
    assert message.count("\n") == 0
    for part in ("--archive", *NAMES, str(tmp_path / "d")):
        assert part in message
    assert not (tmp_path / "d").exists()


def test_an_archive_fetched_by_other_means_needs_no_network(tmp_path, stacks, sha256):
    (tmp_path / "z.zip").write_bytes(zipped({name: tiff(stack) for name, stack in stacks.items()}))
    assert len(download(tmp_path / "d", archive=tmp_path / "z.zip", sha256=sha256)) == 3
    with pytest.raises(ImageError, match=r"gone\.zip: cannot be read \(No such file"):
        download(tmp_path / "e", archive=tmp_path / "gone.zip", sha256=sha256)


def test_a_folder_that_cannot_be_made_is_told_before_the_download(tmp_path, serve, sha256):
    url, asked = serve(b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="no such folder can be made"):
        download(tmp_path / "file" / "d", url=url, sha256=sha256)
    assert asked == []


def test_the_challenge_is_what_is_fetched_and_its_terms_are_known():
    assert URL.startswith("https://downloads.imagej.net/")
    assert list(PIXELS_SHA256) == list(NAMES)
    assert {len(value) for value in PIXELS_SHA256.values()} == {64}
    assert "non-commercial" in TERMS
    assert "Cardona et al. 2010" in TERMS
