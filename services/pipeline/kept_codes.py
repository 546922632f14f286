"""Codes of one face in a file, written as they are found: a stopped call goes on behind the last stretch."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from datamodules.disk import write_whole
from datamodules.rows import Rows
from services.pipeline.invert import CodesState
from services.pipeline.models import Models
from services.pipeline.refine import Moments

_ROWS = "rows"


class KeptCodes(Rows[np.float32]):
    """Rows ``(num_ws, w_dim)``; beside them lies what encoder and refinement remember of the frame of the last."""

    @classmethod
    def of(cls, path: Path, models: Models) -> Self:
        """What an earlier call left in ``path``; rows that nothing is remembered of are dropped."""
        kept = cls(path, (models.generator.num_ws, models.generator.w_dim), np.float32)
        remembered = int(kept._remembered().get(_ROWS, torch.tensor(0)))
        # Fewer than remembered: the power went before the disk had them, and the state is that of a later row.
        kept.cut(remembered if len(kept) >= remembered else 0)
        return kept

    def add(self, ws: Tensor, state: CodesState) -> None:
        """Add ``(n, num_ws, w_dim)`` and the state after them; raises ``NotWrittenError`` for a full disk."""
        self.append(ws.float().cpu().numpy())
        found = {"encoder": state.encoder, "offset": state.offset}
        if state.moments is not None:
            moments = state.moments
            found |= {"mean": moments.mean, "square": moments.square, "steps": moments.steps}
        tensors = {name: value.detach().cpu().clone() for name, value in found.items() if value is not None}
        # Written after the rows: a call that is stopped in between begins before them.
        write_whole(self._memory, save({**tensors, _ROWS: torch.tensor(len(self))}))

    def state(self, device: str) -> CodesState:
        """The state after the last row."""
        found = {name: value.to(device) for name, value in self._remembered().items()}
        moments = None
        if "mean" in found:
            # Adam counts its steps on the CPU.
            moments = Moments(found["mean"], found["square"], found["steps"].cpu())
        return CodesState(found.get("encoder"), found.get("offset"), moments)

    @property
    def _memory(self) -> Path:
        return self.path.with_name(f"{self.path.name}.safetensors")

    def _remembered(self) -> dict[str, Tensor]:
        try:
            return load_file(self._memory)
        except (FileNotFoundError, SafetensorError):  # not there, or cut short when the power went
            return {}
