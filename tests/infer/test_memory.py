"""What memory there is: read from trees like those of Linux, and proved against a real limit."""

import os
import subprocess
import sys

import pytest

from isbi_infer.errors import UsageError
from isbi_infer.plan.memory import available_memory, parse_bytes

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Build a tree of /proc and /sys/fs/cgroup from {path: text}."""

    def build(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return build


def meminfo(gib):
    return {"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemFree: 9 kB\nMemAvailable:   {gib * 2**20} kB\n"}


def group(folder, limit, usage, dropped=0):
    """Files of a version 2 control group."""
    return {
        f"sys/fs/cgroup/{folder}memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}memory.current": f"{usage}\n",
        f"sys/fs/cgroup/{folder}memory.stat": f"anon 5\ninactive_file {dropped}\nactive_file 7\n",
    }


def test_this_machine_has_some_and_no_more_than_it_has():
    assert 2**20 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_without_groups_it_is_what_the_kernel_could_give(machine):
    assert available_memory(machine(meminfo(16))) == 16 * GIB


def test_a_group_leaves_its_limit_minus_its_use_without_droppable_caches(machine):
    files = {"proc/self/cgroup": "0::/a/b\n"} | group("a/b/", 4 * GIB, 3 * GIB, dropped=GIB)
    assert available_memory(machine(meminfo(16) | files)) == 2 * GIB


def test_a_group_further_up_counts_too(machine):
    files = {"proc/self/cgroup": "0::/a/b\n"} | group("a/b/", "max", GIB) | group("a/", 3 * GIB, GIB)
    assert available_memory(machine(meminfo(16) | files)) == 2 * GIB


def test_a_container_sees_its_group_at_the_top_whatever_the_path_says(machine):
    files = {"proc/self/cgroup": "0::/docker/0123/../x\n"} | group("", 5 * GIB, 2 * GIB)
    assert available_memory(machine(meminfo(16) | files)) == 3 * GIB


def test_groups_of_version_one_count(machine):
    top = "sys/fs/cgroup/memory/jobs/7/"
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/jobs/7\n0::/\n",
        top + "memory.limit_in_bytes": f"{2 * GIB}\n",
        top + "memory.usage_in_bytes": f"{GIB}\n",
        top + "memory.stat": f"total_inactive_file {GIB // 2}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
    }
    assert available_memory(machine(meminfo(16) | files)) == 3 * GIB // 2


def test_a_roomy_group_does_not_make_memory_that_is_not_there(machine):
    files = {"proc/self/cgroup": "0::/\n"} | group("", 99 * GIB, 0)
    assert available_memory(machine(meminfo(1) | files)) == GIB


def test_a_group_over_its_limit_leaves_nothing(machine):
    files = {"proc/self/cgroup": "0::/\n"} | group("", GIB, 2 * GIB)
    assert available_memory(machine(meminfo(16) | files)) == 0


def test_garbage_is_passed_over(machine):
    files = {"proc/self/cgroup": "nothing\n\n0::\n::::\n", "sys/fs/cgroup/memory.max": "\n"}
    assert available_memory(machine(meminfo(2) | files)) == 2 * GIB


def test_a_system_that_does_not_say_is_taken_to_have_half_of_its_memory(tmp_path):
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available_memory(tmp_path) == whole // 2


def test_a_limit_on_the_address_space_is_met_and_not_exceeded():
    """In a process of its own: nine tenths of what is said can be had, and a tenth more cannot."""
    code = (
        "import resource, numpy as np\n"
        "from isbi_infer.plan.memory import available_memory\n"
        "size = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))\n"
        "room = available_memory()\n"
        "np.empty(room * 9 // 10, np.uint8)\n"
        "try:\n"
        "    np.empty(room * 11 // 10, np.uint8)\n"
        "except MemoryError:\n"
        "    print(room)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 2**28 < int(done.stdout) <= 2**29


def test_a_plan_is_refused_where_no_memory_is_left_at_all():
    """In a process of its own, which has reached its limit when the plan is asked for."""
    code = (
        "import resource\n"
        "from isbi_infer import ResourceError, Segmenter\n"
        "from isbi_infer.plan.memory import available_memory\n"
        "segmenter = Segmenter(provider='cpu')\n"
        "spare = [object() for _ in range(10**6)]\n"
        "del spare\n"  # what Python allocates from now on
        "resource.setrlimit(resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))\n"
        "assert available_memory() == 0\n"
        "try:\n"
        "    plan = segmenter.plan((1, 20_000, 20_000))\n"
        "except ResourceError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "the memory allows 0 pixels a tile" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 * GIB), ("4G", 4 * GIB), ("512 MiB", GIB // 2), ("2.5gb", 2_500_000_000), ("100", 100)],
)
def test_amounts_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "4 Gi", "GiB", "0", "1e9", "nan"])
def test_what_is_no_amount_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="write it like 4GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["9000000000GiB", "9" * 400, "9" * 5000 + "GiB"])
def test_an_amount_that_no_machine_has_is_refused_in_few_words(text):
    with pytest.raises(UsageError, match="is beyond any machine; write it like 4GiB") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 120
