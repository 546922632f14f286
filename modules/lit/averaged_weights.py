"""The moving average of what is trained, on the device where it is trained."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging


class AveragedWeights(EMAWeightAveraging):
    """Lightning's, kept where the strategy will move the module to.

    Lightning makes the copy before it moves the module: on a GPU the copy would stay behind on the CPU, and every
    step would wait for all parameters to come there.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay, use_buffers=False)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the copy on the device of this process."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
