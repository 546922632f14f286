"""Readers of the direction formats that are passed around for StyleGAN2-FFHQ; no file is executed.

InterFaceGAN ``.npy`` (1, 512); e4e ``.pt`` (1, 512) and per row (1, 18, 512); STIT ``.npy`` (18, 512);
GANSpace ``.pt`` with ``mean``, ``comp`` and ``std``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.generators.restricted_pickle import PickledArray
from modules.generators.rows import published_rows, row_map
from modules.generators.torch_archive import read_archive

_NUMPY = b"\x93NUMPY"
_PCA_KEYS = {"mean", "comp", "std"}


@dataclass(frozen=True)
class GanspaceBasis:
    """Principal components of W, as GANSpace saves them."""

    mean: Tensor
    """``(w_dim,)``: mean of the codes the components were found on."""
    components: Tensor
    """``(K, w_dim)``, unit rows."""
    deviations: Tensor
    """``(K,)``: standard deviation of the codes along each component."""

    def coordinate(self, ws: Tensor, component: int) -> Tensor:
        """Where ``ws`` ``(N, num_ws, w_dim)`` lie along a component: ``(N,)``, in its standard deviations.

        Read off the first row of the codes, as the published edits do it.
        """
        along: Tensor = (ws[:, 0] - self.mean.to(ws)) @ self.components[component].to(ws)
        return along / self.deviations[component].to(ws)

    def edit(
        self, ws: Tensor, component: int, strength: float, layers: tuple[int, int], generator: Generator
    ) -> Tensor:
        """Move ``ws`` ``(N, num_ws, w_dim)`` to the coordinate ``strength`` of a component.

        The change is (strength − coordinate) · component · deviation, on the published model's layers
        ``start:end``, the end excluded. ``strength`` is in standard deviations. Raises ``BadInputError``
        for a component or layers that do not exist.
        """
        start, end = layers
        rows = published_rows(generator)
        if not 0 <= component < len(self.components):
            raise BadInputError(
                f"there is no component {component}; choose one of 0 to {len(self.components) - 1}"
            )
        if not 0 <= start < end <= rows:
            raise BadInputError(f"there are no layers {start}:{end}; choose within 0:{rows}")
        touched = [start <= row < end for row in row_map(rows, generator)]
        mask = torch.tensor(touched, dtype=ws.dtype, device=ws.device)
        step = self.components[component].to(ws) * self.deviations[component].to(ws)
        missing = strength - self.coordinate(ws, component)
        return ws + missing[:, None, None] * mask[None, :, None] * step


def read_direction(path: Path, generator: Generator) -> Tensor:
    """Read a linear direction as ``(num_ws, w_dim)`` float32 for ``generator``, its longest row of length 1.

    One row serves all layers; StyleGAN2's 18 rows are mapped to the rows that the generator has. Published
    lengths differ (STIT's are 0.2 to 1.0), so they are divided out. Raises ``BadInputError`` for a file that
    is of no known format, holds pickled objects, or does not fit the generator.
    """
    values = _read_numpy(path) if is_numpy(path) else _plain(read_archive(path))
    if isinstance(values, dict):
        if is_ganspace(values):
            raise BadInputError(
                f"{path} is a GANSpace basis, not one direction; choose a component and layers of it"
            )
        raise BadInputError(f"{path} holds a dict with {_some(values)}, not a direction; save the tensor alone")
    if not isinstance(values, Tensor) or values.ndim not in (1, 2, 3) or values.shape[-1] != generator.w_dim:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadInputError(
            f"{path} holds {shape}; a direction is (1, {generator.w_dim}) or (rows, {generator.w_dim})"
        )
    if values.ndim == 3 and len(values) != 1:
        raise BadInputError(f"{path} holds {len(values)} directions at once; save one to a file")
    rows = values.detach().float().reshape(-1, generator.w_dim)
    if not torch.isfinite(rows).all() or not rows.any():
        raise BadInputError(f"{path} holds NaN, infinity or only zeros; it is no direction")
    same_everywhere = torch.equal(rows, rows[:1].expand_as(rows))
    if same_everywhere:
        rows = rows[:1].expand(generator.num_ws, -1)
    else:
        rows = rows[list(row_map(len(rows), generator))]
    direction: Tensor = rows / rows.norm(dim=1).max()
    return direction.contiguous()


def read_ganspace(path: Path, w_dim: int) -> GanspaceBasis:
    """Read a GANSpace ``.pt``: ``mean`` (1, w_dim), ``comp`` (K, 1, w_dim), ``std`` (K).

    Raises ``BadInputError`` for anything else.
    """
    table = read_archive(path)
    if not is_ganspace(table):
        raise BadInputError(f"{path} is no GANSpace basis: it needs {', '.join(sorted(_PCA_KEYS))}")
    # These alone are copied: however many more a file holds may be views of the same bytes.
    parts = [_plain(table[key]) for key in ("mean", "comp", "std")]
    if not all(isinstance(part, Tensor) for part in parts):
        raise BadInputError(f"{path} is no GANSpace basis: mean, comp and std must be arrays")
    mean, components, deviations = (part.float() for part in parts)
    count = len(components) if components.ndim else 0
    fits = mean.numel() == w_dim and components.numel() == count * w_dim and deviations.numel() == count
    if not fits or not count:
        shapes = [tuple(part.shape) for part in (mean, components, deviations)]
        raise BadInputError(f"{path} does not fit codes of length {w_dim}: mean, comp and std are {shapes}")
    if (
        not all(torch.isfinite(part).all() for part in (mean, components, deviations))
        or not (deviations > 0).all()
    ):
        raise BadInputError(
            f"{path} holds NaN, infinity or a deviation that is not positive; fetch the file again"
        )
    return GanspaceBasis(mean.reshape(w_dim), components.reshape(count, w_dim), deviations.reshape(count))


def is_ganspace(value: Any) -> bool:
    """Whether what a file holds has the names of a GANSpace basis."""
    return isinstance(value, dict) and value.keys() >= _PCA_KEYS


def is_numpy(path: Path) -> bool:
    """Whether a file is a NumPy array, by its first bytes; raises ``BadInputError``."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_NUMPY)) == _NUMPY
    except OSError as error:
        raise BadInputError(f"cannot read {path} ({error.strerror}); check the path") from error


def _read_numpy(path: Path) -> Tensor:
    try:
        with path.open("rb") as stream:
            values = np.lib.format.read_array(stream, allow_pickle=False)
        return torch.from_numpy(values.astype(np.float32))
    except OSError as error:
        raise BadInputError(f"cannot read {path} ({error.strerror}); check the path") from error
    except (ValueError, EOFError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise BadInputError(
            f"{path} is no plain .npy array ({error}); where you trust it, load it and save the array alone"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, PickledArray):
        return torch.from_numpy(value.value.astype(np.float32))
    return value.clone() if isinstance(value, Tensor) else value


def _some(table: dict[Any, Any]) -> str:
    return ", ".join(sorted(str(key) for key in table)[:5]) or "nothing"
