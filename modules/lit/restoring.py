"""Training of what restores frames: FrEN's losses on degraded input (FrEN/ViEN, section 4.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.encoders.restoring import RestoringEncoder, degrade
from modules.lit.frame_encoder import EncoderTraining, LitFrameEncoder, PartsWithFrameEncoder, Phase


@dataclass(frozen=True)
class RestoringTraining(EncoderTraining):
    """How a restoring encoder is trained."""

    factors: tuple[float, float]
    """Smallest and largest reduction that ``enlarge`` learns from; users' faces are of any size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factors", tuple(self.factors))
        least, most = self.factors
        if not 1 <= least <= most:
            raise ValueError(f"factors must rise from 1 or more, got {self.factors}")


class LitRestoringEncoder(LitFrameEncoder):
    """A restoring encoder in training; batches are FrEN's.

    ``codes`` is the regression of what FrEN answers for the frame as it was, of samples and real frames alike.
    """

    encoder: RestoringEncoder
    frozen: PartsWithFrameEncoder

    def __init__(
        self, encoder: RestoringEncoder, training: RestoringTraining, frozen: PartsWithFrameEncoder, seed: int
    ) -> None:
        super().__init__(encoder, training, frozen)
        self.factors, self.seed = training.factors, seed

    def losses(self, batch: dict[str, Tensor], phase: Phase) -> dict[str, Tensor]:
        """FrEN's, of the degraded images, with FrEN's answers for the undegraded ones as the known codes."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        least, most = self.factors
        factor = least + (most - least) * float(torch.rand(1, generator=random))
        with torch.no_grad():
            taught, _ = self.frozen.first(batch["images"])
        images = degrade(batch["images"], self.encoder.task, factor)
        return super().losses({**batch, "images": images, "ws": taught}, phase)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Reconstruct held-out frames from what the task's input keeps of them."""
        return super().validation_step({**batch, "images": degrade(batch["images"], self.encoder.task)}, batch_idx)
