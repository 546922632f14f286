"""A small real StyleGAN2 stitched to plain frames, through the real LPIPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conformance_cases import FOLDER
from torch import Tensor

from datamodules.rows import Rows
from datamodules.stitched_frames import StitchedFrames, StitchedRows
from modules.editing.stitching import StitchingTraining, border_of, inside_of
from modules.generators.load import load_generator
from modules.generators.protocol import Generator
from modules.lit.stitching import LitStitching
from modules.losses.perceptual import load_lpips
from modules.losses.pixels import rms_distance
from services.training.trainer import fit_steps

PLAN = StitchingTraining(0.01, 0.1, 1.0, 3.0, 1.0, 3.0)


def drawn(generator: Generator, ws: Tensor, offsets: Tensor, side: int) -> Tensor:
    return 0.25 * generator.synthesize(ws + offsets, resolution=side)  # its values are else beyond the picture's


def made(base: Generator, folder: Path, frames: int = 3) -> StitchedRows:
    """What the generator draws of codes that are moved, in front of frames that are dark."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        ws = base.map(torch.randn(frames, base.z_dim, generator=random))
        offsets = 0.2 * torch.randn(ws.shape, generator=random)
        edited = drawn(base, ws, offsets, 64).clamp(-1, 1)
    at = torch.linspace(-1, 1, 64)
    mask = ((0.8 - (at[:, None] ** 2 + at[None] ** 2).sqrt()) / 0.3).clamp(0, 1)
    shape = base.num_ws, base.w_dim
    rows = StitchedRows(
        Rows(folder / "codes", shape, np.float32),
        Rows(folder / "offsets", shape, np.float32),
        Rows(folder / "crops", (64, 64, 3), np.uint8),
        Rows(folder / "edited", (64, 64, 3), np.uint8),
        Rows(folder / "masks", (64, 64), np.uint8),
    )
    pixels = ((edited + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows.codes.append(ws.numpy())
    rows.offsets.append(offsets.numpy())
    rows.crops.append(np.full_like(pixels, 40))
    rows.edited.append(pixels)
    rows.masks.append((mask * 255).round().byte().expand(frames, 64, 64).numpy())
    return rows


def test_the_border_comes_to_the_frame_and_the_inside_stays(tmp_path: Path) -> None:
    base = load_generator(FOLDER / "stylegan2-64-small.pkl")
    rows = made(base, tmp_path)
    lit = LitStitching(base, PLAN, load_lpips("alex"), drawn)
    batch = StitchedFrames(rows, 3, 1, 0).batch(0)
    first = {name: float(value.detach()) for name, (_, value) in lit.terms(batch).items()}
    # It begins as the generator that drew them: only the bytes they were written in are between.
    assert first["inside_l2"] < 0.005 and first["inside_lpips"] < 0.001
    fit_steps(
        lit, 80, lambda step: StitchedFrames(rows, 1, 80, 1, step), 40, tmp_path / "run",
        accelerator="cpu", after_step=lambda step: None,
    )  # fmt: skip
    last = {name: float(value.detach()) for name, (_, value) in lit.terms(batch).items()}
    assert last["border_l2"] < 0.6 * first["border_l2"] and last["border_lpips"] < first["border_lpips"]
    with torch.no_grad():
        inside = inside_of(batch["masks"])
        to_frame = float(rms_distance(batch["images"], batch["edited"], inside).mean())
    assert last["inside_l2"] < 0.5 * to_frame  # it did not become the frame where it stands alone


def test_offsets_move_the_codes_and_a_border_of_nothing_weighs_nothing(tmp_path: Path) -> None:
    base = load_generator(FOLDER / "stylegan2-64-small.pkl")
    lit = LitStitching(base, PLAN, load_lpips("alex"), drawn)
    batch = StitchedFrames(made(base, tmp_path), 2, 1, 0).batch(0)
    still = lit.terms({**batch, "offsets": torch.zeros_like(batch["offsets"])})
    assert float(still["inside_l2"][1].detach()) > 0.01
    whole = lit.terms({**batch, "masks": torch.ones_like(batch["masks"])})
    assert float(whole["border_lpips"][1].detach()) == pytest.approx(0, abs=1e-6)
    assert float(whole["border_l2"][1].detach()) < 1e-5
    assert float(border_of(batch["masks"]).max()) > 0.9
