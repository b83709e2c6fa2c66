"""The road of a network that sees neighbouring sections: trained, exported, and the same bits however it is run."""

import os
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import forked
import numpy as np
import pytest
import tifffile
import torch
from drawn import synthetic_stack

from isbi_export.bioimage.package import write_package
from isbi_export.publish import publish
from isbi_infer import Segmenter
from isbi_infer.errors import ModelError
from isbi_infer.model.contract import read_contract
from isbi_infer.model.devices import DEVICES, open_backend
from isbi_infer.napari.jobs import Job
from isbi_infer.napari.layers import ShownSections
from isbi_infer.napari.segmenting import Wanted, segment_shown
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes import PixelSize, open_source
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.data.labelled import LabelledStack
from isbi_train.evaluation.evaluate import evaluate
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.networks.whole import predict_whole
from isbi_train.training.train import fit

NETWORK = NetworkConfig(base=4, depth=1, unshuffle=2, neighbours=2)
TRAIN = TrainConfig(
    epochs=3, crop=32, batch=2, hold_out=2, average=0.5, learning_rate=1e-2, precision="float32", device="cpu"
)


def device(name, model_format="onnx"):
    return next(row for row in DEVICES if row.name == name and model_format in row.formats)


@pytest.fixture(scope="module")
def stack():
    image_ZYX, label_ZYX = synthetic_stack(7, 96, 120)
    return LabelledStack(image_ZYX, label_ZYX > 0, 4.0)


@pytest.fixture(scope="module")
def trained(stack, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return fit(stack, out, network=NETWORK, augment=AugmentConfig(), train=TRAIN)


@pytest.fixture(scope="module")
def exported(trained, proved_on_onnxruntime_alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    with proved_on_onnxruntime_alone():
        publish(trained, folder, ["onnx", "torchscript"], ios=["float32", "uint8"])
    return folder


@pytest.fixture(scope="module")
def segmenter(exported):
    return Segmenter(exported / "model.onnx", provider="cpu", pixel_size=4, tile=64)


@pytest.fixture(scope="module")
def expected_ZYX(segmenter, stack):
    return segmenter(stack.image_ZYX)


def test_the_contract_says_how_many_sections_are_seen(exported):
    contract = read_contract((exported / "model.onnx").read_bytes())
    assert (contract.input_channels, contract.neighbours, contract.exact) == (5, 2, True)


def test_the_exported_file_computes_what_the_checkpoint_does(trained, stack, expected_ZYX):
    network = load_checkpoint(trained).load_network()
    logits_ZYX = predict_whole(network, stack.image_ZYX, stride=NETWORK.stride, border=0)
    np.testing.assert_allclose(expected_ZYX, torch.sigmoid(torch.from_numpy(logits_ZYX)), atol=1e-5)
    only_ZYX = predict_whole(network, stack.image_ZYX, stride=NETWORK.stride, border=0, only=[1, 5])
    np.testing.assert_array_equal(only_ZYX, logits_ZYX[[1, 5]])


def test_neighbours_matter_and_none_beyond_those_that_are_seen(segmenter, stack, expected_ZYX):
    other_ZYX = stack.image_ZYX.copy()
    other_ZYX[5] = other_ZYX[5, ::-1]
    found_ZYX = segmenter(other_ZYX)
    changed = [not np.array_equal(a, b) for a, b in zip(found_ZYX, expected_ZYX, strict=True)]
    assert changed == [False, False, False, True, True, True, True]


def test_tiles_of_any_size_and_a_stack_that_comes_one_by_one_give_the_same_bits(
    exported, stack, expected_ZYX, segmenter
):
    whole = Segmenter(exported / "model.onnx", provider="cpu", pixel_size=4)
    np.testing.assert_array_equal(whole(stack.image_ZYX), expected_ZYX)
    np.testing.assert_array_equal(list(segmenter.stream(iter(stack.image_ZYX))), expected_ZYX)


def test_a_single_section_is_its_own_neighbour(segmenter, stack):
    alone_YX = segmenter(stack.image_ZYX[3])
    five_ZYX = np.stack([stack.image_ZYX[3]] * 5)
    np.testing.assert_array_equal(alone_YX, segmenter(five_ZYX)[2])


def test_for_a_blank_neighbour_stands_the_next_one(segmenter, stack):
    gap_ZYX = stack.image_ZYX.copy()
    gap_ZYX[2] = 0
    filled_ZYX = stack.image_ZYX.copy()
    filled_ZYX[2] = filled_ZYX[3]  # which section 3 sees in place of the gap
    np.testing.assert_array_equal(segmenter(gap_ZYX)[3], segmenter(filled_ZYX)[3])
    assert not segmenter(gap_ZYX)[2].any()


def test_blocks_of_any_size_a_resumed_run_and_verify_see_the_same_neighbours(segmenter, tmp_path):
    image_ZYX = synthetic_stack(5, 280, 264)[0]
    image_ZYX[2, :, :256] = 0  # a neighbour of another outline
    tifffile.imwrite(tmp_path / "in.tif", image_ZYX, photometric="minisblack")
    expected_ZYX = segmenter(image_ZYX)
    segmenter.segment_file(tmp_path / "in.tif", tmp_path / "out.tif", options=VolumeOptions(resume=True))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), expected_ZYX)
    for block in ((1, 256, 256), (3, 280, 264)):
        out = tmp_path / f"{block[0]}.ome.zarr"
        segmenter.segment_file(tmp_path / "in.tif", out, options=VolumeOptions(block=block))
        with open_source(out) as found:
            stored_ZYX = np.stack([found.read(z) for z in range(len(image_ZYX))])
        np.testing.assert_array_equal(stored_ZYX, expected_ZYX)
        with open_source(tmp_path / "in.tif") as source:
            assert segmenter.verify(out, source)


def test_margins_of_canvas_are_cut_from_neighbours_too(segmenter, stack, expected_ZYX):
    padded_ZYX = np.pad(stack.image_ZYX, ((0, 0), (30, 40), (50, 20)))
    found_ZYX = segmenter(padded_ZYX)
    np.testing.assert_array_equal(found_ZYX[:, 30:-40, 50:-20], expected_ZYX)
    assert not found_ZYX[:, :30].any()


def test_flips_and_rotations_turn_the_neighbours_as_well(exported, stack):
    averaged = Segmenter(exported / "model.onnx", provider="cpu", pixel_size=4, tta=True)
    found_ZYX = averaged(stack.image_ZYX)
    turned_ZYX = averaged(np.rot90(stack.image_ZYX, axes=(1, 2)))
    np.testing.assert_allclose(np.rot90(found_ZYX, axes=(1, 2)), turned_ZYX, atol=1e-6)


def test_resampled_sections_see_resampled_neighbours(exported, trained, stack, tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", stack.image_ZYX, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", stack.cell_ZYX.astype(np.uint8) * 255, photometric="minisblack")
    scored = [
        evaluate(model, tmp_path / "labels.tif", image=tmp_path / "in.tif", pixel_size=6.0).probability_ZYX
        for model in (trained, exported / "model.onnx")
    ]
    np.testing.assert_allclose(*scored, atol=1e-5)


@pytest.mark.parametrize("file", ["model.pth", "model.onnx", "model.pt"])
def test_scored_sections_see_the_neighbours_that_a_run_shows_them(exported, trained, stack, tmp_path, file):
    tifffile.imwrite(tmp_path / "in.tif", stack.image_ZYX, photometric="minisblack")
    label_ZYX = stack.cell_ZYX.astype(np.uint8) * 255
    label_ZYX[4] = 0  # which nobody annotated
    tifffile.imwrite(tmp_path / "labels.tif", label_ZYX, photometric="minisblack")
    model = trained if file == "model.pth" else exported / file
    image = tmp_path / "in.tif"
    whole = evaluate(model, tmp_path / "labels.tif", image=image, pixel_size=4.0, provider="cpu")
    found = evaluate(
        model, tmp_path / "labels.tif", image=image, pixel_size=4.0, provider="cpu", sections="2:6"
    )
    assert list(whole.sections) == [0, 1, 2, 3, 5, 6]
    assert list(found.sections) == [2, 3, 5]
    np.testing.assert_array_equal(found.probability_ZYX, whole.probability_ZYX[2:5])


def test_a_section_that_is_shown_alone_sees_its_neighbours_in_the_layer(exported, stack, expected_ZYX):
    class Image(SimpleNamespace):  # as napari's
        pass

    layer = Image(name="tissue", data=stack.image_ZYX, rgb=False, multiscale=False, ndim=3)
    wanted = Wanted(
        layer=layer,
        model=str(exported / "model.onnx"),
        provider="cpu",
        pixel_size=PixelSize(y_nm=4.0, x_nm=4.0),
    )
    sections = ShownSections(stack.image_ZYX.shape, lambda z: None)
    job = Job(partial(segment_shown, wanted, sections))
    job.ask(3)
    job.start()
    while job.running and not sections.there:
        time.sleep(0.01)
    job.cancel()
    assert job.join(60)
    np.testing.assert_array_equal(sections.section(3), expected_ZYX[3])


def test_grey_values_that_the_graph_normalises_are_each_sections_own(exported, stack, expected_ZYX):
    brighter_ZYX = stack.image_ZYX // 2 + np.arange(7, dtype=np.uint8)[:, None, None] * 10
    as_bytes = Segmenter(exported / "model.uint8.onnx", provider="cpu", pixel_size=4)
    plain = Segmenter(exported / "model.onnx", provider="cpu", pixel_size=4)
    found_ZYX = as_bytes(brighter_ZYX, dtype="uint8")
    assert np.abs(found_ZYX.astype(int) - np.rint(255 * plain(brighter_ZYX))).max() <= 1


@pytest.mark.parametrize("file", ["model.onnx", "model.uint8.onnx"])
def test_openvino_sees_them_too(exported, stack, expected_ZYX, file):
    pytest.importorskip("openvino")
    contract = read_contract((exported / file).read_bytes())
    row = device("openvino")
    session = open_backend((exported / file).read_bytes(), row)
    plain = open_backend((exported / file).read_bytes(), device("cpu"))
    rng = np.random.default_rng(0)
    batch_NCYX = (20 * rng.random((2, 5, 64, 64)) + 90).astype(contract.input_dtype)
    statistics = [np.full((2, 5, 1, 1), value, np.float32) for value in (100, 12)][
        : len(contract.statistics_inputs)
    ]
    found_NCYX = session.run(batch_NCYX, *statistics)
    steps = (
        1 / 255 if file == "model.onnx" else 1
    )  # of probability; a grey value out of 255 may round otherwise
    theirs_NCYX = plain.run(batch_NCYX, *statistics)
    np.testing.assert_allclose(np.float32(found_NCYX), np.float32(theirs_NCYX), atol=2 * steps)


def test_input_and_output_may_stay_on_the_device(exported):
    model, row = (exported / "model.onnx").read_bytes(), device("cpu")
    bound = open_backend(model, replace(row, memory_space="cpu"))
    batch_NCYX = np.random.default_rng(0).standard_normal((2, 5, 64, 64), dtype=np.float32)
    np.testing.assert_array_equal(bound.run(batch_NCYX), open_backend(model, row).run(batch_NCYX))


def test_torchscript_computes_a_lone_small_tile_as_part_of_the_whole(exported, monkeypatch):
    script = open_backend((exported / "model.pt").read_bytes(), device("cpu", "torchscript"))
    side = int(script._twice_below**0.5) // NETWORK.stride * NETWORK.stride
    tiles_NCYX = np.random.default_rng(0).standard_normal((2, 5, side, side), dtype=np.float32)
    expected_NCYX = script.run(tiles_NCYX)
    computed, run = [], script._run
    monkeypatch.setattr(
        script, "_run", lambda batch_NCYX: computed.append(batch_NCYX.shape) or run(batch_NCYX)
    )
    np.testing.assert_array_equal(script.run(tiles_NCYX[:1]), expected_NCYX[:1])
    assert computed == [tiles_NCYX.shape]  # where it is alone, torch may take other sums


def test_torchscript_sees_them_too(exported, stack, expected_ZYX):
    script = Segmenter(exported / "model.pt", provider="cpu", pixel_size=4)
    np.testing.assert_allclose(script(stack.image_ZYX), expected_ZYX, atol=1e-5)


def test_a_bioimage_package_shows_no_neighbours_so_there_is_none(exported, tmp_path):
    content = exported / "model.onnx"
    with pytest.raises(ModelError, match="sees 2 sections on either side"):
        write_package(
            target=tmp_path / "model.zip",
            onnx=content,
            torchscript=None,
            contract=read_contract(content.read_bytes()),
            licence="CC-BY-4.0",
            name="neighbours",
        )
    assert not os.listdir(tmp_path)


def test_weights_of_single_sections_are_where_a_network_with_neighbours_begins(stack, tmp_path):
    from isbi_train.networks.network import UNet
    from isbi_train.training.start import Start

    plain = NetworkConfig(base=4, depth=1, unshuffle=2)
    start = fit(stack, tmp_path / "plain", network=plain, augment=AugmentConfig(), train=TRAIN)
    wide = UNet(NETWORK)
    Start.read(str(start)).load_into(wide)
    both = [
        predict_whole(network.eval(), stack.image_ZYX, stride=NETWORK.stride, border=0)
        for network in (wide, load_checkpoint(start).load_network())
    ]
    np.testing.assert_allclose(*both, atol=1e-4)
    further = fit(
        stack,
        tmp_path / "further",
        network=NETWORK,
        augment=AugmentConfig(),
        train=TRAIN,
        inputs=Inputs(init=str(start)),
    )
    assert load_checkpoint(further).network == NETWORK


def test_on_the_command_line_it_is_one_flag(stack, tmp_path):
    tifffile.imwrite(tmp_path / "train-volume.tif", stack.image_ZYX, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "train-labels.tif", stack.cell_ZYX.astype(np.uint8) * 255, photometric="minisblack"
    )
    small = ("--base=2", "--depth=1", "--epochs=1", "--crop=32", "--batch=2", "--pixel-size=4")
    done = forked.run(
        "isbi-train", "fit", "--data", tmp_path, "--out", tmp_path / "run", "--neighbours=1", *small
    )
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "run" / "model.pth").network.neighbours == 1
