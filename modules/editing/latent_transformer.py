"""The non-linear attribute editor of Latent-Transformer: one affine map per row of the codes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.rows import HasRows, row_map
from modules.perception.state import read_state

_NAME = re.compile(r"dense\.(\d+)\.(weight|bias)")


class LatentTransformer(nn.Module):
    """T(w, α) = w + α · (A w + b), with its own A and b for each row (Yao et al. 2021, eq. 1)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """``weight`` ``(num_ws, w_dim, w_dim)`` and ``bias`` ``(num_ws, w_dim)``, ready for use."""
        super().__init__()
        if weight.ndim != 3 or weight.shape[1] != weight.shape[2] or bias.shape != weight.shape[:2]:
            raise ValueError(f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} do not belong together")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], generator: HasRows | None = None) -> LatentTransformer:
        """Build from a published ``tnet_*.pth.tar`` state dict (``dense.{i}.weight``, ``dense.{i}.bias``).

        Its 18 rows are mapped to those of ``generator`` where one is given. Raises ``BadInputError`` for
        other names or shapes.
        """
        found = {name: _NAME.fullmatch(name) for name in state}
        strange = [name for name, match in found.items() if match is None]
        rows = len(state) // 2
        wanted = {f"dense.{i}.{part}" for i in range(rows) for part in ("weight", "bias")}
        if strange or set(state) != wanted or not rows:
            raise BadInputError(
                f"no T-net of Latent-Transformer: {(strange or sorted(state) or ['no tensors'])[0]}"
            )
        w_dim = state["dense.0.bias"].shape[0]
        if any(state[n].shape != ((w_dim, w_dim) if n.endswith("weight") else (w_dim,)) for n in wanted):
            raise BadInputError(f"the T-net's layers are not all ({w_dim}, {w_dim}); the file is damaged")
        chosen = row_map(rows, generator) if generator is not None else tuple(range(rows))
        # The published layers hold unit-variance weights and scale them when they run.
        weight = torch.stack([state[f"dense.{i}.weight"].float() for i in chosen]) / math.sqrt(w_dim)
        return cls(weight, torch.stack([state[f"dense.{i}.bias"].float() for i in chosen]))

    def forward(self, ws: Tensor, strength: Tensor | float) -> Tensor:
        """Edit ``ws`` ``(N, num_ws, w_dim)``; ``strength`` is a number or ``(N,)``; 0 changes nothing."""
        if ws.ndim != 3 or ws.shape[1:] != self.bias.shape:
            raise ValueError(f"the editor takes codes (N, *{tuple(self.bias.shape)}), got {tuple(ws.shape)}")
        change = torch.einsum("nrc,rdc->nrd", ws, self.weight) + self.bias
        alpha = torch.as_tensor(strength, dtype=ws.dtype, device=ws.device).reshape(-1, 1, 1)
        return ws + alpha * change


def load_latent_transformer(weights: Path, generator: HasRows) -> LatentTransformer:
    """Read a published ``tnet_*.pth.tar`` for ``generator``; raises ``BadInputError`` for another file."""
    return LatentTransformer.from_state(read_state(weights), generator)
