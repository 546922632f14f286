"""A look at what a training reconstructs: the frames of every validation, handed on as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from torch import Tensor

from modules.sheet import Image, to_picture

Show = Callable[[int, list[Image], list[Image]], None]
"""``show(step, inputs, reconstructions)``, both ``(h, w, 3)`` uint8 each."""


class Reconstructions(L.Callback):
    """Collects the frames of a validation and what its module's ``validation_step`` returned for them."""

    def __init__(self, show: Show) -> None:
        self.show = show
        self._inputs: list[Image] = []
        self._shown: list[Image] = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """``outputs`` are reconstructions ``(N, 3, h, w)`` in [-1, 1] of the batch's ``targets``."""
        if trainer.is_global_zero and isinstance(outputs, Tensor):
            self._inputs += [to_picture(image) for image in batch["targets"]]
            self._shown += [to_picture(image) for image in outputs]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand them on, with the step, and begin anew."""
        if self._shown:
            self.show(trainer.global_step, self._inputs, self._shown)
        self._inputs, self._shown = [], []
