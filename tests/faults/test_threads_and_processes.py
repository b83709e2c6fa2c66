"""One Segmenter among threads and processes: each call has its own result, and nothing of the process is touched."""

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer import Segmenter
from isbi_models import default_model

PROVIDERS = ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


def _program(code, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module", params=PROVIDERS)
def segmenter(request):
    with Segmenter("isbi2012-unet-b32", provider=request.param, precision="int8", tile=208) as opened:
        yield opened


@pytest.fixture(scope="module")
def stacks():
    return [synthetic_stack(1, 90 + 10 * i, 220, seed=i)[0] for i in range(4)]


def test_one_segmenter_in_8_threads_gives_what_it_gives_in_one_also_beside_streams_left_early(
    segmenter, stacks
):
    expected = [segmenter(stack_ZYX) for stack_ZYX in stacks]

    def use(turn):
        if turn % 4 == 3:  # left after one section of many
            sections = (stacks[0][0] for _ in range(50))
            with closing(segmenter.stream(sections)) as results:
                return (next(results) == expected[0][0]).all()
        return (segmenter(stacks[turn % 4]) == expected[turn % 4]).all()

    before = set(threading.enumerate())
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(32)))
    assert set(threading.enumerate()) <= before


def test_standard_output_is_untouched_while_sessions_open_in_threads(capfd):
    out, err = sys.stdout, sys.stderr
    opened = []
    threads = [
        threading.Thread(target=lambda p=p: opened.append(Segmenter(provider=p)))
        for p in (*PROVIDERS, *PROVIDERS)
    ]
    for thread in threads:
        thread.start()
    printed = 0
    while any(thread.is_alive() for thread in threads):
        assert (sys.stdout, sys.stderr) == (out, err)
        print("mine")
        printed += 1
        threads[0].join(0.01)
    for thread in threads:
        thread.join()
    assert len(opened) == len(threads)
    assert capfd.readouterr() == ("mine\n" * printed, "")


# What is inherited by a fork, handed to one, or opened in a process of its own.
PROGRAM = """
import json, multiprocessing, sys
from isbi_infer import Segmenter
from isbi_infer.sample import synthetic_stack

def inherited(_):
    return segmenter(image_ZYX).tobytes()

def handed_over(other):
    return other(image_ZYX).tobytes()

image_ZYX = synthetic_stack(1, 70, 90)[0]
if __name__ == "__main__":
    segmenter = Segmenter(provider=sys.argv[1], precision="int8")
    same = {}
    for method in ("fork", "spawn"):
        expected = segmenter(image_ZYX).tobytes()
        with multiprocessing.get_context(method).Pool(1) as pool:
            same[method] = pool.map_async(handed_over, [segmenter]).get(60)[0] == expected
            if method == "fork":
                same["inherited"] = pool.map_async(inherited, [0]).get(60)[0] == expected
            pool.terminate()
    print(json.dumps(same))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_pickle_copy_fork_and_spawn_open_the_model_again(tmp_path, provider):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore", tmp_path / "program.py", provider]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"fork": True, "inherited": True, "spawn": True}


# In children that end as programs do, not as those of multiprocessing, which leave all that is open as it is.
FORKS = """
import json, os, sys, time
from isbi_infer import Segmenter
from isbi_infer.sample import synthetic_stack

def opened():
    return Segmenter(provider=sys.argv[1], precision="int8")

def use():
    assert segmenter(image_ZYX).tobytes() == (expected or segmenter(image_ZYX).tobytes())

def close():
    segmenter.close()

def drop():
    global segmenter
    del segmenter

def another():
    global segmenter
    segmenter = opened()
    use()

def grandchild():
    sys.exit(fork(use))

def fork(*actions):
    child = os.fork()
    if child == 0:
        for action in actions:
            action()
        sys.exit(0)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hangs"

image_ZYX, expected = synthetic_stack(1, 70, 90)[0], None
segmenter = opened()
found = {}
for state in ("new", "used", "closed"):
    ways = [[], [close], [drop], [use], [use, close], [use, grandchild]] if state != "closed" else [[], [another]]
    if state == "used":
        expected = segmenter(image_ZYX).tobytes()
        for height in (100, 140, 180):  # more shapes than OpenVINO keeps compiled
            segmenter(synthetic_stack(1, height, 90)[0])
    elif state == "closed":
        segmenter.close()
    for way in ways:
        found[" ".join([state, *(action.__name__ for action in way)])] = fork(*way)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_child_that_closes_drops_or_uses_what_it_inherited_ends_well_and_so_does_its_own_child(provider):
    done = _program(FORKS, provider)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {way: code for way, code in found.items() if code != 0} == {}
    assert len(found) == 14
    assert done.stderr == ""


LEFT = """
import os, sys, threading
from isbi_infer import Segmenter
from isbi_infer.sample import synthetic_stack

def sections():
    for _ in range(1 if sys.argv[2] == "waits" else 50):
        yield image_YX
    threading.Event().wait()

image_YX = synthetic_stack(1, 400, 400)[0][0]
segmenter = Segmenter("isbi2012-unet-b32", provider=sys.argv[1], precision="int8", tile=304)
results = segmenter.stream(sections())
next(results)
if sys.argv[2] == "forked" and os.fork() == 0:
    next(results)
if sys.argv[2] == "raises":
    raise SystemExit(7)
if sys.argv[2] == "forked":
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("how", "code"), [("ends", 0), ("raises", 7), ("waits", 0)])
def test_a_program_may_end_while_a_stream_is_half_taken(provider, how, code):
    """Also one whose sections never come."""
    done = _program(LEFT, provider, how)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_stream_that_was_begun_before_a_fork_is_refused_in_the_child():
    """It would wait for threads that are not there."""
    done = _program(LEFT, "cpu", "forked")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "UsageError: a stream goes on only in the process that began it; begin another one"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_in_a_child_the_model_is_the_same_file_in_the_same_arithmetic(tmp_path):
    """Also where it was named by the file of another precision, and the working folder is another one by then."""
    for file in (default_model().files["int8"].path, default_model().files["float32"].path):
        shutil.copy(file, tmp_path)
    code = """
import os, sys
from isbi_infer import Segmenter
from isbi_infer.sample import synthetic_stack
image_ZYX = synthetic_stack(1, 70, 90)[0]
segmenter = Segmenter(sys.argv[1], provider="cpu", precision="fp32")
assert (segmenter.precision, segmenter.contract.precision) == ("fp32", "float32")
expected = segmenter(image_ZYX)
os.chdir("/")
if os.fork() == 0:
    plan = segmenter.plan((70, 90))
    assert (plan.precision, plan.model.sha256) == ("fp32", segmenter.model_sha256)
    assert (segmenter(image_ZYX) == expected).all()
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", code, default_model().files["int8"].path.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def compute(segmenter, image_ZYX):
    return segmenter(image_ZYX)


def test_dask_hands_a_segmenter_to_its_workers(segmenter, stacks):
    from distributed.protocol import deserialize, serialize

    other = deserialize(*serialize(copy.copy(segmenter)))
    np.testing.assert_array_equal(compute(other, stacks[0]), segmenter(stacks[0]))
