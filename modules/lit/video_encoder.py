"""Training of ViEN: consecutive pairs as in FrEN/ViEN (section 3.4), then roll-outs on its own outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from pytorch_optimizer import Ranger
from torch import Tensor

from modules.encoders.video_vit import VideoTransformer
from modules.lit.frame_encoder import PartsWithFrameEncoder, code_loss
from modules.lit.phases import Phased
from modules.losses.pixels import rms_distance
from modules.metrics.fidelity import psnr

OWN_LOSSES = frozenset({"codes", "l2", "change"})
"""Losses that need no frozen network."""


@dataclass(frozen=True)
class VideoPhase:
    """One stretch of the training."""

    name: str
    """What the log calls it."""
    share: float
    """Of the training's steps."""
    episodes: int
    """Episodes per step."""
    length: int
    """Frames of an episode after the first, whose code is FrEN's: 1 trains on pairs, more on its own outputs."""
    rendered: int
    """Consecutive frames of each episode that are rendered for the image losses."""
    long_memory: float
    """Share of the episodes whose fine codes come from a frame anywhere before them, as after a long stream."""
    still_share: float
    """Share of the episodes that are made of still images."""
    smoothing: float
    """Standard deviation in frames of the Gaussian that steadies FrEN's codes for ``codes``; 0 is none."""
    learning_rate: float
    """Of Ranger, for what FrEN does not have; the paper's is 1e-4."""
    weights: Mapping[str, float]
    """Weight of each loss by its name: ``codes`` and ``change`` are explained in ``LitVideoEncoder``."""

    def __post_init__(self) -> None:
        if not 0 <= self.rendered <= self.length or min(self.episodes, self.length) < 1:
            raise ValueError(f"phase {self.name}: {self.rendered} of {self.length} frames cannot be rendered")
        if not self.rendered and set(self.weights) - {"codes"}:
            raise ValueError(f"phase {self.name}: image losses need rendered frames")
        if "codes" in self.weights and self.length < 2 * _reach(self.smoothing):
            raise ValueError(f"phase {self.name}: {self.length} frames are too few to smooth by {self.smoothing}")
        if self.rendered < 2 and "change" in self.weights:
            raise ValueError(f"phase {self.name}: the change between frames needs two that are rendered")


@dataclass(frozen=True)
class VideoEncoderTraining(Phased[VideoPhase]):
    """How ViEN is trained."""

    phases: tuple[VideoPhase, ...]
    trunk_rate: float
    """Learning rate of the transformer that comes from FrEN, as a share of the phase's."""


class LitVideoEncoder(L.LightningModule):
    """ViEN in training; FrEN is frozen.

    Batches are dicts of ``frames`` ``(N, 2 + T, 3, S, S)`` in [-1, 1] and ``shown`` ``(N,)``, as
    ``datamodules.episodes`` makes them: the fine codes of frame 0 and the coarse ones of frame 1 are FrEN's, the
    T frames that follow are ViEN's, each on its own output for the one before. Losses are those of FrEN on the
    rendered frames (eqs. 1-6) and, beyond the paper, which is calm by its structure alone,

    - ``codes``: distance of the coarse rows to FrEN's, smoothed over time, where the whole window is at hand;
    - ``change``: eq. 1 of the change from one rendered frame to the next against that of the video: flicker.

    ``judge_failures`` counts, since the start or the resumption, the rendered images whose face was not seen.
    """

    def __init__(
        self, encoder: VideoTransformer, training: VideoEncoderTraining, frozen: PartsWithFrameEncoder
    ) -> None:
        super().__init__()
        self.encoder, self.training_plan, self.frozen = encoder, training, frozen
        self.judge_failures = 0
        for phase in training.phases:
            unknown = set(phase.weights) - OWN_LOSSES - set(frozen.losses)
            if unknown:
                raise ValueError(f"phase {phase.name}: no loss named {', '.join(sorted(unknown))}")

    def on_fit_start(self) -> None:
        """Frozen parts follow the encoder to its device."""
        self.frozen.to(self.device)

    @torch.no_grad()
    def _frame_codes(self, frames: Tensor) -> Tensor:
        ws, _ = self.frozen.first(frames.flatten(0, 1))
        return _grouped(ws.float(), frames)

    def losses(self, batch: dict[str, Tensor], phase: VideoPhase) -> dict[str, Tensor]:
        """Unweighted mean of each loss that the phase uses."""
        frames, shown = batch["frames"], batch["shown"]
        coarse = self.encoder.coarse
        if frames.ndim != 5 or frames.shape[1] < 3:
            raise ValueError(
                f"an episode is two frames to start from and those to follow, got {tuple(frames.shape)}"
            )
        # Without ``codes`` only the two frames that the episode starts from need FrEN.
        known = self._frame_codes(frames if "codes" in phase.weights else frames[:, :2])
        previous = torch.cat([known[:, 1, :coarse], known[:, 0, coarse:]], dim=1)
        ws = self.encoder.roll_out(frames[:, 2:], previous)
        found: dict[str, Tensor] = {}
        if "codes" in phase.weights:
            steady, whole = smoothed(known[:, 1:, :coarse], phase.smoothing)
            keep = whole[1:]
            found["codes"] = code_loss(ws[:, keep, :coarse], steady[:, 1:][:, keep], self.encoder.trunk.w_basis)
        if phase.rendered:
            at = shown[:, None] + torch.arange(phase.rendered, device=shown.device)
            each = torch.arange(len(frames), device=shown.device)[:, None]
            target = frames[each, at + 2].flatten(0, 1)
            reconstruction = self.frozen.render(ws[each, at].flatten(0, 1), target.shape[-1])
            names = [name for name in phase.weights if name not in ("codes", "change")]
            seen, failed = self.frozen.image_losses(names, reconstruction, target)
            found.update(seen)
            self.judge_failures += failed
            if "change" in phase.weights:
                pairs = _grouped(reconstruction, at), _grouped(target, at)
                found["change"] = change_distance(*pairs)
        return found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Eq. 6 with the weights of the phase that the global step lies in."""
        _, phase = self.training_plan.at(self.global_step)
        found = self.losses(batch, phase)
        total = torch.stack([phase.weights[name] * value for name, value in found.items()]).sum()
        size = len(batch["frames"])
        self.log_dict({f"train/{name}": value for name, value in found.items()}, batch_size=size)
        self.log("train/total", total, prog_bar=True, batch_size=size)
        self.log("train/judge_failures", float(self.judge_failures))
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Follow held-out ``frames`` ``(N, T, 3, S, S)`` from FrEN's first code; returns the last reconstructions.

        ``val/psnr`` is of the last frames, ``val/psnr_frame`` FrEN's own on them, ``val/change`` and
        ``val/change_frame`` the flicker between the last two.
        """
        frames = batch["frames"]
        known = self._frame_codes(frames)
        ws = self.encoder.roll_out(frames[:, 1:], known[:, 0])[:, -2:]
        target = frames[:, -2:]
        for codes, suffix in ((known[:, -2:], "_frame"), (ws, "")):
            flat = self.frozen.render(codes.flatten(0, 1), frames.shape[-1]).clamp(-1, 1)
            images = _grouped(flat, target)
            size, value = len(frames), psnr(images[:, -1], target[:, -1]).mean()
            self.log(f"val/psnr{suffix}", value, prog_bar=True, batch_size=size, sync_dist=True)
            self.log(f"val/change{suffix}", change_distance(images, target), batch_size=size, sync_dist=True)
        return images[:, -1]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Ranger, as in the paper, on the phases' learning rates."""
        trunk = list(self.encoder.trunk.parameters())
        known = {id(parameter) for parameter in trunk}
        fresh = [parameter for parameter in self.encoder.parameters() if id(parameter) not in known]
        groups = [{"params": fresh, "lr": 1.0}, {"params": trunk, "lr": self.training_plan.trunk_rate}]
        optimizer = Ranger(groups, lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.training_plan.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def change_distance(reconstructions: Tensor, targets: Tensor) -> Tensor:
    """Mean of eq. 1 between the changes from frame to frame of two ``(N, T, 3, H, W)``, T of 2 or more."""
    ours, theirs = reconstructions.diff(dim=1), targets.diff(dim=1)
    return rms_distance(ours.flatten(0, 1), theirs.flatten(0, 1)).mean()


def _grouped(flat: Tensor, like: Tensor) -> Tensor:
    """``(N * T, …)`` to ``(N, T, …)``, N and T those of ``like``."""
    return flat.reshape(*like.shape[:2], *flat.shape[1:])


def smoothed(codes: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """A Gaussian average over time of ``(N, T, rows, w_dim)``, and which of the T have a whole window, ``(T,)``.

    The window reaches two standard deviations, in whole frames; with 0 the codes come back as they are.
    """
    reach = _reach(sigma)
    length = codes.shape[1]
    place = torch.arange(length, device=codes.device)
    whole = (place >= reach) & (place < length - reach)
    if reach == 0:
        return codes, whole
    if not whole.any():
        raise ValueError(f"{length} frames are fewer than the window of {2 * reach + 1}")
    kernel = torch.exp(-torch.arange(-reach, reach + 1, device=codes.device).float().square() / (2 * sigma**2))
    series = codes.movedim(1, -1)
    flat = F.conv1d(series.reshape(-1, 1, length), (kernel / kernel.sum())[None, None], padding=reach)
    return flat.reshape(series.shape).movedim(-1, 1), whole


def _reach(sigma: float) -> int:
    """Frames to each side that the average over time looks at: two standard deviations."""
    return round(2 * sigma)
