"""Training of the preview head: its 256 px image against the generator's own output, down-sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from modules.generators.preview import FEATURE_RESOLUTION, FeatureGenerator, PreviewHead


@dataclass(frozen=True)
class PreviewTraining:
    """How the preview head is fitted."""

    width: int
    """Channels of its hidden layer."""
    steps: int
    """Optimiser steps."""
    batch_size: int
    """Samples per step."""
    learning_rate: float
    """Of Adam, falling to 0 along a cosine."""
    style_rate: float
    """The modulation learns at this share of the learning rate."""


class LitPreviewHead(L.LightningModule):
    """The head in training; the generator is frozen and stays out of the checkpoint."""

    def __init__(self, head: PreviewHead, generator: FeatureGenerator, training: PreviewTraining) -> None:
        super().__init__()
        self.head, self.plan = head, training
        self._generator = (generator,)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of ``(images, ws)`` batches."""
        images, ws = batch
        with torch.no_grad():
            features = self._generator[0].features(ws, FEATURE_RESOLUTION)
        loss: Tensor = (self.head(features.to(images.dtype), ws) - images).square().mean()
        self.log("preview/psnr", 10 * torch.log10(4 / loss), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam along a cosine."""
        # A code has 2,560 late values and each moves every channel: their steps must be small.
        groups: list[dict[str, Any]] = [
            {"params": self.head.style.parameters(), "lr": self.plan.learning_rate * self.plan.style_rate},
            {"params": [p for name, p in self.head.named_parameters() if not name.startswith("style.")]},
        ]
        optimizer = torch.optim.Adam(groups, lr=self.plan.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.plan.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
