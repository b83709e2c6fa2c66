"""The valid U-Net as it is exported: it mirrors the image itself, and tiles still give the whole-image result."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_export.foreign import ForeignModel, add_contract
from isbi_export.formats.deployable import Deployable
from isbi_export.formats.onnx_export import graph_of
from isbi_export.graph.analysis.analyse import analyse
from isbi_infer import Segmenter
from isbi_infer.model.devices import open_backend
from isbi_train.config import NetworkConfig

CONFIG = NetworkConfig.of("valid-unet", base=4)


@pytest.fixture(scope="module")
def exported(seasoned, tmp_path_factory):
    """Its ONNX file with a contract, and the network itself."""
    folder, network = tmp_path_factory.mktemp("valid"), seasoned(CONFIG)
    graph = graph_of(Deployable(seasoned(CONFIG)))
    (folder / "valid.onnx").write_bytes(graph.SerializeToString())
    add_contract(folder / "valid.onnx", folder / "model.onnx", ForeignModel(output="cell"))
    return folder / "model.onnx", network


@pytest.mark.more
def test_its_graph_is_exact_and_looks_as_far_as_the_padded_network(exported):
    found = analyse(exported[0].read_bytes())
    assert found.exact, found.reasons
    assert (found.stride, found.halo, set(found.context)) == (CONFIG.stride, 128, {94})


def test_its_file_computes_what_the_network_does(exported):
    path, network = exported
    run = open_backend(path.read_bytes(), "cpu").run
    for shape in ((1, 1, 64, 64), (3, 1, 128, 64), (1, 1, 192, 320)):
        image_NCYX = torch.randn(shape)
        with torch.inference_mode():
            expected = torch.sigmoid(network(image_NCYX)).numpy()
        np.testing.assert_allclose(run(image_NCYX.numpy()), expected, rtol=0, atol=5e-6)
        assert expected.std() > 0.01


@settings(max_examples=settings().max_examples // 6)
@given(
    height=st.integers(1, 520),
    width=st.integers(1, 520),
    extra=st.integers(1, 2),
    batch=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_its_tiles_equal_the_whole_bit_for_bit(exported, tissue_YX, height, width, extra, batch, seed):
    path, _ = exported
    section_YX = tissue_YX[seed : seed + height, seed : seed + width]
    tile = 256 + extra * CONFIG.stride
    tiled = Segmenter(path, provider="cpu", tile=tile, batch=batch)
    whole = Segmenter(path, provider="cpu")
    assert len(whole.plan((height, width)).section.tiles) == 1
    assert (len(tiled.plan((height, width)).section.tiles) > 1) == (max(height, width) > tile)
    assert (tiled(section_YX) == whole(section_YX)).all()


def test_a_halo_of_one_stride_less_is_not_exact(exported, tissue_YX):
    path, _ = exported
    section_YX = tissue_YX[:512, :512]
    whole = Segmenter(path, provider="cpu")(section_YX)
    assert (Segmenter(path, provider="cpu", tile=320, halo=64)(section_YX) != whole).any()


def test_a_section_smaller_than_what_is_mirrored_is_segmented(exported):
    path, _ = exported
    for shape in ((1, 1), (17, 40), (63, 62)):
        probability = Segmenter(path, provider="cpu")(np.full(shape, 7, np.uint8))
        assert probability.shape == shape
        assert np.isfinite(probability).all()
