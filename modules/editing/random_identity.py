"""Another person from a seed: one random change of the codes on every frame (FrEN/ViEN, section 4.5, Fig. 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.editing.directions import check_strength


@dataclass(frozen=True)
class RandomIdentity:
    """Adds one δw, drawn from the seed, to all codes: who is seen changes, how the face moves does not.

    δw is a normal combination of W's principal directions, stretched to the length that such draws have in the
    mean, so that no seed is weaker than another. It can be undone by whoever knows seed, strength and generator.
    """

    name: str
    unit: str
    """What one step of the strength means."""
    basis: Tensor
    """``(K, w_dim)``: principal directions of W, each as long as W's standard deviation along it."""
    rows: Tensor
    """``(num_ws,)``: share of δw that each row of the codes is moved by, per unit."""
    upper: float
    """Largest strength."""
    generator_sha256: str
    """Digest of the generator whose codes it moves."""
    lower: float = 0.0
    """Smallest strength: below 0 lies what another seed gives."""
    whole_head: bool = False
    """Hair and outline stay."""
    replaces: bool = True
    """A difference would leave what the inversion misses of the person: then it would hide nobody."""
    in_styles: bool = False
    """It acts on codes."""

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or self.rows.ndim != 1 or not self.upper >= self.lower == 0.0:
            raise ValueError(
                f"{self.name} needs a basis (K, w_dim), rows (num_ws,) and bounds from 0, got "
                f"{tuple(self.basis.shape)}, {tuple(self.rows.shape)} and {self.lower}..{self.upper}"
            )

    def change(self, seed: int) -> Tensor:
        """``(num_ws, w_dim)``: what one unit adds to the codes."""
        drawn = torch.randn(len(self.basis), generator=torch.Generator().manual_seed(seed))
        drawn = drawn * (len(drawn) ** 0.5 / drawn.norm())
        change: Tensor = self.rows[:, None] * (drawn @ self.basis)
        return change

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """Move ``ws`` ``(N, num_ws, w_dim)``, all alike; raises as ``Direction`` does."""
        check_strength(self, strength)
        shape = (len(self.rows), self.basis.shape[1])
        if ws.ndim != 3 or ws.shape[1:] != shape:
            raise ValueError(f"{self.name} moves codes (N, *{shape}), got {tuple(ws.shape)}")
        return ws + strength * self.change(seed).to(ws)

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """The styles as they are."""
        return dict(styles)


def principal_directions(w: Tensor, count: int) -> Tensor:
    """``(count, w_dim)`` of codes ``(N, w_dim)``: the directions of largest spread, as long as the spread."""
    centred = w.double() - w.double().mean(0)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    if count > len(values):
        raise ValueError(f"{len(w)} codes of {w.shape[1]} numbers have no {count} directions")
    directions: Tensor = vectors[:count] * (values[:count, None] / (len(w) - 1) ** 0.5)
    return directions.float()
