"""What README and docs show is what happens: figures, pictures, commands, their output, and Python."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile
import torch
import zarr
from drawn import synthetic_stack
from markdown_it import MarkdownIt
from skimage.measure import label

from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROGRAM = re.compile(r"isbi-\w+|python|pytest|make|pip|torchrun")
# What another machine, or a busy one, prints otherwise.
OF_THE_MACHINE = re.compile(r"\d+(?:\.\d+)?(?= (?:s|Mpx/s|MiB|GiB|workers?)\b)")


@dataclass(frozen=True)
class Block:
    """A fenced block with its language, or an indented one, which has none."""

    place: str
    fenced: bool
    language: str
    text: str


def blocks_of(page):
    name, tokens = page.relative_to(ROOT), MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [
        Block(f"{name}:{token.map[0] + 1}", token.type == "fence", token.info.strip(), token.content)
        for token in tokens
        if token.type in ("fence", "code_block")
    ]


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/CARD.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
BLOCKS = {page: blocks_of(page) for page in PAGES}
FOLLOWED = [page for page in PAGES if any(block.language in ("console", "python") for block in BLOCKS[page])]


def named(page):
    return str(page.relative_to(ROOT))


def test_the_tables_and_pictures_in_the_docs_are_drawn_from_the_stored_results():
    report = [sys.executable, "-m", "benchmarks.report", "--check"]
    result = subprocess.run(report, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, f"run: make bench-report\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_output_stands_in_a_page_but_below_a_prompt_in_a_console_block(page):
    """`console` and `python` are run below; an indented block shows commands alone."""
    for block in BLOCKS[page]:
        assert not block.fenced or block.language not in ("", "text", "bash", "sh", "shell"), block.place
        assert block.text.startswith("$ ") == (block.language == "console"), block.place


@pytest.fixture
def desk(tmp_path):
    """A folder with the files that the pages speak of, small ones."""
    image_ZYX, label_ZYX = (np.tile(stack_ZYX, (10, 1, 1)) for stack_ZYX in synthetic_stack(3, 64, 64))
    size = {"resolution": (2.5e6, 2.5e6), "resolutionunit": "CENTIMETER"}  # pixels of 4 nm
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack", **size)
    tifffile.imwrite(tmp_path / "labels.tif", label_ZYX, photometric="minisblack")
    large_YX = np.zeros((4096, 4096), "uint8")
    tifffile.imwrite(tmp_path / "large.tif", large_YX, photometric="minisblack", **size)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "stack.tif").read_bytes()[:70_000])
    return tmp_path


def on_two_cores():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def run(command, folder):
    """Run a command of a page and return what it prints, without the progress that a terminal wipes away."""
    if made := re.fullmatch(r"make (\S+)", command):
        said = subprocess.run(
            ["make", "-nB", "--no-print-directory", *made.groups()],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        command = said.stdout.strip().splitlines()[-1].replace(".venv/bin/", "")
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        preexec_fn=on_two_cores,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith(f"{command.split()[0]}: ")]
    assert done.returncode == 0 or errors, f"{command}\n{done.stderr}"
    return done.stdout.splitlines() + errors


def masked(lines):
    return [OF_THE_MACHINE.sub("#", line.rstrip()) for line in lines if line.strip()]


@pytest.mark.parametrize("page", FOLLOWED, ids=named)
def test_who_follows_a_page_from_top_to_bottom_sees_what_it_shows(page, desk):
    for block in BLOCKS[page]:
        if block.language == "python":
            done = subprocess.run(
                [sys.executable, "-c", block.text], cwd=desk, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block.place}\n{done.stderr}"
        elif block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                assert masked(run(command, desk)) == masked(shown.splitlines()), f"{block.place}: $ {command}"


def commands_of(page, followed=True):
    """Find the command lines of a page, as words; with or without those that are followed with their output."""
    for block in BLOCKS[page]:
        if not block.fenced or (followed and block.language == "console"):
            prompt = "$ " if block.fenced else ""
            for line in re.findall(
                rf"^{re.escape(prompt)}(.+)", block.text.replace("\\\n", " "), re.MULTILINE
            ):
                line = line.removeprefix(".venv/bin/")
                if PROGRAM.match(line):
                    yield block.place, shlex.split(line, comments=True)


@cache
def help_of(*program):
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def source_of(module):
    path = ROOT.joinpath(*module.split("."))
    return "".join(
        file.read_text() for file in ([path.with_suffix(".py")] if not path.is_dir() else path.glob("*.py"))
    )


def what_knows(program, words):
    """Return the text in which every option of a command must stand."""
    if program == "torchrun":
        return what_knows("isbi-train", words[words.index("isbi_train") + 1 :]) + "--nproc-per-node -m"
    if program == "python":
        return "-m" + (help_of(sys.executable, *words[:2]) if "isbi" in words[1] else source_of(words[1]))
    if program == "isbi-train" or words[0] in ("doctor", "models", "verify"):
        return help_of(BIN / program, words[0])
    return help_of(BIN / program)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_command_in_a_page_is_one_that_its_program_knows(page):
    for place, (program, *words) in commands_of(page):
        said = f"{place}: {program} {' '.join(words)}"
        if program == "make":
            assert subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True).returncode == 0, said
        elif program == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            asked = re.findall(r"(?:\.|isbi-infer|\.whl)\[([\w,]+)\]", " ".join(words))
            assert {extra for part in asked for extra in part.split(",")} <= set(extras), said
        elif program.startswith("pytest"):
            assert all(
                (ROOT / word).exists() for word in words if word.startswith(("tests", "benchmarks"))
            ), said
        else:
            known = what_knows(program, words)
            for option in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{said}: {option}"


def test_every_link_and_picture_of_the_first_page_leads_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_first_page_is_read_in_two_minutes():
    prose = [
        inline.content
        for inline in MarkdownIt().enable("table").parse((ROOT / "README.md").read_text(encoding="utf-8"))
        if inline.type == "inline"
    ]
    words = re.sub(r"\]\([^)]*\)", "]", " ".join(prose)).split()
    assert len(words) < 500


SHORT = ["--epochs=1", "--steps=1", "--batch=1", "--crop=64"]  # of a training
ELSEWHERE = {  # commands that are not run here, and why
    "isbi-infer stack.tif --provider cuda": "takes a GPU",
    "isbi-train download": "takes the network",
    "isbi-infer volume.ome.zarr -o result.ome.zarr --cluster tcp://node17:8786": "takes that machine",
    "isbi-infer --install-completion": "changes the shell of whoever runs it",
    "isbi-train --install-completion": "changes the shell of whoever runs it",
    "isbi-export --install-completion": "changes the shell of whoever runs it",
}


def own_commands(page):
    """Find the commands of this project in a page whose output is not shown, and which run anywhere."""
    for place, words in commands_of(page, followed=False):
        line = shlex.join(words)
        if words[0].startswith("isbi-") and line not in ELSEWHERE:
            yield place, words


WITH_COMMANDS = [page for page in PAGES if any(own_commands(page))]


def write_volume(path, image_ZYX):
    """Write an OME-Zarr image of one level, with pixels of 4 nm."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=image_ZYX, chunks=(1, 64, 64))
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [50, 4, 4]}]}
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}


@pytest.fixture
def workshop(desk):
    """A desk with stacks to train on, a volume, ids, and models of several origins."""
    image_ZYX, label_ZYX = tifffile.imread(desk / "stack.tif"), tifffile.imread(desk / "labels.tif")
    for folder in ("DIR", "DATA", "data/isbi2012"):
        (desk / folder).mkdir(parents=True)
        shutil.copy(desk / "stack.tif", desk / folder / "train-volume.tif")
        shutil.copy(desk / "labels.tif", desk / folder / "train-labels.tif")
    for name in ("train-volume.tif", "train-labels.tif"):
        shutil.copy(desk / "DIR" / name, desk / name)
    shutil.copy(desk / "stack.tif", desk / "five.tif")
    write_volume(desk / "volume.ome.zarr", image_ZYX)
    write_options = {"photometric": "minisblack"}
    tifffile.imwrite(desk / "test-volume.tif", image_ZYX[:, ::-1], **write_options)
    tifffile.imwrite(desk / "tissue.tif", np.full(image_ZYX.shape, 255, "uint8"), **write_options)
    tifffile.imwrite(desk / "prediction.tif", (label_ZYX > 0).astype("float32"), **write_options)
    ids_ZYX = np.stack([label(section_YX > 0) for section_YX in label_ZYX]).astype("uint16")
    tifffile.imwrite(desk / "ids.tif", ids_ZYX, **write_options)
    (desk / "models").mkdir()
    models = ROOT / "models"
    shutil.copy(models / "isbi2012-unet-b32.pth", desk / "model.pth")
    for name in ("model.onnx", "a.onnx", "b.onnx"):
        shutil.copy(models / "isbi2012-unet-b32.onnx", desk / name)
    foreign = onnx.load(models / "isbi2012-unet-b32.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, desk / "foreign.onnx")
    foreign.graph.output[0].name = foreign.graph.node[-1].input[0]
    del foreign.graph.node[-1]  # its sigmoid
    onnx.save(foreign, desk / "logits.onnx")
    torch.save(UNet(NetworkConfig.of("valid-unet", base=4)).state_dict(), desk / "classic.pth")
    return desk


@pytest.mark.more
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_every_command_of_a_page_runs_as_it_stands_there(page, workshop):
    """But that a training takes a step."""
    commands = list(own_commands(page))
    if not any("runs/mine" in words for _, words in commands):  # of a page before
        train = ["fit", "--data", "DIR", "--out", "runs/mine", "--base=8", *SHORT]
        subprocess.run([BIN / "isbi-train", *train], cwd=workshop, capture_output=True, check=True)
    for place, (program, *words) in commands:
        shutil.rmtree(workshop / "result.ome.zarr", ignore_errors=True)  # another way to the same result
        more = SHORT if words[0] == "fit" else []
        done = subprocess.run([BIN / program, *words, *more], cwd=workshop, capture_output=True, text=True)
        assert done.returncode == 0, f"{place}: {program} {shlex.join(words)}\n{done.stderr}"
