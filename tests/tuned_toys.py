"""What a small generator is tuned to, and how: frames that another one made of the same codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datamodules.coded_frames import CodedFrames
from datamodules.rows import Rows
from modules.generators.adaptation import adaptable, adapted
from modules.generators.protocol import Generator
from modules.lit.video_adaptation import LitVideoAdaptation, LocalityConfig, VideoAdaptationTraining
from services.training.trainer import fit_steps

PLAN = VideoAdaptationTraining(0.003, 0.1, 1.0, 1.0, LocalityConfig(0.0, 30.0))


def pairs(base: Generator, folder: Path, frames: int = 4) -> tuple[Rows[np.float32], Rows[np.uint8]]:
    """Codes, and pictures that the generator makes once its weights are others."""
    random = torch.Generator().manual_seed(2)
    shift = {
        name: 0.1 * torch.randn(value.shape, generator=random) * value.square().mean().sqrt()
        for name, value in adaptable(base).items()
    }
    with torch.no_grad():
        ws = base.map(torch.randn(frames, base.z_dim, generator=random))
        images = adapted(base, shift).synthesize(ws).clamp(-1, 1)
    codes = Rows(folder / "codes", (base.num_ws, base.w_dim), np.float32)
    crops = Rows(folder / "crops", (64, 64, 3), np.uint8)
    codes.append(ws.numpy())
    crops.append(((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return codes, crops


def trained(
    lit: LitVideoAdaptation, data: tuple[Rows[np.float32], Rows[np.uint8]], steps: int, run: Path, batch: int = 2
) -> None:
    fit_steps(
        lit, steps, lambda first: CodedFrames(*data, batch, steps, 0, first), 5, run,
        accelerator="cpu", after_step=lambda step: None,
    )  # fmt: skip
