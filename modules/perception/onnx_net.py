"""A small reader of ONNX convolutional nets: the graph is run in torch, batched and differentiable.

The file is read by its wire format, so that no other package is needed; only the operators that the project's
nets use are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.types import BadInputError

# Field numbers of ONNX's messages.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_CONSTANT, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 3, 8
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_DTYPES = {1: np.float32, 7: np.int64}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class _Node:
    """One operator of the graph."""

    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    output: str = ""
    attributes: dict[str, list[int]] = field(default_factory=dict)


class OnnxNet(nn.Module):
    """A frozen net with one image input and one output; ``forward`` takes and returns what the file says."""

    def __init__(self, nodes: list[_Node], constants: dict[str, Tensor], source: str, result: str) -> None:
        super().__init__()
        unknown = {node.operator for node in nodes} - {"Conv", "PRelu", "Relu", "Add", "Reshape"}
        if unknown:
            raise BadInputError(f"ONNX operators {', '.join(sorted(unknown))} are not known to the reader")
        self._nodes = nodes
        self._source = source
        self._result = result
        self._buffer_of = {name: f"constant_{k}" for k, name in enumerate(constants)}
        for name, value in constants.items():
            self.register_buffer(self._buffer_of[name], value)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Run the graph on ``(N, C, H, W)``."""
        values = {self._source: images}
        for node in self._nodes:
            inputs = [values[i] if i in values else self.get_buffer(self._buffer_of[i]) for i in node.inputs]
            values[node.output] = _run(node, inputs)
        return values[self._result]


def read_onnx(path: Path | str) -> OnnxNet:
    """Read an ``.onnx`` file of convolutions, PReLU, ReLU, sums and a last reshape into a frozen torch module.

    Raises ``BadInputError`` for a file that is not ONNX, another operator, or another number format.
    """
    try:
        graph = next(value for number, value in _fields(Path(path).read_bytes()) if number == _MODEL_GRAPH)
        parts = list(_fields(_as_bytes(graph)))
    except (StopIteration, IndexError, TypeError) as error:
        raise BadInputError(f"{path} is not an ONNX file; fetch it again", 415) from error
    nodes = [_node(_as_bytes(v)) for number, v in parts if number == _GRAPH_NODE]
    constants = dict(_constant(_as_bytes(v)) for number, v in parts if number == _GRAPH_CONSTANT)
    # Old exporters list the constants among the inputs too.
    sources = [n for number, v in parts if number == _GRAPH_INPUT if (n := _name(_as_bytes(v))) not in constants]
    results = [_name(_as_bytes(v)) for number, v in parts if number == _GRAPH_OUTPUT]
    if len(sources) != 1 or len(results) != 1:
        raise BadInputError(f"{path} has {len(sources)} inputs and {len(results)} outputs; one of each is read")
    return OnnxNet(nodes, constants, sources[0], results[0])


def _run(node: _Node, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match node.operator:
        case "Conv":
            top, left, bottom, right = node.attributes.get("pads", [0, 0, 0, 0])
            if (top, left) != (bottom, right):
                x = F.pad(x, (left, right, top, bottom))
                top = left = 0
            return F.conv2d(
                x,
                inputs[1],
                inputs[2] if len(inputs) > 2 else None,
                node.attributes.get("strides", [1, 1]),
                (top, left),
                node.attributes.get("dilations", [1, 1]),
                node.attributes.get("group", [1])[0],
            )
        case "PRelu":
            return F.prelu(x, inputs[1].flatten())
        case "Relu":
            return F.relu(x)
        case "Add":
            return x + inputs[1]
        case _:
            # Reshape: exported for one image, as (-1, n) or (1, n); the batch stays.
            return x.flatten(1)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of each entry of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise TypeError(f"wire type {kind}")
        if at + length > len(message):
            raise IndexError("the message ends early")
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a message was expected")
    return value


def _name(message: bytes) -> str:
    return next(_as_bytes(v).decode() for number, v in _fields(message) if number == 1)


def _node(message: bytes) -> _Node:
    node = _Node()
    for number, value in _fields(message):
        if number == _NODE_INPUT:
            node.inputs.append(_as_bytes(value).decode())
        elif number == _NODE_OUTPUT:
            node.output = _as_bytes(value).decode()
        elif number == _NODE_OPERATOR:
            node.operator = _as_bytes(value).decode()
        elif number == _NODE_ATTRIBUTE:
            name, numbers = _attribute(_as_bytes(value))
            node.attributes[name] = numbers
    return node


def _attribute(message: bytes) -> tuple[str, list[int]]:
    name, numbers = "", []
    for number, value in _fields(message):
        if number == _ATTRIBUTE_NAME:
            name = _as_bytes(value).decode()
        elif number in (_ATTRIBUTE_INT, _ATTRIBUTE_INTS):
            numbers += _integers(value)
    return name, numbers


def _integers(value: int | bytes) -> list[int]:
    """Repeated integers come one by one, or packed."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _constant(message: bytes) -> tuple[str, Tensor]:
    name, kind, raw, shape = "", 0, b"", []
    for number, value in _fields(message):
        if number == _TENSOR_DIMS:
            shape += _integers(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME:
            name = _as_bytes(value).decode()
        elif number == _TENSOR_RAW:
            raw = _as_bytes(value)
    if kind not in _DTYPES:
        raise BadInputError(f"constant {name!r} is neither float32 nor int64; use the float32 net")
    return name, torch.from_numpy(np.frombuffer(raw, _DTYPES[kind]).reshape(shape).copy())
