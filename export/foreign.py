"""A model from elsewhere: its graph is analysed, and a copy with what the runtime must know is proved and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from isbi_export.graph.analysis.analyse import GraphAnalysis, analyse
from isbi_export.graph.analysis.reading import dims_of, domain_of, initialisers_of, read_onnx, tensor_name
from isbi_export.graph.metadata import stamp
from isbi_export.proof.runners import normalising
from isbi_export.proof.seams import contract_errors, seam_errors
from isbi_export.synthetic import synthetic_sections
from isbi_infer import Segmenter, __version__
from isbi_infer.backends.base import Backend
from isbi_infer.conflicts import check_not_input
from isbi_infer.errors import ModelError
from isbi_infer.files import replacing
from isbi_infer.model.contract import CONTRACT_KEY, ZSCORE, ModelContract, read_contract
from isbi_infer.model.devices import open_backend
from isbi_infer.model.file import read_model_file
from isbi_infer.model.opening import read_content
from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import normalise
from isbi_infer.plan.tiles import plan_section, read_mirrored

_OLDEST_OPSET = 7  # that ONNX Runtime runs
_ROUNDING = 1e-5  # beyond [0, 1], as softmax and interpolation leave it
_SAME = 1e-4  # what other libraries and tiles may change
_CONTRASTS = (1.0, 4.0, -4.0)  # of the probe: what is no probability leaves [0, 1] on one of them
# What passes values on, and what brings them into [0, 1] or makes logarithms of probabilities of them.
_PASSING = {
    "Identity",
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Gather",
    "Split",
}
_SQUASHING = {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """What a graph does not show about itself.

    Attributes
    ----------
    output : {"cell", "membrane", "cell-logits", "membrane-logits"}
        What the output is: a probability, or logits, of cell interior or of membrane.
    border : int
        Mirrored pixels around a section.
    pixel_size_nm : float or None
        Side of a pixel in the training data.
    """

    output: Literal["cell", "membrane", "cell-logits", "membrane-logits"] = "cell"
    border: int = 0
    pixel_size_nm: float | None = None


def add_contract(source: Path, target: Path, foreign: ForeignModel) -> ModelContract:
    """Write a copy of a foreign ONNX model that returns probabilities of cell interior and carries a contract.

    The copy segments a section of the synthetic sample before it takes its name, and must return what the source does.

    Parameters
    ----------
    source : Path
        An ONNX file from one greyscale image (N, 1, Y, X) in float32, each section normalised to zero mean and unit
        variance, to one map of the same size. Weights in files beside it are taken in.
    target : Path
        The copy; replaced only when whole.
    foreign : ForeignModel
        What its graph does not show.

    Returns
    -------
    ModelContract
        As stamped. ``exact`` is false where tiles are not proved to equal the whole-image result.

    Raises
    ------
    ModelError
        If the file or its weights are damaged or missing, if it is no such model, or if its output is not what
        `foreign` states: logits, class numbers, or probabilities already.
    OutputError
        If the copy cannot be written.
    """
    check_not_input(target, source)
    with _naming(source):
        content = read_content(source)
        proto = read_onnx(content)
        _take_weights_in(proto, source.parent)
        _check_signature(proto)
        raw = _serialised(proto)
        read_model_file(raw)
        analysis = analyse(proto)
        probe = _Probe.of(open_backend(raw, "cpu"), analysis, foreign.border)
        probe.check(foreign.output, _last_operation(proto.graph))
        _make_probability_of_cell(proto, foreign.output, clipped=probe.overshoots)
        contract = _contract(source, content, _serialised(proto), analysis, foreign)
        stamped = _stamped(proto, contract)
    with replacing(target) as temporary:
        temporary.write_bytes(stamped)
        with _naming(source, hidden=temporary):
            probe.compare(temporary, foreign.output)
    return read_contract(stamped)


@contextmanager
def _naming(source: Path, hidden: Path | None = None) -> Iterator[None]:
    """Put the file's name before what is wrong with it, in the place of a temporary one."""
    try:
        yield
    except ModelError as error:
        said = str(error).removeprefix(f"{hidden or source}: ")
        raise ModelError(f"{source}: {said}") from error


def _take_weights_in(proto: onnx.ModelProto, folder: Path) -> None:
    """Read the weights that lie in other files, which the copy is to be whole without."""
    remedy = "copy it beside the .onnx file, or save the model with external_data=False"
    for tensor in _tensors(proto.graph):
        if not uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not (folder / location).is_file():
            raise ModelError(f"its weights lie in another file, {location!r}, which is not there; {remedy}")
        try:
            load_external_data_for_tensor(tensor, str(folder))
            numpy_helper.to_array(tensor)
        except Exception as error:  # onnx raises its own, the system's, and NumPy's
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"its weights in {location!r} cannot be read ({tensor.name!r}: {reason}); {remedy}"
            ) from error


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner)


def _serialised(proto: onnx.ModelProto) -> bytes:
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:  # protobuf's implementations agree on no class
        raise ModelError(
            "with its weights it is larger than the 2 GiB of one ONNX file; export it in a smaller precision"
        ) from error


def _check_signature(proto: onnx.ModelProto) -> None:
    """Raise `ModelError` if inputs and outputs, as the file declares them, are not those of a network run here."""
    if any(entry.key == CONTRACT_KEY for entry in proto.metadata_props):
        raise ModelError("it carries a contract already; use it with isbi-infer --model as it is")
    opset = max((entry.version for entry in proto.opset_import if not domain_of(entry)), default=0)
    if opset < _OLDEST_OPSET:
        raise ModelError(
            f"its operators are of opset {opset}, expected {_OLDEST_OPSET} or later; export it with opset_version=17"
        )
    stored = {tensor_name(tensor) for tensor in initialisers_of(proto.graph)}
    inputs = [value for value in proto.graph.input if value.name not in stored]
    outputs = list(proto.graph.output)
    for kind, values in (("input", inputs), ("output", outputs)):
        if len(values) != 1:
            raise ModelError(
                f"it has {len(values)} {kind}s ({', '.join(value.name for value in values)}), expected one {kind}; "
                f"export it with one {kind} alone"
            )
    _check_input(inputs[0])
    element = outputs[0].type.tensor_type.elem_type
    if element not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
        name = TensorProto.DataType.Name(element).lower()
        numbers = element in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        raise ModelError(
            f"its output {outputs[0].name!r} is of {name}, expected probabilities or logits in float32; "
            + ("export it in float32" if numbers else "export it without argmax or threshold at the end")
        )


def _check_input(value: onnx.ValueInfoProto) -> None:
    dims = dims_of(value)
    shown = f"its input {value.name!r}"
    element = value.type.tensor_type.elem_type
    if element != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(element).lower()
        raise ModelError(
            f"{shown} is of {name}, expected normalised grey values in float32; export it in float32"
        )
    if dims is None:
        return
    size = f"({', '.join(str(dim or '?') for dim in dims)})"
    if len(dims) != 4:
        raise ModelError(
            f"{shown} is {size}, expected four dimensions (N, 1, Y, X); export the network for those"
        )
    if isinstance(dims[3], int) and dims[3] <= 4 and dims[1] != 1:
        raise ModelError(
            f"{shown} is {size}, which looks like channels last (N, Y, X, C), expected (N, 1, Y, X); export it with "
            "channels first (tf2onnx: --inputs-as-nchw and --outputs-as-nchw)"
        )
    if isinstance(dims[1], int) and dims[1] != 1:
        raise ModelError(
            f"{shown} is {size}, so of {dims[1]} channels, expected one, grey values; export a network that repeats "
            "the grey values itself"
        )
    if isinstance(dims[0], int) and dims[0] != 1:
        raise ModelError(
            f"{shown} is {size}, a fixed batch of {dims[0]}; export it with a dynamic first axis"
        )
    if any(isinstance(dim, int) for dim in dims[2:]):
        raise ModelError(
            f"{shown} is {size}, images of a fixed size; export it with dynamic height and width (torch.onnx.export: "
            "dynamic_shapes, or dynamic_axes)"
        )


@dataclass(frozen=True, slots=True)
class _Probe:
    """A section of the synthetic sample, and what the source returns for it, at several contrasts."""

    section_YX: npt.NDArray[np.uint8]
    crop: tuple[slice, slice]
    results: tuple[npt.NDArray[np.float32], ...]

    @classmethod
    def of(cls, session: Backend, analysis: GraphAnalysis, border: int) -> _Probe:
        """Run the source, or raise `ModelError` if it returns no map of the image's size."""
        section_YX = synthetic_sections(1)[0][0, :250, :330]
        plan = plan_section(section_YX.shape, stride=analysis.stride, halo=analysis.halo, border=border)
        (tile,) = plan.tiles
        grey_YX = read_mirrored(section_YX, plan.pad, tile.reads)
        image_NCYX = normalise(grey_YX, normalising_section(section_YX))[None, None]
        results: list[npt.NDArray[Any]] = []
        for contrast in _CONTRASTS:
            result = session.run(image_NCYX * np.float32(contrast))
            if result.shape != image_NCYX.shape:
                several = result.ndim == 4 and result.shape[1] != 1
                raise ModelError(
                    f"it returns {result.shape} for an image of {image_NCYX.shape}, expected the same shape; "
                    + (
                        "export the map of one class alone"
                        if several
                        else "export it padded to the image's size"
                    )
                )
            if result.dtype != np.float32:
                raise ModelError(f"its output is of {result.dtype}, expected float32; export it in float32")
            results.append(result[0, 0])
        return cls(section_YX, tile.crop, tuple(results))

    @property
    def overshoots(self) -> bool:
        """Whether probabilities leave [0, 1] by rounding."""
        return any(np.nanmin(result) < 0 or np.nanmax(result) > 1 for result in self.results)

    def check(self, output: str, last: str) -> None:
        """Raise `ModelError` if the output cannot be what the user states."""
        result = self.results[0]
        on = "for a section of the synthetic sample"
        if not np.isfinite(result).all():
            raise ModelError(f"it returns NaN or infinite values {on}; are the weights damaged?")
        low, high = float(result.min()), float(result.max())
        if low == high:
            raise ModelError(f"it returns {low:g} everywhere {on}, so nothing of the image; export it again")
        if np.array_equal(result, np.rint(result)):
            raise ModelError(
                f"it returns only whole numbers from {low:g} to {high:g} {on}, so class numbers, expected "
                "probabilities or logits; export it without argmax or threshold at the end"
            )
        name = output.removesuffix("-logits")
        if output != name:
            if last in _SQUASHING or (low >= 0 and high <= 1):
                found = f"its last operation is {last}" if last in _SQUASHING else "it returns"
                advice = "end it in softmax instead" if last == "LogSoftmax" else f"use --output-is {name}"
                raise ModelError(
                    f"{found}, values from {low:.3g} to {high:.3g} {on}, so no logits as --output-is {output} states; "
                    f"{advice}"
                )
            return
        lowest = min(float(np.nanmin(result)) for result in self.results)
        highest = max(float(np.nanmax(result)) for result in self.results)
        if lowest < -_ROUNDING or highest > 1 + _ROUNDING:
            raise ModelError(
                f"it returns values from {lowest:.3g} to {highest:.3g} {on}, expected probabilities from 0 to "
                f"1; if they are logits, use --output-is {name}-logits, otherwise export it with a sigmoid at the end"
            )

    def compare(self, file: Path, output: str) -> None:
        """Segment the section with the file as `isbi_infer` does; raise `ModelError` if it is not what was found."""
        expected_YX = self.results[0][self.crop].astype(np.float64)
        if output.endswith("-logits"):
            expected_YX = np.exp(-np.logaddexp(0, -expected_YX))
        if output.startswith("membrane"):
            expected_YX = 1 - expected_YX
        with Segmenter(file, provider="cpu") as segmenter:
            found_YX = segmenter(self.section_YX)
        if found_YX.shape != expected_YX.shape:
            raise ModelError(f"the copy returns {found_YX.shape} for a section of {expected_YX.shape}")
        difference = float(np.abs(found_YX - expected_YX).max())
        if not difference <= _SAME:
            raise ModelError(
                f"the copy with a contract differs from it by {difference:.2g} on a section of the synthetic sample, "
                f"expected at most {_SAME:g}; it is not published"
            )


def _last_operation(graph: onnx.GraphProto) -> str:
    """Return the operation that makes the output's values; what only moves them is passed over."""
    makers = {name: node for node in graph.node for name in node.output}
    name = graph.output[0].name
    while node := makers.pop(name, None):
        if node.op_type not in _PASSING or not node.input:
            return str(node.op_type)
        name = node.input[0]
    return "none"


def _make_probability_of_cell(proto: onnx.ModelProto, output: str, *, clipped: bool) -> None:
    """Append a sigmoid and an inversion where they are needed, and what takes rounding beyond [0, 1] off."""
    graph = proto.graph
    opset = max(entry.version for entry in proto.opset_import if not domain_of(entry))
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {tensor_name(tensor) for tensor in initialisers_of(graph)} | {value.name for value in graph.input}

    def unused(name: str) -> str:
        while name in used:
            name += "_"
        used.add(name)
        return name

    def constant(name: str, value: float) -> str:
        graph.initializer.append(helper.make_tensor(unused(name), TensorProto.FLOAT, [], [value]))
        return str(graph.initializer[-1].name)

    def append(operation: str, *inputs: str, **attributes: float) -> str:
        made = unused(f"isbi_{operation.lower()}")
        graph.node.append(helper.make_node(operation, inputs, [made], **attributes))
        return made

    name = graph.output[0].name
    if output.endswith("-logits"):
        name = append("Sigmoid", name)
    elif clipped and opset < 11:
        name = append("Clip", name, min=0.0, max=1.0)
    elif clipped:
        name = append("Clip", name, constant("isbi_lowest", 0.0), constant("isbi_highest", 1.0))
    if output.startswith("membrane"):
        name = append("Sub", constant("isbi_one", 1.0), name)
    graph.output[0].name = name


def _stamped(proto: onnx.ModelProto, contract: ModelContract) -> bytes:
    try:
        return bytes(stamp(proto, contract))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"its graph is invalid to onnx.checker ({' '.join(str(error).split())[:200]}); export it again"
        ) from error


def _contract(
    source: Path, content: bytes, model: bytes, analysis: GraphAnalysis, foreign: ForeignModel
) -> ModelContract:
    session = open_backend(model, "cpu")
    errors = {}
    if analysis.exact:
        found = seam_errors(
            normalising(session.run), stride=analysis.stride, halo=analysis.halo, border=foreign.border
        )
        errors = contract_errors(found, analysis.halo)
    return ModelContract(
        input_name=session.inputs[0],
        input_dtype="float32",
        input_channels=1,
        output_name=session.outputs[0],
        output_dtype="float32",
        output_channels=1,
        statistics_inputs=(),
        stride=analysis.stride,
        halo=analysis.halo,
        border=foreign.border,
        halo_error=errors,
        exact=analysis.exact,
        not_exact_because=analysis.reasons,
        flops_per_pixel=analysis.flops_per_pixel,
        activation_bytes_per_pixel=analysis.activation_bytes_per_pixel,
        normalisation=ZSCORE,
        polarity="cell",
        pixel_size_nm=foreign.pixel_size_nm,
        threshold=None,
        familiar=None,
        precision="float32",
        digest=None,
        runtimes=(),  # there is no checkpoint to compare with
        provenance={
            "parity": {},
            "training": {"source": source.name, "source_sha256": hashlib.sha256(content).hexdigest()},
            "scores": {},
            "code_version": __version__,
        },
    )
