"""What files.py promises: the whole new file or the old one, and nothing else in the folder."""

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from isbi_infer.errors import BusyError, ImageError, OutputError
from isbi_infer.files import check_writable, replacing, write_once


def _run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _write_half_and_raise(path, error):
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")
    return path


def _only(path, content):
    return path.read_bytes() == content and os.listdir(path.parent) == [path.name]


def test_new_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "out.tif"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert _only(path, b"new")


def test_old_file_is_there_until_the_end(old):
    with replacing(old) as temporary:
        temporary.write_bytes(b"new")
        assert old.read_bytes() == b"old"
    assert _only(old, b"new")


@pytest.mark.parametrize("name", ["out.tif", "a.ome.tif", "no_suffix", ".hidden", "model.onnx"])
def test_temporary_lies_in_the_same_folder_with_the_same_suffix(tmp_path, name):
    path = tmp_path / name
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix or not path.suffix
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"new")
    assert _only(path, b"new")


@pytest.mark.parametrize("error", [ImageError("bad"), KeyboardInterrupt(), ValueError("bug"), SystemExit(3)])
def test_exceptions_pass_through_and_old_file_stays(old, error):
    with pytest.raises(type(error)) as raised:
        _write_half_and_raise(old, error)
    assert raised.value is error
    assert _only(old, b"old")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT, None])
def test_os_errors_become_output_errors_of_one_line(old, code):
    error = OSError(code, os.strerror(code)) if code else OSError("14 requested and 0 written")
    with pytest.raises(OutputError) as raised:
        _write_half_and_raise(old, error)
    assert raised.value.exit_code == 6
    assert str(old) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert _only(old, b"old")


def test_a_closed_standard_output_is_no_output_error(old):
    with pytest.raises(BrokenPipeError), replacing(old):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert _only(old, b"old")


def test_body_that_writes_nothing_is_an_error(old):
    with pytest.raises(OutputError), replacing(old):
        pass
    assert _only(old, b"old")


def test_failing_sync_keeps_the_old_file(old, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError), replacing(old) as temporary:
        temporary.write_bytes(b"new")
    assert _only(old, b"old")


def test_file_and_folder_are_synced_around_the_replacement(old, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(os.path.isdir(f"/proc/self/fd/{fd}")), sync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    with replacing(old) as temporary:
        temporary.write_bytes(b"new")
    assert events == [False, "replace", True]


def test_file_system_that_cannot_sync_folders_is_fine(old, monkeypatch):
    sync = os.fsync

    def fail_on_folders(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    with replacing(old) as temporary:
        temporary.write_bytes(b"new")
    assert _only(old, b"new")


def test_symbolic_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    real = tmp_path / "disk" / "real.tif"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link = tmp_path / "link.tif"
    link.symlink_to(real)
    with replacing(link) as temporary:
        assert temporary.parent == real.parent
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert _only(real, b"new")


def test_writing_the_same_file_twice_at_once_is_refused(old):
    with replacing(old) as temporary:
        with pytest.raises(BusyError) as raised, replacing(old):
            pass
        temporary.write_bytes(b"new")
    assert raised.value.exit_code == 8
    assert _only(old, b"new")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked off here")
def test_a_process_that_is_forked_off_meanwhile_leaves_the_file_to_its_parent(old):
    code = (
        "import os, sys\n"
        "from isbi_infer.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('new')\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
        "    else:\n"
        "        sys.exit(3)\n"
    )
    result = _run(code, old)
    assert (result.returncode, result.stderr) == (0, "")
    assert _only(old, b"new")


def test_threads_write_different_files_at_once(tmp_path):
    barrier = threading.Barrier(4)

    def write(index):
        with replacing(tmp_path / f"{index}.tif") as temporary:
            barrier.wait(10)
            temporary.write_text(str(index))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{i}.tif": str(i) for i in range(4)
    }


def test_temporary_names_are_random(old):
    names = set()
    for _ in range(20):
        with replacing(old) as temporary:
            temporary.write_bytes(b"new")
        names.add(temporary.name)
    assert len(names) == 20
    assert not any(f".{os.getpid()}." in name for name in names)


def test_temporaries_of_this_output_alone_are_swept(old):
    folder, token = old.parent, "0123456789abcdef"
    stale = [folder / f".out.{token}.tmp.tif", folder / f".out.{token[::-1]}.tmp.tif"]
    kept = [
        folder / f".other.{token}.tmp.tif",
        folder / f".out.{token}.tmp.png",
        folder / ".out.123.tmp.tif",
        folder / f".out.x.{token}.tmp.tif",
        folder / f".outx{token}.tmp.tif",
    ]
    for path in stale + kept:
        path.write_bytes(b"half")
    with replacing(old) as temporary:
        temporary.write_bytes(b"new")
    assert not any(path.exists() for path in stale)
    assert all(path.read_bytes() == b"half" for path in kept)


def test_killed_while_writing_leaves_the_old_file_and_the_next_run_sweeps(old):
    killed = _run(
        "import os, signal, sys\n"
        "from isbi_infer.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        old,
    )
    assert killed.returncode == -signal.SIGKILL
    assert old.read_bytes() == b"old"
    assert len(os.listdir(old.parent)) == 3
    with replacing(old) as temporary:
        temporary.write_bytes(b"new")
    assert _only(old, b"new")


@pytest.mark.skipif(os.name == "nt", reason="there are no resource limits")
@pytest.mark.parametrize("size", [200, 44], ids=["in the pixels", "in the directories at the end"])
def test_file_size_limit_gives_an_output_error_and_keeps_the_old_stack(tmp_path, size):
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")
    run = _run(
        "import resource, sys\n"
        "import numpy as np\n"
        "from isbi_infer.errors import OutputError\n"
        "from isbi_infer.files import replacing\n"
        "from isbi_infer.volumes import StackInfo, write_stack\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "size = int(sys.argv[2])\n"
        "sections = (np.zeros((size, size), np.uint8) for _ in range(50))\n"
        "try:\n"
        "    with replacing(sys.argv[1]) as temporary:\n"
        "        write_stack(temporary, sections, like=StackInfo(shape=(50, size, size)), dtype='uint8')\n"
        "except OutputError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n",
        path,
        size,
    )
    assert (run.returncode, run.stderr) == (6, "")
    assert "ulimit" in run.stdout
    assert run.stdout.count("\n") == 1
    assert _only(path, b"old")


def test_writable_place_is_accepted_and_left_as_it_was(tmp_path, old):
    check_writable(tmp_path / "new.tif")
    check_writable(old)
    assert _only(old, b"old")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere/out.tif", "does not exist"),
        ("out.tif/below.tif", "not a folder"),
        (".", "is a folder"),
        ("a" * 252 + ".tif", "shorter name"),
    ],
)
def test_unwritable_place_is_refused_before_any_work(old, name, says):
    with pytest.raises(OutputError, match=says) as raised:
        check_writable(old.parent / name)
    assert raised.value.exit_code == 6
    assert _only(old, b"old")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere/out.tif", "No such file or directory"),
        ("out.tif/below.tif", "Not a directory"),
        (".", "is a folder"),
        ("a" * 252 + ".tif", "shorter name"),
    ],
)
def test_unwritable_place_is_refused_on_entering(old, name, says):
    writing = replacing(old.parent / name)
    with pytest.raises(OutputError, match=says):
        writing.__enter__()
    assert _only(old, b"old")


@pytest.mark.parametrize("name", ["a" * 251 + ".tif", "a" * 255, "ä" * 125 + ".tif", "a" * 201 + ".tif"])
def test_names_up_to_the_limit_of_the_file_system_are_written(tmp_path, name):
    path = tmp_path / name
    check_writable(path)
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert _only(path, b"new")


def test_long_names_have_locks_and_temporaries_of_their_own(tmp_path):
    one, other = tmp_path / ("a" * 240 + "1.tif"), tmp_path / ("a" * 240 + "2.tif")
    with replacing(one) as first, replacing(other) as second:
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_devices_are_refused_and_not_replaced(device):
    for use in (check_writable, lambda path: replacing(path).__enter__()):
        with pytest.raises(OutputError, match="device"):
            use(device)
    assert not os.path.isfile(device)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="may write"):
            check_writable(tmp_path / "out.tif")
    finally:
        tmp_path.chmod(0o700)


def test_folder_that_refuses_new_files_is_named_with_a_remedy(tmp_path, monkeypatch):
    def fail(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(
        OutputError, match=r"Read-only file system.*choose a folder that you may write to"
    ) as raised:
        check_writable(tmp_path / "out.tif")
    assert str(tmp_path) in str(raised.value)


def test_one_of_several_writers_wins_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")  # what FAT and SMB say

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "plan.json"
    contents = [bytes([65 + i]) * 5000 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        held = set(threads.map(lambda content: write_once(path, content), contents))
    assert held == {path.read_bytes()}
    assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]
