"""The promise, for networks of several kinds: a tiled result is the whole-image result, bit for bit on the CPU."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from drawn import synthetic_stack
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from isbi_export.foreign import ForeignModel, add_contract
from isbi_infer import ModelError, Segmenter
from isbi_infer.model.devices import open_backend
from isbi_infer.model.opening import open_model
from isbi_infer.run.pipeline import compute_sections

KINDS = [  # depth, upsampling, unshuffle
    (1, "nearest", 1),
    (2, "bilinear", 1),
    (3, "transposed", 1),
    (3, "bilinear", 1),
    (2, "transposed", 2),
    (2, "bilinear", 2),
]


class AnyUNet(nn.Module):
    """A U-Net of another make than ours: other upsamplings, LeakyReLU, average pooling at the bottom."""

    def __init__(self, depth, upsampling, unshuffle, norm=None):
        super().__init__()
        widths = [4 * 2**level for level in range(depth + 1)]
        self.fold, self.unfold = nn.PixelUnshuffle(unshuffle), nn.PixelShuffle(unshuffle)
        self.norm = norm(widths[0]) if norm else nn.Identity()
        self.down = nn.ModuleList(
            self.block(a, b) for a, b in zip([unshuffle**2, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(self.upsample(2 * w, w, upsampling) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(self.block(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], unshuffle**2, 1)

    @staticmethod
    def block(a, b):
        return nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(b, b, 3, padding=1), nn.ReLU()
        )

    @staticmethod
    def upsample(a, b, kind):
        if kind == "transposed":
            return nn.ConvTranspose2d(a, b, 2, stride=2)
        return nn.Sequential(nn.Upsample(scale_factor=2, mode=kind), nn.Conv2d(a, b, 1))

    def forward(self, x):
        x, skips = self.fold(x), []
        for level, block in enumerate(self.down):
            x = block(x)
            if level == 0:
                x = self.norm(x)
            if level < len(self.down) - 1:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((skips.pop(), up(x)), 1))
        return self.unfold(self.head(x))


def export(network, path):
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 9
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)
    axes = {"image": {0: "n", 2: "h", 3: "w"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that it is old; it is ten times as fast
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 1, 32, 48),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            dynamic_axes=axes,
        )


@pytest.fixture(scope="module")
def with_contracts(tmp_path_factory):
    """Networks of every kind, exported as anyone would and given contracts by `isbi-export --contract`."""
    folder, models = tmp_path_factory.mktemp("models"), {}
    for kind in KINDS:
        source, target = folder / f"{kind}.onnx", folder / f"{kind}.contract.onnx"
        export(AnyUNet(*kind), source)
        contract = add_contract(source, target, ForeignModel(output="cell-logits", border=3))
        models[kind] = target, contract
    return models


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_the_context_of_a_foreign_network_is_found(with_contracts, kind):
    depth, upsampling, unshuffle = kind
    _, contract = with_contracts[kind]
    assert contract.exact
    assert contract.stride == unshuffle * 2**depth
    if depth > 1:
        context = (7 if upsampling == "bilinear" else 6) * 2**depth - 2
        assert contract.halo == -(-unshuffle * context // contract.stride) * contract.stride


def textured(height, width, seed):
    """Patches of grey under noise: noise alone would be taken for a blank section."""
    rng = np.random.default_rng(seed)
    coarse_YX = rng.integers(60, 190, (height // 7 + 1, width // 7 + 1))
    patches_YX = np.kron(coarse_YX, np.ones((7, 7), int))[:height, :width]
    return (patches_YX + rng.integers(-60, 60, (height, width))).astype(np.uint8)


@settings(max_examples=settings().max_examples * 2 // 3)
@given(
    kind=st.sampled_from(KINDS),
    height=st.integers(1, 260),
    width=st.integers(1, 260),
    extra=st.integers(1, 9),
    batch=st.integers(1, 4),
    workers=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_tiled_equals_whole_bit_for_bit(with_contracts, kind, height, width, extra, batch, workers, seed):
    path, contract = with_contracts[kind]
    tile = 2 * contract.halo + extra * contract.stride
    section_YX = textured(height, width, seed)
    tiled = replace(
        Segmenter(path, provider="cpu", tile=tile, batch=batch).plan((height, width)), workers=workers
    )
    (tiled_YX,) = compute_sections(tiled, [section_YX], open_model(path, "cpu").backend)
    whole = Segmenter(path, provider="cpu")
    assert len(whole.plan((height, width)).section.tiles) == 1
    assert (tiled_YX == whole(section_YX)).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(with_contracts, threads):
    path, _ = with_contracts[KINDS[0]]
    batch_NCYX = np.random.default_rng(0).standard_normal((2, 1, 240, 320), dtype=np.float32)
    one = open_backend(path.read_bytes(), "cpu", threads=1).run(batch_NCYX)
    assert (open_backend(path.read_bytes(), "cpu", threads=threads).run(batch_NCYX) == one).all()


def test_a_network_with_a_global_operation_is_run_whole_or_not_at_all(tmp_path):
    source, target = tmp_path / "norm.onnx", tmp_path / "norm.contract.onnx"
    export(AnyUNet(2, "transposed", 1, norm=nn.InstanceNorm2d), source)
    contract = add_contract(source, target, ForeignModel(output="cell-logits"))
    assert not contract.exact
    assert "InstanceNorm" in contract.not_exact_because[0]
    image_ZYX, _ = synthetic_stack(1, 200, 200)
    segmenter = Segmenter(target, provider="cpu")
    assert segmenter(image_ZYX).shape == image_ZYX.shape
    assert "not tiled" in segmenter.notes[0]
    with pytest.raises(ModelError, match="InstanceNorm"):
        Segmenter(target, provider="cpu", tile=64)(image_ZYX)
    assert not segmenter.plan(image_ZYX.shape).model.exact


def test_a_network_with_a_global_operation_writes_nothing_where_memory_runs_out(tmp_path):
    """The real thing: a process whose address space is limited once the run is planned."""
    source, target = tmp_path / "norm.onnx", tmp_path / "norm.contract.onnx"
    export(AnyUNet(2, "transposed", 1, norm=nn.InstanceNorm2d), source)
    add_contract(source, target, ForeignModel(output="cell-logits"))
    tifffile.imwrite(tmp_path / "stack.tif", synthetic_stack(1, 1600, 1600)[0], photometric="minisblack")
    code = (
        "import resource, sys\n"
        "from isbi_infer import ResourceError, Segmenter\n"
        "segmenter = Segmenter(sys.argv[1], provider='cpu', memory='64GiB')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 250 * 2**20,) * 2)\n"
        "try:\n    segmenter.segment_file(sys.argv[2], sys.argv[3])\n"
        "except ResourceError as error:\n    print(error)\n"
    )
    paths = [str(target), str(tmp_path / "stack.tif"), str(tmp_path / "out.tif")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=120)
    assert "pixels at once, and tiles would give another result" in done.stdout, done.stderr
    assert not [path.name for path in tmp_path.iterdir() if "out.tif" in path.name]


def test_membrane_logits_become_the_probability_of_cell(with_contracts, tmp_path):
    path, _ = with_contracts[KINDS[0]]
    source = path.with_name(path.name.replace(".contract", ""))
    add_contract(source, tmp_path / "membrane.onnx", ForeignModel(output="membrane-logits", border=3))
    image_ZYX, _ = synthetic_stack(1, 64, 80)
    cell = Segmenter(path, provider="cpu")(image_ZYX)
    np.testing.assert_allclose(
        Segmenter(tmp_path / "membrane.onnx", provider="cpu")(image_ZYX), 1 - cell, atol=1e-6
    )
