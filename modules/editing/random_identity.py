"""Another person from a seed: one random change of the codes on every frame (FrEN/ViEN, section 4.5, Fig. 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.editing.directions import check_strength


@dataclass(frozen=True)
class RandomIdentity:
    """Adds one δw, chosen by the seed, to all codes: who is seen changes, how the face moves does not.

    δw is how far another person's code lies from the mean of W, in some rows, without what turns the head or moves
    the face (``beside``). Normal draws along W's principal directions were tried: to hide a person they have to be
    so long that the face breaks. It can be undone by whoever knows seed, strength and generator.
    """

    name: str
    unit: str
    """What one step of the strength means."""
    people: Tensor
    """``(K, w_dim)``: codes of K made persons, less the mean of W; seeds K apart choose the same one."""
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
    recolours: bool = True
    """Another person has another complexion."""
    in_styles: bool = False
    """It acts on codes."""

    def __post_init__(self) -> None:
        shaped = self.people.ndim == 2 and len(self.people) and self.rows.ndim == 1
        if not shaped or not (math.isfinite(self.upper) and self.upper >= self.lower == 0.0):
            raise ValueError(
                f"{self.name} needs people (K, w_dim), rows (num_ws,) and bounds from 0, got "
                f"{tuple(self.people.shape)}, {tuple(self.rows.shape)} and {self.lower}..{self.upper}"
            )
        if not (torch.isfinite(self.people).all() and torch.isfinite(self.rows).all()):
            raise ValueError(f"{self.name} needs finite people and rows")

    def change(self, seed: int) -> Tensor:
        """``(num_ws, w_dim)``: what one unit adds to the codes."""
        change: Tensor = self.rows[:, None] * self.people[seed % len(self.people)]
        return change

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """Move ``ws`` ``(N, num_ws, w_dim)``, all alike; raises as ``Direction`` does."""
        check_strength(self, strength)
        shape = (len(self.rows), self.people.shape[1])
        if ws.ndim != 3 or ws.shape[1:] != shape:
            raise ValueError(f"{self.name} moves codes (N, *{shape}), got {tuple(ws.shape)}")
        return ws + strength * self.change(seed).to(ws)

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """The styles as they are."""
        return dict(styles)


def beside(people: Tensor, vectors: Tensor, least: float) -> Tensor:
    """``people`` ``(K, w_dim)`` without what of them lies along ``vectors`` ``(M, w_dim)``.

    Of the span of these vectors, each at unit length, the directions whose singular values are at least ``least``
    are taken out: what many vectors share counts, what one alone has of its own counts where it is that much.
    """
    if vectors.ndim != 2 or people.ndim != 2 or vectors.shape[1] != people.shape[1]:
        raise ValueError(f"people {tuple(people.shape)} and vectors {tuple(vectors.shape)} must have one w_dim")
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
    _, values, span = torch.linalg.svd(unit.double(), full_matrices=False)
    span = span[values >= least]
    rest: Tensor = people.double() - (people.double() @ span.T) @ span
    return rest.to(people.dtype)
