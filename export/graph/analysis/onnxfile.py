"""The protobuf of an ONNX file as frozen values: small, strict, and without the ``onnx`` package.

It reads what graph analysis and the contract need. Weights are never copied: a `Tensor` keeps views into the file and
decodes them when asked. Whatever is damaged (truncated, over-long, of the wrong type, doubled, nested absurdly deep) is
a `ModelError` and never another exception.

The wire format: https://protobuf.dev/programming-guides/encoding, the messages: onnx/onnx.proto of ONNX 1.23.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from isbi_export.graph.analysis.protobuf import (
    DOUBLES,
    FLOAT,
    FLOATS,
    INT,
    INTS,
    MESSAGE,
    MESSAGES,
    TEXT,
    TEXTS,
    Fields,
    damaged,
    decode,
    integer,
    integers,
    numbers_in,
    read_message,
    text,
)

Array = npt.NDArray[Any]
Dim = int | str | None

_Kept = TypeVar("_Kept")

_HIGHEST_RANK = 32
_DEEPEST = 30  # graphs within graphs; protobuf itself stops at 100 messages within messages

# Field numbers of onnx/onnx.proto.
_MODEL = {1: INT, 7: MESSAGE, 8: MESSAGES, 14: MESSAGES, 20: MESSAGES, 25: MESSAGES}
_ENTRY, _OPSET, _TRAINING = {1: TEXT, 2: TEXT}, {1: TEXT, 2: INT}, {1: MESSAGE, 2: MESSAGE}
_FUNCTION = {1: TEXT, 7: MESSAGES, 10: TEXT, 11: MESSAGES}
_GRAPH = {1: MESSAGES, 5: MESSAGES, 11: MESSAGES, 12: MESSAGES, 15: MESSAGES}
_NODE = {1: TEXTS, 2: TEXTS, 3: TEXT, 4: TEXT, 5: MESSAGES, 7: TEXT}
_ATTRIBUTE = {1: TEXT, 2: FLOAT, 3: INT, 4: TEXT, 5: MESSAGE, 6: MESSAGE, 7: FLOATS, 8: INTS, 9: TEXTS}
_ATTRIBUTE |= {10: MESSAGES, 11: MESSAGES, 20: INT, 22: MESSAGE, 23: MESSAGES}
# AttributeType to the field that holds such a value.
_ATTRIBUTE_TYPES = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 22, 12: 23}
_ZERO: dict[int, float | int | str] = {1: 0.0, 2: 0, 3: ""}
_TENSOR = {1: INTS, 2: INT, 4: FLOATS, 5: INTS, 7: INTS, 8: TEXT, 9: TEXT, 10: DOUBLES, 11: INTS}
_TENSOR |= {13: MESSAGES, 14: INT}
_SPARSE = {1: MESSAGE, 2: MESSAGE, 3: INTS}
_VALUE, _TYPE, _TENSOR_TYPE = {1: TEXT, 2: MESSAGE}, {1: MESSAGE}, {1: INT, 2: MESSAGE}
_SHAPE, _DIM = {1: MESSAGES}, {1: INT, 2: TEXT}

# ONNX's element types that shape arithmetic meets: NumPy's name, and the field for numbers that are not raw.
_DTYPES = {1: ("<f4", 4), 2: ("u1", 5), 3: ("i1", 5), 4: ("<u2", 5), 5: ("<i2", 5), 6: ("<i4", 5)}
_DTYPES |= {7: ("<i8", 7), 9: ("?", 5), 10: ("<f2", 5), 11: ("<f8", 10), 12: ("<u4", 11), 13: ("<u8", 11)}
_FLOAT16 = 10


@dataclass(frozen=True, slots=True)
class Tensor:
    """Numbers stored in the file.

    Attributes
    ----------
    name : str
    dims : tuple of int
    dtype : int
        ONNX's code of the element type.
    external : bool
        Whether the numbers lie in another file.
    """

    name: str
    dims: tuple[int, ...]
    dtype: int
    external: bool
    _stored: Mapping[int, list[Any]] = field(default_factory=dict, repr=False, compare=False)

    def array(self, most: int = 4096) -> Array | None:
        """Decode the numbers.

        Parameters
        ----------
        most : int
            Larger tensors are left alone.

        Returns
        -------
        ndarray or None
            None if there are too many, if they are stored elsewhere, or if NumPy has no such type.

        Raises
        ------
        ModelError
            If there are more or fewer numbers than the shape says.
        """
        count = prod(self.dims)
        if count > most or self.external or self.dtype not in _DTYPES:
            return None
        dtype, number = _DTYPES[self.dtype]
        parts = self._stored.get(9) or self._stored.get(number, [])
        if 9 in self._stored or number in (4, 10):
            numbers = np.concatenate([np.empty(0, dtype), *(numbers_in(part, dtype) for part in parts)])
        elif self.dtype == _FLOAT16:  # its bit pattern stands there
            numbers = np.array(integers(parts), np.int64).astype("<u2").view(dtype)
        else:
            numbers = np.array(integers(parts), np.int64).astype(dtype)
        if numbers.size != count:
            raise damaged(f"tensor {self.name!r} holds {numbers.size} numbers, its shape says {count}")
        return numbers.reshape(self.dims)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[
        str, Any
    ]  # int, float, str, Tensor, Graph, or a tuple of one of them; None for other kinds


@dataclass(frozen=True, slots=True)
class Value:
    """A graph's input or output; ``shape`` is None where even the rank is unknown, a dimension where its size is."""

    name: str
    dtype: int
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in the order they stand in, and what they start from."""

    nodes: tuple[Node, ...]
    initialisers: Mapping[str, Tensor]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A whole model.

    Attributes
    ----------
    ir_version : int
    opsets : mapping of str to int
        Version by domain; the standard domain is "".
    metadata : mapping of str to str
        ``metadata_props``; a key that stands twice is an error, for readers differ in which one they take.
    graph : Graph
    functions : frozenset of (str, str)
        Domain and name of the operations that the model defines itself.
    external : tuple of str
        Names of all tensors, wherever they stand, whose numbers lie in other files.
    """

    ir_version: int
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    graph: Graph
    functions: frozenset[tuple[str, str]]
    external: tuple[str, ...]


def read_onnx(model: bytes) -> OnnxFile:
    """Read an ONNX file.

    Parameters
    ----------
    model : bytes
        The whole file.

    Returns
    -------
    OnnxFile

    Raises
    ------
    ModelError
        If the file is damaged or no ONNX file.
    """
    reader = _Reader()
    top = read_message(memoryview(model), _MODEL)
    if 7 not in top:
        raise damaged("there is no graph in it")
    graph = reader.graph(top[7][0], 1)
    functions = [read_message(part, _FUNCTION) for part in top.get(25, ())]
    for function in functions:
        reader.nodes(function.get(7, ()), 1)
        for default in function.get(11, ()):
            reader.attribute(default, 1)
    for training in top.get(20, ()):
        for parts in read_message(training, _TRAINING).values():
            reader.graph(parts[0], 1)
    opsets = (read_message(part, _OPSET) for part in top.get(8, ()))
    metadata = (read_message(part, _ENTRY) for part in top.get(14, ()))
    return OnnxFile(
        ir_version=integer(top, 1),
        opsets=_unique("opset", ((_domain(fields, 1), integer(fields, 2)) for fields in opsets)),
        metadata=_unique("metadata key", ((text(fields, 1), text(fields, 2)) for fields in metadata)),
        graph=graph,
        functions=frozenset((_domain(fields, 10), text(fields, 1)) for fields in functions),
        external=tuple(reader.external),
    )


class _Reader:
    """Reads graphs, and remembers every tensor on the way that lies outside the file."""

    def __init__(self) -> None:
        self.external: list[str] = []

    def graph(self, message: memoryview, depth: int) -> Graph:
        if depth > _DEEPEST:
            raise damaged(f"graphs are nested more than {_DEEPEST} deep")
        fields = read_message(message, _GRAPH)
        tensors = [self.tensor(part) for part in fields.get(5, ())]
        tensors += [self.sparse(part) for part in fields.get(15, ())]
        return Graph(
            nodes=self.nodes(fields.get(1, ()), depth),
            initialisers=_unique("initialiser", ((tensor.name, tensor) for tensor in tensors)),
            inputs=tuple(_value(part) for part in fields.get(11, ())),
            outputs=tuple(_value(part) for part in fields.get(12, ())),
        )

    def nodes(self, messages: Sequence[memoryview], depth: int) -> tuple[Node, ...]:
        nodes = []
        for message in messages:
            fields = read_message(message, _NODE)
            attributes = (self.attribute(part, depth) for part in fields.get(5, ()))
            nodes.append(
                Node(
                    op_type=text(fields, 4),
                    domain=_domain(fields, 7),
                    name=text(fields, 3),
                    inputs=tuple(map(decode, fields.get(1, ()))),
                    outputs=tuple(map(decode, fields.get(2, ()))),
                    attributes=_unique("attribute", attributes),
                )
            )
        return tuple(nodes)

    def attribute(self, message: memoryview, depth: int) -> tuple[str, Any]:
        fields = read_message(message, _ATTRIBUTE)
        values: dict[int, tuple[Any, ...]] = {}
        for number, parts in fields.items():
            if number in (2, 7):
                values[number] = tuple(x for part in parts for x in numbers_in(part, "<f4").tolist())
            elif number in (3, 8):
                values[number] = integers(parts)
            elif number in (4, 9):
                values[number] = tuple(bytes(part).decode("utf-8", "backslashreplace") for part in parts)
            elif number in (5, 10):
                values[number] = tuple(self.tensor(part) for part in parts)
            elif number in (6, 11):
                values[number] = tuple(self.graph(part, depth + 1) for part in parts)
            elif number in (22, 23):
                values[number] = tuple(self.sparse(part) for part in parts)
        kind = integer(fields, 20)
        # Files older than the type have one field; writers in proto3 leave out a number that is zero.
        used = _ATTRIBUTE_TYPES.get(kind, 0) if kind else next(iter(values), 0)
        value: Any = values.get(used, (_ZERO[kind],) if kind in _ZERO else ()) if used else None
        if used and not _ATTRIBUTE[used].repeated:
            value = value[0] if value else None
        return text(fields, 1), value

    def tensor(self, message: memoryview) -> Tensor:
        fields = read_message(message, _TENSOR)
        name, dims = text(fields, 8), integers(fields.get(1, ()))
        if len(dims) > _HIGHEST_RANK or min(dims, default=0) < 0 or prod(size or 1 for size in dims) >> 60:
            raise damaged(f"tensor {name!r} has shape {dims}")
        external = integer(fields, 14) == 1 or 13 in fields
        if external:
            self.external.append(name)
        return Tensor(name, dims, integer(fields, 2), external, fields)

    def sparse(self, message: memoryview) -> Tensor:
        fields = read_message(message, _SPARSE)
        values, *_ = [self.tensor(fields[number][0]) for number in (1, 2) if number in fields] or [_NOTHING]
        return Tensor(values.name, integers(fields.get(3, ())), _UNDECODED, values.external)


_UNDECODED = 0
_NOTHING = Tensor("", (), _UNDECODED, external=False)


def _value(message: memoryview) -> Value:
    fields = read_message(message, _VALUE)
    outer = read_message(fields[2][0], _TYPE) if 2 in fields else {}
    tensor = read_message(outer[1][0], _TENSOR_TYPE) if 1 in outer else {}
    shape: tuple[Dim, ...] | None = None
    if 2 in tensor:
        dims = [read_message(part, _DIM) for part in read_message(tensor[2][0], _SHAPE).get(1, ())]
        shape = tuple(integer(dim, 1) if 1 in dim else text(dim, 2) or None for dim in dims)
    return Value(text(fields, 1), integer(tensor, 1), shape)


def _domain(fields: Fields, number: int) -> str:
    domain = text(fields, number)
    return "" if domain == "ai.onnx" else domain


def _unique(what: str, pairs: Iterable[tuple[str, _Kept]]) -> dict[str, _Kept]:
    found: dict[str, _Kept] = {}
    for key, value in pairs:
        if key in found:
            raise damaged(f"{what} {key!r} stands twice")
        found[key] = value
    return found
