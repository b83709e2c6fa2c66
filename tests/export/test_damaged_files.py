"""A user's own exported file with a damaged weight: never opened, whichever byte it is."""

import io
import zipfile

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_export.foreign import ForeignModel, add_contract
from isbi_export.formats.program import read_program
from isbi_infer import ModelError, Segmenter
from isbi_infer.model.contract import read_contract

ONNX = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.uint8.onnx"]
DIFFERS = "the graph or its weights differ from what the contract was made for; .* export it again"


def flipped(content, at, bit=1):
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def places_of_weights(content):
    """Yield places of every stored tensor's numbers in the file: the first byte, the middle and the last."""
    for tensor in onnx.load_from_string(content).graph.initializer:
        if tensor.raw_data:
            start = content.index(tensor.SerializeToString(deterministic=True))
            start = content.index(tensor.raw_data, start)
            yield from {start, start + len(tensor.raw_data) // 2, start + len(tensor.raw_data) - 1}


@pytest.mark.parametrize("name", ONNX)
def test_a_flipped_byte_of_any_weight_is_refused(everything, name):
    content = (everything[0] / name).read_bytes()
    assert read_contract(content).trust_note is None
    places = list(places_of_weights(content))
    assert len(places) > 30
    for at in places:
        with pytest.raises(ModelError, match=DIFFERS):
            read_contract(flipped(content, at))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(everything, place, bit):
    content = (everything[0] / "model.onnx").read_bytes()
    damaged = flipped(content, int(place * len(content)), bit)
    try:
        contract = read_contract(damaged)
    except ModelError:
        return
    assert contract == read_contract(content)
    assert onnx.load_from_string(damaged).graph == onnx.load_from_string(content).graph


def test_the_user_reads_the_file_s_name_and_what_to_do(everything, tmp_path):
    content = (everything[0] / "model.onnx").read_bytes()
    weights = max((t.raw_data for t in onnx.load_from_string(content).graph.initializer), key=len)
    path = tmp_path / "mine.onnx"
    path.write_bytes(flipped(content, content.index(weights) + len(weights) // 2))
    with pytest.raises(ModelError, match=rf"mine\.onnx: {DIFFERS}"):
        Segmenter(path, provider="cpu")


def test_a_foreign_model_with_a_contract_is_bound_to_its_weights_too(everything, tmp_path):
    plain = onnx.load(everything[0] / "model.onnx")
    plain.ClearField("metadata_props")
    (tmp_path / "foreign.onnx").write_bytes(plain.SerializeToString())
    contract = add_contract(tmp_path / "foreign.onnx", tmp_path / "mine.onnx", ForeignModel())
    content = (tmp_path / "mine.onnx").read_bytes()
    assert read_contract(content) == contract
    for at in places_of_weights(content):
        with pytest.raises(ModelError, match=DIFFERS):
            read_contract(flipped(content, at))


def with_a_changed_record(content, name, change):
    """Return an archive in which one record is another, with its checksum put right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member.filename, change(data) if member.filename == name else data)
    return buffer.getvalue()


def records(content, part):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [n for n in archive.namelist() if part in n and archive.getinfo(n).file_size]


def test_a_changed_weight_of_a_script_is_refused_even_with_a_right_checksum(everything):
    content = (everything[0] / "model.pt").read_bytes()
    assert with_a_changed_record(content, None, None) != content  # written otherwise
    assert read_contract(with_a_changed_record(content, None, None)) == read_contract(content)
    for name in [*records(content, "/constants/"), *records(content, "/code/")]:
        with pytest.raises(ModelError, match=DIFFERS):
            read_contract(with_a_changed_record(content, name, lambda data: flipped(data, len(data) // 2)))


def test_a_changed_weight_of_a_program_is_refused_even_with_a_right_checksum(everything, tmp_path):
    content = (everything[0] / "model.pt2").read_bytes()
    name = records(content, "/data/weights/weight_")[3]
    (tmp_path / "mine.pt2").write_bytes(with_a_changed_record(content, name, lambda data: flipped(data, 3)))
    with pytest.raises(ModelError, match=rf"mine\.pt2: {DIFFERS}"):
        read_program(tmp_path / "mine.pt2")
