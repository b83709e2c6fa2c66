"""The contract in a model file: strict in every field, bound to graph and weights, and readable in its older forms."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.contract import (
    CONTRACT_KEY,
    SCHEMA,
    ModelContract,
    contract_of,
    parse_contract,
    read_contract,
)

DIGEST = "0" * 63 + "1"
FIELDS = {
    "input_name": "image",
    "input_dtype": "float32",
    "input_channels": 1,
    "output_name": "probability",
    "output_dtype": "float32",
    "output_channels": 1,
    "statistics_inputs": (),
    "stride": 16,
    "halo": 96,
    "border": 0,
    "halo_error": {"0": 0.5},
    "exact": True,
    "not_exact_because": (),
    "flops_per_pixel": 70000.0,
    "activation_bytes_per_pixel": 96.0,
    "normalisation": "section-zscore",
    "polarity": "cell",
    "pixel_size_nm": 4.0,
    "threshold": 0.6,
    "familiar": {"limit": 2.5, "looks": [{"name": "fly", "mean": [0.0] * 7, "spread": [1.0] * 7}]},
    "precision": "float32",
    "digest": DIGEST,
    "runtimes": ("cpu fp32", "openvino bf16"),
    "provenance": {
        "parity": {"largest": 2.4e-7, "changed": 0.0},
        "training": {"sections": "0:25"},
        "scores": {"v_rand_thin": 0.98},
        "code_version": "0.1.0",
    },
}
CONTRACT = ModelContract(**FIELDS)
DOCUMENT = json.loads(CONTRACT.to_json())
NOT_IN_SCHEMA_3 = ("threshold", "familiar")
NOT_IN_SCHEMA_2 = (*NOT_IN_SCHEMA_3, "digest", "runtimes", "provenance")
SCHEMA_2 = {
    "schema": 2,
    **{name: value for name, value in FIELDS.items() if name not in NOT_IN_SCHEMA_2},
    **FIELDS["provenance"],
}
NOT_IN_SCHEMA_1 = ("statistics_inputs", "flops_per_pixel", "activation_bytes_per_pixel", "parity")
SCHEMA_1 = {name: value for name, value in SCHEMA_2.items() if name not in NOT_IN_SCHEMA_1} | {"schema": 1}


def test_a_contract_survives_the_round_trip_with_the_same_bytes():
    assert parse_contract(CONTRACT.to_json()) == CONTRACT
    assert parse_contract(CONTRACT.to_json()).to_json() == CONTRACT.to_json()


def test_both_kinds_of_normalisation_are_known_and_others_refused_with_the_remedy():
    robust = replace(CONTRACT, normalisation="section-robust")
    assert parse_contract(robust.to_json()) == robust
    with pytest.raises(ModelError, match=r"unknown normalisation 'section-median'.*update isbi-infer"):
        replace(CONTRACT, normalisation="section-median")


@pytest.mark.parametrize("field", sorted(DOCUMENT))
def test_no_field_has_a_default(field):
    without = {key: value for key, value in DOCUMENT.items() if key != field}
    with pytest.raises(ModelError, match=field):
        parse_contract(json.dumps(without))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_dtype", "uint8"),
        ("statistics_inputs", ("mean", "inverse_std")),
        ("statistics_inputs", (1,)),
        ("output_dtype", "float64"),
        ("precision", "bfloat16"),
        ("flops_per_pixel", -1.0),
        ("stride", 0),
        ("stride", True),
        ("stride", 16.0),
        ("halo", 95),
        ("halo", -16),
        ("border", "0"),
        ("exact", 1),
        ("exact", False),
        ("not_exact_because", ("InstanceNormalization",)),
        ("not_exact_because", "no"),
        ("polarity", "membrane"),
        ("normalisation", "none"),
        ("normalisation", ["section-zscore"]),
        ("input_channels", 2),
        ("output_dtype", "float16"),
        ("pixel_size_nm", 0),
        ("pixel_size_nm", True),
        ("threshold", 0.0),
        ("threshold", 1),
        ("threshold", "0.5"),
        ("familiar", []),
        ("familiar", {}),
        ("familiar", {"limit": 2.5, "looks": []}),
        ("digest", 1),
        ("digest", "0" * 63),
        ("digest", "G" * 64),
        ("runtimes", "cpu fp32"),
        ("runtimes", (1,)),
        ("runtimes", ("",)),
        ("runtimes", ("openvino",)),
        ("runtimes", ("openvino bf16 x",)),
        ("runtimes", ("openvino  bf16",)),
        ("runtimes", ("openvino bf16\n",)),
        ("runtimes", ("OpenVINO BF16",)),
        ("runtimes", ("cpu fp32", "cpu fp32")),
        ("provenance", []),
    ],
)
def test_an_invalid_value_is_refused(field, value):
    with pytest.raises(ModelError, match="damaged model contract"):
        replace(CONTRACT, **{field: value})
    with pytest.raises(ModelError, match="damaged model contract"):
        parse_contract(json.dumps(DOCUMENT | {field: value}))


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "3", None, True])
def test_an_unknown_schema_is_refused_with_the_remedy(schema):
    with pytest.raises(ModelError, match="this program reads 1 to 4; update isbi-infer"):
        parse_contract(json.dumps(DOCUMENT | {"schema": schema}))


def test_an_unknown_field_is_refused():
    with pytest.raises(ModelError, match="surprise"):
        parse_contract(json.dumps(DOCUMENT | {"surprise": 1}))


def test_a_doubled_field_is_refused_rather_than_the_last_one_taken():
    text = json.dumps(DOCUMENT)[:-1] + ', "halo": 32}'
    with pytest.raises(ModelError, match="duplicate field 'halo'"):
        parse_contract(text)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"schema": NaN}', "[" * 100_000])
def test_what_is_no_contract_is_refused(text):
    with pytest.raises(ModelError):
        parse_contract(text)


@pytest.mark.parametrize("content", ["em.onnx", Path("em.onnx"), None, 5])
def test_what_is_not_the_bytes_of_a_file_has_no_contract(content):
    with pytest.raises(UsageError, match=r"found \w+; pass Path\(FILE\)\.read_bytes\(\)"):
        read_contract(content)


@pytest.mark.parametrize(("field", "value"), [("border", 8), ("halo", 16), ("pixel_size_nm", 5.0)])
def test_a_valid_value_that_was_changed_in_the_document_is_refused(field, value):
    with pytest.raises(ModelError, match="checksum"):
        parse_contract(json.dumps(DOCUMENT | {field: value}))


@given(at=st.integers(0, len(CONTRACT.to_json()) - 1), new=st.characters(codec="utf-8"))
def test_a_damaged_document_is_the_same_contract_or_a_model_error(at, new):
    text = CONTRACT.to_json()
    with suppress(ModelError):
        assert parse_contract(text[:at] + new + text[at + 1 :]) == CONTRACT


def test_a_model_without_a_contract_is_refused_with_the_remedy():
    with pytest.raises(ModelError, match="isbi-export"):
        contract_of({}, DIGEST)


def test_a_contract_belongs_to_one_graph_and_its_weights():
    metadata = {CONTRACT_KEY: CONTRACT.to_json()}
    assert contract_of(metadata, DIGEST) == CONTRACT
    with pytest.raises(ModelError, match=r"the graph or its weights differ .* export it again"):
        contract_of(metadata, DIGEST[::-1])


def test_a_contract_of_this_schema_without_a_digest_is_not_trusted():
    with pytest.raises(ModelError, match="digest"):
        contract_of({CONTRACT_KEY: replace(CONTRACT, digest=None).to_json()}, DIGEST)


def schema_3():
    """A document as schema 3 had it, with its checksum."""
    plain = {name: value for name, value in FIELDS.items() if name not in NOT_IN_SCHEMA_3} | {"schema": 3}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"checksum": hashlib.sha256(text.encode()).hexdigest()}


def test_schema_3_is_read_with_its_checksum_and_has_neither_threshold_nor_looks():
    contract = contract_of({CONTRACT_KEY: json.dumps(schema_3())}, DIGEST)
    assert contract == replace(CONTRACT, threshold=None, familiar=None)
    assert contract.trust_note is None
    with pytest.raises(ModelError, match="its checksum is another"):
        parse_contract(json.dumps(schema_3() | {"halo": 112}))
    with pytest.raises(ModelError, match="unknown fields"):
        parse_contract(json.dumps(schema_3() | {"threshold": 0.5}))


def test_schema_2_is_read_on_trust_and_says_so():
    contract = contract_of({CONTRACT_KEY: json.dumps(SCHEMA_2)}, DIGEST)
    assert contract == replace(CONTRACT, threshold=None, familiar=None, digest=None, runtimes=())
    assert "damaged weights would not be noticed" in contract.trust_note
    assert CONTRACT.trust_note is None


def test_schema_1_is_read_with_careful_figures_for_what_it_does_not_say():
    contract = contract_of({CONTRACT_KEY: json.dumps(SCHEMA_1)}, DIGEST)
    assert (contract.stride, contract.halo, contract.statistics_inputs) == (16, 96, ())
    assert contract.provenance == FIELDS["provenance"] | {"parity": {}}
    assert contract.activation_bytes_per_pixel > CONTRACT.activation_bytes_per_pixel
    assert contract.trust_note is not None


@pytest.mark.parametrize("document", [SCHEMA_1, SCHEMA_2], ids=["schema 1", "schema 2"])
def test_older_schemas_are_read_as_strictly(document):
    for field in document:
        without = {key: value for key, value in document.items() if key != field}
        with pytest.raises(ModelError, match=field):
            parse_contract(json.dumps(without))
    for change in ({"digest": DIGEST}, {"scores": []}, {"code_version": None}, {"stride": 0}):
        with pytest.raises(ModelError, match="damaged model contract"):
            parse_contract(json.dumps(document | change))


def test_a_contract_read_from_an_older_schema_survives_the_round_trip():
    contract = parse_contract(json.dumps(SCHEMA_2))
    assert parse_contract(contract.to_json()) == contract
