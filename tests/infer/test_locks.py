"""One run at a time writes an output: between real processes, also with equal process numbers, and after kills."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from isbi_infer.errors import BusyError, OutputError
from isbi_infer.files import locked_folder, replacing
from isbi_infer.locks import locked

# Writes what standard input says, and leaves as a command line does.
WRITER = """
import os, sys
from isbi_infer.files import replacing
from isbi_infer.terminal import exit_codes
with exit_codes("writer"), replacing(sys.argv[1]) as temporary:
    print(os.getpid(), flush=True)
    temporary.write_text(sys.stdin.readline())
"""
# A file system without locks, such as NFS mounted by a host whose lock service does not run.
NO_LOCKS = """
import errno, fcntl, os
def flock(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""
# In its own process numbers, as a container has them.
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")

posix = pytest.mark.skipif(os.name == "nt", reason="the test is written for POSIX systems")
with_or_without_locks = pytest.mark.parametrize("before", ["", NO_LOCKS], ids=["locks", "no locks"])


def _start(code, *arguments, prefix=(), **options):
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def _started(code, *arguments, **options):
    process = _start(code, *arguments, **options)
    assert process.stdout.readline().strip(), process.communicate()[1]
    return process


def _can_unshare():
    try:
        return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.tif"


@with_or_without_locks
def test_the_second_of_two_processes_leaves_with_8_and_the_first_one_finishes(out, before):
    first = _started(before + WRITER, out)
    second = _start(before + WRITER, out)
    printed, said = second.communicate("second", timeout=60)
    assert (second.returncode, printed) == (8, "")
    assert f"writer: {out}: another run is writing it (process {first.pid} on " in said
    assert "wait for it or choose another output" in said.splitlines()[-1]
    first.communicate("first", timeout=60)
    assert first.returncode == 0
    assert out.read_text() == "first"
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.skipif(not _can_unshare(), reason="no process numbers of one's own may be made here")
@with_or_without_locks
def test_two_containers_with_the_same_process_numbers_are_told_apart(out, before):
    first = _start(before + WRITER, out, prefix=CONTAINER)
    number = first.stdout.readline()
    second = _start(before + WRITER, out, prefix=CONTAINER)
    printed, said = second.communicate("second", timeout=60)
    assert (second.returncode, printed) == (8, "")
    assert f"(process {number.strip()} on" in said
    first.communicate("first", timeout=60)
    assert first.returncode == 0
    assert out.read_text() == "first"
    assert os.listdir(out.parent) == [out.name]
    third = _start(before + WRITER, out, prefix=CONTAINER)
    assert third.stdout.readline() == number
    assert third.communicate("third", timeout=60)[0] == ""
    assert out.read_text() == "third"


@with_or_without_locks
def test_different_outputs_in_one_folder_are_written_at_once(tmp_path, before):
    writers = {name: _started(before + WRITER, tmp_path / name) for name in ("a.tif", "b.tif", "a.png")}
    for name, process in writers.items():
        process.communicate(name, timeout=60)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in writers}


def test_a_link_to_an_output_is_held_with_it(out):
    link = out.with_name("link.tif")
    link.symlink_to(out)
    first = _started(WRITER, link)
    with pytest.raises(BusyError), replacing(out):
        pass
    first.communicate("first", timeout=60)
    assert out.read_text() == "first"


def _stop_beside_an_unsigned_claim(process, folder):
    """Stop a process, but not in the moment in which its claim has no name yet: such a claim has to expire."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        if all(claim.stat().st_size for claim in folder.glob(".*.lease")):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    pytest.fail("the claim never got a name")


@posix
@with_or_without_locks
def test_killed_at_any_moment_leaves_the_whole_file_or_none_and_the_next_run_works(out, before, figures):
    size, chance = 3_000_000, random.Random(7)
    program = f"""
import sys
from isbi_infer.files import replacing
print("started", flush=True)
for _ in range(10_000):
    with replacing(sys.argv[1]) as temporary, temporary.open("wb") as file:
        for _ in range(30):
            file.write(sys.argv[2].encode() * {size // 30})
"""
    letters = "abcd" if before else "abcdefghijkl"
    figures(kills=len(letters))
    for letter in letters:
        process = _started(before + program, out, letter)
        time.sleep(chance.uniform(0, 0.1))
        _stop_beside_an_unsigned_claim(process, out.parent)
        process.kill()
        process.communicate(timeout=60)
        if out.exists():
            content = out.read_bytes()
            assert len(content) == size
            assert len(set(content)) == 1
        after = _start(before + WRITER, out)
        assert after.communicate("z" * size, timeout=60)[0], letter
        assert after.returncode == 0
        assert out.read_text() == "z" * size
        assert os.listdir(out.parent) == [out.name]


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@with_or_without_locks
def test_a_stopped_run_leaves_nothing_behind(out, number, code, before):
    out.write_text("old")
    process = _started(before + WRITER, out)
    assert len(os.listdir(out.parent)) > 1
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert out.read_text() == "old"
    assert os.listdir(out.parent) == [out.name]


def test_the_lock_of_a_killed_run_is_taken_over_and_said(out, caplog):
    killed = _started(WRITER, out)
    killed.kill()
    killed.communicate(timeout=60)
    with replacing(out) as temporary:
        temporary.write_text("new")
    assert f"{out}: an earlier run (process {killed.pid} on " in caplog.text
    assert "its lock is taken over" in caplog.text
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize(
    "left",
    [
        json.dumps({"host": "elsewhere", "process": 1, "since": "2026-01-01T00:00:00+00:00"}),
        '{"host": "elsewhere", "proc',
        "[1, 2]",
        "\0" * 100,
        "",
    ],
)
def test_what_stands_in_a_free_lock_is_only_shown(out, left, caplog):
    out.with_name(".out.tif.lock").write_text(left)
    with replacing(out) as temporary:
        temporary.write_text("new")
    assert out.read_text() == "new"
    assert os.listdir(out.parent) == [out.name]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(left)
    assert ("'elsewhere' since 2026-01-01" in caplog.text) == ("since" in left)


def test_a_run_that_ended_well_leaves_nothing_to_take_over(out, caplog):
    caplog.set_level(logging.DEBUG)
    for text in ("one", "two"):
        process = _started(WRITER, out)
        process.communicate(text, timeout=60)
        with replacing(out) as temporary:
            temporary.write_text("new")
    assert caplog.records == []


@posix
def test_a_link_in_the_place_of_the_lock_is_not_written_through(out):
    victim = out.with_name("victim")
    victim.write_text("precious")
    lock = out.with_name(".out.tif.lock")
    lock.symlink_to(victim)
    with pytest.raises(OutputError), replacing(out):
        pass
    lock.unlink()
    lock.hardlink_to(victim)
    with replacing(out) as temporary:
        temporary.write_text("new")
    assert victim.read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root has several users")
def test_the_lock_of_another_user_is_respected_and_taken_over():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        out = folder / "out.tif"
        first = _started(WRITER, out)
        script = textwrap.dedent("""
            import os, sys
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        """)
        script_and = "import isbi_infer.files, isbi_infer.terminal\n" + script + WRITER
        second = _start(script_and, out)
        assert second.communicate("second", timeout=60)[0] == ""
        assert second.returncode == 8
        first.kill()
        first.communicate(timeout=60)
        second = _start(script_and, out)
        _, said = second.communicate("second", timeout=60)
        assert second.returncode == 0, said
        assert f"an earlier run (process {first.pid} on " in said
        assert out.read_text() == "second"
        assert os.listdir(folder) == ["out.tif"]


@posix
def test_a_child_process_does_not_keep_the_lock(out):
    program = """
import os, sys, time
from isbi_infer.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("first")
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("again")
print(child, flush=True)
"""
    process = _start(program, out)
    child = int(process.stdout.readline())
    try:
        with replacing(out) as temporary:
            temporary.write_text("second")
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate(timeout=60)
    assert out.read_text() == "second"


# What a child says that was forked off while a lock is held, also by another thread in the very moment.
FORKED = """
import os, sys, time
from pathlib import Path
from isbi_infer import locks

def in_child(act):
    child = os.fork()
    if child == 0:
        act()
        sys.exit(0)  # by way of the lock's end
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def ask():
    try:
        with locks.locked(path, "out"):
            print("has it", flush=True)
    except locks.LockedError as error:
        print("held by", error, flush=True)

path = Path(sys.argv[1]).resolve()
print(os.getpid(), flush=True)
with locks.locked(path, "out") as lock:
    assert in_child(ask) == 0
    assert in_child(lambda: print("lost" if lock.lost else "ours", flush=True)) == 0
    with locks._guard:
        assert in_child(ask) == 0
    ask()
    assert not lock.lost
    assert len(os.listdir(path.parent)) == 1
    if sys.argv[2] == "killed":
        if os.fork() == 0:
            os.kill(os.getppid(), 9)
        time.sleep(60)
in_child(ask)
assert os.listdir(path.parent) == []
"""


@posix
@with_or_without_locks
def test_a_child_neither_holds_nor_ends_what_its_parent_holds(tmp_path, before):
    done = subprocess.run(
        [sys.executable, "-c", before + FORKED, str(tmp_path / ".out.lock"), "ends"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parent, *said = done.stdout.splitlines()
    held, lost, held_too, own, after = said
    assert held.startswith(f"held by process {parent} on ")
    assert (lost, held_too, own, after) == ("lost", held, "held by in this process", "has it")


@posix
def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    lock = tmp_path / ".out.lock"
    parent = _start(FORKED, lock, "killed", start_new_session=True)
    try:
        assert parent.wait(60) == -signal.SIGKILL
        with locked(lock, "out"):
            pass
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate(timeout=60)


def test_a_folder_and_the_files_in_it_are_locked_apart(tmp_path):
    with locked_folder(tmp_path):
        with replacing(tmp_path / "out.tif") as temporary:
            temporary.write_text("new")
        with pytest.raises(BusyError, match=r"another run is writing into this folder \(in this process\)"):
            locked_folder(tmp_path / ".." / tmp_path.name).__enter__()
    assert os.listdir(tmp_path) == ["out.tif"]


@pytest.fixture
def without_locks(monkeypatch):
    """Let this process see a file system without locks, on which claims expire early."""
    exec(NO_LOCKS.replace("fcntl.flock = flock", ""), scope := {})
    monkeypatch.setattr("fcntl.flock", scope["flock"])
    monkeypatch.setattr("isbi_infer.locks._LEASE_S", 1.5)


HURRIED = NO_LOCKS + "import isbi_infer.locks; isbi_infer.locks._LEASE_S = 1.5\n"


@posix
def test_a_file_system_without_locks_is_said(out, without_locks, caplog):
    with replacing(out) as temporary:
        temporary.write_text("new")
    assert f"{out}: the file system has no locks (No locks available)" in caplog.text
    assert out.read_text() == "new"
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.skipif(not _can_unshare(), reason="no host name of one's own may be made here")
def test_without_locks_a_run_on_another_host_is_taken_over_once_it_no_longer_lives(
    out, without_locks, caplog
):
    elsewhere = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    first = _started(HURRIED + WRITER, out, prefix=elsewhere)
    time.sleep(3.5)  # longer than a claim lasts that is not refreshed
    with pytest.raises(BusyError, match="on 'elsewhere'"), replacing(out):
        pass
    first.kill()
    first.communicate(timeout=60)
    with pytest.raises(BusyError), replacing(out):  # for all that can be known by now, it may live
        pass
    time.sleep(3)
    with replacing(out) as temporary:
        temporary.write_text("second")
    assert "to see whether process" in caplog.text
    assert "the lock of an earlier run is taken over" in caplog.text
    assert out.read_text() == "second"
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.skipif(not _can_unshare(), reason="no host name of one's own may be made here")
def test_without_locks_a_claim_of_the_future_does_not_last_until_then(out, without_locks, caplog):
    elsewhere = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    first = _started(HURRIED + WRITER, out, prefix=elsewhere)
    first.kill()
    first.communicate(timeout=60)
    (claim,) = out.parent.glob(".*.lease")
    os.utime(claim, (time.time() + 10**6,) * 2)  # then the clock was set back
    with replacing(out) as temporary:
        temporary.write_text("second")
    assert "to see whether process" in caplog.text
    assert out.read_text() == "second"
    assert os.listdir(out.parent) == [out.name]


@posix
def test_without_locks_a_run_that_stood_still_leaves_the_output_to_the_one_that_took_over(out, without_locks):
    first = _started(HURRIED + WRITER, out)
    first.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    with replacing(out) as temporary:
        first.send_signal(signal.SIGCONT)
        time.sleep(1.5)  # its heart beats again
        _, said = first.communicate("first", timeout=60)
        assert first.returncode == 8
        assert "stood still" in said
        temporary.write_text("second")
    assert out.read_text() == "second"
    assert os.listdir(out.parent) == [out.name]
