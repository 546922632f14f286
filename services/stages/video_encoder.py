"""The stage ``video-encoder``: ViEN, trained on consecutive frames of the training persons; FrEN is frozen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from datamodules.clips import Prepared, read_prepared
from datamodules.episodes import Stills, stretches
from modules.encoders.video_vit import go_on_from, save_video_encoder, start_from_frame_encoder
from modules.encoders.vit import load_frame_encoder
from modules.generators.rows import coarse_rows
from modules.lit.frame_encoder import PartsWithFrameEncoder
from modules.model_folder import load_model, weights_sha256
from modules.sheet import Image
from services.evaluation.sheets import pairs_sheet
from services.places import CLIPS, RUNS
from services.settings import ROOT, Params
from services.training.generator import generator_to_train_through
from services.training.generator_terms import terms_of
from services.training.parts import OF_FACES, face_seen, image_losses, judged_by
from services.training.runs import code_sha256, training_run
from services.training.trainer import VideoEncoderSettings, fit_video_encoder
from services.training.validation import metrics_section, video_encoder_psnr, watched_split

VIDEO_ENCODER = ROOT / "assets" / "video-encoder"


def train_video_encoder(params: Params) -> Path:
    """Train ViEN, or go on from its last checkpoint, and write it to ``assets/video-encoder``.

    Raises ``BadInputError`` where there is no FrEN for the generator, or no clip that is long enough.
    """
    settings = params.section("video_encoder", VideoEncoderSettings)
    generator = generator_to_train_through(params, settings.trainer)
    first = load_frame_encoder(ROOT / settings.frame_encoder, generator.sha256)
    prepared = read_prepared(CLIPS)
    longest = max(phase.length for phase in settings.training.phases)
    clips = stretches(prepared, "train", longest + 1)
    held_out = held_out_sequences(prepared, settings.validation_clips, settings.trainer.validation_frames)
    torch.manual_seed(settings.trainer.seed)
    coarse = coarse_rows(generator.layers, settings.network.coarse_resolution)
    encoder = start_from_frame_encoder(first, coarse, settings.network)
    if settings.start_from:
        go_on_from(encoder, ROOT / settings.start_from)
    first_sha256, data = weights_sha256(first.state_dict()), prepared.data_hash("train")
    run_folder = RUNS / f"video-encoder-{_fingerprint(params, settings, first_sha256, data, generator.sha256)}"
    names = {name for phase in settings.training.phases for name in phase.weights}
    parts = PartsWithFrameEncoder(generator, first, image_losses(params, names), face_seen(params), OF_FACES)
    more = {
        "generator_sha256": generator.sha256,
        "frame_encoder": first_sha256,
        "data": data,
        "coarse_rows": coarse,
    }
    with training_run("video-encoder", params, more, run_folder) as run:

        def show(step: int, inputs: list[Image], reconstructions: list[Image]) -> None:
            run.log_image("validation", pairs_sheet(inputs, reconstructions), step)

        trained = fit_video_encoder(
            encoder,
            parts,
            clips,
            Stills(prepared, "train"),
            held_out,
            settings,
            run_folder,
            run.lightning_logger(),
            show,
            params.runtime.torch_device(),
        )
        reached = metrics_section(
            video_encoder_psnr(trained, parts, held_out),
            f"the last frames of {len(held_out)} sequences of {held_out.shape[1]}", prepared,
            "stylereel evaluate --encoder video", "metrics/video_encoder.json",
        )  # fmt: skip
        card = _card(settings, prepared, coarse, generator.num_ws, generator.sha256, first_sha256, reached)
        steps = {"steps": settings.training.steps}
        folder = save_video_encoder(VIDEO_ENCODER, trained, first, generator.sha256, card, steps)
        run.log_model(folder)
    return folder


def held_out_sequences(prepared: Prepared, clips: int, frames: int) -> Tensor:
    """The first ``frames`` consecutive frames of up to ``clips`` validation clips, ``(N, frames, 3, S, S)``.

    Test persons stand in where there is no validation person.
    """
    found = stretches(prepared, watched_split(prepared), frames)
    longest = [max(parts, key=lambda part: part.last - part.first) for parts in found]
    chosen = longest[:clips]
    return torch.stack([part.images(range(part.first, part.first + frames)) for part in chosen])


def _fingerprint(
    params: Params, settings: VideoEncoderSettings, first_sha256: str, data: str, generator_sha256: str
) -> str:
    """Runs resume only onto the settings, the networks and the data that they began with."""
    counts = replace(settings, validation_clips=0, trainer=settings.trainer.that_counts())
    what = [
        repr(counts), *judged_by(params), generator_sha256, first_sha256, _before(settings), data,
        code_sha256("video-encoder"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _origin(settings: VideoEncoderSettings) -> str:
    sha256 = _before(settings)
    return f"Went on from the video encoder `{sha256[:12]}`.\n\n" if sha256 else ""


def _before(settings: VideoEncoderSettings) -> str:
    return load_model(ROOT / settings.start_from).weights_sha256 if settings.start_from else ""


def _card(
    settings: VideoEncoderSettings,
    prepared: Prepared,
    coarse: int,
    num_ws: int,
    generator_sha256: str,
    first_sha256: str,
    metrics: str,
) -> str:
    phases = "\n".join(
        f"- {p.name}: {steps} steps of {p.episodes} episodes of {p.length} frames, {p.rendered} of them "
        f"rendered, learning rate {p.learning_rate}, {dict(p.weights)}"
        for p, steps in zip(settings.training.phases, settings.training.phase_steps, strict=True)
    )
    clips = ", ".join(clip.name for clip in prepared.of("train"))
    return (
        f"# ViEN\n\nPredicts the first {coarse} of {num_ws} codes of each frame from a 256 px FFHQ crop and from "
        "the codes of the frame before, and keeps the others. First frames are FrEN's.\n\n"
        f"Generator: {generator_sha256}\n\nFrame encoder: {first_sha256}\n\n## Trained\n\n"
        f"{_origin(settings)}{phases}\n\n"
        f"On consecutive frames and stills of: {clips}.\n\n{metrics}"
        f"## Terms\n\n{terms_of(generator_sha256)} Some of the training data is for non-commercial use\n"
        "only. Not for telling people apart.\n"
    )
