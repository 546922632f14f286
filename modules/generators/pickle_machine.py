"""Read the pickles of published checkpoints without running anything that is in them.

A pickle is a program for a small stack machine. This is that machine with every instruction that could run
foreign code left out: a global becomes a stand-in from a fixed list or is refused by its name, and only stand-ins
are ever called. ``torch_archive`` supplies the tensors' bytes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.restricted_pickle import (
    KNOWN,
    Attributes,
    PickledArray,
    PickledDtype,
    StandIn,
    as_bytes,
    checked_key,
)

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


_LEAST = 64 << 20
_PER_STEP = 8
_PER_ITEM = 64
"""Bytes that an instruction and an item of a container count as: about what they take."""


class Allowance:
    """Bytes that reading one file may take, pickles inside of it included.

    A value from a pickle's memo can be given to stand-ins again and again, for a few bytes of the file each time.
    """

    def __init__(self, size: int) -> None:
        # Tensors that share their storages are told twice or thrice; small files may hold expanded ones.
        self._left = 4 * size + _LEAST

    def spend(self, size: int) -> None:
        """``ValueError`` where more is asked for than a file of this size needs."""
        self._left -= size
        if self._left < 0:
            raise ValueError("it unfolds to far more than its size")

    def spend_on(self, values: tuple[Any, ...]) -> None:
        """What it takes to copy each of the values, not what is in it."""
        for value in values:
            if isinstance(value, str | bytes | bytearray):
                self.spend(len(value))
            elif isinstance(value, list | tuple | dict | set | frozenset):
                self.spend(_PER_ITEM * len(value))


class PickleMachine:
    """Runs one pickle after another from one stream.

    ``persistent`` answers persistent ids (a torch archive's storages); ``nested`` answers
    ``torch.storage._load_from_bytes``. Where they are left out, either is refused.
    """

    def __init__(
        self,
        stream: IO[bytes],
        what: str,
        allowance: Allowance,
        persistent: Callable[[Any], Any] | None = None,
        nested: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._stream = stream
        self._what = what
        self._allowance = allowance
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
            self._allowance.spend(_PER_STEP)
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
            if name == "FROZENSET":
                items = [checked_key(item) for item in items]
            self._stack.append(dict(_pairs(items)) if name == "DICT" else kinds[name](items))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._since_mark()
            self._target(list).extend(items)
        elif name == "ADDITEMS":
            items = self._since_mark()
            self._target(set).update(map(checked_key, items))
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
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise TypeError("a global has no name")
            stack.append(self._known(module, attribute))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX" and stack.pop():
                raise ValueError("an object is made with keywords")
            arguments, target = stack.pop(), stack.pop()
            if not isinstance(target, StandIn) or not isinstance(arguments, tuple):
                raise ValueError("something that cannot be called is called")
            self._allowance.spend_on(arguments)
            made = target.make(*arguments)
            if isinstance(made, Tensor) and not any(made is argument for argument in arguments):
                self._allowance.spend(made.numel() * made.itemsize)
            stack.append(made)
        elif name == "BUILD":
            state = stack.pop()
            self._allowance.spend_on(state if isinstance(state, tuple) else (state,))
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
            wanted = f"{module[:100]}.{name[:100]}"
            wanted = wanted if wanted.isprintable() else ascii(wanted)
            raise BadInputError(
                f"{self._what} is refused: its pickle asks for {wanted}, which no known checkpoint needs "
                "(nothing of it was run); save it again as a state dict where you trust it"
            )
        return KNOWN[module, name]


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a dict has a key without a value")
    return zip(map(checked_key, items[::2]), items[1::2], strict=True)


def _fill(target: Any, state: Any) -> None:
    """What BUILD does to each stand-in; extra attributes of a dict (``_metadata``) are of no use here."""
    if isinstance(target, Attributes):
        if not isinstance(state, dict):
            raise TypeError(f"attributes are given as a {type(state).__name__}")
        target.update(state)
    elif isinstance(target, PickledDtype):
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype has no byte order")
        target.order = state[1]
    elif isinstance(target, PickledArray):
        _version, shape, dtype, fortran, data = state
        values = np.frombuffer(as_bytes(data), dtype.numpy())
        target.value = values.reshape(shape, order="F" if fortran else "C")
    elif not isinstance(target, dict):
        raise TypeError(f"state is given to a {type(target).__name__}")
