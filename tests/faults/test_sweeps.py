"""Small files cut at every offset and with every byte flipped: the right result or an IsbiError, and nothing else.

TIFF files are swept in test_damaged_bytes.py, model files without a runtime in tests/infer/test_model_file.py; here are
the others, opened as users open them. `make test` takes a share, `make test-more` all.
"""

import json
import shutil

import numpy as np
import pytest
import tensorstore
import zarr
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st
from tiny_files import CONTRACT, tiny_checkpoint, tiny_onnx

from isbi_infer import Segmenter
from isbi_infer.errors import IsbiError
from isbi_infer.model.contract import parse_contract
from isbi_infer.volumes import open_source
from isbi_train.networks.checkpoint import save_checkpoint
from isbi_train.networks.weights import load_weights

SECTION_YX = synthetic_stack(1, 64, 64)[0][0]
STACK_ZYX = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)


class Checkpoint:
    """Weights as they were, or a ModelError: torch's archive has a checksum for each record."""

    share = 331

    def write(self, folder):
        save_checkpoint(folder / "model.pth", tiny_checkpoint())
        return folder / "model.pth"

    def use(self, path):
        return {name: weight.tolist() for name, weight in load_weights(path).state_dict.items()}


class Onnx:
    """The probabilities as they were: a digest covers graph and weights, a checksum the contract."""

    share = 23

    def write(self, folder):
        (folder / "model.onnx").write_bytes(tiny_onnx())
        return folder / "model.onnx"

    def use(self, path):
        return Segmenter(path, provider="cpu")(SECTION_YX).tobytes()


class Contract:
    share = 3

    def write(self, folder):
        (folder / "contract.json").write_text(CONTRACT.to_json())
        return folder / "contract.json"

    def use(self, path):
        return parse_contract(path.read_text(errors="surrogateescape")).to_json()


class Volume:
    """Metadata has no checksum, so another axis or size may be read; sections have the shape that is announced."""

    share = 7

    def use(self, path):
        with open_source(path.parent.parent if path.parent.name == "s0" else path.parent) as source:
            info = source.info
            if np.prod([float(size) for size in info.shape]) > 10**6:
                return  # believed, and not asked for here
            for z in range(min(info.shape[0], 3)):
                assert source.read(z).shape == info.shape[-2:]
        return


class OmeZarr(Volume):
    def write(self, folder):
        group = zarr.open_group(folder / "v.zarr", mode="w")
        group.create_array("s0", data=STACK_ZYX, chunks=(1, 8, 8))
        axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
        steps = [{"type": "scale", "scale": [40, 4, 4]}]
        image = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": steps}]}
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
        return folder / "v.zarr" / "zarr.json"


class ArrayOfOmeZarr(OmeZarr):
    def write(self, folder):
        return super().write(folder).parent / "s0" / "zarr.json"


class ZarrVersion2(Volume):
    def write(self, folder):
        zarr.create_array(folder / "v.zarr", data=STACK_ZYX, chunks=(1, 8, 8), zarr_format=2)
        return folder / "v.zarr" / ".zarray"


class Precomputed(Volume):
    def write(self, folder):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{folder / 'v'}/"},
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
            "scale_metadata": {"size": [8, 8, 2], "encoding": "raw", "resolution": [4, 4, 40], "key": "k"},
        }
        spec["scale_metadata"]["chunk_size"] = [8, 8, 2]
        tensorstore.open(spec, create=True).result()[...] = STACK_ZYX.T[..., None]
        return folder / "v" / "info"


KINDS = {
    kind.__name__: kind()
    for kind in (Checkpoint, Onnx, Contract, OmeZarr, ArrayOfOmeZarr, ZarrVersion2, Precomputed)
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.more)], ids=["share", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_any_offset_or_with_any_byte_flipped(tmp_path, kind, whole, figures, capfd):
    case = KINDS[kind]
    path = case.write(tmp_path)
    content, expected = path.read_bytes(), case.use(path)
    step = 1 if whole else case.share
    damaged = [content[:length] for length in range(0, len(content), step)]
    for offset in range(0, len(content), step):
        flip = 0xFF if offset // step % 2 else 1 << offset % 8
        damaged.append(content[:offset] + bytes([content[offset] ^ flip]) + content[offset + 1 :])
    figures(swept=len(damaged))
    said, other = [], []
    for changed in damaged:
        path.write_bytes(changed)
        try:
            found = case.use(path)
        except IsbiError as error:
            said.append(str(error))
        else:
            other += [changed] if found != expected else []
    assert not other
    assert said
    assert not [line for line in said if "\n" in line]
    if kind != "Contract":  # which is read before its file's name is known
        assert all(str(tmp_path) in line for line in said)
    assert capfd.readouterr() == ("", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from("zyxtc"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def parts_of(document, path=()):
    yield path
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for name, part in inner:
        yield from parts_of(part, (*path, name))


@pytest.mark.parametrize("kind", ["OmeZarr", "ArrayOfOmeZarr", "ZarrVersion2", "Precomputed"])
@given(data=st.data())
def test_metadata_of_volumes_with_any_part_replaced_is_read_or_refused(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("volume")
    path = KINDS[kind].write(folder)
    document = json.loads(path.read_text())
    way = data.draw(st.sampled_from([way for way in parts_of(document) if way]))
    place = document
    for name in way[:-1]:
        place = place[name]
    place[way[-1]] = data.draw(JSON)
    path.write_text(json.dumps(document))
    try:
        KINDS[kind].use(path)
    except IsbiError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most raise, some need not
    finally:
        shutil.rmtree(folder)
