"""What a trained encoder reaches on the persons that its training watched, as its card says it."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.clips import Prepared
from datamodules.people import Split
from modules.encoders.video_vit import VideoTransformer
from modules.encoders.vit import FrameEncoder
from modules.lit.frame_encoder import FrozenParts, PartsWithFrameEncoder
from modules.metrics.fidelity import psnr


def watched_split(prepared: Prepared) -> Split:
    """Whom a training is validated on: test persons stand in where there is no validation person."""
    return "val" if prepared.of("val") else "test"


@torch.no_grad()
def frame_encoder_psnr(encoder: FrameEncoder, frozen: FrozenParts, crops: Tensor) -> float:
    """``val/psnr`` of the weights that ship, on ``(N, 3, r, r)``; the last validation may lie before."""
    device = frozen.generator.w_mean.device
    encoder.to(device)
    values = []
    for images in torch.split(crops.to(device), 4):
        ws, _ = encoder(images)
        values.append(psnr(frozen.render(ws, images.shape[-1]).clamp(-1, 1), images))
    return float(torch.cat(values).mean())


@torch.no_grad()
def video_encoder_psnr(encoder: VideoTransformer, frozen: PartsWithFrameEncoder, sequences: Tensor) -> float:
    """The same of the last frames of ``(N, T, 3, r, r)``, each followed from FrEN's code of its first."""
    device = frozen.generator.w_mean.device
    frozen.to(device)
    encoder.to(device)
    values = []
    for frames in torch.split(sequences.to(device), 1):
        known, _ = frozen.first(frames[:, 0])
        ws = encoder.roll_out(frames[:, 1:], known)[:, -1]
        values.append(psnr(frozen.render(ws, frames.shape[-1]).clamp(-1, 1), frames[:, -1]))
    return float(torch.cat(values).mean())


def metrics_section(value: float, on: str, prepared: Prepared, command: str, file: str) -> str:
    """A card's section on how near a model comes: what its training watched, and where the rest is measured."""
    persons = {"train": "training", "val": "validation", "test": "test"}[watched_split(prepared)]
    return (
        f"## Metrics\n\nOn {on} of {persons} persons, after its training: PSNR {value:.2f} dB.\n"
        f"`{command}` measures it on test persons, into `{file}`.\n\n"
    )
