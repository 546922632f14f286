"""The stages fetch, prepare, samples and encoder of ``dvc.yaml``."""

from __future__ import annotations

import dataclasses
import filecmp
import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.alignment import SmoothingConfig
from datamodules.clips import INDEX, ClipsConfig, FindLandmarks, Prepared, find_videos, prepare_clips
from datamodules.face_video import FaceDataset, FaceVideoConfig, FaceVideoDataModule
from datamodules.people import PeopleConfig, read_test_list
from datamodules.samples import SampleDataset, SamplesConfig, draw_codes, write_samples
from datamodules.types import BadInputError, Frames, Landmarks
from datamodules.video import ShotConfig
from modules.assets import asset_path, fetch, manifest
from modules.encoders.vit import FrameEncoder, load_frame_encoder, save_frame_encoder, sighted, w_statistics
from modules.generators import Generator
from modules.lit.frame_encoder import FrozenParts
from modules.model_folder import load_model
from modules.perception.detection import DetectionConfig, FaceTracker, load_face_finder, to_landmarks
from modules.perception.identity import load_identity
from modules.sheet import Image
from services.generator_terms import terms_of
from services.places import CLIPS, FRAME_ENCODER, RUNS, SAMPLES
from services.runs import code_sha256, stage_run, training_run
from services.settings import ROOT, Params
from services.sheets import clips_sheet, pairs_sheet, samples_sheet
from services.training import FrameEncoderSettings, fit_frame_encoder
from services.training_parts import (
    OF_FACES,
    face_seen,
    generator_to_train_through,
    image_losses,
    judged_by,
    training_generator,
)

REGISTRY_CLIPS = ("clips", "franck")
CLIP_NETS = {
    "yunet": "face_detection_yunet_2023mar.onnx",
    "mediapipe": "face_landmark.tflite",
    "face-recognition-plugin": "fr_feature.onnx",
}
"""Assets and their files that decide where the faces of clips are and whose they are."""
W_SAMPLES = 20_000
"""Draws behind the mean and the spread of W that the encoder's head counts in."""

Report = Callable[[int, int, str], None]


def fetch_parts(params: Params, report: Report = lambda done, total, what: None) -> None:
    """Fetch and verify every pretrained part and clip that is not in the cache yet."""
    assets = manifest()
    with stage_run("fetch", params, {"assets": {name: asset.sha256 for name, asset in assets.items()}}) as run:
        for done, name in enumerate(assets, start=1):
            fetch(name)
            report(done, len(assets), name)
        sizes = [file.bytes for asset in assets.values() for file in asset.files.values()]
        run.log_metrics({"assets": len(assets), "bytes": sum(sizes)})


def video_sources(folder: Path | None, registry: Sequence[Path], tested: Collection[str]) -> list[Path]:
    """The videos of ``folder``, then the clips of the ``registry`` that are tested on; without one, all of those.

    ``tested`` is the sha256 of every clip of the test list. A clip that ``folder`` holds a copy of is not brought
    along. Raises ``BadInputError`` for a folder that is none.
    """
    if folder is None:
        return list(registry)
    own = find_videos(folder)
    brought = [clip for clip in registry if hashlib.sha256(clip.read_bytes()).hexdigest() in tested]
    return own + [clip for clip in brought if not any(_is_copy(video, clip) for video in own)]


def _is_copy(video: Path, clip: Path) -> bool:
    try:
        return filecmp.cmp(video, clip, shallow=False)
    except OSError:
        return False  # a video that cannot be read is left out later, with the reason


def looked_through(detection: DetectionConfig) -> str:
    """What finds the faces of clips and tells whose they are, as text: others make other crops."""
    settings = dataclasses.asdict(detection)
    del settings["batch"]  # how many at once changes no face
    nets = {name: manifest()[name].files[file].sha256 for name, file in CLIP_NETS.items()}
    return json.dumps([settings, nets], sort_keys=True)


def prepare(params: Params, report: Report = lambda done, total, what: None) -> Prepared:
    """Align the videos of ``data.root`` and the stills of ``data.images`` into shards in ``build/clips``.

    Where ``data.root`` is a folder, the registry's clips of the committed test list come along, so that there
    are always persons to test on; the registry's other clips do not. Raises ``BadInputError`` where the folder
    and ``data.images`` give nothing to train on, and like ``prepare_clips``.
    """
    params.runtime.apply_threads()
    folder = params.data.folder()
    registry = [
        asset_path(name, file) for name in REGISTRY_CLIPS for file in manifest()[name].files
        if Path(file).suffix in (".mp4", ".mov")
    ]  # fmt: skip
    videos = video_sources(folder, registry, read_test_list())
    # The clips that come along would hide that the folder is the wrong one.
    if folder and not params.data.images and not any(video.is_relative_to(folder) for video in videos):
        raise BadInputError(f"{folder} holds no videos; put some there, or set data.root: registry")
    device = params.runtime.torch_device()
    detection = params.section("detection", DetectionConfig)
    finder = load_face_finder(detection, device)
    identity = load_identity(device)

    def new_tracker() -> FindLandmarks:
        tracker = FaceTracker(finder)

        def find(frames: Frames) -> Landmarks:
            return to_landmarks(tracker.follow(frames))

        return find

    def embed(crops: Tensor) -> Tensor:
        with torch.no_grad():
            return identity.embed(crops.to(device)).cpu()

    with stage_run("prepare", params) as run:
        prepared = prepare_clips(
            videos, CLIPS, new_tracker, embed, params.section("clips", ClipsConfig),
            params.section("smoothing", SmoothingConfig), params.section("shots", ShotConfig),
            params.section("people", PeopleConfig), [ROOT / images for images in params.data.images],
            made_by=looked_through(detection), code=code_sha256("prepare"), progress=report,
        )  # fmt: skip
        run.log_metrics({
            "clips": len(prepared.clips),
            "persons": len({clip.person for clip in prepared.clips if clip.person >= 0}),
            "frames": sum(clip.frames for clip in prepared.clips),
            "left_out": len(prepared.left_out),
        })  # fmt: skip
        run.log_file(CLIPS / INDEX)
        run.log_image("clips", clips_sheet(prepared))
    return prepared


def make_samples(params: Params, report: Report = lambda done, total, what: None) -> list[Path]:
    """Render ``samples.count`` pairs of codes and images into ``build/samples``; whole shards are kept."""
    config, generator = params.section("samples", SamplesConfig), training_generator(params)
    device = params.runtime.torch_device()

    def draw(n: int, seed: int) -> Tensor:
        return draw_codes(generator.map, n, seed, config, generator.z_dim, device)

    rendered, seconds = 0, 0.0

    def render(ws: Tensor) -> Tensor:
        nonlocal rendered, seconds
        started = time.perf_counter()
        images = generator.synthesize(ws.to(device), resolution=config.resolution).cpu()
        rendered, seconds = rendered + len(ws), seconds + time.perf_counter() - started
        return images

    def progress(done: int, total: int) -> None:
        report(done, total, "samples")

    with stage_run("samples", params, {"generator_sha256": generator.sha256}) as run:
        paths = write_samples(SAMPLES, draw, render, config, progress, {"generator": generator.sha256})
        run.log_metrics({"count": config.count, "rendered": rendered})
        if rendered:  # a run that found every shard done has no speed
            run.log_metrics({"images_per_second": rendered / seconds})
        run.log_image("samples", samples_sheet(SampleDataset(SAMPLES, config.count)))
    return paths


def train_frame_encoder(params: Params) -> Path:
    """Train FrEN, or go on from its last checkpoint, and write it to ``assets/frame-encoder``."""
    settings = params.section("frame_encoder", FrameEncoderSettings)
    generator = generator_to_train_through(params, settings.trainer)
    samples = SampleDataset(SAMPLES, made_by=generator.sha256)
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    train = data.dataset("train") if data.prepared.of("train") else None
    held_out = validation_crops(data, settings.trainer.validation_frames)
    torch.manual_seed(settings.trainer.seed)
    encoder, settings = first_encoder(settings, generator)
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
            encoder, parts, samples, Crops(train), held_out, settings, run_folder, run.lightning_logger(), show,
            params.runtime.torch_device(),
        )  # fmt: skip
        card = _card(settings, data.prepared, len(samples), generator.sha256)
        folder = save_frame_encoder(
            FRAME_ENCODER, trained, generator.sha256, card, {"steps": settings.training.ends[-1]}
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


def _w_statistics(generator: Generator) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = torch.randn(W_SAMPLES, generator.z_dim, generator=random).to(generator.w_mean.device)
        return w_statistics(torch.cat([generator.map(part)[:, 0] for part in torch.split(z, 2000)]).cpu())


def validation_crops(data: FaceVideoDataModule, most: int) -> Tensor:
    """``(N, 3, r, r)`` in [-1, 1], spread over the validation persons; test persons where there is none."""
    faces = data.dataset("val" if data.prepared.of("val") else "test")
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
    what = [
        repr(settings), repr(data.config), *judged_by(params), generator_sha256, _start_sha256(settings),
        data.prepared.data_hash("train"), *samples.fingerprints, code_sha256("encoder"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _card(settings: FrameEncoderSettings, prepared: Prepared, samples: int, generator_sha256: str) -> str:
    clips: Sequence[str] = [clip.name for clip in prepared.of("train")]
    phases = "\n".join(
        f"- {p.name}: {p.steps} steps of {p.batch_size}, learning rate {p.learning_rate}, {dict(p.weights)}"
        for p in settings.training.phases
    )
    return (
        "# FrEN\n\nA vision transformer that sends a 256 px FFHQ crop to the codes of a generator.\n\n"
        f"Generator: {generator_sha256}\n\n{_face_nets(settings)}## Trained\n\n{_origin(settings)}{phases}\n\n"
        f"On {samples} generator samples, and on real crops of: {', '.join(clips) or 'none'}; each crop varied by "
        f"{dataclasses.asdict(settings.variation)}.\n\n"
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
