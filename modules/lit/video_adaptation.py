"""A generator adapted to the frames of one face, codes fixed (StylePortraitVideo, section 3.2, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import lightning as L
import torch
from torch import Tensor, nn

from modules.generators.adaptation import adaptable, copy_of, difference_of
from modules.generators.protocol import Generator
from modules.lit.frame_encoder import rms_distance
from modules.losses.perceptual import PerceptualLoss


@dataclass(frozen=True)
class LocalityConfig:
    """PTI's regulariser (Roich et al. 2021, eq. 4-5): near the codes, the generator stays what it was."""

    weight: float
    """Of LPIPS + L2 between adapted and base; 0 leaves it out, else a step takes three times as long."""
    alpha: float
    """How far from a code towards a random one the two are compared, in W; PTI's is 30."""


@dataclass(frozen=True)
class VideoAdaptationTraining:
    """How a generator is adapted."""

    learning_rate: float
    """Of Adam, in units of each parameter's own size (root mean square).

    StyleGAN2 keeps its weights at size 1, so this is the paper's 1e-3 there; a generator whose weights were folded
    into others is adapted as fast.
    """
    lpips_weight: float
    """Of LPIPS; the paper's is 1."""
    l2_weight: float
    """Of the L2 distance, the norm over the root of the number of values; the paper's is 1."""
    locality: LocalityConfig
    """What keeps it editable beside."""


class LitVideoAdaptation(L.LightningModule):
    """The adapted generator in training; batches are those of ``CodedFrames``.

    A loss or gradient that is not finite ends the training with the last weights that gave finite ones, and
    ``stopped_at`` is then the step.
    """

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
        super().__init__()
        self.training_plan, self.seed = training, seed
        self.stopped_at: int | None = None
        self._frozen = (base, perceptual)  # in a tuple: no part of the checkpoints
        generator = copy_of(start or base)
        self.generator = cast(nn.Module, generator)
        for parameter in adaptable(generator).values():
            parameter.requires_grad_(True)
        self._good = {name: value.detach().clone() for name, value in adaptable(generator).items()}

    @property
    def adapted(self) -> Generator:
        """The generator that learns."""
        return cast(Generator, self.generator)

    def difference(self) -> dict[str, Tensor]:
        """How far each parameter moved from the base, float32 on the CPU."""
        return difference_of(self.adapted, self._frozen[0])

    def losses(self, ws: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Unweighted mean of each term of eq. 1, and of locality where it has a weight."""
        found = self._distances(self.adapted.synthesize(ws, resolution=images.shape[-1]), images)
        if self.training_plan.locality.weight:
            base = self._frozen[0]
            near = self._nearby(ws)
            with torch.no_grad():
                wanted = base.synthesize(near, resolution=images.shape[-1])
            apart = self._distances(self.adapted.synthesize(near, resolution=images.shape[-1]), wanted)
            found["locality"] = apart["lpips"] + apart["l2"]
        return found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """The weighted sum of the terms; None, which Lightning skips, where it is not finite."""
        plan = self.training_plan
        with torch.autocast(batch["ws"].device.type, enabled=False):
            found = self.losses(batch["ws"], batch["images"])
        weights = {"lpips": plan.lpips_weight, "l2": plan.l2_weight, "locality": plan.locality.weight}
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        if not torch.isfinite(total):
            self._stop()
            return None
        with torch.no_grad():
            for name, parameter in adaptable(self.adapted).items():
                self._good[name] = self._good[name].to(parameter).copy_(parameter)
        self.log_dict({f"train/{name}": value for name, value in found.items()}, batch_size=len(batch["ws"]))
        self.log("train/total", total, prog_bar=True, batch_size=len(batch["ws"]))
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A gradient that is not finite moves nothing."""
        parameters = adaptable(self.adapted).values()
        if not all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None):
            optimizer.zero_grad()
            self._stop()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, the rate constant as in the paper."""
        rate, sizes = self.training_plan.learning_rate, adaptable(self._frozen[0])
        return torch.optim.Adam(
            {"params": [value], "lr": rate * float(sizes[name].detach().square().mean().sqrt())}
            for name, value in adaptable(self.adapted).items()
        )

    def _stop(self) -> None:
        self.stopped_at = self.global_step
        with torch.no_grad():
            for name, parameter in adaptable(self.adapted).items():
                parameter.copy_(self._good[name])
        self.trainer.should_stop = True

    def _distances(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        perceptual = self._frozen[1]
        return {
            "lpips": perceptual(images.clamp(-1, 1), target.clamp(-1, 1)).mean(),
            "l2": rms_distance(images, target).mean(),
        }

    def _nearby(self, ws: Tensor) -> Tensor:
        """``alpha`` from the codes towards those of random z, as PTI has it."""
        base = self._frozen[0]
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        z = torch.randn(len(ws), base.z_dim, generator=random).to(ws)
        away = base.map(z) - ws
        # PTI's codes are one row repeated; of rows that differ, the mean length counts.
        length = away.square().sum(2).mean(1).sqrt().clamp_min(1e-8)[:, None, None]
        return ws + self.training_plan.locality.alpha * away / length
