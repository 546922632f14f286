"""Which published edit a file holds, told by its content, and that edit in one form: a change per unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.latent_transformer import load_latent_transformer
from modules.editing.published import is_ganspace, is_numpy, read_direction, read_ganspace
from modules.generators.protocol import Generator
from modules.generators.restricted_pickle import PickledArray
from modules.generators.rows import published_rows
from modules.generators.torch_archive import read_archive

Kind = Literal["direction", "component", "t_net"]
_T_NET = re.compile(r"dense\.\d+\.(weight|bias)")


@dataclass(frozen=True)
class PublishedEdit:
    """What a file does to the codes per unit of its own."""

    kind: Kind
    """How it came."""
    format: str
    """In words, for a report."""
    unit: str
    """What one unit of it is."""
    vector: Tensor
    """``(num_ws, w_dim)``: change per unit."""
    matrix: Tensor | None = None
    """``(num_ws, w_dim, w_dim)``: further change per unit, of each row times it."""


@dataclass(frozen=True)
class Part:
    """Which part of a GANSpace basis is one edit; for files of one edit both are None."""

    component: int | None = None
    """Number of the principal component, from 0."""
    layers: tuple[int, int] | None = None
    """Layers ``[start, end)`` of the published model that it moves; None is all."""


def holds_edit(path: Path) -> bool:
    """Whether a file holds an edit rather than a generator: an array, a GANSpace basis, or a T-net.

    Raises ``BadInputError`` for a file that cannot be read or is refused.
    """
    if is_numpy(path):
        return True
    value = read_archive(path)
    return isinstance(value, Tensor | PickledArray) or is_ganspace(value) or _is_t_net(value)


def read_edit(path: Path, generator: Generator, part: Part) -> PublishedEdit:
    """Read InterFaceGAN's, e4e's or STIT's direction, a component of GANSpace's basis, or a T-net.

    A direction's unit is a step of length 1 in its longest row; a component's is one standard deviation of it,
    by which codes are moved from where they are; a T-net's is its own (Yao et al. 2021, eq. 1). Rows are those
    of ``generator``. Raises ``BadInputError``.
    """
    value = None if is_numpy(path) else read_archive(path)
    if is_ganspace(value):
        return _component(path, generator, part)
    if part != Part():
        raise BadInputError(f"{path} is no GANSpace basis; leave out --component and --layers")
    if _is_t_net(value):
        net = load_latent_transformer(path, generator)
        return PublishedEdit("t_net", "a T-net of Latent-Transformer", "steps", net.bias, net.weight)
    return PublishedEdit("direction", "a direction", "steps of length 1 in W", read_direction(path, generator))


def _component(path: Path, generator: Generator, part: Part) -> PublishedEdit:
    basis = read_ganspace(path, generator.w_dim)
    start, end = part.layers or (0, published_rows(generator))
    if part.component is None:
        raise BadInputError(
            f"{path} is a GANSpace basis of {len(basis.components)} components: choose one with --component, "
            "and with --layers START:END what it moves"
        )
    # The published edit moves to a coordinate; the way between two coordinates is the same from everywhere.
    origin = torch.zeros(1, generator.num_ws, generator.w_dim)
    at = [basis.edit(origin, part.component, strength, (start, end), generator) for strength in (0.0, 1.0)]
    what = f"component {part.component} of a GANSpace basis on layers {start}:{end}"
    return PublishedEdit("component", what, "standard deviations", (at[1] - at[0])[0])


def _is_t_net(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(_T_NET.fullmatch(str(key)) for key in value)
