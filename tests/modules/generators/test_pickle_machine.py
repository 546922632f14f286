"""A few bytes of a pickle take neither all memory nor all time: each is refused, small enough here to be read."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from conformance_cases import FOLDER

from datamodules.types import BadInputError
from modules.generators.pickle_machine import Allowance
from modules.generators.torch_archive import read_archive

_START = b"\x80\x04"
_NESTED = b")\x85"
"""The tuple ``((),)``."""


class _Call:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _read(content: bytes, folder: Path) -> Any:
    path = folder / "x.pkl"
    path.write_bytes(content)
    return read_archive(path)


def _refuse(content: bytes, folder: Path, match: str) -> None:
    with pytest.raises(BadInputError, match=match) as caught:
        _read(content, folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_paths_do_not_double_without_end(tmp_path: Path) -> None:
    path: Any = "some/folder"
    for _ in range(12):
        path = _Call(PurePosixPath, path, path)
    _refuse(pickle.dumps(path), tmp_path, "longer than any name")
    assert _read(pickle.dumps([Path("a") / "b", PurePosixPath("/c")]), tmp_path) == ["a/b", "/c"]


def test_only_texts_and_numbers_make_a_path_or_a_device(tmp_path: Path) -> None:
    shared: Any = ()
    for _ in range(8):
        shared = (shared, shared)
    for function in (torch.device, PurePosixPath):
        _refuse(pickle.dumps(_Call(function, shared)), tmp_path, "no text")
    assert _read(pickle.dumps(torch.device("cuda", 1)), tmp_path) == "cuda:1"


def test_bytes_are_not_made_of_a_number(tmp_path: Path) -> None:
    _refuse(pickle.dumps(_Call(bytearray, 1000)), tmp_path, "given as a int")
    array = pickle.dumps(np.zeros(4, np.uint8), 4)
    assert array.count(b"C\x04\0\0\0\0") == 1
    _refuse(array.replace(b"C\x04\0\0\0\0", b"K\x04"), tmp_path, "given as a int")
    kept = [bytearray(b"ab"), bytearray()]
    for protocol in (2, 3, 4, 5):
        assert _read(pickle.dumps(kept, protocol), tmp_path) == kept


@pytest.mark.parametrize(
    "program",
    [
        b"}" + _NESTED + b"Ns.",  # SETITEM
        b"}(" + _NESTED + b"Nu.",  # SETITEMS
        b"(" + _NESTED + b"Nd.",  # DICT
        b"\x8f(" + _NESTED + b"\x90.",  # ADDITEMS
        b"(" + _NESTED + b"\x91.",  # FROZENSET
        b"cbuiltins\nset\n]" + _NESTED + b"a\x85R.",
        b"cbuiltins\nfrozenset\n]" + _NESTED + b"a\x85R.",
        b"cbuiltins\ndict\n]" + _NESTED + b"N\x86a\x85R.",
        b"ccollections\nOrderedDict\n]" + _NESTED + b"N\x86a\x85R.",
        b"cargparse\nNamespace\n]" + _NESTED + b"N\x86a\x85R.",
    ],
)
def test_nested_tuples_are_never_hashed(program: bytes, tmp_path: Path) -> None:
    _refuse(_START + program, tmp_path, "a tuple is the key of a dict or item of a set")


def test_long_keys_are_refused_and_short_ones_kept(tmp_path: Path) -> None:
    for key in ("k" * 5000, b"k" * 5000, 1 << 70, ("k" * 5000,), tuple(range(9))):
        for content in ({key: None}, {key}, frozenset([key])):
            _refuse(pickle.dumps(content), tmp_path, "key of a dict")
    kept = {"a": 1, 2: 3, ("b", 4): 5, (None, True, 2.5, b"c"): {("d", 6)}, -(1 << 63): frozenset("e")}
    assert _read(pickle.dumps(kept), tmp_path) == kept


@pytest.mark.parametrize("program", [b")\x8c\x01a\x93.", b"\x8c\x01a)\x93."])
def test_a_global_has_a_name(program: bytes, tmp_path: Path) -> None:
    _refuse(_START + program, tmp_path, "a global has no name")


def test_a_refused_global_is_named_in_one_line(tmp_path: Path) -> None:
    name = b"\x8c\x03a\nb" + b"X" + (5000).to_bytes(4, "little") + b"n" * 5000
    _refuse(_START + name + b"\x93.", tmp_path, r"a\\nb\.nnn")


def test_attributes_are_a_dict(tmp_path: Path) -> None:
    _refuse(_START + b"cargparse\nNamespace\n)R]" + _NESTED + b"N\x86ab.", tmp_path, "attributes are given as")


@pytest.mark.parametrize("order", ["", "2", "!", "|="])
def test_a_dtype_has_a_byte_order(order: str, tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(4, dtype=np.float32), 4)
    assert content.count(b"\x8c\x01<") == 1
    other = b"\x8c" + bytes([len(order)]) + order.encode()
    _refuse(content.replace(b"\x8c\x01<", other), tmp_path, "byte order")
    big = np.arange(4, dtype=">f4")
    np.testing.assert_array_equal(_read(pickle.dumps(big), tmp_path).value, big)


def _storage(count: int) -> bytes:
    """What ``torch.storage._load_from_bytes`` is given for so many numbers."""
    stream = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(count).untyped_storage(), dtype=torch.float32, _internal=True
    )
    torch.save(storage, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def _repeated(kind: str) -> bytes:
    """A pickle that gives one value of its memo to a stand-in 40 times."""
    once: list[Any] = list(range(2000))
    state = {str(number): None for number in range(2000)}
    blob, text = _storage(5000), "k" * 20_000
    calls: dict[str, Callable[[], Any]] = {
        "storages": lambda: _Call(torch.storage._load_from_bytes, blob),
        "lists": lambda: _Call(list, once),
        "sets": lambda: _Call(frozenset, once),
        "dicts": lambda: _Call(dict, state),
        "bytes": lambda: _Call(bytearray, text, "latin-1"),
    }
    return pickle.dumps([calls[kind]() for _ in range(40)])


@pytest.mark.parametrize("kind", ["storages", "lists", "sets", "dicts", "bytes"])
def test_one_value_is_not_copied_again_and_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _repeated(kind)
    assert len(_read(content, tmp_path)) == 40
    monkeypatch.setattr("modules.generators.pickle_machine._LEAST", 1 << 17)
    _refuse(content, tmp_path, "far more than its size")


def test_one_storage_is_not_viewed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(10_000.0)
    torch.save([whole[:] for _ in range(40)], tmp_path / "x.pt")
    assert len(read_archive(tmp_path / "x.pt")) == 40
    monkeypatch.setattr("modules.generators.pickle_machine._LEAST", 1 << 17)
    with pytest.raises(BadInputError, match="far more than its size"):
        read_archive(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["stylegan2-64-small", "stylegan3-t-64-small", "stylegan3-r-64-small"])
def test_published_pickles_stay_far_below_the_allowance(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.generators.pickle_machine._LEAST", 0)
    assert "G_ema" in read_archive(FOLDER / f"{name}.pkl")


def test_an_allowance_is_spent_once() -> None:
    allowance = Allowance(0)
    allowance.spend(64 << 20)
    with pytest.raises(ValueError, match="far more"):
        allowance.spend_on(("a",))
