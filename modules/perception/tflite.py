"""A small reader of TensorFlow Lite float nets: the graph is run in torch, batched and differentiable.

Only the operators that the project's nets use are known; anything else is refused by name. Four-dimensional
values are held as (N, C, H, W); the few operators whose meaning depends on the order of the axes (reshape,
transpose, sum, softmax) go through TensorFlow's (N, H, W, C) and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.types import BadInputError

_SAME, _NO_ACTIVATION, _RELU = 0, 0, 1
_OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
_DTYPES = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.INT32: np.int32}


@dataclass(frozen=True)
class _Step:
    """One operator: which values go in, and which value comes out."""

    operator: nn.Module
    inputs: tuple[int, ...]
    output: int


class TfliteNet(nn.Module):
    """A frozen net read from a ``.tflite`` file.

    ``forward(images, also=())`` takes (N, C, H, W) in the range that the net expects and returns the net's
    outputs in the file's order, then the inner values named by number in ``also``; four-dimensional ones are
    (N, C, h, w). Raises ``ValueError`` where the images' channels or size are not the net's.
    """

    def __init__(
        self, steps: Sequence[_Step], source: int, outputs: Sequence[int], size: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.operators = nn.ModuleList(step.operator for step in steps)
        self.source = source
        self.outputs = tuple(outputs)
        self.size = size
        """Channels, height and width of the input."""
        self._wiring = [(step.inputs, step.output) for step in steps]
        self._last_use = {value: k for k, step in enumerate(steps) for value in step.inputs}
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, also: Sequence[int] = ()) -> tuple[Tensor, ...]:
        """Run the graph; see the class."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.size:
            raise ValueError(f"the net takes (N, {', '.join(map(str, self.size))}), got {tuple(images.shape)}")
        wanted = (*self.outputs, *also)
        values = {self.source: images}
        for k, (operator, (inputs, output)) in enumerate(zip(self.operators, self._wiring, strict=True)):
            values[output] = operator(*(values[i] for i in inputs))
            for i in inputs:
                if self._last_use[i] == k and i not in wanted:
                    values.pop(i, None)
        return tuple(values[i] for i in wanted)


def read_tflite(path: Path | str) -> TfliteNet:
    """Read a float32 ``.tflite`` file with one input into a frozen torch module.

    Raises ``BadInputError`` where the file is not TensorFlow Lite or uses an operator, an activation or a number
    format that this reader does not know.
    """
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise BadInputError(f"{path} is not a TensorFlow Lite file; fetch it again", 415)
    model = tflite.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    if graph.InputsLength() != 1:
        raise BadInputError(f"{path} has {graph.InputsLength()} inputs; only nets with one image input are read")
    constants = {
        i: value for i in range(graph.TensorsLength()) if (value := _constant(model, graph.Tensors(i))) is not None
    }
    steps = [_step(model, graph, graph.Operators(k), constants) for k in range(graph.OperatorsLength())]
    source = int(graph.Inputs(0))
    _, height, width, channels = (int(n) for n in graph.Tensors(source).ShapeAsNumpy())
    outputs = [int(i) for i in graph.OutputsAsNumpy()]
    return TfliteNet(steps, source, outputs, (channels, height, width))


def _constant(model: Any, tensor: Any) -> NDArray[Any] | None:
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataLength() == 0:
        return None
    if tensor.Type() not in _DTYPES:
        raise BadInputError(f"tensor {tensor.Name().decode()!r} is neither float32 nor int32; use the float32 net")
    shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
    return np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[tensor.Type()]).reshape(shape)


def _step(model: Any, graph: Any, operator: Any, constants: dict[int, NDArray[Any]]) -> _Step:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Files written by old converters hold the code in the narrow deprecated field.
    name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    if name not in _BUILDERS:
        raise BadInputError(f"operator {name} is not known; the reader knows {', '.join(sorted(_BUILDERS))}")
    options_name, build = _BUILDERS[name]
    options, table = None, operator.BuiltinOptions()
    if options_name is not None and table is not None:
        options = getattr(tflite, options_name)()
        options.Init(table.Bytes, table.Pos)
    elif name == "RESHAPE":
        # The shape asked for may hold a -1; the one the file notes for the result does not.
        options = graph.Tensors(operator.Outputs(0)).ShapeAsNumpy()
    ids = [int(i) for i in operator.InputsAsNumpy()]
    module = build(options, [constants.get(i) for i in ids])
    return _Step(module, tuple(i for i in ids if i not in constants and i >= 0), int(operator.Outputs(0)))


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many outputs as ``ceil(size / stride)``, the odd pixel of padding after the image."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _activation(options: Any) -> bool:
    code = options.FusedActivationFunction()
    if code not in (_NO_ACTIVATION, _RELU):
        raise BadInputError(f"fused activation {code} is not known; the reader knows none and ReLU")
    return bool(code == _RELU)


class _Conv(nn.Module):
    """Convolution, plain or depthwise, with TensorFlow's padding and an optional ReLU."""

    def __init__(self, options: Any, weight: NDArray[Any], bias: NDArray[Any] | None, depthwise: bool) -> None:
        super().__init__()
        if options.DilationHFactor() != 1 or options.DilationWFactor() != 1:
            raise BadInputError("dilated convolutions are not known to the reader")
        # Plain kernels are (out, h, w, in), depthwise ones (1, h, w, out).
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        self.register_buffer("weight", torch.from_numpy(weight.transpose(order).copy()))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(bias.copy()))
        self.weight: Tensor
        self.bias: Tensor | None
        self.stride = (options.StrideH(), options.StrideW())
        self.groups = weight.shape[3] if depthwise else 1
        self.same = options.Padding() == _SAME
        self.relu = _activation(options)

    def forward(self, x: Tensor) -> Tensor:
        padding = (0, 0)
        if self.same:
            (top, bottom), (left, right) = (
                _same_padding(x.shape[2 + k], self.weight.shape[2 + k], self.stride[k]) for k in (0, 1)
            )
            if top == bottom and left == right:
                padding = (top, left)
            else:
                x = F.pad(x, (left, right, top, bottom))
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu(x) if self.relu else x


class _TransposedConv(nn.Module):
    """Transposed convolution whose kernel is its stride, so that outputs do not overlap."""

    def __init__(self, options: Any, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
        super().__init__()
        self.stride = (options.StrideH(), options.StrideW())
        if weight.shape[1:3] != self.stride:
            raise BadInputError(
                "transposed convolutions whose kernel is not their stride are not known to the reader"
            )
        self.register_buffer("weight", torch.from_numpy(weight.transpose(3, 0, 1, 2).copy()))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(bias.copy()))
        self.weight: Tensor
        self.bias: Tensor | None
        self.relu = _activation(options)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(x, self.weight, self.bias, self.stride)
        return F.relu(x) if self.relu else x


class _PReLU(nn.Module):
    """Leaky ReLU with one slope per channel."""

    def __init__(self, slope: NDArray[Any]) -> None:
        super().__init__()
        self.register_buffer("slope", torch.from_numpy(slope.reshape(-1).copy()))
        self.slope: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope)


class _Arithmetic(nn.Module):
    """Sum or product of two values, or of one value and a constant per channel."""

    def __init__(self, options: Any, operands: Sequence[NDArray[Any] | None], product: bool) -> None:
        super().__init__()
        fixed = [value for value in operands if value is not None]
        self.register_buffer("fixed", torch.from_numpy(fixed[0].reshape(1, -1, 1, 1).copy()) if fixed else None)
        self.fixed: Tensor | None
        self.product = product
        self.relu = _activation(options)

    def forward(self, *values: Tensor) -> Tensor:
        a, b = values if self.fixed is None else (values[0], self.fixed)
        x = a * b if self.product else a + b
        return F.relu(x) if self.relu else x


class _MaxPool(nn.Module):
    """Largest value of each window, without padding."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.kernel = (options.FilterHeight(), options.FilterWidth())
        self.stride = (options.StrideH(), options.StrideW())
        if options.Padding() == _SAME and self.kernel != self.stride:
            raise BadInputError("padded pooling is not known to the reader")

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride, ceil_mode=True)


class _Pad(nn.Module):
    """Zeros around the value, channels included."""

    def __init__(self, paddings: NDArray[Any]) -> None:
        super().__init__()
        batch, height, width, channels = paddings.tolist()
        if any(batch):
            raise BadInputError("padding along the batch is not known to the reader")
        self.amounts = [*width, *height, *channels]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.amounts)


class _Reshape(nn.Module):
    """Reshape in TensorFlow's order; the batch, slowest of the axes, multiplies the first entry of the shape."""

    def __init__(self, shape: NDArray[Any]) -> None:
        super().__init__()
        self.shape = [int(n) for n in shape.reshape(-1)]
        self.each = int(np.prod(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        copies = x.numel() // self.each
        return _nchw(_nhwc(x).reshape(self.shape[0] * copies, *self.shape[1:]))


class _Transpose(nn.Module):
    """Permutation of TensorFlow's axes, the batch staying first."""

    def __init__(self, order: NDArray[Any]) -> None:
        super().__init__()
        self.order = [int(n) for n in order]
        if self.order[0] != 0:
            raise BadInputError("a transpose that moves the batch is not known to the reader")

    def forward(self, x: Tensor) -> Tensor:
        return _nchw(_nhwc(x).permute(self.order))


class _Sum(nn.Module):
    """Sum over TensorFlow's axes, which stay with length one."""

    def __init__(self, options: Any, axes: NDArray[Any]) -> None:
        super().__init__()
        self.axes = [int(n) for n in axes.reshape(-1)]
        if not options.KeepDims() or 0 in self.axes:
            raise BadInputError("a sum that drops axes or runs over the batch is not known to the reader")

    def forward(self, x: Tensor) -> Tensor:
        return _nchw(_nhwc(x).sum(self.axes, keepdim=True))


class _Softmax(nn.Module):
    """Softmax over TensorFlow's last axis."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.beta = float(options.Beta())

    def forward(self, x: Tensor) -> Tensor:
        return _nchw(torch.softmax(self.beta * _nhwc(x), dim=-1))


class _Resize(nn.Module):
    """Resize with pixel centres at halves."""

    def __init__(self, options: Any, size: NDArray[Any], mode: str) -> None:
        super().__init__()
        if options.AlignCorners() or not options.HalfPixelCenters():
            raise BadInputError("resizing by another rule than half pixel centres is not known to the reader")
        self.size = [int(n) for n in size]
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode=self.mode)


_Build = Callable[[Any, list[Any]], nn.Module]
_BUILDERS: dict[str, tuple[str | None, _Build]] = {
    "CONV_2D": ("Conv2DOptions", lambda o, c: _Conv(o, c[1], c[2], depthwise=False)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", lambda o, c: _Conv(o, c[1], c[2], depthwise=True)),
    "TRANSPOSE_CONV": (
        "TransposeConvOptions",
        lambda o, c: _TransposedConv(o, c[1], c[3] if len(c) > 3 else None),
    ),
    "PRELU": (None, lambda o, c: _PReLU(c[1])),
    "ADD": ("AddOptions", lambda o, c: _Arithmetic(o, c, product=False)),
    "MUL": ("MulOptions", lambda o, c: _Arithmetic(o, c, product=True)),
    "MAX_POOL_2D": ("Pool2DOptions", lambda o, c: _MaxPool(o)),
    "PAD": (None, lambda o, c: _Pad(c[1])),
    "RESHAPE": (None, lambda o, c: _Reshape(o)),
    "TRANSPOSE": (None, lambda o, c: _Transpose(c[1])),
    "SUM": ("ReducerOptions", lambda o, c: _Sum(o, c[1])),
    "SOFTMAX": ("SoftmaxOptions", lambda o, c: _Softmax(o)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", lambda o, c: _Resize(o, c[1], "bilinear")),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", lambda o, c: _Resize(o, c[1], "nearest-exact")),
}
