"""What stands in for the globals that pickles of published checkpoints name; nothing of theirs is run.

``pickle_machine`` calls stand-ins from this fixed list and nothing else. Each is as cheap as what it is given: the
same value can be given again and again, so one that adds up, or that looks into what it is given without end,
would let a few bytes of a pickle take all memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SCALARS = (str, bytes, int, float, torch.dtype, type(None))
_LONGEST_KEY = 4096
"""Characters; of a path, too."""
_LONGEST_NAME = 100
_LARGEST_KEY = 1 << 64
_WIDEST_KEY = 8
"""Parts of a tuple that is a key."""
_DEEPEST = 50
"""Dicts and networks inside one another."""
_MOST_CHARACTERS = 16 << 20
"""Of all names in a checkpoint; the published ones have less than one million."""
_MOST_SIDES = 64
_EXPANDED = 1 << 20
"""Elements that a tensor may have beyond those of its storage: codes are kept with one row for all layers."""


@dataclass
class PickledModule:
    """A network that was pickled whole: its class's name and its attributes, never built."""

    class_name: str
    state: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by dotted name, as ``state_dict`` would name them; see ``named_tensors``."""
        return named_tensors(self)

    def items(self, group: str) -> Iterable[tuple[Any, Any]]:
        """What it holds as ``_parameters``, ``_buffers`` or ``_modules``, by name."""
        held = self.state.get(group) or {}
        if not isinstance(held, Mapping):
            raise TypeError(f"a network's {group} are a {type(held).__name__}")
        return held.items()


def named_tensors(value: Any) -> dict[str, Tensor]:
    """Every tensor in nested dicts and pickled networks, by dotted name.

    ``ValueError`` for dicts and networks that hold themselves, or one another so often that names have no end.
    """
    found: dict[str, Tensor] = {}
    characters = 0

    def visit(part: Any, name: str, depth: int) -> None:
        nonlocal characters
        characters += len(name) + 1
        if depth > _DEEPEST or characters > _MOST_CHARACTERS:
            raise ValueError("its parts hold one another without end")
        if isinstance(part, Tensor):
            found[name] = part
        for key, item in _named_parts(part):
            visit(item, f"{name}.{key}" if name else str(key), depth + 1)

    visit(value, "", 0)
    return found


def _named_parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, PickledModule):
        for group, kind in (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", PickledModule)):
            # Others count as visited, too.
            yield from ((key, part if isinstance(part, kind) else None) for key, part in value.items(group))
    elif isinstance(value, Mapping):
        yield from value.items()


class Attributes(dict[str, Any]):
    """Stands in for ``argparse.Namespace``."""


class PickledArray:
    """Stands in for a NumPy array until its bytes arrive in ``value``."""

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.zeros(0)


@dataclass
class PickledDtype:
    """Stands in for a NumPy dtype of plain numbers."""

    code: str
    order: str = "<"

    def numpy(self) -> np.dtype[Any]:
        """The dtype; ``ValueError`` unless it is a plain number."""
        if self.code not in _NUMBERS:
            raise ValueError(f"dtype {self.code[:20]!r} is not a plain number")
        return np.dtype(("<" if self.order in "|=" else self.order) + self.code)


@dataclass(frozen=True)
class Storage:
    """A tensor's bytes and, except for an untyped storage, what they are."""

    data: Tensor
    """``(bytes,)`` uint8."""
    dtype: torch.dtype | None


@dataclass(frozen=True)
class StandIn:
    """A global that is known; ``make`` is what calling it does here."""

    name: str
    make: Callable[..., Any]


@dataclass(frozen=True)
class StorageKind:
    """Stands in for a torch storage class."""

    dtype: torch.dtype | None


_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_STORAGES: dict[str, torch.dtype | None] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": None,
}
_DTYPES = frozenset(
    {"float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"}
)
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")


def checked_key(value: Any) -> Any:
    """The key of a dict or item of a set; ``ValueError`` for others than short plain ones.

    The hash of nested tuples that share their parts takes forever, and of deep ones the whole stack.
    """
    parts = value if isinstance(value, tuple) and len(value) <= _WIDEST_KEY else (value,)
    for part in parts:
        if not isinstance(part, _SCALARS):
            raise ValueError(f"a {type(part).__name__} is the key of a dict or item of a set")
        if isinstance(part, str | bytes) and len(part) > _LONGEST_KEY:
            raise ValueError("the key of a dict is longer than any name")
        if isinstance(part, int) and abs(part) > _LARGEST_KEY:
            raise ValueError("the key of a dict is larger than any number")
    return value


def rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_unused: object
) -> Tensor:
    """A view of the storage; ``ValueError`` where it would reach outside, or be far larger."""
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise ValueError("a tensor's storage does not say its type")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= _MOST_SIDES:
        raise ValueError("a tensor's shape is not one")
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's shape is not one")
    flat = storage.data.view(storage.dtype)
    elements = math.prod(size)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if elements and last >= len(flat):
        raise ValueError("a tensor reaches outside of its storage")
    if elements > max(len(flat), _EXPANDED):
        raise ValueError("a tensor has more elements than its storage")
    # as_strided counts from where the bytes begin, which for a view of another storage is not its own beginning.
    return flat.as_strided(size, stride, flat.storage_offset() + offset)


def _parameter(data: Tensor, *_unused: object) -> Tensor:
    return data


def _tensor_of_type(function: StandIn, _type: object, arguments: tuple[Any, ...], _state: object) -> Any:
    if not isinstance(function, StandIn) or function.make not in (rebuild_tensor, _parameter):
        raise ValueError("a tensor is rebuilt by something that is not known")
    return function.make(*arguments)


def _persistent(meta: dict[str, Any]) -> PickledModule:
    name, state = meta["class_name"], meta["state"]
    if not isinstance(name, str) or not name[:_LONGEST_NAME].isidentifier() or not isinstance(state, dict):
        raise ValueError("a pickled network has no name or no attributes")
    return PickledModule(name[:_LONGEST_NAME], state)


def _dtype(code: str, *_unused: object) -> PickledDtype:
    if not isinstance(code, str):
        raise TypeError("a dtype has no name")
    return PickledDtype(code)


def _scalar(dtype: PickledDtype, data: bytes | str) -> Any:
    return np.frombuffer(as_bytes(data), dtype.numpy())[0].item()


def _from_buffer(data: bytes, dtype: PickledDtype, shape: tuple[int, ...], order: str) -> PickledArray:
    array = PickledArray()
    array.value = np.frombuffer(as_bytes(data), dtype.numpy()).reshape(shape, order="F" if order == "F" else "C")
    return array


def as_bytes(data: bytes | bytearray | str) -> bytes:
    """An array's bytes; Python 2 wrote them as text. ``TypeError`` for others: ``bytes(n)`` is n zeros."""
    if not isinstance(data, bytes | bytearray | str):
        raise TypeError(f"bytes are given as a {type(data).__name__}")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _bytearray(data: bytes | str = b"", *_encoding: object) -> bytearray:
    return bytearray(as_bytes(data))


def _encode(text: str, _encoding: object) -> bytes:
    return as_bytes(text)


def _texts(*parts: str | int) -> list[str]:
    if not all(isinstance(part, str | int) for part in parts):
        raise TypeError("a path or device is made of something that is no text")
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > _LONGEST_KEY:
        raise ValueError("a path or device is longer than any name")
    return texts


def _device(*parts: str | int) -> str:
    return ":".join(_texts(*parts))


def _path(*parts: str) -> str:
    return str(PurePosixPath(*_texts(*parts)))


def _sequence(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(values: Any = ()) -> Any:
        if not isinstance(values, list | tuple | set | frozenset):
            raise TypeError(f"a {type(values).__name__} is taken apart")
        return kind(map(checked_key, values) if kind in (set, frozenset) else values)

    return make


def _mapping(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(values: Any = ()) -> Any:
        if not isinstance(values, dict | list | tuple):
            raise TypeError(f"a dict is made of a {type(values).__name__}")
        pairs = values.items() if isinstance(values, dict) else values
        return kind((checked_key(key), value) for key, value in pairs)

    return make


def _reconstructor(kind: StandIn, _base: object, state: object) -> Any:
    if not isinstance(kind, StandIn):
        raise ValueError("an object is made of something that is not known")
    made = kind.make()
    if isinstance(made, dict) and isinstance(state, dict):
        made.update(state)
    return made


def _stand_ins() -> dict[tuple[str, str], Any]:
    calls: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
        ("dnnlib.util", "EasyDict"): _mapping(dict),
        ("dnnlib", "EasyDict"): _mapping(dict),
        ("argparse", "Namespace"): _mapping(Attributes),
        ("collections", "OrderedDict"): _mapping(dict),
        ("torch", "device"): _device,
        ("torch", "Size"): _sequence(tuple),
        ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_type,
        ("torch", "Tensor"): _parameter,
        ("torch.nn.parameter", "Parameter"): _parameter,
        ("numpy", "dtype"): _dtype,
        ("numpy", "ndarray"): PickledArray,
        ("_codecs", "encode"): _encode,
    }
    for core in ("numpy.core", "numpy._core"):
        calls[core + ".multiarray", "_reconstruct"] = lambda *_unused: PickledArray()
        calls[core + ".multiarray", "scalar"] = _scalar
        calls[core + ".numeric", "_frombuffer"] = _from_buffer
    for module in ("pathlib", "pathlib._local"):
        for name in _PATHS:
            calls[module, name] = _path
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, list, tuple):
            calls[module, kind.__name__] = _sequence(kind)
        calls[module, "dict"] = _mapping(dict)
        calls[module, "bytearray"] = _bytearray
        calls[module, "object"] = object
    for module in ("copyreg", "copy_reg"):
        calls[module, "_reconstructor"] = _reconstructor
    known: dict[tuple[str, str], Any] = {
        (module, name): StandIn(f"{module}.{name}", make) for (module, name), make in calls.items()
    }
    for module in ("torch", "torch.cuda", "torch.storage"):
        for name, dtype in _STORAGES.items():
            known[module, name] = StorageKind(dtype)
    for name in _DTYPES:
        known["torch", name] = getattr(torch, name)
    return known


KNOWN = _stand_ins()
"""``(module, name)`` of every global that is read, to what stands in for it."""
