"""Compiled models in the user's cache: an entry is whole, this user's and for this key, or it is none."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.backends import compiled_cache
from isbi_infer.backends.compiled_cache import cache_folder, read_compiled, use_cache, write_compiled

KEY = {"model": "abc", "runtime": "openvino 1", "processor": "x", "settings": {"s": 1}, "shape": [1, 1, 8, 8]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ISBI_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled_cache._switch, "warned", False)
    return tmp_path / "cache"


def only_entry(folder):
    (entry,) = folder.iterdir()
    return entry


@given(st.binary(max_size=300))
def test_what_is_kept_comes_back(tmp_path_factory, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISBI_INFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert read_compiled(KEY) is None
        write_compiled(KEY, compiled)
        assert read_compiled(KEY) == compiled


@pytest.mark.parametrize("part", sorted(KEY))
def test_another_key_finds_nothing(folder, part):
    write_compiled(KEY, b"compiled")
    assert read_compiled(KEY | {part: "another"}) is None


def test_an_entry_under_the_name_of_another_is_passed_over(folder):
    other = KEY | {"runtime": "openvino 2"}
    write_compiled(KEY, b"compiled")
    entry = only_entry(folder)
    write_compiled(other, b"newer")
    (name,) = set(folder.iterdir()) - {entry}
    entry.replace(name)
    assert read_compiled(other) is None


@pytest.mark.parametrize("at", [0, 40, 120, -1])
def test_a_damaged_entry_is_passed_over_and_written_anew(folder, at):
    write_compiled(KEY, b"compiled" * 9)
    entry = only_entry(folder)
    content = bytearray(entry.read_bytes())
    content[at] ^= 1
    entry.write_bytes(content)
    assert read_compiled(KEY) is None
    write_compiled(KEY, b"anew")
    assert read_compiled(KEY) == b"anew"


@pytest.mark.parametrize("length", [0, 5, 60, 100, 250])
def test_a_cut_entry_is_passed_over(folder, length):
    write_compiled(KEY, b"compiled" * 20)
    entry = only_entry(folder)
    entry.write_bytes(entry.read_bytes()[:length])
    assert read_compiled(KEY) is None


def test_a_folder_in_the_place_of_an_entry_is_passed_over(folder):
    write_compiled(KEY, b"compiled")
    entry = only_entry(folder)
    entry.unlink()
    entry.mkdir()
    assert read_compiled(KEY) is None


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can make a file another's")
def test_an_entry_of_another_user_is_passed_over(folder):
    write_compiled(KEY, b"compiled")
    os.chown(only_entry(folder), 12345, 12345)
    assert read_compiled(KEY) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_nobody_else_can_read_or_write_what_is_kept(folder):
    write_compiled(KEY, b"compiled")
    assert folder.stat().st_mode & 0o077 == 0
    assert only_entry(folder).stat().st_mode & 0o077 == 0


def test_entries_that_were_not_used_for_longest_go_first(folder):
    keys = [KEY | {"shape": [1, 1, 8, 8 * n]} for n in range(20)]
    for key in keys:
        write_compiled(key, b"compiled")
        assert read_compiled(keys[0])  # which makes it the last used
        for entry in folder.iterdir():  # file systems have coarse clocks
            os.utime(entry, (entry.stat().st_atime, entry.stat().st_mtime - 10))
    assert len(list(folder.iterdir())) == 16
    assert [read_compiled(key) is not None for key in keys] == [n == 0 or n > 4 for n in range(20)]


def test_a_folder_that_cannot_be_written_is_said_once_and_work_goes_on(tmp_path, monkeypatch, folder, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ISBI_INFER_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        for shape in (1, 2):
            write_compiled(KEY | {"shape": shape}, b"compiled")
            assert read_compiled(KEY | {"shape": shape}) is None
    (record,) = caplog.records
    assert "compiled models are not kept" in record.getMessage()
    assert "ISBI_INFER_CACHE names another folder" in record.getMessage()


@pytest.mark.skipif(os.name == "nt", reason="limits of file sizes are POSIX")
def test_a_full_disk_is_said_once_and_leaves_nothing_half_written(folder):
    """The real thing: a process that may write no more than a few bytes to a file."""
    code = (
        "import logging, resource, signal\n"
        "from isbi_infer.backends.compiled_cache import read_compiled, write_compiled\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "for shape in (1, 2):\n"
        "    write_compiled({'shape': shape}, bytes(5000))\n"
        "    assert read_compiled({'shape': shape}) is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("compiled models are not kept") == 1
    assert list(folder.iterdir()) == []


def test_the_cache_can_be_turned_off(folder, monkeypatch):
    write_compiled(KEY, b"compiled")
    use_cache(False)
    try:
        assert cache_folder() is None
        assert read_compiled(KEY) is None
    finally:
        use_cache(True)
    assert read_compiled(KEY) == b"compiled"
    monkeypatch.setenv("ISBI_INFER_CACHE", "")
    assert cache_folder() is None
    assert read_compiled(KEY) is None
    write_compiled(KEY, b"compiled")


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is another one elsewhere")
def test_the_folder_is_where_linux_users_expect_caches(monkeypatch):
    monkeypatch.delenv("ISBI_INFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast/cache")
    assert cache_folder() == Path("/fast/cache/isbi-infer")
    for nothing in ("", "relative"):  # which the specification says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert cache_folder() == Path.home() / ".cache" / "isbi-infer"
