"""The stage encoder of ``dvc.yaml``: FrEN."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.clips import Prepared
from datamodules.face_video import FaceDataset, FaceVideoConfig, FaceVideoDataModule
from datamodules.samples import SampleDataset
from datamodules.types import BadInputError
from modules.encoders.vit import FrameEncoder, load_frame_encoder, save_frame_encoder, sighted, w_statistics
from modules.generators import Generator
from modules.lit.frame_encoder import FrozenParts
from modules.model_folder import load_model
from modules.sheet import Image
from services.evaluation.sheets import pairs_sheet
from services.places import CLIPS, FRAME_ENCODER, RUNS, SAMPLES
from services.settings import ROOT, Params
from services.training.generator import generator_to_train_through
from services.training.generator_terms import terms_of
from services.training.parts import OF_FACES, face_seen, image_losses, judged_by
from services.training.runs import code_sha256, training_run
from services.training.trainer import FrameEncoderSettings, fit_frame_encoder, plans_of
from services.training.validation import frame_encoder_psnr, metrics_section, watched_split

W_SAMPLES = 20_000
"""Draws behind the mean and the spread of W that the encoder's head counts in."""


def train_frame_encoder(params: Params) -> Path:
    """Train FrEN, or go on from its last checkpoint, and write it to ``assets/frame-encoder``."""
    settings = params.section("frame_encoder", FrameEncoderSettings)
    generator = generator_to_train_through(params, settings.trainer)
    samples = SampleDataset(SAMPLES, made_by=generator.sha256)
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    held_out = validation_crops(data, settings.trainer.validation_frames)
    torch.manual_seed(settings.trainer.seed)
    encoder, settings = first_encoder(settings, generator)
    some = any(plan.frames for plan in plans_of(settings.training))
    crops = crops_to_learn_from(data, samples, encoder.config.image_size, some)
    run_folder = RUNS / f"frame-encoder-{fingerprint(params, settings, data, samples, generator.sha256)}"
    needed = {name for phase in settings.training.phases for name in phase.weights}
    parts = FrozenParts(generator, image_losses(params, needed), face_seen(params), OF_FACES)
    more = {
        "generator_sha256": generator.sha256,
        "data": data.prepared.data_hash("train"),
        "samples": len(samples),
    }
    with training_run("encoder", params, more, run_folder) as run:

        def show(step: int, inputs: list[Image], reconstructions: list[Image]) -> None:
            run.log_image("validation", pairs_sheet(inputs, reconstructions), step)

        trained = fit_frame_encoder(
            encoder, parts, samples, crops, held_out, settings, run_folder, run.lightning_logger(), show,
            params.runtime.torch_device(),
        )  # fmt: skip
        reached = metrics_section(
            frame_encoder_psnr(trained, parts, held_out), f"{len(held_out)} crops", data.prepared,
            "stylereel evaluate", "metrics/frame_encoder.json",
        )  # fmt: skip
        card = _card(settings, data.prepared, len(samples), generator.sha256, reached)
        folder = save_frame_encoder(
            FRAME_ENCODER, trained, generator.sha256, card, {"steps": settings.training.steps}
        )
        run.log_model(folder)
    return folder


def first_encoder(
    settings: FrameEncoderSettings, generator: Generator
) -> tuple[FrameEncoder, FrameEncoderSettings]:
    """What training begins with: a fresh encoder, or that of ``start_from``, whose answers are not solved anew.

    One of before there were face nets is given ``network.told_width``, and that part is solved.
    """
    if not settings.start_from:
        return FrameEncoder(settings.network, generator.num_ws, *_w_statistics(generator)), settings
    encoder = load_frame_encoder(ROOT / settings.start_from, generator.sha256)
    told_start = 0
    if settings.network.sighted and not encoder.config.sighted:
        encoder, told_start = sighted(encoder, settings.network.told_width), settings.training.told_start
    training = dataclasses.replace(settings.training, linear_start=0, told_start=told_start)
    settings = dataclasses.replace(settings, network=encoder.config, training=training)
    return encoder.requires_grad_(True), settings


class Crops(Dataset[Tensor]):
    """Training crops alone; empty where there are no training persons."""

    def __init__(self, faces: FaceDataset | None) -> None:
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces) if self.faces else 0

    def __getitem__(self, index: int) -> Tensor:
        if self.faces is None:
            raise IndexError(index)
        return self.faces[index].images


def crops_to_learn_from(
    data: FaceVideoDataModule, samples: SampleDataset, size: int, needed: bool = True
) -> Crops:
    """Crops of the training persons, single frames as wide as the encoder takes them, and as the samples are.

    Raises ``BadInputError`` where they are not, and where there are none though some are ``needed``: before
    anything is solved from the samples.
    """
    if data.config.length != 1:
        raise BadInputError(
            f"an encoder learns from single frames: set face_video.length to 1, not {data.config.length}"
        )
    if needed and not data.prepared.of("train"):
        raise BadInputError(f"{CLIPS} holds no training person: 'stylereel train prepare' on more clips")
    crops = Crops(data.dataset("train") if data.prepared.of("train") else None)
    sides = {"samples.resolution": samples[0].image.shape[-1]}
    if len(crops):
        sides["clips.size"] = crops[0].shape[-1]
    for key, side in sides.items():
        if side != size:
            raise BadInputError(
                f"the encoder takes pictures of {size} px, {key} made some of {side}: set it to {size}"
            )
    return crops


def _w_statistics(generator: Generator) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = torch.randn(W_SAMPLES, generator.z_dim, generator=random).to(generator.w_mean.device)
        return w_statistics(torch.cat([generator.map(part)[:, 0] for part in torch.split(z, 2000)]).cpu())


def validation_crops(data: FaceVideoDataModule, most: int) -> Tensor:
    """``(N, 3, r, r)`` in [-1, 1], spread over the validation persons; test persons where there is none."""
    faces = data.dataset(watched_split(data.prepared))
    count = min(len(faces), most)
    return torch.stack([faces[i * len(faces) // count].images for i in range(count)])


def fingerprint(
    params: Params,
    settings: FrameEncoderSettings,
    data: FaceVideoDataModule,
    samples: SampleDataset,
    generator_sha256: str,
) -> str:
    """Name of a training of FrEN: runs resume only onto the settings, networks, data and code they began with."""
    counts = dataclasses.replace(settings, trainer=settings.trainer.that_counts())
    what = [
        repr(counts), repr(data.config.that_counts()), *judged_by(params), generator_sha256,
        _start_sha256(settings), data.prepared.data_hash("train"), *samples.fingerprints, code_sha256("encoder"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _card(
    settings: FrameEncoderSettings, prepared: Prepared, samples: int, generator_sha256: str, metrics: str
) -> str:
    clips: Sequence[str] = [clip.name for clip in prepared.of("train")]
    phases = "\n".join(
        f"- {p.name}: {steps} steps of {p.batch_size}, learning rate {p.learning_rate}, {dict(p.weights)}"
        for p, steps in zip(settings.training.phases, settings.training.phase_steps, strict=True)
    )
    return (
        "# FrEN\n\nA vision transformer that sends a 256 px FFHQ crop to the codes of a generator.\n\n"
        f"Generator: {generator_sha256}\n\n{_face_nets(settings)}## Trained\n\n{_origin(settings)}{phases}\n\n"
        f"On {samples} generator samples, and on real crops of: {', '.join(clips) or 'none'}; each crop varied by "
        f"{dataclasses.asdict(settings.variation)}.\n\n{metrics}"
        f"## Terms\n\n{terms_of(generator_sha256)} Some of the training data is for non-commercial use\n"
        "only. Not for telling people apart.\n"
    )


def _face_nets(settings: FrameEncoderSettings) -> str:
    if not settings.network.sighted:
        return ""
    return (
        "An identity net (fr_feature) and MediaPipe's face mesh look at the crop too; what is made of their "
        f"{settings.network.told_width} numbers is a linear map, first solved on generator samples.\n\n"
    )


def _origin(settings: FrameEncoderSettings) -> str:
    sha256 = _start_sha256(settings)
    return f"Went on from the encoder `{sha256[:12]}`.\n\n" if sha256 else ""


def _start_sha256(settings: FrameEncoderSettings) -> str:
    return load_model(ROOT / settings.start_from).weights_sha256 if settings.start_from else ""
