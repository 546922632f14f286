"""Train what the product ships: build the parts, run Lightning's Trainer, resume, log, write the model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from datamodules.mixture import BatchMixture, BatchPlan, Frames, SofteningConfig
from datamodules.samples import SampleDataset
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig
from modules.lit.frame_encoder import FrameEncoderTraining, FrozenParts, LitFrameEncoder
from modules.lit.reconstructions import Reconstructions, Show
from services.settings import computes_bfloat16


@dataclass(frozen=True)
class TrainerConfig:
    """Where and how often."""

    devices: int | str
    """Number of devices; more than one trains with DDP."""
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """``auto`` is bf16 where the hardware multiplies it, else float32."""
    workers: int
    """Processes that make batches; 0 makes them in the training process."""
    checkpoint_every: int
    """Steps between checkpoints."""
    validate_every: int
    """Steps between validations."""
    validation_frames: int
    """Held-out frames that a validation looks at."""
    seed: int
    """Of batches and of initial weights."""

    def lightning_precision(self) -> Literal["32-true", "bf16-mixed"]:
        """What the Trainer is told."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if computes_bfloat16() else "32-true"


@dataclass(frozen=True)
class FrameEncoderSettings:
    """Section ``frame_encoder``: everything that the trained encoder follows from."""

    network: FrameEncoderConfig
    """Its shape."""
    training: FrameEncoderTraining
    """What it learns, in which order."""
    softening: SofteningConfig
    """What samples go through, so that they look like video."""
    trainer: TrainerConfig
    """Where and how often."""
    start_from: str
    """Model folder of an encoder to go on from, e.g. ``assets/frame-encoder``; empty begins anew."""


def fit_frame_encoder(
    encoder: FrameEncoder,
    frozen: FrozenParts,
    samples: SampleDataset,
    frames: Frames,
    held_out: Tensor,
    settings: FrameEncoderSettings,
    run_folder: Path,
    logger: Logger | bool = False,
    show: Show = lambda step, inputs, reconstructions: None,
) -> FrameEncoder:
    """Train from the last checkpoint in ``run_folder``, or from the start; returns the averaged encoder.

    ``held_out`` are validation crops ``(N, 3, r, r)`` in [-1, 1]; ``show`` is handed them and their
    reconstructions at every validation.
    """
    trainer_config, plan = settings.trainer, settings.training
    last = run_folder / "last.ckpt"
    step = _step_of(last)
    if step == 0 and plan.linear_start:
        start = [samples[i] for i in range(min(plan.linear_start, len(samples)))]
        thumbnails = torch.cat([encoder.thumbnails(sample.image[None]) for sample in start])
        encoder.start_linear(thumbnails, torch.stack([sample.ws for sample in start]), plan.linear_ridge)
    lit = LitFrameEncoder(encoder, plan, frozen)
    checkpoints = ModelCheckpoint(
        dirpath=run_folder, filename="step", save_last=True, save_top_k=0,
        every_n_train_steps=trainer_config.checkpoint_every, enable_version_counter=False,
    )  # fmt: skip
    trainer = L.Trainer(
        accelerator="auto",
        devices=trainer_config.devices,
        strategy="auto" if str(trainer_config.devices) in ("1", "auto") else "ddp",
        precision=trainer_config.lightning_precision(),
        max_steps=plan.ends[-1],
        max_epochs=-1,
        val_check_interval=trainer_config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=plan.gradient_clip,
        callbacks=[
            checkpoints,
            EMAWeightAveraging(decay=plan.ema_decay, use_buffers=False),
            Reconstructions(show),
        ],
        logger=logger,
        log_every_n_steps=10,
        default_root_dir=run_folder,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    mixture = BatchMixture(
        samples, frames, [_plan(phase.steps, phase.batch_size, phase.sample_share) for phase in plan.phases],
        settings.softening, trainer_config.seed, first_step=step, rank=trainer.global_rank,
    )  # fmt: skip
    loader = DataLoader(mixture, batch_size=None, num_workers=trainer_config.workers)
    validation = DataLoader(_Validation(held_out[: trainer_config.validation_frames]), batch_size=4)
    if step >= plan.ends[-1]:
        lit.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
    else:
        trainer.fit(lit, loader, validation, ckpt_path=str(last) if step else None, weights_only=True)
        trainer.save_checkpoint(last)
    return lit.encoder.eval()


class _Validation(Dataset[dict[str, Tensor]]):
    """Crops as batches of the form the module takes."""

    def __init__(self, crops: Tensor) -> None:
        self.crops = TensorDataset(crops)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        (crop,) = self.crops[index]
        return {"images": crop, "targets": crop}


def _plan(steps: int, batch_size: int, sample_share: float) -> BatchPlan:
    samples = round(batch_size * sample_share)
    return BatchPlan(steps, samples, batch_size - samples)


def _step_of(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
