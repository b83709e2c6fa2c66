"""Runtimes and precisions: which a contract lists, and what the report says of those that it does not list."""

import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from isbi_export.proof.gates import GATES
from isbi_export.publish import publish
from isbi_infer.backends.base import Arithmetic, Backend, Device, Stop
from isbi_infer.errors import DependencyError, ResourceError
from isbi_infer.model import devices
from isbi_infer.model.contract import read_contract

pytestmark = pytest.mark.usefixtures("exported_once")

(CPU,) = (row for row in devices.DEVICES if (row.name, row.formats) == ("cpu", ("onnx",)))
ABACUS = Device(
    name="abacus",
    formats=("onnx",),
    backend="abacus_runtime:Abacus",
    kind="cpu",
    runtime_name="Abacus",
    wheels=("abacus",),
    clashes=(),
    remedy="pip install abacus",
    proof="beads move",
    arithmetic=(
        Arithmetic(name="bf16", file="float32", memory=1.0),
        Arithmetic(name="fp32", file="float32", memory=1.0),
        Arithmetic(name="int8", file="int8", memory=1.0),
    ),
    tile_pixels=2**20,
)


class Abacus(Backend):
    """ONNX Runtime's results, the first pixel moved by `offset`, and all of small batches by `unsteadiness`."""

    offset = 0.0
    unsteadiness = 0.0
    opening: Exception | None = None
    computing: Exception | None = None

    def __init__(self, content, device, arithmetic, threads=None):
        if self.opening:
            raise self.opening
        self._session = devices.open_backend(content, CPU)
        self.device, self.arithmetic, self.workers = device, arithmetic, 1
        self.inputs, self.outputs = self._session.inputs, self._session.outputs
        self.version = "abacus 3000"

    def _compute(self, batch_NCYX, statistics_N111, out, stop: Stop | None):
        if self.computing:
            raise self.computing
        result_NCYX = self._session.run(batch_NCYX, *statistics_N111)
        if batch_NCYX.size < 512**2:
            result_NCYX = result_NCYX + np.float32(self.unsteadiness)
        result_NCYX[..., 0, 0] += self.offset
        return result_NCYX

    def _is_lack_of_memory(self, reason):
        return "beads" in reason

    def on_all_cores(self):
        return self


@pytest.fixture
def abacus(monkeypatch):
    """Enter another device into the table, and return its class, whose attributes are set back afterwards."""
    module = ModuleType("abacus_runtime")
    module.Abacus = type("Abacus", (Abacus,), {})
    monkeypatch.setitem(sys.modules, "abacus_runtime", module)
    monkeypatch.setattr(devices, "DEVICES", (ABACUS, CPU))
    return module.Abacus


@pytest.fixture
def exported(save, tmp_path):
    """Export a network as float32, and return what its contract lists and what the report has of each runtime."""

    def export():
        publish(save(), tmp_path, ["onnx"])
        contract = read_contract((tmp_path / "model.onnx").read_bytes())
        (file,) = json.loads((tmp_path / "model.parity.json").read_text())["files"]
        assert file["published"]
        return contract.runtimes, {f"{r['device']} {r['precision']}": r for r in file["runtimes"]}

    return export


def test_a_row_in_the_table_of_devices_is_all_that_a_new_runtime_needs(abacus, exported):
    listed, found = exported()
    assert listed == ("abacus bf16", "abacus fp32", "cpu fp32")
    assert tuple(found) == listed
    for pair, proof in found.items():
        assert (proof["verdict"], proof["because"]) == ("passed", [])
        assert proof["gate"] == GATES[pair.split()[1]].to_plain()
        assert proof["milliseconds_per_section"] > 0
        assert proof["tiles_differ_by"] == 0
        assert set(proof["scores"]) == {"synthetic"}
    assert found["abacus fp32"]["runtime"] == "abacus 3000"
    assert found["abacus fp32"]["largest"] == found["cpu fp32"]["largest"]


def test_each_precision_has_a_gate_of_its_own_and_what_fails_it_is_not_listed(abacus, exported, tmp_path):
    abacus.offset = 2e-2
    listed, found = exported()
    assert listed == ("abacus bf16", "cpu fp32")
    assert found["abacus bf16"]["verdict"] == "passed"
    assert found["abacus fp32"]["verdict"] == "failed"
    (reason,) = found["abacus fp32"]["because"]
    assert reason.startswith("differs from the checkpoint by 2.00e-02")
    assert found["abacus fp32"]["largest"] == pytest.approx(2e-2, rel=1e-3)
    assert reason in (tmp_path / "model.parity.html").read_text()


@pytest.mark.parametrize(
    "missing",
    [
        DependencyError("abacus is not installed; run: pip install abacus"),
        ResourceError("not enough beads to read the model"),
    ],
    ids=["runtime", "memory"],
)
def test_a_runtime_that_cannot_be_had_here_is_not_measured_and_the_report_says_why(
    abacus, exported, tmp_path, missing
):
    abacus.opening = missing
    listed, found = exported()
    assert listed == ("cpu fp32",)
    for pair in ("abacus bf16", "abacus fp32"):
        assert (found[pair]["verdict"], found[pair]["because"]) == ("not measured", [str(missing)])
        assert found[pair]["milliseconds_per_section"] is None
        assert "largest" not in found[pair]
    text = (tmp_path / "model.parity.html").read_text()
    assert "not measured" in text
    assert str(missing) in text


def test_a_runtime_that_cannot_compute_the_model_fails_and_the_file_is_published(abacus, exported):
    abacus.computing = RuntimeError("bead 7 is stuck")
    listed, found = exported()
    assert listed == ("cpu fp32",)
    assert found["abacus fp32"]["verdict"] == "failed"
    assert "bead 7 is stuck" in found["abacus fp32"]["because"][0]


def test_tiles_must_be_exact_to_the_bit_on_processors_and_within_the_gate_on_gpus(
    monkeypatch, abacus, exported
):
    abacus.unsteadiness = 2e-6
    listed, found = exported()
    assert listed == ("cpu fp32",)
    (reason,) = found["abacus fp32"]["because"]
    assert reason.startswith("gives tiles that differ from the whole section by ")
    monkeypatch.setattr(devices, "DEVICES", (replace(ABACUS, kind="gpu"), CPU))
    assert exported()[0] == ("abacus bf16", "abacus fp32", "cpu fp32")


def test_the_contract_holds_no_more_than_who_passed(abacus, exported, tmp_path):
    exported()
    first = (tmp_path / "model.onnx").read_bytes()
    abacus.offset = 1e-6
    exported()
    assert (tmp_path / "model.onnx").read_bytes() == first


def test_every_precision_in_the_table_has_a_gate():
    assert {arithmetic.name for row in devices.DEVICES for arithmetic in row.arithmetic} == set(GATES)


def test_what_is_installed_here_is_measured_in_every_precision_that_is_native(everything):
    openvino = pytest.importorskip("isbi_infer.backends.openvino")
    (row,) = (row for row in devices.DEVICES if row.name == "openvino")
    try:
        native = openvino.native_precisions(row)
    except DependencyError as error:
        pytest.skip(str(error))
    folder, report = everything
    for file in report.files:
        found = {proof.precision: proof for proof in file.runtimes if proof.device == "openvino"}
        assert bool(found) == (file.variant.file_format == "onnx")
        for precision, proof in found.items():
            assert (proof.verdict != "not measured") == (precision in native), proof
            assert proof.evidence is None or proof.evidence.tiles == 0
    listed = read_contract((folder / "model.onnx").read_bytes()).runtimes
    assert {"openvino fp32", "cpu fp32"} <= set(listed)
