"""From a checkpoint to files that are proved equal to it: how long that takes, and how soon each can be used."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from isbi_infer.model.opening import open_model
from isbi_models import default_model

from .measure import timed

# Torch warns of things to come.
pytestmark = pytest.mark.filterwarnings("ignore")

CHECKPOINT = default_model().path.with_suffix(".pth")
VARIANTS = {
    "ONNX fp32": ("onnx", "fp32", ".onnx"),
    "ONNX fp16": ("onnx", "fp16", ".fp16.onnx"),
    "ONNX int8, calibrated": ("onnx", "int8", ".int8.onnx"),
    "TorchScript": ("torchscript", "fp32", ".pt"),
}
FIRST = next(iter(VARIANTS))
QUICK = (FIRST,)


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        names = QUICK if metafunc.config.option.benchmark_disable else list(VARIANTS)
        metafunc.parametrize("variant", names)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, options):
    """The released network, or in a smoke run a tiny one of random weights."""
    for module in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(module)
    if not options.quick:
        if not CHECKPOINT.exists():
            pytest.skip(f"{CHECKPOINT.name} is not here; it comes with the source tree only")
        return CHECKPOINT
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    save_random(path)
    return path


def save_random(path) -> None:
    """Write a checkpoint of a tiny network whose BatchNorms have seen data."""
    import torch

    from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
    from isbi_train.networks.checkpoint import Checkpoint, save_checkpoint
    from isbi_train.networks.network import UNet

    config = NetworkConfig(base=2, depth=1, unshuffle=1)
    torch.manual_seed(0)
    network = UNet(config).train()
    with torch.no_grad():
        network(torch.randn(2, 1, 32, 32))
    save_checkpoint(
        path,
        Checkpoint(
            network=config,
            augment=AugmentConfig(),
            train=TrainConfig(),
            state_dict=network.state_dict(),
            epoch=1,
            data={"sha256": {"images": "0", "labels": "1"}, "sections": 30, "pixel_size_nm": None},
            scores={},
        ),
    )


@pytest.fixture(scope="module")
def publishing(checkpoint, tmp_path_factory, options):
    """Publish a variant, once, and return its file and the time that it took."""
    from isbi_export.publish import publish

    done: dict[str, Any] = {}
    if not options.quick:  # what the first export of a process imports must not count for one variant
        folder = tmp_path_factory.mktemp("first")
        save_random(folder / "model.pth")
        publish(folder / "model.pth", folder)

    def publish_once(name):
        if name not in done:
            file_format, precision, suffix = VARIANTS[name]
            folder = tmp_path_factory.mktemp("published")
            sample, report = timed(lambda: publish(checkpoint, folder, [file_format], precisions=[precision]))
            assert [file.published for file in report.files] == [True]
            done[name] = folder / f"{checkpoint.stem}{suffix}", sample
        return done[name]

    return publish_once


def test_publishing(benchmark, variant, publishing):
    """Each alone, calibration and all comparisons with the checkpoint included; long enough for one round."""
    benchmark.group = "from a checkpoint to a proved file"
    path, sample = benchmark.pedantic(publishing, (variant,), rounds=1, iterations=1)
    benchmark.extra_info.update({"cpu_s": sample.cpu_s, "bytes": path.stat().st_size})


def test_opening_ratio(compare, keep, say, publishing, options):
    """From the file to a session that has run a tile, its contract held against its graph."""
    published = {name: publishing(name) for name in (QUICK if options.quick else VARIANTS)}
    contenders = {
        name: lambda path=path: open_model(path, "cpu").sha256 for name, (path, _) in published.items()
    }
    found, _ = compare("export", contenders, FIRST)
    files = {
        name: {"publishing": asdict(sample), "bytes": path.stat().st_size}
        for name, (path, sample) in published.items()
    }
    for name, file in files.items():
        say(
            f"export: {name}: published in {file['publishing']['wall_s']:.1f} s "
            f"({file['publishing']['cpu_s']:.1f} s CPU), {file['bytes'] / 1e6:.2f} MB, "
            f"opened in {found['contenders'][name]['wall_median_s']:.3f} s"
        )
    keep("export", found | {"files": files}, calibration="synthetic sections")
