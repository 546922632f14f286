"""A generator adapted to the frames of one face, codes fixed (StylePortraitVideo, section 3.2, eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.generators.protocol import Generator
from modules.lit.tuned_generator import LitTunedGenerator
from modules.losses.perceptual import PerceptualLoss
from modules.losses.pixels import rms_distance

PTI_TRUNCATION = 0.5
"""Of the random codes that locality looks towards, as in PTI's code."""


@dataclass(frozen=True)
class LocalityConfig:
    """PTI's regulariser (Roich et al. 2021, eq. 4-5): near the codes, the generator stays what it was."""

    weight: float
    """Of LPIPS + L2 between adapted and base; 0 leaves it out, else a step takes three times as long."""
    alpha: float
    """How far from a code towards a random one the two are compared; PTI's is 30.

    The length of the step over all rows together, as in PTI's code: of ``num_ws`` equal rows each moves by
    ``alpha / sqrt(num_ws)``.
    """


@dataclass(frozen=True)
class VideoAdaptationTraining:
    """How a generator is adapted."""

    learning_rate: float
    """Of Adam, in units of each parameter's own size (root mean square).

    StyleGAN2 keeps its weights at size 1, where 1e-3 is the paper's; a generator whose weights were folded into
    others is adapted as fast. An average of the weights bears a larger rate.
    """
    average_over: float
    """Share of the steps that the weights are averaged over, in [0, 1); 0 keeps the last, as the paper does."""
    lpips_weight: float
    """Of LPIPS; the paper's is 1."""
    l2_weight: float
    """Of the L2 distance, the norm over the root of the number of values; the paper's is 1."""
    locality: LocalityConfig
    """What keeps it editable beside."""


class LitVideoAdaptation(LitTunedGenerator):
    """The adapted generator in training; batches are those of ``CodedFrames``."""

    def __init__(
        self,
        base: Generator,
        training: VideoAdaptationTraining,
        perceptual: PerceptualLoss,
        seed: int = 0,
        start: Generator | None = None,
    ) -> None:
        """``base`` stays as it is; ``start`` is one of its adaptations to go on from (section 4.3).

        ``seed`` is of the codes that locality looks at.
        """
        super().__init__(base, training.learning_rate, training.average_over, perceptual, start)
        self.training_plan, self.seed = training, seed

    def terms(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        """Eq. 1, and locality where it has a weight."""
        plan = self.training_plan
        weights = {"lpips": plan.lpips_weight, "l2": plan.l2_weight, "locality": plan.locality.weight}
        return {name: (weights[name], value) for name, value in self.losses(batch["ws"], batch["images"]).items()}

    def losses(self, ws: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Unweighted mean of each term of eq. 1, and of locality where it has a weight."""
        found = self._distances(self.learner.synthesize(ws, resolution=images.shape[-1]), images)
        if self.training_plan.locality.weight:
            base = self.base
            near = self._nearby(ws)
            with torch.no_grad():
                wanted = base.synthesize(near, resolution=images.shape[-1])
            apart = self._distances(self.learner.synthesize(near, resolution=images.shape[-1]), wanted)
            found["locality"] = apart["lpips"] + apart["l2"]
        return found

    def _distances(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        perceptual = self.perceptual
        return {
            "lpips": perceptual(images.clamp(-1, 1), target.clamp(-1, 1)).mean(),
            "l2": rms_distance(images, target).mean(),
        }

    def _nearby(self, ws: Tensor) -> Tensor:
        """``alpha`` from the codes towards those of random z, drawn at a truncation of 0.5, both as PTI has it."""
        base = self.base
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        z = torch.randn(len(ws), base.z_dim, generator=random).to(ws)
        away = base.map(z, truncation_psi=PTI_TRUNCATION) - ws
        # PTI's code takes the norm over the whole tensor, (1, num_ws, w_dim), not over each row.
        length: Tensor = torch.linalg.vector_norm(away, dim=(1, 2), keepdim=True).clamp_min(1e-8)
        near: Tensor = ws + self.training_plan.locality.alpha * away / length
        return near
