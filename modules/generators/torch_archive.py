"""The containers that checkpoints come in: a bare pickle, torch's zip archive, and torch's older single file.

Files are mapped, not read, so a checkpoint's optimiser and discriminator cost no memory.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from datamodules.types import BadInputError
from modules.generators.pickle_machine import Allowance, PickleMachine
from modules.generators.restricted_pickle import Storage, StorageKind

MAX_BYTES = 4 << 30
"""Largest file that is opened; the published checkpoints stay below 2 GiB."""
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DAMAGE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, OverflowError, MemoryError),
    *(EOFError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


def read_archive(path: Path) -> Any:
    """The value in a ``.pkl`` or ``.pt`` file: containers, tensors and stand-ins; nothing in it is executed.

    Tensors are views of the mapped file; clone what is kept. Raises ``BadInputError`` (413 for a file over
    ``MAX_BYTES``, 415 for one that is no checkpoint, 422 for a damaged or refused one).
    """
    if not path.is_file():
        raise BadInputError(f"{path} is not a file; give a .pkl or .pt checkpoint, or a model folder", 400)
    size = path.stat().st_size
    if size == 0:
        raise BadInputError(f"{path} is empty; download it again", 415)
    if size > MAX_BYTES:
        raise BadInputError(f"{path} has {size >> 20} MiB, {MAX_BYTES >> 20} MiB are allowed", 413)
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    head = bytes(mapped[:256])
    if not head.startswith((_ZIP, _PICKLE)):
        raise BadInputError(f"{path} is not a checkpoint: {_what_it_is(head)}", 415)
    with damage_in_one_line(path):
        allowance = Allowance(size)
        if head.startswith(_ZIP):
            return _read_zip(mapped, path.name, allowance)
        return _read_pickles(cast(IO[bytes], mapped), memoryview(mapped), path.name, allowance)


@contextmanager
def damage_in_one_line(path: Path) -> Iterator[None]:
    """Turns what damaged content of a file leads to into ``BadInputError``."""
    try:
        yield
    except BadInputError:
        raise
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"{path} is damaged or truncated ({reason[:120]}); download it again") from error


def _what_it_is(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "it is a web page; download the file itself"
    return "it is neither a pickle nor a torch archive"


def _read_zip(mapped: mmap.mmap, what: str, allowance: Allowance) -> Any:
    """``PREFIX/data.pkl`` and ``PREFIX/data/KEY``, stored without compression."""
    with zipfile.ZipFile(_Window(mapped)) as archive:
        members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise BadInputError(f"{what} is a zip archive, but not one that torch.save wrote", 415)
    prefix = pickles[0].removesuffix("data.pkl")
    order = members.get(prefix + "byteorder")
    if order is not None and bytes(_member(mapped, order)) != b"little":
        raise BadInputError(f"{what} was written on a big-endian machine, which is not read")
    storages: dict[str, Storage] = {}

    def persistent(saved: Any) -> Storage:
        tag, kind, key, _location, _numel = saved
        if tag != "storage" or not isinstance(kind, StorageKind) or not isinstance(key, str):
            raise ValueError("the archive refers to something that is no storage")
        if key not in storages:
            storages[key] = _storage(_member(mapped, members[f"{prefix}data/{key}"]), kind)
        return storages[key]

    stream = io.BytesIO(_member(mapped, members[pickles[0]]))
    return PickleMachine(stream, what, allowance, persistent, lambda content: _nested(content, allowance)).load()


def _member(mapped: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is compressed or encrypted, which torch never does")
    signature, name, extra = _LOCAL_HEADER.unpack_from(mapped, info.header_offset)
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != _ZIP or start + info.file_size > len(mapped):
        raise ValueError(f"{info.filename} lies outside of the file")
    return memoryview(mapped)[start : start + info.file_size]


class _Window(io.RawIOBase):
    """A read-only file over the map, so that ``zipfile`` can read the directory without copying the file."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, len(self._mapped))[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        chunk = self._mapped[self._at : self._at + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)


def _nested(content: bytes, allowance: Allowance) -> Any:
    """``torch.storage._load_from_bytes``: one storage in torch's older format, as NVlabs pickles carry them."""
    if content.startswith(_ZIP):
        raise ValueError("a nested archive is no storage")
    stream, data = io.BytesIO(content), memoryview(content)
    value = _read_pickles(stream, data, "a nested storage", allowance, nested=False)
    if not isinstance(value, Storage):
        raise ValueError("nested bytes hold something that is no storage")
    return value


def _read_pickles(
    stream: IO[bytes], data: memoryview, what: str, allowance: Allowance, nested: bool = True
) -> Any:
    """A bare pickle, or torch's older file: magic number, protocol, system, value, storage keys, storages."""
    deeper = (lambda content: _nested(content, allowance)) if nested else None
    value = PickleMachine(stream, what, allowance, nested=deeper).load()
    # A tensor that is compared with the number would answer for each of its own.
    if not isinstance(value, int) or value != _LEGACY_MAGIC:
        return value
    if PickleMachine(stream, what, allowance).load() != _LEGACY_PROTOCOL:
        raise ValueError("unknown protocol of torch's older format")
    if not PickleMachine(stream, what, allowance).load()["little_endian"]:
        raise BadInputError(f"{what} was written on a big-endian machine, which is not read")
    storages: dict[str, Storage] = {}
    promised = 0

    def persistent(saved: Any) -> Storage:
        nonlocal promised
        tag, kind, key, _location, numel, view = saved
        if tag != "storage" or not isinstance(kind, StorageKind) or kind.dtype is None:
            raise ValueError("the archive refers to something that is no storage")
        if not isinstance(key, str) or not isinstance(numel, int):
            raise TypeError("the archive refers to something that is no storage")
        if key not in storages:
            size = numel * kind.dtype.itemsize
            promised += size
            if size < 0 or promised > len(data):
                raise ValueError("the storages are larger than the file")
            storages[key] = Storage(torch.empty(size, dtype=torch.uint8), kind.dtype)
        whole = storages[key]
        if view is None:
            return whole
        _key, offset, length = view
        if not isinstance(offset, int) or not isinstance(length, int):
            raise TypeError("a view of a storage has no place")
        first, last = offset * kind.dtype.itemsize, (offset + length) * kind.dtype.itemsize
        if not 0 <= first <= last <= len(whole.data):
            raise ValueError("a view reaches outside of its storage")
        return Storage(whole.data[first:last], kind.dtype)

    value = PickleMachine(stream, what, allowance, persistent, deeper).load()
    # Here the value comes before its bytes: its tensors are views of the storages that are filled now.
    keys = PickleMachine(stream, what, allowance).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise TypeError("the archive does not list its storages")
    at = stream.tell()
    for key in keys:
        storage = storages[key]
        (numel,) = struct.unpack_from("<q", data, at)
        at += 8
        width = storage.dtype.itemsize if storage.dtype else 1
        if numel * width != len(storage.data) or at + len(storage.data) > len(data):
            raise ValueError("a storage is cut short")
        storage.data.numpy()[:] = np.frombuffer(data[at : at + len(storage.data)], np.uint8)
        at += len(storage.data)
    if set(keys) != set(storages):
        raise ValueError("a storage is missing")
    return value


def _storage(content: memoryview, kind: StorageKind) -> Storage:
    data = (
        torch.from_numpy(np.frombuffer(content, np.uint8)) if len(content) else torch.empty(0, dtype=torch.uint8)
    )
    return Storage(data, kind.dtype)
