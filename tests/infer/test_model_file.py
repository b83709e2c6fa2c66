"""The outside of model files, read without a runtime: metadata, and a digest that no change of the rest escapes."""

import io
import zipfile
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.metadata import stamp
from isbi_infer.errors import ModelError
from isbi_infer.model.contract import CONTRACT_KEY, parse_contract, read_contract
from isbi_infer.model.file import ModelFile, read_model_file
from isbi_models import released_models

RELEASED = released_models()["isbi2012-unet-b32"].path.read_bytes()
CONTRACT = replace(read_contract(RELEASED), stride=1, halo=1, halo_error={})


def tiny_model():
    weight = numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3), "weight")
    image, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "height", "width"])
        for name in (CONTRACT.input_name, CONTRACT.output_name)
    )
    nodes = [
        helper.make_node("Conv", [image.name, "weight"], ["logits"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logits"], [result.name], "sigmoid"),
    ]
    graph = helper.make_graph(nodes, "g", [image], [result], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


TINY = stamp(tiny_model(), CONTRACT)


def archive(records, folder="model/"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in records:
            file.writestr(folder + name, data)
    return buffer.getvalue()


RECORDS = [
    ("constants.pkl", b"code"),
    ("constants/0", bytes(64)),
    ("extra/a", b"1"),
    (".data/serialization_id", b"7"),
]


@pytest.mark.parametrize("content", [TINY, RELEASED], ids=["tiny", "released"])
def test_the_metadata_is_what_the_onnx_package_reads(content):
    found, expected = read_model_file(content), onnx.load_from_string(content)
    assert found.format == "onnx"
    assert found.metadata == {entry.key: entry.value for entry in expected.metadata_props}


def test_the_digest_is_of_everything_but_the_metadata():
    changed = onnx.load_from_string(TINY)
    helper.set_model_props(changed, {"another": "thing", "and": "one more"})
    assert read_model_file(changed.SerializeToString()).digest == read_model_file(TINY).digest
    changed.producer_name = "somebody"
    assert read_model_file(changed.SerializeToString()).digest != read_model_file(TINY).digest


def flips(content, *bits):
    for at in range(len(content)):
        for bit in bits:
            yield content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def test_every_flipped_bit_of_a_whole_file_is_noticed():
    contract, unnoticed = read_contract(TINY), []
    for damaged in flips(TINY, 1, 16, 128):
        with suppress(ModelError):
            assert read_contract(damaged) == contract
            unnoticed.append(damaged)
    for damaged in unnoticed:  # a figure's seventeenth digit, which changes no number
        assert onnx.load_from_string(damaged).graph == onnx.load_from_string(TINY).graph
    assert len(unnoticed) < 5


@given(at=st.integers(0, len(TINY) - 1), new=st.binary(max_size=4), gone=st.integers(0, 4))
def test_bytes_put_in_or_taken_out_are_noticed(at, new, gone):
    damaged = TINY[:at] + new + TINY[at + gone :]
    with suppress(ModelError):
        assert read_contract(damaged) == read_contract(TINY)
        assert onnx.load_from_string(damaged).graph == onnx.load_from_string(TINY).graph


def test_a_file_cut_anywhere_is_noticed():
    for cut in range(len(TINY)):
        with pytest.raises(ModelError):
            read_contract(TINY[:cut])


@given(content=st.binary(max_size=80))
@example(content=b"\x08" + b"\x80" * 40)
@example(content=b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(content=b"\x0b")
@example(content=b"\x3a\x00\x72\x04\x0a\x02\xff\xfe")
@example(content=b"PK\x03\x04")
def test_any_bytes_at_all_are_a_model_file_or_a_model_error(content):
    with suppress(ModelError):
        assert isinstance(read_model_file(content), ModelFile)


def test_two_files_in_one_are_refused_rather_than_merged():
    with pytest.raises(ModelError, match="2 graphs"):
        read_model_file(TINY + TINY)
    with pytest.raises(ModelError, match="0 graphs"):
        read_model_file(b"")


def test_a_metadata_key_that_stands_twice_is_refused_rather_than_the_last_one_taken():
    model = onnx.load_from_string(TINY)
    model.metadata_props.append(model.metadata_props[0])
    with pytest.raises(ModelError, match=f"'{CONTRACT_KEY}' stands there twice"):
        read_model_file(model.SerializeToString())


def test_weights_in_other_files_are_refused_by_name():
    model = tiny_model()
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ModelError, match=r"outside the file \(1 tensors, 'weight' first\)"):
        read_model_file(model.SerializeToString())


def test_an_archive_s_digest_is_of_its_records_under_any_folder_and_in_any_order():
    found = read_model_file(archive(RECORDS))
    assert (found.format, found.metadata) == ("torchscript", {"a": "1"})
    assert read_model_file(archive(RECORDS[::-1], "other/")).digest == found.digest
    assert read_model_file(archive([*RECORDS[:2], ("extra/a", b"2")])).digest == found.digest


@pytest.mark.parametrize(
    "records",
    [
        [*RECORDS, ("more", b"")],
        [RECORDS[0], *RECORDS[2:]],
        [RECORDS[0], ("constants/0", bytes(63) + b"\1"), *RECORDS[2:]],
        [RECORDS[0], ("constants/1", bytes(64)), *RECORDS[2:]],
    ],
    ids=["more", "less", "other content", "other name"],
)
def test_an_archive_of_other_records_has_another_digest(records):
    assert read_model_file(archive(records)).digest != read_model_file(archive(RECORDS)).digest


def test_an_archive_that_is_no_torchscript_says_what_to_do():
    with pytest.raises(ModelError, match="no TorchScript; run isbi-export"):
        read_model_file(archive([("data.pkl", b"")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_stands_twice_is_refused():
    with pytest.raises(ModelError, match="twice"):
        read_model_file(archive([*RECORDS, ("constants/0", b"other")]))


def test_a_damaged_archive_is_the_same_model_or_a_model_error():
    contract = replace(CONTRACT, digest=read_model_file(archive(RECORDS)).digest)
    content = archive([*RECORDS, (f"extra/{CONTRACT_KEY}", contract.to_json())])
    assert read_contract(content) == contract
    for damaged in flips(content, 1, 128):
        with suppress(ModelError):
            assert read_contract(damaged) == contract
            assert read_model_file(damaged).digest == contract.digest


def test_the_contract_of_a_tiny_model_is_the_one_that_was_put_in():
    contract = read_contract(TINY)
    assert contract == replace(CONTRACT, digest=read_model_file(TINY).digest)
    assert parse_contract(read_model_file(TINY).metadata[CONTRACT_KEY]) == contract
