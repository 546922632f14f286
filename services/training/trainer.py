"""Train what the product ships: build the parts, run Lightning's Trainer, resume, log, write the model folder."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from datamodules.episodes import EpisodeBatches, EpisodePlan, Stretch
from datamodules.mixture import Batch, BatchMixture, BatchPlan, Frames
from datamodules.samples import SampleDataset
from datamodules.variation import SofteningConfig, Unsteadiness, VariationConfig
from modules.encoders.video_vit import VideoEncoderConfig, VideoTransformer
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig
from modules.lit.averaged_weights import AveragedWeights
from modules.lit.finite_steps import FiniteSteps
from modules.lit.frame_encoder import (
    EncoderTraining,
    FrameEncoderTraining,
    FrozenParts,
    LitFrameEncoder,
    PartsWithFrameEncoder,
)
from modules.lit.reconstructions import Reconstructions, Show
from modules.lit.tuned_generator import LitTunedGenerator
from modules.lit.video_encoder import LitVideoEncoder, VideoEncoderTraining
from services.settings import computes_bfloat16
from services.training.checkpoints import WholeCheckpoints, every_steps, progress_of, read_checkpoint

LAST = "last.ckpt"
"""The checkpoint that a training goes on from."""
REAL_FRAMES = 200
"""Over which what the face nets tell is nothing on average, at the start."""


@dataclass(frozen=True)
class TrainerConfig:
    """Where and how often."""

    devices: int | str
    """Number of devices; more than one trains with DDP."""
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """``auto`` is bf16 where the hardware multiplies it, else float32."""
    compile: Literal["auto", "never"]
    """``auto`` compiles renderings on a GPU: a minute or two at first, then each takes less than a quarter."""
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

    def lightning_precision(self, device: str) -> Literal["32-true", "bf16-mixed"]:
        """What the Trainer is told; ``device`` is what ``computes_bfloat16`` takes."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if computes_bfloat16(device) else "32-true"

    def that_counts(self) -> TrainerConfig:
        """The same, with what no weight hangs on set to nothing: what a training is known by."""
        return replace(self, compile="never", workers=0, checkpoint_every=0, validate_every=0, validation_frames=0)


@dataclass(frozen=True)
class FrameEncoderSettings:
    """Section ``frame_encoder``: everything that the trained encoder follows from."""

    network: FrameEncoderConfig
    """Its shape."""
    training: FrameEncoderTraining
    """What it learns, in which order."""
    softening: SofteningConfig
    """What samples go through, so that they look like video."""
    variation: VariationConfig
    """What real frames go through, so that few persons give more to learn from."""
    trainer: TrainerConfig
    """Where and how often."""
    start_from: str
    """Model folder of an encoder to go on from, e.g. ``assets/frame-encoder``; empty begins anew."""


@dataclass(frozen=True)
class VideoEncoderSettings:
    """Section ``video_encoder``: everything that the trained ViEN follows from, beside its FrEN."""

    frame_encoder: str
    """Model folder of the FrEN that encodes first frames and that ViEN starts from."""
    start_from: str
    """Model folder of a ViEN to go on from, of this FrEN or one before it; empty begins as FrEN."""
    network: VideoEncoderConfig
    """Shape of what ViEN has beside FrEN's transformer."""
    training: VideoEncoderTraining
    """What it learns, in which order."""
    unsteadiness: Unsteadiness
    """How stills move."""
    trainer: TrainerConfig
    """Where and how often; ``validation_frames`` is the length of the held-out sequences."""
    validation_clips: int
    """Held-out sequences, one per clip."""


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
    accelerator: str = "auto",
) -> FrameEncoder:
    """Train from the last checkpoint in ``run_folder``, or from the start; returns the averaged encoder.

    ``held_out`` are validation crops ``(N, 3, r, r)`` in [-1, 1]; ``show`` is handed them and their
    reconstructions at every validation; ``accelerator`` is where the frozen networks are, ``cpu`` or ``cuda``.
    """
    plan = settings.training
    if plan.linear_start and not progress_of(run_folder / LAST)[0]:
        start = [samples[i] for i in range(min(plan.linear_start, len(samples)))]
        thumbnails = torch.cat([encoder.thumbnails(sample.image[None]) for sample in start])
        encoder.start_linear(thumbnails, torch.stack([sample.ws for sample in start]), plan.linear_ridge)
    if plan.told_start and encoder.config.sighted and not progress_of(run_folder / LAST)[0]:
        made = range(min(plan.told_start, len(samples)))
        ws = torch.stack([samples[i].ws for i in made])
        real = range(0, len(frames), max(1, len(frames) // REAL_FRAMES))
        encoder.start_told(
            (samples[i].image[None] for i in made), ws, plan.told_ridge, (frames[i][None] for i in real)
        )
    lit = LitFrameEncoder(encoder, plan, frozen)
    fit_on_mixture(lit, samples, frames, held_out, settings, run_folder, logger, show, accelerator)
    return encoder.eval()


def fit_video_encoder(
    encoder: VideoTransformer,
    frozen: PartsWithFrameEncoder,
    clips: Sequence[Sequence[Stretch]],
    stills: Frames,
    held_out: Tensor,
    settings: VideoEncoderSettings,
    run_folder: Path,
    logger: Logger | bool = False,
    show: Show = lambda step, inputs, reconstructions: None,
    accelerator: str = "auto",
) -> VideoTransformer:
    """Like ``fit_frame_encoder``, for ViEN, on episodes; ``held_out`` are sequences ``(N, T, 3, r, r)``."""
    config, plan = settings.trainer, settings.training
    lit = LitVideoEncoder(encoder, plan, frozen)
    plans = [
        EpisodePlan(steps, p.episodes, p.length, max(1, p.rendered), p.long_memory, p.still_share)
        for p, steps in zip(plan.phases, plan.phase_steps, strict=True)
    ]

    def batches(step: int, rank: int) -> EpisodeBatches:
        return EpisodeBatches(clips, stills, plans, settings.unsteadiness, config.seed, step, rank)

    validation = DataLoader(_Sequences(held_out), batch_size=1)
    fit_in_phases(lit, plan, config, batches, validation, run_folder, logger, show, accelerator)
    return lit.encoder.eval()


class MixtureSettings(Protocol):
    """What an encoder of single frames is trained by, FrEN or one that restores."""

    @property
    def training(self) -> EncoderTraining:
        """What it learns, in which order."""
        ...

    @property
    def softening(self) -> SofteningConfig:
        """What samples go through."""
        ...

    @property
    def variation(self) -> VariationConfig:
        """What real frames go through."""
        ...

    @property
    def trainer(self) -> TrainerConfig:
        """Where and how often."""
        ...


def fit_on_mixture(
    lit: LitFrameEncoder,
    samples: SampleDataset,
    frames: Frames,
    held_out: Tensor,
    settings: MixtureSettings,
    run_folder: Path,
    logger: Logger | bool,
    show: Show,
    accelerator: str,
) -> None:
    """``fit_in_phases`` on samples and real frames, validated on ``held_out`` ``(N, 3, r, r)`` in [-1, 1]."""
    plan, config = settings.training, settings.trainer

    def batches(step: int, rank: int) -> BatchMixture:
        return BatchMixture(
            samples, frames, plans_of(plan), settings.softening, settings.variation, config.seed, step, rank
        )

    validation = validation_loader(held_out)
    fit_in_phases(lit, plan, config, batches, validation, run_folder, logger, show, accelerator)


def fit_in_phases(
    lit: L.LightningModule,
    plan: EncoderTraining | VideoEncoderTraining,
    config: TrainerConfig,
    batches: Callable[[int, int], IterableDataset[Batch]],
    validation: DataLoader[Batch],
    run_folder: Path,
    logger: Logger | bool,
    show: Show,
    accelerator: str,
) -> None:
    """Train ``lit`` from the last checkpoint in ``run_folder``, or from the start, to the averaged weights.

    ``batches(first_step, rank)`` are those that are left. A training that is done is read, not repeated.
    Of the processes of several devices only the first returns; the others end here. Raises ``BadInputError`` where
    a loss or gradient is no number, for which see ``FiniteSteps``.
    """
    last = run_folder / LAST
    step, _ = progress_of(last)
    if step >= plan.steps:
        lit.load_state_dict(read_checkpoint(last)["state_dict"])
        return
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=config.devices,
        strategy="auto" if str(config.devices) in ("1", "auto") else "ddp",
        precision=config.lightning_precision(accelerator),
        max_steps=plan.steps,
        max_epochs=-1,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=plan.gradient_clip,
        callbacks=[
            every_steps(run_folder, config.checkpoint_every),
            AveragedWeights(plan.ema_decay),
            Reconstructions(show),
            FiniteSteps(),
        ],
        plugins=WholeCheckpoints(),
        logger=logger,
        log_every_n_steps=10,
        default_root_dir=run_folder,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    loader = DataLoader(batches(step, trainer.global_rank), batch_size=None, num_workers=config.workers)
    with _interruptible(trainer):
        trainer.fit(lit, loader, validation, ckpt_path=str(last) if step else None, weights_only=True)
    trainer.save_checkpoint(last)
    if not trainer.is_global_zero:
        # With several devices each process runs the whole command: the first alone goes on and writes the model.
        sys.exit(0)


def fit_steps(
    lit: L.LightningModule,
    steps: int,
    batches: Callable[[int], IterableDataset[Batch]],
    checkpoint_every: int,
    run_folder: Path,
    logger: Logger | bool = False,
    gradient_clip: float | None = None,
    accelerator: str = "auto",
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train ``lit`` for ``steps``, from the last checkpoint in ``run_folder`` or the start; 0 steps do nothing.

    ``batches(first_step)`` gives what is left to train on. A training that is done, or that ended since its loss
    was no number, is read, not repeated. Only a tuned generator ends so, with what was good; another training
    raises ``BadInputError``, see ``FiniteSteps``.
    ``after_step`` is told how many steps are done, in the place of Lightning's bar, and may raise to stop.
    """
    last = run_folder / LAST
    step, ended = progress_of(last)
    if step >= steps > 0 or ended:
        checkpoint = read_checkpoint(last)
        lit.load_state_dict(checkpoint["state_dict"])
        lit.on_load_checkpoint(checkpoint)
    elif steps:
        with _quiet() if after_step else nullcontext():
            trainer = L.Trainer(
                accelerator=accelerator,
                devices=1,
                max_steps=steps,
                max_epochs=-1,
                gradient_clip_val=gradient_clip,
                callbacks=[
                    every_steps(run_folder, checkpoint_every),
                    *([] if isinstance(lit, LitTunedGenerator) else [FiniteSteps()]),
                    *([_AfterStep(after_step)] if after_step else []),
                ],
                plugins=WholeCheckpoints(),
                logger=logger,
                log_every_n_steps=10,
                default_root_dir=run_folder,
                enable_model_summary=False,
                enable_progress_bar=after_step is None,
            )
            loader = DataLoader(batches(step), batch_size=None)
            with _interruptible(trainer):
                trainer.fit(lit, loader, ckpt_path=str(last) if step else None, weights_only=True)
            trainer.save_checkpoint(last)


class _AfterStep(L.Callback):
    """Says how far a training is to whoever waits for it."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.tell = tell

    def on_train_batch_end(self, trainer: L.Trainer, *_: object, **__: object) -> None:
        """After the optimiser's step."""
        self.tell(trainer.global_step)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice, which is for people who write trainings, not for those who wait for one."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Ctrl-C as ``KeyboardInterrupt``: Lightning exits with 1 on it, as on a fault, and takes no further one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop


class _Sequences(Dataset[dict[str, Tensor]]):
    """Held-out sequences, and the last frame of each as what its reconstruction is shown beside."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"frames": self.frames[index], "targets": self.frames[index, -1]}


class _Validation(Dataset[dict[str, Tensor]]):
    """Crops as batches of the form the module takes."""

    def __init__(self, crops: Tensor) -> None:
        self.crops = TensorDataset(crops)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        (crop,) = self.crops[index]
        return {"images": crop, "targets": crop}


def plans_of(training: EncoderTraining) -> list[BatchPlan]:
    """How the batches of each phase are made up."""
    plans = []
    for phase, steps in zip(training.phases, training.phase_steps, strict=True):
        samples = round(phase.batch_size * phase.sample_share)
        plans.append(BatchPlan(steps, samples, phase.batch_size - samples))
    return plans


def validation_loader(held_out: Tensor) -> DataLoader[Batch]:
    """Crops ``(N, 3, r, r)`` in [-1, 1] as the batches that a validation takes."""
    return DataLoader(_Validation(held_out), batch_size=4)
