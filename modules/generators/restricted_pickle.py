"""Read the pickles of published checkpoints without running anything that is in them.

A pickle is a program for a small stack machine. This is that machine with every instruction that could run
foreign code left out: a global becomes a stand-in from a fixed list or is refused by its name, and only stand-ins
are ever called. ``torch_archive`` supplies the tensors' bytes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.types import BadInputError


@dataclass
class PickledModule:
    """A network that was pickled whole: its class's name and its attributes, never built."""

    class_name: str
    state: dict[str, Any]

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by dotted name, as ``state_dict`` would name them."""
        found: dict[str, Tensor] = {}
        for group in ("_parameters", "_buffers"):
            for name, value in dict(self.state.get(group) or {}).items():
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value
        for name, child in dict(self.state.get("_modules") or {}).items():
            if isinstance(child, PickledModule):
                found.update(child.tensors(f"{prefix}{name}."))
        return found


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
            raise ValueError(f"dtype {self.code!r} is not a plain number")
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


def rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_unused: object
) -> Tensor:
    """A view of the storage; ``RuntimeError`` where it would reach outside."""
    if storage.dtype is None:
        raise ValueError("a tensor's storage does not say its type")
    return storage.data.view(storage.dtype).as_strided(size, stride, offset)


def _parameter(data: Tensor, *_unused: object) -> Tensor:
    return data


def _tensor_of_type(function: StandIn, _type: object, arguments: tuple[Any, ...], _state: object) -> Any:
    if not isinstance(function, StandIn):
        raise ValueError("a tensor is rebuilt by something that is not known")
    return function.make(*arguments)


def _persistent(meta: dict[str, Any]) -> PickledModule:
    state = meta["state"]
    if not isinstance(state, dict):
        raise ValueError("a pickled network has no attributes")
    return PickledModule(str(meta["class_name"]), state)


def _dtype(code: str, *_unused: object) -> PickledDtype:
    return PickledDtype(str(code))


def _scalar(dtype: PickledDtype, data: bytes | str) -> Any:
    return np.frombuffer(_as_bytes(data), dtype.numpy())[0].item()


def _from_buffer(data: bytes, dtype: PickledDtype, shape: tuple[int, ...], order: str) -> PickledArray:
    array = PickledArray()
    array.value = np.frombuffer(_as_bytes(data), dtype.numpy()).reshape(shape, order="F" if order == "F" else "C")
    return array


def _as_bytes(data: bytes | bytearray | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _reconstructor(kind: StandIn, _base: object, state: object) -> Any:
    made = kind.make()
    if isinstance(made, dict) and isinstance(state, dict):
        made.update(state)
    return made


def _stand_ins() -> dict[tuple[str, str], Any]:
    calls: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
        ("dnnlib.util", "EasyDict"): dict,
        ("dnnlib", "EasyDict"): dict,
        ("argparse", "Namespace"): Attributes,
        ("collections", "OrderedDict"): dict,
        ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
        ("torch", "Size"): lambda *sizes: tuple(*sizes),
        ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_type,
        ("torch", "Tensor"): _parameter,
        ("torch.nn.parameter", "Parameter"): _parameter,
        ("numpy", "dtype"): _dtype,
        ("numpy", "ndarray"): PickledArray,
        ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),
    }
    for core in ("numpy.core", "numpy._core"):
        calls[core + ".multiarray", "_reconstruct"] = lambda *_unused: PickledArray()
        calls[core + ".multiarray", "scalar"] = _scalar
        calls[core + ".numeric", "_frombuffer"] = _from_buffer
    for module in ("pathlib", "pathlib._local"):
        for name in _PATHS:
            calls[module, name] = lambda *parts: str(PurePosixPath(*parts))
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, list, dict, tuple, bytearray, object):
            calls[module, kind.__name__] = kind
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

_ARGUMENT_ITSELF = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}


class PickleMachine:
    """Runs one pickle after another from one stream.

    ``persistent`` answers persistent ids (a torch archive's storages); ``nested`` answers
    ``torch.storage._load_from_bytes``. Where they are left out, either is refused.
    """

    def __init__(
        self,
        stream: IO[bytes],
        what: str,
        persistent: Callable[[Any], Any] | None = None,
        nested: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._stream = stream
        self._what = what
        self._persistent = persistent
        self._nested = nested
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next pickle's value. ``BadInputError`` for a global that is not known.

        A damaged pickle raises what its damage leads to (``ValueError``, ``IndexError``, ``KeyError``,
        ``TypeError``, ``RuntimeError``); ``torch_archive`` turns those into one line.
        """
        self._stack, self._marks, self._memo = [], [], {}
        for opcode, argument, _position in pickletools.genops(self._stream):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("the pickle does not end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _ARGUMENT_ITSELF:
            self._stack.append(argument)
        elif name in _FRESH:
            self._stack.append(_FRESH[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(self._stack)
            self._stack = []
        elif name not in ("PROTO", "FRAME") and not (self._collect(name) or self._construct(name, argument)):
            raise BadInputError(
                f"{self._what} is refused: its pickle uses {name}, which no known checkpoint needs"
            )

    def _collect(self, name: str) -> bool:
        """Instructions that build containers."""
        stack = self._stack
        if name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            if len(stack) < size:
                raise IndexError("the pickle's stack is empty")
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("TUPLE", "LIST", "FROZENSET", "DICT"):
            items = self._since_mark()
            kinds: dict[str, Callable[[Any], Any]] = {"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}
            self._stack.append(dict(_pairs(items)) if name == "DICT" else kinds[name](items))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._since_mark()
            self._target(list).extend(items)
        elif name == "ADDITEMS":
            items = self._since_mark()
            self._target(set).update(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = stack[-2:] if name == "SETITEM" else self._since_mark()
            if name == "SETITEM":
                del stack[-2:]
            self._target(dict).update(_pairs(items))
        else:
            return False
        return True

    def _construct(self, name: str, argument: Any) -> bool:
        """Instructions that name, call or fill something that is not a container."""
        stack = self._stack
        if name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
            stack.append(self._known(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._known(str(module), str(attribute)))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX" and stack.pop():
                raise ValueError("an object is made with keywords")
            arguments, target = stack.pop(), stack.pop()
            if not isinstance(target, StandIn) or not isinstance(arguments, tuple):
                raise ValueError("something that cannot be called is called")
            stack.append(target.make(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        elif name == "BINPERSID":
            if self._persistent is None:
                raise BadInputError(f"{self._what} is refused: its pickle refers to data outside of it")
            stack.append(self._persistent(stack.pop()))
        else:
            return False
        return True

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _target(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise TypeError(f"items are put into something that is no {kind.__name__}")
        return self._stack[-1]

    def _known(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes") and self._nested is not None:
            return StandIn("torch.storage._load_from_bytes", self._nested)
        if (module, name) not in KNOWN:
            raise BadInputError(
                f"{self._what} is refused: its pickle asks for {module}.{name}, which no known checkpoint needs "
                "(nothing of it was run); save it again as a state dict where you trust it"
            )
        return KNOWN[module, name]


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a dict has a key without a value")
    return zip(items[::2], items[1::2], strict=True)


def _fill(target: Any, state: Any) -> None:
    """What BUILD does to each stand-in; extra attributes of a dict (``_metadata``) are of no use here."""
    if isinstance(target, Attributes):
        target.update(state)
    elif isinstance(target, PickledDtype):
        target.order = str(state[1])
    elif isinstance(target, PickledArray):
        _version, shape, dtype, fortran, data = state
        values = np.frombuffer(_as_bytes(data), dtype.numpy())
        target.value = values.reshape(shape, order="F" if fortran else "C")
    elif not isinstance(target, dict):
        raise TypeError(f"state is given to a {type(target).__name__}")
