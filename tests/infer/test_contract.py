import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ModelError
from isbi_infer.model.contract import CONTRACT_KEY, ModelContract, contract_of, parse_contract

PLAIN = {
    "schema": 2,
    "input_name": "image",
    "input_dtype": "float32",
    "input_channels": 1,
    "output_name": "probability",
    "output_dtype": "float32",
    "output_channels": 1,
    "statistics_inputs": [],
    "stride": 16,
    "halo": 96,
    "border": 0,
    "halo_error": {"0": 0.5},
    "exact": True,
    "not_exact_because": [],
    "flops_per_pixel": 70000.0,
    "activation_bytes_per_pixel": 96.0,
    "normalisation": "section-zscore",
    "polarity": "cell",
    "pixel_size_nm": 4.0,
    "precision": "float32",
    "parity": {"largest": 2.4e-7, "changed": 0.0},
    "training": {"sections": "0:25"},
    "scores": {"v_rand_thin": 0.98},
    "code_version": "0.1.0",
}


def test_a_contract_survives_the_round_trip_with_the_same_bytes():
    contract = ModelContract(**PLAIN)
    assert parse_contract(contract.to_json()) == contract
    assert parse_contract(contract.to_json()).to_json() == contract.to_json()


@pytest.mark.parametrize("field", sorted(PLAIN))
def test_no_field_has_a_default(field):
    without = {key: value for key, value in PLAIN.items() if key != field}
    with pytest.raises(ModelError, match=field):
        parse_contract(json.dumps(without))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 1),
        ("schema", 3),
        ("input_dtype", "uint8"),
        ("statistics_inputs", ["mean", "inverse_std"]),
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
        ("not_exact_because", ["InstanceNormalization"]),
        ("not_exact_because", "no"),
        ("polarity", "membrane"),
        ("normalisation", "none"),
        ("input_channels", 3),
        ("output_dtype", "float16"),
        ("pixel_size_nm", 0),
        ("pixel_size_nm", True),
        ("scores", []),
        ("code_version", None),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(field, value):
    with pytest.raises(ModelError, match="contract"):
        parse_contract(json.dumps(PLAIN | {field: value}))


def test_an_unknown_field_is_refused():
    with pytest.raises(ModelError, match="surprise"):
        parse_contract(json.dumps(PLAIN | {"surprise": 1}))


def test_a_doubled_field_is_refused_rather_than_the_last_one_taken():
    text = json.dumps(PLAIN)[:-1] + ', "halo": 32}'
    with pytest.raises(ModelError, match="duplicate field 'halo'"):
        parse_contract(text)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"schema": NaN}', "[" * 100_000])
def test_what_is_no_contract_is_refused(text):
    with pytest.raises(ModelError):
        parse_contract(text)


@given(cut=st.integers(0, 300), new=st.characters(codec="utf-8"))
def test_a_damaged_document_gives_the_contract_or_a_model_error(cut, new):
    text = ModelContract(**PLAIN).to_json()
    damaged = text[:cut] + new + text[cut + 1 :]
    with suppress(ModelError):
        assert isinstance(parse_contract(damaged), ModelContract)


def test_a_model_without_a_contract_is_refused_with_the_remedy():
    with pytest.raises(ModelError, match="isbi-export"):
        contract_of({})
    assert contract_of({CONTRACT_KEY: json.dumps(PLAIN)}).halo == 96
