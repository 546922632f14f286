"""Faces as their codes show them, how near that is, and what is what in their crops: found once for all edits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modules.generators.protocol import Generator
from modules.perception.parsing import Regions

Parse = Callable[[Tensor], Regions]
Compare = Callable[[Tensor, Tensor], Sequence[Tensor]]


class UneditedFaces:
    """Remembers renderings of codes, regions of crops and how near they come, until its memory is full.

    What came first is kept: of a clip that is gone through again and again, a memory of the latest that is too
    small would hold none when its turn comes. All is forgotten where another generator comes. For one thread, one
    parser, and generators that do not change.
    """

    def __init__(self, most: float) -> None:
        """``most`` bytes are kept; 0 remembers nothing, infinity is for a few faces."""
        self.most, self.bytes = most, 0
        self._kept: dict[bytes, tuple[Tensor, ...]] = {}
        self._drawn_by: Generator | None = None

    def shown(self, ws: Tensor, size: int, generator: Generator) -> Tensor:
        """What codes ``(N, num_ws, w_dim)`` show, ``(N, 3, size, size)`` in [-1, 1], without a gradient."""
        if self.most and generator is not self._drawn_by:
            self._kept, self.bytes, self._drawn_by = {}, 0, generator

        def draw(rows: Tensor) -> tuple[Tensor, ...]:
            return (generator.synthesize(rows, resolution=size).clamp(-1, 1),)

        (found,) = self._recalled(f"shown at {size}", ws, draw)
        return found

    def regions(self, crops: Tensor, parse: Parse) -> Regions:
        """What ``parse`` finds in crops ``(N, 3, s, s)``."""
        return Regions(*self._recalled("regions", crops, parse))

    def compared(self, crops: Tensor, shown: Tensor, compare: Compare) -> Sequence[Tensor]:
        """What ``compare`` finds of crops ``(N, 3, s, s)`` and as many pictures of codes: each ``(N, ...)``."""
        both = torch.cat([crops, shown.to(crops)], 1)
        return self._recalled("compared", both, lambda rows: compare(rows[:, :3], rows[:, 3:]))

    def _recalled(
        self, what: str, inputs: Tensor, make: Callable[[Tensor], Sequence[Tensor]]
    ) -> tuple[Tensor, ...]:
        if not self.most:
            with torch.no_grad():
                return tuple(make(inputs))
        names = [_name(what, one) for one in inputs]
        missing = [row for row, name in enumerate(names) if name not in self._kept]
        found = {name: self._kept[name] for name in names if name in self._kept}
        if missing:
            with torch.no_grad():
                made = make(inputs[missing])
            for place, row in enumerate(missing):
                one = tuple(values[place : place + 1].clone() for values in made)
                found[names[row]] = one
                self._keep(names[row], one)
        rows = [found[name] for name in names]
        return tuple(torch.cat(values) for values in zip(*rows, strict=True))

    def _keep(self, name: bytes, made: tuple[Tensor, ...]) -> None:
        size = sum(values.numel() * values.element_size() for values in made)
        if name not in self._kept and self.bytes + size <= self.most:
            self._kept[name] = made
            self.bytes += size


def _name(what: str, values: Tensor) -> bytes:
    seen = hashlib.blake2b(f"{what} {tuple(values.shape)} {values.dtype}".encode(), digest_size=20)
    seen.update(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return seen.digest()
