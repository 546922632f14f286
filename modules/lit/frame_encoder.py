"""Training of FrEN: codes of generator samples first, then the image and face losses of FrEN/ViEN, eqs. 1-6."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from pytorch_optimizer import Ranger
from torch import Tensor

from modules.encoders.restoring import RestoringEncoder
from modules.encoders.vit import FrameEncoder
from modules.generators.protocol import Generator
from modules.lit.phases import Phased
from modules.losses.face import ImageLoss, Seen, trusted_mean
from modules.losses.pixels import rms_distance
from modules.metrics.fidelity import psnr


@dataclass(frozen=True)
class Phase:
    """One stretch of the training; the paper's two stages (section 3.4) are two of these."""

    name: str
    """What the curves and the log call it."""
    share: float
    """Of the training's steps."""
    batch_size: int
    """Images per step, samples and frames together."""
    learning_rate: float
    """Of Ranger; the paper's is 1e-4."""
    sample_share: float
    """Share of the batch that are generator samples (with known codes); the rest are real frames."""
    rendered: int
    """Images per step, real frames first, that are rendered for the image losses; a rendering costs ten codes."""
    weights: Mapping[str, float]
    """Weight of each loss by its name; ``codes`` is the regression of known codes."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.sample_share <= 1.0:
            raise ValueError(f"phase {self.name}: sample_share must lie in [0, 1], got {self.sample_share}")
        if not 0 <= self.rendered <= self.batch_size:
            raise ValueError(f"phase {self.name}: {self.rendered} of {self.batch_size} images cannot be rendered")
        if not self.rendered and set(self.weights) - {"codes"}:
            raise ValueError(f"phase {self.name}: image losses need rendered images")
        if not self.sample_share and set(self.weights) <= {"codes"}:
            raise ValueError(
                f"phase {self.name}: real frames alone have no codes to learn, and there is no other loss"
            )


@dataclass(frozen=True)
class EncoderTraining(Phased[Phase]):
    """What the trainings of encoders of single frames share."""

    phases: tuple[Phase, ...]
    trunk_rate: float
    """Learning rate of all but what reads the face nets, as a share of the phase's; without them it is 1."""


@dataclass(frozen=True)
class FrameEncoderTraining(EncoderTraining):
    """How FrEN is trained."""

    linear_start: int
    """Samples that the encoder's linear first guess is solved from; 0 starts at the mean face."""
    linear_ridge: float
    """Ridge of that solution, relative to the mean square of a thumbnail's pixels."""
    told_start: int
    """Samples that what is made of the face nets is solved from; 0 leaves it as it is."""
    told_ridge: float
    """Ridge of that solution, relative to the variance of what the face nets say."""


class FrozenParts:
    """Networks that judge or render and are not trained: kept out of checkpoints and of the averaged copy."""

    def __init__(
        self,
        generator: Generator,
        losses: Mapping[str, ImageLoss],
        seen: Seen | None = None,
        of_faces: Collection[str] = (),
    ) -> None:
        """``losses`` by the names that ``Phase.weights`` gives them.

        ``seen`` says where the judge behind the losses named in ``of_faces`` sees a face; without it, everywhere.
        """
        self.generator, self.losses = generator, dict(losses)
        self.seen, self.of_faces = seen, frozenset(of_faces)

    def render(self, ws: Tensor, size: int) -> Tensor:
        """The generator's own output, down-sampled: ``(N, num_ws, w_dim)`` to ``(N, 3, size, size)``.

        In the generator's own precision: autocast would take styles and colours to bfloat16 as well.
        """
        with torch.autocast(ws.device.type, enabled=False):
            return self.generator.synthesize(ws.float(), resolution=size).float()

    def image_losses(
        self, names: Collection[str], reconstruction: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], int]:
        """The mean of each named loss over N images, and how many of them the face judge failed on.

        Those have no part in the losses of faces (a judge that sees no face gives any number); where it fails on
        all, these losses are 0.
        """
        trusted, failed = torch.ones(len(target), dtype=torch.bool, device=target.device), 0
        if self.seen is not None and self.of_faces & set(names):
            with torch.no_grad():
                trusted = self.seen(reconstruction, target)
            failed = int((~trusted).sum())
        found = {}
        for name in names:
            loss = rms_distance if name == "l2" else self.losses[name]
            distances = loss(reconstruction, target)
            found[name] = trusted_mean(distances, trusted) if name in self.of_faces else distances.mean()
        return found, failed

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenParts:
        return self

    def to(self, device: torch.device) -> None:
        """Move every part that is a network."""
        parts: list[object] = [self.generator, *self.losses.values()]
        for part in parts:
            if isinstance(part, torch.nn.Module):
                part.to(device)


class PartsWithFrameEncoder(FrozenParts):
    """The frozen parts of what learns from a FrEN: that one is the ``first`` of them."""

    def __init__(
        self,
        generator: Generator,
        first: FrameEncoder,
        losses: Mapping[str, ImageLoss],
        seen: Seen | None = None,
        of_faces: Collection[str] = (),
    ) -> None:
        super().__init__(generator, losses, seen, of_faces)
        self.first = first

    def to(self, device: torch.device) -> None:
        """Move every part that is a network."""
        super().to(device)
        self.first.to(device)


def code_loss(ws: Tensor, known: Tensor, w_basis: Tensor) -> Tensor:
    """Mean squared error of codes ``(N, num_ws, w_dim)`` in units of W's own variance: the mean face scores 1."""
    variance = w_basis.square().sum() / len(w_basis)
    return (ws - known).square().mean() / variance


class LitFrameEncoder(L.LightningModule):
    """FrEN in training.

    Batches are dicts of ``images`` and ``targets`` ``(N, 3, 256, 256)`` and the known ``ws`` of the first M.
    ``judge_failures`` counts, since the start or the resumption, the rendered images whose face was not seen.
    """

    def __init__(
        self, encoder: FrameEncoder | RestoringEncoder, training: EncoderTraining, frozen: FrozenParts
    ) -> None:
        super().__init__()
        self.encoder, self.training_plan, self.frozen = encoder, training, frozen
        self.judge_failures = 0
        for phase in training.phases:
            unknown = set(phase.weights) - {"codes", "l2"} - set(frozen.losses)
            if unknown:
                raise ValueError(f"phase {phase.name}: no loss named {', '.join(sorted(unknown))}")

    def on_fit_start(self) -> None:
        """Frozen parts follow the encoder to its device."""
        self.frozen.to(self.device)

    def losses(self, batch: dict[str, Tensor], phase: Phase) -> dict[str, Tensor]:
        """Unweighted mean of each loss that the phase uses."""
        ws, _ = self.encoder(batch["images"])
        found: dict[str, Tensor] = {}
        known = batch["ws"]
        if "codes" in phase.weights and len(known):
            found["codes"] = code_loss(ws[: len(known)], known, self.encoder.w_basis)
        if phase.rendered:
            # Real frames are the last of the batch, so these are taken before samples are.
            target = batch["targets"][-phase.rendered :]
            reconstruction = self.frozen.render(ws[-phase.rendered :], target.shape[-1])
            names = [name for name in phase.weights if name != "codes"]
            seen, failed = self.frozen.image_losses(names, reconstruction, target)
            found.update(seen)
            self.judge_failures += failed
        return found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Eq. 6 with the weights of the phase that the global step lies in."""
        _, phase = self.training_plan.at(self.global_step)
        found = self.losses(batch, phase)
        total = torch.stack([phase.weights[name] * value for name, value in found.items()]).sum()
        self.log_dict({f"train/{name}": value for name, value in found.items()}, batch_size=len(batch["images"]))
        self.log("train/total", total, prog_bar=True, batch_size=len(batch["images"]))
        self.log("train/judge_failures", float(self.judge_failures))
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Reconstruct held-out frames at their own size; returns them, ``(N, 3, h, w)`` in [-1, 1]."""
        ws, _ = self.encoder(batch["images"])
        reconstruction = self.frozen.render(ws, batch["targets"].shape[-1]).clamp(-1, 1)
        value = psnr(reconstruction, batch["targets"]).mean()
        self.log("val/psnr", value, prog_bar=True, batch_size=len(reconstruction), sync_dist=True)
        return reconstruction

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Ranger, as in the paper, on the phases' learning rates."""
        of_told: list[Tensor] = []
        trunk: list[Tensor] = []
        for name, parameter in self.encoder.named_parameters():
            if parameter.requires_grad:
                (of_told if "told_" in name else trunk).append(parameter)
        groups = [{"params": trunk, "lr": self.training_plan.trunk_rate if of_told else 1.0}]
        if of_told:
            groups.append({"params": of_told, "lr": 1.0})
        optimizer = Ranger(groups, lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.training_plan.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
