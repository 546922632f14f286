"""Tensors in torch's files, of which some are older or stranger than ``torch.save`` makes them today."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.types import BadInputError
from modules.generators.torch_archive import read_archive


class _Stored:
    """Pickles to a persistent id."""

    def __init__(self, *saved: Any) -> None:
        self.saved = saved


class _Rebuilt:
    """Pickles to a tensor that is rebuilt from a storage."""

    def __init__(self, storage: _Stored, offset: Any, size: Any, stride: Any) -> None:
        self.arguments = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.saved if isinstance(value, _Stored) else None


def _pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(value)
    return stream.getvalue()


def _older_file(value: Any, storages: dict[Any, torch.Tensor], path: Path) -> Path:
    """Torch's format before 1.6, in which a storage may be a view of another."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    content = b"".join(map(_pickled, (*head, value, list(storages))))
    for data in storages.values():
        content += struct.pack("<q", len(data)) + data.numpy().tobytes()
    path.write_bytes(content)
    return path


def _zipped(value: Any, data: torch.Tensor, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", _pickled(value))
        archive.writestr("x/data/0", data.numpy().tobytes())
    return path


def _refuse(path: Path, match: str) -> None:
    with pytest.raises(BadInputError, match=match) as caught:
        read_archive(path)
    assert "\n" not in str(caught.value)


def test_views_of_storages_are_read_where_torch_reads_them(tmp_path: Path) -> None:
    data = torch.arange(20.0)
    whole = _Stored("storage", torch.FloatStorage, "0", "cpu", 20, None)
    view = _Stored("storage", torch.FloatStorage, "0", "cpu", 20, ("1", 6, 8))
    content = {
        "whole": _Rebuilt(whole, 3, (2, 2), (4, 1)),
        "view": _Rebuilt(view, 0, (8,), (1,)),
        "inside": _Rebuilt(view, 2, (2, 3), (3, 1)),
    }
    path = _older_file(content, {"0": data}, tmp_path / "x.pt")
    wanted = torch.load(path, weights_only=True)
    assert wanted["view"][0] == 6
    torch.testing.assert_close(read_archive(path), wanted)


def test_a_tensor_stays_inside_its_view(tmp_path: Path) -> None:
    view = _Stored("storage", torch.FloatStorage, "0", "cpu", 20, ("1", 6, 8))
    for offset, size in ((0, 9), (5, 4)):
        content = _Rebuilt(view, offset, (size,), (1,))
        _refuse(_older_file(content, {"0": torch.zeros(20)}, tmp_path / "x.pt"), "outside of its storage")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_is_not_far_larger_than_its_storage(zipped: bool, tmp_path: Path) -> None:
    path, one = tmp_path / "x.pt", torch.ones(1)
    torch.save(one.expand(60_000, 16, 512), path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 2000
    _refuse(path, "more elements than its storage")
    codes = torch.arange(512.0).expand(100, 18, 512)
    torch.save(codes, path, _use_new_zipfile_serialization=zipped)
    torch.testing.assert_close(read_archive(path), codes)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4, 1), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        ("0", (2,), (1,)),
        (0, 2, 1),
        (0, (1 << 62, 4), (0, 0)),
    ],
)
def test_a_shape_is_numbers(offset: Any, size: Any, stride: Any, tmp_path: Path) -> None:
    content = _Rebuilt(_Stored("storage", torch.FloatStorage, "0", "cpu", 4), offset, size, stride)
    _refuse(_zipped(content, torch.zeros(4), tmp_path / "x.pt"), "shape is not one|more elements")


@pytest.mark.parametrize("key", [((),), ("0", "1"), 0, None])
def test_a_storage_is_known_by_a_text(key: Any, tmp_path: Path) -> None:
    of_zip = _Stored("storage", torch.FloatStorage, key, "cpu", 4)
    _refuse(_zipped(_Rebuilt(of_zip, 0, (4,), (1,)), torch.zeros(4), tmp_path / "x.pt"), "no storage")
    of_older = _Stored("storage", torch.FloatStorage, key, "cpu", 4, None)
    path = _older_file(_Rebuilt(of_older, 0, (4,), (1,)), {key: torch.zeros(4)}, tmp_path / "y.pt")
    _refuse(path, "no storage")
    _refuse(_older_file(1, {key: torch.zeros(4)}, tmp_path / "z.pt"), "does not list its storages")


@pytest.mark.parametrize("tensor", [torch.arange(6.0).reshape(2, 3), torch.tensor(2.5), torch.empty(0)])
def test_a_tensor_that_was_pickled_by_itself_is_read(tensor: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(tensor))
    torch.testing.assert_close(read_archive(tmp_path / "x.pkl"), tensor)
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(torch.nn.Parameter(tensor)))
    torch.testing.assert_close(read_archive(tmp_path / "y.pkl"), tensor)
