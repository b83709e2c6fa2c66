"""One Segmenter among threads and processes: each call has its own result, and nothing of the process is touched."""

import copy
import importlib.util
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer import Segmenter

PROVIDERS = ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


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


def compute(segmenter, image_ZYX):
    return segmenter(image_ZYX)


def test_dask_hands_a_segmenter_to_its_workers(segmenter, stacks):
    from distributed.protocol import deserialize, serialize

    other = deserialize(*serialize(copy.copy(segmenter)))
    np.testing.assert_array_equal(compute(other, stacks[0]), segmenter(stacks[0]))
