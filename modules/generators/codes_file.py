"""Codes that people keep: ``.pt``, ``.npy`` and ``.safetensors``, without executing anything in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.generators.rows import row_map
from modules.generators.torch_archive import MAX_BYTES, read_archive

_KEYS = ("ws", "latents", "latent", "codes", "pivots", "w")
_OWNER = "generator_sha256"


def save_codes(path: Path, ws: Tensor, generator: Generator) -> Path:
    """Write ``(N, num_ws, w_dim)`` codes as ``.safetensors`` that name the generator they belong to."""
    if ws.ndim != 3 or ws.shape[1:] != (generator.num_ws, generator.w_dim):
        raise ValueError(f"ws must be (N, {generator.num_ws}, {generator.w_dim}), got {tuple(ws.shape)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written here, as safetensors hides the reason (a full disk) in an error of its own.
    path.write_bytes(save({"ws": ws.detach().float().cpu().contiguous()}, {_OWNER: generator.sha256}))
    return path


def read_codes(path: Path, generator: Generator) -> Tensor:
    """Codes ``(N, num_ws, w_dim)`` float32 for ``generator``.

    The file holds ``(w_dim)``, ``(N, w_dim)`` (W, repeated over the rows), ``(rows, w_dim)`` or
    ``(N, rows, w_dim)``; StyleGAN2's 18 rows are mapped where the generator has fewer. Raises
    ``BadInputError`` for pickled objects (named, with how to convert), other shapes, numbers that are not
    finite, and codes that name another generator.
    """
    if not path.is_file():
        raise BadInputError(f"no codes file {path}; give a .pt, .npy or .safetensors", 400)
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise BadInputError(f"{path} has {size} bytes, 1 to {MAX_BYTES} are read", 413 if size else 415)
    readers = {".pt": _read_pt, ".pth": _read_pt, ".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix.lower() not in readers:
        raise BadInputError(f"{path} is no codes file; give a .pt, .npy or .safetensors", 415)
    codes = readers[path.suffix.lower()](path, generator)
    if not codes.is_floating_point() or not bool(torch.isfinite(codes).all()):
        raise BadInputError(f"{path} holds values that are not finite numbers; it cannot be used")
    return _fit(codes.float(), path, generator)


def _fit(codes: Tensor, path: Path, generator: Generator) -> Tensor:
    shape = tuple(codes.shape)
    if not 1 <= len(shape) <= 3 or shape[-1] != generator.w_dim or 0 in shape:
        raise BadInputError(
            f"{path} holds codes of shape {shape}; (N, {generator.num_ws}, {generator.w_dim}) is needed"
        )
    if codes.ndim == 1:
        codes = codes[None, None]
    elif codes.ndim == 2:
        codes = codes[None] if _fits(shape[0], generator) else codes[:, None]
    if codes.shape[1] == 1:
        return codes.repeat(1, generator.num_ws, 1)
    return codes[:, list(row_map(codes.shape[1], generator))].clone()


def _fits(rows: int, generator: Generator) -> bool:
    try:
        row_map(rows, generator)
    except BadInputError:
        return False
    return True


def _read_pt(path: Path, _generator: Generator) -> Tensor:
    content = read_archive(path)
    if isinstance(content, Mapping):
        content = _only(content, path)
    if not isinstance(content, Tensor):
        raise BadInputError(f"{path} holds a {type(content).__name__}, not codes; save the tensor itself")
    return content.clone()


def _only(content: Mapping[Any, Any], path: Path) -> Any:
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    known = [key for key in _KEYS if key in tensors]
    if not known:
        raise BadInputError(
            f"{path} holds {len(tensors)} tensors, none named {', '.join(_KEYS)}; save the codes alone"
        )
    return tensors[known[0]]


def _read_npy(path: Path, _generator: Generator) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except ValueError as error:
        if "pickle" not in str(error).lower() and "object" not in str(error).lower():
            raise BadInputError(f"{path} is damaged ({error}); write it again") from error
        raise BadInputError(
            f"{path.name} is a pickled object (ReStyle's latents.npy is a pickled dict), which could run code and "
            "is not read; where you trust it: python -c 'import numpy as np; "
            'd = np.load("latents.npy", allow_pickle=True).item(); '
            'np.save("codes.npy", np.stack([v[-1] for v in d.values()]))\''
        ) from error
    except (EOFError, OSError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise BadInputError(f"{path} is damaged ({error}); write it again") from error
    if not isinstance(array, np.ndarray):
        raise BadInputError(f"{path} is an archive of arrays (.npz); save the codes alone")
    if not np.issubdtype(array.dtype, np.floating):
        raise BadInputError(f"{path} holds {array.dtype}, codes are floating-point numbers")
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _read_safetensors(path: Path, generator: Generator) -> Tensor:
    try:
        with safe_open(path, framework="pt") as opened:
            owner = (opened.metadata() or {}).get(_OWNER)
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise BadInputError(f"{path} is damaged ({error}); write it again") from error
    if owner is not None and owner != generator.sha256:
        raise BadInputError(
            f"{path} belongs to generator {owner}, but the one in use is {generator.sha256}; "
            "load the generator it was made for, or invert again"
        )
    found: Tensor = _only(tensors, path)
    return found
