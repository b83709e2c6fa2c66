"""Job arrays of SLURM and LSF, as docs/scale.md hands them in: together, the bytes of the run in one piece.

The schedulers' commands are small programs here, which do to a script what the real ones do: SLURM starts a copy of
it from its spool folder, LSF passes a command line to a shell, and both run tasks in any order and several at once.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from volume_files import write_omezarr

ROOT = Path(__file__).parents[3]
PAGE, SCRIPT = ROOT / "docs" / "scale.md", ROOT / "docs" / "shares.sh"
BIN = Path(sys.executable).parent
NOT_BEGUN = 0.2  # s; Python is still starting

SCHEDULER = """\
#!{python}
import argparse, os, pathlib, random, re, shutil, signal, subprocess, sys

class Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.exit(f"{{sys.argv[0]}}: {{message}}")

parser = Parser(allow_abbrev=False)
slurm = pathlib.Path(sys.argv[0]).name == "sbatch"
for option in ("--array", "--cpus-per-task", "--mem") if slurm else ("-J", "-R", "-n", "-o"):
    parser.add_argument(option, dest=option.strip("-").replace("-", "_"), default="")
parser.add_argument("command", nargs=argparse.REMAINDER)
asked = parser.parse_args()
array = asked.array if slurm else (re.fullmatch(r"[^[]*\\[(.*)\\]", asked.J) or ["", ""])[1]
indices = []
for part in filter(None, array.split(",")):
    first, _, last = part.partition("-")
    indices += range(int(first), int(last or first) + 1)
if slurm:
    script, *arguments = asked.command
    if not pathlib.Path(script).read_text().startswith("#!"):
        sys.exit("sbatch: error: This does not look like a batch script.")
    spool = pathlib.Path(os.environ["SPOOL"]) / "slurm_script"
    shutil.copy(script, spool)
    command = [spool, *arguments]
else:
    command = ["sh", "-c", " ".join(asked.command)]

def start(index):
    if slurm:
        told = {{"SLURM_JOB_ID": "7"}}
        if index:
            told |= {{"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": str(len(indices))}}
    else:
        told = {{"LSB_JOBID": "7", "LSB_JOBINDEX": str(index), "LSB_JOBINDEX_END": str(max(indices, default=0))}}
    with open(f"task.{{index}}.log", "w") as log:
        return subprocess.Popen(command, env=os.environ | told, stdout=log, stderr=log, start_new_session=True)

waiting, running, codes = indices or [0], {{}}, {{}}
random.Random(2012).shuffle(waiting)
while waiting or running:
    while waiting and len(running) < 2:
        index = waiting.pop()
        running[index] = start(index)
        if str(index) == os.environ.get("NODE_FAILS_UNDER"):
            try:
                running[index].wait({not_begun})
            except subprocess.TimeoutExpired:
                os.killpg(running[index].pid, signal.SIGKILL)
    index = next(iter(running))
    codes[index] = running.pop(index).wait()
pathlib.Path("accounting").write_text("".join(f"{{index}}: {{code}}\\n" for index, code in sorted(codes.items())))
print("Submitted batch job 7" if slurm else "Job <7> is submitted to default queue <normal>.")
"""


def command(program):
    """Return the page's first command of a scheduler."""
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.search(rf"^    ({program} .+)$", page, re.MULTILINE)[1]


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def asked(tiny):
    """Options of each run."""
    return f"--block 1,256,256 --provider cpu --model {tiny}"


@pytest.fixture(scope="module")
def whole(volume_ZYX, asked, tmp_path_factory):
    """The volume of the page, and its result by one run."""
    folder = tmp_path_factory.mktemp("whole")
    write_omezarr(folder / "volume.ome.zarr", [volume_ZYX])
    command = [BIN / "isbi-infer", "volume.ome.zarr", "-o", "result.ome.zarr", *asked.split()]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def desk(whole, tmp_path):
    """A folder with the volume and the script, and the schedulers' commands beside it."""
    folder, programs, spool = tmp_path / "desk", tmp_path / "bin", tmp_path / "spool"
    for made in (folder, programs, spool):
        made.mkdir()
    (folder / "volume.ome.zarr").symlink_to(whole / "volume.ome.zarr")  # a copy is another input
    shutil.copy(SCRIPT, folder)
    for name in ("sbatch", "bsub"):
        (programs / name).write_text(SCHEDULER.format(python=sys.executable, not_begun=NOT_BEGUN))
        (programs / name).chmod(0o755)
    return folder


def hand_in(line, desk, **environment):
    """Run a scheduler's command; return the exit code of each task."""
    paths = os.pathsep.join(map(str, (desk.parent / "bin", BIN, os.environ["PATH"])))
    told = os.environ | {"PATH": paths, "SPOOL": str(desk.parent / "spool")} | environment
    done = subprocess.run(
        ["bash", "-c", line], cwd=desk, env=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pairs = (said.split(": ") for said in (desk / "accounting").read_text().splitlines())
    return {int(index): int(code) for index, code in pairs}


@pytest.mark.parametrize("program", ["sbatch", pytest.param("bsub", marks=pytest.mark.more)])
def test_a_job_array_makes_the_bytes_of_one_run_also_if_a_task_is_killed_and_handed_in_again_alone(
    desk, whole, asked, program
):
    codes = hand_in(f"{command(program)} {asked}", desk, NODE_FAILS_UNDER="3")
    assert {index: code for index, code in codes.items() if code} == {3: -9}, codes
    assert not (desk / "result.ome.zarr").exists()
    alone = re.sub(r"(--array=|\[)1-\d+", r"\g<1>3", command(program))
    assert alone != command(program)
    assert hand_in(f"{alone} {asked}", desk) == {3: 0}
    assert files(desk / "result.ome.zarr") == files(whole / "result.ome.zarr")
    assert not list(desk.glob("*.partial"))


@pytest.mark.parametrize("program", ["sbatch", pytest.param("bsub", marks=pytest.mark.more)])
def test_a_job_that_is_no_array_says_how_to_make_one(desk, program):
    line = re.sub(r'--array=\S+ |-J "[^"]*" ', "", command(program))
    assert hand_in(line, desk) == {0: 2}
    said = (desk / "task.0.log").read_text()
    assert "hand it in as a job array, sbatch --array=1-8" in said
    assert said.count("\n") == 1


def test_a_task_beyond_the_number_of_shares_is_refused_in_one_line(desk):
    line = re.sub("--array=1-8", "--array=9", command("sbatch"))
    assert hand_in(line, desk) == {9: 2}
    said = (desk / "task.9.log").read_text()
    assert "share 9/8 is invalid" in said
    assert said.count("\n") == 1
    assert not list(desk.glob("result*"))


def test_too_few_arguments_are_refused_in_one_line(desk):
    line = command("sbatch").rpartition(" ")[0]
    codes = hand_in(line, desk)
    assert set(codes.values()) == {2}
    assert (desk / "task.1.log").read_text() == (
        "shares.sh: expected SHARES INPUT OUTPUT [OPTION...], found 2 arguments\n"
    )
