"""Runs on a Dask cluster, in real processes: the bytes of a run without one, whoever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from test_blocks import ASKED, PROGRAM, files, infer
from volume_files import pixels, write_omezarr

pytest.importorskip("distributed")

DASK = (sys.executable, "-m")
BLOCK = ("--block", "1,256,640")  # fifteen of them


@pytest.fixture(scope="module")
def whole(tiff, tmp_path_factory):
    """The files of a run without a cluster."""
    out = tmp_path_factory.mktemp("whole") / "out.ome.zarr"
    assert infer(tiff, "-o", out, *BLOCK, "--pyramid").returncode == 0
    return files(out)


@contextmanager
def cluster(folder, workers=2, preload="", options=("--no-nanny",), within=()):
    """Start a scheduler, and workers within a command; yield its file, its process and those of the workers."""
    address = folder / "scheduler.json"
    scheduler_file = ("--scheduler-file", str(address))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    scheduler = subprocess.Popen(
        [*DASK, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", *scheduler_file], **quiet
    )
    command = [*within, *DASK, "distributed.cli.dask_worker", *scheduler_file]
    command += ["--nthreads", "1", "--no-dashboard", "--local-directory", str(folder), *options]
    if preload:
        (folder / "preload.py").write_text(preload)
        command += ["--preload", str(folder / "preload.py")]
    started = [subprocess.Popen(command, **quiet) for _ in range(workers)]
    try:
        wait_for_workers(address, workers)
        yield address, scheduler, started
    finally:
        # A worker that is asked to end waits for its scheduler; one with a nanny must be asked, to end its child.
        end = subprocess.Popen.kill if "--no-nanny" in options else subprocess.Popen.terminate
        for process in (*started, scheduler):
            end(process)
        for process in (*started, scheduler):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_workers(address, count):
    from distributed import Client

    deadline = time.monotonic() + 60
    while not (address.exists() and address.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with Client(scheduler_file=str(address), set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)


def begin(tiff, out, address, *options):
    command = [PROGRAM, tiff, "-o", out, *BLOCK, "--cluster", address, *options, *ASKED]
    return subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_blocks(out, count):
    """Wait until so many shards are there."""
    deadline = time.monotonic() + 90
    stored = out.with_name(out.name + ".partial") / "volume" / "0" / "c"
    while sum(path.is_file() for path in stored.rglob("*")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def one_line(text):
    return [line for line in text.splitlines() if not line.startswith("isbi-infer: note:")]


def test_a_cluster_on_this_machine_writes_the_same_bytes(tmp_path, tiff, whole):
    out = tmp_path / "out.ome.zarr"
    done = infer(tiff, "-o", out, *BLOCK, "--pyramid", "--cluster", "local:2")
    assert done.returncode == 0, done.stderr
    assert files(out) == whole
    assert "3 of 15 blocks hold no tissue: left out, and stored as membrane" in done.stderr


def test_workers_read_the_level_that_the_run_reads(tmp_path, tiny, volume_ZYX):
    fine_ZYX = volume_ZYX[:2].repeat(2, axis=1).repeat(2, axis=2)
    levels = {
        "names": ("1", "2"),
        "scale": (50, 2.5, 2.5),
    }  # the second, named "2", is of the model's pixel size
    path = write_omezarr(tmp_path / "in.ome.zarr", [fine_ZYX, volume_ZYX[:2]], **levels)
    asked = ("--model", tiny, "--provider", "cpu")
    for out, options in (("here", ()), ("there", ("--cluster", "local:1"))):
        done = infer(path, "-o", tmp_path / f"{out}.ome.zarr", *options, asked=asked)
        assert done.returncode == 0, done.stderr
        assert "level 2 of 5 nm is read" in done.stderr
    assert pixels(tmp_path / "here.ome.zarr").shape == (2, 560, 640)
    assert files(tmp_path / "there.ome.zarr") == files(tmp_path / "here.ome.zarr")


DISK_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MOUNTED = 'mount -t tmpfs none "$0" && exec "$@"'


def can_mount(folder):
    try:
        mounted = subprocess.run([*DISK_OF_ITS_OWN, MOUNTED, folder, "true"], check=False)
    except FileNotFoundError:
        return False
    return mounted.returncode == 0


@pytest.mark.parametrize("there", ["nothing", pytest.param("another run's", marks=pytest.mark.more)])
def test_a_worker_that_does_not_see_the_output_is_named_before_any_work(tmp_path, tiff, there):
    results = tmp_path / "results"
    results.mkdir()
    if not can_mount(results):
        pytest.skip("no disk of one's own may be mounted here")
    out = results / "out.ome.zarr"
    mounted = MOUNTED
    if there != "nothing":
        mounted = mounted.replace("&&", f"&& mkdir {out}.partial && echo {{}} > {out}.partial/plan.json &&")
    within = (*DISK_OF_ITS_OWN, mounted, str(results))
    with cluster(tmp_path, workers=1, within=within) as (address, *_):
        done = infer(tiff, "-o", out, *BLOCK, "--cluster", address)
    assert done.returncode == 2, done.stderr
    (line,) = one_line(done.stderr)
    assert f"{out}.partial is not there, or another folder than here; write to where all see it" in line
    assert list(results.iterdir()) == []


def test_a_worker_that_is_killed_changes_nothing(tmp_path, tiff, whole):
    out = tmp_path / "out.ome.zarr"
    with cluster(tmp_path) as (address, _, workers):
        run = begin(tiff, out, address, "--pyramid")
        wait_for_blocks(out, 2)
        workers[0].kill()
        _, said = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert files(out) == whole


TELLS_WHO_HALVES = """
import os
from isbi_infer.volumes.zarr.writer import OmeZarrSink
if OmeZarrSink.halve.__name__ == "halve":  # Dask loads this twice
    plain = OmeZarrSink.halve
    def tell(self, number, index):
        with open(os.environ["HALVED"], "a") as file:
            print(os.getpid(), number, index, file=file)
        plain(self, number, index)
    OmeZarrSink.halve = tell
"""


@pytest.mark.more
def test_the_pyramid_is_made_by_the_workers(tmp_path, tiff, whole, monkeypatch):
    halved = tmp_path / "halved"
    monkeypatch.setenv("HALVED", str(halved))
    out = tmp_path / "out.ome.zarr"
    with cluster(tmp_path, preload=TELLS_WHO_HALVES) as (address, _, workers):
        done = infer(tiff, "-o", out, *BLOCK, "--pyramid", "--cluster", address)
    assert done.returncode == 0, done.stderr
    assert files(out) == whole
    lines = [line.split() for line in halved.read_text().splitlines()]
    shards = [
        path.relative_to(out).parts for path in out.rglob("c/*/*/*") if path.relative_to(out).parts[0] != "0"
    ]
    assert {process for process, _, _ in lines} <= {str(worker.pid) for worker in workers}
    assert len({(number, index) for _, number, index in lines}) == len(shards) > 4


@pytest.mark.more
def test_a_run_whose_scheduler_is_killed_is_gone_on_with(tmp_path, tiff, whole):
    out = tmp_path / "out.ome.zarr"
    with cluster(tmp_path) as (address, scheduler, _):
        run = begin(tiff, out, address, "--pyramid")
        wait_for_blocks(out, 2)
        scheduler.kill()
        _, said = run.communicate(timeout=200)
    assert run.returncode == 3, said
    assert "--resume" in said
    (line,) = one_line(said)
    assert "the scheduler was lost" in line
    done = infer(tiff, "-o", out, *BLOCK, "--pyramid", "--resume")
    assert done.returncode == 0, done.stderr
    assert files(out) == whole


@pytest.mark.more
def test_ctrl_c_leaves_the_blocks_that_are_done_and_says_how_to_go_on(tmp_path, tiff, whole):
    out = tmp_path / "out.ome.zarr"
    run = begin(tiff, out, "local:2", "--pyramid")
    wait_for_blocks(out, 2)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=100)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert "--resume" in said
    done = infer(tiff, "-o", out, *BLOCK, "--pyramid", "--resume")
    assert done.returncode == 0, done.stderr
    assert files(out) == whole


KILLS_AT_3 = """
import os
from isbi_infer.run import worker
if worker.Job.compute.__name__ == "compute":  # Dask loads this twice
    plain = worker.Job.compute
    def kill(self, index):
        if index == 3:
            os._exit(1)
        return plain(self, index)
    worker.Job.compute = kill
"""


@pytest.mark.more
def test_a_block_that_kills_every_worker_is_named_and_the_others_are_done(tmp_path, tiff, expected_ZYX):
    out = tmp_path / "out.ome.zarr"
    with cluster(tmp_path, preload=KILLS_AT_3, options=("--nanny",)) as (address, _, _):
        done = infer(tiff, "-o", out, "--block", "1,768,768", "--cluster", address)
    assert done.returncode == 7, done.stderr
    (line,) = one_line(done.stderr)
    assert "1 of 5 blocks failed (3)" in line
    assert "the others are done" in line
    done = infer(tiff, "-o", out, "--block", "1,768,768", "--resume")
    assert "4 of 5 blocks were there already" in done.stderr
    np.testing.assert_array_equal(pixels(out), expected_ZYX)


@pytest.mark.parametrize(
    ("preload", "options", "code", "what"),
    [
        (
            "from isbi_infer.run import worker\nworker.__version__ = '0.0.1'",
            ("--no-nanny",),
            3,
            "has isbi-infer 0.0.1",
        ),
        pytest.param(
            "from isbi_infer.run import worker\nworker.processor_kind = lambda: 'z80'",
            ("--no-nanny",),
            3,
            "its processor is z80",
            marks=pytest.mark.more,
        ),
        pytest.param(
            "import sys\nsys.modules['isbi_infer'] = None",
            ("--no-nanny",),
            3,
            "does not run",
            marks=pytest.mark.more,
        ),
        ("", ("--no-nanny", "--memory-limit", "4MiB"), 7, "GiB of memory, this run needs about"),
    ],
    ids=["another version", "another processor", "not installed", "little memory"],
)
def test_workers_that_cannot_take_part_are_named_before_any_work(
    tmp_path, tiff, preload, options, code, what
):
    out = tmp_path / "out.ome.zarr"
    with cluster(tmp_path, workers=1, preload=preload, options=options) as (address, _, _):
        done = infer(tiff, "-o", out, *BLOCK, "--cluster", address)
    assert done.returncode == code, done.stderr
    (line,) = one_line(done.stderr)
    assert what in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "code", "what"),
    [
        (
            ["--cluster", "quux://127.0.0.1:9"],
            3,
            "cannot be reached (ValueError: unknown address scheme 'quux'",
        ),
        (["--cluster", "tcp://127.0.0.1"], 3, "cannot be reached (ValueError: missing port number"),
        (["--cluster", "tls://127.0.0.1:9"], 3, "cannot be reached (TypeError: TLS expects"),
        pytest.param(["--cluster", "tcp://127.0.0.1:9"], 3, "cannot be reached", marks=pytest.mark.more),
        (["--cluster", "nowhere.json"], 3, "no such scheduler file"),
        (["--cluster", "quux"], 2, "neither local"),
        (["--cluster", "local:none"], 2, "expected local:N"),
        (["--cluster", "local:2", "--shard", "1/2"], 2, "leave --shard or --cluster out"),
    ],
)
def test_a_cluster_that_is_none_is_named_in_one_line_and_nothing_is_left(tmp_path, tiff, options, code, what):
    done = infer(tiff, "-o", tmp_path / "out.ome.zarr", *options)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert what in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="there is no such limit")
@pytest.mark.parametrize("files", [16, 40])
def test_a_cluster_that_may_not_open_its_files_is_7_and_names_the_limit(tmp_path, tiff, files):
    """So few that Dask tries for ever, and so few that its workers cannot be started."""
    command = [PROGRAM, tiff, "-o", tmp_path / "out.ome.zarr", "--cluster", "local:3", *ASKED]
    within = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    done = subprocess.run([*within, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert "--cluster local:3 cannot be started: it takes 51 open files here" in line
    assert "raise the limit (ulimit -n), or use fewer processes" in line
    assert not list(tmp_path.iterdir())


STARTS = """
import sys
from isbi_infer.run.cluster import connected
{change}
with connected("local:1") as cluster:
    print(len(cluster.workers()))
"""


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ("", "UsageError", 'put what it does below if __name__ == "__main__":'),
        (  # whatever Dask raises of it
            "import resource, isbi_infer.run.local_cluster as local\n"
            "local._check_open_files = lambda workers: None\n"
            "import distributed\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (26, 26))",
            "ResourceError",
            "--cluster local:1 cannot be started: too many files are open; raise the limit (ulimit -n)",
        ),
        (
            "import multiprocessing\n"
            "if multiprocessing.parent_process():  # and not __name__\n"
            "    sys.exit('broken here')",
            "DependencyError",
            "--cluster local:1 cannot be started (RuntimeError: Nanny failed to start worker process); what its "
            "processes say stands above",
        ),
    ],
    ids=["no guard", "open files", "broken worker"],
)
def test_a_program_whose_cluster_cannot_be_started_gets_one_error_that_says_why(tmp_path, change, kind, said):
    (tmp_path / "program.py").write_text(STARTS.format(change=change))
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith(f"isbi_infer.errors.{kind}: ")
    assert said in last


def test_dask_that_is_not_installed_is_named_and_a_run_without_a_cluster_does_not_need_it(tmp_path, tiff):
    script = (
        "import json, sys\n"
        "sys.modules['distributed'] = sys.modules['dask'] = None\n"
        "from isbi_infer.cli import main\n"
        "sys.argv = ['isbi-infer', *json.loads(sys.argv[1])]\n"
        "main()\n"
    )

    def run(*options):
        arguments = json.dumps([str(tiff), "-o", str(tmp_path / "out.ome.zarr"), *options, *ASKED])
        command = [sys.executable, "-c", script, arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    missing = run("--cluster", "local")
    assert missing.returncode == 3
    assert missing.stderr == "isbi-infer: distributed not installed; run: pip install 'isbi-infer[cluster]'\n"
    assert not list(tmp_path.iterdir())
    assert run().returncode == 0
